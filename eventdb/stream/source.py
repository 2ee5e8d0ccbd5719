"""New rows of the input topic, as a continuous query reads them: its columns, event times, append times, offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import InternalError
from eventdb.schema import TIMESTAMP, DataType
from eventdb.stream.program import Program

if TYPE_CHECKING:
    from eventdb.storage.columns import SegmentSlice
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.snapshot import StoreSnapshot


@dataclass(frozen=True, slots=True)
class InputRows:
    """Rows [first_offset, first_offset + row_count) of the topic. `batch` holds the columns of the program's Scan.

    `event_times` is None when the topic has no event-time column. It stays valid as long as it is referenced.
    """

    first_offset: int
    row_count: int
    batch: RecordBatch
    event_times: Column | None
    append_times: Array

    @property
    def end_offset(self) -> int:
        return self.first_offset + self.row_count

    def slice(self, start: int, stop: int) -> InputRows:
        """The rows at positions [start, stop)."""
        stop = min(stop, self.row_count)
        times = None if self.event_times is None else self.event_times.slice(start, stop)
        rows = self.batch.slice(start, stop)
        return InputRows(self.first_offset + start, stop - start, rows, times, self.append_times[start:stop])


def read_rows(
    program: Program, snapshot: StoreSnapshot, log: PartitionLog, start: int, stop: int, limit: int
) -> Iterator[InputRows]:
    """Rows [start, stop) of the topic in offset order, at most `limit` at a time; zero-copy where storage is."""
    for part in snapshot.slices(log, start, stop):
        rows = rows_of(program, part)
        for position in range(0, rows.row_count, limit):
            yield rows if rows.row_count <= limit else rows.slice(position, position + limit)


def rows_of(program: Program, part: SegmentSlice) -> InputRows:
    """The rows of one slice. Offsets outside the Scan's own bounds are cut away by ContinuousQuery, not here."""
    facts, scan = program.facts, program.scan
    append_times = part.append_times()
    event_times = None
    if facts.event_time is not None:
        event_times = part.column(facts.schema.index_of(facts.event_time))
    columns = []
    for name, field in zip(scan.columns, scan.output, strict=True):
        position = facts.schema.find(name)
        if position is not None:
            columns.append(part.column(position))
        else:
            columns.append(_system_column(program, part, name.lower(), field.type, event_times, append_times))
    names = [field.name for field in scan.output]
    batch = RecordBatch(names, columns, part.row_count)
    return InputRows(part.first_offset, part.row_count, batch, event_times, append_times)


def _system_column(
    program: Program, part: SegmentSlice, name: str, type: DataType, event_times: Column | None, append_times: Array
) -> Column:
    dtype = np.dtype(type.physical)
    if name == "_offset":
        return Column(type, np.arange(part.first_offset, part.first_offset + part.row_count).astype(dtype, copy=False))
    if name == "_partition":
        return Column(type, np.zeros(part.row_count, dtype=dtype))
    if name == "_append_time" or (name == "_time" and event_times is None):
        return Column(TIMESTAMP, append_times)
    if name == "_time" and event_times is not None:
        return event_times
    if name == "_key":
        if program.facts.key is not None:
            return part.column(program.facts.schema.index_of(program.facts.key))
        values: Sequence[None] = [None] * part.row_count
        if type.is_coded:
            return Column.encode(type, values)
        return Column(type, np.zeros(part.row_count, dtype=dtype), np.zeros(part.row_count, dtype=bool))
    raise InternalError(f"topic {program.facts.name} has no column {name!r}")
