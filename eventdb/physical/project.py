"""ProjectColumns: expressions over each batch."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Project
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operator import Operator


class ProjectColumns(Operator):
    def __init__(self, plan: Project, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._evaluators = [Evaluator(expression) for expression in plan.expressions]

    def label(self) -> str:
        return self.plan.label()

    def locate(self, row: int) -> int | None:
        return self.children[0].locate(row)

    def apply(self, batch: RecordBatch) -> RecordBatch:
        """The expressions' values; weights are kept."""
        columns = [evaluate(batch) for evaluate in self._evaluators]
        return RecordBatch(self.names, columns, batch.row_count, batch.weight)

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.children[0].batches():
            try:
                projected = self.apply(batch)
            except EvaluationError as error:
                raise self.blame(error, batch, self.apply) from None
            yield projected
