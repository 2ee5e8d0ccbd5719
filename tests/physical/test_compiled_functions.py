"""Every generated function and cast, over values at the edges, gives what the interpreted engine gives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from eventdb.logical.expressions import Call, Case, Cast, Expression, InList, IntervalValue, Literal, walk
from eventdb.logical.plan import Filter, OutputField, Project
from eventdb.physical import fused
from eventdb.physical.codegen_functions import FUNCTIONS
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
)
from tests.physical.building import MemoryLog, call, context_of, scan_of
from tests.physical.engines import assert_same_rows, both, plain_kernel
from tests.physical.expressions import COLUMNS, HOUR, MONEY, NULLABLE, START, column, table

DAY = 24 * HOUR
EDGES: dict[str, list[Any]] = {
    "big": [None, 0, 1, -1, 7, -7, 2**63 - 1, -(2**63), 2**62, 2**31, -(2**31) - 1, 10**16],
    "num": [0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 60],
    "tiny": [0, 1, -1, 127, -128, 3, -3],
    "dbl": [None, 0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 1e10, 1e300, math.inf, -math.inf, math.nan, 127.5, 2.0**63, 0.125],
    "flt": [0.0, 1.5, -2.5, math.inf, math.nan, 16_777_216.0, 0.1],
    "money": [None, 0, 50, -50, 149, 150, -150, 10**10 - 1, 1 - 10**10, 12_750],
    "name": [None, "", "a", "Ünï", "zz"],
    "site": ["north", "south", "east"],
    "flag": [None, True, False],
    "ts": [START, START + 3 * DAY + 7, 0, -1, -DAY - 1, 951_782_400_000_000, 951_868_799_999_999,
           -62_135_596_800_000_000, 253_402_300_799_999_999, START + 5 * DAY],
    "day": [None, 0, -1, 19_000, 2_932_896, -719_162],
}  # fmt: skip
COUNT = 30
# Columns are shifted against each other, so that edges of one meet many of another.
DATA = [
    tuple(EDGES[n][(r * (c + 1) + r // len(EDGES[n])) % len(EDGES[n])] for c, n in enumerate(COLUMNS))
    for r in range(COUNT)
]
UNITS = ["microsecond", "millisecond", "second", "minute", "hour", "day", "week"]
PARTS = ["year", "quarter", "month", "day", "hour", "minute", "second", "millisecond", "microsecond", "dow", "isodow"]
TYPES: list[DataType] = [BIGINT, INTEGER, TINYINT, DOUBLE, FLOAT, MONEY]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "build_now", plain_kernel)


def of(type: DataType) -> list[Expression]:
    return [column(n) for n, t in COLUMNS.items() if t == type]


def text(value: str) -> Literal:
    return Literal(VARCHAR, value)


def arithmetic() -> list[Expression]:
    found: list[Expression] = []
    for name, (a, b) in itertools.product(["add", "subtract", "multiply", "divide"], itertools.product(TYPES, TYPES)):
        found.append(call(name, of(a)[0], of(b)[0]))
    integers = [BIGINT, INTEGER, TINYINT]
    for (a, b), divisor in itertools.product(itertools.product(integers, integers), [3, 7, -7, -1]):
        found.append(call("modulo", of(a)[0], of(b)[0]))
        found += [call("modulo", of(a)[0], Literal(a, divisor)), call("divide", of(a)[0], Literal(a, divisor))]
    found += [
        call(name, of(type)[0])
        for name in ("negate", "abs", "floor", "ceil", "trunc")
        for type in TYPES
        if type != MONEY or name in ("negate", "abs")
    ]
    found += [call("sqrt", column("dbl")), call("isnan", column("flt")), call("isfinite", column("dbl"))]
    found += [call("epoch_ms", column("ts")), call("epoch_us", column("ts"))]
    return found


def logic() -> list[Expression]:
    found: list[Expression] = []
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "is_distinct_from", "is_not_distinct_from"):
        found += [
            call(name, of(a)[0], of(b)[0])
            for a, b in [*itertools.product(TYPES, TYPES), (DATE, TIMESTAMP), (BOOLEAN, BOOLEAN)]
        ]
        found += [
            call(name, column("name"), text("a")),
            call(name, text("south"), column("site")),
            call(name, column("name"), text("no")),
        ]
    truth = [
        column("flag"),
        Literal(BOOLEAN, True),
        Literal(BOOLEAN, False),
        Literal(BOOLEAN, None),
        call("gt", column("big"), Literal(BIGINT, 0)),
    ]
    risky = call("eq", call("divide", Literal(BIGINT, 10), column("big")), Literal(BIGINT, 10))
    for name in ("and", "or"):
        found += [Call(BOOLEAN, name, pair) for pair in itertools.product(truth, truth)]
        found += [Call(BOOLEAN, name, (first, risky)) for first in truth]
        for sign in ("eq", "ne"):
            zero = call(sign, column("big"), Literal(BIGINT, 0))
            found += [Call(BOOLEAN, name, (zero, risky)), Call(BOOLEAN, name, (column("flag"), zero, risky))]
    found += [call("not", column("flag")), *(call(n, column(c)) for n in ("is_null", "is_not_null") for c in COLUMNS)]
    return found


def times() -> list[Expression]:
    found = [call("date_trunc", text(unit), column("ts")) for unit in UNITS]
    found += [call("date_part", text(part), column("ts")) for part in PARTS]
    for width in (1, 7, HOUR, DAY, 3 * DAY + 1):
        found.append(call("time_bucket", Literal(INTERVAL, IntervalValue(0, width)), column("ts")))
        found.append(call("add", column("ts"), Literal(INTERVAL, IntervalValue(0, width))))
        found.append(call("subtract", column("ts"), Literal(INTERVAL, IntervalValue(0, width))))
    found += [call("subtract", column("ts"), Literal(TIMESTAMP, START)), call("add", column("day"), Literal(BIGINT, 5))]
    found += [call("subtract", column("day"), column("day")), call("date_part", text("year"), column("day"))]
    return found


def casts() -> list[Expression]:
    found: list[Expression] = []
    for source, target, safe in itertools.product([*TYPES, BOOLEAN], [*TYPES, BOOLEAN], [True, False]):
        if source != target and (source, target) != (BOOLEAN, MONEY):
            found.append(Cast(target, of(source)[0], safe))
    for scale in (0, 1, 4):
        from eventdb.schema import decimal_type

        found += [
            Cast(decimal_type(12, scale), column(c), safe) for c in ("money", "big", "dbl") for safe in (True, False)
        ]
    return [*found, Cast(TIMESTAMP, column("day")), Cast(DATE, column("ts"))]


def conditionals() -> list[Expression]:
    zero = call("eq", column("big"), Literal(BIGINT, 0))
    risky = call("divide", Literal(BIGINT, 7), column("big"))
    none = Literal(BIGINT, None)
    found: list[Expression] = [
        Case(BIGINT, (zero,), (Literal(BIGINT, -5),), risky),
        Case(BIGINT, (call("not", zero), column("flag")), (risky, column("big")), none),
        Case(BIGINT, (column("flag"), zero), (risky, Literal(BIGINT, 1)), column("big")),
        Call(BIGINT, "coalesce", (none, risky, Literal(BIGINT, 3))),
        Call(BIGINT, "coalesce", (column("big"), Literal(BIGINT, 3))),
        Call(DOUBLE, "coalesce", (column("dbl"), Literal(DOUBLE, None))),
        call("length", column("name")),
        call("length", call("upper", column("name"))),
        call("strpos", column("site"), text("o")),
        call("like", column("name"), text("%a%")),
        call("coalesce", column("name"), text("?")),
        call("upper", column("name")),
        call("eq", call("coalesce", column("name"), text("a")), text("a")),
    ]
    for negated, more in itertools.product([False, True], [[], [None]]):
        found.append(InList(BOOLEAN, column("big"), tuple(Literal(BIGINT, v) for v in [0, 7, *more]), negated))
        found.append(InList(BOOLEAN, column("name"), tuple(Literal(VARCHAR, v) for v in ["a", "x", *more]), negated))
        found.append(InList(BOOLEAN, column("flag"), tuple(Literal(BOOLEAN, v) for v in [True, *more]), negated))
    return found


FAMILIES = {"arithmetic": arithmetic, "logic": logic, "times": times, "casts": casts, "conditionals": conditionals}


def compare(expression: Expression, data: list[tuple[Any, ...]]) -> str:
    """Compares the engines over some rows; where both refuse, over each row. Returns the engine that ran."""
    log = MemoryLog([table(data)], event_time=list(COLUMNS).index("ts"))
    plan = Project(scan_of(log), (expression,), (OutputField("x", expression.type),))
    expected, found, engine = both(plan, context_of(log))
    assert_same_rows(expected, found, ordered=True)
    if isinstance(expected, str) and len(data) > 1:
        for row in data:
            compare(expression, [row])
    if expression.type == BOOLEAN and not isinstance(expected, str):
        kept = Filter(scan_of(log), expression)
        assert_same_rows(*both(kept, context_of(log))[:2], ordered=True)
    return engine


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_values_and_errors_agree_at_the_edges(family: str) -> None:
    ended = [(e, compare(e, DATA)) for e in FAMILIES[family]()]
    fell_back = [str(e) for e, engine in ended if engine != "compiled" and not any(n.type.is_wide for n in walk(e))]
    assert fell_back == [], "these have a generated form and were interpreted"


def test_every_generated_function_is_compared() -> None:
    from eventdb.logical.expressions import walk

    seen = {n.function for make in FAMILIES.values() for e in make() for n in walk(e) if isinstance(n, Call)}
    assert set(FUNCTIONS) <= seen, set(FUNCTIONS) - seen


def test_the_table_has_nulls_where_columns_are_nullable() -> None:
    for i, name in enumerate(COLUMNS):
        assert any(row[i] is None for row in DATA) == (name in NULLABLE), name
