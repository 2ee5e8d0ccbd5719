"""LimitRows: skips rows, then passes at most so many. It stops asking its input as soon as it has them."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Limit
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class LimitRows(Operator):
    def __init__(self, plan: Limit, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        to_skip, left = self.plan.skip_count, self.plan.row_count
        if left == 0:
            return
        for batch in self.children[0].batches():
            count = batch.row_count
            if to_skip >= count:
                to_skip -= count
                continue
            stop = count if left is None else min(count, to_skip + left)
            part = batch if to_skip == 0 and stop == count else batch.slice(to_skip, stop)
            to_skip = 0
            yield part
            if left is not None:
                left -= part.row_count
                if left == 0:
                    return
