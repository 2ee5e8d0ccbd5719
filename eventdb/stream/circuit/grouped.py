"""Grouped: GROUP BY whose aggregates are kept as numbers, not as rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.logical.aggregates import is_collected
from eventdb.logical.expressions import Aggregation
from eventdb.logical.plan import Aggregate
from eventdb.physical.accumulators import accumulator_of
from eventdb.physical.aggregate_state import AggregateInputs, GroupedState
from eventdb.schema import BIGINT
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, difference, weights_of

_ROWS = Aggregation("count_star", (), BIGINT)
"""How many rows a group has: without any it is gone."""


def can_group(plan: Aggregate, *, grows: bool) -> bool:
    """Whether numbers are enough: the input only grows, or what its rows added can be taken away again."""
    if any(map(is_collected, plan.aggregations)):
        return False
    return grows or all(not a.distinct and accumulator_of(a).reversible for a in plan.aggregations)


class Grouped(Node):
    def __init__(self, plan: Aggregate, interner: Interner) -> None:
        super().__init__(plan.fields, grows=False)
        aggregations = (*plan.aggregations, _ROWS)
        self._inputs = AggregateInputs(plan.keys, aggregations)
        self._state = GroupedState(aggregations, [key.type for key in plan.keys])
        self._codec = RowCodec([field.type for field in plan.fields], interner)
        self._is_whole = not plan.keys
        self._whole = self._state.locate([], 1)[0] if self._is_whole else None  # there before any row

    @property
    def nbytes(self) -> int:
        return self._state.nbytes

    def begin(self) -> Change:
        return None if self._whole is None else self._rows(self._whole)[0]

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        state = self._state
        added, taken = (self._part(change, sign) for sign in (1, -1))
        located = [None if part is None else state.locate(self._inputs.keys(part), part.row_count)
                   for part in (added, taken)]  # fmt: skip
        touched = np.unique(np.concatenate([found[0] for found in located if found is not None]))
        before, _ = self._rows(touched)
        for part, found, is_taken in zip((added, taken), located, (False, True), strict=True):
            if part is not None and found is not None:
                state.accumulate(*found, *self._inputs.arguments(part), part.row_count, taken=is_taken)
        after, gone = self._rows(touched)
        if not self._is_whole and len(gone):
            state.remove(gone)
        return difference(self.names, self._codec, [before], [after])

    def _part(self, change: RecordBatch, sign: int) -> RecordBatch | None:
        """The rows that came (1) or went (-1), each as often as it did."""
        if change.weight is None:
            return change if sign > 0 else None
        counts = np.maximum(sign * weights_of(change), 0)
        rows = np.repeat(np.arange(change.row_count), counts)
        return change.take(rows) if len(rows) else None

    def _rows(self, groups: Array) -> tuple[RecordBatch, Array]:
        """The output rows of those of the groups that have any, and the groups that have none."""
        result = self._state.result(groups)
        counts = result.columns[-1].values
        batch = RecordBatch(self.names, result.columns[:-1], len(groups))
        if self._is_whole or counts.all():
            return batch, groups[:0]
        return batch.filter(counts > 0), groups[counts == 0]
