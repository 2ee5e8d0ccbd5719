"""CAST from and to DECIMAL of more than 18 digits."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

import numpy as np

from eventdb.batch import Array, Column
from eventdb.decimal_columns import column_of_numbers, numbers_of
from eventdb.errors import EvaluationError
from eventdb.physical.arithmetic import value_range
from eventdb.physical.decimal_arithmetic import decimal_range, outside, rescaled, shown
from eventdb.physical.dictionary_memo import DictionaryMemo
from eventdb.physical.operands import Kernel, first_bad
from eventdb.physical.text_values import FORMATTERS
from eventdb.schema import BOOLEAN, INTEGER_RANGES, DataType
from eventdb.wide_decimals import unpack

_EXACT = Context(prec=400)  # a double has at most 309 digits before the point


def decimal_cast(source: DataType, target: DataType, safe: bool) -> Kernel:
    """The kernel of CAST(source AS target), of which one is a wide DECIMAL and none a text."""
    if target == BOOLEAN:
        return lambda args: Column(BOOLEAN, (numbers_of(args[0]) != 0).astype(bool), args[0].validity)
    if target.is_float:
        unit = 10**source.scale
        return lambda args: Column(target, _floats(numbers_of(args[0]), unit, target), args[0].validity)

    def run(args: Sequence[Column]) -> Column:
        column = args[0]
        valid = column.validity
        if source.is_float:
            numbers, bad = _from_floats(column.values, valid, target)
        else:
            numbers = rescaled(numbers_of(column), source, target)
            bad = _misfits(numbers, target)
        if bad is not None:
            row = first_bad(bad, valid)
            if row >= 0 and not safe:
                raise EvaluationError(
                    f"cannot cast {source} {shown(column, row)} to {target}: it must lie between {_range(target)} "
                    "(TRY_CAST gives NULL instead)"
                )
            numbers = np.where(bad, 0, numbers)
            valid = ~bad if valid is None else valid & ~bad
        if target.name == "DECIMAL":
            return column_of_numbers(target, numbers, valid)
        return Column(target, numbers.astype(target.physical), valid)

    return run


def decimal_text(source: DataType, target: DataType) -> Kernel:
    """CAST of a wide DECIMAL to VARCHAR."""
    formatter = FORMATTERS[source.name]
    memo = DictionaryMemo(lambda data: formatter(unpack(data), source), target)
    return lambda args: memo(args[0])


def _misfits(numbers: Array, target: DataType) -> Array | None:
    if target.name == "DECIMAL":
        return outside(numbers, 10**target.precision - 1)
    low, high = value_range(target)
    bad: Array = ((numbers < low) | (numbers > high)).astype(bool)
    return bad if bad.any() else None


def _range(target: DataType) -> str:
    if target.name == "DECIMAL":
        return decimal_range(target).replace(" to ", " and ")
    low, high = INTEGER_RANGES[target.name]
    return f"{low} and {high}"


def _floats(numbers: Array, unit: int, target: DataType) -> Array:
    """numbers / unit, correctly rounded."""
    exact = np.fromiter((number / unit for number in numbers.tolist()), np.float64, len(numbers))
    return exact.astype(target.physical)


def _from_floats(values: Array, valid: Array | None, target: DataType) -> tuple[Array, Array | None]:
    """The scaled integers of the decimal that is written for each float, halves rounded away from zero; and where there
    is none."""
    limit = 10**target.precision - 1
    numbers = np.zeros(len(values), dtype=object)
    bad = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values):  # str of a NumPy float is the shortest that is read back as it
        if valid is not None and not valid[row]:
            continue
        number = Decimal(str(value))
        if not number.is_finite() or number.adjusted() > target.precision:
            bad[row] = True
            continue
        scaled = int(number.scaleb(target.scale, _EXACT).to_integral_value(ROUND_HALF_UP, _EXACT))
        if abs(scaled) > limit:
            bad[row] = True
        else:
            numbers[row] = scaled
    return numbers, bad if bad.any() else None
