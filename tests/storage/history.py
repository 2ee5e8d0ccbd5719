"""The plain list a simulated database is judged by: what was committed, in order, and what may have been.

`maybes` are commits whose process died inside: each has happened or not, and who looks at the database finds out. A
power cut leaves a prefix of the journaled commits and a prefix of the derived ones, both at least as long as what was
known to be safe, the derived ones never ahead of the journaled ones they were made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

Row = tuple[Any, ...]
Rows = dict[int, list[Row]]
Keys = dict[bytes, bytes]


class Commit:
    """Rows by topic and keys (None = deleted) that become visible together."""

    def __init__(self, *, derived: bool = False) -> None:
        self.rows: Rows = {}
        self.keys: dict[bytes, bytes | None] = {}
        self.derived = derived
        self.safe = False  # a power cut must not take it
        self.seen = False  # somebody saw it before it was acknowledged: it stays visible


def _subsets(commits: list[Commit]) -> Iterator[list[Commit]]:
    """In order, the largest first."""
    for size in range(len(commits), -1, -1):
        yield from map(list, combinations(commits, size))


class History:
    """`journaled` and `derived` are the topics of each kind; keys of derived commits begin with b"d"."""

    def __init__(self, journaled: tuple[int, ...], derived: tuple[int, ...]) -> None:
        self.topics = {False: journaled, True: derived}
        self.commits: list[Commit] = []
        self.maybes: list[Commit] = []
        self.rows: Rows = {topic: [] for topic in journaled + derived}
        self.keys: Keys = {}

    def add(self, commit: Commit) -> None:
        self.commits.append(commit)
        for topic, rows in commit.rows.items():
            self.rows[topic] += rows
        _apply(self.keys, commit)

    def died(self, commit: Commit | None) -> None:
        """The process of an unacknowledged commit is gone."""
        if commit is None:
            return
        if commit.seen:
            self.add(commit)
            self.maybes.clear()
        else:
            self.maybes.append(commit)

    def mark_safe(self, count: int, *, derived: bool) -> None:
        """Of the first `count` commits, those of the kind are."""
        for commit in reversed(self.commits[:count]):
            if commit.derived == derived:
                if commit.safe:
                    return
                commit.safe = True

    def acknowledge(self, commit: Commit, rows: Rows, keys: Keys) -> None:
        """The commit happened, and a look afterwards shows which of the maybes did before it; the others never will."""
        for included in _subsets(self.maybes):
            if self._equals([*included, commit], rows, keys):
                for each in (*included, commit):
                    self.add(each)
                self.maybes.clear()
                return
        raise AssertionError(f"an acknowledged commit is not what is there: {self._describe(rows, keys)}")

    def require(self, rows: Rows, keys: Keys, in_flight: Commit | None = None) -> None:
        """A look at a living database shows every acknowledged commit, and nothing that nobody committed."""
        for included in _subsets(self.maybes if in_flight is None else [*self.maybes, in_flight]):
            if in_flight is not None and in_flight.seen and in_flight not in included:
                continue
            if self._equals(included, rows, keys):
                self._found(included, in_flight)
                return
        raise AssertionError(f"this is not what was committed: {self._describe(rows, keys)}")

    def _found(self, included: list[Commit], in_flight: Commit | None) -> None:
        for commit in included:
            if commit is in_flight:
                commit.seen = True
                self.maybes.clear()
            else:
                self.add(commit)
                del self.maybes[: self.maybes.index(commit) + 1]

    def _equals(self, more: list[Commit], rows: Rows, keys: Keys) -> bool:
        for topic, expected in self.rows.items():
            added = [row for commit in more for row in commit.rows.get(topic, ())]
            found = rows[topic]
            if len(found) != len(expected) + len(added) or found[len(expected) :] != added:
                return False
            if found[: len(expected)] != expected:
                return False
        merged = dict(self.keys)
        for commit in more:
            _apply(merged, commit)
        return merged == keys

    def require_after_power_cut(self, rows: Rows, keys: Keys) -> None:
        """What is there is legal; from now on it is the history."""
        for included in _subsets(self.maybes):
            everything = [*self.commits, *included]
            kept = [self._prefix([c for c in everything if c.derived == kind], kind, rows, keys) for kind in (0, 1)]
            if kept[0] is None or kept[1] is None:
                continue
            journaled, derived = set(kept[0]), set(kept[1])
            last = max((i for i, c in enumerate(everything) if c in derived), default=-1)
            missing = [c for c in everything[: last + 1] if not c.derived and c not in journaled]
            assert not missing, f"derived rows survived that were made from {len(missing)} lost commits"
            self.commits, self.rows, self.keys = [], {topic: [] for topic in self.rows}, {}
            self.maybes.clear()
            for commit in everything:
                if commit in journaled or commit in derived:
                    self.add(commit)
            return
        raise AssertionError(f"this is no legal rest after a power cut: {self._describe(rows, keys)}")

    def _prefix(self, commits: list[Commit], derived: bool | int, rows: Rows, keys: Keys) -> list[Commit] | None:
        """The commits of one kind that are there, if they are a prefix with all safe ones."""
        topics = self.topics[bool(derived)]
        own = {key: value for key, value in keys.items() if key.startswith(b"d") == bool(derived)}
        expected: Rows = {topic: [] for topic in topics}
        state: Keys = {}
        safe = max((i + 1 for i, commit in enumerate(commits) if commit.safe), default=0)
        for count in range(len(commits) + 1):
            if count:
                for topic, added in commits[count - 1].rows.items():
                    expected[topic] += added
                _apply(state, commits[count - 1])
            if count >= safe and state == own and all(expected[topic] == rows[topic] for topic in topics):
                return commits[:count]
        return None

    def _describe(self, rows: Rows, keys: Keys) -> str:
        there = {topic: len(found) for topic, found in rows.items()}
        least = {topic: len(found) for topic, found in self.rows.items()}
        safe = {topic: sum(len(c.rows.get(topic, ())) for c in self.commits if c.safe) for topic in rows}
        wrong = {
            topic: next((i for i, (a, b) in enumerate(zip(found, self.rows[topic], strict=False)) if a != b), None)
            for topic, found in rows.items()
        }
        maybe = [{topic: len(added) for topic, added in commit.rows.items()} for commit in self.maybes]
        return (
            f"{there} rows where {least} were acknowledged ({safe} of them safely), maybe also {maybe}; "
            f"the first that differ are {wrong}; keys {keys} where {self.keys} were put"
        )


def _apply(keys: Keys, commit: Commit) -> None:
    for key, value in commit.keys.items():
        if value is None:
            keys.pop(key, None)
        else:
            keys[key] = value
