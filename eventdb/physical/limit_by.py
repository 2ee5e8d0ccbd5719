"""LimitRowsBy: LIMIT and OFFSET within each group of equal keys. All rows are held."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.relational import LimitBy
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import held_rows
from eventdb.physical.set_operation import occurrence


class LimitRowsBy(Operator):
    def __init__(self, plan: LimitBy, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._keys = [Evaluator(key) for key in plan.keys]

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        rows = held_rows(self, self.children[0], "LIMIT in a subquery")
        if rows is None:
            return
        place = occurrence(factorize([key(rows) for key in self._keys], rows.row_count).ids)
        keep = place >= self.plan.skip_count
        if self.plan.row_count is not None:
            keep &= place < self.plan.skip_count + self.plan.row_count
        kept = rows.filter(keep)
        for start in range(0, kept.row_count, MORSEL_ROWS):
            yield kept.slice(start, start + MORSEL_ROWS)
        self.release()
