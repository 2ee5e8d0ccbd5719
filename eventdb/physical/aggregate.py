"""GroupRows and GroupSetRows: GROUP BY and aggregates, by one set of keys or by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eventdb.batch import Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Aggregation, Expression
from eventdb.logical.functions import is_collected
from eventdb.logical.plan import Aggregate, Fields, GroupSets
from eventdb.physical.aggregate_state import AggregateInputs
from eventdb.physical.collected import CollectedEvaluator
from eventdb.physical.context import QueryContext
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator
from eventdb.physical.partial_groups import GroupInputs
from eventdb.physical.spill import spilled_note
from eventdb.physical.spilled_groups import growing_groups
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
        what = "GROUP BY" if keys else "an aggregate"
        self.groups = growing_groups(self, what, aggregations, sets, self._inputs.keys, self._apply)
        self._spilled_bytes = 0  # once it is closed

    @property
    def note(self) -> str:
        return spilled_note(self._spilled_bytes + sum(groups.spilled_bytes for groups in self.groups))

    def read(self) -> None:
        """All rows are in the groups."""
        for batch in self.children[0].batches():
            keys, inputs = self._evaluated(batch)
            for chosen, groups in zip(self.sets, self.groups, strict=True):
                groups.add(batch, [keys[i] for i in chosen], inputs)

    def close(self) -> None:
        for groups in self.groups:
            groups.close()
            self._spilled_bytes += groups.spilled_bytes
        self.groups = []  # they refer to this operator: what it read would stay until the collector comes
        self.release()

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

    def label(self) -> str:
        return self.plan.label() + self.note

    def produce(self) -> Iterator[RecordBatch]:
        try:
            self.read()
            for keys, results, count in self.groups[0].finished():
                if count:
                    yield from self.pieces([*keys, *results], count)
        finally:
            self.close()


class GroupSetRows(_Grouped):
    """The groups of each set after those of the one before it; each set keeps its own, so the input is read once."""

    def __init__(self, plan: GroupSets, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, child, context, plan.keys, plan.aggregations, plan.sets)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label() + self.note

    def produce(self) -> Iterator[RecordBatch]:
        try:
            self.read()
            for number in range(len(self.sets)):
                for keys, results, count in self.groups[number].finished():
                    if count:
                        which = Column(BIGINT, np.full(count, number, np.int64))
                        yield from self.pieces([*self._filled(number, keys, count), *results, which], count)
        finally:
            self.close()

    def _filled(self, number: int, keys: list[Column], count: int) -> list[Column]:
        """All keys, NULL where the set has them not."""
        place = {key: i for i, key in enumerate(self.sets[number])}
        return [keys[place[i]] if i in place else null_column(key.type, count) for i, key in enumerate(self.plan.keys)]
