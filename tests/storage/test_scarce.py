"""What a process may run out of: descriptors, memory for a query."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import eventdb
from eventdb.errors import StorageError

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = {"n": "BIGINT NOT NULL", "word": "VARCHAR"}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def reopened(base: Path) -> eventdb.Database:
    """A database nobody has read since it was opened."""
    with eventdb.open(base / "db") as db:
        db.create_topic("log", COLUMNS).append({"n": 0, "word": "a"})
        db.create_topic("new", COLUMNS)
    return eventdb.open(base / "db")


def calls_of(db: eventdb.Database, base: Path) -> dict[str, Callable[[], object]]:
    return {
        "read": lambda: list(db.topic("log").read()),
        "append": lambda: db.topic("log").append({"n": 1, "word": "b"}),
        "new segment": lambda: db.topic("new").append({"n": 1, "word": "b"}),
        "checkpoint": db.checkpoint,
        "check": lambda: db._store.check(deep=True),
        "compact": lambda: db.compact(full=True),
        "backup": lambda: db.backup(base / "backup"),
        "open": lambda: eventdb.open(base / "other").close(),
        "retain": db.retain,
    }


def test_without_descriptors_calls_fail_typed_leak_none_and_work_when_they_return(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir()
    with reopened(tmp_path / "warm") as db:  # every module is loaded
        for call in calls_of(db, tmp_path / "warm").values():
            call()
    with reopened(tmp_path) as db:
        calls = calls_of(db, tmp_path)
        failed = dict.fromkeys(calls, 0)
        open_ones = []
        for _ in range(20):
            with no_descriptor_left():
                for name, call in calls.items():
                    try:
                        call()
                    except StorageError:
                        failed[name] += 1
            gc.collect()
            open_ones.append(descriptors())
        assert len(set(open_ones)) == 1
        assert min(failed[name] for name in ("read", "append", "new segment", "backup", "open")) == 20, failed
        for call in calls.values():
            call()
        assert [event["n"] for event in db.topic("log").read()] == [0, 1]
        assert [event["n"] for event in db.topic("new").read()] == [1]
        assert db._store.check(deep=True) == []


HUNGRY = """
import json, resource, sys
import eventdb
from eventdb.errors import MemoryLimitExceeded

queries = (
    "SELECT * FROM log ORDER BY word, n",
    "SELECT word, n, count(*) FROM log GROUP BY word, n",
    "SELECT count(*) FROM log a JOIN log b ON a.n = b.n",
    "SELECT n, word || word || word FROM log",
)
with eventdb.open(sys.argv[1], memory_limit="64GB") as db:
    db.sql("SELECT count(*) FROM log").fetchall()
    for extra_mb in (1, 8):
        for query in queries:
            used = int(open("/proc/self/statm").read().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + (extra_mb << 20), resource.RLIM_INFINITY))
            try:
                db.sql(query)
                told = "answered"
            except MemoryLimitExceeded:
                told = "refused"
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(told, flush=True)
    print(db.sql("SELECT count(*) FROM log").fetchone()[0] >= 300_000)
"""


def test_a_query_that_finds_no_memory_fails_typed_while_a_writer_goes_on(tmp_path: Path) -> None:
    """numpy's MemoryError came out."""
    with eventdb.open(tmp_path / "db", durability="os") as db:
        log = db.create_topic("log", COLUMNS)
        numbers = np.arange(300_000)
        log.append_batch({"n": numbers, "word": np.array([f"w{n % 5000}" for n in numbers], dtype=object)})
        command = [sys.executable, "-c", HUNGRY, str(tmp_path / "db")]
        # A thread's own arena would be 64 MB that count as used before they are.
        arenas = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=arenas) as hungry:
            while hungry.poll() is None:
                log.append({"n": log.offsets()[1], "word": "w"})  # joined with itself, one pair a row
            assert hungry.stdout is not None
            told = hungry.stdout.read().split()
            assert hungry.returncode == 0
        assert told.count("refused") >= 4
        assert told[-1] == "True"
        appended = log.offsets()[1] - 300_000
        assert appended > 10
        assert db.sql("SELECT count(*) FROM log WHERE n >= 300000 AND word = 'w'").fetchall() == [(appended,)]
        assert db._store.check(deep=True) == []
