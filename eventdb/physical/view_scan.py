"""ViewRows: the content of a materialized view at the query's snapshot, as the continuous query gives it."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.plan import ViewScan
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class ViewRows(Operator):
    def __init__(self, plan: ViewScan, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.context.view_content(self.plan.view_id, self.plan.columns):
            yield RecordBatch(self.names, batch.columns, batch.row_count)
