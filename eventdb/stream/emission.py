"""What a continuous query hands out: appended rows, or changes of rows that are revised.

A change is one row and what happened to it: `+I` it appeared, `-U` it was this and is being replaced, `+U` it is this
now, `-D` it disappeared. Adding up the weights (+1 for +I and +U, -1 for -U and -D) gives the content.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.physical.operands import from_values
from eventdb.schema import DataType
from eventdb.values import decode_value

INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE = range(4)
OPS = ("+I", "-U", "+U", "-D")
_CODED_VALUES = ("TIMESTAMP", "DATE", "DECIMAL", "INTERVAL")  # physical values that are not yet Python's
_WEIGHTS = (1, -1, 1, -1)

Row = tuple[Any, ...]


class Change(NamedTuple):
    """`row` holds Python values. `offset` is the input row that caused it.

    Of a row that is handed on that is its own offset, of a closed window's row the offset that closed it, of a revised
    group the last offset taken into account.
    """

    op: str
    row: tuple[Any, ...]
    offset: int


class ProgressMessage(Change):
    """Not a change: everything up to the commit `offset` was handed out. `op` is "progress", `row` empty.

    A subscription goes on from here with `token`. `watermark` (naive UTC) is None where nothing has moved it.
    """

    token: str
    watermark: dt.datetime | None

    @staticmethod
    def at(commit_id: int, token: str, watermark: dt.datetime | None) -> ProgressMessage:
        message = ProgressMessage("progress", (), commit_id)
        message.token, message.watermark = token, watermark
        return message


class Changes:
    """Changes in order: iterate for Change tuples, or take `batch` for columns with a weight of +1 or -1. `progress` is
    set in a batch without rows that only tells how far everything was handed out.

    `ops` (uint8) are positions in OPS, `offsets` int64. Each form is made from the other when it is first asked for:
    a change of one row is handed out without making an array.
    """

    __slots__ = ("_batch", "_names", "_offsets", "_ops", "_rows", "_types", "progress")

    def __init__(self, batch: RecordBatch, ops: Sequence[int] | Array, offsets: Sequence[int] | Array) -> None:
        """`batch` carries its weight."""
        self._names = batch.names
        self._types = batch.types
        self._ops = ops
        self._offsets = offsets
        self._batch: RecordBatch | None = batch
        self._rows: list[Row] | None = None
        self.progress: ProgressMessage | None = None

    @staticmethod
    def inserted(batch: RecordBatch, offsets: Sequence[int] | Array) -> Changes:
        """Every row as +I."""
        count = batch.row_count
        weight = np.ones(count, dtype=np.int64)
        return Changes(RecordBatch(batch.names, batch.columns, count, weight), bytes(count), offsets)

    @staticmethod
    def of_rows(
        names: Sequence[str], types: Sequence[DataType], rows: list[Row], ops: Sequence[int],
        offsets: Sequence[int],
    ) -> Changes:  # fmt: skip
        """Rows of physical values, strings as str."""
        changes = object.__new__(Changes)
        changes._names, changes._types = tuple(names), list(types)
        changes._ops, changes._offsets = ops, offsets
        changes._batch, changes._rows = None, rows
        changes.progress = None
        return changes

    def __len__(self) -> int:
        return len(self._ops)

    def __iter__(self) -> Iterator[Change]:
        if self.progress is not None:
            yield self.progress
        types = self._types
        offsets = self._offsets.tolist() if isinstance(self._offsets, np.ndarray) else self._offsets
        coded = [i for i, type in enumerate(types) if type.name in _CODED_VALUES]
        for op, row, offset in zip(self._ops, self.physical_rows, offsets, strict=True):
            if coded:
                values = list(row)
                for i in coded:
                    values[i] = decode_value(types[i], row[i])
                row = tuple(values)
            yield Change(OPS[op], row, offset)

    def head(self, count: int) -> Changes:
        """The first `count` changes."""
        return Changes(self.batch.slice(0, count), self._ops[:count], self._offsets[:count])

    def rest(self, count: int) -> Changes:
        """All but the first `count` changes."""
        return Changes(self.batch.slice(count, len(self)), self._ops[count:], self._offsets[count:])

    def ordered(self) -> Changes:
        """The same changes in an order that depends on nothing but them; -U stays before its +U."""
        if len(self) < 2:
            return self
        rows, ops = self.physical_rows, list(self._ops)
        units = []
        at = 0
        while at < len(ops):
            stop = at + 2 if ops[at] == UPDATE_BEFORE else at + 1
            units.append((ops[at] == INSERT, repr(rows[at:stop]), at, stop))
            at = stop
        units.sort()
        places = [place for _, _, at, stop in units for place in range(at, stop)]
        offsets = self._offsets
        return Changes.of_rows(
            self._names, self._types, [rows[i] for i in places], [ops[i] for i in places], [offsets[i] for i in places]
        )

    @property
    def ops(self) -> Array:
        return np.array(list(self._ops), dtype=np.uint8)

    @property
    def offsets(self) -> Array:
        return np.asarray(self._offsets, dtype=np.int64)

    @property
    def physical_rows(self) -> list[Row]:
        """The rows as tuples of physical values, strings as str."""
        if self._rows is None:
            assert self._batch is not None
            self._rows = physical_rows(self._batch)
        return self._rows

    @property
    def batch(self) -> RecordBatch:
        """The rows as columns, `weight` set."""
        if self._batch is None:
            assert self._rows is not None
            columns = [from_values(type, [row[i] for row in self._rows]) for i, type in enumerate(self._types)]
            weight = np.array([_WEIGHTS[op] for op in self._ops], dtype=np.int64)
            self._batch = RecordBatch(self._names, columns, len(self._rows), weight)
        return self._batch


def physical_rows(batch: RecordBatch) -> list[Row]:
    """Rows as tuples of physical values: int, float, bool, str, bytes, None."""
    if not batch.columns:
        return [()] * batch.row_count
    columns = []
    for column in batch.columns:
        values = column.values.tolist()
        if column.dictionary is not None:
            # For a few rows the array of all the dictionary's values is not worth making.
            spelled = column.dictionary.values
            values = [spelled[code] for code in values] if spelled else [None] * len(values)
        if column.validity is not None:
            values = [value if ok else None for value, ok in zip(values, column.validity.tolist(), strict=True)]
        columns.append(values)
    return list(zip(*columns, strict=True))


class LatestRows:
    """The last row handed out for each group, by group id: what a change is measured against.

    A group's id must never change its meaning. Memory: one output row a group.
    """

    __slots__ = ("_has_floats", "_names", "_rows", "_types")

    def __init__(self, names: Sequence[str], types: Sequence[DataType]) -> None:
        self._names = tuple(names)
        self._types = list(types)
        self._has_floats = any(type.is_float for type in types)
        self._rows: dict[int, Row] = {}

    def move(self, touched: Array, current: RecordBatch, current_ids: Array, offset: int) -> Changes:
        """The changes from what was handed out to `current`, for the groups `touched`, in their order.

        `current` holds the rows of `current_ids`, a subset of `touched`; touched groups not among them have no row now.
        From here on `current` counts as handed out. Groups whose row stayed the same give no change.
        """
        latest = self._rows
        now = dict(zip(current_ids.tolist(), physical_rows(current), strict=True))
        if not latest and len(now) == len(touched):
            self._rows = now
            return Changes.inserted(current, [offset] * len(now))
        ops: list[int] = []
        rows: list[Row] = []
        for group in touched.tolist():
            old, new = latest.get(group), now.get(group)
            if new is None:
                if old is not None:
                    ops.append(DELETE)
                    rows.append(latest.pop(group))
                continue
            latest[group] = new
            if old is None:
                ops.append(INSERT)
                rows.append(new)
            elif old != new and not (self._has_floats and _same(old, new)):
                ops += (UPDATE_BEFORE, UPDATE_AFTER)
                rows += (old, new)
        return Changes.of_rows(self._names, self._types, rows, ops, [offset] * len(ops))


def _same(old: Row, new: Row) -> bool:
    """Whether rows are equal, NaN being equal to itself."""
    return all(a == b or (a != a and b != b) for a, b in zip(old, new, strict=True))
