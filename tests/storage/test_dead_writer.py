"""A writer is killed between its journal record and the moment its commit is seen: whoever comes next finds all of that
commit or nothing, and a checkpoint, a close and a writer complete it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb

CHILD = """
import os, signal, sys
import eventdb
from eventdb.storage.commit.commit import Writer
from eventdb.storage.index.head import Head
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
db = eventdb.open(sys.argv[1])
events, rooms = db.topic("events"), db.table("rooms")
events.append({"k": "a", "n": 2})
rooms.put({"id": "z", "n": 2})
print("ready", flush=True)
sys.stdin.readline()
"""
DEATHS = {
    "a row": """
        Head.move = die
        events.append({"k": "a", "n": 3})
    """,
    "a new string": """
        Writer.commit_txn = die
        events.append({"k": "new", "n": 3})
    """,
    "a new segment": """
        Writer.commit_txn = die
        events.append_many([{"k": "a", "n": 3}] * 5000)
    """,
    "a marked row, of two": """
        Writer.commit_txn = die
        rooms.put_many([{"id": "a", "n": 3}, {"id": "new", "n": 3}])
    """,
    "a marked row": """
        Head.move = die
        rooms.put({"id": "a", "n": 3})
    """,
}
EVENTS, ROOMS = [("a", 1), ("a", 2)], {"a": 1, "b": 1, "z": 2}
AFTER: dict[str, tuple[list[tuple[str, int]], dict[str, int]]] = {
    "a row": ([*EVENTS, ("a", 3)], ROOMS),
    "a new string": ([*EVENTS, ("new", 3)], ROOMS),
    "a new segment": (EVENTS + [("a", 3)] * 5000, ROOMS),
    "a marked row": (EVENTS, ROOMS | {"a": 3}),
    "a marked row, of two": (EVENTS, ROOMS | {"a": 3, "new": 3}),
}


class Survivor:
    """A process that had the database open all the while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = eventdb.open(path)

    def content(self, db: eventdb.Database | None = None) -> tuple[list[tuple[str, int]], dict[str, int]]:
        """Every event and the table, as of one snapshot, as SQL counts and as events come."""
        db = db or self.db
        with db.snapshot() as snapshot:
            events = snapshot.sql("SELECT k, n FROM events ORDER BY _offset").fetchall()
            rooms = dict(snapshot.sql("SELECT id, n FROM rooms").fetchall())
        return [tuple(row) for row in events], rooms

    # -- first actions: each returns whether the dead writer's commit must be there then --------

    def checkpoint(self) -> bool:
        self.db.checkpoint()
        return True

    def reopen(self) -> bool:
        self.db.close()
        self.db = eventdb.open(self.path)
        return True

    def look(self) -> bool:
        self.content()
        return False

    def append(self) -> bool:
        self.db.create_topic("other", {"n": "BIGINT"}).append({"n": 1})
        return True

    def seal(self) -> bool:
        self.db.compact(full=True)
        return True

    def trim(self) -> bool:
        other = self.db.create_topic("other", {"n": "BIGINT"}, max_rows=5)
        other.append_many([{"n": n} for n in range(9)])
        return True

    def retain(self) -> bool:
        self.db.retain()
        return False

    def compact(self) -> bool:
        self.db.table("rooms").compact()
        return True

    def back_up(self) -> bool:
        target = self.path.parent / "backup"
        before = self.content()
        self.db.backup(target)
        with eventdb.open(target) as copy:
            assert self.content(copy) == before
        return False

    def subscribe(self) -> bool:
        seen = []
        with self.db.subscribe("SELECT k, n FROM events EMIT CHANGES", start="earliest") as changes:
            while batch := changes.poll(0.1):
                seen += batch
        assert len(seen) in (2, len(self.content()[0]))
        return False

    def make_view(self) -> bool:
        self.db.sql("CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS c, sum(n) AS s FROM events GROUP BY k")
        self.db.wait("totals", 1, timeout=20)
        return True


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "db"
    with eventdb.open(path) as db:
        events = db.create_topic("events", {"k": "VARCHAR", "n": "BIGINT"})
        rooms = db.create_table("rooms", {"id": "VARCHAR", "n": "BIGINT"}, primary_key="id")
        events.append({"k": "a", "n": 1})
        rooms.put({"id": "a", "n": 1})
        rooms.put({"id": "b", "n": 1})
    return path


def run(path: Path, death: str, action: Callable[[Survivor], bool], *, checkpointed: bool) -> None:
    survivor = Survivor(path)
    code = CHILD + textwrap.dedent(DEATHS[death])
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    if checkpointed:
        survivor.db.checkpoint()
    child.communicate("die\n", timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert survivor.content() == (EVENTS, ROOMS), "what was never acknowledged was never seen"

    complete = action(survivor)

    found = survivor.content()
    assert found in ((EVENTS, ROOMS), AFTER[death])
    if complete:
        assert found == AFTER[death]
    db, expected = survivor.db, AFTER[death]
    if complete:
        assert db.topic("events").offsets() == (0, len(expected[0]))
    db.topic("events").append({"k": "a", "n": 4})
    db.table("rooms").put({"id": "b", "n": 4})
    wanted: Any = ([*expected[0], ("a", 4)], expected[1] | {"b": 4})
    assert survivor.content() == wanted
    assert db.check() == []
    db.close()
    with eventdb.open(path) as again:
        assert survivor.content(again) == wanted
        assert again.check() == []


ACTIONS = [
    Survivor.checkpoint, Survivor.reopen, Survivor.look, Survivor.append, Survivor.seal, Survivor.trim, Survivor.retain,
    Survivor.compact, Survivor.back_up, Survivor.subscribe, Survivor.make_view,
]  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.parametrize("death", ["a row", "a marked row"])
def test_the_next_process_finds_all_of_a_dead_writers_commit_or_nothing(
    path: Path, death: str, action: Callable[[Survivor], bool]
) -> None:
    run(path, death, action, checkpointed=False)


@pytest.mark.parametrize("action", [Survivor.checkpoint, Survivor.reopen], ids=lambda action: action.__name__)
@pytest.mark.parametrize("death", DEATHS)
def test_a_checkpoint_that_follows_another_completes_a_dead_writers_commit(
    path: Path, death: str, action: Callable[[Survivor], bool]
) -> None:
    run(path, death, action, checkpointed=True)
