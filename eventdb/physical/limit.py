"""LimitRows: skips rows, then passes at most so many. It stops asking its input as soon as it has them."""

from __future__ import annotations

from collections.abc import Iterator

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Limit
from eventdb.logical.relational import LimitValue
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


class LimitRows(Operator):
    def __init__(self, plan: Limit, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        return limited(self.children[0], self.plan.row_count, self.plan.skip_count)


class LimitRowsByValue(Operator):
    """The limits are computed first. EvaluationError if one is negative."""

    def __init__(self, plan: LimitValue, child: Operator, counts: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child, counts))
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        rows = [row for batch in self.children[1].batches() for row in batch.to_pylist()]
        row_count, skip_count = rows[0]
        for clause, count in (("LIMIT", row_count), ("OFFSET", skip_count)):
            if count is not None and count < 0:
                raise EvaluationError(f"{clause} must not be negative, and the subquery gave {count}")
        yield from limited(self.children[0], row_count, skip_count or 0)


def limited(child: Operator, left: int | None, to_skip: int) -> Iterator[RecordBatch]:
    """At most `left` rows of an operator (None = all) after `to_skip`."""
    if left == 0:
        return
    for batch in child.batches():
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
