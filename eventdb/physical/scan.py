"""LogScan: rows of a topic in offset order, a morsel at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import InternalError
from eventdb.logical.plan import Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.event_headers import headers_column
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator
from eventdb.physical.skipping import find_parts
from eventdb.schema import DataType

_Reader = Callable[[Any], Column]


class LogScan(Operator):
    """Reads only the columns of the plan; segments outside the offsets or the time range are not touched."""

    def __init__(self, plan: Scan, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan
        self.skipped_segment_count = self.skipped_block_count = 0
        self._part: Any = None
        self._first_row = 0

    def locate(self, row: int) -> int | None:
        return offset_at(self._part, self._first_row + row)

    def label(self) -> str:
        skipped = f" ({self.skipped_segment_count} segments skipped by time)" if self.skipped_segment_count else ""
        blocks = f" ({self.skipped_block_count} blocks skipped by statistics)" if self.skipped_block_count else ""
        return self.plan.label() + skipped + blocks

    def produce(self) -> Iterator[RecordBatch]:
        found = find_parts(self.plan, self.context)
        self.skipped_segment_count, self.skipped_block_count = found.skipped_segment_count, found.skipped_block_count
        for log, parts in found.groups:
            yield from self._produce(log, parts)

    def _produce(self, log: Any, parts: list[Any]) -> Iterator[RecordBatch]:
        plan, context = self.plan, self.context
        readers = [self._reader(log, f.type, name) for f, name in zip(plan.output, plan.columns, strict=True)]
        for part in parts:
            context.cancel.check()
            columns = [read(part) for read in readers]
            count = part.row_count
            self._part, self._first_row = part, 0
            if count <= MORSEL_ROWS:
                yield RecordBatch(self.names, columns, count)
                continue
            for first in range(0, count, MORSEL_ROWS):
                last = min(first + MORSEL_ROWS, count)
                self._first_row = first
                yield RecordBatch(self.names, [column.slice(first, last) for column in columns], last - first)

    def _reader(self, log: Any, type: DataType, name: str) -> _Reader:
        """How to get one column of a segment slice."""
        if name == "_offset":
            return lambda part: Column(type, offsets_of(part))
        if name == "_partition":
            partition = getattr(log, "partition", 0)
            return lambda part: Column(type, np.full(part.row_count, partition, dtype=type.physical))
        if name == "_headers":
            return lambda part: headers_column(self.context.snapshot, log, part.first_offset, part.row_count)
        if name == "_append_time" or (name == "_time" and log.event_time is None):
            return lambda part: Column(type, part.append_times())
        if name == "_time":
            position = log.event_time
        elif name == "_key":
            key = self.context.topic_key(self.plan.topic_id)
            if key is None:
                return lambda part: null_column(type, part.row_count)
            position = log.schema.index_of(key)
        else:
            position = log.schema.index_of(name)
        return lambda part: _stored(part.column(position), type, name)


def offsets_of(part: Any) -> Array:
    """The int64 offsets of a slice's rows."""
    listed: Array | None = getattr(part, "offsets", None)
    if listed is not None:
        return listed
    return np.arange(part.first_offset, part.first_offset + part.row_count, dtype=np.int64)


def offset_at(part: Any, row: int) -> int:
    """The offset of one row of a slice."""
    listed: Array | None = getattr(part, "offsets", None)
    return part.first_offset + row if listed is None else int(listed[row])


def _stored(column: Column, type: DataType, name: str) -> Column:
    if column.type == type:
        return column
    if column.type.name == "DATE" and type.name == "TIMESTAMP":  # _time of a topic whose event time is a DATE
        return Column(type, column.values.astype(np.int64) * 86_400_000_000, column.validity)
    raise InternalError(f"column {name} is stored as {column.type} but was bound as {type}")
