"""DistinctRows: each row once, in the order of first appearance. NULL equals NULL, NaN equals NaN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.plan import Distinct
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator

_AT_ONCE = 1 << 16


class DistinctRows(Operator):
    """New rows are passed on as they appear; with many distinct rows they wait until looking them up pays."""

    def __init__(self, plan: Distinct, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))

    def label(self) -> str:
        return "Distinct"

    def produce(self) -> Iterator[RecordBatch]:
        seen: RecordBatch | None = None
        waiting: list[RecordBatch] = []
        waiting_rows = 0
        for batch in self.children[0].batches():
            part = batch.take(np.sort(factorize(batch.columns, batch.row_count).first))
            waiting.append(part)
            waiting_rows += part.row_count
            if seen is None or seen.row_count < _AT_ONCE or 2 * waiting_rows > seen.row_count:
                seen, new = self._add(seen, waiting)
                waiting, waiting_rows = [], 0
                yield from new
            self.context.hold(self, "DISTINCT", (seen.nbytes if seen else 0) + sum(b.nbytes for b in waiting))
        if waiting:
            yield from self._add(seen, waiting)[1]
        self.release()

    @staticmethod
    def _add(seen: RecordBatch | None, waiting: list[RecordBatch]) -> tuple[RecordBatch, Iterator[RecordBatch]]:
        """All distinct rows, and those of them that `waiting` brought."""
        old = 0 if seen is None else seen.row_count
        whole = RecordBatch.concat(waiting if seen is None else [seen, *waiting])
        first = np.sort(factorize(whole.columns, whole.row_count).first)
        merged = whole if len(first) == whole.row_count else whole.take(first)
        return merged, _pieces(merged, old)


def _pieces(batch: RecordBatch, start: int) -> Iterator[RecordBatch]:
    for place in range(start, batch.row_count, MORSEL_ROWS):
        yield batch.slice(place, place + MORSEL_ROWS)
