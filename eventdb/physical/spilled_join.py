"""SpilledJoin: a join whose right side does not fit in memory.

Both sides are written to disk in parts by a hash of their keys, and each pair of parts is joined by itself. A part that
still does not fit is cut again; one that cannot be cut (most of its rows have one key, or the join has none) is read in
chunks that fit, and the left side once for each of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from eventdb.batch import Column, RecordBatch
from eventdb.kernels.cache import has_numba
from eventdb.kernels.family import joins_are_ready
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Fields, Join, Plan
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.join_table import JoinTable
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import HELD_SHARE, TooMany, table_bytes
from eventdb.physical.spill import spilled_note
from eventdb.physical.spilled_parts import LEVELS, PARTS, SpilledPart, SpilledParts, StoredRows, spilled_parts


@dataclass(frozen=True, slots=True, eq=False)
class Parted(Plan):
    """The right side of a join as a leaf of a plan, once its rows are on disk, in parts by the keys of the join."""

    name: str
    output: Fields
    parts: SpilledParts

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"{self.name}{spilled_note(self.parts.size_bytes)}"


class PartedRows(Operator):
    """Not read as rows: the join above takes the parts."""

    def __init__(self, plan: Parted, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        for number in range(PARTS):
            yield from self.plan.parts.part(number)


class ChunkedJoin(Operator):
    """A join that can go over the right side in pieces."""

    @abstractmethod
    def by_chunks(self, left: Iterable[RecordBatch], chunks: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """The join with pieces of the right side, one after another; `left` is read once for each of them."""


Make = Callable[[Join, Operator, Operator, QueryContext, int], Operator]


def part_right(plan: Join, rows: Iterable[RecordBatch], context: QueryContext, level: int = 0) -> SpilledParts:
    """The right side of a join in parts; rows that have no partner and do not come out are left out."""
    nulls = plan.null_matches or (False,) * len(plan.right_keys)
    drops = [plan.kind != "full" and not matches for matches in nulls]
    return _parted(plan.right_keys, rows, context, level, drops)


def _parted(
    keys: Sequence[Expression], rows: Iterable[RecordBatch], context: QueryContext, level: int,
    drops: Sequence[bool] = (),
) -> SpilledParts:  # fmt: skip
    evaluators = [Evaluator(key) for key in keys]

    def evaluate(batch: RecordBatch) -> list[Column]:
        return [key(batch) for key in evaluators]

    parts = spilled_parts(context, evaluate, level, drops)
    try:
        for batch in rows:
            parts.add(batch)
        parts.finish()
    except BaseException:
        parts.close()
        raise
    return parts


class SpilledJoin:
    """`make` gives the operator that joins two parts. `level`: how often the rows were cut before."""

    def __init__(self, plan: Join, make: Make, context: QueryContext, level: int) -> None:
        self._plan, self._make, self._context = plan, make, context
        self.level = level
        self._bytes = 0

    @property
    def note(self) -> str:
        return spilled_note(self._bytes)

    def table(self, keys: Sequence[Column], row_count: int) -> JoinTable | None:
        """A kernels' table for the right rows of a part; None where there is none."""
        if (
            not self.level
            or self._context.execution == "interpreted"
            or not has_numba()
            or not joins_are_ready(wait=False)
        ):
            return None
        return JoinTable.build(keys, row_count, self._plan.null_matches)

    def run(self, operator: ChunkedJoin, right: TooMany | PartedRows) -> Iterator[RecordBatch]:
        """The rows of the join `operator`, with this right side instead of its own."""
        left = operator.children[0]
        if isinstance(right, PartedRows):
            yield from self._by_parts(left, right.plan.parts)
        elif self._plan.left_keys and self.level < LEVELS:
            yield from self._by_parts(left, part_right(self._plan, right, self._context, self.level))
        elif isinstance(left, StoredRows):
            yield from operator.by_chunks(left.rows, self._chunks(operator, right))
        else:
            stored = _parted((), left.batches(), self._context, 0)
            try:
                self._bytes += stored.size_bytes
                yield from operator.by_chunks(stored.part(0), self._chunks(operator, right))
            finally:
                stored.close()

    def _by_parts(self, left: Operator, right: SpilledParts) -> Iterator[RecordBatch]:
        plan, parts = self._plan, None
        try:
            parts = _parted(plan.left_keys, left.batches(), self._context, self.level)
            self._bytes += parts.size_bytes + right.size_bytes
            for number in range(PARTS):
                pair = parts.part(number), right.part(number)
                if _gives_rows(plan.kind, *pair):
                    sides = [StoredRows(s.fields, p, self._context) for s, p in zip(plan.children, pair, strict=True)]
                    join = self._make(plan, sides[0], sides[1], self._context, self.level + 1)
                    try:
                        yield from join.batches()
                    finally:
                        join.release()
        finally:
            right.close()
            if parts is not None:
                parts.close()

    def _chunks(self, operator: Operator, rows: Iterable[RecordBatch]) -> Iterator[RecordBatch]:
        """The rows in pieces that may be held with a table of their keys."""
        batches: list[RecordBatch] = []
        held = row_count = 0
        for batch in rows:
            needed = table_bytes(held + batch.nbytes, row_count + batch.row_count)
            if batches and not self._context.may_hold(operator, needed, HELD_SHARE):
                whole = RecordBatch.concat(batches)
                batches.clear()
                held = row_count = 0
                yield whole
                del whole
            batches.append(batch)
            held += batch.nbytes
            row_count += batch.row_count
        if batches:
            yield RecordBatch.concat(batches)


def _gives_rows(kind: str, left: SpilledPart, right: SpilledPart) -> bool:
    if kind in ("inner", "semi"):
        return bool(left.row_count and right.row_count)
    return bool(left.row_count or (kind == "full" and right.row_count))
