"""FileRows: the rows of a CSV, JSON lines or Parquet file."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.plan import FileScan
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class FileRows(Operator):
    def __init__(self, plan: FileScan, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        from eventdb.arrow import read_file

        plan = self.plan
        for batch in read_file(plan.path, plan.format, plan.columns, [field.type for field in plan.output]):
            for start in range(0, batch.row_count, MORSEL_ROWS):
                part = batch if batch.row_count <= MORSEL_ROWS else batch.slice(start, start + MORSEL_ROWS)
                yield RecordBatch(self.names, part.columns, part.row_count)
