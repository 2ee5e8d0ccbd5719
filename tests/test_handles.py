"""Handles: read-only, closed, forked, shared by threads and processes, and producers with and without an id."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.physical.operator import Operator
from tests.conftest import COLUMNS, GOOD
from tests.test_api import in_one_transaction


def _operators() -> set[int]:
    return {id(found) for found in gc.get_objects() if issubclass(type(found), Operator)}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT device, count(*), min(temp) FROM readings GROUP BY ROLLUP (device)",
        "SELECT a.device FROM readings a LEFT JOIN readings b ON a.device = b.device AND a.temp > b.temp",
        "SELECT device FROM readings WHERE temp NOT IN (SELECT temp FROM readings WHERE temp > 3)",
        "SELECT DISTINCT device FROM readings EXCEPT SELECT 'x'",
        "SELECT DISTINCT ON (device) device, sum(temp) OVER (ORDER BY temp) FROM readings ORDER BY device LIMIT 2",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r ORDER BY n",
    ],
)
@pytest.mark.parametrize("execution", ["interpreted", "auto"])
def test_a_query_that_has_ended_leaves_no_operator_to_the_collector(path: Path, query: str, execution: str) -> None:
    """What it has read, and so the files, would stay open until the collector comes."""
    with eventdb.open(path) as db:
        db.create_topic("readings", COLUMNS).append_many([GOOD] * 10)
        db.sql(f"SET execution = '{execution}'")
        db.sql(query).fetchall()
        gc.collect()
        gc.disable()
        try:
            before = _operators()
            db.sql(query + " ").fetchall()
            assert _operators() <= before  # others' tests may have left some
        finally:
            gc.enable()


# --- handles ----------------------------------------------------------------------------------------------------------


def test_a_read_only_handle_reads_and_refuses_every_write(path: Path) -> None:
    with eventdb.open(path) as db:
        db.create_topic("readings", COLUMNS).append(GOOD)
    with eventdb.open(path, read_only=True) as db:
        topic = db.topic("readings")
        assert [event.row for event in topic.read()] == [GOOD]
        writes: list[Callable[[], object]] = [
            lambda: topic.append(GOOD),
            lambda: topic.append_many([GOOD]),
            lambda: topic.append_batch({"device": ["a"]}),
            lambda: db.create_topic("more", COLUMNS),
            lambda: db.drop_topic("readings"),
            db.transaction,
            db.checkpoint,
            lambda: db.sql("INSERT INTO readings (device) VALUES ('x')"),
            lambda: db.sql("CREATE TOPIC t (a BIGINT)"),
            lambda: db.sql("DROP TOPIC readings"),
        ]
        for write in writes:
            with pytest.raises(eventdb.ReadOnlyError):
                write()
        assert len(topic) == 1


def test_every_call_on_a_closed_database_is_a_closed_error(path: Path) -> None:
    db = eventdb.open(path)
    topic = db.create_topic("readings", COLUMNS)
    producer = topic.producer()
    snapshot = db.snapshot()
    snapshot.close()
    db.close()
    db.close()  # twice is once
    calls: list[Callable[[], object]] = [
        lambda: topic.append(GOOD),
        lambda: topic.append_many([GOOD]),
        lambda: topic.append_batch({"device": ["a"]}),
        lambda: list(topic.read()),
        topic.offsets,
        lambda: producer.send(GOOD),
        lambda: db.topic("readings"),
        db.topics,
        lambda: db.create_topic("x", COLUMNS),
        lambda: db.drop_topic("readings"),
        lambda: db.sql("SELECT 1"),
        db.snapshot,
        db.transaction,
        lambda: db.subscribe("readings"),
        lambda: db.wait("v", 0),
        db.check,
        db.stats,
        db.checkpoint,
        db.__enter__,
        lambda: snapshot.sql("SELECT 1"),
    ]
    for call in calls:
        with pytest.raises(eventdb.ClosedError):
            call()


def test_a_transaction_ends_once(db: eventdb.Database, topic: eventdb.Topic) -> None:
    with db.transaction() as tx:
        tx.append("readings", GOOD)
    for call in (lambda: tx.append("readings", GOOD), tx.commit, tx.__enter__):
        with pytest.raises(eventdb.UsageError):
            call()
    with pytest.raises(eventdb.TopicNotFound):
        in_one_transaction(db, ("readings", GOOD), ("nowhere", GOOD))
    assert len(topic) == 1


def test_a_forked_child_cannot_use_what_it_inherited(db: eventdb.Database, topic: eventdb.Topic) -> None:
    topic.append(GOOD)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            calls: list[Callable[[], object]] = [
                lambda: topic.append(GOOD),
                lambda: topic.append_many([GOOD]),
                lambda: list(topic.read()),
                lambda: db.sql("SELECT count(*) FROM readings"),
                db.snapshot,
                db.stats,
            ]
            for call in calls:
                try:
                    call()
                except eventdb.ForkError:
                    continue
                os._exit(2)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    topic.append(GOOD)
    assert len(topic) == 2
    assert db.check() == []


def test_memory_databases_are_private_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with eventdb.open(":memory:") as one, eventdb.open(":memory:") as two:
        one.create_topic("a", {"x": "BIGINT"}).append({"x": 1})
        assert two.topics() == []
        assert one.sql("SELECT sum(x) FROM a").fetchone() == (1,)
    assert list(tmp_path.iterdir()) == []


def test_import_and_appending_load_nothing_heavy(path: Path) -> None:
    code = f"""
