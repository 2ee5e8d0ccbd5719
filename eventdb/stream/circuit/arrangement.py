"""Arrangement: the rows that are there now, found by key. Rows come and go as changes with weights."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import InternalError
from eventdb.kernels import lane_table
from eventdb.stream.circuit.lanes import RowCodec

_LEAST = 16


class LaneTable:
    """Distinct rows of lanes and their numbers; a number is given again once its row was removed."""

    __slots__ = ("_counts", "_free", "_marks", "_places", "lanes")

    def __init__(self, lane_count: int) -> None:
        self.lanes = np.empty((_LEAST, lane_count), dtype=np.int64)
        self._places = np.full(2 * _LEAST, -1, dtype=np.int64)
        self._free = np.empty(_LEAST, dtype=np.int64)
        self._counts = np.zeros(2, dtype=np.int64)
        self._marks = np.full(_LEAST, -1, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._counts[lane_table.USED] - self._counts[lane_table.FREE])

    @property
    def capacity(self) -> int:
        """Every number is below it."""
        return len(self.lanes)

    @property
    def nbytes(self) -> int:
        return int(self.lanes.nbytes + self._places.nbytes + self._free.nbytes + self._marks.nbytes)

    def numbers(self) -> Array:
        """Those of all rows."""
        return self._places[self._places >= 0]

    def find(self, rows: Array, wanted: Array | None = None) -> Array:
        """The number of each row; -1 where it is not there or not wanted (None: all are)."""
        out = np.empty(len(rows), dtype=np.int64)
        lane_table.find(self._places, self.lanes, rows, _all(rows) if wanted is None else wanted, out)
        return out

    def enter(self, rows: Array, wanted: Array | None = None) -> Array:
        """The number of each row, which is there afterwards; -1 where it is not wanted (None: all are)."""
        wanted = _all(rows) if wanted is None else wanted
        if len(self) + len(rows) > self.capacity:
            self._grow(len(self) + len(rows))
        out = np.empty(len(rows), dtype=np.int64)
        lane_table.enter(self._places, self.lanes, self._free, self._counts, rows, wanted, out)
        return out

    def localized(self, numbers: Array) -> tuple[Array, Array]:
        """The distinct ones of some numbers, in order of appearance, and the position among them of each."""
        if self.capacity > len(self._marks):
            self._marks = extended(self._marks, self.capacity, -1)
        distinct, local = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
        count = lane_table.localize(numbers, self._marks, distinct, local)
        return distinct[:count], local

    def remove(self, numbers: Array) -> None:
        lane_table.remove(self._places, self.lanes, self._free, self._counts, numbers)

    def _grow(self, least: int) -> None:
        capacity = max(2 * self.capacity, 1 << (least - 1).bit_length())
        self.lanes = extended(self.lanes, capacity)
        self._free = extended(self._free, capacity)
        numbers = self.numbers()
        self._places = np.full(2 * capacity, -1, dtype=np.int64)
        lane_table.place_again(self._places, self.lanes, numbers, len(numbers))


def distinct_lanes(lanes: Array) -> Array:
    """Each row once, in order of appearance."""
    table = LaneTable(lanes.shape[1])
    table.enter(lanes)
    found: Array = table.lanes[: len(table)]
    return found


def summed_lanes(lanes: Array, weights: Array) -> tuple[Array, Array]:
    """Each row once, in order of appearance, and the sum of its weights, where that is not 0."""
    table = LaneTable(lanes.shape[1])
    numbers = table.enter(lanes)
    totals = np.zeros(len(table), dtype=np.int64)
    lane_table.add_at(totals, numbers, weights)
    left = np.flatnonzero(totals)
    return table.lanes[left], totals[left]


def _all(rows: Array) -> Array:
    return np.ones(len(rows), dtype=bool)


def extended(array: Array, capacity: int, fill: int | None = None) -> Array:
    """The array with room for so many rows; `fill` for the new ones (None: anything)."""
    result = np.empty((capacity, *array.shape[1:]), dtype=array.dtype)
    result[: len(array)] = array
    if fill is not None:
        result[len(array) :] = fill
    return result


class Notes(Protocol):
    def add(self, weights: Array, *lanes: Array) -> None:
        """Rows came or went."""


class Arrangement:
    """Rows with their weights, each in the chain of its key in order of arrival.

    A change is applied in two steps, so that what refers to a row's slot can be brought up to date in between: `apply`,
    which tells the slots, and `sweep`, after which the slots of rows that are gone may be given to others.
    """

    __slots__ = (
        "_codec", "_following", "_heads", "_keys", "_owners", "_preceding", "_rows", "_tails", "notes", "weights",
    )  # fmt: skip

    def __init__(self, codec: RowCodec, key_lanes: int) -> None:
        self._codec = codec
        self.notes: Notes | None = None  # told of every change
        self._rows = LaneTable(codec.lane_count)
        self._keys = LaneTable(key_lanes)
        self.weights = np.zeros(_LEAST, dtype=np.int64)
        self._owners = np.full(_LEAST, -1, dtype=np.int64)
        self._following = np.full(_LEAST, -1, dtype=np.int64)
        self._preceding = np.full(_LEAST, -1, dtype=np.int64)
        self._heads = np.full(_LEAST, -1, dtype=np.int64)
        self._tails = np.full(_LEAST, -1, dtype=np.int64)

    def __len__(self) -> int:
        """How many distinct rows there are."""
        return len(self._rows)

    @property
    def slot_capacity(self) -> int:
        """Every slot is below it."""
        return len(self.weights)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._keys.nbytes + 32 * len(self.weights) + 16 * len(self._heads)

    def find_keys(self, keys: Array, wanted: Array | None = None) -> Array:
        """The number of each key, -1 for those without rows and where not wanted (None: all are)."""
        return self._keys.find(keys, wanted)

    def apply(self, rows: Array, keys: Array, weights: Array, wanted: Array | None = None) -> Array:
        """Adds weighted rows to what is there; rows not `wanted` are left out. Returns each one's slot (-1: left out).

        InternalError if a row goes that was not there: what is below this is wrong.
        """
        if self.notes is not None:
            if wanted is None or wanted.all():
                self.notes.add(weights, rows, keys)
            else:
                self.notes.add(weights[wanted], rows[wanted], keys[wanted])
        numbers = self._keys.enter(keys, wanted)
        if self._keys.capacity > len(self._heads):
            self._heads = extended(self._heads, self._keys.capacity, -1)
            self._tails = extended(self._tails, self._keys.capacity, -1)
        slots = self._rows.enter(rows, wanted)
        if self._rows.capacity > len(self.weights):
            capacity = self._rows.capacity
            self.weights = extended(self.weights, capacity, 0)
            self._owners = extended(self._owners, capacity, -1)
            self._following = extended(self._following, capacity, -1)
            self._preceding = extended(self._preceding, capacity, -1)
        if lane_table.add_weights(
            numbers, slots, weights, self.weights, self._owners, self._heads, self._tails, self._following,
            self._preceding,
        ):  # fmt: skip
            raise InternalError("a change takes away a row that is not there")
        return slots

    def sweep(self, slots: Array) -> None:
        """Frees those of the slots whose rows are gone."""
        gone, empty = np.empty(len(slots), dtype=np.int64), np.empty(len(slots), dtype=np.int64)
        gone_count, empty_count = lane_table.unlink(
            slots, self.weights, self._owners, self._heads, self._tails, self._following, self._preceding, gone, empty
        )
        if gone_count:
            self._rows.remove(gone[:gone_count])
        if empty_count:
            self._keys.remove(empty[:empty_count])

    def pairs(self, numbers: Array) -> tuple[Array, Array]:
        """(i, slot) for every row there is of the key numbers[i], in order of i, then of arrival."""
        lengths = np.empty(len(numbers), dtype=np.int64)
        count = lane_table.chain_lengths(numbers, self._heads, self._following, self.weights, lengths)
        rows, slots = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        if count:
            lane_table.chain_slots(numbers, self._heads, self._following, self.weights, rows, slots)
        return rows, slots

    def lanes(self, slots: Array) -> Array:
        found: Array = self._rows.lanes[slots]
        return found

    def keys(self, slots: Array) -> Array:
        """The lanes of the keys of the rows in some slots."""
        found: Array = self._keys.lanes[self._owners[slots]]
        return found

    def distinct(self, slots: Array) -> Array:
        """Each slot once, in order of appearance."""
        return self._rows.localized(slots)[0]

    def columns(self, slots: Array) -> list[Column]:
        """The rows in some slots."""
        return self._codec.decode(self._rows.lanes[slots])

    def all_slots(self) -> Array:
        """The slots of all rows there are."""
        return np.flatnonzero((self._owners >= 0) & (self.weights != 0))
