"""GroupRows and GroupSetRows: GROUP BY and aggregates, by one set of keys or by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eventdb.batch import Column, RecordBatch
from eventdb.config import MIB, MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Aggregation, Expression
from eventdb.logical.functions import is_collected
from eventdb.logical.plan import Aggregate, Fields, GroupSets
from eventdb.physical.aggregate_state import AggregateInputs
from eventdb.physical.collected import CollectedEvaluator
from eventdb.physical.context import QueryContext
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator
from eventdb.physical.partial_groups import GroupInputs, PartialGroups
from eventdb.schema import BIGINT


class _Grouped(Operator):
    """Evaluates keys and arguments, and hands them to the groups of each set."""

    def __init__(
        self, fields: Fields, child: Operator, context: QueryContext, keys: Sequence[Expression],
        aggregations: Sequence[Aggregation], sets: Sequence[tuple[int, ...]],
    ) -> None:  # fmt: skip
        super().__init__(fields, context, (child,))
        self.sets = sets
        self._inputs = AggregateInputs(keys, [None if is_collected(a) else a for a in aggregations])
        self._collected = {i: CollectedEvaluator(a) for i, a in enumerate(aggregations) if is_collected(a)}
        self._groups = [PartialGroups(aggregations, bool(chosen)) for chosen in sets]
        self._what = "GROUP BY" if keys else "an aggregate"

    def read(self) -> None:
        """All rows are in the groups."""
        for batch in self.children[0].batches():
            keys, inputs = self._evaluated(batch)
            for chosen, groups in zip(self.sets, self._groups, strict=True):
                if groups.add([keys[i] for i in chosen], inputs):
                    self._hold(2)
                    groups.merge()
            self._hold(1)

    def _hold(self, times: int) -> None:
        self.context.hold(self, self._what, times * sum(groups.nbytes for groups in self._groups))

    def _evaluated(self, batch: RecordBatch) -> tuple[list[Column], GroupInputs]:
        try:
            return self._apply(batch)
        except EvaluationError as error:
            raise self.blame(error, batch, self._apply) from None

    def _apply(self, batch: RecordBatch) -> tuple[list[Column], GroupInputs]:
        arguments, filters = self._inputs.arguments(batch)
        collected = {i: evaluate(batch) for i, evaluate in self._collected.items()}
        return self._inputs.keys(batch), GroupInputs(batch.row_count, arguments, filters, collected)

    def pieces(self, columns: list[Column], row_count: int) -> Iterator[RecordBatch]:
        whole = RecordBatch(self.names, columns, row_count)
        for start in range(0, row_count, MORSEL_ROWS):
            yield whole if row_count <= MORSEL_ROWS else whole.slice(start, start + MORSEL_ROWS)


class GroupRows(_Grouped):
    def __init__(self, plan: Aggregate, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, child, context, plan.keys, plan.aggregations, [tuple(range(len(plan.keys)))])
        self.plan = plan

        self.spilled_bytes = 0

    def label(self) -> str:
        spilled = f" ({self.spilled_bytes / MIB:.1f} MB spilled)" if self.spilled_bytes else ""
        return self.plan.label() + spilled

    def produce(self) -> Iterator[RecordBatch]:
        rows = self.children[0].batches()
        full = self._read_until_full(rows)
        if full:
            yield from self._spilled(rows)
        else:
            keys, results, count = self._groups[0].finish()
            if count:
                yield from self.pieces([*keys, *results], count)
        self.release()

    def _read_until_full(self, rows: Iterator[RecordBatch]) -> bool:
        """Reads all rows, or until the groups have their share of memory and rows can go to disk."""
        groups, can_spill = self._groups[0], self.plan.keys and self.context.spill_folder is not None
        for batch in rows:
            keys, inputs = self._evaluated(batch)
            full = groups.add(keys, inputs)
            if can_spill and not self.context.may_hold(self, 3 * groups.nbytes):
                groups.merge()
                full = False
                if not self.context.may_hold(self, 3 * groups.nbytes):
                    return True
            if full:
                self._hold(2)
                groups.merge()
            self._hold(1)
        return False

    def _spilled(self, rows: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        from eventdb.physical.spilled_groups import SpilledGroups

        assert self.context.spill_folder is not None
        spilled = SpilledGroups(self.context.spill_folder, self._groups.pop(), self._apply)
        self.context.hold(self, self._what, spilled.nbytes)
        try:
            for batch in rows:
                spilled.add(batch, self._evaluated(batch)[0])
            self.spilled_bytes = spilled.size_bytes
            for keys, results, count in spilled.finished(lambda held: self.context.hold(self, self._what, held)):
                if count:
                    yield from self.pieces([*keys, *results], count)
        finally:
            spilled.close()


class GroupSetRows(_Grouped):
    """The groups of each set after those of the one before it; each set keeps its own, so the input is read once."""

    def __init__(self, plan: GroupSets, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, child, context, plan.keys, plan.aggregations, plan.sets)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        self.read()
        for number, (chosen, groups) in enumerate(zip(self.sets, self._groups, strict=True)):
            keys, results, count = groups.finish()
            if count:
                place = {key: i for i, key in enumerate(chosen)}
                columns = [
                    keys[place[i]] if i in place else null_column(key.type, count)
                    for i, key in enumerate(self.plan.keys)
                ]
                yield from self.pieces([*columns, *results, Column(BIGINT, np.full(count, number, np.int64))], count)
        self.release()