import eventdb, sys
db = eventdb.open({str(path)!r})
t = db.create_topic("r", {{"a": "BIGINT", "s": "VARCHAR"}})
t.append({{"a": 1, "s": "x"}}); t.append_many([{{"a": 2, "s": "y"}}])
with t.producer() as out: out.send({{"a": 3, "s": "z"}}).result()
with db.transaction() as tx: tx.append("r", {{"a": 4}})
assert [e["a"] for e in t.read()] == [1, 2, 3, 4]
db.close()
heavy = ("numpy", "pyarrow", "numba", "sqlglot", "pandas", "asyncio", "inspect", "dataclasses", "logging")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- many at once -----------------------------------------------------------------------------------------------------


def test_threads_append_at_once_and_nothing_is_lost(db: eventdb.Database, topic: eventdb.Topic) -> None:
    def write(thread: int) -> None:
        for n in range(0, 60, 3):
            topic.append({**GOOD, "device": f"t{thread}", "n": n})
            with db.transaction() as tx:
                tx.append(topic, {**GOOD, "device": f"t{thread}", "n": n + 1})
                tx.append(topic, {**GOOD, "device": f"t{thread}", "n": n + 2})

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = list(topic.read())
    assert [event.offset for event in events] == list(range(240))
    for thread in range(4):
        assert [event["n"] for event in events if event["device"] == f"t{thread}"] == list(range(60))


def test_a_closed_database_ends_a_follower_in_another_thread(path: Path) -> None:
    db = eventdb.open(path, durability="os")
    topic = db.create_topic("readings", COLUMNS)
    ended: list[BaseException | None] = []
    reading = threading.Event()

    def follow() -> None:
        try:
            for _ in topic.read(follow=True):
                reading.set()
            ended.append(None)
        except eventdb.ClosedError as error:
            ended.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    topic.append(GOOD)
    assert reading.wait(30)
    db.close()
    thread.join(30)
    assert len(ended) == 1


