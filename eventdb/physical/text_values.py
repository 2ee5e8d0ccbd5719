"""Text <-> physical values: what CAST to and from VARCHAR means, one value at a time.

Parsers return the physical value or None when the text does not fit; spaces around the text are ignored.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import numpy as np

from eventdb.physical.operands import GREATEST_DAY, GREATEST_TIMESTAMP, LEAST_DAY, LEAST_TIMESTAMP
from eventdb.schema import INTEGER_RANGES, DataType
from eventdb.values import date_to_days, datetime_to_us, days_to_date, us_to_datetime

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SPECIAL = re.compile(r"[+-]?(?:inf|infinity|nan)", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:(?:T|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII | re.IGNORECASE,
)
_TRUE = frozenset(("true", "t", "yes", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "off", "0"))
_EXACT = Context(prec=100)


def parse_integer(text: str, type: DataType) -> int | None:
    text = text.strip()
    if not _INTEGER.fullmatch(text) or len(text) > 64:
        return None
    value = int(text)
    low, high = INTEGER_RANGES[type.name]
    return value if low <= value <= high else None


def parse_float(text: str, type: DataType) -> float | None:
    """The nearest float; a finite text beyond the type's range does not fit."""
    text = text.strip()
    if _SPECIAL.fullmatch(text):
        return float(text)
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    if type.name == "FLOAT":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    return None if math.isinf(value) else value


def parse_decimal(text: str, type: DataType) -> int | None:
    """The scaled integer, halves rounded away from zero."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) or len(text) > 4096:
        return None
    value = Decimal(text)
    if not value:
        return 0
    if value.adjusted() > type.precision:
        return None
    if value.adjusted() < -40:
        return 0
    context = _EXACT if len(text) < 50 else Context(prec=5000)
    scaled = int(value.scaleb(type.scale, context).to_integral_value(ROUND_HALF_UP, context))
    return scaled if abs(scaled) < 10**type.precision else None


def parse_boolean(text: str, type: DataType) -> bool | None:
    text = text.strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


def parse_date(text: str, type: DataType) -> int | None:
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    try:
        return date_to_days(dt.date(*map(int, found.groups())))
    except ValueError:
        return None


def parse_timestamp(text: str, type: DataType) -> int | None:
    """Microseconds UTC; digits beyond the sixth round half up; a zone offset is subtracted."""
    found = _TIMESTAMP.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = dt.datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
    except ValueError:
        return None
    us = datetime_to_us(moment)
    if fraction:
        us += (int(fraction.ljust(9, "0")) + 500) // 1000
    if zone and zone not in "Zz":
        digits = zone[1:].replace(":", "")
        hours, minutes = int(digits[:2]), int(digits[2:] or 0)
        if hours > 15 or minutes > 59:
            return None
        offset = (hours * 60 + minutes) * 60_000_000
        us += offset if zone[0] == "-" else -offset
    return us if LEAST_TIMESTAMP <= us <= GREATEST_TIMESTAMP else None


PARSERS: dict[str, Callable[[str, DataType], Any]] = {
    "TINYINT": parse_integer, "SMALLINT": parse_integer, "INTEGER": parse_integer, "BIGINT": parse_integer,
    "FLOAT": parse_float, "DOUBLE": parse_float, "DECIMAL": parse_decimal, "BOOLEAN": parse_boolean,
    "DATE": parse_date, "TIMESTAMP": parse_timestamp,
}  # fmt: skip
EXPECTED = {
    "FLOAT": "a number, inf or nan", "DOUBLE": "a number, inf or nan", "DECIMAL": "a number in its range",
    "BOOLEAN": "true or false (also t, f, yes, no, on, off, 1, 0)", "DATE": "YYYY-MM-DD",
    "TIMESTAMP": "YYYY-MM-DD [HH:MM[:SS[.ffffff]]] [Z or +HH:MM]",
}  # fmt: skip


# --- to text ------------------------------------------------------------------------------------------------------


def _format_timestamp(us: int, type: DataType) -> str:
    if not LEAST_TIMESTAMP <= us <= GREATEST_TIMESTAMP:
        return str(us)
    moment = us_to_datetime(us)
    text = (
        f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}"
    )
    return f"{text}.{moment.microsecond:06d}".rstrip("0") if moment.microsecond else text


def _format_date(days: int, type: DataType) -> str:
    if not LEAST_DAY <= days <= GREATEST_DAY:
        return str(days)
    day = days_to_date(days)
    return f"{day.year:04d}-{day.month:02d}-{day.day:02d}"


def _format_decimal(value: int, type: DataType) -> str:
    sign, digits = ("-" if value < 0 else ""), str(abs(value)).rjust(type.scale + 1, "0")
    return f"{sign}{digits[: -type.scale]}.{digits[-type.scale :]}" if type.scale else sign + digits


def _format_interval(us: int, type: DataType) -> str:
    seconds, fraction = divmod(abs(us), 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{'-' if us < 0 else ''}{hours}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def _format_integer(value: int, type: DataType) -> str:
    return str(value)


FORMATTERS: dict[str, Callable[[Any, DataType], str]] = {
    "TINYINT": _format_integer, "SMALLINT": _format_integer, "INTEGER": _format_integer, "BIGINT": _format_integer,
    "DOUBLE": lambda value, type: repr(value), "FLOAT": lambda value, type: str(np.float32(value)),
    "DECIMAL": _format_decimal, "BOOLEAN": lambda value, type: "true" if value else "false",
    "DATE": _format_date, "TIMESTAMP": _format_timestamp, "INTERVAL": _format_interval,
}  # fmt: skip
