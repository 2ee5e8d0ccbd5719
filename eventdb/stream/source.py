"""New rows of the input topic, as a continuous query reads them: its columns, event times, append times, offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import InternalError
from eventdb.physical.operands import null_column
from eventdb.schema import TIMESTAMP, DataType
from eventdb.stream.program import Program, TopicFacts

if TYPE_CHECKING:
    from eventdb.storage.sealed.blocks import SealedSlice
    from eventdb.storage.segment.columns import SegmentSlice
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.tail import LogTail
    from eventdb.storage.snapshot import StoreSnapshot


@dataclass(frozen=True, slots=True)
class InputRows:
    """Rows [first_offset, first_offset + row_count) of the topic. `batch` holds the columns of the program's Scan.

    `event_times` is None when the topic has no watermark, `append_times` also when it has no MAX FUTURE.
    """

    first_offset: int
    row_count: int
    batch: RecordBatch
    event_times: Column | None
    append_times: Array | None

    @property
    def end_offset(self) -> int:
        return self.first_offset + self.row_count

    def slice(self, start: int, stop: int) -> InputRows:
        """The rows at positions [start, stop)."""
        stop = min(stop, self.row_count)
        times = None if self.event_times is None else self.event_times.slice(start, stop)
        appended = None if self.append_times is None else self.append_times[start:stop]
        return InputRows(self.first_offset + start, stop - start, self.batch.slice(start, stop), times, appended)


_Column = Callable[["SegmentSlice | SealedSlice"], Column]


class RowReader:
    """Reads what one program needs of its topic. Made once; any thread may use it."""

    __slots__ = ("_columns", "_event_time", "_names", "_with_append_times")

    def __init__(self, program: Program) -> None:
        facts, scan = program.facts, program.scan
        self._names = tuple(field.name for field in scan.output)
        self._columns = [
            _column_reader(facts, name, field.type) for name, field in zip(scan.columns, scan.output, strict=True)
        ]
        has_watermark = facts.event_time is not None and facts.watermark_delay_us is not None
        self._event_time = _column_reader(facts, facts.event_time, TIMESTAMP) if has_watermark else None
        self._with_append_times = has_watermark and facts.max_future_us is not None

    def read(
        self, snapshot: StoreSnapshot | LogTail, log: PartitionLog, start: int, stop: int, row_limit: int
    ) -> Iterator[InputRows]:
        """Rows [start, stop) in offset order, at most `row_limit` at a time; zero-copy where storage is.

        They stay valid as long as they are referenced, after the snapshot too.
        """
        for part in snapshot.slices(log, start, stop):
            rows = self._rows_of(part)
            for position in range(0, rows.row_count, row_limit):
                yield rows if rows.row_count <= row_limit else rows.slice(position, position + row_limit)

    def _rows_of(self, part: SegmentSlice | SealedSlice) -> InputRows:
        count = part.row_count
        batch = RecordBatch(self._names, [column(part) for column in self._columns], count)
        event_times = None if self._event_time is None else self._event_time(part)
        return InputRows(
            part.first_offset, count, batch, event_times, part.append_times() if self._with_append_times else None
        )


def _column_reader(facts: TopicFacts, name: str | None, type: DataType) -> _Column:
    """How to get a column of the topic's schema or a system column from a slice."""
    dtype = np.dtype(type.physical)
    name = name or ""
    position = facts.schema.find(name)
    if position is None and name == "_time" and facts.event_time is not None:
        position = facts.schema.index_of(facts.event_time)
    if position is None and name == "_key" and facts.key is not None:
        position = facts.schema.index_of(facts.key)
    if position is not None:
        index = position
        return lambda part: part.column(index)
    if name == "_offset":
        return lambda part: Column(type, np.arange(part.first_offset, part.first_offset + part.row_count, dtype=dtype))
    if name == "_partition":
        return lambda part: Column(type, np.zeros(part.row_count, dtype=dtype))
    if name in ("_append_time", "_time"):
        return lambda part: Column(TIMESTAMP, part.append_times())
    if name == "_key":
        return lambda part: null_column(type, part.row_count)
    raise InternalError(f"topic {facts.name} has no column {name!r}")
