"""count, sum, avg, product, bitwise aggregates, variances and standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.decimal_columns import column_of_numbers, number_array, numbers_of
from eventdb.errors import EvaluationError
from eventdb.physical.accumulator import Accumulator, OperationAccumulator
from eventdb.physical.arithmetic import INT64_MAX, INT64_MIN, extremes, value_range
from eventdb.physical.decimal_arithmetic import outside
from eventdb.physical.operands import first_bad, show
from eventdb.schema import BIGINT, DOUBLE, DataType

_TWO_64 = 1 << 64


class CountAccumulator(Accumulator):
    """count_star and count."""

    dtypes = (np.int64,)
    reversible = True

    def empty(self) -> Sequence[Any]:
        return (0,)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        self.arrays[0][slot] += row_count

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        return [np.bincount(ids, minlength=count)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] += partial[0]

    def opposite(self, partial: list[Array]) -> list[Array]:
        return [-partial[0]]

    def result(self, slots: Array) -> Column:
        return Column(BIGINT, self.arrays[0][slots])


# --- sums ---------------------------------------------------------------------------------------------------------


def sum_exactly(values: Array) -> int:
    """The sum of integers as a Python integer."""
    if len(values) == 1:
        return int(values[0])
    low, top = extremes(values)
    if max(-low, top, 1) * len(values) <= INT64_MAX:
        return int(np.add.reduce(values, dtype=np.int64))
    wide = values.astype(np.int64, copy=False)
    return (int(np.add.reduce(wide >> 32)) << 32) + int(np.add.reduce(wide & 0xFFFF_FFFF))


def sum_integers(values: Array, ids: Array, count: int) -> tuple[Array, Array | None]:
    """Exact sums as total + high * 2**64; high is None when no sum leaves int64."""
    low, top = extremes(values)
    reach = max(-low, top, 1) * len(values)
    if reach < 1 << 53:
        return np.bincount(ids, weights=values, minlength=count).astype(np.int64), None
    if reach <= INT64_MAX:
        total = np.zeros(count, dtype=np.int64)
        np.add.at(total, ids, values.astype(np.int64, copy=False))
        return total, None
    wide = values.astype(np.int64, copy=False)
    upper, lower = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    np.add.at(upper, ids, wide >> 32)
    np.add.at(lower, ids, wide & 0xFFFF_FFFF)
    return _split([(h << 32) + part for h, part in zip(upper.tolist(), lower.tolist(), strict=True)], count)


def _split(sums: list[int], count: int) -> tuple[Array, Array]:
    total, high = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for i, value in enumerate(sums):
        rest = (value - INT64_MIN) % _TWO_64 + INT64_MIN
        total[i], high[i] = rest, (value - rest) // _TWO_64
    return total, high


class SumIntegers(Accumulator):
    """sum and avg of integers, DECIMAL and INTERVAL: arrays are total, high (total + high * 2**64) and count. Exact
    whatever the order, so a sum fails only if the sum of all rows does not fit."""

    dtypes = (np.int64, np.int64, np.int64)
    reversible = True

    def __init__(self, type: DataType, argument: DataType | None, average: bool) -> None:
        super().__init__(type, argument)
        self.average = average

    def empty(self) -> Sequence[Any]:
        return (0, 0, 0)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        total, high, count = self.arrays
        after = int(total[slot]) + sum_exactly(column.values)
        if INT64_MIN <= after <= INT64_MAX:
            total[slot] = after
        else:
            rest = (after - INT64_MIN) % _TWO_64 + INT64_MIN
            total[slot] = rest
            high[slot] += (after - rest) // _TWO_64
        count[slot] += row_count

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        total, high = sum_integers(column.values, ids, count)
        if high is None:
            high = np.zeros(count, dtype=np.int64)
        return [total, high, np.bincount(ids, minlength=count)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        added = partial[0]
        before = self.arrays[0][slots]
        after = before + added
        wrapped = ((before ^ after) & (added ^ after)) < 0
        carry = partial[1]
        if wrapped.any():
            carry = carry + np.where(wrapped, np.where(added > 0, 1, -1), 0)
        self.arrays[0][slots] = after
        self.arrays[1][slots] += carry
        self.arrays[2][slots] += partial[2]

    def opposite(self, partial: list[Array]) -> list[Array]:
        total, high, count = partial
        least = total == INT64_MIN  # its negative is 2**64 less than it
        return [-total, np.where(least, 1 - high, -high), -count]

    def result(self, slots: Array) -> Column:
        total, high, count = (array[slots] for array in self.arrays)
        present = count > 0
        valid = None if present.all() else present
        if self.average:
            assert self.argument is not None
            sums = total.astype(np.float64) + high * 2.0**64
            if self.argument.scale:
                sums /= float(10**self.argument.scale)
            return Column(DOUBLE, sums / np.maximum(count, 1), valid)
        if self.type.is_wide:
            sums = total
            if high.any():
                pairs = zip(total.tolist(), high.tolist(), strict=True)
                sums = number_array([low + above * _TWO_64 for low, above in pairs])
            return sum_column(self.type, sums, valid)
        low, top = value_range(self.type)
        if len(total) and (high.any() or extremes(total)[0] < low or extremes(total)[1] > top):
            bad = (high != 0) | (total < low) | (total > top)
            row = int(np.argmax(bad))
            found = int(total[row]) + int(high[row]) * _TWO_64
            hint = "; sum CAST(... AS DECIMAL(38,0)) instead" if self.type == BIGINT else ""
            raise EvaluationError(f"sum overflow: {show(self.type, found)} is outside the range of {self.type}{hint}")
        return Column(self.type, total, valid)

    def dump(self, slot: int) -> list[Any]:
        total, high, count = (int(array[slot]) for array in self.arrays)
        return [total + high * _TWO_64, count]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        total, high = _split([values[0]], 1)
        super().load(slot, [total[0], high[0], values[1]])


def sum_column(type: DataType, sums: Array, valid: Array | None) -> Column:
    """The DECIMAL column of some sums. EvaluationError for the first that has too many digits."""
    bad = outside(sums, 10**type.precision - 1)
    row = -1 if bad is None else first_bad(bad, valid)
    if row >= 0:
        found = Decimal(sums[row]).scaleb(-type.scale, Context(prec=200))
        raise EvaluationError(f"sum overflow: {found:f} is outside the range of {type}")
    return column_of_numbers(type, sums, valid)


class SumDecimals(Accumulator):
    """sum and avg of DECIMAL of more than 18 digits: arrays are the sums, as Python integers, and counts."""

    dtypes = (object, np.int64)

    def __init__(self, type: DataType, argument: DataType | None, average: bool) -> None:
        super().__init__(type, argument)
        self.average = average

    def empty(self) -> Sequence[Any]:
        return (0, 0)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        numbers = numbers_of(column)
        self.arrays[0][slot] += sum(numbers.tolist()) if numbers.dtype == object else sum_exactly(numbers)
        self.arrays[1][slot] += row_count

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        sums: Array = np.full(count, 0, dtype=object)
        np.add.at(sums, ids, numbers_of(column).astype(object))
        return [sums, np.bincount(ids, minlength=count)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] += partial[0]
        self.arrays[1][slots] += partial[1]

    def result(self, slots: Array) -> Column:
        sums, counts = self.arrays[0][slots], self.arrays[1][slots]
        present = counts > 0
        valid = None if present.all() else present
        if not self.average:
            return sum_column(self.type, number_array(sums.tolist()), valid)
        assert self.argument is not None
        return Column(DOUBLE, decimal_averages(sums, counts, self.argument), valid)


def decimal_averages(sums: Array, counts: Array, argument: DataType) -> Array:
    """The correctly rounded quotients of sums of a DECIMAL and how many values they are of."""
    unit = 10**argument.scale
    pairs = zip(sums.tolist(), counts.tolist(), strict=True)
    return np.fromiter((total / (unit * max(count, 1)) for total, count in pairs), np.float64, len(sums))


class SumFloats(Accumulator):
    """sum and avg of floats in float64: pairwise within a batch without groups, in row order otherwise."""

    dtypes = (np.float64, np.int64)

    def __init__(self, type: DataType, argument: DataType | None, average: bool) -> None:
        super().__init__(type, argument)
        self.average = average

    def empty(self) -> Sequence[Any]:
        return (0.0, 0)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        values = column.values
        self.arrays[0][slot] += values[0] if row_count == 1 else np.add.reduce(values, dtype=np.float64)
        self.arrays[1][slot] += row_count

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        total = np.bincount(ids, weights=column.values, minlength=count).astype(np.float64, copy=False)
        return [total, np.bincount(ids, minlength=count)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] += partial[0]
        self.arrays[1][slots] += partial[1]

    def result(self, slots: Array) -> Column:
        total, count = self.arrays[0][slots], self.arrays[1][slots]
        present = count > 0
        values = total / np.maximum(count, 1) if self.average else total
        return Column(DOUBLE, values, None if present.all() else present)


class FoldAccumulator(OperationAccumulator):
    """bit_and, bit_or, bit_xor and product."""

    def __init__(self, type: DataType, argument: DataType | None, function: str) -> None:
        super().__init__(type, argument, *FOLDS[function])


FOLDS: dict[str, tuple[Any, int]] = {
    "bit_and": (np.bitwise_and, -1), "bit_or": (np.bitwise_or, 0), "bit_xor": (np.bitwise_xor, 0),
    "product": (np.multiply, 1),
}  # fmt: skip
"""The operation and the value of no rows."""


class SpreadAccumulator(Accumulator):
    """Variances and deviations from count, mean and the sum of squared differences (Chan, Golub, LeVeque 1979)."""

    dtypes = (np.int64, np.float64, np.float64)

    def __init__(self, type: DataType, argument: DataType | None, function: str) -> None:
        super().__init__(type, argument)
        self.sample = function.endswith("samp")
        self.root = function.startswith("stddev")

    def empty(self) -> Sequence[Any]:
        return (0, 0.0, 0.0)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        values = column.values.astype(np.float64, copy=False)
        mean = np.add.reduce(values, keepdims=True) / row_count
        squares = np.add.reduce((values - mean) ** 2, keepdims=True)
        self.combine(np.array([slot]), [np.array([row_count]), mean, squares])

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        values = column.values.astype(np.float64, copy=False)
        rows = np.bincount(ids, minlength=count)
        mean = np.bincount(ids, weights=values, minlength=count) / np.maximum(rows, 1)
        squares = np.bincount(ids, weights=(values - mean[ids]) ** 2, minlength=count)
        return [rows, mean, squares.astype(np.float64, copy=False)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        n, mean, squares = (array[slots] for array in self.arrays)
        added, other_mean, other_squares = partial
        both = n + added
        share = added / np.maximum(both, 1)
        delta = other_mean - mean
        fresh = n == 0
        kept = added == 0
        new_mean = np.where(fresh, other_mean, np.where(kept, mean, mean + delta * share))
        new_squares = np.where(
            fresh, other_squares, np.where(kept, squares, squares + other_squares + delta * delta * n * share)
        )
        for array, values in zip(self.arrays, (both, new_mean, new_squares), strict=True):
            array[slots] = values

    def result(self, slots: Array) -> Column:
        n, _, squares = (array[slots] for array in self.arrays)
        least = 2 if self.sample else 1
        present = n >= least
        values = squares / np.maximum(n - 1 if self.sample else n, 1)
        if self.root:
            values = np.sqrt(values)
        return Column(DOUBLE, values, None if present.all() else present)
