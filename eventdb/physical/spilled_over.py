"""SpilledOver: analytic functions over more rows than fit in memory. Rows come out in another order than they came in.

Rows are cut into parts by a hash of the keys that all calls are partitioned by, and each part is computed by itself.
Calls without a common key are computed one window after another. A partition that is itself too large is aggregated on
disk and joined to its rows where all its rows have one value; else it is sorted on disk and streams (running_over.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from eventdb.batch import Column, RecordBatch
from eventdb.logical.expressions import Aggregation, ColumnRef, Expression, SortKey
from eventdb.logical.over import Over, OverCall
from eventdb.logical.plan import Aggregate, Fields, Join, OutputField, Sort
from eventdb.physical.aggregate import GroupRows
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.join import HashJoin
from eventdb.physical.operator import Operator
from eventdb.physical.running_over import Computing, stream
from eventdb.physical.sort import SortRows
from eventdb.physical.spilled_distinct import Passing, leaf_of
from eventdb.physical.spilled_parts import LEVELS, PARTS, StoredRows, spilled_parts

Make = Callable[[Over, Operator, int], Computing]
"""The operator of a plan over an input whose rows were cut so often."""


class SpilledOver:
    """`whole` says which calls have one value for a partition, and `aggregation` what it is."""

    def __init__(
        self, make: Make, whole: Callable[[OverCall], bool], aggregation: Callable[[OverCall], Aggregation],
        context: QueryContext,
    ) -> None:  # fmt: skip
        self._make, self._whole, self._aggregation, self._context = make, whole, aggregation, context

    def rows(self, plan: Over, rows: Iterator[RecordBatch], level: int) -> Iterator[RecordBatch]:
        """The rows with a column for each call. `level`: how often the rows were cut before."""
        fields, calls = plan.input.fields, plan.calls
        common = [key for key in calls[0].partition if all(key in call.partition for call in calls)]
        if common and level < LEVELS:
            yield from self._by_parts(plan, common, rows, level)
            return
        first = self._window(calls[0])
        if any(self._window(call) != first for call in calls):
            yield from self._stacked(plan, rows, level)
        elif self._whole(calls[0]):
            yield from self._grouped(plan, fields, rows)
        else:
            keys = (*(SortKey(key) for key in calls[0].partition), *calls[0].order)
            source: Operator = Passing(fields, rows, self._context)
            if keys:
                source = SortRows(Sort(leaf_of(fields), keys), source, self._context)
            yield from stream(plan, source, self._make(plan, source, level), self._context)

    def _window(self, call: OverCall) -> tuple[object, ...]:
        """Equal for calls that are computed together."""
        return (call.partition, call.order, self._whole(call))

    def _by_parts(
        self, plan: Over, keys: Sequence[Expression], rows: Iterable[RecordBatch], level: int
    ) -> Iterator[RecordBatch]:
        parts = spilled_parts(self._context, _evaluated(keys), level)
        try:
            for batch in rows:
                parts.add(batch)
            parts.finish()
            for number in range(PARTS):
                part = parts.part(number)
                if part.row_count:
                    operator = self._make(plan, StoredRows(plan.input.fields, part, self._context), level + 1)
                    try:
                        yield from operator.batches()
                    finally:
                        operator.release()
        finally:
            parts.close()

    def _stacked(self, plan: Over, rows: Iterator[RecordBatch], level: int) -> Iterator[RecordBatch]:
        """The calls of the first window below, the others over their rows."""
        first = self._window(plan.calls[0])
        chosen = [i for i, call in enumerate(plan.calls) if self._window(call) == first]
        order = [*chosen, *(i for i in range(len(plan.calls)) if i not in chosen)]
        below = replace(plan, calls=_picked(plan.calls, chosen), added=_picked(plan.added, chosen))
        others = order[len(chosen) :]
        above = Over(leaf_of(below.fields), _picked(plan.calls, others), _picked(plan.added, others))
        inner = Passing(below.fields, self.rows(below, rows, level), self._context)
        width = len(plan.input.fields)
        places = [*range(width), *(width + order.index(i) for i in range(len(order)))]
        names = [field.name for field in plan.fields]
        operator = self._make(above, inner, 0)
        try:
            for batch in operator.batches():
                yield batch.select(places, names)
        finally:
            operator.release()

    def _grouped(self, plan: Over, fields: Fields, rows: Iterable[RecordBatch]) -> Iterator[RecordBatch]:
        """Each row beside the aggregates of its partition."""
        keys = plan.calls[0].partition
        key_fields = tuple(OutputField("", key.type) for key in keys)
        groups = Aggregate(leaf_of(fields), keys, tuple(map(self._aggregation, plan.calls)), (*key_fields, *plan.added))
        refs = tuple(ColumnRef(key.type, i, "") for i, key in enumerate(keys))
        join = Join("inner", leaf_of(fields), leaf_of(groups.fields), keys, refs, None, (True,) * len(keys))
        stored = spilled_parts(self._context, _evaluated(()))
        names = [field.name for field in plan.fields]
        width = len(fields)
        try:
            for batch in rows:
                stored.add(batch)
            stored.finish()
            left, right = (StoredRows(fields, stored.part(0), self._context) for _ in range(2))
            operator = HashJoin(join, left, GroupRows(groups, right, self._context), self._context)
            for batch in operator.batches():
                columns = [*batch.columns[:width], *batch.columns[width + len(keys) :]]
                yield RecordBatch(names, columns, batch.row_count)
        finally:
            stored.close()


T = TypeVar("T")


def _picked(values: Sequence[T], places: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in places)


def _evaluated(keys: Sequence[Expression]) -> Callable[[RecordBatch], list[Column]]:
    evaluators = [Evaluator(key) for key in keys]
    return lambda batch: [key(batch) for key in evaluators]
