"""Calendar functions against Python's datetime."""

from __future__ import annotations

import calendar
import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Expression, IntervalValue, Literal
from eventdb.logical.functions import DATE_PARTS, TRUNC_UNITS
from eventdb.physical.civil import civil_from_days, days_from_civil, iso_year_week
from eventdb.schema import INTERVAL
from eventdb.values import datetime_to_us, us_to_datetime

from .building import batch_of, call, col, lit, value_of

MOMENTS = st.one_of(
    st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    st.datetimes(dt.datetime(1969, 12, 30), dt.datetime(1970, 1, 3)),
    st.sampled_from(
        [dt.datetime(2000, 2, 29, 12), dt.datetime(1900, 3, 1), dt.datetime(2024, 12, 30), dt.datetime(1, 1, 1)]
    ),
)


def stamp(moment: dt.datetime) -> Literal:
    return lit("TIMESTAMP", datetime_to_us(moment))


def moment_of(expression: Expression) -> dt.datetime:
    return us_to_datetime(value_of(expression)[0])


def test_every_day_of_four_centuries_and_the_edges_is_its_python_date() -> None:
    first = dt.date(1800, 1, 1).toordinal()
    ordinals = [1, 2, 365, 366, *range(first, first + 146_200), dt.date.max.toordinal()]
    days = np.array(ordinals, dtype=np.int64) - dt.date(1970, 1, 1).toordinal()
    year, month, day = civil_from_days(days)
    expected = [dt.date.fromordinal(o) for o in ordinals]
    assert list(zip(year.tolist(), month.tolist(), day.tolist(), strict=True)) == [
        (d.year, d.month, d.day) for d in expected
    ]
    assert (days_from_civil(year, month, day) == days).all()
    iso_year, week = iso_year_week(days)
    assert list(zip(iso_year.tolist(), week.tolist(), strict=True)) == [tuple(d.isocalendar()[:2]) for d in expected]


