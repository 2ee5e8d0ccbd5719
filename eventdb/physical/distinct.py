"""DistinctRows and FirstRows: each row, or each key, once, in the order of first appearance. NULL equals NULL, and
NaN equals NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from eventdb.batch import Column, RecordBatch, concat_columns
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.plan import Distinct, DistinctOn, OutputField
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import factorize
from eventdb.physical.operator import Operator
from eventdb.physical.partial_groups import SORTED_ROW_BYTES

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
        rows = self.children[0].batches()
        for batch in rows:
            part = batch.take(np.sort(factorize(batch.columns, batch.row_count).first))
            waiting.append(part)
            waiting_rows += part.row_count
            if seen is None or seen.row_count < _AT_ONCE or 2 * waiting_rows > seen.row_count:
                seen, new = self._add(seen, waiting)
                waiting, waiting_rows = [], 0
                yield from new
            held = (seen.nbytes if seen else 0) + sum(b.nbytes for b in waiting)
            row_count = (seen.row_count if seen else 0) + waiting_rows
            if self.context.spill_folder is not None and not self.context.may_hold(self, _needed(held, row_count)):
                from eventdb.physical.spilled_distinct import unseen_rows

                yield from unseen_rows(self.fields, seen, chain(waiting, rows), self.context)
                waiting = []
                break
            self.context.hold(self, "DISTINCT", held, spills=True)
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


class FirstRows(Operator):
    """The first row of each key, in input order, passed on as it appears."""

    def __init__(self, plan: DistinctOn, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._keys = [Evaluator(key) for key in plan.keys]

    def label(self) -> str:
        return self.plan.label()

    def _evaluate(self, batch: RecordBatch) -> list[Column]:
        return [key(batch) for key in self._keys]

    def produce(self) -> Iterator[RecordBatch]:
        seen: list[Column] | None = None
        waiting: list[RecordBatch] = []
        held = 0
        rows = self.children[0].batches()
        for batch in rows:
            waiting.append(batch)
            held += batch.nbytes
            old = 0 if seen is None else len(seen[0])
            if old < _AT_ONCE or 2 * sum(part.row_count for part in waiting) > old:
                new, seen = self._add(seen, waiting)
                waiting, held = [], 0
                yield new
            needed = held + 2 * sum(key.nbytes for key in seen or ())
            if self.context.spill_folder is not None and not self.context.may_hold(self, needed):
                from eventdb.physical.spilled_distinct import first_rows

                fields = tuple(OutputField("", key.type) for key in self.plan.keys)
                yield from first_rows(self.fields, seen, self._with_keys(chain(waiting, rows)), fields, self.context)
                waiting = []
                break
            self.context.hold(self, "DISTINCT ON", needed, spills=True)
        if waiting:
            yield self._add(seen, waiting)[0]
        self.release()

    def _with_keys(self, batches: Iterable[RecordBatch]) -> Iterator[tuple[RecordBatch, list[Column]]]:
        for batch in batches:
            try:
                keys = self._evaluate(batch)
            except EvaluationError as error:
                raise self.blame(error, batch, self._evaluate) from None
            yield batch, keys

    def _add(self, seen: list[Column] | None, waiting: list[RecordBatch]) -> tuple[RecordBatch, list[Column]]:
        """The rows of `waiting` whose keys are new, and all keys."""
        keys = [found for _, found in self._with_keys(waiting)]
        parts = keys if seen is None else [seen, *keys]
        both = [concat_columns(columns) for columns in zip(*parts, strict=True)]
        old = 0 if seen is None else len(seen[0])
        first = np.sort(factorize(both, len(both[0])).first)
        return RecordBatch.concat(waiting).take(first[first >= old] - old), [key.take(first) for key in both]


def _needed(held_bytes: int, row_count: int) -> int:
    """What finding the distinct among rows takes: they, once more put together, once more without repeats, and their
    keys as sorted integers."""
    return 3 * held_bytes + SORTED_ROW_BYTES * row_count


def _pieces(batch: RecordBatch, start: int) -> Iterator[RecordBatch]:
    for place in range(start, batch.row_count, MORSEL_ROWS):
        yield batch.slice(place, place + MORSEL_ROWS)
