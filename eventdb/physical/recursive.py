"""RecursiveRows: WITH RECURSIVE, round by round; WorkingRows: what the round before added.

The operators of the step are built anew for each round, over the rows of that round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Plan
from eventdb.logical.relational import RecursiveUnion, WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import Partners


class WorkingRows(Operator):
    def __init__(self, plan: WorkingTable, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan
        self._rows = context.working.get(plan.number, [])

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self._rows:
            yield RecordBatch(self.names, batch.columns, batch.row_count)


class RecursiveRows(Operator):
    def __init__(
        self, plan: RecursiveUnion, base: Operator, step: Operator, build: Callable[[Plan, QueryContext], Operator],
        context: QueryContext,
    ) -> None:  # fmt: skip
        """`step` is there to be explained; the rounds run what `build` makes of the plan's step."""
        super().__init__(plan.fields, context, (base, step))
        self.plan = plan
        self._build = build

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        seen = _Seen() if self.plan.distinct else None
        rows = self._named(self.children[0], seen)
        rounds = 0
        while rows:
            yield from rows
            rounds += 1
            if rounds > self.context.recursion_limit:
                raise EvaluationError(
                    f"WITH RECURSIVE {self.plan.name} went on for {self.context.recursion_limit} rounds: let its "
                    "recursive part end (a WHERE clause, UNION without ALL), or SET recursion_limit higher"
                )
            self.context.cancel.check()
            held = sum(batch.nbytes for batch in rows) + (0 if seen is None else seen.nbytes)
            self.context.hold(self, "WITH RECURSIVE", held)
            rows = self._round(rows, seen)
        self.release()

    def _round(self, rows: list[RecordBatch], seen: _Seen | None) -> list[RecordBatch]:
        working = self.context.working
        before = working.get(self.plan.number)
        working[self.plan.number] = rows
        try:  # joins plan a part of it when they run
            return self._named(self._build(self.plan.step, self.context), seen)
        finally:
            if before is None:
                del working[self.plan.number]
            else:
                working[self.plan.number] = before

    def _named(self, operator: Operator, seen: _Seen | None) -> list[RecordBatch]:
        found = [RecordBatch(self.names, batch.columns, batch.row_count) for batch in operator.batches()]
        if seen is not None and found:
            new = seen.add(RecordBatch.concat(found))
            found = [new] if new.row_count else []
        return found


class _Seen:
    """All rows so far, in parts of which each is at least twice the next: a round looks into a few of them only."""

    def __init__(self) -> None:
        self._parts: list[Partners] = []

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def add(self, rows: RecordBatch) -> RecordBatch:
        """The rows that are new, each once."""
        rows = rows.take(np.sort(factorize(rows.columns, rows.row_count).first))
        for part in self._parts:
            rows = rows.filter(part.counts(rows.columns, rows.row_count)[1] == 0)
        if rows.row_count:
            whole = rows
            while self._parts and self._parts[-1].rows.row_count < 2 * whole.row_count:
                whole = RecordBatch.concat([self._parts.pop().rows, whole])
            self._parts.append(Partners(whole, whole.columns, [True] * len(whole.columns)))
        return rows
