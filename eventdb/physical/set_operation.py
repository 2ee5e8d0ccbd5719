"""SetRows: INTERSECT and EXCEPT. Rows come in the order of the left side; NULL equals NULL, NaN equals NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.relational import SetOperation
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import TooMany, fitting_rows, table_bytes


class SetRows(Operator):
    def __init__(self, plan: SetOperation, left: Operator, right: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (left, right))
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        what = self.plan.kind.upper()
        left = fitting_rows(self, self.children[0], what)
        if left is None:
            return
        if isinstance(left, TooMany):
            yield from self._on_disk(left, self.children[1].batches())
            return
        self.context.hold(self, what, left.nbytes, spills=True)
        right = fitting_rows(self, self.children[1], what, table_bytes(left.nbytes, left.row_count))
        if isinstance(right, TooMany):
            yield from self._on_disk([left], right)
            return
        whole = left if right is None else RecordBatch.concat([left, right])
        self.context.hold(self, what, left.nbytes + 2 * whole.nbytes, spills=True)
        kept = whole.slice(0, left.row_count).filter(self._keep(whole, left.row_count))
        for start in range(0, kept.row_count, MORSEL_ROWS):
            piece = kept.slice(start, start + MORSEL_ROWS)
            yield RecordBatch(self.names, piece.columns, piece.row_count)
        self.release()

    def _on_disk(self, left: Iterable[RecordBatch], right: Iterable[RecordBatch]) -> Iterator[RecordBatch]:
        """The rows of the operation by how often each is on either side."""
        from eventdb.physical.spilled_distinct import counted_rows, flagged, repeated

        self.release()
        common = self.plan.kind == "intersect"
        for batch in counted_rows(self.fields, flagged(left, right), 2, self.context):
            mine, others = (column.values for column in batch.columns[-2:])
            if self.plan.keep_all:
                counts = np.minimum(mine, others) if common else np.maximum(mine - others, 0)
            else:
                counts = (mine > 0) & ((others > 0) if common else (others == 0))
            yield from repeated(RecordBatch(self.names, batch.columns[:-2], batch.row_count), counts, self.names)

    def _keep(self, whole: RecordBatch, left_count: int) -> Array:
        """Which of the left rows, the first of `whole`, stay."""
        groups = factorize(whole.columns, whole.row_count)
        ids = groups.ids[:left_count]
        partners = np.bincount(groups.ids[left_count:], minlength=groups.count)[ids]
        place = occurrence(ids)
        if self.plan.kind == "intersect":
            result: Array = place < (partners if self.plan.keep_all else np.minimum(partners, 1))
        elif self.plan.keep_all:
            result = place >= partners
        else:
            result = (partners == 0) & (place == 0)
        return result


def occurrence(ids: Array) -> Array:
    """How many rows before have the same id, for each row."""
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_ids[1:] != sorted_ids[:-1]))) if len(ids) else order
    lengths = np.diff(np.append(starts, len(ids)))
    place = np.empty(len(ids), dtype=np.int64)
    place[order] = np.arange(len(ids)) - np.repeat(starts, lengths)
    return place
