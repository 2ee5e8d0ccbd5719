"""Extremes: min and max of values that come and go."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.operands import from_values, python_values
from eventdb.schema import DataType


class _Held:
    """The distinct values of a group in order, and how often each is there."""

    __slots__ = ("counts", "order")

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}
        self.order: list[Any] = []

    def add(self, value: Any, count: int) -> None:
        before = self.counts.get(value, 0)
        after = before + count
        if after:
            self.counts[value] = after
            if not before:
                insort(self.order, value)
        elif before:
            del self.counts[value]
            del self.order[bisect_left(self.order, value)]


class Extremes(Accumulator):
    """Keeps every distinct value of a group. Floats are kept as (is NaN, value): NaN is the greatest."""

    dtypes = (object,)
    reversible = True

    def __init__(self, type: DataType, largest: bool) -> None:
        super().__init__(type, type)
        self._place = -1 if largest else 0

    def empty(self) -> Sequence[Any]:
        return (None,)

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        self.combine(np.array([slot]), self.reduce(np.zeros(row_count, dtype=np.int64), 1, column, row_count))

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        assert column is not None
        values = python_values(column, np.arange(row_count))
        if self.type.is_float:
            values = [(True, 0.0) if value != value else (False, value + 0.0) for value in values]
        parts: Array = np.full(count, None, dtype=object)
        for (group, value), times in Counter(zip(ids.tolist(), values, strict=True)).items():
            if parts[group] is None:
                parts[group] = []
            parts[group].append((value, times))
        return [parts]

    def opposite(self, partial: list[Array]) -> list[Array]:
        for part in partial[0]:
            if part is not None:
                part[:] = [(value, -times) for value, times in part]
        return partial

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        held = self.arrays[0]
        for slot, part in zip(slots.tolist(), partial[0], strict=True):
            if part is None:
                continue
            if held[slot] is None:
                held[slot] = _Held()
            for value, times in part:
                held[slot].add(value, times)

    def result(self, slots: Array) -> Column:
        found = [held.order[self._place] if held is not None and held.order else None for held in self.arrays[0][slots]]
        if self.type.is_float:
            found = [value if value is None else float("nan") if value[0] else value[1] for value in found]
        return from_values(self.type, found)

    def dump(self, slot: int) -> list[Any]:
        held = self.arrays[0][slot]
        if held is None:
            return [(), ()]
        return [tuple(held.order), tuple(held.counts[value] for value in held.order)]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        held = self.arrays[0][slot] = _Held()
        held.order = list(values[0])
        held.counts = dict(zip(values[0], values[1], strict=True))

    @property
    def nbytes(self) -> int:
        return 200 * sum(len(held.order) for held in self.arrays[0] if held is not None) if self.arrays else 0
