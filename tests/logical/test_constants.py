"""Values known at plan time."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.logical.constants import cast_literal, fold_call, parse_date_days, parse_timestamp_us
from eventdb.logical.expressions import Call, IntervalValue, Literal
from eventdb.schema import BIGINT, BOOLEAN, DATE, DOUBLE, INTEGER, TIMESTAMP, TINYINT, VARCHAR, DataType, decimal_type
from eventdb.sql.intervals import exact_us, parse_interval
from eventdb.values import date_to_days, datetime_to_us


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01", 0),
        ("1970-01-01 00:00:01.5", 1_500_000),
        ("1970-01-01T00:01", 60_000_000),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01 02:00:00+02", 0),
        ("1969-12-31 22:30:00-01:30", 0),
        (" 1970-01-01 ", 0),
        ("1970-13-01", None),
        ("1970-01-01 25:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_timestamps_are_read_in_iso_forms_as_utc(text: str, expected: int | None) -> None:
    assert parse_timestamp_us(text) == expected


@given(st.datetimes(min_value=dt.datetime(1, 1, 1), max_value=dt.datetime(9999, 12, 31)))
def test_every_timestamp_survives_text(moment: dt.datetime) -> None:
    us = datetime_to_us(moment)
    text = cast_literal(Literal(TIMESTAMP, us), VARCHAR)
    assert text is not None
    assert cast_literal(text, TIMESTAMP) == Literal(TIMESTAMP, us)
    assert parse_date_days(moment.date().isoformat()) == date_to_days(moment.date())


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        ("12", VARCHAR, INTEGER, 12),
        (" 12 ", VARCHAR, INTEGER, 12),
        ("1_2", VARCHAR, INTEGER, None),
        ("300", VARCHAR, TINYINT, None),
        ("1e3", VARCHAR, DOUBLE, 1000.0),
        ("1.005", VARCHAR, decimal_type(5, 2), 101),
        ("Yes", VARCHAR, BOOLEAN, True),
        ("maybe", VARCHAR, BOOLEAN, None),
        (2.5, DOUBLE, INTEGER, 2),
        (3.5, DOUBLE, INTEGER, 4),
        (float("nan"), DOUBLE, INTEGER, None),
        (25, decimal_type(2, 1), INTEGER, 3),
        (-25, decimal_type(2, 1), INTEGER, -3),
        (150, decimal_type(5, 2), VARCHAR, "1.50"),
        (1000, INTEGER, decimal_type(4, 2), None),
        (1, DATE, TIMESTAMP, 86_400_000_000),
        (-1, TIMESTAMP, DATE, -1),
        (True, BOOLEAN, VARCHAR, "true"),
        (True, BOOLEAN, INTEGER, 1),
        (1.0, DOUBLE, VARCHAR, "1.0"),
    ],
)
def test_casts_of_literals(value: object, source: DataType, target: DataType, expected: object) -> None:
    found = cast_literal(Literal(source, value), target)
    assert (None if found is None else found.value) == expected


@pytest.mark.parametrize(
    ("function", "args", "type", "expected"),
    [
        ("add", [1, 2], INTEGER, 3),
        ("divide", [-7, 2], INTEGER, -3),
        ("modulo", [-7, 2], INTEGER, -1),
        ("divide", [1, 0], INTEGER, None),
        ("add", [2**31 - 1, 1], INTEGER, None),
        ("negate", [-(2**63)], BIGINT, None),
        ("multiply", [2**62, 2], BIGINT, None),
    ],
)
def test_integer_operators_fold_as_they_execute(
    function: str, args: list[int], type: DataType, expected: object
) -> None:
    found = fold_call(Call(type, function, tuple(Literal(type, arg) for arg in args)))
    assert (found.value if isinstance(found, Literal) else None) == expected


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6).filter(bool))
def test_quotient_and_remainder_agree(a: int, b: int) -> None:
    parts = [fold_call(Call(BIGINT, name, (Literal(BIGINT, a), Literal(BIGINT, b)))) for name in ("divide", "modulo")]
    quotient, remainder = (part.value for part in parts if isinstance(part, Literal))
    assert quotient * b + remainder == a
    assert abs(remainder) < abs(b)
    assert quotient == int(Decimal(a) / Decimal(b))


@pytest.mark.parametrize(
    ("text", "months", "us"),
    [
        ("5 minutes", 0, 300_000_000),
        ("5m", 0, 300_000_000),
        ("1h30m", 0, 5_400_000_000),
        ("1 day 02:30:00", 0, 95_400_000_000),
        ("-1.5 hours", 0, -5_400_000_000),
        ("1 year 2 mons", 14, 0),
        ("250ms", 0, 250_000),
        ("1 week", 0, 604_800_000_000),
    ],
)
def test_intervals_are_read_in_every_spelling(text: str, months: int, us: int) -> None:
    assert parse_interval(text) == IntervalValue(months, us)


@pytest.mark.parametrize("text", ["", "5", "minutes", "5 lightyears", "1.5 months", "9" * 30 + " days", "5 5"])
def test_what_is_no_interval_is_none(text: str) -> None:
    assert parse_interval(text) is None
    assert exact_us(text) is None


@given(st.integers(-(10**15), 10**15))
def test_an_interval_reads_back_from_its_text(us: int) -> None:
    assert parse_interval(str(IntervalValue(0, us))) == IntervalValue(0, us)
