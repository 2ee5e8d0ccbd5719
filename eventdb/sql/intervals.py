"""Interval texts: '5 minutes', '5m', '1 day 02:30:00', '1 month', as calendar months and exact microseconds."""

from __future__ import annotations

import re
from decimal import Decimal

from eventdb.logical.expressions import IntervalValue

_SECOND = 1_000_000
_MICROSECONDS = {
    "us": 1, "microsecond": 1,
    "ms": 1_000, "millisecond": 1_000,
    "s": _SECOND, "sec": _SECOND, "second": _SECOND,
    "m": 60 * _SECOND, "min": 60 * _SECOND, "minute": 60 * _SECOND,
    "h": 3_600 * _SECOND, "hr": 3_600 * _SECOND, "hour": 3_600 * _SECOND,
    "d": 86_400 * _SECOND, "day": 86_400 * _SECOND,
    "w": 604_800 * _SECOND, "week": 604_800 * _SECOND,
}  # fmt: skip
_MONTHS = {"mon": 1, "month": 1, "quarter": 3, "y": 12, "yr": 12, "year": 12, "decade": 120, "century": 1_200}
_PLURALS = {
    unit + "s": size for table in (_MICROSECONDS, _MONTHS) for unit, size in table.items() if len(unit) > 2
}  # fmt: skip
UNITS = frozenset((*_MICROSECONDS, *_MONTHS, *_PLURALS))

_PART = re.compile(r"([+-]?\s*\d+(?:\.\d*)?|[+-]?\s*\.\d+)\s*([a-z]+)")
_CLOCK = re.compile(r"([+-]?)(\d+):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?")
_LIMIT = 1 << 63


def parse_interval(text: str, unit: str | None = None) -> IntervalValue | None:
    """The interval a text means, in `unit` if the text is a bare number; None if it is none or out of range."""
    rest = text.strip().lower().replace(",", " ")
    if unit is not None:
        rest = f"{rest} {unit.lower()}"
    months, microseconds = 0, Decimal(0)
    if not rest or len(rest) > 200:
        return None
    while rest:
        clock = _CLOCK.match(rest)
        if clock is not None:
            sign = -1 if clock[1] == "-" else 1
            seconds = int(clock[2]) * 3_600 + int(clock[3]) * 60 + Decimal(clock[4] or 0)
            microseconds += sign * seconds * _SECOND
            rest = rest[clock.end() :].strip()
            continue
        part = _PART.match(rest)
        if part is None:
            return None
        number, name = Decimal(part[1].replace(" ", "")), part[2]
        name = name[:-1] if name in _PLURALS else name
        if name in _MONTHS:
            whole = number * _MONTHS[name]
            if whole != int(whole):
                return None
            months += int(whole)
        elif name in _MICROSECONDS:
            microseconds += number * _MICROSECONDS[name]
        else:
            return None
        rest = rest[part.end() :].strip()
    if not -_LIMIT <= microseconds < _LIMIT or abs(months) > 120_000:
        return None
    return IntervalValue(months, int(microseconds))


def exact_us(text: str) -> int | None:
    """Microseconds of an interval without months, None if it has months or is none."""
    value = parse_interval(text)
    return value.microseconds if value is not None and value.months == 0 else None
