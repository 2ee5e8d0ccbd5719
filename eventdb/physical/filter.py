"""FilterRows: the rows for which a predicate is true."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Filter
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operator import Operator


class FilterRows(Operator):
    def __init__(self, plan: Filter, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._predicate = Evaluator(plan.predicate)

    def label(self) -> str:
        return self.plan.label()

    def apply(self, batch: RecordBatch) -> RecordBatch:
        """The kept rows of one batch; the batch itself when all are."""
        keep = self._predicate.keep(batch)
        return batch if keep is None else batch.filter(keep)

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.children[0].batches():
            yield self.apply(batch)
