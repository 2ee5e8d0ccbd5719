"""FilterRows: the rows for which a predicate is true."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Filter
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operator import Operator


class FilterRows(Operator):
    def __init__(self, plan: Filter, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._predicate = Evaluator(plan.predicate)
        self._kept: Array | None = None

    def label(self) -> str:
        return self.plan.label()

    def locate(self, row: int) -> int | None:
        place = row if self._kept is None else int(np.flatnonzero(self._kept)[row])
        return self.children[0].locate(place)

    def apply(self, batch: RecordBatch) -> RecordBatch:
        """The kept rows of one batch; the batch itself when all are."""
        keep = self._kept = self._predicate.keep(batch)
        return batch if keep is None else batch.filter(keep)

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.children[0].batches():
            try:
                kept = self.apply(batch)
            except EvaluationError as error:
                raise self.blame(error, batch, self.apply) from None
            yield kept
