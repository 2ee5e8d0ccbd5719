"""OverRows: analytic functions (OVER). Holds its whole input; rows go out in the order they came in. More rows than fit
in memory go to disk: see spilled_over.py.

Calls with the same partition and order share one sort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.expressions import Aggregation, Expression, SortKey
from eventdb.logical.functions import AGGREGATES
from eventdb.logical.over import DEFAULT_FRAME, Over, OverCall
from eventdb.physical.aggregate_state import scatter
from eventdb.physical.collected import CollectedEvaluator, aggregate_rows, value_arguments
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.frames import Pieces, frame_pieces
from eventdb.physical.grouping import Groups, factorize
from eventdb.physical.operator import Operator
from eventdb.physical.over_aggregates import FRAME_ROW_BYTES, FRAME_ROWS, aggregate_frames, is_written_out
from eventdb.physical.over_values import nth, ntile, ranking, shifted
from eventdb.physical.pairs import TooMany
from eventdb.physical.partitions import Partitions
from eventdb.physical.running_over import Computing

Sorting = tuple[tuple[Expression, ...], tuple[SortKey, ...]]


class OverRows(Computing):
    def __init__(self, plan: Over, child: Operator, context: QueryContext, level: int = 0) -> None:
        """`level`: how often its rows were cut into parts before."""
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._level = level
        self._frame_rows = max(1, min(FRAME_ROWS, context.memory_limit_bytes // (4 * FRAME_ROW_BYTES)))
        self._held_bytes = 0

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        batches: list[RecordBatch] = []
        held = row_count = 0
        rows = self.children[0].batches()
        for batch in rows:
            batches.append(batch)
            held += batch.nbytes
            row_count += batch.row_count
            # The rows, once more when they are put together, a sort with its partitions, and a frame.
            needed = 2 * held + 160 * row_count
            if self.context.spill_folder is not None and not self.context.may_hold(self, needed):
                self.release()
                yield from self._on_disk(TooMany(batches, rows))
                return
            self._held_bytes = needed
            self.context.hold(self, "OVER", needed, spills=True)
        if not batches:
            return
        whole = RecordBatch.concat(batches, self.context.cancel.check)
        batches.clear()
        columns = [*whole.columns, *self.compute(self.plan.calls, whole)]
        result = RecordBatch(self.names, columns, whole.row_count)
        self.context.hold(self, "OVER", result.nbytes, spills=True)
        for start in range(0, whole.row_count, MORSEL_ROWS):
            yield result.slice(start, start + MORSEL_ROWS)
        self.release()

    def _on_disk(self, rows: TooMany) -> Iterator[RecordBatch]:
        from eventdb.physical.spilled_over import SpilledOver

        def make(plan: Over, child: Operator, level: int) -> OverRows:
            return OverRows(plan, child, self.context, level)

        spilled = SpilledOver(make, _is_of_whole_partitions, _aggregation, self.context)
        yield from spilled.rows(self.plan, iter(rows), self._level)

    def compute(self, calls: Sequence[OverCall], batch: RecordBatch) -> list[Column]:
        """The column of each call. Sorts are made one after another: only one is in memory."""
        sortings: dict[Sorting, list[int]] = {}
        for i, call in enumerate(calls):
            sortings.setdefault((call.partition, call.order), []).append(i)
        results: dict[int, Column] = {}
        for sorting, places in sortings.items():
            whole = [i for i in places if _is_of_whole_partitions(calls[i])]
            if whole:
                groups = factorize([Evaluator(key)(batch) for key in sorting[0]], batch.row_count)
                for i in whole:
                    results[i] = _of_whole_partitions(calls[i], batch, groups)
            places = [i for i in places if i not in results]
            if not places:
                continue
            partitions = _partitions(sorting, batch)
            framed = _FramedRows(batch, partitions)
            for i in places:
                self.context.cancel.check()
                results[i] = partitions.restored(self._call(calls[i], framed))
        return [results[i] for i in range(len(calls))]

    def _call(self, call: OverCall, rows: _FramedRows) -> Column:
        """The call's value at each position."""
        partitions = rows.partitions
        values = [rows.values(arg) for arg in call.args] if call.function not in AGGREGATES else []
        if call.function == "ntile":
            return ntile(values[0], partitions)
        if call.function in ("lag", "lead"):
            by, default = (*values[1:], None, None)[:2]
            return shifted(values[0], by, default, call.function == "lead", call.ignore_nulls, partitions)
        if call.function in ("first_value", "last_value", "nth_value"):
            which = values[1] if call.function == "nth_value" else None
            return nth(values[0], which, call.function == "last_value", call.ignore_nulls, None, rows.frame(call))
        if call.function not in AGGREGATES:
            return ranking(call.function, partitions)
        aggregation = _aggregation(call)
        keep = None if call.filter is None else rows.keep(call.filter)
        columns = [rows.filtered(arg, call.filter) for arg in value_arguments(aggregation)]
        columns += [rows.filtered(key.expression, call.filter) for key in call.inner]
        if call.function in ("first", "last", "any_value") and not call.inner:
            skip = call.ignore_nulls or call.function == "any_value"
            return nth(columns[0], None, call.function == "last", skip, keep, rows.frame(call))
        if is_written_out(aggregation):
            more = min(self._frame_rows, partitions.row_count**2) * FRAME_ROW_BYTES
            self.context.hold(self, "OVER", self._held_bytes + more)
        check = self.context.cancel.check
        return aggregate_frames(aggregation, columns, keep, rows.frame(call), partitions, self._frame_rows, check)


