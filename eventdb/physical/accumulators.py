"""Aggregate functions as growable arrays with one slot per group.

Every Accumulator has the same shape. `update` takes a batch whose rows carry local group numbers 0..k-1 and the k
distinct slots they stand for. It reduces the batch to k partial values and combines those with the slots; rows of a
single group go through `add`, which touches one slot with plain Python numbers and is what makes a batch of one row
cheap. Cost follows the batch, never the number of groups kept. `merge` combines another accumulator's groups the same
way, so partial states from batches or threads add up. Input order is the order of the calls (for first, last,
any_value).

A slot that was never updated holds the value of no rows. `dump` and `load` move one slot as plain Python values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.errors import EvaluationError, InternalError
from eventdb.logical.expressions import Aggregation
from eventdb.physical.arithmetic import INT64_MAX, INT64_MIN, extremes, value_range
from eventdb.physical.grouping import distinct_codes
from eventdb.physical.operands import from_values, show
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, DataType

_TWO_64 = 1 << 64


class Accumulator:
    """One aggregation over many groups."""

    strict = True
    """Whether rows whose argument is NULL are left out before `reduce`."""

    def __init__(self, type: DataType, argument: DataType | None) -> None:
        self.type = type
        self.argument = argument
        self.slots = 0
        self.arrays: list[Array] = []

    def empty(self) -> Sequence[Any]:
        """The value of a fresh slot in each of `arrays`, which have the dtypes of `dtypes`."""
        raise NotImplementedError

    dtypes: Sequence[Any] = ()

    def resize(self, count: int) -> None:
        """At least `count` slots exist."""
        if not self.arrays:
            self.slots = count
            self.arrays = [_filled(count, fill, dtype) for fill, dtype in zip(self.empty(), self.dtypes, strict=True)]
        elif count > self.slots:
            extra = max(count, 2 * self.slots, 16) - self.slots
            fills = zip(self.arrays, self.empty(), strict=True)
            self.arrays = [np.concatenate([a, _filled(extra, fill, a.dtype)]) for a, fill in fills]
            self.slots += extra

    def update(self, slots: Array, ids: Array | None, column: Column | None, row_count: int) -> None:
        """Adds rows: row i belongs to slots[ids[i]] (ids None: every row to slots[0])."""
        if self.strict and column is not None and column.validity is not None:
            keep = column.validity
            if not keep.all():
                column = column.filter(keep)
                ids = None if ids is None else ids[keep]
                row_count = len(column)
        if not row_count:
            return
        if ids is None:
            self.add(int(slots[0]), column, row_count)
        else:
            self.combine(slots, self.reduce(ids, len(slots), column, row_count))

    def merge(self, other: Accumulator, slots: Array) -> None:
        """Adds the first len(slots) groups of `other`: its group g joins slots[g]. The slots are distinct."""
        count = len(slots)
        self.combine(slots, [array[:count] for array in other.arrays])

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        """Adds rows of one group."""
        raise NotImplementedError

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        """Partial arrays of `count` groups, in the layout of `arrays`."""
        raise NotImplementedError

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        """Adds partial arrays to distinct slots."""
        raise NotImplementedError

    def result(self, slots: Array) -> Column:
        raise NotImplementedError

    def dump(self, slot: int) -> list[Any]:
        return [array[slot].item() if isinstance(array[slot], np.generic) else array[slot] for array in self.arrays]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        for array, value in zip(self.arrays, values, strict=True):
            array[slot] = value

    def reset(self, slots: Array) -> None:
        for array, fill in zip(self.arrays, self.empty(), strict=True):
            array[slots] = fill

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays)


def _filled(count: int, fill: Any, dtype: Any) -> Array:
    """np.full, which costs more than np.zeros where few slots are made."""
    if fill is None or fill != 0:
        result: Array = np.full(count, fill, dtype)
        return result
    return np.zeros(count, dtype)


class CountAccumulator(Accumulator):
    """count_star and count."""

    dtypes = (np.int64,)

    def empty(self) -> Sequence[Any]:
        return (0,)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        self.arrays[0][slot] += row_count

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        return [np.bincount(ids, minlength=count)]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] += partial[0]

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
        low, top = value_range(self.type)
        if len(total) and (high.any() or extremes(total)[0] < low or extremes(total)[1] > top):
            bad = (high != 0) | (total < low) | (total > top)
            row = int(np.argmax(bad))
            found = int(total[row]) + int(high[row]) * _TWO_64
            raise EvaluationError(f"sum overflow: {show(self.type, found)} is outside the range of {self.type}")
        return Column(self.type, total, valid)

    def dump(self, slot: int) -> list[Any]:
        total, high, count = (int(array[slot]) for array in self.arrays)
        return [total + high * _TWO_64, count]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        total, high = _split([values[0]], 1)
        super().load(slot, [total[0], high[0], values[1]])


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


# --- least and greatest -------------------------------------------------------------------------------------------


class ExtremeAccumulator(Accumulator):
    """min and max of fixed-width values, bool_and and bool_or. NaN is the greatest value."""

    def __init__(self, type: DataType, argument: DataType | None, largest: bool) -> None:
        super().__init__(type, argument)
        dtype = np.dtype(type.physical)
        self.dtypes = (dtype, np.bool_)
        self.fill: Any
        if type.is_float:
            # fmin skips NaN while a number is there, maximum keeps NaN: both make it the greatest.
            self.apply: Any = np.maximum if largest else np.fmin
            self.fill = -math.inf if largest else math.nan
        else:
            self.apply = np.maximum if largest else np.minimum
            if dtype == np.bool_:
                self.fill = not largest
            else:
                self.fill = np.iinfo(dtype).min if largest else np.iinfo(dtype).max

    def empty(self) -> Sequence[Any]:
        return (self.fill, False)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        values = column.values
        best = values[0] if row_count == 1 else self.apply.reduce(values)
        self.arrays[0][slot] = self.apply(self.arrays[0][slot], best)
        self.arrays[1][slot] = True

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        best = np.full(count, self.fill, self.dtypes[0])
        seen = np.zeros(count, dtype=bool)
        self.apply.at(best, ids, column.values)
        seen[ids] = True
        return [best, seen]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] = self.apply(self.arrays[0][slots], partial[0])
        self.arrays[1][slots] |= partial[1]

    def result(self, slots: Array) -> Column:
        seen = self.arrays[1][slots]
        return Column(self.type, self.arrays[0][slots], None if seen.all() else seen)


def _coded_result(type: DataType, values: Array) -> Column:
    return from_values(type, values.tolist())


class TextExtreme(Accumulator):
    """min and max of strings and blobs: the slots hold the values themselves, None for none."""

    dtypes = (object,)

    def __init__(self, type: DataType, argument: DataType | None, largest: bool) -> None:
        super().__init__(type, argument)
        self.largest = largest
        self._ranked: tuple[Dictionary, int, Array, list[Any]] | None = None

    def empty(self) -> Sequence[Any]:
        return (None,)

    def _ranks(self, column: Column) -> tuple[Array, list[Any]]:
        """The rank of each row's value and the values in rank order. The order of a whole dictionary is kept while it
        does not grow, when it is not much larger than the batch."""
        dictionary = column.dictionary
        assert dictionary is not None
        kept = self._ranked
        size = len(dictionary)
        if kept is not None and kept[0] is dictionary and kept[1] == size:
            return kept[2][column.values], kept[3]
        whole = size <= 4 * len(column)
        used = np.arange(size) if whole else distinct_codes(column)
        values = dictionary.values
        ordered = sorted(used.tolist(), key=values.__getitem__)
        spelled = [values[code] for code in ordered]
        if whole:
            table = np.empty(size, dtype=np.int64)
            table[ordered] = np.arange(size)
            self._ranked = (dictionary, size, table, spelled)
            return table[column.values], spelled
        table = np.empty(len(used), dtype=np.int64)
        table[np.searchsorted(used, ordered)] = np.arange(len(used))
        return table[np.searchsorted(used, column.values)], spelled

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        assert column.dictionary is not None
        values = column.dictionary.values
        found = [values[code] for code in distinct_codes(column).tolist()]
        self._keep(slot, max(found) if self.largest else min(found))

    def _keep(self, slot: int, value: Any) -> None:
        old = self.arrays[0][slot]
        if old is None or (value > old if self.largest else value < old):
            self.arrays[0][slot] = value

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        ranks, spelled = self._ranks(column)
        best: Array = np.full(count, None, dtype=object)
        apply = np.maximum if self.largest else np.minimum
        none = -1 if self.largest else len(spelled)
        least = np.full(count, none, dtype=np.int64)
        apply.at(least, ids, ranks)
        for group, rank in enumerate(least.tolist()):
            if rank != none:
                best[group] = spelled[rank]
        return [best]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        for slot, value in zip(slots.tolist(), partial[0].tolist(), strict=True):
            if value is not None:
                self._keep(slot, value)

    def result(self, slots: Array) -> Column:
        return _coded_result(self.type, self.arrays[0][slots])


# --- first and last -----------------------------------------------------------------------------------------------


class PositionAccumulator(Accumulator):
    """first, last (NULLs count) and any_value (they do not). Arrays: the value; 0 no row, 1 NULL, 2 a value."""

    def __init__(self, type: DataType, argument: DataType | None, function: str) -> None:
        super().__init__(type, argument)
        self.strict = function == "any_value"
        self.latest = function == "last"
        self.dtypes = (object if type.is_coded else np.dtype(type.physical), np.int8)

    def empty(self) -> Sequence[Any]:
        return (None if self.type.is_coded else 0, 0)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        if not self.latest and self.arrays[1][slot]:
            return
        row = row_count - 1 if self.latest else 0
        values = column.values if column.dictionary is None else column.dictionary.values
        present = column.validity is None or bool(column.validity[row])
        self.arrays[1][slot] = 2 if present else 1
        if present:
            self.arrays[0][slot] = values[row] if column.dictionary is None else values[int(column.values[row])]

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        rows = np.full(count, -1, dtype=np.int64)
        if self.latest:
            rows[ids] = np.arange(row_count)
        else:
            rows[ids[::-1]] = np.arange(row_count - 1, -1, -1)
        seen = rows >= 0
        picked = column.take(np.maximum(rows, 0))
        state = np.where(seen, 2 if picked.validity is None else 1 + picked.validity, 0).astype(np.int8)
        values = picked.decoded() if picked.dictionary is not None else picked.values
        return [values, state]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        values, state = partial
        take = state > 0 if self.latest else (state > 0) & (self.arrays[1][slots] == 0)
        chosen = slots[take]
        self.arrays[0][chosen] = values[take]
        self.arrays[1][chosen] = state[take]

    def result(self, slots: Array) -> Column:
        values, present = self.arrays[0][slots], self.arrays[1][slots] == 2
        if self.type.is_coded:
            values[~present] = None
            return _coded_result(self.type, values)
        return Column(self.type, values, None if present.all() else present)


# --- distinct -----------------------------------------------------------------------------------------------------

_NAN = math.nan


def canonical(value: Any) -> Any:
    """A physical value that equals itself in sets and dictionaries: one NaN, one zero."""
    if isinstance(value, float):
        return _NAN if value != value else value + 0.0
    return value


class DistinctAccumulator(Accumulator):
    """count, sum, avg and spreads over distinct values: each slot holds the set of its values."""

    dtypes = (object,)

    def __init__(self, type: DataType, argument: DataType, function: str) -> None:
        super().__init__(type, argument)
        self.function = function

    def empty(self) -> Sequence[Any]:
        return (None,)

    def _values(self, column: Column | None) -> list[Any]:
        assert column is not None
        assert self.argument is not None
        values: list[Any] = column.decoded().tolist() if column.dictionary is not None else column.values.tolist()
        return [canonical(v) for v in values] if self.argument.is_float else values

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        held = self.arrays[0]
        if held[slot] is None:
            held[slot] = set()
        held[slot].update(self._values(column))

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        sets: Array = np.full(count, None, dtype=object)
        for group, value in set(zip(ids.tolist(), self._values(column), strict=True)):
            if sets[group] is None:
                sets[group] = set()
            sets[group].add(value)
        return [sets]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        held = self.arrays[0]
        for slot, values in zip(slots.tolist(), partial[0], strict=True):
            if values is None:
                continue
            if held[slot] is None:
                held[slot] = set(values)
            else:
                held[slot] |= values

    def result(self, slots: Array) -> Column:
        assert self.argument is not None
        sets = [() if values is None else values for values in self.arrays[0][slots]]
        if self.function == "count":
            return Column(BIGINT, np.array([len(values) for values in sets], dtype=np.int64))
        inner = accumulator(self.function, self.type, self.argument)
        inner.resize(len(sets))
        ids = np.repeat(np.arange(len(sets)), [len(values) for values in sets])
        members = [value for values in sets for value in sorted(values)]
        if members:
            column = from_values(self.argument, members)
            inner.update(np.arange(len(sets)), ids if len(sets) > 1 else None, column, len(members))
        return inner.result(np.arange(len(sets)))

    def dump(self, slot: int) -> list[Any]:
        values = self.arrays[0][slot]
        return [None if values is None else tuple(sorted(values))]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        self.arrays[0][slot] = None if values[0] is None else {canonical(v) for v in values[0]}

    @property
    def nbytes(self) -> int:
        return sum(100 * len(values) for values in self.arrays[0] if values is not None) if self.arrays else 0


_SPREADS = ("stddev_samp", "stddev_pop", "var_samp", "var_pop")
_SAME_WHEN_DISTINCT = ("min", "max", "bool_and", "bool_or", "first", "last", "any_value")


def accumulator(function: str, type: DataType, argument: DataType | None, distinct: bool = False) -> Accumulator:
    """A fresh accumulator without slots."""
    if function in ("count_star", "count") and not distinct:
        return CountAccumulator(type, argument)
    assert argument is not None
    if distinct and function not in _SAME_WHEN_DISTINCT:
        return DistinctAccumulator(type, argument, function)
    if function in ("sum", "avg"):
        kind = SumFloats if argument.is_float else SumIntegers
        return kind(type, argument, function == "avg")
    if function in _SPREADS:
        return SpreadAccumulator(type, argument, function)
    if function in ("min", "max"):
        extreme = TextExtreme if type.is_coded else ExtremeAccumulator
        return extreme(type, argument, function == "max")
    if function in ("bool_and", "bool_or"):
        return ExtremeAccumulator(BOOLEAN, argument, function == "bool_or")
    if function in ("first", "last", "any_value"):
        return PositionAccumulator(type, argument, function)
    raise InternalError(f"no accumulator for aggregate {function}")


def is_distinct_set(aggregation: Aggregation) -> bool:
    """Whether DISTINCT changes the aggregation's value, so that the distinct values must be kept."""
    return aggregation.distinct and aggregation.function not in _SAME_WHEN_DISTINCT


def accumulator_of(aggregation: Aggregation) -> Accumulator:
    argument = aggregation.args[0].type if aggregation.args else None
    return accumulator(aggregation.function, aggregation.type, argument, aggregation.distinct)
