"""Exact integer arithmetic over arrays: a result is right, or EvaluationError names the operands.

The common case costs one pass: when the extremes of the operands cannot leave the range, nothing else is checked. Only
otherwise each row is examined, ignoring rows that are NULL.
"""

from __future__ import annotations

import numpy as np

from eventdb.batch import Array
from eventdb.errors import EvaluationError
from eventdb.physical.operands import (
    GREATEST_DAY,
    GREATEST_TIMESTAMP,
    LEAST_DAY,
    LEAST_TIMESTAMP,
    at,
    first_bad,
    show,
)
from eventdb.schema import INTEGER_RANGES, DataType

INT64_MIN, INT64_MAX = INTEGER_RANGES["BIGINT"]
SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "modulo": "%"}


def value_range(type: DataType) -> tuple[int, int]:
    """The least and greatest physical value of a type stored as an integer."""
    if type.name == "DECIMAL":
        limit = 10**type.precision - 1
        return -limit, limit
    if type.name == "DATE":
        return LEAST_DAY, GREATEST_DAY
    if type.name == "TIMESTAMP":
        return LEAST_TIMESTAMP, GREATEST_TIMESTAMP
    return INTEGER_RANGES.get(type.name, (INT64_MIN, INT64_MAX))


def extremes(values: Array) -> tuple[int, int]:
    """Least and greatest of a non-empty integer array, as Python integers."""
    if len(values) == 1:
        only = int(values[0])
        return only, only
    return int(np.minimum.reduce(values)), int(np.maximum.reduce(values))


def _bounds(operation: str, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    if operation == "add":
        return left[0] + right[0], left[1] + right[1]
    if operation == "subtract":
        return left[0] - right[1], left[1] - right[0]
    products = [a * b for a in left for b in right]
    return min(products), max(products)


_UFUNC = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


def combine(
    operation: str,
    left: Array,
    right: Array,
    valid: Array | None,
    type: DataType,
    operand_types: tuple[DataType, DataType],
) -> Array:
    """left operation right ('add', 'subtract', 'multiply') in the result type's physical form."""
    dtype = np.dtype(type.physical)
    apply = _UFUNC[operation]
    if not len(left) or not len(right):
        return np.zeros(0, dtype=dtype)
    low, high = value_range(type)
    least, greatest = _bounds(operation, extremes(left), extremes(right))
    if low <= least and greatest <= high:
        result = apply(left, right) if left.dtype == right.dtype == dtype else apply(left, right, dtype=np.int64)
        return result.astype(dtype, copy=False)
    a, b = left.astype(np.int64, copy=False), right.astype(np.int64, copy=False)
    result = apply(a, b)
    bad = _wrapped(operation, a, b, result) | (result < low) | (result > high)
    row = first_bad(bad, valid)
    if row >= 0:
        shown = [show(t, at(v, row)) for t, v in zip(operand_types, (left, right), strict=True)]
        hint = "; CAST an operand to DECIMAL(38, its scale)" if type.name == "DECIMAL" else ""
        what = f"{type} overflow: {shown[0]} {SYMBOLS[operation]} {shown[1]}"
        raise EvaluationError(f"{what} is outside {_range(type)}{hint}")
    if bad.any():
        result[bad] = 0  # NULL rows: any value in range, so that later steps see nothing strange
    return result.astype(dtype, copy=False)


def _wrapped(operation: str, a: Array, b: Array, result: Array) -> Array:
    """Where the int64 result is not the mathematical one."""
    if operation == "add":
        wrong = ((a ^ result) & (b ^ result)) < 0
    elif operation == "subtract":
        wrong = ((a ^ b) & (a ^ result)) < 0
    else:
        estimate = np.abs(a.astype(np.float64) * b.astype(np.float64))
        wrong = estimate > 1e19
        close = (estimate >= 2.0**62) & ~wrong
        if close.any():
            left, right = (np.broadcast_to(v, close.shape)[close] for v in (a, b))
            product = result[close]
            with np.errstate(all="ignore"):
                exact = (product // right == left) & (product % right == 0)
            exact &= ~((left == INT64_MIN) & (right == -1))
            wrong[close] = ~exact
    return np.asarray(wrong)


def _range(type: DataType) -> str:
    low, high = value_range(type)
    return f"{show(type, low)} to {show(type, high)}"


def fit(values: Array, valid: Array | None, type: DataType, what: str, source: Array | None = None,
        source_type: DataType | None = None) -> Array:  # fmt: skip
    """int64 values in the type's physical form; EvaluationError '`what` of value' where one is outside its range."""
    dtype = np.dtype(type.physical)
    if len(values):
        low, high = value_range(type)
        least, greatest = extremes(values)
        if least < low or greatest > high:
            bad = (values < low) | (values > high)
            row = first_bad(bad, valid)
            if row >= 0:
                shown = show(type, values[row]) if source is None else show(source_type or type, at(source, row))
                raise EvaluationError(f"{what} {shown} is outside the range of {type}, {_range(type)}")
            values = np.where(bad, 0, values)
    return values.astype(dtype, copy=False)


def divide_integers(left: Array, right: Array) -> Array:
    """left / right truncated toward zero, elementwise; `right` holds no zero, and no -1 under the least integer."""
    quotient = left // right
    remainder = left - quotient * right
    inexact = (remainder != 0) & ((left < 0) != (right < 0))
    return quotient + inexact.astype(quotient.dtype) if inexact.any() else quotient


def round_half_away(values: Array, unit: int) -> Array:
    """int64 values / unit (a positive integer), halves rounded away from zero; |result| <= |value|."""
    if unit == 1:
        return values
    if unit > INT64_MAX:
        # Only 10**19 and beyond: every int64 is below half of 2 * 10**19, and 10**19 / 2 is below 2**63.
        half = -(-unit // 2)
        if half > INT64_MAX:
            return np.zeros_like(values)
        return (values >= half).astype(np.int64) - (values <= -half).astype(np.int64)
    quotient = values // unit
    remainder = values - quotient * unit  # 0 <= remainder < unit
    up = remainder > unit - remainder
    tie = remainder == unit - remainder
    result: Array = quotient + (up | (tie & (values >= 0)))
    return result
