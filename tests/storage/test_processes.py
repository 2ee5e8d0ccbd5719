"""Several real processes on one directory: order, wake-ups, killed and stopped holders, forks, races to be first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.errors import DatabaseLocked, ForkError, PoisonedError
from eventdb.storage import Store
from eventdb.storage import store as store_module
from tests.storage.simulation import SCHEMAS
from tests.storage.test_recovery import append, log, rows

ROOT = Path(__file__).resolve().parent.parent.parent

PRELUDE = """
import os, signal, sys, time
from eventdb.storage import Store
from eventdb.schema import DataType, Field, Schema
SCHEMA = Schema([Field("k", DataType("VARCHAR")), Field("n", DataType("BIGINT"), nullable=False)])
path = sys.argv[1]
def start(**options):
    return Store.open(path, live_topics=lambda: {1: SCHEMA}, **options)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def say(text):
    print(text, flush=True)
"""


def spawn(path: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path), *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def open_store(path: Path, **options: object) -> Store:
    return Store.open(str(path), live_topics=lambda: SCHEMAS, **options)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "db"
    for store in list(store_module._stores.values()):
        store.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_writers_and_a_reader_see_dense_offsets_and_each_writers_order(path: Path) -> None:
    store = open_store(path, durability="os")
    count = 400
    code = f"""
    store = start(durability="os")
    log = store.log(1, SCHEMA, None)
    for i in range({count}):
        if i % 7 == 0:
            with store.write() as transaction:
                transaction.append_rows(log, [(sys.argv[2] + str(i % 20), i)])
        else:
            store.append_row(log, (sys.argv[2] + str(i % 20), i))
    store.close()
    """
    writers = [spawn(path, code, name) for name in "ab"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        found = rows(store)
        assert len(found) >= seen
        seen = len(found)
    assert [writer.wait() for writer in writers] == [0, 0]
    found = rows(store)
    assert len(found) == 2 * count
    for name in "ab":
        assert [n for k, n in found if k.startswith(name)] == list(range(count))
    assert store.check(deep=True) == []
    append(store, 1)
    assert len(rows(store)) == 2 * count + 1


DEATHS = {
    "holding LOCK": """
        from eventdb.storage.commit.commit import Writer
        Writer.begin = lambda self: die()
        many = True
    """,
    "between journal and head": """
        from eventdb.storage.index.head import Head
        Head.move = lambda self, sequence: die()
    """,
    "between index and sequence": """
        from eventdb.storage.index.head import Head
        from eventdb.storage.commit.commit import Writer
        whole, moved = Head.write, []
        def write(self, data):
            if moved:
                die()
            moved.append(1)
            return whole(self, data)
        Head.write = write
        many = True
    """,
    "in the journal record": """
        from eventdb.storage.device.files import Files
        def pwrite(fd, data, position):
            os.pwrite(fd, data[:50], position)
            die()
        store._files.pwrite = pwrite
    """,
    "before the flush": """
        store._files.fdatasync = lambda fd: die()
    """,
}


@pytest.mark.parametrize("moment", DEATHS)
def test_a_killed_writer_holds_nobody_up_and_loses_nothing(path: Path, moment: str) -> None:
    store = open_store(path)
    kept = append(store, 3)
    code = """
    store = start()
    log = store.log(1, SCHEMA, None)
    many = False
    store.append_row(log, ("a", 100))
    say("ready")
    {death}
    if many:
        with store.write() as transaction:
            transaction.append_rows(log, [("new word", 101)])
    else:
        store.append_row(log, ("a", 101))
    """
    process = spawn(path, code.replace("{death}", textwrap.indent(textwrap.dedent(DEATHS[moment]), "    ").strip()))
    assert said(process) == "ready"
    assert process.wait(20) == -signal.SIGKILL
    kept.append(("a", 100))
    started = time.monotonic()
    offset = store.append_row(log(store), ("a", 102))
    assert time.monotonic() - started < 5
    found = rows(store)
    assert found[:4] == kept
    assert found[offset:] == [("a", 102)]
    done = moment in ("between journal and head", "between index and sequence", "before the flush")
    assert offset == (5 if done else 4)
    assert store.check(deep=True) == []


def test_a_stopped_holder_is_named_and_never_robbed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(path)
    append(store, 1)
    code = """
    store = start()
    log = store.log(1, SCHEMA, None)
    with store.write() as transaction:
        transaction.append_rows(log, [("a", 7)])
        say("inside")
        sys.stdin.readline()
    say("done")
    store.close()
    """
    process = spawn(path, code)
    assert said(process) == "inside"
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr("eventdb.storage.device.lock.LOCK_TIMEOUT_MS", 200)
    monkeypatch.setattr("eventdb.storage.care.opening.LOCK_TIMEOUT_MS", 200)
    with pytest.raises(DatabaseLocked, match=f"process {process.pid} has held") as caught:
        store.append_row(log(store), ("a", 8))
    assert caught.value.pid == process.pid
    assert len(rows(store)) == 1  # readers do not wait
    code = """
    import eventdb.storage.store as module
    module.LOCK_TIMEOUT_MS = 200
    try:
        start()
    except Exception as error:
        say(f"{type(error).__name__} {error.pid}")
    """
    opener = spawn(path, code)
    assert said(opener) == f"DatabaseLocked {process.pid}"
    opener.wait(20)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate("go\n", timeout=20)
    assert process.returncode == 0
    assert store.append_row(log(store), ("a", 9)) == 2


def test_a_waiter_in_another_process_is_woken(path: Path) -> None:
    store = open_store(path, durability="os")
    append(store, 1)
    code = """
    store = start(durability="os")
    log = store.log(1, SCHEMA, None)
    import eventdb.storage.notify as notify
    notify.WAIT_POLL_MS = 60_000  # only the wake-up can end the wait
    seen = store.commit_id()
    say("ready")
    for _ in range(20):
        found = store.wait(seen, 20.0)
        assert found > seen
        seen = found
        with store.snapshot() as snapshot:
            say(str(snapshot.offsets(log)[1]))
    store.close()
    """
    process = spawn(path, code)
    assert said(process) == "ready"
    delays = []
    for i in range(20):
        time.sleep(0.01)
        started = time.monotonic()
        store.append_row(log(store), ("a", i))
        assert int(said(process)) == i + 2
        delays.append(time.monotonic() - started)
    assert process.wait(20) == 0
    assert sorted(delays)[10] < 0.5


def test_a_waiting_thread_is_woken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.notify.WAIT_POLL_MS", 60_000)
    store = open_store(path, durability="os")
    append(store, 1)
    before = store.commit_id()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(store.wait(before, 20.0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    store.append_row(log(store), ("a", 1))
    for thread in threads:
        thread.join(10)
    assert len(found) == 3
    assert min(found) > before
    assert store.wait(store.commit_id(), 0.01) == store.commit_id()


def test_a_forked_child_is_refused(path: Path) -> None:
    code = """
    store = start()
    log = store.log(1, SCHEMA, None)
    store.append_row(log, ("a", 1))
    child = os.fork()
    if child == 0:
        from eventdb.errors import ForkError
        refused = 0
        for use in (store.snapshot, lambda: store.append_row(log, ("a", 2)), store.checkpoint, store.commit_id):
            try:
                use()
            except ForkError:
                refused += 1
        store.close()
        say(f"refused {refused}")
        os._exit(0)
    os.waitpid(child, 0)
    store.append_row(log, ("a", 3))
    with store.snapshot() as snapshot:
        say(str(snapshot.offsets(log)))
    store.close()
    """
    process = spawn(path, code)
    out, _ = process.communicate(timeout=30)
    assert out.split("\n")[:2] == ["refused 4", "(0, 2)"]
    assert process.returncode == 0
    assert issubclass(ForkError, Exception)


def test_processes_that_race_to_create_the_directory_share_one_database(tmp_path: Path) -> None:
    code = """
    while not os.path.exists(sys.argv[2]):
        pass
    store = start(durability="os")
    log = store.log(1, SCHEMA, None)
    offset = store.append_row(log, ("a", 1))
    say(f"{store.uuid.hex()} {offset}")
    store.close()
    """
    for attempt in range(3):
        go = tmp_path / f"go{attempt}"
        racers = [spawn(tmp_path / f"db{attempt}", code, str(go)) for _ in range(3)]
        time.sleep(0.5)
        go.touch()
        found = [racer.communicate(timeout=30)[0].split() for racer in racers]
        assert [racer.returncode for racer in racers] == [0, 0, 0]
        assert len({uuid for uuid, _ in found}) == 1
        assert sorted(offset for _, offset in found) == ["0", "1", "2"]


def test_a_failed_flush_in_one_process_stops_the_others(path: Path) -> None:
    store = open_store(path)
    append(store, 1)
    code = """
    store = start()
    log = store.log(1, SCHEMA, None)
    store.append_row(log, ("a", 2))
    def fail(fd):
        raise OSError(5, "Input/output error")
    store._files.fdatasync = fail
    try:
        store.append_row(log, ("a", 3))
    except Exception as error:
        say(type(error).__name__)
    store.close()
    """
    process = spawn(path, code)
    assert said(process) == "OutcomeUnknown"
    process.wait(20)
    with pytest.raises(PoisonedError):
        store.append_row(log(store), ("a", 4))
    late = spawn(path, "try:\n    start()\nexcept Exception as error:\n    say(type(error).__name__)\n")
    assert said(late) == "PoisonedError"
    late.wait(20)
    store.close()
    store = open_store(path)
    assert store.recovery_report["kind"] == "failed flush"
    assert rows(store)[:2] == [("a", 0), ("a", 2)]
    append(store, 1)
