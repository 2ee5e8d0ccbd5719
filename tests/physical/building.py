"""What the tests of physical plans are built from: batches, expressions, and a log in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.logical.expressions import Aggregation, Call, Cast, ColumnRef, Expression, Literal
from eventdb.logical.functions import AGGREGATES, SCALARS
from eventdb.logical.plan import OutputField, Plan, Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import evaluate
from eventdb.physical.operands import from_values
from eventdb.physical.planner import run
from eventdb.schema import DataType, Field, Schema, parse_type


def type_of(text: str | DataType) -> DataType:
    return text if isinstance(text, DataType) else parse_type(text)


def batch_of(columns: dict[str, tuple[str | DataType, Sequence[Any]]]) -> RecordBatch:
    """A batch of physical Python values; None is NULL, with values under it that must not matter."""
    made = [_scrambled(from_values(type_of(t), list(values))) for t, values in columns.values()]
    return RecordBatch(list(columns), made, len(made[0]) if made else 0)


def _scrambled(column: Column) -> Column:
    """The column with extreme values under its NULLs."""
    if column.validity is None:
        return column
    values = column.values.copy()
    dtype = values.dtype
    if column.dictionary is not None:
        junk = np.array([len(column.dictionary) - 1, 0], dtype=dtype)
    elif dtype.kind == "f":
        junk = np.array([np.nan, -np.inf, 1e30], dtype=dtype)
    elif dtype.kind == "b":
        junk = np.array([True, False])
    else:
        junk = np.array([np.iinfo(dtype).max, np.iinfo(dtype).min, 0, -1], dtype=dtype)
    rows = np.flatnonzero(~column.validity)
    values[rows] = np.resize(junk, len(rows))
    return Column(column.type, values, column.validity, column.dictionary)


def col(batch: RecordBatch, name: str) -> ColumnRef:
    index = batch.names.index(name)
    return ColumnRef(batch.columns[index].type, index, name)


def lit(type: str | DataType, value: Any) -> Literal:
    return Literal(type_of(type), value)


def call(function: str, *args: Expression) -> Call:
    """A call as the binder makes it: arguments cast to the types the registry asks for."""
    resolved = SCALARS[function].resolve([arg.type for arg in args])
    assert resolved is not None, (function, [str(arg.type) for arg in args])
    wanted, result = resolved
    return Call(result, function, tuple(cast_to(a, t) for a, t in zip(args, wanted, strict=True)))


def cast_to(expression: Expression, type: DataType) -> Expression:
    if expression.type == type:
        return expression
    if isinstance(expression, Literal) and expression.value is None:
        return Literal(type, None)
    return Cast(type, expression)


def aggregate(function: str, *args: Expression, distinct: bool = False, where: Expression | None = None) -> Aggregation:
    resolved = AGGREGATES[function].resolve([arg.type for arg in args])
    assert resolved is not None, (function, args)
    wanted, result = resolved
    return Aggregation(
        function, tuple(cast_to(a, t) for a, t in zip(args, wanted, strict=True)), result, distinct, where
    )


def physical(column: Column) -> list[Any]:
    """Physical Python values of a column; None is NULL."""
    raw = column.decoded().tolist() if column.dictionary is not None else column.values.tolist()
    if column.validity is None:
        return raw
    return [v if ok else None for v, ok in zip(raw, column.validity.tolist(), strict=True)]


def value_of(expression: Expression, batch: RecordBatch | None = None) -> list[Any]:
    """Physical values of an expression over a batch (without one: over one row without columns)."""
    batch = RecordBatch((), (), 1) if batch is None else batch
    column = evaluate(expression, batch)
    assert len(column) == batch.row_count
    assert column.type == expression.type
    assert column.values.dtype == np.dtype(expression.type.physical), (expression, column.values.dtype)
    if column.validity is not None:
        assert column.validity.dtype == np.bool_
        assert len(column.validity) == batch.row_count
    if column.dictionary is not None:
        values = column.dictionary.values
        assert len(set(values)) == len(values), "dictionary values repeat"
        assert not len(column) or 0 <= column.values.min() <= column.values.max() < len(values)
    return physical(column)


def fields_of(batch: RecordBatch) -> tuple[OutputField, ...]:
    return tuple(OutputField(name, column.type) for name, column in zip(batch.names, batch.columns, strict=True))


class MemorySlice:
    def __init__(self, batch: RecordBatch, first_offset: int, time: int | None) -> None:
        self._batch = batch
        self.first_offset = first_offset
        self.row_count = batch.row_count
        self.time_range: tuple[int, int] | None = None
        self.columns_read: set[int] = set()
        if time is not None and batch.row_count:
            values = batch.columns[time].values
            self.time_range = int(values.min()), int(values.max())

    def column(self, index: int) -> Column:
        self.columns_read.add(index)
        return self._batch.columns[index]

    def append_times(self) -> Array:
        return np.arange(self.first_offset, self.first_offset + self.row_count, dtype=np.int64) * 1000


class MemoryLog:
    """Segments given as batches, offsets from `start`. Append times are offset * 1000."""

    def __init__(self, segments: Sequence[RecordBatch], *, event_time: int | None = None, start: int = 0) -> None:
        self.segments = list(segments)
        self.event_time = event_time
        self.start = start
        self.slices_made: list[MemorySlice] = []
        first = segments[0]
        self.schema = Schema([Field(n, c.type) for n, c in zip(first.names, first.columns, strict=True)])

    @property
    def stop(self) -> int:
        return self.start + sum(s.row_count for s in self.segments)


class MemorySnapshot:
    def offsets(self, log: MemoryLog) -> tuple[int, int]:
        return log.start, log.stop

    def slices(
        self, log: MemoryLog, start: int, stop: int, times: object = None, key: object = None
    ) -> list[MemorySlice]:
        made = []
        first = log.start
        for segment in log.segments:
            low, high = max(start, first), min(stop, first + segment.row_count)
            if low < high:
                part = segment.slice(low - first, high - first)
                made.append(MemorySlice(part, low, log.event_time))
            first += segment.row_count
        log.slices_made += made
        return made


def context_of(*logs: MemoryLog, **options: Any) -> QueryContext:
    """A context over logs whose topic ids are 1, 2, ..."""
    options.setdefault("execution", "interpreted")
    return QueryContext(snapshot=MemorySnapshot(), logs=lambda topic: logs[topic - 1], **options)


def scan_of(log: MemoryLog, topic: int = 1, columns: Sequence[str] | None = None, **bounds: Any) -> Scan:
    names = list(log.schema.names) if columns is None else list(columns)
    system = {"_offset": "BIGINT", "_partition": "INTEGER", "_time": "TIMESTAMP", "_append_time": "TIMESTAMP"}
    fields = [
        OutputField(n, parse_type(system[n]) if n in system else log.schema.fields[log.schema.index_of(n)].type)
        for n in names
    ]
    return Scan(topic, f"topic{topic}", tuple(names), tuple(fields), **bounds)


def plan_over(*batches: RecordBatch) -> tuple[Scan, QueryContext]:
    """A scan of batches, each a segment with dictionaries of its own, and the context to run it in."""
    log = MemoryLog(batches)
    return scan_of(log), context_of(log)


def rows_of(plan: Plan, context: QueryContext) -> list[tuple[Any, ...]]:
    """The rows as physical values, in order."""
    found: list[tuple[Any, ...]] = []
    for batch in run(plan, context):
        assert batch.row_count > 0
        assert [c.type for c in batch.columns] == [f.type for f in plan.fields]
        assert batch.names == tuple(f.name for f in plan.fields)
        columns = [physical(column) for column in batch.columns]
        found += list(zip(*columns, strict=True)) if columns else [()] * batch.row_count
    return found


def split(batch: RecordBatch, cuts: Sequence[int]) -> list[RecordBatch]:
    """The batch cut at rows, string columns encoded anew in each piece so that dictionaries differ."""
    bounds = [0, *sorted(min(cut, batch.row_count) for cut in cuts), batch.row_count]
    pieces = []
    for start, stop in itertools.pairwise(bounds):
        part = batch.slice(start, stop)
        columns = [from_values(c.type, physical(c)) if c.type.is_coded else c for c in part.columns]
        pieces.append(RecordBatch(batch.names, columns, part.row_count))
    return pieces
