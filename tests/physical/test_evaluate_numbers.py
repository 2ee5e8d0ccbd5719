"""Arithmetic against Python's exact integers, and every error by its value."""

from __future__ import annotations

import math
import warnings
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import EvaluationError
from eventdb.logical.expressions import IntervalValue
from eventdb.logical.functions import SCALARS
from eventdb.physical.evaluate import KERNELS, LAZY
from eventdb.schema import INTEGER_RANGES
from eventdb.wide_decimals import unpack

from .building import batch_of, call, col, lit, type_of, value_of

INTEGERS = tuple(INTEGER_RANGES)
INF, NAN = math.inf, math.nan


def test_every_scalar_function_of_the_registry_has_a_kernel_and_none_is_unknown() -> None:
    assert set(KERNELS) | set(LAZY) == set(SCALARS)
    assert not set(KERNELS) & set(LAZY)


def edge_integers(type: str) -> st.SearchStrategy[int]:
    low, high = INTEGER_RANGES[type]
    near = [low, low + 1, low // 2, -2, -1, 0, 1, 2, high // 2, high - 1, high]
    return st.one_of(st.sampled_from(near), st.integers(low, high))


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


MODEL: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": truncated,
    "modulo": lambda a, b: a - truncated(a, b) * b,
}


def expected_integer(name: str, type: str, a: int | None, b: int | None) -> int | str | None:
    if a is None or b is None:
        return None
    if b == 0 and name in ("divide", "modulo"):
        return "error"
    result: int = MODEL[name](a, b)
    low, high = INTEGER_RANGES[type]
    return result if low <= result <= high else "error"


