"""CAST and TRY_CAST between every pair of types."""

from __future__ import annotations

import datetime as dt
import math
import re
import struct
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Cast, IntervalValue, Literal
from eventdb.logical.functions import cast_may_fail, castable
from eventdb.schema import INTEGER_RANGES, INTERVAL, NULL, VARCHAR, DataType
from eventdb.values import datetime_to_us

from .building import batch_of, col, lit, type_of, value_of

FAILED = object()
ALL_TYPES = [
    type_of(t)
    for t in ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(5,2)", "DECIMAL(18,0)",
              "DECIMAL(18,18)", "VARCHAR", "BLOB", "DATE", "TIMESTAMP")
]  # fmt: skip


def cast(source: str | DataType, value: Any, target: str | DataType) -> Any:
    """The cast value, FAILED where CAST raises; checks that TRY_CAST is NULL exactly there."""
    literal, type = Literal(type_of(source), value), type_of(target)
    safe = value_of(Cast(type, literal, safe=True))[0]
    message = ""
    try:
        result = value_of(Cast(type, literal))[0]
    except EvaluationError as error:
        message = str(error)
    if message:
        assert str(type) in message
        assert "TRY_CAST" in message
        assert safe is None
        assert cast_may_fail(literal.type, type), "the registry says this cast cannot fail"
        return FAILED
    assert safe == result or (safe != safe and result != result)
    return result


def samples(type: DataType) -> st.SearchStrategy[Any]:
    if type.is_integer:
        low, high = INTEGER_RANGES[type.name]
        return st.one_of(st.sampled_from([low, high, 0, 1, -1]), st.integers(low, high))
    if type.name == "DECIMAL":
        limit = 10**type.precision - 1
        return st.one_of(st.sampled_from([limit, -limit, 0, 5, 50, -50]), st.integers(-limit, limit))
    if type.is_float:
        wide = st.one_of(
            st.floats(width=32 if type.name == "FLOAT" else 64),
            st.sampled_from([0.5, 1.5, 2.5, -0.5, 127.5, 128.0, 2.0**31, 2.0**53, 2.0**63, -(2.0**63)]),
        )
        return wide
    return {
        "BOOLEAN": st.booleans(),
        "VARCHAR": st.one_of(
            st.sampled_from(["1", " -7 ", "1.5", "1e3", "inf", "nan", "", "true", "No", "2024-02-29", "2024-02-30", "x",
                             "2024-01-01T10:00Z", "99999999999999999999", "0.005", "1_0", "٣"]),
            st.integers(-(2**70), 2**70).map(str), st.floats().map(repr),
        ),
        "BLOB": st.sampled_from([b"", b"ok", b"\xff"]),
        "DATE": st.integers(-719_162, 2_932_896),
        "TIMESTAMP": st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    }[type.name]  # fmt: skip


def rounded(value: float, how: str) -> int:
    return round(value) if how == "even" else int(Decimal(value).to_integral_value(ROUND_HALF_UP))


def as_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def expected_number(source: DataType, value: Any, target: DataType) -> Any:
    """Casts between numbers and BOOLEAN, by exact arithmetic."""
    if target.name == "BOOLEAN":
        return value != 0
    if target.is_float:
        exact = value / 10**source.scale if source.name == "DECIMAL" else float(value)
        result = as_float32(exact) if target.name == "FLOAT" else exact
        return FAILED if math.isinf(result) and math.isfinite(exact) else result
    if source.is_float and not math.isfinite(value):
        return FAILED
    if target.name == "DECIMAL":
        if source.is_float:
            scaled = (
                rounded(value * 10.0**target.scale, "away") if math.isfinite(value * 10.0**target.scale) else 10**30
            )
        else:
            scaled = int(Decimal(int(value)).scaleb(target.scale - source.scale).to_integral_value(ROUND_HALF_UP))
        return scaled if abs(scaled) < 10**target.precision else FAILED
    if source.is_float:
        whole = rounded(value, "even")
    else:
        whole = int(Decimal(int(value)).scaleb(-source.scale).to_integral_value(ROUND_HALF_UP))
    low, high = INTEGER_RANGES[target.name]
    return whole if low <= whole <= high else FAILED


