"""Hypothesis strategies: schemas, rows that fit them, and rows that do not."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

NAMES = ("alpha", "beta", "Gamma_3")
KEY, NUMBER = "k", "n"  # the two columns every schema has

_DATES = st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1))
_TIMES = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))
# Without lone surrogates, which have no UTF-8 form; with NUL, combining characters and everything else.
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOLEAN": st.booleans(),
    "TINYINT": st.integers(-128, 127),
    "SMALLINT": st.integers(-(2**15), 2**15 - 1),
    "INTEGER": st.integers(-(2**31), 2**31 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "FLOAT": st.floats(width=32, allow_nan=False),
    "DOUBLE": st.floats(allow_nan=False),
    "DECIMAL(10,2)": st.integers(-(10**10) + 1, 10**10 - 1).map(lambda n: Decimal(n).scaleb(-2)),
    "VARCHAR": _TEXT | st.sampled_from(["a", "b", "", "d" * 300]),
    "BLOB": st.binary(max_size=20),
    "DATE": _DATES,
    "TIMESTAMP": _TIMES,
}

# One value per type that must be refused, with a word the message must contain.
WRONG: dict[str, list[Any]] = {
    "BOOLEAN": [1, "true", 0.0],
    "TINYINT": [128, -129, 1.0, "1", True],
    "SMALLINT": [2**15, "x", 1.5],
    "INTEGER": [2**31, b"1", None.__class__],
    "BIGINT": [2**63, 1.0, "12", True],
    "FLOAT": ["1.5", 1e39, True],
    "DOUBLE": ["1.5", b"", True],
    "DECIMAL(10,2)": [Decimal("0.001"), Decimal("1e9"), 1.5, "1.00", Decimal("nan")],
    "VARCHAR": [1, b"text", "\ud800"],
    "BLOB": ["text", 1],
    "DATE": ["2024-01-01", dt.datetime(2024, 1, 1), 19_000],
    "TIMESTAMP": ["2024-01-01", dt.date(2024, 1, 1), 1.5, 2**63],
}


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, str]:
    """A key, a number and up to four more columns, some NOT NULL."""
    more = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4))
    columns = {KEY: "VARCHAR", NUMBER: "BIGINT"}
    for index, type_ in enumerate(more):
        columns[f"c{index}"] = type_ + draw(st.sampled_from(["", "", " NOT NULL"]))
    return columns


def value_of(type_: str) -> st.SearchStrategy[Any]:
    """A value of a column, None included unless it is NOT NULL."""
    name = type_.removesuffix(" NOT NULL")
    return VALUES[name] if type_.endswith("NOT NULL") else st.none() | VALUES[name]


@st.composite
def rows(draw: st.DrawFn, columns: dict[str, str]) -> dict[str, Any]:
    """A row that fits; nullable columns may be missing. The number stays small, so that sums do not overflow."""
    row: dict[str, Any] = {}
    for name, type_ in columns.items():
        if name == KEY:
            row[name] = draw(st.sampled_from([None, "x", "y", "z"]) | _TEXT)
        elif name == NUMBER:
            row[name] = draw(st.none() | st.integers(-1_000_000, 1_000_000))
        else:
            row[name] = draw(value_of(type_))
        if row[name] is None and draw(st.booleans()):
            del row[name]
    return row


def row_lists(columns: dict[str, str], max_size: int = 12) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(rows(columns), max_size=max_size)


@st.composite
def bad_rows(draw: st.DrawFn, columns: dict[str, str]) -> tuple[dict[str, Any], str]:
    """A row that must be refused, and the column whose name the message must hold."""
    row = {name: draw(value_of(type_)) for name, type_ in columns.items()}
    required = [name for name, type_ in columns.items() if type_.endswith("NOT NULL")]
    kind = draw(st.sampled_from(["value", "value", "unknown", "null"] if required else ["value", "value", "unknown"]))
    if kind == "unknown":
        return {**row, "nowhere": 1}, "nowhere"
    if kind == "null":
        name = draw(st.sampled_from(required))
        return {**row, name: None}, name
    name = draw(st.sampled_from(sorted(columns)))
    return {**row, name: draw(st.sampled_from(WRONG[columns[name].removesuffix(" NOT NULL")]))}, name
