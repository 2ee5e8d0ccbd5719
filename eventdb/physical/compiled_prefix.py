"""Rows aggregated by the interpreted engine while the kernel compiles, as a state the kernel's states merge with.

The interpreted engine runs the same pipeline with the primitive cells as its aggregates (counts, sums, extremes, mean
and variance), a morsel at a time; keys become slots exactly as in the generated code. Hashed groups are not merged so:
there the whole query is interpreted, and the kernel serves the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.logical.expressions import Aggregation, Cast, ColumnRef, Expression
from eventdb.logical.functions import aggregation_type
from eventdb.logical.plan import Aggregate, Filter, OutputField, Plan, Project
from eventdb.physical.codegen import CannotCompile
from eventdb.physical.codegen_aggregate import Cell
from eventdb.physical.compiled_sinks import AggregateSink, CellState, DirectSink
from eventdb.physical.fused import Shape
from eventdb.schema import BIGINT

_FUNCTIONS = {
    "sum_i": "sum", "sum_f": "sum", "mean": "avg", "min_i": "min", "min_f": "min", "max_i": "max", "max_f": "max",
}  # fmt: skip


class InterpretedPrefix:
    """`plan` gives batches of primitive aggregates for a range of rows; `add` takes them; `states` is their sum."""

    def __init__(self, sink: AggregateSink, keys: tuple[Expression, ...], shape: Shape) -> None:
        self._sink = sink
        self._keys = keys
        self._cells = list(sink.cells.primitives())
        aggregations: list[Aggregation] = []
        self._places: list[tuple[Cell, int]] = []
        for key, cell in self._cells:
            self._places.append((cell, len(aggregations)))
            aggregations.extend(_primitives(key, cell))
        self.plan = _plan(shape, keys, tuple(aggregations))
        self._state: Any = None

    @property
    def states(self) -> list[Any]:
        return [] if self._state is None else [self._state]

    def add(self, batch: RecordBatch) -> None:
        """Merges the groups of a batch of `plan`. CannotCompile if one cannot be placed."""
        sink = self._sink
        width_i, width_f = sink.cells.widths
        count = batch.row_count
        integers = np.zeros((count, width_i), dtype=np.int64)
        floats = np.zeros((count, width_f), dtype=np.float64)
        stores = {"i": integers, "f": floats}
        first = len(self._keys)
        for cell, at in self._places:
            column = batch.columns[first + at]
            values = self._sink.cells.encoded(cell, column)
            stores[cell.store][:, cell.position] = values
            if cell.kind == "mean":
                assert cell.count is not None
                spread = batch.columns[first + at + 1]
                counts = stores[cell.count.store][:, cell.count.position]
                floats[:, cell.position + 1] = _present(spread) * counts
        self._merge(batch, integers, floats)

    def _merge(self, batch: RecordBatch, integers: Array, floats: Array) -> None:
        sink = self._sink
        columns = list(batch.columns[: len(self._keys)])
        slots = sink.numbers(columns) if isinstance(sink, DirectSink) else np.zeros(batch.row_count, dtype=np.int64)
        if self._state is None:
            self._state = sink.new_state()
        target: CellState = self._state
        arrays = (target.integers.reshape(-1, integers.shape[1]), target.floats.reshape(-1, floats.shape[1]))
        part = (arrays[0][slots], arrays[1][slots])
        sink.cells.merge(part, (integers, floats))
        arrays[0][slots], arrays[1][slots] = part


def _present(column: Column) -> Array:
    return column.values if column.validity is None else np.where(column.validity, column.values, 0)


def _primitives(key: tuple[Any, ...], cell: Cell) -> list[Aggregation]:
    """The interpreted aggregates that give a cell."""
    source: Expression | None = key[1]
    condition: Expression | None = key[2]
    if cell.kind == "count":
        if source is None:
            return [Aggregation("count_star", (), BIGINT, filter=condition)]
        return [Aggregation("count", (source,), BIGINT, filter=condition)]
    assert source is not None
    argument = source
    name = _FUNCTIONS[cell.kind]
    if name == "sum" and argument.type.name == "BOOLEAN":
        argument = Cast(BIGINT, source)
    if argument.type.name in ("DATE", "TIMESTAMP") and name == "sum":
        raise CannotCompile("a sum of times")
    names = (name, "var_pop") if cell.kind == "mean" else (name,)
    typed: list[Aggregation] = []
    for function in names:
        bare = Aggregation(function, (argument,), BIGINT)
        typed.append(Aggregation(function, (argument,), aggregation_type(bare), filter=condition))
    return typed


def _plan(shape: Shape, keys: tuple[Expression, ...], aggregations: tuple[Aggregation, ...]) -> Plan:
    """The pipeline over its scan with the primitive aggregates; raising expressions are kept where they were."""
    node: Plan = shape.scan
    columns = tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(shape.scan.output))
    for step in shape.steps:
        lookup = step.lookup
        if lookup is not None:
            node = replace(lookup.join, left=node, left_keys=lookup.keys, residual=None)
            columns = tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(node.fields))
        elif step.keeps:
            node = Filter(node, step.expressions[0])
        else:
            extra = tuple(OutputField(str(e), e.type) for e in step.expressions)
            fields = node.fields
            node = Project(node, (*columns, *step.expressions), (*fields, *extra))
            node = Project(node, columns, fields)
    types = [key.type for key in keys] + [aggregation.type for aggregation in aggregations]
    output = tuple(OutputField(str(i), type) for i, type in enumerate(types))
    return Aggregate(node, keys, aggregations, output)
