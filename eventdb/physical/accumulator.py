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

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import InternalError
from eventdb.schema import DataType


class Accumulator(ABC):
    """One aggregation over many groups."""

    strict = True
    """Whether rows whose argument is NULL are left out before `reduce`."""
    reversible = False
    """Whether `update` can take rows away."""

    def __init__(self, type: DataType, argument: DataType | None) -> None:
        self.type = type
        self.argument = argument
        self.slots = 0
        self.arrays: list[Array] = []

    @abstractmethod
    def empty(self) -> Sequence[Any]:
        """The value of a fresh slot in each of `arrays`, which have the dtypes of `dtypes`."""

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

    @np.errstate(all="ignore")  # infinities and NaN are values here, not accidents
    def update(
        self, slots: Array, ids: Array | None, column: Column | None, row_count: int, *, taken: bool = False
    ) -> None:
        """Adds rows: row i belongs to slots[ids[i]] (ids None: every row to slots[0]). `taken`: takes them away, which
        only a reversible one can."""
        if self.strict and column is not None and column.validity is not None:
            keep = column.validity
            if not keep.all():
                column = column.filter(keep)
                ids = None if ids is None else ids[keep]
                row_count = len(column)
        if not row_count:
            return
        if taken:
            ids = np.zeros(row_count, dtype=np.int64) if ids is None else ids
            self.combine(slots, self.opposite(self.reduce(ids, len(slots), column, row_count)))
        elif ids is None:
            self.add(int(slots[0]), column, row_count)
        else:
            self.combine(slots, self.reduce(ids, len(slots), column, row_count))

    @np.errstate(all="ignore")
    def merge(self, other: Accumulator, slots: Array) -> None:
        """Adds the first len(slots) groups of `other`: its group g joins slots[g]. The slots are distinct."""
        count = len(slots)
        self.combine(slots, [array[:count] for array in other.arrays])

    @abstractmethod
    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        """Adds rows of one group."""

    @abstractmethod
    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        """Partial arrays of `count` groups, in the layout of `arrays`."""

    @abstractmethod
    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        """Adds partial arrays to distinct slots."""

    def opposite(self, partial: list[Array]) -> list[Array]:
        """What takes away what `partial` adds."""
        raise InternalError(f"{type(self).__name__} cannot take rows away")

    @abstractmethod
    def result(self, slots: Array) -> Column:
        """The value of each slot."""

    def dump(self, slot: int) -> list[Any]:
        return [array[slot].item() if isinstance(array[slot], np.generic) else array[slot] for array in self.arrays]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        for array, value in zip(self.arrays, values, strict=True):
            array[slot] = value

    def reset(self, slots: Array) -> None:
        for array, fill in zip(self.arrays, self.empty(), strict=True):
            array[slots] = fill

    def taken(self, slots: Array) -> Accumulator:
        """A copy that holds some slots alone, in this order."""
        new = copy.copy(self)
        new.arrays, new.slots = [array[slots] for array in self.arrays], len(slots)
        return new

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays)


def _filled(count: int, fill: Any, dtype: Any) -> Array:
    """np.full, which costs more than np.zeros where few slots are made."""
    if fill is None or fill != 0:
        result: Array = np.full(count, fill, dtype)
        return result
    return np.zeros(count, dtype)


class OperationAccumulator(Accumulator):
    """One operation over all values of a group. Arrays: what it gives so far, whether there was a value."""

    def __init__(self, type: DataType, argument: DataType | None, apply: Any, fill: Any) -> None:
        """`apply` is a ufunc that takes its operands in any order, `fill` changes nothing."""
        super().__init__(type, argument)
        self.apply, self.fill = apply, fill
        self.dtypes = (np.dtype(type.physical), np.bool_)

    def empty(self) -> Sequence[Any]:
        return (self.fill, False)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        assert column is not None
        found = column.values[0] if row_count == 1 else self.apply.reduce(column.values)
        self.arrays[0][slot] = self.apply(self.arrays[0][slot], found)
        self.arrays[1][slot] = True

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        found = np.full(count, self.fill, self.dtypes[0])
        self.apply.at(found, ids, column.values)
        seen = np.zeros(count, dtype=bool)
        seen[ids] = True
        return [found, seen]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        self.arrays[0][slots] = self.apply(self.arrays[0][slots], partial[0])
        self.arrays[1][slots] |= partial[1]

    def result(self, slots: Array) -> Column:
        seen = self.arrays[1][slots]
        return Column(self.type, self.arrays[0][slots], None if seen.all() else seen)
