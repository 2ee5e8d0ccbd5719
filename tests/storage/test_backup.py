"""A backup is one commit of the source, whatever happens while it is made."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import NotADatabase, StorageError, UsageError
from eventdb.storage import Store
from tests.faults import Crash, SimulatedDisk, SimulatedFiles, let_go
from tests.storage.simulation import SCHEMAS, Row
from tests.storage.test_recovery import append, rows, start

ROOT = Path(__file__).resolve().parent.parent.parent


def numbers(path: Path) -> list[int]:
    with eventdb.open(path, read_only=True) as db:
        assert db.check(deep=True) == []
        return [n for (n,) in db.sql("SELECT n FROM log").fetchall()]


def make(path: Path) -> eventdb.Database:
    db = eventdb.open(path, durability="os")
    db.create_topic("log", {"n": "BIGINT NOT NULL", "word": "VARCHAR", "text": "BLOB"}, if_not_exists=True)
    return db


def event(n: int) -> dict[str, object]:
    return {"n": n, "word": f"w{n % 50}", "text": b"x" * (n % 40)}


def test_backups_under_load_are_prefixes_and_hold_what_was_committed_before(tmp_path: Path) -> None:
    code = """
    import sys, eventdb
    with eventdb.open(sys.argv[1], durability="os") as db:
        other = db.create_topic("other", {"n": "BIGINT"}, if_not_exists=True)
        print("go", flush=True)
        for n in range(10**9):
            other.append({"n": n})
            if not n % 500:
                other = db.topic("other")
    """
    done: list[int] = []
    stop = threading.Event()
    with make(tmp_path / "db") as db:
        neighbour = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "db")], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert neighbour.stdout is not None
        neighbour.stdout.readline()

        def write() -> None:
            log = db.topic("log")
            while not stop.is_set():
                log.append(event(len(done)))
                done.append(1)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for attempt in range(6):
                before = len(done)
                report = db.backup(tmp_path / "backup")
                assert report["incremental"] == (attempt > 0)
                found = numbers(tmp_path / "backup")
                assert found == list(range(len(found)))
                assert before <= len(found) <= len(done) + 1
                with eventdb.open(tmp_path / "backup", read_only=True) as copy:
                    others = [n for (n,) in copy.sql("SELECT n FROM other").fetchall()]
                assert others == list(range(len(others)))
        finally:
            stop.set()
            thread.join()
            neighbour.kill()
            neighbour.wait()


def test_a_second_backup_copies_only_what_is_new_and_equals_a_first_one(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        log = db.topic("log")
        log.append_many([event(n) for n in range(5000)])
        whole = int(str(db.backup(tmp_path / "backup")["bytes_copied"]))
        log.append(event(5000))
        assert 0 < int(str(db.backup(tmp_path / "backup")["bytes_copied"])) < whole / 1000
        assert db.backup(tmp_path / "backup")["bytes_copied"] == 0
        db.backup(tmp_path / "other")
        assert numbers(tmp_path / "backup") == numbers(tmp_path / "other") == list(range(5001))
        db.drop_topic("log")
        db.backup(tmp_path / "backup")
    assert not list((tmp_path / "backup").rglob("*.seg"))


def test_a_dropped_topic_starts_the_copy_again(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        db.topic("log").append_many([event(n) for n in range(10)])
        db.create_topic("gone", {"n": "BIGINT"}).append({"n": 1})
        calls = 0

        def copy_catalog(path: str) -> set[int]:
            nonlocal calls
            calls += 1
            live = db._catalog.copy_to(path)
            if calls == 1:
                db.drop_topic("gone")
            return live

        db._store.backup(str(tmp_path / "backup"), copy_catalog)
        assert calls == 2
    assert numbers(tmp_path / "backup") == list(range(10))


def test_a_backup_that_would_destroy_something_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db, make(tmp_path / "stranger"):
        db.topic("log").append(event(0))
        for target, words in (
            (tmp_path / "db", "inside"), (tmp_path / "db" / "topics" / "b", "inside"),
            (tmp_path / "stranger", "another database"),
        ):  # fmt: skip
            with pytest.raises((StorageError, UsageError), match=words):
                db.backup(target)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "letter.txt").write_text("dear")
        with pytest.raises(StorageError, match=r"letter\.txt"):
            db.backup(tmp_path / "full")
        db.backup(tmp_path / "backup")
        with eventdb.open(tmp_path / "backup", read_only=True), pytest.raises(StorageError, match="is open"):
            db.backup(tmp_path / "backup")
        with eventdb.open(tmp_path / "backup") as written:
            written.topic("log").append(event(1))
        with pytest.raises(StorageError, match="database of its own"):
            db.backup(tmp_path / "backup")


def test_a_backup_of_another_history_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        db.topic("log").append_many([event(n) for n in range(10)])
        db.backup(tmp_path / "backup")
    eventdb.restore(tmp_path / "backup", tmp_path / "again", to_offset={"log": 5})
    with make(tmp_path / "again") as db:
        db.topic("log").append_many([event(n) for n in range(100, 110)])
        with pytest.raises(StorageError, match="another history"):
            db.backup(tmp_path / "backup")
    assert numbers(tmp_path / "backup") == list(range(10))


# --- interrupted backups ----------------------------------------------------------------------------------------------


def copy_rows(store: Store, files: SimulatedFiles, target: str) -> None:
    def copy_catalog(path: str) -> set[int]:
        files.close(files.create(path, exclusive=False))
        return set(SCHEMAS)

    store.backup(target, copy_catalog)


def opened(disk: SimulatedDisk, target: str) -> list[Row] | None:
    """The rows of the backup, None if it refuses to open."""
    try:
        store = Store.open(
            target, read_only=True, files=disk.files(), clock=disk.clock(), live_topics=lambda: SCHEMAS
        )  # fmt: skip
    except NotADatabase as error:
        assert "does not exist" in str(error) or not os.listdir(target)  # noqa: PT017
        return None
    except StorageError as error:
        assert "interrupted" in str(error)  # noqa: PT017
        return None
    try:
        assert store.check(deep=True) == []
        return rows(store)
    finally:
        store.close()


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_backup_leaves_the_old_one_or_refuses_to_open_and_can_be_run_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, power: bool, first: bool
) -> None:
    monkeypatch.setattr("eventdb.storage.care.backup.RESERVE_BYTES", 4096)
    fired = refused = 0
    for count in range(1, 400, 3 if first else 2):
        root = tmp_path / f"{count}"
        root.mkdir()
        disk = SimulatedDisk(str(root), seed=count)
        target = f"{root}/backup"
        store = start(disk)
        old = append(store, 20)
        files = store._files
        assert isinstance(files, SimulatedFiles)
        if not first:
            copy_rows(store, files, target)
        kept = old + append(store, 20, first=20)
        files.crash_at(count, power=power)
        try:
            copy_rows(store, files, target)
        except Crash:
            let_go(store)
            disk.restart(files.left, power=power)
        fired += files.fired
        if not files.fired:
            files.heal()
            store.close()
            break
        found = opened(disk, target)
        refused += found is None
        assert found in (None, kept, *([] if first else [old])), count
        store = start(disk)
        if os.path.isdir(target) or found is None:
            files = store._files
            assert isinstance(files, SimulatedFiles)
            copy_rows(store, files, target)
            assert opened(disk, target) == kept
        store.close()
    else:
        pytest.fail("the backup never ended")
    assert fired > 15
    assert refused
