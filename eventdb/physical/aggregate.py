"""GroupRows: GROUP BY and aggregates.

Each batch becomes a partial result (its distinct keys and one accumulator slot per key). Partials are merged when their
groups together are twice what the last merge left, so memory follows the groups and the work per row stays constant.
DISTINCT arguments are partial results too: the distinct pairs of keys and argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eventdb.batch import Array, Column, RecordBatch, concat_columns
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Aggregation
from eventdb.logical.plan import Aggregate
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.accumulators import accumulator_of, is_distinct_set
from eventdb.physical.aggregate_state import AggregateInputs
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator

_MERGE_GROUPS = 1 << 16


def concat_rows(parts: Sequence[Sequence[Column]]) -> list[Column]:
    """The columns of all parts below each other."""
    return [concat_columns([part[i] for part in parts]) for i in range(len(parts[0]))]


@dataclass(slots=True)
class _Partial:
    """Groups of some rows: `keys` hold each once; a slot per group in each accumulator (None: kept as pairs)."""

    keys: list[Column]
    count: int
    accumulators: list[Accumulator | None]

    @property
    def nbytes(self) -> int:
        held = sum(a.nbytes for a in self.accumulators if a is not None)
        return held + sum(key.nbytes for key in self.keys)


class _Pairs:
    """The distinct combinations of keys and argument of one DISTINCT aggregation."""

    def __init__(self) -> None:
        self._parts: list[list[Column]] = []
        self._row_count = 0
        self._merged_count = 0

    def add(self, columns: list[Column], row_count: int) -> None:
        groups = factorize(columns, row_count)
        self._parts.append([column.take(groups.first) for column in columns])
        self._row_count += groups.count
        if self._row_count >= max(_MERGE_GROUPS, 2 * self._merged_count):
            self.merge()

    def merge(self) -> list[Column] | None:
        """All distinct combinations; None without rows."""
        if len(self._parts) > 1:
            columns = concat_rows(self._parts)
            first = np.sort(factorize(columns, self._row_count).first)
            self._parts = [[column.take(first) for column in columns]]
            self._row_count = self._merged_count = len(first)
        return self._parts[0] if self._parts else None

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for part in self._parts for column in part)


class GroupRows(Operator):
    def __init__(self, plan: Aggregate, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._inputs = AggregateInputs(plan.keys, plan.aggregations)
        self._pairs = {i: _Pairs() for i, a in enumerate(plan.aggregations) if is_distinct_set(a)}

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        pending: list[_Partial] = []
        group_count = merged_count = held = 0
        for batch in self.children[0].batches():
            partial = self._evaluated(batch)
            pending.append(partial)
            group_count += partial.count
            held += partial.nbytes
            if group_count >= max(_MERGE_GROUPS, 2 * merged_count):
                self._hold(2 * held)
                pending = [self._merge(pending)]
                group_count = merged_count = pending[0].count
                held = pending[0].nbytes
            self._hold(held)
        if pending:
            yield from self._finish(self._merge(pending))
        elif not self.plan.keys:
            yield from self._finish(self._nothing())
        self.release()

    def _hold(self, held: int) -> None:
        for pairs in self._pairs.values():
            held += pairs.nbytes
        self.context.hold(self, "GROUP BY" if self.plan.keys else "an aggregate", held)

    def _fresh(self, count: int) -> list[Accumulator | None]:
        made: list[Accumulator | None] = []
        for i, aggregation in enumerate(self.plan.aggregations):
            if i in self._pairs:
                made.append(None)
                continue
            new = accumulator_of(aggregation)
            new.resize(count)
            made.append(new)
        return made

    def _nothing(self) -> _Partial:
        return _Partial([], 1, self._fresh(1))

    def _evaluated(self, batch: RecordBatch) -> _Partial:
        try:
            keys = self._inputs.keys(batch)
            arguments, filters = self._inputs.arguments(batch)
        except EvaluationError as error:
            inputs = self._inputs
            raise self.blame(error, batch, lambda part: (inputs.keys(part), inputs.arguments(part))) from None
        return self._partial(batch, keys, arguments, filters)

    def _partial(
        self,
        batch: RecordBatch,
        keys: list[Column],
        arguments: list[Column | None],
        filters: list[Array | None],
    ) -> _Partial:
        groups = factorize(keys, batch.row_count)
        ids = groups.ids if groups.count > 1 else None
        slots = np.arange(groups.count)
        accumulators = self._fresh(groups.count)
        for i, (new, column, keep) in enumerate(zip(accumulators, arguments, filters, strict=True)):
            if new is None:
                assert column is not None
                self._add_pairs(self._pairs[i], keys, column, keep)
            elif keep is None:
                new.update(slots, ids, column, batch.row_count)
            else:
                chosen = None if column is None else column.filter(keep)
                new.update(slots, None if ids is None else ids[keep], chosen, int(np.count_nonzero(keep)))
        return _Partial([key.take(groups.first) for key in keys], groups.count, accumulators)

    @staticmethod
    def _add_pairs(pairs: _Pairs, keys: list[Column], column: Column, keep: Array | None) -> None:
        if column.validity is not None:
            keep = column.validity if keep is None else keep & column.validity
        columns = [*keys, column]
        if keep is not None:
            columns = [c.filter(keep) for c in columns]
        if len(columns[0]):
            pairs.add(columns, len(columns[0]))

    def _merge(self, partials: list[_Partial]) -> _Partial:
        if len(partials) == 1:
            return partials[0]
        counts = [partial.count for partial in partials]
        total = sum(counts)
        if self.plan.keys:
            keys = concat_rows([partial.keys for partial in partials])
            groups = factorize(keys, total)
            ids, count = groups.ids, groups.count
            keys = [key.take(groups.first) for key in keys]
        else:
            keys, ids, count = [], np.zeros(total, dtype=np.int64), 1
        accumulators = self._fresh(count)
        start = 0
        for partial in partials:
            slots = ids[start : start + partial.count]
            start += partial.count
            for mine, other in zip(accumulators, partial.accumulators, strict=True):
                if mine is not None and other is not None:
                    mine.merge(other, slots)
        return _Partial(keys, count, accumulators)

    def _finish(self, partial: _Partial) -> Iterator[RecordBatch]:
        slots = np.arange(partial.count)
        columns = list(partial.keys)
        for i, (aggregation, done) in enumerate(zip(self.plan.aggregations, partial.accumulators, strict=True)):
            if done is None:
                columns.append(self._distinct_result(aggregation, self._pairs[i].merge(), partial))
            else:
                columns.append(done.result(slots))
        whole = RecordBatch(self.names, columns, partial.count)
        for start in range(0, partial.count, MORSEL_ROWS):
            yield whole if partial.count <= MORSEL_ROWS else whole.slice(start, start + MORSEL_ROWS)

    def _distinct_result(self, aggregation: Aggregation, pairs: list[Column] | None, partial: _Partial) -> Column:
        """The aggregate over each group's distinct arguments."""
        plain = accumulator_of(replace(aggregation, distinct=False))
        plain.resize(partial.count)
        slots = np.arange(partial.count)
        if pairs is not None:
            count = len(pairs[-1])
            ids: Array | None = None
            if partial.keys:
                groups = factorize(concat_rows([partial.keys, pairs[:-1]]), partial.count + count)
                slot_of = np.zeros(groups.count, dtype=np.int64)
                slot_of[groups.ids[: partial.count]] = slots
                ids = slot_of[groups.ids[partial.count :]]
            plain.update(slots, ids, pairs[-1], count)
        return plain.result(slots)
