"""The inputs of a query whose windows close: rows of topics with watermarks, each with the mark before it.

All partitions are read in one order, that of the Timeline, a bounded number of rows at a time: a round is all rows up
to one row. So whatever was taken in is all rows up to one row, and the same rows have the same marks for whoever reads
them, and however often it stops in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import InternalError, OffsetOutOfRange
from eventdb.logical.plan import Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.scan import LogScan, offsets_of
from eventdb.schema import TIMESTAMP
from eventdb.stream.circuit.inputs import Input
from eventdb.stream.circuit.node import merged
from eventdb.stream.circuit.part import Part
from eventdb.stream.circuit.timeline import EventTime, Timeline


class MarkedInput(Input):
    """The logs behind one scan, whose last column is the mark. MarkedInputs moves it."""

    def __init__(self, scan: Scan, logs: Sequence[Any], context: QueryContext) -> None:
        super().__init__(scan, logs)
        rows = replace(scan, columns=scan.columns[:-1], output=scan.output[:-1])
        self._readers = [LogScan(rows, context).readers(log) for log in self.logs]
        self._low, self._high = scan.start_offset or 0, scan.stop_offset

    def is_cut_off(self, snapshot: Any) -> bool:
        return any(0 <= position < snapshot.offsets(log)[0] for position, log in self._reached())

    def changes(self, snapshot: Any) -> Iterator[RecordBatch]:
        raise InternalError(f"the rows of {self.name} are read together with those of other topics")

    def columns(self, place: int, part: Any) -> list[Column]:
        """All columns but the mark of a slice of one of the logs."""
        return [read(part) for read in self._readers[place]]

    def batch(self, columns: Sequence[Column], marks: Array, offsets: Array) -> RecordBatch:
        """Rows of one log, without those outside of the scan's offsets."""
        found = RecordBatch(self.names, [*columns, Column(TIMESTAMP, marks)], len(marks))
        if not self._low and self._high is None:
            return found
        wanted = offsets >= self._low
        return found.filter(wanted if self._high is None else wanted & (offsets < self._high))


class _Piece:
    """Some rows of one log: for each input that reads it, their columns."""

    def __init__(self, columns: Mapping[int, list[Column]], times: Column, append_times: Array, offsets: Array) -> None:
        self.columns = columns
        self.times = times
        self.append_times = append_times
        self.offsets = offsets

    def slice(self, start: int, stop: int) -> _Piece:
        columns = {i: [column.slice(start, stop) for column in own] for i, own in self.columns.items()}
        times = self.times.slice(start, stop)
        return _Piece(columns, times, self.append_times[start:stop], self.offsets[start:stop])


class _Partition:
    """One log and where it stands in the order of all; `places` are the inputs that read it and its place in each."""

    def __init__(self, log: Any, places: Sequence[tuple[int, int]]) -> None:
        self.log = log
        self.places = places
        self._pieces: Iterator[_Piece] = iter(())
        self.head: _Piece | None = None
        self._end = 0

    def begin(self, inputs: Sequence[MarkedInput], snapshot: Any) -> None:
        first, end = snapshot.offsets(self.log)
        i, place = self.places[0]
        start = inputs[i].positions[place]
        if 0 <= start < first:
            raise OffsetOutOfRange(
                f"offsets {start} to {first} (exclusive) of {inputs[i].name} were removed before they were read",
                offset=start, earliest=first, latest=end,
            )  # fmt: skip
        self._end = end
        self._pieces = self._read(inputs, snapshot, max(start, first), end)
        self.head = next(self._pieces, None)

    def _read(self, inputs: Sequence[MarkedInput], snapshot: Any, start: int, end: int) -> Iterator[_Piece]:
        for part in snapshot.slices(self.log, start, end) if start < end else ():
            columns = {i: inputs[i].columns(place, part) for i, place in self.places}
            piece = _Piece(columns, part.column(self.log.event_time), part.append_times(), offsets_of(part))
            for at in range(0, part.row_count, MORSEL_ROWS):
                yield piece.slice(at, min(at + MORSEL_ROWS, part.row_count))

    @property
    def last(self) -> int | None:
        """The append time of the last row of the head, if others follow."""
        head = self.head
        return int(head.append_times[-1]) if head is not None and head.offsets[-1] + 1 < self._end else None

    def take(self, until: int | None, side: str) -> _Piece | None:
        """The rows of the head before an append time, those that have it included for side 'right'; None: all."""
        head = self.head
        if head is None:
            return None
        count = len(head.offsets)
        stop = count if until is None else int(np.searchsorted(head.append_times, until, side=side))  # type: ignore[call-overload]
        if not stop:
            return None
        self.head = next(self._pieces, None) if stop == count else head.slice(stop, count)
        return head if stop == count else head.slice(0, stop)


