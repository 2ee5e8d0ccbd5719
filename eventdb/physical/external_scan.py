"""ExternalRows: the rows of files, or of a Python object."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.plan import ExternalScan
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class ExternalRows(Operator):
    def __init__(self, plan: ExternalScan, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        plan = self.plan
        types = [field.type for field in plan.output]
        for batch in plan.source.batches(plan.columns, types, plan.terms, plan.limit):
            for start in range(0, batch.row_count, MORSEL_ROWS):
                part = batch if batch.row_count <= MORSEL_ROWS else batch.slice(start, start + MORSEL_ROWS)
                yield RecordBatch(self.names, part.columns, part.row_count)
