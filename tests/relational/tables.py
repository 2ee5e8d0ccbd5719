"""Small tables full of NULLs, in EventDB and in DuckDB, and queries compared between the two."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

import eventdb

COLUMNS = {"a": "INTEGER", "b": "INTEGER", "c": "VARCHAR", "d": "DOUBLE"}
TABLES = ("t", "u", "v")

Rows = list[tuple[Any, ...]]

_row = st.tuples(
    st.none() | st.integers(0, 3),
    st.none() | st.integers(-1, 2),
    st.none() | st.sampled_from(["x", "y", ""]),
    st.none() | st.sampled_from([0.0, 1.0, 2.5]),
)
contents = st.fixed_dictionaries({name: st.lists(_row, max_size=6) for name in TABLES})


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + value + "'" if isinstance(value, str) else repr(value)


def filled(connection: Any, tables: dict[str, Rows], word: str) -> Any:
    """The connection with the tables in it; `word` is TOPIC or TABLE."""
    run = connection.sql if word == "TOPIC" else connection.execute
    columns = ", ".join(f"{name} {type}" for name, type in COLUMNS.items())
    for name, rows in tables.items():
        run(f"CREATE {word} {name} ({columns})")
        if rows:
            values = ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows)
            run(f"INSERT INTO {name} VALUES {values}")
    return connection


def plain(value: Any) -> Any:
    """A value as it compares between engines: numbers as floats."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return round(float(value), 9) if isinstance(value, int | float | Decimal) else str(value)


def normal(rows: Sequence[Sequence[Any]], ordered: bool = False) -> list[tuple[Any, ...]]:
    found = [tuple(map(plain, row)) for row in rows]
    return found if ordered else sorted(found, key=repr)


def ours(db: eventdb.Database, sql: str, ordered: bool = False) -> list[tuple[Any, ...]]:
    return normal(db.sql(sql).fetchall(), ordered)


def theirs(duck: Any, sql: str, ordered: bool = False) -> list[tuple[Any, ...]]:
    return normal(duck.execute(sql).fetchall(), ordered)
