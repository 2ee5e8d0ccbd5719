"""SortRows and TopRows: ORDER BY, and ORDER BY ... LIMIT without keeping more rows than asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MIB, MORSEL_ROWS
from eventdb.logical.plan import Limit, Sort
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operator import Operator
from eventdb.physical.ordering import order_values, sort_rows
from eventdb.physical.sorted_runs import SortedRuns


class _Order:
    """The sort keys: evaluated, then sorted by."""

    def __init__(self, plan: Sort) -> None:
        self.evaluators = [Evaluator(key.expression) for key in plan.keys]
        self.descending = [key.descending for key in plan.keys]
        self.nulls_first = [key.nulls_first for key in plan.keys]

    def columns(self, batch: RecordBatch) -> list[Column]:
        return [evaluate(batch) for evaluate in self.evaluators]

    def rows(self, columns: Sequence[Column], row_count: int) -> Array:
        return sort_rows(columns, self.descending, self.nulls_first) if columns else np.arange(row_count)


def _in_pieces(batch: RecordBatch) -> Iterator[RecordBatch]:
    for start in range(0, batch.row_count, MORSEL_ROWS):
        yield batch if batch.row_count <= MORSEL_ROWS else batch.slice(start, start + MORSEL_ROWS)


class SortRows(Operator):
    """All rows, sorted. Equal rows keep their input order. Holds its whole input, or sorts what fits
    and merges it from disk."""

    def __init__(self, plan: Sort, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._order = _Order(plan)
        self.spilled_bytes = 0

    def label(self) -> str:
        spilled = f" ({self.spilled_bytes / MIB:.1f} MB spilled)" if self.spilled_bytes else ""
        return self.plan.label() + spilled

    def produce(self) -> Iterator[RecordBatch]:
        batches: list[RecordBatch] = []
        held = row_count = 0
        runs: SortedRuns | None = None
        try:
            for batch in self.children[0].batches():
                folder = self.context.spill_folder
                more = _sorting_bytes(held + batch.nbytes, row_count + batch.row_count)
                if batches and folder is not None and not self.context.may_hold(self, more):
                    runs = runs or SortedRuns(folder, self._order.columns, self._order.rows)
                    self._write(runs, batches, held // max(1, row_count))
                    held = row_count = 0
                batches.append(batch)
                held += batch.nbytes
                row_count += batch.row_count
                if folder is None or len(batches) > 1:  # a batch alone is sorted whatever its size
                    self.context.hold(self, "ORDER BY", _sorting_bytes(held, row_count), spills=True)
            if runs is None:
                yield from self._sorted(batches)
                return
            self._write(runs, batches, held // max(1, row_count))
            for batch in runs.merged(self._width(runs), self.context.cancel.check):
                self.spilled_bytes = runs.size_bytes
                yield from _in_pieces(batch)
        finally:
            if runs is not None:
                runs.close()
            self.release()

    def _sorted(self, batches: list[RecordBatch]) -> Iterator[RecordBatch]:
        if not batches:
            return
        check = self.context.cancel.check
        whole = RecordBatch.concat(batches, check)
        batches.clear()
        columns = self._order.columns(whole)
        check()
        rows = self._order.rows(columns, whole.row_count)
        check()
        for start in range(0, len(rows), MORSEL_ROWS):
            yield whole.take(rows[start : start + MORSEL_ROWS])

    def _write(self, runs: SortedRuns, batches: list[RecordBatch], row_bytes: int) -> None:
        """The batches become a run; its blocks are so small that many fit in memory."""
        most = self.context.memory_limit_bytes // (8 * _MERGED_RUNS * max(8, row_bytes, runs.row_bytes))
        runs.add(batches, min(MORSEL_ROWS, max(_LEAST_BLOCK, most)))
        batches.clear()
        self.context.hold(self, "ORDER BY", 0, spills=True)

    def _width(self, runs: SortedRuns) -> int:
        """How many runs are merged at a time. Their blocks are held from here on."""
        width = min(_MERGED_RUNS, runs.run_count)
        while width > 2 and not self.context.may_hold(self, self._merging_bytes(runs, width)):
            width //= 2
        width = max(2, width)
        self.context.hold(self, "ORDER BY", self._merging_bytes(runs, width), spills=True)
        return width

    @staticmethod
    def _merging_bytes(runs: SortedRuns, width: int) -> int:
        return _sorting_bytes(width * runs.block_bytes, width * runs.block_rows)


def _sorting_bytes(held: int, row_count: int) -> int:
    """What sorting rows takes: they, once more while they are put together, their keys as integers and their order."""
    return 2 * held + 24 * row_count


_MERGED_RUNS = 32  # at a time; as many as there are if the input is 8 times the limit
_LEAST_BLOCK = 1_024


class TopRows(Operator):
    """The first rows of the sorted input: keeps the best `skip_count + row_count` and forgets the others as it goes."""

    def __init__(self, plan: Limit, sort: Sort, child: Operator, context: QueryContext) -> None:
        assert plan.row_count is not None
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._keys = sort.keys
        self._order = _Order(sort)
        self._wanted = plan.skip_count + plan.row_count
        self._skip = plan.skip_count

    def label(self) -> str:
        skipped = f" skip {self.plan.skip_count}" if self.plan.skip_count else ""
        return f"Top {self.plan.row_count}{skipped} by {', '.join(map(str, self._keys))}"

    def produce(self) -> Iterator[RecordBatch]:
        if self._wanted == self._skip:
            return
        kept: list[RecordBatch] = []
        count = 0
        bound: int | None = None
        for batch in self.children[0].batches():
            if bound is not None:
                batch = self._closer(batch, bound)
                if not batch.row_count:
                    continue
            kept.append(batch)
            count += batch.row_count
            self.context.hold(self, "ORDER BY ... LIMIT", sum(b.nbytes for b in kept))
            if count >= 2 * self._wanted + MORSEL_ROWS // 2:
                best, bound = self._best(kept)
                kept, count = [best], best.row_count
        if kept:
            best, _ = self._best(kept)
            yield from _in_pieces(best.slice(min(self._skip, best.row_count), best.row_count))
        self.release()

    def _best(self, batches: list[RecordBatch]) -> tuple[RecordBatch, int | None]:
        """The best rows, sorted, and the place of the last of them in the first key's order if rows must beat it."""
        whole = RecordBatch.concat(batches, self.context.cancel.check)
        columns = self._order.columns(whole)
        rows = self._order.rows(columns, whole.row_count)[: self._wanted]
        best = whole.take(rows)
        bound = None
        if columns and len(rows) == self._wanted and columns[0].dictionary is None:
            last = columns[0].slice(int(rows[-1]), int(rows[-1]) + 1)
            if last.validity is None or last.validity[0]:
                bound = int(order_values(last)[0])
        return best, bound

    def _closer(self, batch: RecordBatch, bound: int) -> RecordBatch:
        """The rows that may still be among the best, judged by the first key alone."""
        column = self._order.evaluators[0](batch)
        values = order_values(column)
        keep = values >= bound if self._order.descending[0] else values <= bound
        if column.validity is not None:
            # NULLs come before every value, or after the last kept one.
            keep = keep & column.validity if not self._order.nulls_first[0] else keep | ~column.validity
        return batch if keep.all() else batch.filter(keep)
