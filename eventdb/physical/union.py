"""UnionRows: the rows of every input, one input after the other.

String columns keep the dictionaries they came with; whoever combines batches unifies them.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.plan import UnionAll
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class UnionRows(Operator):
    def __init__(self, plan: UnionAll, children: tuple[Operator, ...], context: QueryContext) -> None:
        super().__init__(plan.fields, context, children)

    def label(self) -> str:
        return "UnionAll"

    def produce(self) -> Iterator[RecordBatch]:
        for child in self.children:
            for batch in child.batches():
                yield RecordBatch(self.names, batch.columns, batch.row_count, batch.weight)
