"""ContinuousQuery: a query's state and the offset it has read to. Feeding it new rows gives what they add.

The answer depends on the rows and their order alone: not on how they are cut into calls, not on any clock, not on which
process runs it. Lateness is judged for each row against the watermark of the rows before it; a window's rows come out
when a call has passed its end, ordered by window end and group key, which is the same order for any cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.errors import EvaluationError, InternalError
from eventdb.stream.broken_rows import broken_positions
from eventdb.stream.groups import GroupSet
from eventdb.stream.program import APPEND, UPDATE, WINDOW_CLOSE, Program
from eventdb.stream.source import InputRows
from eventdb.stream.state import Progress
from eventdb.stream.steps import Steps
from eventdb.stream.watermark import LOWEST_US, Watermark
from eventdb.stream.windows import is_closed


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Rows that joined an append-only output for good. `offsets` (int64): the input row each one came with."""

    batch: RecordBatch
    offsets: Array


class ContinuousQuery:
    """State of one program. Not thread-safe.

    After `advance` has raised, the state is undefined: throw the object away and load it again.
    """

    def __init__(self, program: Program, progress: Progress) -> None:
        """The state of `progress` without groups; `groups.restore` puts stored groups back."""
        facts = program.facts
        delay_us = facts.watermark_delay_us if facts.event_time is not None else None
        self.program = program
        self.input_offset = progress.input_offset
        self.late_row_count = progress.late_row_count
        self.output_end = progress.output_end
        self._watermark = Watermark(delay_us, facts.max_future_us, progress.watermark_us)
        self.notes_broken = False
        self._broken: list[tuple[int, str]] = []
        self._before = Steps(program.before)
        self._after = Steps(program.after)
        self.groups: GroupSet | None = None
        if program.aggregate is not None:
            closing = program.window if program.emission == WINDOW_CLOSE else None
            self.groups = GroupSet(program.aggregate, closing, progress.next_number)

    @property
    def watermark_us(self) -> int:
        """LOWEST_US while no row has moved it."""
        return self._watermark.value_us

    @property
    def progress(self) -> Progress:
        number = 0 if self.groups is None else self.groups.next_number
        return Progress(self.input_offset, self.watermark_us, self.late_row_count, self.output_end, number)

    def advance(self, rows: InputRows) -> OutputRows | None:
        """Takes in the next rows from `input_offset` on; returns the rows that joined an append-only output, if any.

        For emission 'update' nothing is returned: `content`, or `groups.take_touched` and `rows_of_groups`, tell.
        EvaluationError when a value breaks an expression.
        """
        if rows.first_offset < self.input_offset:  # a greater one lies behind a gap
            raise InternalError(f"a query at offset {self.input_offset} was given rows from {rows.first_offset}")
        marks = self._move_watermark(rows)
        batch, origin = self._run_before(rows)
        output = None
        if self.program.emission == APPEND:
            if batch.row_count:
                output = OutputRows(_named(batch, self.program), rows.first_offset + _positions(origin, batch))
        else:
            self._group(batch, origin, marks)
            if self.program.emission == WINDOW_CLOSE:
                output = self._close_windows(rows, marks)
        if output is not None:
            self.output_end += output.batch.row_count
        self.input_offset = rows.end_offset
        return output

    def take_broken(self) -> list[tuple[int, str]]:
        """Offsets of the rows that were skipped since the last call, if it `notes_broken`, and why."""
        found, self._broken = self._broken, []
        return found

    def skip_to(self, offset: int) -> None:
        """Goes on at `offset`: rows before it are gone from the topic, or of no interest."""
        self.input_offset = max(self.input_offset, offset)

    def content(self) -> RecordBatch:
        """The rows of all groups now; only for emission 'update'."""
        if self.groups is None or self.program.emission != UPDATE:
            raise InternalError("only a query that revises its rows has a content of its own")
        return self.rows_of_groups(self.groups.ids())[0]

    def rows_of_groups(self, ids: Array) -> tuple[RecordBatch, Array]:
        """(output rows, their group ids) of the groups `ids`; HAVING may leave some without a row."""
        assert self.groups is not None
        batch, origin = self._after.run(self.groups.result(ids))
        return _named(batch, self.program), ids if origin is None else ids[origin]

    def _move_watermark(self, rows: InputRows) -> Array | None:
        if rows.event_times is None or self._watermark.delay_us is None:
            return None
        return self._watermark.advance(rows.event_times.values, rows.event_times.validity, rows.append_times)

    def _run_before(self, rows: InputRows) -> tuple[RecordBatch, Array | None]:
        """The rows that reach the groups or the output, and the input position each came from (None: the same)."""
        scan, batch = self.program.scan, rows.batch
        low = 0 if scan.start_offset is None else min(max(scan.start_offset - rows.first_offset, 0), rows.row_count)
        high = rows.row_count if scan.stop_offset is None else max(scan.stop_offset - rows.first_offset, low)
        if low or high < rows.row_count:
            batch = batch.slice(low, high)
        kept = self._sound(batch, rows.first_offset + low) if self.program.skips_broken_rows else None
        if kept is not None:
            batch = batch.take(kept)
        batch, origin = self._before.run(batch)
        if kept is not None:
            origin = kept[_positions(origin, batch)]
        return batch, _positions(origin, batch) + low if low else origin

    def _sound(self, batch: RecordBatch, first_offset: int) -> Array | None:
        """The positions of the rows that break no expression; None if that is all of them."""

        def run(part: RecordBatch) -> None:
            reached, _ = self._before.run(part)
            if self.groups is not None and reached.row_count:
                self.groups.check(reached)

        broken = [(position, error.message) for position, error in broken_positions(run, batch)]
        if not broken:
            return None
        if self.notes_broken:
            self._broken += [(first_offset + position, text) for position, text in broken]
        kept = np.ones(batch.row_count, dtype=bool)
        kept[[position for position, _ in broken]] = False
        return np.flatnonzero(kept)

    def _group(self, batch: RecordBatch, origin: Array | None, marks: Array | None) -> None:
        groups, window = self.groups, self.program.window
        assert groups is not None
        if not batch.row_count:
            return
        keys = groups.keys_of(batch)
        if window is not None and marks is not None:
            key = keys[window.position]
            origin = _positions(origin, batch)
            late = is_closed(window.ends(key.values), marks[origin], self.program.grace_us)
            if key.validity is not None:
                late &= key.validity
            dropped = late
            if late.any():
                self.late_row_count += len(np.unique(origin[late]))
            if self.program.emission == WINDOW_CLOSE and key.validity is not None:
                # A row without a time lies in no window that could ever close.
                dropped = late | ~key.validity
            if dropped.any():
                keep = ~dropped
                batch, keys = batch.filter(keep), [column.filter(keep) for column in keys]
        if batch.row_count:
            groups.update(keys, batch)

    def _close_windows(self, rows: InputRows, marks: Array | None) -> OutputRows | None:
        assert self.groups is not None
        grace_us, after = self.program.grace_us, self.watermark_us
        if marks is None or after == LOWEST_US:
            return None
        closed = self.groups.close(after - grace_us)
        if closed is None:
            return None
        result, ends = closed
        batch, origin = self._after.run(result)
        if not batch.row_count:
            return None
        if origin is not None:
            ends = ends[origin]
        position = np.searchsorted(marks[1:], ends + grace_us, side="left")
        return OutputRows(_named(batch, self.program), rows.first_offset + position)


def _positions(origin: Array | None, batch: RecordBatch) -> Array:
    return np.arange(batch.row_count, dtype=np.int64) if origin is None else origin


def _named(batch: RecordBatch, program: Program) -> RecordBatch:
    names = program.names
    return batch if batch.names == names else RecordBatch(names, batch.columns, batch.row_count)


def breaking_position(program: Program, rows: InputRows) -> int:
    """The position of the first row whose own values break an expression; the last one if only the sum of rows does.

    Evaluates halves of the rows without touching any state: rows x log(rows) at worst.
    """
    query = ContinuousQuery(replace(program, skips_broken_rows=False), Progress(rows.first_offset))

    def breaks(start: int, stop: int) -> bool:
        try:
            part = rows.slice(start, stop)
            batch, _ = query._run_before(part)
            if query.groups is not None and batch.row_count:
                query.groups.check(batch)
        except EvaluationError:
            return True
        return False

    low, high = 0, rows.row_count
    if not breaks(low, high):
        return rows.row_count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if breaks(low, middle):
            high = middle
        else:
            low = middle
    return low
