"""DISTINCT, DISTINCT ON, INTERSECT and EXCEPT of more rows than fit in memory: as GROUP BY, which writes rows to disk.

Rows are grouped by all that must be equal. Each input has a flag, and the flags are counted: how often a row came from
each of them says whether it is one of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.expressions import Aggregation, ColumnRef, SortKey
from eventdb.logical.functions import AGGREGATES
from eventdb.logical.plan import Aggregate, Fields, OutputField, Sort
from eventdb.logical.relational import WorkingTable
from eventdb.physical.aggregate import GroupRows
from eventdb.physical.context import QueryContext
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator
from eventdb.physical.sort import SortRows
from eventdb.schema import BIGINT, BOOLEAN

Flagged = Iterator[tuple[RecordBatch, int]]
"""Batches and the number of the input they are of."""


class Passing(Operator):
    """Rows from elsewhere, read once."""

    def __init__(self, fields: Fields, rows: Iterator[RecordBatch], context: QueryContext) -> None:
        super().__init__(fields, context)
        self._rows = rows

    def produce(self) -> Iterator[RecordBatch]:
        return self._rows


def flagged(*inputs: Iterable[RecordBatch]) -> Flagged:
    for number, batches in enumerate(inputs):
        for batch in batches:
            yield batch, number


def counted_rows(fields: Fields, rows: Flagged, inputs: int, context: QueryContext) -> Iterator[RecordBatch]:
    """The distinct rows, then a column for each input: how often they are in it."""
    flags = tuple(OutputField("", BOOLEAN) for _ in range(inputs))
    below = (*fields, *flags)
    aggregations = [_aggregation("count", ColumnRef(BOOLEAN, len(fields) + i, "")) for i in range(inputs)]
    counts = tuple(OutputField("", BIGINT) for _ in flags)

    def with_flags() -> Iterator[RecordBatch]:
        for batch, number in rows:
            columns = [*batch.columns, *(_flag(i == number, batch.row_count) for i in range(inputs))]
            yield RecordBatch([f.name for f in below], columns, batch.row_count)

    plan = Aggregate(leaf_of(below), _refs(fields), tuple(aggregations), (*fields, *counts))
    yield from GroupRows(plan, Passing(below, with_flags(), context), context).batches()


def unseen_rows(
    fields: Fields, seen: RecordBatch | None, rows: Iterator[RecordBatch], context: QueryContext
) -> Iterator[RecordBatch]:
    """The distinct rows that are not among those seen before, in any order."""
    given = flagged([] if seen is None else [seen], rows)
    for batch in counted_rows(fields, given, 2, context):
        fresh = batch.columns[-2].values == 0
        yield RecordBatch(batch.names[:-2], batch.columns[:-2], batch.row_count).filter(fresh)


def repeated(batch: RecordBatch, counts: Array, names: Sequence[str]) -> Iterator[RecordBatch]:
    """Each row so often, MORSEL_ROWS at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, MORSEL_ROWS):
        part = batch.take(np.searchsorted(ends, np.arange(start, min(start + MORSEL_ROWS, total)), "right"))
        yield RecordBatch(names, part.columns, part.row_count)


def first_rows(
    fields: Fields, seen: Sequence[Column] | None, rows: Iterator[tuple[RecordBatch, list[Column]]],
    key_fields: Fields, context: QueryContext,
) -> Iterator[RecordBatch]:  # fmt: skip
    """The first row of each key that is not among those seen before, in the order of the rows; they come with their
    keys."""
    width = len(key_fields)
    below = (*key_fields, *fields, OutputField("", BOOLEAN), OutputField("", BIGINT))
    names = [f.name for f in below]

    def inputs() -> Iterator[RecordBatch]:
        if seen is not None:
            count = len(seen[0])
            missing = [null_column(field.type, count) for field in fields]
            zeros = Column(BIGINT, np.zeros(count, np.int64))
            yield RecordBatch(names, [*seen, *missing, _flag(True, count), zeros], count)
        place = 0
        for batch, keys in rows:
            count = batch.row_count
            places = Column(BIGINT, np.arange(place, place + count))
            place += count
            yield RecordBatch(names, [*keys, *batch.columns, _flag(False, count), places], count)

    refs = _refs(below)
    aggregations = [_aggregation("first", ref) for ref in refs[width:-2]]
    aggregations += [_aggregation("count", refs[-2]), _aggregation("min", refs[-1])]
    counted = (*key_fields, *fields, OutputField("", BIGINT), OutputField("", BIGINT))
    plan = Aggregate(leaf_of(below), refs[:width], tuple(aggregations), counted)
    groups = GroupRows(plan, Passing(below, inputs(), context), context)
    fresh = (batch.filter(batch.columns[-2].values == 0) for batch in groups.batches())
    by_place = Sort(leaf_of(counted), (SortKey(ColumnRef(BIGINT, len(counted) - 1, "")),))
    for batch in SortRows(by_place, Passing(counted, fresh, context), context).batches():
        yield RecordBatch([f.name for f in fields], batch.columns[width:-2], batch.row_count)


def _aggregation(function: str, argument: ColumnRef) -> Aggregation:
    resolved = AGGREGATES[function].resolve([argument.type])
    assert resolved is not None
    return Aggregation(function, (argument,), resolved[1])


def _refs(fields: Fields) -> tuple[ColumnRef, ...]:
    return tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(fields))


def leaf_of(fields: Fields) -> WorkingTable:
    """Stands for the rows in a plan of which one operator is made."""
    return WorkingTable(0, "rows", fields)


def _flag(there: bool, count: int) -> Column:
    return Column(BOOLEAN, np.ones(count, dtype=bool), None if there else np.zeros(count, dtype=bool))
