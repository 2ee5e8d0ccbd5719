"""Analytic functions over sorted rows that stream past: for partitions that do not fit in memory.

Rows are taken piece by piece. A call that sees a fixed number of rows around each row is computed with those rows of
the pieces beside; one that sees all rows up to here is computed in the piece, and what the partition had before is
added to it. Other calls need their whole partition: MemoryLimitExceeded if it does not fit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from eventdb.batch import Array, Column, RecordBatch, concat_columns
from eventdb.config import MIB, MORSEL_ROWS
from eventdb.decimal_columns import numbers_of
from eventdb.errors import EvaluationError, MemoryLimitExceeded
from eventdb.logical.expressions import Literal
from eventdb.logical.over import Bound, Over, OverCall
from eventdb.physical.accumulate_numbers import sum_column
from eventdb.physical.arithmetic import value_range
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import factorize
from eventdb.physical.operands import show
from eventdb.physical.operator import Operator
from eventdb.physical.ordering import order_values
from eventdb.physical.partitions import Partitions
from eventdb.schema import BIGINT

_ROW_BYTES = 400
"""About what computing a row takes."""
_LEAST_ROWS = 4
_COUNTED = ("row_number", "dense_rank", "count", "count_star")
_EXTREMES = {"min": False, "bool_and": False, "max": True, "bool_or": True}
_RUNNING = (*_COUNTED, *_EXTREMES, "rank", "sum", "avg", "first_value")


class Computing(Operator):
    """Computes calls over rows that are in memory."""

    @abstractmethod
    def compute(self, calls: Sequence[OverCall], batch: RecordBatch) -> list[Column]:
        """The column of each call."""


def stream(plan: Over, source: Operator, computing: Computing, context: QueryContext) -> Iterator[RecordBatch]:
    """The sorted rows of `source` with a column for each call; all calls have one partition and order."""
    around = {i: found for i, call in enumerate(plan.calls) if (found := _around(call)) is not None}
    for i, call in enumerate(plan.calls):
        if i not in around and not _is_running(call):
            raise MemoryLimitExceeded(
                f"{call} needs all rows of a partition at once, and one does not fit into memory_limit "
                f"({context.memory_limit_bytes / MIB:.1f} MB): set a larger memory_limit, or partition by more columns"
            )
    before = max((rows for rows, _ in around.values()), default=0)
    after = max((rows for _, rows in around.values()), default=0)
    running = [i for i in range(len(plan.calls)) if i not in around]
    carried = _Carried(plan, running)
    names = [field.name for field in plan.fields]
    size = max(_LEAST_ROWS, min(MORSEL_ROWS, context.memory_limit_bytes // (8 * _ROW_BYTES)))
    held: RecordBatch | None = None
    start = 0  # rows of `held` before it were given out
    pieces = _pieces(source, size)
    piece = next(pieces, None)
    while piece is not None:
        held = piece if held is None else RecordBatch.concat([held, piece])
        growing = held.row_count > 2 * size + before + after  # one group of peers
        context.hold(source, "OVER", _ROW_BYTES * held.row_count, spills=not growing)
        piece = next(pieces, None)
        stop = held.row_count if piece is None else carried.whole_peers(held, held.row_count - after)
        if stop > start:
            context.cancel.check()
            chosen = held.slice(start, stop)
            columns: dict[int, Column] = dict(zip(running, carried.add(chosen, computing), strict=True))
            low = max(0, start - before)
            wide = held.slice(low, min(held.row_count, stop + after))
            calls = tuple(plan.calls[i] for i in around)
            for i, column in zip(around, computing.compute(calls, wide) if calls else [], strict=True):
                columns[i] = column.slice(start - low, stop - low)
            results = [columns[i] for i in range(len(plan.calls))]
            yield RecordBatch(names, [*chosen.columns, *results], chosen.row_count)
            low = max(0, stop - before)
            held, start = held.slice(low, held.row_count), stop - low
    context.release(source)


def _pieces(source: Operator, size: int) -> Iterator[RecordBatch]:
    for batch in source.batches():
        for start in range(0, batch.row_count, size):
            yield batch.slice(start, start + size)


def _around(call: OverCall) -> tuple[int, int] | None:
    """How many rows before and after a row it sees at most; None if that is not fixed."""
    if call.function in ("lag", "lead"):
        by = call.args[1] if len(call.args) > 1 else Literal(BIGINT, 1)
        if call.ignore_nulls or not isinstance(by, Literal):
            return None
        steps = 0 if by.value is None else int(by.value) * (1 if call.function == "lead" else -1)
        return _near(max(0, -steps), max(0, steps))
    frame = call.frame
    if call.function in ("row_number", "rank", "dense_rank", "ntile", "percent_rank", "cume_dist"):
        return None
    if frame.unit != "rows" or frame.exclude not in ("no others", "current row"):
        return None
    first, last = _distance(frame.start), _distance(frame.end)
    return None if first is None or last is None else _near(max(0, -first), max(0, last))


def _near(before: int, after: int) -> tuple[int, int] | None:
    return (before, after) if before + after <= MORSEL_ROWS else None


def _distance(bound: Bound) -> int | None:
    """Rows from the current one; None if that differs."""
    if bound.kind == "current row":
        return 0
    if isinstance(bound.offset, Literal) and isinstance(bound.offset.value, int):
        return -bound.offset.value if bound.kind == "preceding" else bound.offset.value
    return None


def _is_running(call: OverCall) -> bool:
    frame = call.frame
    if call.function in ("row_number", "rank", "dense_rank"):
        return True
    to_here = frame.start.kind == "unbounded preceding" and frame.end.kind == "current row"
    plain = frame.unit in ("rows", "range") and frame.exclude == "no others"
    return call.function in _RUNNING and to_here and plain and not (call.distinct or call.inner or call.ignore_nulls)


class _Carried:
    """What the partition of the last row had up to it, for each running call."""

    def __init__(self, plan: Over, running: list[int]) -> None:
        self._calls = [plan.calls[i] for i in running]
        counts = [replace(call, function="count", type=BIGINT) for call in self._calls if call.function == "avg"]
        self._computed = (*self._calls, *counts)
        self._partition = [Evaluator(key) for key in plan.calls[0].partition]
        self._order = [Evaluator(key.expression) for key in plan.calls[0].order]
        sees_peers = any(c.function in ("rank", "dense_rank") or c.frame.unit == "range" for c in self._calls)
        self._sees_peers = bool(running) and sees_peers
        self._keys: list[Column] | None = None
        self._rows = 0
        self._last: list[Column] = []

    def whole_peers(self, batch: RecordBatch, stop: int) -> int:
        """The last place up to `stop` where peers end, if a call sees them."""
        if not self._sees_peers or stop <= 0:
            return stop
        partitions = self._partitions(batch)
        edges = partitions.group_edges
        place: int = int(np.searchsorted(edges, min(stop, batch.row_count - 1), "right")) - 1
        return int(edges[place])

    def _partitions(self, batch: RecordBatch) -> Partitions:
        """Of sorted rows."""
        keys = [key(batch) for key in self._partition]
        order = [key(batch) for key in self._order]
        return Partitions.of_sorted(keys, order, batch.row_count)

    def add(self, batch: RecordBatch, computing: Computing) -> list[Column]:
        """The calls' values for the next rows."""
        if not self._calls:
            return []
        columns = computing.compute(self._computed, batch)
        keys = [key(batch) for key in self._partition]
        count = self._continued(keys, batch.row_count)
        if count:
            for i, call in enumerate(self._calls):
                if call.function == "avg":
                    number = len(self._calls) + sum(1 for c in self._calls[:i] if c.function == "avg")
                    columns[i], columns[number] = self._average(i, number, columns, count)
                else:
                    columns[i] = _joined(self._added(call, columns[i].slice(0, count), i), columns[i], count)
        last = batch.row_count - 1
        own = Partitions.of_sorted(keys, [], batch.row_count)
        self._rows = batch.row_count - int(own.start[last]) + (self._rows if count == batch.row_count else 0)
        self._keys = [key.slice(last, last + 1) for key in keys]
        self._last = [column.slice(last, last + 1) for column in columns]
        return columns[: len(self._calls)]

    def _continued(self, keys: list[Column], row_count: int) -> int:
        """How many rows belong to the partition before."""
        if self._keys is None:
            return 0
        if not keys:
            return row_count
        both = [concat_columns([old, new]) for old, new in zip(self._keys, keys, strict=True)]
        ids = factorize(both, row_count + 1).ids
        return int(np.count_nonzero(ids[1:] == ids[0]))

    def _added(self, call: OverCall, column: Column, number: int) -> Column:
        """Values of rows whose partition began before, with what it had."""
        before = self._last[number]
        if call.function == "first_value":
            return before.take(np.zeros(len(column), dtype=np.int64))
        if call.function == "rank":
            return Column(BIGINT, column.values + self._rows)
        if call.function in _COUNTED:
            return Column(BIGINT, column.values + before.values[0])
        if before.validity is not None and not before.validity[0]:
            return column
        if call.function == "sum":
            return _sum(column, before)
        both = concat_columns([column, before])
        places = order_values(both)
        better = places[:-1] >= places[-1] if _EXTREMES[call.function] else places[:-1] <= places[-1]
        if column.validity is not None:
            better = better & column.validity
        return both.take(np.where(better, np.arange(len(column)), len(column)))

    def _average(self, number: int, counter: int, columns: list[Column], count: int) -> tuple[Column, Column]:
        average, counts = columns[number].slice(0, count), columns[counter].slice(0, count)
        before, rows = self._last[number], int(self._last[counter].values[0])
        total = float(before.values[0]) * rows if rows else 0.0
        own = np.where(counts.values > 0, average.values * counts.values, 0.0)
        all_rows = counts.values + rows
        with np.errstate(all="ignore"):
            values = (own + total) / np.maximum(all_rows, 1)
        found = Column(average.type, values, all_rows > 0)
        return _joined(found, columns[number], count), _joined(Column(BIGINT, all_rows), columns[counter], count)


def _joined(head: Column, column: Column, count: int) -> Column:
    """The column with other values in its first rows."""
    return head if count == len(column) else concat_columns([head, column.slice(count, len(column))])


def _sum(column: Column, before: Column) -> Column:
    present: Array = np.ones(len(column), dtype=bool) if column.validity is None else column.validity
    if column.type.is_wide:
        numbers = np.where(present, numbers_of(column), 0).astype(object)
        return sum_column(column.type, numbers + int(numbers_of(before)[0]), None)
    values, added = column.values, before.values[0]
    with np.errstate(all="ignore"):
        total = np.where(present, values, 0) + added
    if not column.type.is_float:
        low, top = value_range(column.type)
        exact = np.where(present, values, 0).astype(np.float64) + float(added)
        bad = (np.abs(exact - total) > 2.0**62) | (total < low) | (total > top)
        if bad.any():
            row = int(np.argmax(bad))
            found = int(values[row]) + int(added)
            raise EvaluationError(f"sum overflow: {show(column.type, found)} is outside the range of {column.type}")
    return Column(column.type, total.astype(values.dtype, copy=False))
