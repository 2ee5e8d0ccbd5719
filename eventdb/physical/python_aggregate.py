"""Aggregates written in Python: rows of a group kept, or objects that take them one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import InternalError
from eventdb.logical.python_functions import PythonAggregate
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.python_call import column_of, failure
from eventdb.schema import BLOB

_ROW_BYTES = 200  # about what a kept row holds


class PythonAccumulator(Accumulator):
    """One aggregation. A slot holds None, the object that took the group's rows, or, where such objects cannot be
    merged, the rows in their order."""

    dtypes = (object,)

    def __init__(self, aggregate: PythonAggregate) -> None:
        super().__init__(aggregate.returns, BLOB)
        self.aggregate = aggregate
        self._merges = not aggregate.whole and hasattr(aggregate.factory, "merge")
        self._kept = 0

    def empty(self) -> Sequence[Any]:
        return (None,)

    def _guard(self, row: Sequence[Any] | None, work: Callable[..., Any], *arguments: Any) -> Any:
        """What the user's code gives; FunctionError with the row for what it raises."""
        try:
            return work(*arguments)
        except Exception as error:
            raise failure(self.aggregate.name, error, row, True) from error

    def _take(self, held: Any, rows: Sequence[tuple[Any, ...]]) -> Any:
        if not self._merges:
            self._kept += len(rows)
            return list(rows) if held is None else held + list(rows)
        state = self._guard(None, self.aggregate.factory) if held is None else held
        for row in rows:
            self._guard(row, state.step, *row)
        return state

    @staticmethod
    def _rows(column: Column | None) -> list[tuple[Any, ...]]:
        assert column is not None
        assert column.dictionary is not None
        values = column.dictionary.values
        return [values[code].values for code in column.values.tolist()]

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        self.arrays[0][slot] = self._take(self.arrays[0][slot], self._rows(column))

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        groups: list[list[tuple[Any, ...]]] = [[] for _ in range(count)]
        for group, row in zip(ids.tolist(), self._rows(column), strict=True):
            groups[group].append(row)
        states: Array = np.full(count, None, dtype=object)
        for group, rows in enumerate(groups):
            if rows:
                states[group] = self._take(None, rows)
        return [states]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        held = self.arrays[0]
        for slot, state in zip(slots.tolist(), partial[0], strict=True):
            if state is None:
                continue
            if held[slot] is None:
                held[slot] = state
            elif self._merges:
                self._guard(None, held[slot].merge, state)
            else:
                held[slot] = held[slot] + state
        if not self._merges:
            self._kept = sum(len(rows) for rows in held if rows is not None)

    def result(self, slots: Array) -> Column:
        values = [self._value(state) for state in self.arrays[0][slots]]
        return column_of(values, self.aggregate.returns, self.aggregate.name, True)

    def _value(self, state: Any) -> Any:
        aggregate = self.aggregate
        if aggregate.whole:
            return self._guard(None, aggregate.factory, *self._whole(state or []))
        if state is None:
            state = self._guard(None, aggregate.factory)
        elif not self._merges:
            rows, state = state, self._guard(None, aggregate.factory)
            for row in rows:
                self._guard(row, state.step, *row)
        return self._guard(None, state.finalize)

    def _whole(self, rows: list[tuple[Any, ...]]) -> list[Any]:
        """One list or array a parameter."""
        width = len(rows[0]) if rows else len(self.aggregate.arguments)
        lists = [[row[i] for row in rows] for i in range(width)]
        if not self.aggregate.vectorized:
            return lists
        from eventdb.arrow import array_of

        types = self.aggregate.arguments
        return [array_of(values, types[min(i, len(types) - 1)]) for i, values in enumerate(lists)]

    def dump(self, slot: int) -> list[Any]:
        raise InternalError(f"the state of {self.aggregate.name}() cannot be stored")

    @property
    def nbytes(self) -> int:
        return _ROW_BYTES * (self._kept or self.slots)
