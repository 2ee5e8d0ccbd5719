"""Every snapshot of a table that several processes change is a state it had, however it is read, and stays it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eventdb
from tests.table_history import KEYS, Model, apply, operations

ROOT = Path(__file__).resolve().parent.parent
COMMITS = 250
WRITERS = ("a", "b", "c")


class Follower:
    """The independent model of one writer: its states, one after the other."""

    def __init__(self, name: str, seed: int) -> None:
        self._operations = operations(name, seed)
        self.model: Model = {}
        self.commits = 0

    def reaches(self, found: Model) -> bool:
        """Whether the state is that of now or of a later commit, which is then that of now."""
        while self.model != found:
            if self.commits == COMMITS:
                return False
            apply(self.model, next(self._operations))
            self.commits += 1
        return True


def by_writer(rows: list[tuple[Any, ...]]) -> dict[str, Model]:
    found: dict[str, Model] = {name: {} for name in WRITERS}
    for key, n in rows:
        assert key not in found[key[0]], f"two rows have the key {key}"
        found[key[0]][key] = n
    return found


def looks(snapshot: Any, name: str) -> list[list[tuple[Any, ...]]]:
    """The rows of a snapshot, found in several ways."""
    listed = ", ".join(f"'{writer}{k}'" for writer in WRITERS for k in range(KEYS))
    scanned = snapshot.sql(f"SELECT k, n FROM {name}").fetchall()
    looked_up = snapshot.sql(f"SELECT k, n FROM {name} WHERE k IN ({listed})").fetchall()
    grouped = snapshot.sql(f"SELECT k, max(n) FROM {name} GROUP BY k HAVING count(*) = 1").fetchall()
    assert snapshot.sql(f"SELECT count(*), sum(n) FROM {name}").fetchall() == [
        (len(scanned), sum(n for _, n in scanned) if scanned else None)
    ]
    return [scanned, looked_up, grouped]


@pytest.mark.parametrize("seed", [1, 2])
def test_snapshots_are_states_that_commits_left(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "db")
    seen: set[tuple[int, ...]] = set()
    with eventdb.open(path, durability="interval:20ms") as db:
        table = db.create_table("t", {"k": "VARCHAR", "n": "BIGINT"}, primary_key="k")
        db.sql(f"SET execution = {'compiled' if seed % 2 else 'interpreted'}")
        other = db.create_table("u", {"k": "VARCHAR", "n": "BIGINT"}, primary_key="k")
        other.put_many([{"k": "a0", "n": n} for n in range(9)])
        with db.snapshot() as snapshot:
            looks(snapshot, "u")  # what is to be compiled is
        command = [sys.executable, "-m", "tests.table_history", path]
        writers = [subprocess.Popen([*command, name, str(seed), str(COMMITS)], cwd=ROOT) for name in WRITERS]
        followers = {name: Follower(name, seed) for name in WRITERS}
        old: list[tuple[Any, list[tuple[Any, ...]]]] = []
        removed = turn = 0
        running = True
        while running:
            running = any(writer.poll() is None for writer in writers)
            turn += 1
            snapshot = db.snapshot()
            first, *others = (sorted(rows) for rows in looks(snapshot, "t"))
            for rows in others:
                assert rows == first
            for name, found in by_writer(first).items():
                follower = followers[name]
                assert follower.reaches(found), f"{found} is no state of {name} from commit {follower.commits} on"
            seen.add(tuple(follower.commits for follower in followers.values()))
            old.append((snapshot, first))
            if turn % 3 == 0:
                for kept, expected in old:
                    assert sorted(kept.sql("SELECT k, n FROM t").fetchall()) == expected
                    kept.close()
                old.clear()
                removed += table.compact(full=True)["removed"]
        assert [writer.wait() for writer in writers] == [0] * len(writers)
        for kept, _ in old:
            kept.close()
        assert [follower.commits for follower in followers.values()] == [COMMITS] * len(WRITERS)
        assert len(seen) > 5
        assert {row["k"]: row["n"] for row in table.rows()} == {
            key: n for follower in followers.values() for key, n in follower.model.items()
        }
        db.checkpoint()
        assert table.compact(full=True)["removed"] + removed > 0
        assert db.check(deep=True) == []