NUMBERS = [t for t in ALL_TYPES if t.is_numeric or t.name == "BOOLEAN"]


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_numbers_cast_exactly_or_fail(data: st.DataObject, source: DataType, target: DataType) -> None:
    value = data.draw(samples(source))
    found, expected = cast(source, value, target), expected_number(source, value, target)
    if isinstance(expected, float) and isinstance(found, float):
        assert found == expected or (math.isnan(found) and math.isnan(expected))
    else:
        assert found is expected or found == expected


@given(st.data(), st.sampled_from(ALL_TYPES), st.sampled_from(ALL_TYPES))
def test_every_cast_the_registry_allows_gives_a_value_null_or_a_typed_error(
    data: st.DataObject, source: DataType, target: DataType
) -> None:
    if castable(source, target):
        values = data.draw(st.lists(samples(source), max_size=4))
        for value in values:
            cast(source, value, target)
        rows = [None, *values]
        batch = batch_of({"a": (source, rows)})
        assert value_of(Cast(target, col(batch, "a"), safe=True), batch)[0] is None


@given(st.data(), st.sampled_from([t for t in ALL_TYPES if t.name != "BLOB"]))
def test_text_of_a_value_casts_back_to_the_value(data: st.DataObject, type: DataType) -> None:
    value = data.draw(samples(type))
    back = cast(VARCHAR, cast(type, value, VARCHAR), type)
    assert back == value or (back != back and value != value)


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        ("BOOLEAN", True, "true"), ("INTEGER", -5, "-5"), ("DOUBLE", 1e16, "1e+16"), ("DOUBLE", 0.1, "0.1"),
        ("FLOAT", 0.1, "0.1"), ("DOUBLE", -0.0, "-0.0"), ("DOUBLE", math.inf, "inf"), ("DOUBLE", math.nan, "nan"),
        ("DECIMAL(5,2)", -5, "-0.05"), ("DECIMAL(5,2)", 12300, "123.00"), ("DECIMAL(5,0)", 7, "7"),
        ("DATE", 0, "1970-01-01"), ("DATE", -719_162, "0001-01-01"), ("TIMESTAMP", 0, "1970-01-01 00:00:00"),
        ("TIMESTAMP", 1_500_000, "1970-01-01 00:00:01.5"), ("TIMESTAMP", -1, "1969-12-31 23:59:59.999999"),
        ("BLOB", "é".encode(), "é"),
    ],
)  # fmt: skip
def test_values_have_one_spelling(type: str, value: Any, text: str) -> None:
    assert cast(type, value, VARCHAR) == text


def test_intervals_are_written_as_hours() -> None:
    for us, text in ((0, "0:00:00"), (-90_061_500_000, "-25:01:01.5"), (3_600_000_000_000, "1000:00:00")):
        assert value_of(Cast(VARCHAR, Literal(INTERVAL, IntervalValue(0, us)))) == [text]


