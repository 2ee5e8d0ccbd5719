"""Clauses of the grammar's edge: each does what it says, against a plain model, or is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

import eventdb
from eventdb import BindError, UnsupportedSQL

ROWS = [(1, 10), (1, 20), (2, 10)]


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as opened:
        opened.sql("CREATE TABLE k(a INTEGER, b INTEGER)")
        opened.sql("INSERT INTO k VALUES (1, 10), (1, 20), (2, 10)")
        yield opened


def grouped(sets: list[frozenset[str]]) -> list[tuple[object, ...]]:
    """The rows and counts of grouping sets, each set once for each time it is given."""
    found: list[tuple[object, ...]] = []
    for one in sets:
        keys = [(a if "a" in one else None, b if "b" in one else None) for a, b in ROWS]
        found += [(*key, keys.count(key)) for key in dict.fromkeys(keys)]
    return sorted(found, key=repr)


def test_group_by_distinct_takes_each_grouping_set_once(db: eventdb.Database) -> None:
    rollup = [frozenset("ab"), frozenset("a"), frozenset()]
    every = [one | other for one, other in product(rollup, [frozenset("a"), frozenset()])]
    for word, sets in (("", every), ("DISTINCT", list(dict.fromkeys(every)))):
        query = f"SELECT a, b, count(*) FROM k GROUP BY {word} ROLLUP (a, b), ROLLUP (a)"
        assert sorted(db.sql(query).fetchall(), key=repr) == grouped(sets)
    assert sorted(db.sql("SELECT a, count(*) FROM k GROUP BY DISTINCT a").fetchall()) == [(1, 2), (2, 1)]


@pytest.mark.parametrize("keys", ["ALL, b", "ALL ROLLUP (a, b)"])
def test_group_by_all_beside_other_keys_is_refused(db: eventdb.Database, keys: str) -> None:
    with pytest.raises(UnsupportedSQL, match="GROUP BY ALL beside other keys"):
        db.sql(f"SELECT a, count(*) FROM k GROUP BY {keys}")


def test_distinct_on_nothing_is_refused(db: eventdb.Database) -> None:
    with pytest.raises(BindError, match="DISTINCT ON"):
        db.sql("SELECT DISTINCT ON () a FROM k")