class MarkedInputs:
    """All inputs of a query, in their order, and the Timeline of their partitions."""

    def __init__(self, inputs: Sequence[MarkedInput], event_times: Mapping[int, EventTime]) -> None:
        """`event_times` by topic."""
        self._inputs = inputs
        places: dict[tuple[int, int], list[tuple[int, int]]] = {}
        logs = {}
        for i, one in enumerate(inputs):
            for place, log in enumerate(one.logs):
                key = (one.topic_id, int(getattr(log, "partition", 0)))
                places.setdefault(key, []).append((i, place))
                logs[key] = log
        order = sorted(places)
        self._partitions = [_Partition(logs[key], places[key]) for key in order]
        self.timeline = Timeline([event_times[topic_id] for topic_id, _ in order])

    @property
    def parts(self) -> Sequence[Part]:
        return (self.timeline,)

    def rounds(self, snapshot: Any) -> Iterator[dict[int, RecordBatch]]:
        """The next rows, by input, until the snapshot's end; when a round is handed out, it counts as taken in.

        OffsetOutOfRange if rows are gone from a topic that were not taken in.
        """
        for partition in self._partitions:
            partition.begin(self._inputs, snapshot)
        while any(partition.head is not None for partition in self._partitions):
            yield self._round()
        for partition in self._partitions:  # the rows may end before a gap
            self._move(partition, snapshot.offsets(partition.log)[1])

    def _round(self) -> dict[int, RecordBatch]:
        lasts = [(last, i) for i, one in enumerate(self._partitions) if (last := one.last) is not None]
        until, whole = min(lasts, default=(None, -1))
        taken: list[tuple[int, _Piece]] = []
        for i, partition in enumerate(self._partitions):
            piece = partition.take(None if i == whole else until, "right" if i < whole else "left")
            if piece is not None:
                taken.append((i, piece))
                self._move(partition, int(piece.offsets[-1]) + 1)
        marks = self._marks(taken)
        parts: dict[int, list[RecordBatch]] = {}
        for (i, piece), own in zip(taken, marks, strict=True):
            for number, _ in self._partitions[i].places:
                batch = self._inputs[number].batch(piece.columns[number], own, piece.offsets)
                parts.setdefault(number, []).append(batch)
        changes = {number: merged(self._inputs[number].names, batches) for number, batches in parts.items()}
        return {number: change for number, change in changes.items() if change is not None}

    def _marks(self, taken: Sequence[tuple[int, _Piece]]) -> list[Array]:
        """The marks before the rows of each piece."""
        sources = np.concatenate([np.full(len(piece.offsets), i, dtype=np.int64) for i, piece in taken])
        times = np.concatenate([piece.times.values for _, piece in taken])
        present = np.concatenate([_present(piece.times) for _, piece in taken])
        append_times = np.concatenate([piece.append_times for _, piece in taken])
        if len(taken) == 1:
            return [self.timeline.advance(sources, times, present, append_times)]
        order = np.argsort(append_times, kind="stable")
        marks = np.empty(len(order), dtype=np.int64)
        marks[order] = self.timeline.advance(sources[order], times[order], present[order], append_times[order])
        return np.split(marks, np.cumsum([len(piece.offsets) for _, piece in taken])[:-1])

    def _move(self, partition: _Partition, position: int) -> None:
        for i, place in partition.places:
            self._inputs[i].positions[place] = position


def _present(times: Column) -> Array:
    return np.ones(len(times), dtype=bool) if times.validity is None else times.validity
