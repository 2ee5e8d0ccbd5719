"""The result of a query whose windows close: rows are added to it, in order of their windows' ends, and never change.

A stored view keeps them in a topic of its own, not in memory; `ClosedTail` is what a query has added since the state it
began with. Rows of one window come all at once, so where one part ends and the next begins is told by a window's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.errors import InternalError
from eventdb.physical.ordering import sort_rows
from eventdb.stream.circuit.timeline import EventTime
from eventdb.stream.watermark import LOWEST_US


@dataclass(frozen=True, slots=True, eq=False)
class Closing:
    """That the rows of a query appear when their windows close, `grace_us` after their end. `event_times` by topic.
    `output_log` is the log of the hidden topic of a stored view's rows."""

    grace_us: int
    event_times: Mapping[int, EventTime]
    output_log: Any = None

    @property
    def settings(self) -> str:
        """What the state depends on beside the plan."""
        return f"grace {self.grace_us} {sorted(self.event_times.items())}"

    def closed_us(self, mark_us: int) -> int | None:
        """Windows that end there or before are closed; None for none at all."""
        return None if mark_us == LOWEST_US else max(mark_us - self.grace_us, LOWEST_US)


@dataclass(frozen=True, slots=True)
class Output:
    """What is stored of a result: rows [start, end) of its topic, those of windows that end at `closed_us` or before.
    `mark_us` and `late_row_count` belong to it."""

    start: int = 0
    end: int = 0
    closed_us: int = LOWEST_US
    mark_us: int = LOWEST_US
    late_row_count: int = 0


NO_OUTPUT = Output()


def in_order(change: RecordBatch) -> tuple[RecordBatch, Array]:
    """The rows by the ends of their windows, which are the last column, then by their values; and those ends."""
    if change.weight is not None and (change.weight != 1).any():
        if (change.weight < 0).any():
            raise InternalError("a row of a closed window is taken away")
        change = change.take(np.repeat(np.arange(change.row_count), change.weight))
    *columns, ends = change.columns
    keys = [ends, *columns]
    order = sort_rows(keys, [False] * len(keys), [False] * len(keys))
    columns = [column.take(order) for column in columns]
    return RecordBatch(change.names[:-1], columns, change.row_count), ends.values[order]


class ClosedTail:
    """Rows of windows that end after `after_us`."""

    def __init__(self, after_us: int = LOWEST_US) -> None:
        self.after_us = after_us
        self._parts: list[tuple[RecordBatch, Array]] = []

    @property
    def nbytes(self) -> int:
        return sum(8 * batch.row_count * (len(batch.columns) + 1) for batch, _ in self._parts)

    def add(self, batch: RecordBatch, ends: Array) -> None:
        self._parts.append((batch, ends))

    def trim(self, after_us: int) -> None:
        """Forgets the rows of windows that end at `after_us` or before: they are stored."""
        self.after_us = max(self.after_us, after_us)
        while self._parts and self._parts[0][1][-1] <= after_us:
            del self._parts[0]

    def batches(self, after_us: int = LOWEST_US) -> Iterator[RecordBatch]:
        """The rows of windows that end after `after_us`."""
        for batch, ends in self._parts:
            first = int(np.searchsorted(ends, after_us, side="right"))
            if first < batch.row_count:
                yield batch.slice(first, batch.row_count)


def stored_rows(closing: Closing, output: Output, snapshot: Any, names: tuple[str, ...]) -> Iterator[RecordBatch]:
    """The stored part of a result."""
    if closing.output_log is not None and output.start < output.end:
        for part in snapshot.slices(closing.output_log, output.start, output.end):
            yield RecordBatch(names, [part.column(i) for i in range(len(names))], part.row_count)
