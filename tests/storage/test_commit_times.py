"""Append times tell commits apart: all rows of a commit have one, and a later commit has a later one, in any topic."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.storage.device.files import Clock


class _BackAndForth:
    """A wall clock that stands still, jumps ahead and goes back."""

    def __init__(self) -> None:
        self.chance = random.Random(5)
        self.now_us = 1_700_000_000_000_000

    def __call__(self) -> int:
        self.now_us += self.chance.choice([0, 0, 1, 2, 5_000, -5_000, -3])
        return self.now_us


def _times(db: eventdb.Database, topics: tuple[str, ...]) -> list[tuple[int, int]]:
    """(append time, commit number) of all rows."""
    found = []
    for name in topics:
        found += db.sql(f"SELECT epoch_us(_append_time), n FROM {name}").fetchall()
    return sorted(found)


def _in_order(rows: list[tuple[int, int]]) -> bool:
    """Whether the append times of the commits are as different, and in the same order, as their numbers."""
    pairs = itertools.pairwise(rows)
    return all((a[0] < b[0]) == (a[1] < b[1]) and (a[0] == b[0]) == (a[1] == b[1]) for a, b in pairs)


@pytest.mark.parametrize("durability", ["os", "commit"])
def test_a_later_commit_has_a_later_append_time_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setattr(Clock, "time_us", _BackAndForth())
    chance = random.Random(6)
    path = tmp_path / "db"
    db = eventdb.open(path, durability=durability)
    db.sql("CREATE TOPIC a (n BIGINT)")
    db.sql("CREATE TOPIC b (n BIGINT, s VARCHAR) WITH (partitions = 3)")
    db.sql("CREATE TABLE c (k BIGINT PRIMARY KEY, n BIGINT)")
    for n in range(300):
        kind = chance.randrange(6)
        if kind < 2:
            db.topic("a").append({"n": n})
        elif kind == 2:
            db.topic("b").append({"n": n, "s": f"s{chance.randrange(40)}"})
        elif kind == 3:
            db.sql(f"INSERT INTO c VALUES ({n}, {n})")
        elif kind == 4:
            db.topic("b").append_many([{"n": n, "s": None}] * 5)
        else:
            with db.transaction() as both:
                both.append("a", {"n": n})
                both.append("b", {"n": n, "s": "x"})
        if n == 150:
            db.close()
            db = eventdb.open(path, durability=durability)
    rows = _times(db, ("a", "b", "c"))
    assert len({n for _, n in rows}) == 300
    assert _in_order(rows)
    db.close()
    shutil.copytree(path, tmp_path / "copy")
    with open(tmp_path / "copy" / "shared", "r+b") as page:  # what a power loss leaves of it
        page.write(bytes(3 * 4096))
    with eventdb.open(tmp_path / "copy") as db:
        db.topic("a").append({"n": 300})
        assert _in_order(_times(db, ("a", "b", "c")))


def _append(path: str, first: int, count: int, wait: Any) -> None:
    db = eventdb.open(path, durability="os")
    topic = db.topic("a" if first else "b")
    wait.wait()
    for n in range(first, first + count):
        topic.append({"n": n})
    db.close()


def test_commits_of_two_processes_have_different_append_times(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with eventdb.open(path, durability="os") as db:
        db.sql("CREATE TOPIC a (n BIGINT)")
        db.sql("CREATE TOPIC b (n BIGINT)")
        spawn = multiprocessing.get_context("spawn")
        barrier = spawn.Barrier(2)
        others = [spawn.Process(target=_append, args=(path, first, 2000, barrier)) for first in (0, 10_000)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        times = [time for time, _ in _times(db, ("a", "b"))]
    assert len(times) == 4000
    assert len(set(times)) == 4000
