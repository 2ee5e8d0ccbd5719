"""Pairs of rows: the right side of a join held and indexed, the left rows' partners, and conditions on pairs.

Without keys every right row is every left row's partner: a nested loop, of at most MORSEL_ROWS pairs at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.expressions import Expression, columns_of, remap
from eventdb.physical.context import CancelToken
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import KeyIndex
from eventdb.physical.join_table import JoinTable
from eventdb.physical.operator import Operator

HELD_SHARE = 0.75
"""Of the memory that nobody holds, for rows that stay in memory while others stream past."""
_TABLE_ROW_BYTES = 48  # while it is built


class TooMany:
    """Rows that the budget refuses, to be read once: those in memory, then the rest."""

    def __init__(self, read: list[RecordBatch], rest: Iterator[RecordBatch]) -> None:
        self._read, self._rest = read, rest

    def __iter__(self) -> Iterator[RecordBatch]:
        while self._read:
            yield self._read.pop(0)
        yield from self._rest


def held_rows(operator: Operator, child: Operator, what: str, held_bytes: int = 0) -> RecordBatch | None:
    """All rows of a child, counted as held by the operator, beside `held_bytes`; None without rows.
    MemoryLimitExceeded names `what`."""
    batches: list[RecordBatch] = []
    held = 0
    for batch in child.batches():
        batches.append(batch)
        held += batch.nbytes
        operator.context.hold(operator, what, held_bytes + 2 * held)
    return RecordBatch.concat(batches, operator.context.cancel.check) if batches else None


def fitting_rows(operator: Operator, child: Operator, what: str, held_bytes: int = 0) -> RecordBatch | TooMany | None:
    """The same for an operator that looks rows up in a table of these, and can write them to disk instead: TooMany
    where the budget refuses them. Without a folder to write to they are refused with MemoryLimitExceeded."""
    context = operator.context
    if context.spill_folder is None:
        return held_rows(operator, child, what, held_bytes)
    batches: list[RecordBatch] = []
    held = row_count = 0
    rows = child.batches()
    for batch in rows:
        batches.append(batch)
        held += batch.nbytes
        row_count += batch.row_count
        needed = held_bytes + table_bytes(held, row_count)
        if not context.may_hold(operator, needed, HELD_SHARE):
            context.hold(operator, what, held_bytes, spills=True)
            return TooMany(batches, rows)
        context.hold(operator, what, needed, spills=True)
    return RecordBatch.concat(batches, context.cancel.check) if batches else None


def table_bytes(held_bytes: int, row_count: int) -> int:
    """What rows and a table of their keys take: the rows twice while they are put together, then the table."""
    return max(2 * held_bytes, held_bytes + _TABLE_ROW_BYTES * row_count)


class PairCondition:
    """A condition over left, then right columns, evaluated on pairs; only the columns it reads are gathered."""

    def __init__(self, expression: Expression, left_width: int) -> None:
        read = sorted(columns_of(expression))
        self._left = [i for i in read if i < left_width]
        self._right = [i - left_width for i in read if i >= left_width]
        self._evaluate = Evaluator(remap(expression, {column: i for i, column in enumerate(read)}))

    def keep(self, left: RecordBatch, right: RecordBatch, left_rows: Array, right_rows: Array) -> Array | None:
        """Which pairs make it true; None for all."""
        columns = [left.columns[i].take(left_rows) for i in self._left]
        columns += [right.columns[i].take(right_rows) for i in self._right]
        return self._evaluate.keep(RecordBatch([""] * len(columns), columns, len(left_rows)))


class Partners:
    """The rows of a held batch by their keys, ready to be looked up by the keys of other rows."""

    def __init__(
        self, rows: RecordBatch, keys: Sequence[Column], null_matches: Sequence[bool] = (),
        table: JoinTable | None = None,
    ) -> None:  # fmt: skip
        self.rows = rows
        self._index = KeyIndex(keys, rows.row_count, null_matches) if table is None else table

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self._index.nbytes

    def counts(self, keys: Sequence[Column], row_count: int) -> tuple[Array, Array]:
        """The group of partners of each row, -1 for none, and how many there are."""
        found = self._index.find(keys, row_count)
        if not len(self._index.counts):
            return found, np.zeros(row_count, dtype=np.int64)
        return found, np.where(found >= 0, self._index.counts[found], 0)

    def pairs(self, found: Array, counts: Array, cancel: CancelToken) -> Iterator[tuple[Array, Array]]:
        """Positions of paired rows, at most MORSEL_ROWS at a time however often a key repeats."""
        index = self._index
        if isinstance(index, JoinTable):
            yield from index.pairs(found, cancel)
            return
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        for start in range(0, total, MORSEL_ROWS):
            cancel.check()
            stop = min(start + MORSEL_ROWS, total)
            # The rows this piece touches, then each one's share of it.
            first = int(np.searchsorted(ends, start, "right"))
            last = int(np.searchsorted(ends, stop, "left")) + 1
            share = np.minimum(ends[first:last], stop) - np.maximum(ends[first:last] - counts[first:last], start)
            rows = np.repeat(np.arange(first, last), share)
            place = np.arange(start, stop) - (ends - counts)[rows]
            yield rows, index.order[index.starts[found[rows]] + place]
