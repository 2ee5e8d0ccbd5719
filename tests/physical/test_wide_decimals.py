"""DECIMAL of more than 18 digits against Python's decimals of 120 digits, and against DuckDB on the same rows."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb

EXACT = Context(prec=120)
TYPES = [(38, 0), (38, 2), (38, 10), (38, 37), (38, 38), (19, 0), (20, 20), (25, 3), (18, 4), (9, 2), (4, 0)]
EXECUTIONS = ["interpreted", "auto"]
Value = Decimal | None


def scaled(number: int, scale: int) -> Decimal:
    return Decimal(number).scaleb(-scale, EXACT)


def values_of(precision: int, scale: int) -> st.SearchStrategy[Value]:
    most = 10**precision - 1
    some = [0, 1, -1, most, -most, most // 2, 10**scale, -(10**scale), 5 * 10 ** max(scale - 1, 0), 2**63, -(2**63)]
    integers = st.one_of(
        st.integers(-most, most),
        st.sampled_from([n for n in some if abs(n) <= most]),
        st.integers(-100, 100).filter(lambda n: abs(n) <= most),
    )
    return st.one_of(st.none(), integers.map(lambda n: scaled(n, scale)))


@st.composite
def columns(draw: st.DrawFn, least: int = 0) -> tuple[tuple[int, int], list[Value]]:
    type = draw(st.sampled_from(TYPES))
    return type, draw(st.lists(values_of(*type), min_size=least, max_size=12))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], list[tuple[Value, Value]]]:
    left, right = draw(st.sampled_from(TYPES)), draw(st.sampled_from(TYPES))
    row = st.tuples(values_of(*left), values_of(*right))
    return left, right, draw(st.lists(row, min_size=1, max_size=8))


_numbers = itertools.count()


@functools.cache
def database() -> eventdb.Database:
    """One for all examples. Never closed."""
    return eventdb.open(":memory:")


def stored(table: dict[str, tuple[tuple[int, int], list[Value]]]) -> str:
    """The name of a topic that holds the columns, and `o`, the place of each row."""
    name = f"t{next(_numbers)}"
    types = {column: f"DECIMAL({p},{s})" for column, ((p, s), _) in table.items()}
    rows = len(next(iter(table.values()))[1])
    arrays = {column: pa.array(values, pa.decimal128(p, s)) for column, ((p, s), values) in table.items()}
    database().create_topic(name, {"o": "BIGINT", **types}).append_batch(
        pa.table({"o": pa.array(range(rows), pa.int64()), **arrays})
    )
    return name


def answer(query: str, executions: Sequence[str] = EXECUTIONS) -> list[tuple[Any, ...]] | None:
    """The rows, which do not depend on the execution; None for an EvaluationError."""
    found = []
    for execution in executions:
        database().sql(f"SET execution = '{execution}'")
        try:
            found.append(database().sql(query).fetchall())
        except eventdb.EvaluationError:
            found.append(None)
    assert all(other == found[0] for other in found), query
    return found[0]


def fits(value: Decimal, precision: int, scale: int) -> bool:
    return EXACT.abs(value.scaleb(scale, EXACT)) < Decimal(10) ** precision


def per_row(rows: list[Any], model: Callable[..., Any], type: str) -> list[tuple[Any]] | None:
    """What a query gives: the model's value of each row, None if one does not fit the type."""
    precision, scale = (int(n) for n in type[len("DECIMAL(") : -1].split(",")) if "(" in type else (0, 0)
    result = []
    for row in rows:
        value = None if None in row else model(*row)
        if value is not None and precision and (value.is_nan() or not fits(value, precision, scale)):
            return None
        result.append((value,))
    return result


