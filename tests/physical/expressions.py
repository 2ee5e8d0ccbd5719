"""Strategies for bound expressions and data over one wide table: the material of the tests that compare the engines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from eventdb.batch import RecordBatch
from eventdb.logical.expressions import Call, Case, Cast, ColumnRef, Expression, InList, IntervalValue, Literal
from eventdb.logical.functions import castable
from eventdb.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    FLOAT,
    INTEGER,
    INTERVAL,
    TIMESTAMP,
    TINYINT,
    VARCHAR,
    DataType,
    decimal_type,
)
from tests.physical.building import batch_of, call

MONEY = decimal_type(10, 2)
HOUR = 3_600_000_000
START = 1_700_000_000_000_000

COLUMNS: dict[str, DataType] = {
    "big": BIGINT, "num": INTEGER, "tiny": TINYINT, "dbl": DOUBLE, "flt": FLOAT, "money": MONEY, "name": VARCHAR,
    "site": VARCHAR, "flag": BOOLEAN, "ts": TIMESTAMP, "day": DATE,
}  # fmt: skip
NULLABLE = {"big", "dbl", "name", "flag", "money", "day"}

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "big": st.sampled_from([0, 1, -1, 7, 2**62, -(2**62), 2**63 - 1, -(2**63)]) | st.integers(-100, 100),
    "num": st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-50, 50),
    "tiny": st.sampled_from([0, 127, -128]) | st.integers(-9, 9),
    "dbl": st.sampled_from([0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 1e308, 2.5, -0.5, 0.1])
    | st.floats(-100, 100),
    "flt": st.sampled_from([0.0, 1.5, math.inf, math.nan]) | st.floats(-100, 100, width=32),
    "money": st.sampled_from([0, 1, -1, 10**10 - 1, 1 - 10**10]) | st.integers(-1000, 1000),
    "name": st.sampled_from(["", "a", "b", "ab", "Ünï", "zz", "10"]),
    "site": st.sampled_from(["north", "south", "east"]),
    "flag": st.booleans(),
    "ts": st.integers(START, START + 50 * HOUR),
    "day": st.integers(19_000, 19_100),
}


@st.composite
def rows(draw: st.DrawFn, least: int = 1, most: int = 12, nulls: float = 0.3) -> list[tuple[Any, ...]]:
    """Rows of the table; a nullable value is NULL about `nulls` of the time."""
    count = draw(st.integers(least, most))
    random = draw(st.randoms(use_true_random=False))
    columns = []
    for name, values in VALUES.items():
        drawn = draw(st.lists(values, min_size=count, max_size=count))
        columns.append([None if name in NULLABLE and random.random() < nulls else v for v in drawn])
    return list(zip(*columns, strict=True))


def table(data: Sequence[tuple[Any, ...]]) -> RecordBatch:
    """The rows as one batch."""
    return batch_of({name: (type, [row[i] for row in data]) for i, (name, type) in enumerate(COLUMNS.items())})


def column(name: str) -> ColumnRef:
    return ColumnRef(COLUMNS[name], list(COLUMNS).index(name), name)


def columns_of_type(type: DataType) -> list[str]:
    return [name for name, t in COLUMNS.items() if t == type]


_LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "BIGINT": st.sampled_from([0, 1, -1, 2, 3, 10, 2**62, -(2**63), None]),
    "INTEGER": st.sampled_from([0, 1, -1, 5, 2**31 - 1]),
    "TINYINT": st.sampled_from([0, 1, -1, 100]),
    "DOUBLE": st.sampled_from([0.0, 1.0, -2.5, 0.1, None]),
    "FLOAT": st.sampled_from([0.0, 1.0, -2.5]),
    "DECIMAL": st.sampled_from([0, 100, -150, 10**9]),
    "BOOLEAN": st.sampled_from([True, False, None]),
    "TIMESTAMP": st.sampled_from([START, START + HOUR, START - 1]),
    "DATE": st.sampled_from([19_050, 19_000]),
    "VARCHAR": st.sampled_from(["a", "north", "%a%", "missing"]),
}
_COMPARABLE = [BIGINT, INTEGER, DOUBLE, FLOAT, MONEY, TIMESTAMP, DATE, BOOLEAN]
_SIGNS = ["eq", "ne", "lt", "le", "gt", "ge"]
_NUMBERS = [BIGINT, INTEGER, TINYINT, DOUBLE, FLOAT, MONEY]
_TEXT_TO_NUMBER = ["length"]
_UNITS = ["microsecond", "millisecond", "second", "minute", "hour", "day", "week"]
_PARTS = ["year", "quarter", "month", "day", "hour", "minute", "second", "millisecond", "microsecond", "dow", "isodow"]


def literal(type: DataType) -> st.SearchStrategy[Expression]:
    return _LITERALS[type.name].map(lambda value: Literal(type, value))


def leaf(type: DataType) -> st.SearchStrategy[Expression]:
    names = columns_of_type(type)
    found: st.SearchStrategy[Expression] = literal(type)
    return st.sampled_from([column(n) for n in names]) | found if names else found


def _to(type: DataType, expression: Expression) -> Expression:
    return expression if expression.type == type else Cast(type, expression)


@st.composite
def expressions(draw: st.DrawFn, type: DataType, depth: int = 3) -> Expression:
    """An expression of a type that the code generator knows, mostly."""
    if depth <= 0 or draw(st.integers(0, 4)) == 0:
        return draw(leaf(type))
    below = depth - 1
    kind = draw(st.sampled_from(["own", "own", "own", "case", "coalesce", "cast"]))
    if kind == "case":
        return Case(type, (draw(predicates(below)),), (draw(expressions(type, below)),), draw(expressions(type, below)))
    if kind == "coalesce":
        return Call(type, "coalesce", (draw(expressions(type, below)), draw(expressions(type, below))))
    if kind == "cast":
        source = draw(st.sampled_from([t for t in _COMPARABLE if castable(t, type) and t != type] or [type]))
        return Cast(type, draw(expressions(source, below)), draw(st.booleans())) if source != type else draw(leaf(type))
    if type.name == "BOOLEAN":
        return draw(predicates(depth))
    if type.name == "TIMESTAMP":
        return draw(_times(below))
    if type.name == "DATE":
        return Cast(DATE, draw(expressions(TIMESTAMP, below)))
    return draw(_numbers(type, below))


@st.composite
def _times(draw: st.DrawFn, depth: int) -> Expression:
    inner = draw(expressions(TIMESTAMP, depth))
    kind = draw(st.sampled_from(["bucket", "trunc", "add"]))
    if kind == "bucket":
        width = draw(st.sampled_from([1, 1000, HOUR, 7 * HOUR + 1]))
        return call("time_bucket", Literal(INTERVAL, IntervalValue(0, width)), inner)
    if kind == "trunc":
        return call("date_trunc", Literal(VARCHAR, draw(st.sampled_from(_UNITS))), inner)
    step = draw(st.sampled_from([1, -HOUR, 10**17]))
    return call(draw(st.sampled_from(["add", "subtract"])), inner, Literal(INTERVAL, IntervalValue(0, step)))


@st.composite
def _numbers(draw: st.DrawFn, type: DataType, depth: int) -> Expression:
    kind = draw(st.sampled_from(["binary", "binary", "unary", "special"]))
    if kind == "unary":
        return _to(type, call(draw(st.sampled_from(["negate", "abs"])), draw(expressions(type, depth))))
    if kind == "special":
        if type.is_float:
            name = draw(st.sampled_from(["floor", "ceil", "trunc", "sqrt"]))
            return _to(type, call(name, draw(expressions(type, depth))))
        if type.name == "BIGINT":
            text = column(draw(st.sampled_from(["name", "site"])))
            part = Literal(VARCHAR, draw(st.sampled_from(_PARTS)))
            time = draw(expressions(TIMESTAMP, depth))
            return draw(st.sampled_from([call("length", text), call("date_part", part, time), call("epoch_us", time)]))
    name = draw(st.sampled_from(["add", "subtract", "multiply", "divide", "modulo"]))
    if name == "modulo" and type.is_float:
        name = "divide"
    return _to(type, call(name, draw(expressions(type, depth)), draw(expressions(type, depth))))


@st.composite
def predicates(draw: st.DrawFn, depth: int = 2) -> Expression:
    """A BOOLEAN expression."""
    if depth <= 0:
        return draw(leaf(BOOLEAN))
    below = depth - 1
    kind = draw(
        st.sampled_from(["compare", "compare", "logic", "logic", "not", "null", "text", "in", "distinct", "nan"])
    )
    if kind == "logic":
        count = draw(st.integers(2, 3))
        return Call(BOOLEAN, draw(st.sampled_from(["and", "or"])), tuple(draw(predicates(below)) for _ in range(count)))
    if kind == "not":
        return call("not", draw(predicates(below)))
    if kind == "text":
        return draw(_text_predicates())
    if kind == "nan":
        return call(draw(st.sampled_from(["isnan", "isfinite"])), draw(expressions(DOUBLE, below)))
    type = draw(st.sampled_from(_COMPARABLE))
    if kind == "null":
        return call(draw(st.sampled_from(["is_null", "is_not_null"])), draw(expressions(type, below)))
    if kind == "in":
        found = draw(st.lists(_LITERALS[type.name], min_size=1, max_size=4))
        return InList(
            BOOLEAN, draw(expressions(type, below)), tuple(Literal(type, v) for v in found), draw(st.booleans())
        )
    sign = draw(st.sampled_from(_SIGNS if kind == "compare" else ["is_distinct_from", "is_not_distinct_from"]))
    return Call(BOOLEAN, sign, (draw(expressions(type, below)), draw(expressions(type, below))))


@st.composite
def _text_predicates(draw: st.DrawFn) -> Expression:
    text: Expression = column(draw(st.sampled_from(["name", "site"])))
    if draw(st.booleans()):
        text = call(draw(st.sampled_from(["upper", "reverse"])), text)
    kind = draw(st.sampled_from(["compare", "like", "in", "null"]))
    if kind == "compare":
        return call(draw(st.sampled_from(_SIGNS)), text, draw(literal(VARCHAR)))
    if kind == "like":
        return call("like", text, Literal(VARCHAR, draw(st.sampled_from(["%a%", "n%", "_"]))))
    if kind == "null":
        return call("is_null", text)
    found = draw(st.lists(st.sampled_from(["a", "ab", "south", None]), min_size=1, max_size=3))
    return InList(BOOLEAN, text, tuple(Literal(VARCHAR, v) for v in found), draw(st.booleans()))