def test_a_database_closes_while_other_threads_make_handles(path: Path) -> None:
    """Its list of handles changed under its feet: RuntimeError."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    done = threading.Event()

    def make(db: eventdb.Database, kept: list[Any]) -> None:
        with contextlib.suppress(eventdb.ClosedError):
            while not done.is_set():
                kept.append(db.session())

    try:
        for _ in range(10):
            db = eventdb.open(path, durability="os")
            kept: list[Any] = [db.session() for _ in range(1000)]
            threads = [threading.Thread(target=make, args=(db, kept)) for _ in range(2)]
            for thread in threads:
                thread.start()
            db.close()
            for thread in threads:
                thread.join(60)
    finally:
        done.set()
        sys.setswitchinterval(interval)


def test_another_process_follows_and_its_events_come_back(
    path: Path, db: eventdb.Database, topic: eventdb.Topic
) -> None:
    db.create_topic("echo", {"n": "BIGINT"})
    code = f"""
import eventdb
with eventdb.open({str(path)!r}, durability="os") as db:
    echo = db.topic("echo")
    echo.append({{"n": -1}})
    for event in db.topic("readings").read(follow=True, timeout=30):
        echo.append({{"n": event["n"]}})
        if event["n"] == 4:
            break
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    answers = db.topic("echo").read(follow=True, timeout=30)
    assert next(answers)["n"] == -1
    for n in range(5):
        topic.append({**GOOD, "n": n})
        assert next(answers)["n"] == n
    assert process.wait(30) == 0


def test_follow_with_a_timeout_ends(topic: eventdb.Topic) -> None:
    topic.append(GOOD)
    assert len(list(topic.read(follow=True, timeout=0.01))) == 1


# --- producers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"linger_ms": -1},
        {"linger_ms": "5"},
        {"linger_ms": True},
        {"max_rows": 0},
        {"max_rows": 1.5},
        {"id": ""},
        {"id": 5},
        {"id": "x" * 201},
    ],
    ids=repr,
)
def test_a_wrong_option_of_a_producer_is_named(topic: eventdb.Topic, options: dict[str, Any]) -> None:
    with pytest.raises(eventdb.UsageError, match=next(iter(options)).split("_")[0]):
        topic.producer(**options)


def test_a_repeated_sequence_gives_the_first_position_and_a_gap_is_refused(topic: eventdb.Topic) -> None:
    with topic.producer(id="pump") as out:
        first = [out.send({**GOOD, "n": n}, sequence=n).result(30) for n in range(3)]
        assert [out.send({**GOOD, "n": n}, sequence=n).result(30) for n in range(3)] == first
        with pytest.raises(eventdb.UsageError, match="gap"):
            out.send(GOOD, sequence=7)
        for wrong in (-1, "2", True, 1.0):
            with pytest.raises(eventdb.UsageError, match="sequence"):
                out.send(GOOD, sequence=wrong)  # type: ignore[arg-type]
    with topic.producer(id="pump") as out:
        assert out.next_sequence == 3
        assert out.send({**GOOD, "n": 2}, sequence=2).result(30) == first[2]
    with topic.producer() as out, pytest.raises(eventdb.UsageError, match="id"):
        out.send(GOOD, sequence=5)
    assert [event["n"] for event in topic.read()] == [0, 1, 2]


def test_the_older_producer_of_an_id_is_fenced(topic: eventdb.Topic) -> None:
    old = topic.producer(id="pump")
    with topic.producer(id="pump") as new:
        with pytest.raises(eventdb.UsageError, match="fenced"):
            old.send({**GOOD, "n": 666}).result(30)
        with pytest.raises(eventdb.UsageError, match="fenced"):
            old.close()
        new.send(GOOD).result(30)
    assert [event["n"] for event in topic.read()] == [1]


def test_a_producer_flushes_when_it_closes(topic: eventdb.Topic) -> None:
    with topic.producer(linger_ms=60_000) as out:
        futures = [out.send({**GOOD, "n": n}) for n in range(100)]
        with pytest.raises(TimeoutError):
            futures[-1].result(0.01)
    assert [future.result(0).offset for future in futures] == list(range(100))
    with pytest.raises(eventdb.ClosedError):
        out.send(GOOD)
