"""HashJoin: INNER and LEFT equi-joins. The right side is indexed, the left side streams through.

NULL keys never match. The residual condition is part of the match: a left row of a LEFT JOIN whose partners all fail it
comes once, with NULLs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.plan import Join
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import KeyIndex
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator


class HashJoin(Operator):
    def __init__(self, plan: Join, left: Operator, right: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (left, right))
        self.plan = plan
        self._left_keys = [Evaluator(key) for key in plan.left_keys]
        self._right_keys = [Evaluator(key) for key in plan.right_keys]
        self._residual = None if plan.residual is None else Evaluator(plan.residual)
        self._outer = plan.kind == "left"

    def label(self) -> str:
        return f"Hash{self.plan.label()}"

    def produce(self) -> Iterator[RecordBatch]:
        right, index = self._build()
        if right is None and not self._outer:
            return
        for batch in self.children[0].batches():
            if right is None or index is None:
                yield self._unmatched(batch, right)
            else:
                yield from self._probe(batch, right, index)
        self.release()

    def _build(self) -> tuple[RecordBatch | None, KeyIndex | None]:
        batches = []
        held = 0
        for batch in self.children[1].batches():
            batches.append(batch)
            held += batch.nbytes
            self.context.hold(self, "the right side of a JOIN", 2 * held)
        if not batches:
            return None, None
        right = RecordBatch.concat(batches)
        index = KeyIndex([key(right) for key in self._right_keys], right.row_count)
        self.context.hold(self, "the right side of a JOIN", right.nbytes + index.nbytes)
        return right, index

    def _probe(self, batch: RecordBatch, right: RecordBatch, index: KeyIndex) -> Iterator[RecordBatch]:
        found = index.find([key(batch) for key in self._left_keys], batch.row_count)
        counts = np.zeros(batch.row_count, dtype=np.int64)
        if len(index.counts):
            counts = np.where(found >= 0, index.counts[found], 0)
        if not self._outer:
            for left_rows, right_rows in self._matches(found, counts, index):
                yield self._joined(batch.take(left_rows), right.take(right_rows))[0]
            return
        matched = np.zeros(batch.row_count, dtype=bool)
        for left_rows, right_rows in self._matches(found, counts, index):
            joined, kept = self._joined(batch.take(left_rows), right.take(right_rows))
            matched[left_rows if kept is None else left_rows[kept]] = True
            yield joined
        if not matched.all():
            yield self._unmatched(batch.filter(~matched), right)

    def _matches(self, found: Array, counts: Array, index: KeyIndex) -> Iterator[tuple[Array, Array]]:
        """Pairs of left and right rows, at most MORSEL_ROWS at a time however often a key repeats."""
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        for start in range(0, total, MORSEL_ROWS):
            self.context.cancel.check()
            stop = min(start + MORSEL_ROWS, total)
            # The left rows this piece touches, then each one's share of it.
            first = int(np.searchsorted(ends, start, "right"))
            last = int(np.searchsorted(ends, stop, "left")) + 1
            share = np.minimum(ends[first:last], stop) - np.maximum(ends[first:last] - counts[first:last], start)
            left_rows = np.repeat(np.arange(first, last), share)
            place = np.arange(start, stop) - (ends - counts)[left_rows]
            yield left_rows, index.order[index.starts[found[left_rows]] + place]

    def _joined(self, left: RecordBatch, right: RecordBatch) -> tuple[RecordBatch, Array | None]:
        """The joined rows that pass the residual, and which passed (None: all)."""
        joined = RecordBatch(self.names, [*left.columns, *right.columns], left.row_count)
        keep = None if self._residual is None else self._residual.keep(joined)
        return (joined, None) if keep is None else (joined.filter(keep), keep)

    def _unmatched(self, batch: RecordBatch, right: RecordBatch | None) -> RecordBatch:
        width = len(batch.columns)
        missing = []
        for i, field in enumerate(self.fields[width:]):
            dictionary = None if right is None else right.columns[i].dictionary
            missing.append(_nulls(field_column=null_column(field.type, batch.row_count), dictionary=dictionary))
        return RecordBatch(self.names, [*batch.columns, *missing], batch.row_count)


def _nulls(field_column: Column, dictionary: Dictionary | None) -> Column:
    """NULLs that share the dictionary of the other rows, so that nothing has to be recoded later."""
    if dictionary is None or not len(dictionary):
        return field_column
    return Column(field_column.type, field_column.values, field_column.validity, dictionary)
