"""ConstantRows: the rows written in the statement."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.expressions import IntervalValue
from eventdb.logical.plan import Values
from eventdb.physical.context import QueryContext
from eventdb.physical.operands import from_values
from eventdb.physical.operator import Operator


class ConstantRows(Operator):
    def __init__(self, plan: Values, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        rows = self.plan.rows
        columns = []
        for i, field in enumerate(self.fields):
            values = [row[i].value for row in rows]
            exact = [v.microseconds if isinstance(v, IntervalValue) else v for v in values]
            columns.append(from_values(field.type, exact))
        yield RecordBatch(self.names, columns, len(rows))
