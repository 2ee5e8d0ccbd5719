"""Kernels of dates and times, by function name. Timestamps are int64 microseconds since 1970-01-01 UTC."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, IntervalValue
from eventdb.logical.functions import DATE_PARTS, TRUNC_UNITS
from eventdb.physical.arithmetic import value_range
from eventdb.physical.civil import DAY_US, civil_from_days, days_from_civil, iso_year_week, month_length
from eventdb.physical.evaluate_text import text_kernel
from eventdb.physical.operands import (
    Kernel,
    KernelBuilder,
    at,
    constant,
    joint_validity,
    literal_value,
    plain,
    refuse,
    result_length,
    show,
    stretch,
)
from eventdb.physical.time_format import format_timestamp, timestamp_parser
from eventdb.schema import BIGINT, DATE, TIMESTAMP

_UNIT_US = {
    "microsecond": 1, "millisecond": 1_000, "second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000,
    "day": DAY_US,
}  # fmt: skip


def floor_to(us: Array, width_us: int) -> Array:
    """The greatest multiple of width_us not after each time."""
    if width_us == 1:
        return us
    result: Array = us - us % width_us
    return result


def _month_start(months: Array) -> Array:
    """Microseconds of the first day of a month numbered from 1970-01 = 0."""
    year = months // 12 + 1970
    return days_from_civil(year, months % 12 + 1, np.ones_like(months)) * DAY_US


def month_number(us: Array) -> Array:
    """Months since 1970-01."""
    year, month, _ = civil_from_days(us // DAY_US)
    result: Array = (year - 1970) * 12 + month - 1
    return result


_TRUNC_MONTHS = {"month": 1, "quarter": 3, "year": 12}


def truncate(unit: str, us: Array) -> Array:
    """The start of the unit that holds each time; weeks start on Monday."""
    width = _UNIT_US.get(unit)
    if width is not None:
        return floor_to(us, width)
    if unit == "week":
        days = us // DAY_US
        result: Array = (days - (days + 3) % 7) * DAY_US
        return result
    months = month_number(us)
    return _month_start(months - months % _TRUNC_MONTHS[unit])


def _date_trunc(call: Call) -> Kernel:
    unit = _unit(call, TRUNC_UNITS)
    if unit is None:
        return lambda args: constant(call.type, None)
    return lambda args: Column(TIMESTAMP, truncate(unit, args[1].values), args[1].validity)


def _unit(call: Call, allowed: Sequence[str]) -> str | None:
    value = literal_value(call, 0)
    if value is None:
        return None
    unit = str(value).lower()
    if unit not in allowed:
        raise EvaluationError(f"{call.function}: unknown unit {value!r}; the units are {', '.join(allowed)}")
    return unit


def _day_of_year(us: Array) -> Array:
    days = us // DAY_US
    year = civil_from_days(days)[0]
    result: Array = days - days_from_civil(year, np.ones_like(year), np.ones_like(year)) + 1
    return result


_PARTS: dict[str, Callable[[Array], Array]] = {
    "year": lambda us: civil_from_days(us // DAY_US)[0],
    "quarter": lambda us: (civil_from_days(us // DAY_US)[1] + 2) // 3,
    "month": lambda us: civil_from_days(us // DAY_US)[1],
    "week": lambda us: iso_year_week(us // DAY_US)[1],
    "day": lambda us: civil_from_days(us // DAY_US)[2],
    "hour": lambda us: us % DAY_US // 3_600_000_000,
    "minute": lambda us: us % 3_600_000_000 // 60_000_000,
    "second": lambda us: us % 60_000_000 // 1_000_000,
    "millisecond": lambda us: us % 60_000_000 // 1_000,
    "microsecond": lambda us: us % 60_000_000,
    "dow": lambda us: (us // DAY_US + 4) % 7,
    "isodow": lambda us: (us // DAY_US + 3) % 7 + 1,
    "doy": _day_of_year,
    "isoyear": lambda us: iso_year_week(us // DAY_US)[0],
}


def _date_part(call: Call) -> Kernel:
    part = _unit(call, DATE_PARTS)
    if part is None:
        return lambda args: constant(call.type, None)
    extract = _PARTS[part]
    return lambda args: Column(BIGINT, extract(args[1].values), args[1].validity)


def _time_bucket(call: Call) -> Kernel:
    value = literal_value(call, 0)
    if value is None:
        return lambda args: constant(call.type, None)
    width = value.microseconds if isinstance(value, IntervalValue) else int(value)
    if width <= 0 or (isinstance(value, IntervalValue) and value.months):
        raise EvaluationError(f"time_bucket: the width must be an exact interval above zero, it is {value}")
    return lambda args: Column(TIMESTAMP, floor_to(args[1].values, width), args[1].validity)


def _month_bucket(call: Call) -> Kernel:
    width = literal_value(call, 0)
    if width is None:
        return lambda args: constant(call.type, None)
    if width <= 0:
        raise EvaluationError(f"time_bucket: the width must be at least one month, it is {width}")

    def bucket(us: Array) -> Array:
        months = month_number(us)
        return _month_start(months - months % width)

    return lambda args: Column(TIMESTAMP, bucket(args[1].values), args[1].validity)


def _add_months(call: Call) -> Kernel:
    def run(args: Sequence[Column]) -> Column:
        us, added = args[0].values, args[1].values
        valid = joint_validity(args, result_length(args))
        days = us // DAY_US
        year, month, day = civil_from_days(days)
        # Clipped so that the sum cannot wrap; what is clipped is refused below as out of range.
        months = year * 12 + month - 1 + np.clip(added, -(10**6), 10**6)
        bad = (months < 12) | (months >= 120_000)
        if bad.any():
            shown = "{} plus {} months is outside years 1 to 9999".format
            refuse(bad, valid, lambda row: shown(show(TIMESTAMP, at(us, row)), at(added, row)))
            months = np.where(bad, 12, months)
        year, month = months // 12, months % 12 + 1
        moved = days_from_civil(year, month, np.minimum(day, month_length(year, month)))
        return Column(TIMESTAMP, moved * DAY_US + us % DAY_US, valid)

    return run


def _civil_days(args: Sequence[Column], count: int, valid: Array | None, name: str) -> Array:
    """Days of year, month, day columns; EvaluationError where a field is out of range."""
    year, month, day = (stretch(arg, count).values for arg in args[:3])
    wrong_month = (month < 1) | (month > 12)
    wrong_year = (year < 1) | (year > 9999)
    refuse(wrong_year, valid, lambda row: f"{name}: year {year[row]} is outside 1 to 9999")
    refuse(wrong_month, valid, lambda row: f"{name}: month {month[row]} is outside 1 to 12")
    year, month = np.where(wrong_year, 1970, year), np.where(wrong_month, 1, month)
    wrong_day = (day < 1) | (day > month_length(year, month))
    refuse(wrong_day, valid, lambda row: f"{name}: month {year[row]}-{month[row]:02d} has no day {day[row]}")
    return days_from_civil(year, month, np.where(wrong_day, 1, day))


def _make_date(call: Call) -> Kernel:
    def run(args: Sequence[Column]) -> Column:
        count = result_length(args)
        valid = joint_validity(args, count)
        return Column(DATE, _civil_days(args, count, valid, "make_date").astype(np.int32), valid)

    return run


def _make_timestamp(call: Call) -> Kernel:
    if len(call.args) == 1:
        return _timestamp_from_us

    def run(args: Sequence[Column]) -> Column:
        count = result_length(args)
        valid = joint_validity(args, count)
        days = _civil_days(args, count, valid, "make_timestamp")
        hour, minute, second = (stretch(arg, count).values for arg in args[3:])
        bad_hour, bad_minute = (hour < 0) | (hour > 23), (minute < 0) | (minute > 59)
        bad_second = ~((second >= 0) & (second < 60))
        refuse(bad_hour, valid, lambda row: f"make_timestamp: hour {hour[row]} is outside 0 to 23")
        refuse(bad_minute, valid, lambda row: f"make_timestamp: minute {minute[row]} is outside 0 to 59")
        refuse(bad_second, valid, lambda row: f"make_timestamp: second {second[row]} is outside 0 to 60")
        bad = bad_hour | bad_minute | bad_second
        if bad.any():
            hour, minute, second = (np.where(bad, 0, v) for v in (hour, minute, second))
        # 59.9999999 seconds round to the next minute only by carrying, never to a 60th second.
        us = np.minimum(np.rint(second * 1e6), 59_999_999).astype(np.int64)
        return Column(TIMESTAMP, days * DAY_US + hour * 3_600_000_000 + minute * 60_000_000 + us, valid)

    return run


def _timestamp_from_us(args: Sequence[Column]) -> Column:
    us, valid = args[0].values, args[0].validity
    low, high = value_range(TIMESTAMP)
    bad = (us < low) | (us > high)
    if bad.any():
        refuse(bad, valid, lambda row: f"make_timestamp({us[row]}) is outside years 1 to 9999")
    return Column(TIMESTAMP, np.where(bad, 0, us), valid)


def _now(call: Call) -> Kernel:
    """The planner replaces now() with the statement's time; alone, an expression has the time it was compiled."""
    value = constant(TIMESTAMP, time.time_ns() // 1000)
    return lambda args: value


def _strftime(call: Call) -> Kernel:
    pattern = literal_value(call, 1)
    if pattern is None:
        return lambda args: constant(call.type, None)
    return text_kernel(lambda us, pattern: format_timestamp(us, pattern))(call)


def _strptime(call: Call) -> Kernel:
    pattern = literal_value(call, 1)
    if pattern is None:
        return lambda args: constant(call.type, None)
    parse = timestamp_parser(pattern)
    return text_kernel(lambda text, pattern: parse(text))(call)


TIME: dict[str, KernelBuilder] = {
    "now": _now, "date_trunc": _date_trunc, "date_part": _date_part, "time_bucket": _time_bucket,
    "month_bucket": _month_bucket, "add_months": _add_months, "make_date": _make_date,
    "make_timestamp": _make_timestamp, "strftime": _strftime, "strptime": _strptime,
}  # fmt: skip

__all__ = ["TIME", "floor_to", "month_number", "plain", "truncate"]