@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from(list(MODEL)), st.booleans())
def test_integer_arithmetic_is_exact_or_an_error(data: st.DataObject, type: str, name: str, constant: bool) -> None:
    values = st.one_of(st.none(), edge_integers(type))
    left = data.draw(st.lists(values, min_size=1, max_size=6))
    right = data.draw(st.lists(values, min_size=len(left), max_size=len(left)))
    if constant:
        right = [right[0]] * len(left)
    batch = batch_of({"a": (type, left), "b": (type, right)})
    second = lit(type, right[0]) if constant else col(batch, "b")
    expected = [expected_integer(name, type, a, b) for a, b in zip(left, right, strict=True)]
    expression = call(name, col(batch, "a"), second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "error" in expected:
            with pytest.raises(EvaluationError):
                value_of(expression, batch)
        else:
            assert value_of(expression, batch) == expected


@pytest.mark.parametrize("type", INTEGERS)
@pytest.mark.parametrize("name", list(MODEL))
def test_every_pair_of_edge_values_is_exact_or_an_error(type: str, name: str) -> None:
    low, high = INTEGER_RANGES[type]
    edges = [low, low + 1, low // 2, -7, -2, -1, 0, 1, 2, 7, high // 2, high - 1, high]
    pairs = [(a, b) for a in edges for b in edges]
    expected = [expected_integer(name, type, a, b) for a, b in pairs]
    fine = [(pair, e) for pair, e in zip(pairs, expected, strict=True) if e != "error"]
    batch = batch_of({"a": (type, [a for (a, _), _ in fine]), "b": (type, [b for (_, b), _ in fine])})
    assert value_of(call(name, col(batch, "a"), col(batch, "b")), batch) == [e for _, e in fine]
    for (a, b), e in zip(pairs, expected, strict=True):
        if e == "error":
            with pytest.raises(EvaluationError):
                value_of(call(name, lit(type, a), lit(type, b)))


@given(st.lists(st.tuples(edge_integers("BIGINT"), edge_integers("BIGINT")), min_size=1, max_size=40))
def test_products_near_the_limit_are_judged_one_by_one(pairs: list[tuple[int, int]]) -> None:
    low, high = INTEGER_RANGES["BIGINT"]
    fits = [(a, b) for a, b in pairs if low <= a * b <= high]
    if fits:
        batch = batch_of({"a": ("BIGINT", [a for a, _ in fits]), "b": ("BIGINT", [b for _, b in fits])})
        assert value_of(call("multiply", col(batch, "a"), col(batch, "b")), batch) == [a * b for a, b in fits]


def test_an_overflow_names_both_values_and_the_range() -> None:
    batch = batch_of({"a": ("INTEGER", [1, 2147483647])})
    with pytest.raises(EvaluationError, match=r"INTEGER overflow: 2147483647 \+ 1 .*-2147483648 to 2147483647"):
        value_of(call("add", col(batch, "a"), lit("INTEGER", 1)), batch)


def test_a_null_row_never_raises() -> None:
    batch = batch_of({"a": ("BIGINT", [None, 4]), "b": ("BIGINT", [0, 2])})
    a, b = col(batch, "a"), col(batch, "b")
    assert value_of(call("divide", a, b), batch) == [None, 2]
    assert value_of(call("modulo", a, b), batch) == [None, 0]


@pytest.mark.parametrize("type", ["INTEGER", "DOUBLE", "DECIMAL(5,2)"])
@pytest.mark.parametrize("name", ["divide", "modulo"])
def test_a_zero_divisor_is_an_error_for_every_number_type(type: str, name: str) -> None:
    batch = batch_of({"a": (type, [1, 7]), "b": (type, [1, 0])})
    with pytest.raises(EvaluationError, match="division by zero"):
        value_of(call(name, col(batch, "a"), col(batch, "b")), batch)


@pytest.mark.parametrize("type", INTEGERS)
def test_the_least_integer_has_no_opposite(type: str) -> None:
    low, high = INTEGER_RANGES[type]
    for name in ("negate", "abs"):
        with pytest.raises(EvaluationError, match=str(low)):
            value_of(call(name, lit(type, low)))
    assert value_of(call("negate", lit(type, high))) == [-high]
    assert value_of(call("abs", lit(type, low + 1))) == [high]


@given(st.sampled_from(["add", "subtract", "multiply"]), st.data())
def test_decimal_arithmetic_is_exact_or_an_error(name: str, data: st.DataObject) -> None:
    left_type, right_type = (
        type_of(data.draw(st.sampled_from(["DECIMAL(9,2)", "DECIMAL(18,4)", "DECIMAL(18,18)"]))),
        None,
    )
    right_type = left_type if name != "multiply" else type_of("DECIMAL(9,3)")
    a = data.draw(st.integers(-(10**left_type.precision) + 1, 10**left_type.precision - 1))
    b = data.draw(st.integers(-(10**right_type.precision) + 1, 10**right_type.precision - 1))
    expression = call(name, lit(left_type, a), lit(right_type, b))
    with localcontext() as context:
        context.prec = 60
        exact = MODEL[name](Decimal(a).scaleb(-left_type.scale), Decimal(b).scaleb(-right_type.scale))
        scaled = int(exact.scaleb(expression.type.scale))
    if abs(scaled) >= 10**expression.type.precision:
        with pytest.raises(EvaluationError, match="overflow"):
            value_of(expression)
    else:
        (found,) = value_of(expression)
        assert (unpack(found) if expression.type.is_wide else found) == scaled


def test_float_arithmetic_follows_ieee_without_warnings() -> None:
    batch = batch_of({"x": ("DOUBLE", [1e308, INF, NAN, -0.0, None]), "y": ("DOUBLE", [1e308, -INF, 1.0, 0.0, 1.0])})
    x, y = col(batch, "x"), col(batch, "y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(value_of(call("add", x, y), batch)) == "[inf, nan, nan, 0.0, None]"
        assert str(value_of(call("multiply", x, y), batch)) == "[inf, -inf, nan, -0.0, None]"
        assert value_of(call("modulo", lit("DOUBLE", -7.5), lit("DOUBLE", 2.0))) == [-1.5]


def test_float_stays_float() -> None:
    assert value_of(call("add", lit("FLOAT", 0.1), lit("FLOAT", 0.2))) == [pytest.approx(0.3, abs=1e-7)]
    assert call("add", lit("FLOAT", 0.1), lit("FLOAT", 0.2)).type == type_of("FLOAT")


def test_intervals_and_times_add_up() -> None:
    hour = lit_interval(3_600_000_000)
    assert value_of(call("add", lit("TIMESTAMP", 5), hour)) == [3_600_000_005]
    assert value_of(call("subtract", lit("TIMESTAMP", 9), lit("TIMESTAMP", 4))) == [5]
    assert value_of(call("subtract", lit("DATE", 9), lit("DATE", 11))) == [-2]
    assert value_of(call("add", lit("DATE", 9), lit("BIGINT", 30))) == [39]
    assert value_of(call("multiply", hour, lit("BIGINT", 3))) == [3 * 3_600_000_000]
    assert value_of(call("multiply", lit_interval(3), lit("DOUBLE", 0.5))) == [2], "halves go to even"
    assert value_of(call("divide", lit_interval(5), lit("DOUBLE", 2.0))) == [2]
    with pytest.raises(EvaluationError, match="DATE overflow"):
        value_of(call("add", lit("DATE", 9), lit("BIGINT", 10**15)))
    with pytest.raises(EvaluationError, match="TIMESTAMP overflow"):
        value_of(call("add", lit("TIMESTAMP", 2**60), lit_interval(2**60)))
    with pytest.raises(EvaluationError, match="no interval"):
        value_of(call("multiply", hour, lit("DOUBLE", NAN)))


def lit_interval(us: int) -> Any:
    from eventdb.logical.expressions import Literal
    from eventdb.schema import INTERVAL

    return Literal(INTERVAL, IntervalValue(0, us))


ROUNDING = {"floor": ROUND_FLOOR, "ceil": ROUND_CEILING, "trunc": ROUND_DOWN, "round": ROUND_HALF_UP}


@given(st.sampled_from(list(ROUNDING)), st.integers(-(10**9) + 1, 10**9 - 1))
def test_decimals_round_to_whole_numbers_like_python(name: str, scaled: int) -> None:
    exact = Decimal(scaled).scaleb(-3).to_integral_value(ROUNDING[name])
    expression = call(name, lit("DECIMAL(9,3)", scaled))
    assert expression.type == type_of("DECIMAL(7,0)")
    assert value_of(expression) == [int(exact)]


@given(st.sampled_from(list(ROUNDING)), st.floats(-1e17, 1e17))
def test_floats_round_to_whole_numbers_like_python(name: str, x: float) -> None:
    assert value_of(call(name, lit("DOUBLE", x))) == [float(Decimal(x).to_integral_value(ROUNDING[name]))]


def test_rounding_a_half_goes_away_from_zero_and_almost_a_half_does_not() -> None:
    batch = batch_of({"x": ("DOUBLE", [0.5, 1.5, 2.5, -0.5, -2.5, 0.49999999999999994, INF, NAN, 2.0**53 - 1])})
    shown = str(value_of(call("round", col(batch, "x")), batch))
    assert shown == "[1.0, 2.0, 3.0, -1.0, -3.0, 0.0, inf, nan, 9007199254740991.0]"


@given(st.integers(*INTEGER_RANGES["BIGINT"]), st.integers(-25, 3))
def test_integers_round_to_tens_exactly_or_fail(value: int, places: int) -> None:
    unit = 10 ** max(0, -places)
    exact = int((Decimal(value) / unit).quantize(Decimal(1), ROUND_HALF_UP)) * unit if unit < 10**24 else 0
    expression = call("round", lit("BIGINT", value), lit("BIGINT", places))
    low, high = INTEGER_RANGES["BIGINT"]
    if low <= exact <= high:
        assert value_of(expression) == [exact]
    else:
        with pytest.raises(EvaluationError, match="round"):
            value_of(expression)


def test_rounding_decimals_and_floats_to_places() -> None:
    batch = batch_of({"n": ("BIGINT", [0, 1, 2, -1, 9]), "d": ("DECIMAL(7,2)", [1550, 1555, 1555, 1555, -1555])})
    assert value_of(call("round", col(batch, "d"), col(batch, "n")), batch) == [1600, 1560, 1555, 2000, -1555]
    with pytest.raises(EvaluationError, match="round"):
        value_of(call("round", lit("DECIMAL(2,1)", 99), lit("BIGINT", 0)))
    halves = batch_of({"d": ("DECIMAL(5,1)", [5, -5, 4, -4, 15, -15, 0])})
    assert value_of(call("round", col(halves, "d")), halves) == [1, -1, 0, 0, 2, -2, 0]
    assert value_of(call("round", lit("DOUBLE", 2.345), lit("BIGINT", 1))) == [2.3]
    assert value_of(call("round", lit("DOUBLE", 1234.5), lit("BIGINT", -2))) == [1200.0]
    assert value_of(call("round", lit("DOUBLE", 1e300), lit("BIGINT", 20))) == [1e300]


@pytest.mark.parametrize(
    ("name", "bad"), [("sqrt", -1.0), ("ln", 0.0), ("log10", -2.0), ("log2", 0.0), ("asin", 1.5), ("acos", -1.1)]
)
def test_functions_outside_their_domain_raise_but_not_for_null_or_nan(name: str, bad: float) -> None:
    with pytest.raises(EvaluationError, match=name):
        value_of(call(name, lit("DOUBLE", bad)))
    batch = batch_of({"x": ("DOUBLE", [None, NAN])})
    assert str(value_of(call(name, col(batch, "x")), batch)) == "[None, nan]"


@given(st.floats(allow_nan=False, min_value=-700, max_value=700))
def test_float_functions_agree_with_the_math_library(x: float) -> None:
    for name in ("sin", "cos", "tan", "atan", "exp"):
        assert value_of(call(name, lit("DOUBLE", x))) == [pytest.approx(getattr(math, name)(x), rel=1e-12, abs=1e-12)]
    y = abs(x) + 1e-9
    for name, exact in (("ln", math.log), ("log10", math.log10), ("log2", math.log2), ("sqrt", math.sqrt)):
        assert value_of(call(name, lit("DOUBLE", y))) == [pytest.approx(exact(y), rel=1e-12, abs=1e-12)]
    z = x / 1000
    for name in ("asin", "acos"):
        assert value_of(call(name, lit("DOUBLE", z))) == [pytest.approx(getattr(math, name)(z), rel=1e-12)]
    assert value_of(call("atan2", lit("DOUBLE", x), lit("DOUBLE", y))) == [pytest.approx(math.atan2(x, y))]


def test_power_raises_only_where_it_makes_a_nan() -> None:
    def power(x: float, y: float) -> Any:
        return value_of(call("power", lit("DOUBLE", x), lit("DOUBLE", y)))[0]

    assert power(2.0, 10.0) == 1024.0
    assert power(10.0, 400.0) == INF
    assert math.isnan(power(NAN, 1.0))
    for x, y in ((-8.0, 1 / 3), (0.0, -1.0)):
        with pytest.raises(EvaluationError, match="power"):
            power(x, y)


def test_sign_isnan_isfinite() -> None:
    batch = batch_of({"x": ("DOUBLE", [-2.5, 0.0, NAN, INF, None]), "d": ("DECIMAL(4,2)", [-250, 0, 1, None, 7])})
    assert str(value_of(call("sign", col(batch, "x")), batch)) == "[-1.0, 0.0, nan, 1.0, None]"
    assert value_of(call("sign", col(batch, "d")), batch) == [-100, 0, 100, None, 100]
    assert value_of(call("isnan", col(batch, "x")), batch) == [False, False, True, False, None]
    assert value_of(call("isfinite", col(batch, "x")), batch) == [True, True, False, False, None]


def test_greatest_and_least_skip_null_and_put_nan_on_top() -> None:
    batch = batch_of(
        {
            "x": ("DOUBLE", [1.0, NAN, None, None]),
            "y": ("DOUBLE", [2.0, 2.0, 3.0, None]),
            "s": ("VARCHAR", ["b", None, "z", None]),
            "t": ("VARCHAR", ["a", "ä", "y", None]),
        }
    )
    x, y, s, t = (col(batch, name) for name in "xyst")
    assert str(value_of(call("greatest", x, y), batch)) == "[2.0, nan, 3.0, None]"
    assert value_of(call("least", x, y), batch) == [1.0, 2.0, 3.0, None]
    assert value_of(call("greatest", s, t, lit("VARCHAR", "c")), batch) == ["c", "ä", "z", "c"]
    assert value_of(call("least", s, t), batch) == ["a", "ä", "y", None]
