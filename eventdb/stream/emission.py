"""What a continuous query hands out: appended rows, or changes of rows that are revised.

A change is one row and what happened to it: `+I` it appeared, `-U` it was this and is being replaced, `+U` it is this
now, `-D` it disappeared. Adding up the weights (+1 for +I and +U, -1 for -U and -D) gives the content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.schema import DataType

INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE = range(4)
OPS = ("+I", "-U", "+U", "-D")
_WEIGHTS = np.array([1, -1, 1, -1], dtype=np.int64)


class Change(NamedTuple):
    """`row` holds Python values. `offset` is the input row that caused it.

    Of a row that is handed on that is its own offset, of a closed window's row the offset that closed it, of a revised
    group the last offset taken into account.
    """

    op: str
    row: tuple[Any, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes in order. `ops` are uint8 positions in OPS, `offsets` int64; `batch.weight` is +1 or -1."""

    batch: RecordBatch
    ops: Array
    offsets: Array

    def __len__(self) -> int:
        return self.batch.row_count

    def __iter__(self) -> Iterator[Change]:
        for op, row, offset in zip(self.ops.tolist(), self.batch.to_pylist(), self.offsets.tolist(), strict=True):
            yield Change(OPS[op], row, offset)

    @staticmethod
    def inserted(batch: RecordBatch, offsets: Array) -> Changes:
        """Every row as +I."""
        count = batch.row_count
        rows = RecordBatch(batch.names, batch.columns, count, np.ones(count, dtype=np.int64))
        return Changes(rows, np.zeros(count, dtype=np.uint8), offsets)


class LatestRows:
    """The last row handed out for each group, by group id, in columns: what a change is measured against.

    Group ids must be small integers that never change their meaning. Memory: one output row a group.
    """

    __slots__ = ("_capacity", "_columns", "_names", "_visible")

    def __init__(self, names: Sequence[str], types: Sequence[DataType]) -> None:
        self._names = tuple(names)
        self._capacity = 0
        self._visible = np.zeros(0, dtype=bool)
        self._columns = [_LatestColumn(type) for type in types]

    def move(self, touched: Array, current: RecordBatch, current_ids: Array, offset: int) -> Changes:
        """The changes from what was handed out to `current`, for the groups `touched` (ascending, distinct).

        `current` holds the rows of `current_ids`, a subset of `touched`; touched groups not among them have no row now.
        From here on `current` counts as handed out. Groups whose row stayed the same give no change.
        """
        if len(touched) and int(touched[-1]) >= self._capacity:
            self._grow(int(touched[-1]) + 1)
        order = None
        if len(current_ids) > 1 and bool((current_ids[1:] < current_ids[:-1]).any()):
            order = np.argsort(current_ids, kind="stable")
            current, current_ids = current.take(order), current_ids[order]
        was = self._visible[current_ids]
        codes = [mine.recode(column) for mine, column in zip(self._columns, current.columns, strict=True)]
        changed = ~was
        for mine, column, values in zip(self._columns, current.columns, codes, strict=True):
            changed |= mine.differs(current_ids, values, column.validity)
        gone_ids = touched[self._visible[touched]]
        if len(gone_ids) and len(current_ids):
            gone_ids = gone_ids[~np.isin(gone_ids, current_ids, assume_unique=True)]
        new_rows = np.flatnonzero(changed)
        new_ids = current_ids[new_rows]
        replaced = was[new_rows]
        # Sorted by group, the old row of a group directly before its new one.
        ids = np.concatenate((gone_ids, new_ids[replaced], new_ids))
        ops = np.concatenate(
            (
                np.full(len(gone_ids), DELETE, dtype=np.uint8),
                np.full(int(np.count_nonzero(replaced)), UPDATE_BEFORE, dtype=np.uint8),
                np.where(replaced, UPDATE_AFTER, INSERT).astype(np.uint8),
            )
        )
        old_count = len(ids) - len(new_ids)
        sequence = np.argsort(ids, kind="stable")
        columns = []
        for mine, column, values in zip(self._columns, current.columns, codes, strict=True):
            columns.append(mine.change(ids[:old_count], new_rows, values, column.validity).take(sequence))
            mine.put(new_ids, values[new_rows], None if column.validity is None else column.validity[new_rows])
        self._visible[gone_ids] = False
        self._visible[new_ids] = True
        ops = ops[sequence]
        batch = RecordBatch(self._names, columns, len(ops), _WEIGHTS[ops])
        return Changes(batch, ops, np.full(len(ops), offset, dtype=np.int64))

    def _grow(self, needed: int) -> None:
        self._capacity = max(needed, 2 * self._capacity, 64)
        self._visible = _grown(self._visible, self._capacity)
        for column in self._columns:
            column.grow(self._capacity)


def _grown(array: Array, capacity: int) -> Array:
    larger = np.zeros(capacity, dtype=array.dtype)
    larger[: len(array)] = array
    return larger


class _LatestColumn:
    """One column of LatestRows. Strings are codes of a dictionary of its own, so rows of any source compare."""

    __slots__ = ("_codes", "dictionary", "present", "type", "values")

    def __init__(self, type: DataType) -> None:
        self.type = type
        self.values = np.zeros(0, dtype=type.physical)
        self.present = np.zeros(0, dtype=bool)
        self._codes: dict[Any, int] = {}
        self.dictionary: Dictionary | None = None
        if type.is_coded:
            self.dictionary = Dictionary(["" if type.name == "VARCHAR" else b""])
            self._codes[self.dictionary.values[0]] = 0

    def grow(self, capacity: int) -> None:
        self.values = _grown(self.values, capacity)
        self.present = _grown(self.present, capacity)

    def recode(self, column: Column) -> Array:
        """The column's values, as codes of this dictionary for strings."""
        if self.dictionary is None:
            return column.values
        codes, known = self._codes, self.dictionary.values
        out = np.empty(len(column), dtype=np.int32)
        for i, value in enumerate(column.decoded().tolist()):
            code = codes.get(value)
            if code is None:
                code = codes[value] = len(known)
                known.append(value)
            out[i] = code
        return out

    def differs(self, ids: Array, values: Array, validity: Array | None) -> Array:
        """Where the row's value is not the one last handed out; NaN equals NaN, NULL equals NULL."""
        old = self.values[ids]
        unequal = old != values
        if self.type.is_float:
            unequal &= ~(np.isnan(old) & np.isnan(values))
        was = self.present[ids]
        if validity is None:
            return unequal | ~was
        return (was != validity) | (was & validity & unequal)

    def change(self, old_ids: Array, new_rows: Array, values: Array, validity: Array | None) -> Column:
        """The old values of `old_ids`, then the new values of `new_rows`."""
        present = np.ones(len(new_rows), dtype=bool) if validity is None else validity[new_rows]
        present = np.concatenate((self.present[old_ids], present))
        both = np.concatenate((self.values[old_ids], values[new_rows]))
        return Column(self.type, both, None if present.all() else present, self.dictionary)

    def put(self, ids: Array, values: Array, validity: Array | None) -> None:
        self.values[ids] = values
        self.present[ids] = True if validity is None else validity