def us(*fields: int) -> int:
    return datetime_to_us(dt.datetime(*fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "type", "expected"),
    [
        ("1e3", "INTEGER", FAILED), ("+12", "INTEGER", 12), ("1_000", "BIGINT", FAILED), ("0x10", "BIGINT", FAILED),
        ("٣", "INTEGER", FAILED), ("", "INTEGER", FAILED), ("128", "TINYINT", FAILED), ("1.", "DOUBLE", 1.0),
        (".5e-1", "DOUBLE", 0.05), ("Infinity", "DOUBLE", math.inf),
        ("-INF", "DOUBLE", -math.inf), ("1e400", "DOUBLE", FAILED),
        ("1e39", "FLOAT", FAILED), ("1e400", "DECIMAL(18,2)", FAILED), ("1e-999999999", "DECIMAL(18,2)", 0),
        ("0.005", "DECIMAL(5,2)", 1), ("-0.005", "DECIMAL(5,2)", -1), ("0.00499999999999999999999", "DECIMAL(5,2)", 0),
        ("999.995", "DECIMAL(5,2)", FAILED), ("1e2", "DECIMAL(5,2)", 10000), ("nan", "DECIMAL(5,2)", FAILED),
        ("0." + "0" * 60 + "1", "DECIMAL(5,2)", 0), ("12345678901234567890." + "0" * 90, "DECIMAL(18,0)", FAILED),
        (" YES ", "BOOLEAN", True), ("off", "BOOLEAN", False), ("2", "BOOLEAN", FAILED),
        ("2024-02-29", "DATE", 19_782), ("2023-02-29", "DATE", FAILED),
        ("2024-1-5", "DATE", 19_727), ("24-01-05", "DATE", FAILED),
        ("2024-02-29", "TIMESTAMP", us(2024, 2, 29)), ("2024-02-29 10:11", "TIMESTAMP", us(2024, 2, 29, 10, 11)),
        ("2024-02-29T10:11:12.5Z", "TIMESTAMP", us(2024, 2, 29, 10, 11, 12, 500_000)),
        ("2024-02-29 10:00:00+02:30", "TIMESTAMP", us(2024, 2, 29, 7, 30)),
        ("2024-02-29 10:00:00-01", "TIMESTAMP", us(2024, 2, 29, 11)),
        ("2024-02-29 24:00", "TIMESTAMP", FAILED), ("2024-02-29T", "TIMESTAMP", FAILED), ("now", "TIMESTAMP", FAILED),
        ("0001-01-01 00:00+01", "TIMESTAMP", FAILED), ("9999-12-31 23:59:59.9999999", "TIMESTAMP", FAILED),
        ("é", "BLOB", "é".encode()),
    ],
)  # fmt: skip
def test_text_is_read_strictly(text: str, type: str, expected: Any) -> None:
    assert cast(VARCHAR, text, type) == expected
    assert cast(VARCHAR, f"  {text}\t", type) == expected or type == "BLOB"


@pytest.mark.parametrize(
    ("scaled", "target", "expected"),
    [(150, "INTEGER", 2), (-150, "INTEGER", -2), (149, "INTEGER", 1), (-149, "INTEGER", -1), (250, "DECIMAL(3,0)", 3),
     (5, "DECIMAL(3,1)", 1), (-5, "DECIMAL(3,1)", -1), (4, "DECIMAL(3,1)", 0), (123, "DECIMAL(9,4)", 12300)],
)  # fmt: skip
def test_decimals_lose_digits_by_rounding_halves_away_from_zero(scaled: int, target: str, expected: int) -> None:
    assert cast("DECIMAL(5,2)", scaled, target) == expected


def test_dates_and_times_convert_by_floor() -> None:
    assert cast("TIMESTAMP", -1, "DATE") == -1
    assert cast("DATE", -1, "TIMESTAMP") == -86_400_000_000


def test_a_failed_cast_names_value_type_and_range() -> None:
    with pytest.raises(EvaluationError, match=r"cannot cast INTEGER 300 to TINYINT.*-128 and 127"):
        value_of(Cast(type_of("TINYINT"), lit("INTEGER", 300)))
    for text, target, reason in [
        ("x", "INTEGER", "'x' is not a number"),
        ("", "DECIMAL(3,1)", "'' is not a number"),
        ("x", "DOUBLE", "'x' is not a number"),
        ("1.5", "INTEGER", "'1.5' is not a whole number"),
        ("300", "TINYINT", "it must lie between -128 and 127"),
    ]:
        with pytest.raises(EvaluationError, match=f"{re.escape(target)}: {reason}"):
            value_of(Cast(type_of(target), lit("VARCHAR", text)))
    with pytest.raises(EvaluationError, match=r"cannot cast VARCHAR 'abc' to DATE: expected YYYY-MM-DD"):
        value_of(Cast(type_of("DATE"), lit("VARCHAR", "abc")))


def test_null_rows_and_the_null_type_cast_to_null() -> None:
    batch = batch_of({"a": ("INTEGER", [None, 5])})
    batch.columns[0].values[0] = 1_000_000  # what lies under a NULL must not matter
    assert value_of(Cast(type_of("TINYINT"), col(batch, "a")), batch) == [None, 5]
    for type in ALL_TYPES:
        assert value_of(Cast(type, Literal(NULL, None))) == [None]
