"""Physical values <-> Python values, for one column or one value at a time."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from eventdb.schema import DataType

if TYPE_CHECKING:
    from eventdb.batch import Column

EPOCH = dt.datetime(1970, 1, 1)
EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
EPOCH_DATE = dt.date(1970, 1, 1)
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
    if value is None:
        return None
    name = type.name
    if name == "TIMESTAMP":
        return us_to_datetime(value)
    if name == "DATE":
        return days_to_date(value)
    if name == "DECIMAL":
        return Decimal(value).scaleb(-type.scale)
    if name == "BOOLEAN":
        return bool(value)
    if name == "INTERVAL":
        return dt.timedelta(microseconds=value)
    return value


def to_python(column: Column) -> list[Any]:
    """Python values of every row of a column; NULL is None."""
    type = column.type
    if type.name == "NULL":
        return [None] * len(column)
    raw = column.decoded().tolist() if type.is_coded else column.values.tolist()
    if type.name in ("TIMESTAMP", "DATE", "DECIMAL", "INTERVAL"):
        present = [True] * len(raw) if column.validity is None else column.validity.tolist()
        return [decode_value(type, v) if ok else None for v, ok in zip(raw, present, strict=True)]
    if column.validity is None:
        return list(raw)
    return [v if ok else None for v, ok in zip(raw, column.validity.tolist(), strict=True)]
