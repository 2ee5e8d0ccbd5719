"""Nodes that keep nothing: each row gives its own rows, whatever else there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Fields, Plan, Values
from eventdb.physical.context import QueryContext
from eventdb.physical.planner import plan_physical
from eventdb.stream.circuit.node import Change, Node, merged, weights_of
from eventdb.stream.steps import Steps


class Mapped(Node):
    """Filter, Project and TimeWindow."""

    def __init__(self, plan: Plan, *, grows: bool) -> None:
        super().__init__(plan.fields, grows=grows)
        self._steps = Steps([plan])

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        batch, origin = self._steps.run(change)
        if not batch.row_count:
            return None
        weight = change.weight
        if weight is not None and origin is not None:
            weight = weight[origin]
        return RecordBatch(self.names, batch.columns, batch.row_count, weight)


class Expanded(Node):
    """Any step of the batch engine that works row by row. Its input in `template` is a WorkingTable, `number`."""

    def __init__(self, template: Plan, number: int, context: QueryContext, *, grows: bool) -> None:
        super().__init__(template.fields, grows=grows)
        self._template = template
        self._number = number
        self._context = context

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        weights = weights_of(change)
        parts = []
        for sign in (1, -1):
            rows = np.repeat(np.arange(change.row_count), np.maximum(sign * weights, 0))
            if not len(rows):
                continue
            self._context.working[self._number] = [change.take(rows)]
            for batch in plan_physical(self._template, self._context).batches():
                weight = np.full(batch.row_count, sign, dtype=np.int64)
                parts.append(RecordBatch(self.names, batch.columns, batch.row_count, weight))
        return merged(self.names, parts)


class United(Node):
    """UNION ALL."""

    def __init__(self, fields: Fields, *, grows: bool) -> None:
        super().__init__(fields, grows=grows)

    def step(self, changes: Sequence[Change]) -> Change:
        return merged(self.names, [change for change in changes if change is not None])


class Constant(Node):
    """VALUES: rows that were always there."""

    def __init__(self, plan: Values, context: QueryContext) -> None:
        super().__init__(plan.fields, grows=True)
        self._plan = plan
        self._context = context

    def begin(self) -> Change:
        return merged(self.names, list(plan_physical(self._plan, self._context).batches()))

    def step(self, changes: Sequence[Change]) -> Change:
        raise AssertionError("a constant has no inputs")