BINARY: dict[str, Callable[[Decimal, Decimal], Any]] = {
    "+": EXACT.add, "-": EXACT.subtract, "*": EXACT.multiply,
    "%": lambda a, b: EXACT.remainder(a, b) if b else Decimal("NaN"),
    "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


@given(st.sampled_from(sorted(BINARY)), pairs())
def test_an_operator_is_exact_or_an_error(
    symbol: str, drawn: tuple[tuple[int, int], tuple[int, int], list[tuple[Value, Value]]]
) -> None:
    left, right, rows = drawn
    if symbol == "*" and left[1] + right[1] > 38:
        return
    name = stored({"a": (left, [a for a, _ in rows]), "b": (right, [b for _, b in rows])})
    type = result_type(symbol, left, right) if symbol in "+-*%" else ""
    assert answer(f"SELECT a {symbol} b AS r FROM {name} ORDER BY o") == per_row(rows, BINARY[symbol], type)


def result_type(symbol: str, left: tuple[int, int], right: tuple[int, int]) -> str:
    """DuckDB's, but that two narrow ones become a wide one where they must to be compared at one scale."""
    narrow = max(left[0], right[0]) <= 18
    scale = max(left[1], right[1])
    digits = max(left[0] - left[1], right[0] - right[1]) + scale
    if symbol == "*":
        digits, scale = left[0] + right[0], left[1] + right[1]
        narrow = narrow and scale <= 18
    elif symbol != "%":
        narrow = narrow and digits <= 18
        digits += 1
    return f"DECIMAL({min(digits, 18 if narrow else 38)},{scale})"


@pytest.mark.parametrize("symbol", ["+", "-", "*", "%"])
def test_the_type_of_an_operator_is_the_documented_one(symbol: str) -> None:
    for left, right in itertools.product(TYPES, TYPES):
        if symbol == "*" and left[1] + right[1] > 38:
            continue
        a, b = (f"CAST(NULL AS DECIMAL({p},{s}))" for p, s in (left, right))
        wanted = result_type(symbol, left, right)
        made = database().sql(f"SELECT x {symbol} y FROM (SELECT {a} AS x, {b} AS y)")
        assert str(made.types[0]) == wanted
        if symbol in "+-*" and "18" not in wanted:
            typed = duckdb.sql(f"SELECT typeof({a} {symbol} {b})").fetchall()
            assert typed == [(wanted,)], (left, right)


UNARY: dict[str, Callable[[Decimal], Decimal]] = {
    "-a": EXACT.minus, "abs(a)": EXACT.abs,
    "floor(a)": lambda a: a.to_integral_value(ROUND_FLOOR, EXACT),
    "ceil(a)": lambda a: a.to_integral_value(ROUND_CEILING, EXACT),
    "trunc(a)": lambda a: a.to_integral_value(ROUND_DOWN, EXACT),
    "round(a)": lambda a: a.to_integral_value(ROUND_HALF_UP, EXACT),
    "sign(a)": lambda a: Decimal((a > 0) - (a < 0)),
    **{
        f"round(a, {n})": lambda a, n=n: a.quantize(Decimal(1).scaleb(-n), ROUND_HALF_UP, EXACT)
        for n in (-37, -3, 0, 1, 5, 40)
    },
}  # fmt: skip


@given(st.sampled_from(sorted(UNARY)), columns(1))
def test_a_function_of_one_number_is_exact_or_an_error(
    expression: str, drawn: tuple[tuple[int, int], list[Value]]
) -> None:
    (precision, scale), values = drawn
    name = stored({"a": ((precision, scale), values)})
    whole = f"DECIMAL({min(38 if precision > 18 else 18, precision - scale + 1)},0)"
    type = whole if expression.startswith(("floor", "ceil", "trunc", "round(a)")) else f"DECIMAL({precision},{scale})"
    assert str(database().sql(f"SELECT {expression} FROM {name} WHERE o < 0").types[0]) == type
    found = answer(f"SELECT {expression} FROM {name} ORDER BY o")
    assert found == per_row([(v,) for v in values], UNARY[expression], type)


@given(columns(1), st.sampled_from(TYPES))
def test_a_cast_to_another_decimal_rounds_half_away_or_is_an_error(
    drawn: tuple[tuple[int, int], list[Value]], target: tuple[int, int]
) -> None:
    type, values = drawn
    name = stored({"a": (type, values)})
    sql = f"DECIMAL({target[0]},{target[1]})"

    def model(value: Decimal) -> Decimal:
        return value.quantize(Decimal(1).scaleb(-target[1]), ROUND_HALF_UP, EXACT)

    assert answer(f"SELECT CAST(a AS {sql}) FROM {name} ORDER BY o") == per_row([(v,) for v in values], model, sql)
    tried = answer(f"SELECT TRY_CAST(a AS {sql}) FROM {name} ORDER BY o")
    assert tried == [(None if v is None or not fits(model(v), *target) else model(v),) for v in values]
    text = answer(f"SELECT TRY_CAST(CAST(a AS VARCHAR) AS {sql}) FROM {name} ORDER BY o")
    assert text == tried


@given(columns(1))
def test_casts_to_and_from_other_types(drawn: tuple[tuple[int, int], list[Value]]) -> None:
    (precision, scale), values = drawn
    name = stored({"a": ((precision, scale), values)})
    query = f"SELECT CAST(a AS DOUBLE), CAST(a AS VARCHAR), CAST(a AS BOOLEAN), TRY_CAST(a AS BIGINT) FROM {name}"
    for value, row in zip(values, answer(query + " ORDER BY o") or [], strict=True):
        if value is None:
            assert row == (None,) * 4
            continue
        whole = int(value.to_integral_value(ROUND_HALF_UP, EXACT))
        assert row[1:] == (f"{value:f}", value != 0, whole if -(2**63) <= whole < 2**63 else None)
        exact = float(Fraction(value))
        assert row[0] == exact if precision > 18 else math.isclose(row[0], exact, rel_tol=1e-15)


@given(columns())
def test_aggregates_are_those_of_python(drawn: tuple[tuple[int, int], list[Value]]) -> None:
    (precision, scale), values = drawn
    name = stored({"a": ((precision, scale), values)})
    present = [v for v in values if v is not None]
    query = f"SELECT {{}} FROM {name}"
    total = functools.reduce(EXACT.add, present, Decimal(0)) if present else None
    wanted = None if total is not None and not fits(total, 38, scale) else [(total,)]
    assert answer(query.format("sum(a)")) == wanted
    assert str(database().sql(query.format("max(a)")).types[0]) == f"DECIMAL({precision},{scale})"
    assert answer(query.format("min(a), max(a), count(a), count(DISTINCT a)")) == [
        (min(present, default=None), max(present, default=None), len(present), len(set(present)))
    ]
    ((average,),) = answer(query.format("avg(a)")) or []
    if total is None:
        assert average is None
    else:
        assert math.isclose(average, float(Fraction(total) / len(present)), rel_tol=1e-14)
    grouped = answer(f"SELECT o % 3, sum(a), min(a) FROM {name} GROUP BY 1 ORDER BY 1")
    groups: dict[int, list[Decimal]] = {}
    for o, value in enumerate(values):
        groups.setdefault(o % 3, []).extend([] if value is None else [value])
    sums = {g: functools.reduce(EXACT.add, vs, Decimal(0)) if vs else None for g, vs in groups.items()}
    if all(s is None or fits(s, 38, scale) for s in sums.values()):
        assert grouped == [(g, sums[g], min(vs, default=None)) for g, vs in sorted(groups.items())]
    else:
        assert grouped is None


@given(columns(1))
def test_order_groups_windows_and_sets(drawn: tuple[tuple[int, int], list[Value]]) -> None:
    type, values = drawn
    name = stored({"a": (type, values)})
    order = sorted((v is None, v if v is not None else 0, o) for o, v in enumerate(values))
    assert answer(f"SELECT o FROM {name} ORDER BY a NULLS LAST, o") == [(o,) for *_, o in order]
    assert answer(f"SELECT o FROM {name} ORDER BY a NULLS LAST, o LIMIT 3") == [(o,) for *_, o in order[:3]]
    distinct = answer(f"SELECT DISTINCT a FROM {name}")
    assert distinct is not None
    assert sorted(map(str, distinct)) == sorted(str((v,)) for v in set(values))
    counted = answer(f"SELECT a, count(*) FROM {name} GROUP BY a")
    assert counted is not None
    assert dict(counted) == {v: values.count(v) for v in values}
    ranked = answer(f"SELECT o, max(a) OVER (ORDER BY o ROWS 1 PRECEDING) FROM {name} ORDER BY o")
    assert ranked == [
        (o, max((v for v in values[max(0, o - 1) : o + 1] if v is not None), default=None)) for o in range(len(values))
    ]
    first = next((v for v in values if v is not None), None)
    if first is not None:
        shown = f"CAST('{first:f}' AS DECIMAL({type[0]},{type[1]}))"
        equal = [(o,) for o, v in enumerate(values) if v == first]
        for condition in (f"a = {shown}", f"a IN ({shown}, NULL)", f"a BETWEEN {shown} AND {shown}"):
            assert answer(f"SELECT o FROM {name} WHERE {condition} ORDER BY o") == equal
        assert database().sql(f"SELECT o FROM {name} WHERE a = ? ORDER BY o", [first]).fetchall() == equal


@given(pairs())
def test_joins_across_scales_meet_where_the_values_are_equal(
    drawn: tuple[tuple[int, int], tuple[int, int], list[tuple[Value, Value]]],
) -> None:
    left, right, rows = drawn
    a = stored({"a": (left, [x for x, _ in rows])})
    b = stored({"b": (right, [y for _, y in rows])})
    found = answer(f"SELECT x.o, y.o FROM {a} x JOIN {b} y ON x.a = y.b ORDER BY 1, 2")
    assert found == [
        (i, j)
        for (i, (x, _)), (j, (_, y)) in itertools.product(enumerate(rows), enumerate(rows))
        if x is not None and x == y
    ]


def test_many_rows_agree_with_duckdb() -> None:
    rows = [
        (o, None if o % 11 == 0 else scaled((o * 7919**9) % (10**34) * (-1) ** o, 4), scaled(o * o - 500, 2))
        for o in range(3_000)
    ]
    table = pa.table(
        {
            "o": pa.array([r[0] for r in rows], pa.int64()),
            "x": pa.array([r[1] for r in rows], pa.decimal128(38, 4)),
            "d": pa.array([r[2] for r in rows], pa.decimal128(12, 2)),
        }
    )
    db = database()
    db.create_topic("many", {"o": "BIGINT", "x": "DECIMAL(38,4)", "d": "DECIMAL(12,2)"}).append_batch(table)
    oracle = duckdb.connect()
    oracle.register("many", table)
    for query in (
        "SELECT o % 7 AS g, sum(x), sum(d), min(x), max(x), count(x) FROM many GROUP BY g ORDER BY g",
        "SELECT o, x + d, x - d, x % d FROM many WHERE d <> 0 ORDER BY o",
        "SELECT o, sum(x) OVER (PARTITION BY o % 5 ORDER BY o ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM many "
        "ORDER BY o",
        "SELECT o, sum(d) OVER (ORDER BY o) FROM many ORDER BY o",
        "SELECT count(*) FROM many WHERE x > d * 1000000000000000000000000000",
        "SELECT quantile_disc(x, 0.25), mode(o % 3), first(x ORDER BY o DESC) FROM many",
        "SELECT CASE WHEN x > 0 THEN x ELSE d END, coalesce(x, d, 1) FROM many ORDER BY o",
        "SELECT sum(o * d), sum(o + d) FROM many",
        "SELECT sum(DISTINCT x), sum(x) FILTER (WHERE d > 0) FROM many",
        "SELECT o FROM many ORDER BY x DESC NULLS LAST, o LIMIT 20",
        "SELECT count(*) FROM (SELECT x FROM many UNION SELECT d FROM many)",
        "SELECT o % 10, max(x) FROM many GROUP BY 1 HAVING sum(d) > 100000 ORDER BY 2",
        "SELECT o % 4, sum(d), count(*), sum(d * d) FROM many WHERE d > 10.5 GROUP BY 1 ORDER BY 1",
        "SELECT o % 4, sum(x), count(x), min(x) FROM many WHERE d BETWEEN 5 AND 700 GROUP BY 1 ORDER BY 1",
    ):
        executions = ["interpreted", "compiled"] if query.startswith("SELECT o % 4") else EXECUTIONS
        assert answer(query, executions) == oracle.execute(query).fetchall(), query


def test_a_range_frame_counts_by_wide_values() -> None:
    values = [scaled(n * 10**20 + n, 2) for n in (1, 2, 2, 4, 7, 8, 12)]
    name = stored({"a": ((38, 2), [*values, None])})
    step = Decimal(2 * 10**18)
    wanted = [(sum(v - step <= w <= v for w in values),) for v in values] + [(1,)]
    query = f"SELECT count(*) OVER (ORDER BY a RANGE {step} PRECEDING) FROM {name} ORDER BY o"
    assert answer(query) == wanted


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT CAST(99999999999999999999999999999999999999 AS DECIMAL(38,0)) + x FROM (SELECT 1 AS x)", "99999 . 1"),
        ("SELECT CAST('1e37' AS DECIMAL(38,0)) * x FROM (SELECT 10 AS x)", "overflow"),
        ("SELECT CAST(x AS DECIMAL(38,30)) FROM (SELECT 123456789.5 AS x)", "123456789.5"),
        ("SELECT CAST(x AS INTEGER) FROM (SELECT CAST('12345678901234567890' AS DECIMAL(38,0)) AS x)", "1234567890123"),
        ("SELECT CAST('9e99' AS DECIMAL(38,0))", "9e99"),
        ("SELECT 123456789012345678901234567890123456789", "38 digits"),
        ("SELECT -123456789012345678901234567890123456789", "38 digits"),
        ("SELECT x * x FROM (SELECT CAST(1 AS DECIMAL(38,20)) AS x)", "scale"),
        ("SELECT x % 0 FROM (SELECT CAST(1 AS DECIMAL(38,20)) AS x)", "division by zero"),
        ("SELECT sum(x) FROM (VALUES (9223372036854775807), (1)) t(x)", "DECIMAL"),
    ],
)
def test_what_does_not_fit_is_named(query: str, words: str) -> None:
    with pytest.raises(eventdb.EventDBError, match=words.replace(" . ", ".*")):
        database().sql(query).fetchall()
