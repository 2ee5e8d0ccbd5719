"""HashJoin: inner, left, full and single joins. The right side is held and indexed, the left side streams through.

A right side that does not fit in memory goes to disk: see spilled_join.py.

The residual condition is part of the match: a left row of a LEFT JOIN whose partners all fail it comes once, with
NULLs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
from eventdb.physical.pairs import PairCondition, Partners, TooMany, fitting_rows
from eventdb.physical.spilled_join import ChunkedJoin, PartedRows, SpilledJoin

_HELD = "the right side of a JOIN"


class HashJoin(ChunkedJoin):
    def __init__(self, plan: Join, left: Operator, right: Operator, context: QueryContext, level: int = 0) -> None:
        """`level`: how often its rows were cut into parts before."""
        super().__init__(plan.fields, context, (left, right))
        self.plan = plan
        self._spilled = SpilledJoin(plan, HashJoin, context, level)
        self._left_keys = [Evaluator(key) for key in plan.left_keys]
        self._right_keys = [Evaluator(key) for key in plan.right_keys]
        self._width = len(plan.left.fields)
        self._residual = None if plan.residual is None else PairCondition(plan.residual, self._width)
        self._outer = plan.kind != "inner"

    def label(self) -> str:
        return join_label(self.plan) + self._spilled.note

    def produce(self) -> Iterator[RecordBatch]:
        left, side = self.children
        built = self.plan.right if isinstance(self.plan.right, Built) else None
        right: RecordBatch | TooMany | PartedRows | None
        if isinstance(side, PartedRows):
            right = side
        elif built is None:
            right = fitting_rows(self, side, _HELD)
        else:
            right = built.rows if built.rows.row_count else None
        if isinstance(right, TooMany | PartedRows):
            yield from self._spilled.run(self, right)
        elif right is None:
            if self._outer:
                yield from (self.without_right(batch) for batch in left.batches())
        else:
            yield from self._in_memory(left, self._partners(right), built is None)
        self.release()

    def _partners(self, right: RecordBatch) -> Partners:
        keys = [key(right) for key in self._right_keys]
        table = built_table(self.plan) or self._spilled.table(keys, right.row_count)
        return Partners(right, keys, self.plan.null_matches, table)

    def _in_memory(self, left: Operator, partners: Partners, own: bool) -> Iterator[RecordBatch]:
        """`own`: this operator holds the partners."""
        if own:
            self.context.hold(self, _HELD, partners.nbytes, spills=True)
        seen = np.zeros(partners.rows.row_count, dtype=bool)
        for batch in left.batches():
            matched = np.zeros(batch.row_count, dtype=bool)
            yield from self._probe(batch, partners, seen, matched)
            if self._outer and not matched.all():
                yield self.without_right(batch.filter(~matched), partners.rows)
        yield from self._unseen(partners.rows, seen)

    def by_chunks(self, left: Iterable[RecordBatch], chunks: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        flags: list[Array] = []
        for right in chunks:
            partners = self._partners(right)
            self.context.hold(self, _HELD, partners.nbytes + sum(map(len, flags)), spills=True)
            seen = np.zeros(right.row_count, dtype=bool)
            for number, batch in enumerate(left):
                if number == len(flags):
                    flags.append(np.zeros(batch.row_count, dtype=bool))
                yield from self._probe(batch, partners, seen, flags[number])
            yield from self._unseen(right, seen)
            del right, partners
        if self._outer:
            for number, batch in enumerate(left):
                yield self.without_right(batch.filter(~flags[number]) if flags else batch)

    def _unseen(self, right: RecordBatch, seen: Array) -> Iterator[RecordBatch]:
        """What a full join gives of the right rows without a partner."""
        for start in range(0, right.row_count if self.plan.kind == "full" else 0, MORSEL_ROWS):
            piece = slice(start, start + MORSEL_ROWS)
            yield self.without_left(right.slice(start, start + MORSEL_ROWS).filter(~seen[piece]))

    def _probe(self, batch: RecordBatch, partners: Partners, seen: Array, matched: Array) -> Iterator[RecordBatch]:
        """The pairs. Marks the right rows `seen` and the left ones `matched` where that is asked for later."""
        right = partners.rows
        found, counts = partners.counts([key(batch) for key in self._left_keys], batch.row_count)
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

    def without_right(self, batch: RecordBatch, right: RecordBatch | None = None) -> RecordBatch:
        """Left rows with NULLs, which have the dictionaries of `right`."""
        missing = []
        for i, field in enumerate(self.fields[self._width :]):
            dictionary = None if right is None else right.columns[i].dictionary
            missing.append(_nulls(null_column(field.type, batch.row_count), dictionary))
        return RecordBatch(self.names, [*batch.columns, *missing], batch.row_count)

    def without_left(self, right: RecordBatch) -> RecordBatch:
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
