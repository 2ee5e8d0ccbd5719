"""min, max, bool_and, bool_or, first, last and any_value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.physical.accumulator import Accumulator, OperationAccumulator
from eventdb.physical.grouping import distinct_codes
from eventdb.physical.operands import from_values
from eventdb.schema import DataType


class ExtremeAccumulator(OperationAccumulator):
    """min and max of fixed-width values, bool_and and bool_or. NaN is the greatest value."""

    def __init__(self, type: DataType, argument: DataType | None, largest: bool) -> None:
        dtype = np.dtype(type.physical)
        apply: Any = np.maximum if largest else np.minimum
        fill: Any
        if type.is_float:
            # fmin skips NaN while a number is there, maximum keeps NaN: both make it the greatest.
            apply = np.maximum if largest else np.fmin
            fill = -math.inf if largest else math.nan
        elif dtype == np.bool_:
            fill = not largest
        else:
            fill = np.iinfo(dtype).min if largest else np.iinfo(dtype).max
        super().__init__(type, argument, apply, fill)


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