def _aggregation(call: OverCall) -> Aggregation:
    """The aggregate a call is of each frame."""
    return Aggregation(call.function, call.args, call.type, call.distinct, call.filter, call.inner)


def _is_of_whole_partitions(call: OverCall) -> bool:
    return call.function in AGGREGATES and not call.order and call.frame == DEFAULT_FRAME


def _of_whole_partitions(call: OverCall, batch: RecordBatch, groups: Groups) -> Column:
    """An aggregate that is the same for all rows of a partition: as in GROUP BY, without a sort."""
    aggregation = _aggregation(call)
    given = CollectedEvaluator(aggregation)(batch)
    ids = groups.ids if given.rows is None else groups.ids[given.rows]
    return aggregate_rows(aggregation, given.columns, ids, groups.count).take(groups.ids)


class _FramedRows:
    """Expressions and frames over the rows of one sort, each computed once."""

    def __init__(self, batch: RecordBatch, partitions: Partitions) -> None:
        self.batch = batch
        self.partitions = partitions
        self._values: dict[Expression, Column] = {}
        self._frame: tuple[object, Pieces] | None = None

    def values(self, expression: Expression) -> Column:
        """An expression's values by position."""
        found = self._values.get(expression)
        if found is None:
            found = self._values[expression] = self.partitions.sorted(Evaluator(expression)(self.batch))
        return found

    def keep(self, condition: Expression) -> Array:
        """Where a condition is true, by position."""
        kept = Evaluator(condition).keep(self.batch)
        if kept is None:
            return np.ones(self.batch.row_count, dtype=bool)
        return kept[self.partitions.rows]

    def filtered(self, argument: Expression, condition: Expression | None) -> Column:
        """An argument's values, evaluated only where the condition holds."""
        kept = None if condition is None else Evaluator(condition).keep(self.batch)
        if kept is None:
            return self.values(argument)
        return self.partitions.sorted(scatter(Evaluator(argument)(self.batch.filter(kept)), kept))

    def frame(self, call: OverCall) -> Pieces:
        """The call's frame; the last one is kept, for calls over the same window."""
        if self._frame is None or self._frame[0] != call.frame:
            self._frame = (call.frame, frame_pieces(call.frame, call.order, self.partitions, self.values))
        return self._frame[1]


def _partitions(sorting: Sorting, batch: RecordBatch) -> Partitions:
    partition, order = sorting
    return Partitions(
        [Evaluator(key)(batch) for key in partition],
        [Evaluator(key.expression)(batch) for key in order],
        [key.descending for key in order],
        [key.nulls_first for key in order],
        batch.row_count,
    )
