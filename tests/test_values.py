"""Values and types: durations, sizes, calendars and type names."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from eventdb.errors import UsageError
from eventdb.schema import Field, Schema, decimal_type, parse_type
from eventdb.values import (
    date_to_days,
    datetime_to_us,
    days_to_date,
    parse_duration_us,
    parse_size_bytes,
    us_to_datetime,
)


@given(hs.datetimes(), hs.dates())
def test_times_and_dates_convert_both_ways(at: dt.datetime, day: dt.date) -> None:
    assert us_to_datetime(datetime_to_us(at)) == at
    assert days_to_date(date_to_days(day)) == day
    assert us_to_datetime(date_to_days(day) * 86_400_000_000).date() == day


@pytest.mark.parametrize(
    ("text", "us"),
    [("5 seconds", 5_000_000), ("100ms", 100_000), ("1 hour 30 minutes", 5_400_000_000), ("0s", 0), ("1.5 s",
    1_500_000), ("2 days", 172_800_000_000), ("1m", 60_000_000), (dt.timedelta(milliseconds=3), 3_000),
    (5, 5_000_000)],
)  # fmt: skip
def test_durations(text: object, us: int) -> None:
    assert parse_duration_us(text, "x") == us


@pytest.mark.parametrize(
    "text", ["5", "five seconds", "5 parsecs", "", "-5 seconds", "5 seconds!", -5, None, dt.timedelta(-1)]
)
def test_what_is_no_duration_is_refused_by_name(text: object) -> None:
    with pytest.raises(UsageError, match="retention"):
        parse_duration_us(text, "retention")


def test_sizes() -> None:
    assert [parse_size_bytes(v, "m") for v in ("256MB", "1 GiB", "1.5k", 77, "10b")] == [1 << 28, 1 << 30, 1536, 77, 10]
    for wrong in ("", "MB", "1TBx", -1, 0, True, 1.5, None):
        with pytest.raises(UsageError, match="memory_limit"):
            parse_size_bytes(wrong, "memory_limit")


def test_type_names_and_aliases() -> None:
    assert str(parse_type(" numeric ( 10 , 2 ) ")) == "DECIMAL(10,2)"
    assert str(parse_type("double  precision")) == "DOUBLE"
    assert parse_type("varchar(20)") == parse_type("TEXT")
    for wrong, words in (
        ("DUOBLE", "did you mean DOUBLE"),
        ("DECIMAL(40,2)", "1 to 38"),
        ("DECIMAL(4,5)", "scale"),
        (7, "string"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_type(wrong)  # type: ignore[arg-type]


def test_schemas_survive_text_and_refuse_wrong_columns() -> None:
    schema = Schema([Field("a", decimal_type(9, 3), False), Field("B\t\n\\ é", parse_type("BLOB"))])
    assert Schema.from_text(schema.to_text()) == schema
    assert schema.index_of("b\t\n\\ É") == 1
    for columns, words in (
        ({"a": "INT", "A": "INT"}, "twice"),
        ({"_x": "INT"}, "system"),
        ({}, "at least one"),
        ({"": "INT"}, "non-empty"),
    ):
        with pytest.raises(UsageError, match=words):
            Schema.from_mapping(columns)
