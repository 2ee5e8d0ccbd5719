"""Scaled integers of any size: another scale, the range of a type, how messages show them.

They come as decimal_columns.py gives them, int64 or Python's in an object array, and stay int64 while that is exact.
"""

from __future__ import annotations

import numpy as np

from eventdb.batch import Array, Column
from eventdb.physical.arithmetic import INT64_MAX, extremes, round_half_away
from eventdb.physical.operands import at, show
from eventdb.schema import DataType


def is_narrow(numbers: Array, factor: int) -> bool:
    """Whether the numbers are int64 and stay so when multiplied by a positive factor."""
    if numbers.dtype == object:
        return False
    if factor == 1 or not len(numbers):
        return factor <= INT64_MAX
    low, high = extremes(numbers)
    return max(-low, high) * factor <= INT64_MAX


def scale_up(numbers: Array, digits: int) -> Array:
    """numbers * 10**digits."""
    if not digits:
        return numbers
    unit = 10**digits
    if is_narrow(numbers, unit):
        return numbers * np.int64(unit) if unit <= INT64_MAX else numbers
    raised: Array = numbers.astype(object) * unit
    return raised


def scale_down(numbers: Array, digits: int) -> Array:
    """numbers / 10**digits, halves rounded away from zero."""
    if not digits:
        return numbers
    unit = 10**digits
    if numbers.dtype != object:
        return round_half_away(numbers, unit)
    size: Array = (np.abs(numbers) * 2 + unit) // (2 * unit)
    return np.where(numbers < 0, -size, size)


def rescaled(numbers: Array, source: DataType, target: DataType) -> Array:
    """The numbers of `source` at the scale of `target`."""
    shift = target.scale - source.scale
    return scale_up(numbers, shift) if shift >= 0 else scale_down(numbers, -shift)


def outside(numbers: Array, limit: int) -> Array | None:
    """Where the magnitude is above the limit; None for nowhere."""
    if numbers.dtype != object and (limit >= INT64_MAX or not len(numbers)):
        return None
    if numbers.dtype != object:
        low, high = extremes(numbers)
        if max(-low, high) <= limit:
            return None
    bad: Array = (np.abs(numbers) > limit).astype(bool)
    return bad if bad.any() else None


def decimal_range(type: DataType) -> str:
    """The least and the greatest value, for messages."""
    digits = "9" * type.precision
    whole, rest = digits[: type.precision - type.scale] or "0", digits[type.precision - type.scale :]
    most = f"{whole}.{rest}" if rest else whole
    return f"-{most} to {most}"


def shown(column: Column, row: int) -> str:
    """The value of a row as a person writes it."""
    value = at(column.values, row)
    return show(column.type, value if column.dictionary is None else column.dictionary.pick([int(value)])[0])
