"""The same generated rows in EventDB and in DuckDB, and the comparison of what a query gives from both."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
from decimal import Decimal
from typing import Any

import duckdb
from hypothesis import strategies as st

import eventdb

Rows = list[tuple[Any, ...]]
"""(o, *COLUMNS): o is the place of the row."""

START = dt.datetime(2024, 1, 30)
COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "g": ("VARCHAR", st.sampled_from(["a", "b", "", "é"])),
    "h": ("INTEGER", st.integers(-2, 4)),
    "i": ("BIGINT", st.one_of(st.integers(-5, 5), st.sampled_from([-(2**50), 2**50]))),
    "x": ("DOUBLE", st.sampled_from([-1.5, 0.0, -0.0, 0.25, 2.0, 1e6, 3.75])),
    "d": ("DECIMAL(9,2)", st.integers(-300, 300).map(lambda n: Decimal(n) / 100)),
    "s": ("VARCHAR", st.sampled_from(["", "x", "y", "ß", "zz"])),
    "t": ("TIMESTAMP", st.integers(0, 40).map(lambda n: START + dt.timedelta(hours=7 * n))),
}
FIXED: Rows = [
    (
        o,
        [None, "a", "b", ""][o * 7 % 11 % 4],
        [None, -1, 0, 2, 3, 4][o * 5 % 13 % 6],
        [3, None, -(2**50), -4, 2**50][o % 5],
        [None, 0.25, -1.5, 2.0, 1e6][o * 3 % 7 % 5],
        None if o % 5 == 0 else Decimal(o * 37 % 41) / 4,
        [None, "x", "", "zz"][o * 11 % 17 % 4],
        None if o % 6 == 5 else START + dt.timedelta(hours=o * 13 % 37),
    )
    for o in range(40)
]
"""Rows that are the same in every run, with NULLs and repeats in every column."""
_NAMES = ("o", *COLUMNS)
_numbers = itertools.count()


@st.composite
def tables(draw: st.DrawFn) -> Rows:
    count = draw(st.integers(0, 24))
    columns = [draw(st.lists(st.one_of(st.none(), v), min_size=count, max_size=count)) for _, v in COLUMNS.values()]
    return [(o, *row) for o, row in enumerate(zip(*columns, strict=True))]


@functools.cache
def databases() -> tuple[eventdb.Database, duckdb.DuckDBPyConnection]:
    """One pair for all examples: opening one takes longer than a hundred queries. Never closed."""
    db, connection = eventdb.open(":memory:"), duckdb.connect()
    columns = ", ".join(f"{name} {type}" for name, (type, _) in COLUMNS.items())
    db.sql(f"CREATE TOPIC every (example BIGINT, o BIGINT, {columns})")
    connection.execute(f"CREATE TABLE every (example BIGINT, o BIGINT, {columns})")
    connection.execute("SET threads = 1")
    return db, connection


def stored(rows: Rows) -> str:
    """A subquery that gives the rows, in both databases."""
    db, connection = databases()
    number = next(_numbers)
    if rows:
        names = ("example", *_NAMES)
        numbered = [(number, *row) for row in rows]
        db.topic("every").append_many([dict(zip(names, row, strict=True)) for row in numbered])
        connection.executemany(f"INSERT INTO every VALUES ({', '.join('?' * len(names))})", numbered)
    return f"(SELECT {', '.join(_NAMES)} FROM every WHERE example = {number}) e"


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) or isinstance(found, float):
        if found is None or expected is None:
            return found is expected
        a, b = float(found), float(expected)
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-5)
    return bool(found == expected)


def agree(rows: Rows, query: str) -> None:
    """A query over {e} gives the same rows, in the same order, from both."""
    db, connection = databases()
    sql = query.replace("{e}", stored(rows))
    expected = connection.execute(sql).fetchall()
    found = db.sql(sql).fetchall()
    assert len(found) == len(expected), (sql, found, expected)
    for a, b in zip(found, expected, strict=True):
        assert all(map(same, a, b)), (sql, a, b)
