"""ExistsJoin: semi, anti and mark joins. Whether a left row has a partner, not which.

A mark follows SQL's NULLs. `a = ANY (...)` is looked up by hash: true where a partner with an equal value exists; else
NULL where a partner's value is NULL, or `a` is NULL and there is any partner. Other comparisons go over the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.logical.expressions import Call, Expression
from eventdb.logical.plan import Join
from eventdb.logical.predicates import all_of, equal_sides, terms_of
from eventdb.physical.built import Built
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.join import built_table, join_label
from eventdb.physical.join_table import JoinTable
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import PairCondition, Partners, TooMany, fitting_rows
from eventdb.physical.spilled_join import ChunkedJoin, PartedRows, SpilledJoin
from eventdb.schema import BOOLEAN


class _Search:
    """Left rows that have a partner among some right rows."""

    def __init__(
        self, rows: RecordBatch, left_keys: Sequence[Evaluator], right_keys: Sequence[Evaluator],
        null_matches: Sequence[bool], condition: PairCondition | None, table: JoinTable | None = None,
    ) -> None:  # fmt: skip
        self.partners = Partners(rows, [key(rows) for key in right_keys], null_matches, table)
        self._left_keys = left_keys
        self._condition = condition

    def exists(self, batch: RecordBatch, context: QueryContext) -> Array:
        """bool per row."""
        found, counts = self.partners.counts([key(batch) for key in self._left_keys], batch.row_count)
        if self._condition is None:
            result: Array = counts > 0
            return result
        result = np.zeros(batch.row_count, dtype=bool)
        for left_rows, right_rows in self.partners.pairs(found, counts, context.cancel):
            keep = self._condition.keep(batch, self.partners.rows, left_rows, right_rows)
            result[left_rows if keep is None else left_rows[keep]] = True
        return result


class ExistsJoin(ChunkedJoin):
    def __init__(self, plan: Join, left: Operator, right: Operator, context: QueryContext, level: int = 0) -> None:
        """`level`: how often its rows were cut into parts before."""
        super().__init__(plan.fields, context, (left, right))
        self.plan = plan
        self._spilled = SpilledJoin(plan, ExistsJoin, context, level)
        self._left_keys = [Evaluator(key) for key in plan.left_keys]
        self._right_keys = [Evaluator(key) for key in plan.right_keys]
        self._nulls = list(plan.null_matches) or [False] * len(plan.left_keys)
        self._true: _Search | None = None
        self._unknown: _Search | None = None  # its partners make the mark NULL
        self._operand: Evaluator | None = None  # the left side of `a = ANY`: NULL there, any of `_any` makes it NULL
        self._any: _Search | None = None

    def label(self) -> str:
        return join_label(self.plan) + self._spilled.note

    def produce(self) -> Iterator[RecordBatch]:
        side = self.children[1]
        built = self.plan.right if isinstance(self.plan.right, Built) else None
        right: RecordBatch | TooMany | PartedRows | None
        if isinstance(side, PartedRows):
            right = side
        else:
            right = fitting_rows(self, side, "a subquery") if built is None else built.rows
        if isinstance(right, TooMany | PartedRows):
            yield from self._spilled.run(self, right)
        else:
            if right is not None:
                self._prepare(right)
            if right is not None and built is None:
                self.context.hold(self, "a subquery", self._nbytes, spills=True)
            for batch in self.children[0].batches():
                true = self._exists(self._true, batch)
                asks = self.plan.kind == "mark" and not true.all()
                yield self._verdict(batch, true, self._is_unknown(batch) if asks else None)
        self.release()

    def by_chunks(self, left: Iterable[RecordBatch], chunks: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        trues: list[Array] = []
        unknowns: list[Array] = []
        for right in chunks:
            self._prepare(right)
            del right
            held = self._nbytes + 2 * sum(map(len, trues))
            self.context.hold(self, "a subquery", held, spills=True)
            for number, batch in enumerate(left):
                if number == len(trues):
                    trues.append(np.zeros(batch.row_count, dtype=bool))
                    unknowns.append(np.zeros(batch.row_count if self.plan.kind == "mark" else 0, dtype=bool))
                trues[number] |= self._exists(self._true, batch)
                if self.plan.kind == "mark":
                    unknowns[number] |= self._is_unknown(batch)
            self._true = self._unknown = self._any = None
        for number, batch in enumerate(left):
            none = np.zeros(batch.row_count, dtype=bool)
            yield self._verdict(batch, *((trues[number], unknowns[number]) if trues else (none, none)))

    @property
    def _nbytes(self) -> int:
        return sum(search.partners.nbytes for search in (self._true, self._unknown, self._any) if search is not None)

    def _exists(self, search: _Search | None, batch: RecordBatch) -> Array:
        return np.zeros(batch.row_count, dtype=bool) if search is None else search.exists(batch, self.context)

    def _is_unknown(self, batch: RecordBatch) -> Array:
        """Rows whose mark is NULL unless it is true."""
        unknown = self._exists(self._unknown, batch)
        if self._operand is not None and self._any is not None:
            missing = self._operand(batch).is_null()
            if missing.any():
                unknown |= missing & self._any.exists(batch, self.context)
        return unknown

    def _verdict(self, batch: RecordBatch, true: Array, unknown: Array | None) -> RecordBatch:
        """What the join gives of left rows, by which have a partner."""
        if self.plan.kind != "mark":
            return batch.filter(true if self.plan.kind == "semi" else ~true)
        validity = None if unknown is None else true | ~unknown
        column = Column(BOOLEAN, true, None if validity is None or validity.all() else validity)
        return RecordBatch(self.names, [*batch.columns, column], batch.row_count)

    def _prepare(self, right: RecordBatch) -> None:
        plan, width = self.plan, len(self.plan.left.fields)
        terms = terms_of(plan.residual)
        compared = plan.compared
        sides = equal_sides(compared, width) if isinstance(compared, Call) and compared.function == "eq" else None
        if compared is None:
            keys = self._left_keys, self._right_keys, self._nulls
            table = built_table(plan) or self._spilled.table([key(right) for key in keys[1]], right.row_count)
            self._true = _Search(right, *keys, self._condition(terms), table)
        elif sides is None:
            self._true = self._search(right, [*terms, compared])
            self._unknown = self._search(right, [*terms, Call(BOOLEAN, "is_null", (compared,))])
        else:
            operand, value = Evaluator(sides[0]), Evaluator(sides[1])
            condition = self._condition(terms)
            keys = [*self._left_keys, operand], [*self._right_keys, value], [*self._nulls, False]
            self._true = _Search(right, *keys, condition)
            validity = value(right).validity
            if validity is not None and not validity.all():
                self._unknown = self._search(right.filter(~validity), terms)
            self._operand, self._any = operand, self._search(right, terms)

    def _condition(self, terms: list[Expression]) -> PairCondition | None:
        residual = all_of(terms)
        return None if residual is None else PairCondition(residual, len(self.plan.left.fields))

    def _search(self, rows: RecordBatch, terms: list[Expression]) -> _Search:
        return _Search(rows, self._left_keys, self._right_keys, self._nulls, self._condition(terms))
