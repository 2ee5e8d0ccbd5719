"""HashJoin: inner, left, full and single joins. The right side is held and indexed, the left side streams through.

The residual condition is part of the match: a left row of a LEFT JOIN whose partners all fail it comes once, with
NULLs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Join
from eventdb.physical.built import Built
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.join_table import JoinTable
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import PairCondition, Partners, held_rows


class HashJoin(Operator):
    def __init__(self, plan: Join, left: Operator, right: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (left, right))
        self.plan = plan
        self._left_keys = [Evaluator(key) for key in plan.left_keys]
        self._right_keys = [Evaluator(key) for key in plan.right_keys]
        self._width = len(plan.left.fields)
        self._residual = None if plan.residual is None else PairCondition(plan.residual, self._width)
        self._outer = plan.kind != "inner"

    def label(self) -> str:
        return join_label(self.plan)

    def produce(self) -> Iterator[RecordBatch]:
        built = self.plan.right if isinstance(self.plan.right, Built) else None
        if built is None:
            right = held_rows(self, self.children[1], "the right side of a JOIN")
        else:
            right = built.rows if built.rows.row_count else None
        if right is None and not self._outer:
            return
        partners = None
        if right is not None:
            keys = [key(right) for key in self._right_keys]
            partners = Partners(right, keys, self.plan.null_matches, built_table(self.plan))
            if built is None:
                self.context.hold(self, "the right side of a JOIN", partners.nbytes)
        seen = np.zeros(0 if right is None else right.row_count, dtype=bool)
        for batch in self.children[0].batches():
            if partners is None:
                yield self._without_right(batch, None)
            else:
                yield from self._probe(batch, partners, seen)
        if self.plan.kind == "full" and right is not None:
            for start in range(0, right.row_count, MORSEL_ROWS):
                piece = slice(start, start + MORSEL_ROWS)
                yield self._without_left(right.slice(start, start + MORSEL_ROWS).filter(~seen[piece]))
        self.release()

    def _probe(self, batch: RecordBatch, partners: Partners, seen: Array) -> Iterator[RecordBatch]:
        right = partners.rows
        found, counts = partners.counts([key(batch) for key in self._left_keys], batch.row_count)
        matched = np.zeros(batch.row_count, dtype=bool)
        for left_rows, right_rows in partners.pairs(found, counts, self.context.cancel):
            if self._residual is not None:
                keep = self._residual.keep(batch, right, left_rows, right_rows)
                if keep is not None:
                    left_rows, right_rows = left_rows[keep], right_rows[keep]
            if self.plan.kind == "single":
                check_single(left_rows, matched)
            if self._outer:
                matched[left_rows] = True
            if self.plan.kind == "full":
                seen[right_rows] = True
            columns = [*batch.take(left_rows).columns, *right.take(right_rows).columns]
            yield RecordBatch(self.names, columns, len(left_rows))
        if self._outer and not matched.all():
            yield self._without_right(batch.filter(~matched), right)

    def _without_right(self, batch: RecordBatch, right: RecordBatch | None) -> RecordBatch:
        missing = []
        for i, field in enumerate(self.fields[self._width :]):
            dictionary = None if right is None else right.columns[i].dictionary
            missing.append(_nulls(null_column(field.type, batch.row_count), dictionary))
        return RecordBatch(self.names, [*batch.columns, *missing], batch.row_count)

    def _without_left(self, right: RecordBatch) -> RecordBatch:
        missing = [null_column(field.type, right.row_count) for field in self.fields[: self._width]]
        return RecordBatch(self.names, [*missing, *right.columns], right.row_count)


def built_table(plan: Join) -> JoinTable | None:
    """The table of the right side's keys, if it is there already."""
    return plan.right.table if isinstance(plan.right, Built) else None


def join_label(plan: Join) -> str:
    """How the join runs, and the join."""
    return f"{'Hash' if plan.left_keys else 'NestedLoop'}{plan.label()}"


def check_single(left_rows: Array, matched: Array) -> None:
    """EvaluationError if a row has two partners: in `left_rows`, or one there and one before (`matched`)."""
    if matched[left_rows].any() or (len(left_rows) > 1 and (np.diff(np.sort(left_rows)) == 0).any()):
        raise EvaluationError("a subquery used as a value gave more than one row; add LIMIT 1, or an aggregate")


def _nulls(field_column: Column, dictionary: Dictionary | None) -> Column:
    """NULLs that share the dictionary of the other rows, so that nothing has to be recoded later."""
    if dictionary is None or not len(dictionary):
        return field_column
    return Column(field_column.type, field_column.values, field_column.validity, dictionary)