def python_trunc(unit: str, t: dt.datetime) -> dt.datetime:
    if unit == "week":
        day = t.replace(hour=0, minute=0, second=0, microsecond=0)
        return day - dt.timedelta(days=t.weekday())
    if unit == "quarter":
        return dt.datetime(t.year, (t.month - 1) // 3 * 3 + 1, 1)
    if unit == "millisecond":
        return t.replace(microsecond=t.microsecond // 1000 * 1000)
    names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    kept = names[: names.index(unit) + 1]
    return t.replace(**{n: (1 if n in ("month", "day") else 0) for n in names if n not in kept})  # type: ignore[arg-type]


@given(MOMENTS, st.sampled_from(TRUNC_UNITS))
def test_date_trunc_is_the_start_of_the_unit(t: dt.datetime, unit: str) -> None:
    assert moment_of(call("date_trunc", lit("VARCHAR", unit), stamp(t))) == python_trunc(unit, t)


def python_part(part: str, t: dt.datetime) -> int:
    iso = t.isocalendar()
    second_us = t.second * 1_000_000 + t.microsecond
    return {
        "year": t.year, "quarter": (t.month + 2) // 3, "month": t.month, "week": iso[1], "day": t.day, "hour": t.hour,
        "minute": t.minute, "second": t.second, "millisecond": second_us // 1000, "microsecond": second_us,
        "dow": t.isoweekday() % 7, "isodow": t.isoweekday(), "doy": t.timetuple().tm_yday, "isoyear": iso[0],
    }[part]  # fmt: skip


@given(MOMENTS, st.sampled_from(DATE_PARTS))
def test_date_part_is_the_field(t: dt.datetime, part: str) -> None:
    assert value_of(call("date_part", lit("VARCHAR", part), stamp(t))) == [python_part(part, t)]


@given(MOMENTS, st.integers(-3000, 3000))
def test_add_months_clips_the_day(t: dt.datetime, months: int) -> None:
    number = t.year * 12 + t.month - 1 + months
    year, month = divmod(number, 12)
    expression = call("add_months", stamp(t), lit("BIGINT", months))
    if not 1 <= year <= 9999:
        with pytest.raises(EvaluationError, match="years 1 to 9999"):
            value_of(expression)
        return
    last = calendar.monthrange(year, month + 1)[1]
    assert moment_of(expression) == t.replace(year=year, month=month + 1, day=min(t.day, last))


def test_add_months_far_beyond_the_calendar_raises_and_null_does_not() -> None:
    with pytest.raises(EvaluationError):
        value_of(call("add_months", lit("TIMESTAMP", 0), lit("BIGINT", 2**62)))
    batch = batch_of({"t": ("TIMESTAMP", [None, 0]), "n": ("BIGINT", [2**62, 1])})
    assert value_of(call("add_months", col(batch, "t"), col(batch, "n")), batch) == [None, 31 * 86_400_000_000]


@given(MOMENTS, st.integers(1, 10**13))
def test_time_bucket_floors_to_multiples_since_1970(t: dt.datetime, width: int) -> None:
    us = datetime_to_us(t)
    bucket = call("time_bucket", Literal(INTERVAL, IntervalValue(0, width)), stamp(t))
    assert value_of(bucket) == [us // width * width]


@given(MOMENTS, st.integers(1, 40))
def test_month_bucket_floors_to_multiples_of_months(t: dt.datetime, width: int) -> None:
    number = ((t.year - 1970) * 12 + t.month - 1) // width * width
    year, month = 1970 + number // 12, number % 12 + 1
    if year >= 1:
        assert moment_of(call("month_bucket", lit("BIGINT", width), stamp(t))) == dt.datetime(year, month, 1)


def test_epochs() -> None:
    t = lit("TIMESTAMP", -1_500_001)
    assert value_of(call("epoch", t)) == [-1.500001]
    assert value_of(call("epoch_ms", t)) == [-1501], "floor"
    assert value_of(call("epoch_us", t)) == [-1_500_001]
    assert value_of(call("to_timestamp", lit("DOUBLE", -1.5000015))) == [-1_500_002]
    assert value_of(call("make_timestamp", lit("BIGINT", 17))) == [17]
    for bad in (float("nan"), float("inf"), 1e18):
        with pytest.raises(EvaluationError, match="to_timestamp"):
            value_of(call("to_timestamp", lit("DOUBLE", bad)))


@given(
    *[st.integers(low, high) for low, high in ((-1, 10_001), (-1, 14), (-1, 33), (-1, 25), (-1, 61))], st.floats(-1, 61)
)
def test_make_timestamp_is_pythons_datetime_or_an_error(y: int, mo: int, d: int, h: int, mi: int, s: float) -> None:
    args = [lit("BIGINT", v) for v in (y, mo, d, h, mi)]
    expression = call("make_timestamp", *args, lit("DOUBLE", s))
    try:
        if not 0 <= s < 60:
            raise ValueError
        expected = dt.datetime(y, mo, d, h, mi)
    except ValueError:
        with pytest.raises(EvaluationError, match="make_timestamp"):
            value_of(expression)
    else:
        assert moment_of(expression) == expected + dt.timedelta(microseconds=min(round(s * 1e6), 59_999_999))
    date = call("make_date", *args[:3])
    try:
        day = dt.date(y, mo, d)
    except ValueError:
        with pytest.raises(EvaluationError, match="make_date"):
            value_of(date)
    else:
        assert value_of(date) == [day.toordinal() - dt.date(1970, 1, 1).toordinal()]


FIELDS = "%Y %y %m %d %H %I %M %S %f %p %j %a %A %b %B %u %w %V %G %%"


@given(MOMENTS)
def test_strftime_agrees_with_python(t: dt.datetime) -> None:
    text = value_of(call("strftime", stamp(t), lit("VARCHAR", FIELDS + " %F %T %s")))[0]
    year = f"{t.year:04d}"  # the C library pads years before 1000 or does not, by platform
    fields = FIELDS.replace("%Y", year).replace("%G", f"{t.isocalendar()[0]:04d}")
    expected = t.strftime(fields) + f" {year}-{t:%m-%d} {t:%H:%M:%S} {datetime_to_us(t) // 1_000_000}"
    assert text == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y-%m-%d %H:%M:%S.%f",
        "%F %T.%f",
        "%s %f",
        "%d. %B %Y, %I:%M:%S %p %f",
        "%j/%Y %T.%f",
        "%G-W%V-%u %H%M%S%f",
        "%%%A %b%d%Y%T%f",
    ],
)
@given(t=MOMENTS)
def test_strptime_is_the_inverse_of_strftime(pattern: str, t: dt.datetime) -> None:
    if not 1 <= t.isocalendar()[0] <= 9999:
        return
    text = value_of(call("strftime", stamp(t), lit("VARCHAR", pattern)))[0]
    assert moment_of(call("strptime", lit("VARCHAR", text), lit("VARCHAR", pattern))) == t


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2024-02-30", "%Y-%m-%d"),
        ("x", "%Y"),
        ("2023 366", "%Y %j"),
        ("13 AM", "%I %p"),
        ("25", "%H"),
        ("2024-01-01 ", "%F"),
    ],
)
def test_text_that_is_no_time_raises(text: str, pattern: str) -> None:
    with pytest.raises(EvaluationError, match="strptime"):
        value_of(call("strptime", lit("VARCHAR", text), lit("VARCHAR", pattern)))


def test_now_is_a_recent_moment() -> None:
    recent: Any = us_to_datetime(value_of(call("now"))[0])
    assert abs(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - recent) < dt.timedelta(minutes=5)
