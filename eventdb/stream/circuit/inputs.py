"""The inputs of a circuit in the store: what came and went between the positions reached so far and a snapshot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import OffsetOutOfRange
from eventdb.logical.plan import OutputField, Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.scan import LogScan, offset_at
from eventdb.stream.circuit.arrangement import Arrangement, distinct_lanes
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.part import Part, RowsPart


class Input(ABC):
    """The logs behind one scan, and how far each was taken in."""

    can_stop = False

    def __init__(self, scan: Scan, logs: Sequence[Any]) -> None:
        self.name = scan.name
        self.topic_id = scan.topic_id
        self.names = [field.name for field in scan.fields]
        self.logs = [log for log in logs if scan.partition is None or log.partition == scan.partition]
        self.positions = [-1] * len(self.logs)  # -1: not begun

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def parts(self) -> Sequence[Part]:
        """Its state, to be stored, beside the positions."""
        return ()

    def is_past(self, snapshot: Any) -> bool:
        """Whether something was taken in that the snapshot does not have."""
        return any(position > snapshot.offsets(log)[1] for position, log in self._reached())

    def is_behind(self, snapshot: Any) -> bool:
        """Whether the snapshot has something that was not taken in."""
        return any(position < snapshot.offsets(log)[1] for position, log in self._reached())

    def lag_rows(self, snapshot: Any) -> int:
        """How many rows the logs have that were not taken in."""
        spans = [(position, *snapshot.offsets(log)) for position, log in self._reached()]
        return sum(max(end - max(position, first), 0) for position, first, end in spans)

    def is_cut_off(self, snapshot: Any) -> bool:
        """Whether rows that were not taken in are gone from the snapshot."""
        return False

    def _reached(self) -> Iterator[tuple[int, Any]]:
        return zip(self.positions, self.logs, strict=True)

    @abstractmethod
    def changes(self, snapshot: Any) -> Iterator[RecordBatch]:
        """What the snapshot has more or less than was taken in, a morsel at a time. Whoever stops early may go on with
        another call if `can_stop`; a change that was handed out counts as taken in."""


class TopicInput(Input):
    """The rows of a topic: they only come."""

    can_stop = True

    def __init__(self, scan: Scan, logs: Sequence[Any], context: QueryContext) -> None:
        super().__init__(scan, logs)
        self._scan = scan
        self._readers = [LogScan(scan, context).readers(log) for log in self.logs]
        self._place: tuple[int, Any, int] = (0, None, 0)  # of the last change: partition, slice, row of it

    def locate(self, row: int) -> tuple[int, int]:
        """Partition and offset of a row of the last change."""
        partition, part, at = self._place
        return partition, int(offset_at(part, at + row))

    def is_cut_off(self, snapshot: Any) -> bool:
        return any(0 <= position < snapshot.offsets(log)[0] for position, log in self._reached())

    def changes(self, snapshot: Any) -> Iterator[RecordBatch]:
        """OffsetOutOfRange if rows are gone from the topic that were not taken in."""
        low, high = self._scan.start_offset or 0, self._scan.stop_offset
        for i, (log, readers) in enumerate(zip(self.logs, self._readers, strict=True)):
            first, end = snapshot.offsets(log)
            start = first if self.positions[i] < 0 else self.positions[i]
            if start < first:
                raise OffsetOutOfRange(
                    f"offsets {start} to {first} (exclusive) of {self.name} were removed before they were read",
                    offset=start, earliest=first, latest=end,
                )  # fmt: skip
            until = end if high is None else min(end, high)
            if max(start, low) < until:
                for part in snapshot.slices(log, max(start, low), until):
                    batch = RecordBatch(self.names, [read(part) for read in readers], part.row_count)
                    for at in range(0, part.row_count, MORSEL_ROWS):
                        self._place = (log.partition, part, at)
                        self.positions[i] = int(offset_at(part, min(at + MORSEL_ROWS, part.row_count) - 1)) + 1
                        yield batch.slice(at, at + MORSEL_ROWS)
            self.positions[i] = end


class TableInput(Input):
    """The current rows of a table: a new version takes the place of the one before it, a deletion takes it away.

    It keeps the rows it has given out by key, so that it can take them back. What is new is read from the table's log;
    where compaction may have removed something that happened meanwhile, all current rows are compared.
    """

    def __init__(self, scan: Scan, log: Any, context: QueryContext, interner: Interner) -> None:
        super().__init__(scan, [log])
        schema = log.schema
        added = [*(schema.fields[i] for i in log.primary_key), schema.fields[-1]]  # the key, and who superseded it
        read = replace(
            scan,
            columns=(*scan.columns, *(field.name for field in added)),
            output=(*scan.output, *(OutputField(field.name, field.type) for field in added)),
        )
        self._log = log
        self._readers = LogScan(read, context).readers(log)
        # The key is part of the rows that are kept: others may be alike in what the scan reads.
        self._codec = RowCodec([field.type for field in read.fields[:-1]], interner)
        self._key_codec = RowCodec([field.type for field in added[:-1]], interner)
        self._rows = Arrangement(self._codec, self._key_codec.lane_count)
        self._part = RowsPart(self._rows, self._codec, self._key_codec)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    @property
    def parts(self) -> Sequence[Part]:
        return (self._part,)

    def changes(self, snapshot: Any) -> Iterator[RecordBatch]:
        first, end = snapshot.offsets(self._log)
        start = self.positions[0]
        if start < snapshot.horizon(self._log):
            yield from self._compared(snapshot, first, end)
        else:
            for columns, marks in self._slices(snapshot, max(start, first), end):
                keys = self._keys_of(columns, len(marks))
                yield from self._taken(self._slots_of(distinct_lanes(keys)))
                yield from self._given(columns, keys, np.flatnonzero((marks == 0) | (marks > end)))
        self.positions[0] = end

    def _compared(self, snapshot: Any, first: int, end: int) -> Iterator[RecordBatch]:
        """The rows given out before go, and all current ones come."""
        yield from self._taken(self._rows.all_slots())
        for columns, marks in self._slices(snapshot, first, end):
            keys = self._keys_of(columns, len(marks))
            yield from self._given(columns, keys, np.flatnonzero((marks == 0) | (marks > end)))

    def _slices(self, snapshot: Any, start: int, end: int) -> Iterator[tuple[list[Column], Array]]:
        """The columns and the marks of the log's rows, a morsel at a time."""
        for part in snapshot.slices(self._log, start, end) if start < end else ():
            columns = [read(part) for read in self._readers]
            for at in range(0, part.row_count, MORSEL_ROWS):
                cut = [column.slice(at, min(at + MORSEL_ROWS, part.row_count)) for column in columns]
                yield cut[:-1], cut[-1].values

    def _keys_of(self, columns: Sequence[Column], row_count: int) -> Array:
        return self._key_codec.encode(columns[len(self.names) :], row_count)

    def _slots_of(self, keys: Array) -> Array:
        """Where the rows given out under some keys are."""
        return self._rows.pairs(self._rows.find_keys(keys, _all(len(keys))))[1]

    def _taken(self, slots: Array) -> Iterator[RecordBatch]:
        """The rows in some slots go."""
        if len(slots):
            weights = np.full(len(slots), -1, dtype=np.int64)
            columns = self._rows.columns(slots)[: len(self.names)]
            lanes, keys = self._rows.lanes(slots), self._rows.keys(slots)
            self._rows.sweep(self._rows.apply(lanes, keys, _all(len(slots)), weights))
            yield RecordBatch(self.names, columns, len(slots), weights)

    def _given(self, columns: Sequence[Column], keys: Array, current: Array) -> Iterator[RecordBatch]:
        """The rows at some places come."""
        if len(current):
            weights = np.ones(len(current), dtype=np.int64)
            own = [column.take(current) for column in columns]
            lanes = self._codec.encode(own, len(current))
            self._rows.apply(lanes, keys[current], _all(len(current)), weights)
            yield RecordBatch(self.names, own[: len(self.names)], len(current), weights)


def _all(count: int) -> Array:
    return np.ones(count, dtype=bool)
