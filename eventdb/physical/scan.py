"""LogScan: rows of a topic in offset order, a morsel at a time. KeyLookup: the rows of a table that have given keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import InternalError
from eventdb.logical.plan import Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.event_headers import headers_column
from eventdb.physical.morsels import submit
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
        for readers, parts in self.found():
            yield from self._produce(readers, parts)

    def found(self) -> Iterator[tuple[list[_Reader], Iterable[Any]]]:
        """The slices to read, of one log after another, with what reads each column of one."""
        found = find_parts(self.plan, self.context)
        self.skipped_segment_count, self.skipped_block_count = found.skipped_segment_count, found.skipped_block_count
        for log, parts in found.groups:
            yield self.readers(log), parts

    def _produce(self, readers: list[_Reader], parts: Iterable[Any]) -> Iterator[RecordBatch]:
        # The text of headers is looked up in the snapshot, which belongs to this thread.
        threads = 1 if "_headers" in self.plan.columns else self.context.threads
        for part, columns in read_ahead(parts, readers, threads):
            self.context.cancel.check()
            count = part.row_count
            self._part, self._first_row = part, 0
            if count <= MORSEL_ROWS:
                yield RecordBatch(self.names, columns, count)
                continue
            for first in range(0, count, MORSEL_ROWS):
                last = min(first + MORSEL_ROWS, count)
                self._first_row = first
                yield RecordBatch(self.names, [column.slice(first, last) for column in columns], last - first)

    def readers(self, log: Any) -> list[_Reader]:
        """What reads each of the plan's columns of a slice of the log."""
        return [self._reader(log, f.type, name) for f, name in zip(self.plan.output, self.plan.columns, strict=True)]

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


def read_ahead(
    parts: Iterable[Any], readers: Sequence[_Reader], threads: int
) -> Iterator[tuple[Any, list[Column]]]:  # fmt: skip
    """Each part with its columns. Once a second sealed part is asked for, threads decode those that follow."""
    running: deque[tuple[Any, Future[list[Column]]]] = deque()

    def read(part: Any) -> list[Column]:
        return [reader(part) for reader in readers]

    try:
        for number, part in enumerate(parts):
            if number == 0 or threads < 2 or not hasattr(part, "has_nulls"):
                while running:
                    yield running[0][0], running.popleft()[1].result()
                yield part, read(part)
                continue
            running.append((part, submit(threads, read, part)))
            if len(running) > threads:
                yield running[0][0], running.popleft()[1].result()
        while running:
            yield running[0][0], running.popleft()[1].result()
    finally:
        for _, future in running:
            future.cancel()


class KeyLookup(LogScan):
    """Finds the rows of the plan's keys through the table's index, whatever the table's size; in offset order."""

    def found(self) -> Iterator[tuple[list[_Reader], Iterable[Any]]]:
        for log in self.context.logs_of(self.plan.topic_id, self.plan.partition):
            yield self.readers(log), self._find(log)

    def _find(self, log: Any) -> Iterator[Any]:
        plan, snapshot = self.plan, self.context.snapshot
        assert plan.keys is not None
        low, high = plan.start_offset or 0, plan.stop_offset
        offsets = [o for o in snapshot.key_offsets(log, plan.keys) if o >= low and (high is None or o < high)]
        for start, stop in _runs(offsets):
            yield from snapshot.slices(log, start, stop)


def _runs(offsets: list[int]) -> Iterator[tuple[int, int]]:
    """[start, stop) of ascending offsets that follow each other."""
    for i, offset in enumerate(offsets):
        if not i or offset != offsets[i - 1] + 1:
            start = offset
        if i + 1 == len(offsets) or offsets[i + 1] != offset + 1:
            yield start, offset + 1


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
