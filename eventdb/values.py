"""Physical values <-> Python values, for one column or one value at a time."""

from __future__ import annotations

import datetime as dt
import math

from eventdb.errors import UsageError
from eventdb.wide_decimals import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.batch import Array, Column
    from eventdb.schema import DataType

EPOCH = dt.datetime(1970, 1, 1)
EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
EPOCH_DATE = dt.date(1970, 1, 1)
MIN_TIMESTAMP_US = -62_135_596_800_000_000  # 0001-01-01 00:00:00
MAX_TIMESTAMP_US = 253_402_300_799_999_999  # 9999-12-31 23:59:59.999999
_EPOCH_ORDINAL = EPOCH_DATE.toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)


def datetime_to_us(value: dt.datetime) -> int:
    """Microseconds since 1970-01-01 UTC; a naive datetime is taken as UTC."""
    delta = value - (EPOCH if value.tzinfo is None else EPOCH_UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def us_to_datetime(value: int) -> dt.datetime:
    """The naive UTC datetime of microseconds since 1970-01-01; OverflowError outside years 1 to 9999."""
    return EPOCH + dt.timedelta(microseconds=value)


def date_to_days(value: dt.date) -> int:
    return value.toordinal() - _EPOCH_ORDINAL


def days_to_date(value: int) -> dt.date:
    return dt.date.fromordinal(value + _EPOCH_ORDINAL)


def decode_value(type: DataType, value: Any) -> Any:
    """The Python value of one physical value (int, float, str, bytes) of a type; None stays None."""
    decode = decoder_of(type)
    return value if value is None or decode is None else decode(value)


def decoder_of(type: DataType) -> Callable[[Any], Any] | None:
    """What makes the Python value of a physical value that is not None; None for types whose values need nothing."""
    if type.name == "DECIMAL":
        from decimal import Context, Decimal  # 2 ms that a process without decimals does not pay

        places = -type.scale
        if not type.is_wide:
            return lambda value: Decimal(value).scaleb(places)
        exact = Context(prec=80)
        return lambda value: Decimal(unpack(value)).scaleb(places, exact)
    return _DECODERS.get(type.name)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "TIMESTAMP": us_to_datetime,
    "DATE": days_to_date,
    "BOOLEAN": bool,
    "INTERVAL": lambda value: dt.timedelta(microseconds=value),
}


def to_python(column: Column) -> list[Any]:
    """Python values of every row of a column; NULL is None."""
    type = column.type
    if type.name == "NULL":
        return [None] * len(column)
    if type.name == "TIMESTAMP" and column.validity is None and _is_in_calendar(column.values):
        times: list[Any] = column.values.view("M8[us]").tolist()  # a tenth of the time
        return times
    raw = column.texts() if type.is_coded else column.values.tolist()
    if type.name in ("TIMESTAMP", "DATE", "DECIMAL", "INTERVAL"):
        present = [True] * len(raw) if column.validity is None else column.validity.tolist()
        return [decode_value(type, v) if ok else None for v, ok in zip(raw, present, strict=True)]
    if column.validity is None:
        return list(raw)
    return [v if ok else None for v, ok in zip(raw, column.validity.tolist(), strict=True)]


def _is_in_calendar(times_us: Array) -> bool:
    """Whether all times are of the years 1 to 9999. NumPy makes integers of others, where `us_to_datetime` raises."""
    return not len(times_us) or (int(times_us.min()) >= MIN_TIMESTAMP_US and int(times_us.max()) <= MAX_TIMESTAMP_US)


_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "sec": 1_000_000,
    "minute": 60_000_000,
    "min": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 604_800_000_000,
}


def parse_duration_us(value: object, what: str) -> int:
    """Microseconds of a timedelta, of text such as '5 seconds', '100ms', '1 hour 30 minutes', or of a number of
    seconds; never negative.

    UsageError names `what`, the option it was given for.
    """
    if isinstance(value, dt.timedelta):
        total = value // _MICROSECOND
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        total = round(value * 1_000_000)
    elif isinstance(value, str):
        import re

        text = value.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
        rest = re.sub(r"(\d+(?:\.\d+)?)\s*([a-z]+)|[\s,]+", "", text)
        units = [_UNITS_US.get(unit) or _UNITS_US.get(unit.rstrip("s")) for _, unit in parts]
        if not parts or rest or None in units:
            raise UsageError(f"{what}: {value!r} is not a duration; write '5 seconds', '100ms' or '1 hour 30 minutes'")
        total = sum(round(float(number) * (unit or 0)) for (number, _), unit in zip(parts, units, strict=True))
    else:
        raise UsageError(f"{what} is text such as '5 seconds', a timedelta or a number of seconds, not {value!r}")
    if total < 0:
        raise UsageError(f"{what} must not be negative: {value!r}")
    return total


_SIZES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
          "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30}  # fmt: skip


def parse_size_bytes(value: object, what: str) -> int:
    """Bytes of an int or of text such as '256MB' (units of 1024); more than zero. UsageError names `what`."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        text = value.strip().lower().replace(" ", "")
        digits = text.rstrip("bikmg")
        try:
            size = int(float(digits) * _SIZES[text[len(digits) :]])
        except (KeyError, ValueError):
            raise UsageError(f"{what}: {value!r} is not a size; write '256MB' or a number of bytes") from None
    else:
        raise UsageError(f"{what} is a number of bytes or text such as '256MB', not {value!r}")
    if size <= 0:
        raise UsageError(f"{what} must be more than zero: {value!r}")
    return size
