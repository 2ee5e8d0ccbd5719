"""BlockStatistics: aggregates of whole blocks from their statistics; only the rows of the others are read.

What a slice says without being read is exact or not used: a block counts as a whole only if all of its rows are in the
scan, and a filter only if the block's least and greatest value decide it for every row. Doubles are left to the scan
where one is NaN or zero, which has two signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eventdb.batch import Column, RecordBatch
from eventdb.logical.expressions import Aggregation, ColumnRef
from eventdb.logical.plan import Aggregate, Filter, Plan, Scan
from eventdb.logical.relational import BlockAggregate
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator
from eventdb.physical.scan import offset_at
from eventdb.physical.skipping import find_parts

_MOST_RUNS = 16
"""Blocks to be read lie in so many stretches of neighbours at most; to read all costs less than more of them."""

Build = Callable[[Plan, QueryContext], Operator]


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of a column in a slice: NULLs, and the least and greatest of its other values, if it is known."""

    null_count: int
    range: tuple[Any, Any] | None


class BlockStatistics(Operator):
    def __init__(self, plan: BlockAggregate, build: Build, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan
        self._build = build
        scan = plan.input.input if isinstance(plan.input, Filter) else plan.input
        assert isinstance(scan, Scan)
        self._scan = scan
        self._known_count = self._read_count = 0

    def label(self) -> str:
        known = ""
        if self._known_count:
            known = f" ({self._known_count} of {self._known_count + self._read_count} blocks from statistics)"
        return f"{self.plan.label()} <- {self._scan.label()}{known}"

    def produce(self) -> Iterator[RecordBatch]:
        found: list[list[Any]] = [[] for _ in self.plan.aggregations]  # values to be brought together
        runs: list[tuple[int, int, int]] = []  # (partition, first offset, offset after the last one) to be read
        for log, parts in find_parts(self._scan, self.context).groups:
            partition = getattr(log, "partition", 0)
            joins = False  # the run goes on
            for part in parts:
                self.context.cancel.check()
                known = _known(self.plan, self._scan, log, part)
                if known is not None:
                    self._known_count += 1
                    for values, value in zip(found, known, strict=True):
                        values.append(value)
                    joins = False
                    continue
                self._read_count += 1
                first, stop = part.first_offset, offset_at(part, int(part.row_count) - 1) + 1
                if joins:
                    first = runs.pop()[1]
                runs.append((partition, first, stop))
                joins = True
        if not self._known_count or len(runs) > _MOST_RUNS:
            self._known_count = 0
            yield from self._read(None).batches()
            return
        for partition, first, stop in runs:
            scan = replace(self._scan, start_offset=first, stop_offset=stop, partition=partition)
            for batch in self._read(scan).batches():
                for values, column in zip(found, batch.columns, strict=True):
                    absent = column.validity is not None and not column.validity[0]
                    values.append(None if absent else column.values[0])
        columns = [_together(a, values) for a, values in zip(self.plan.aggregations, found, strict=True)]
        yield RecordBatch(self.names, columns, 1)

    def _read(self, scan: Scan | None) -> Operator:
        """The aggregates of the rows of a scan, None: of all."""
        below = self.plan.input
        if scan is not None:
            below = replace(below, input=scan) if isinstance(below, Filter) else scan
        rows = self._build(Aggregate(below, (), self.plan.aggregations, self.plan.output), self.context)
        self.children = (*self.children, rows)
        return rows


def _together(aggregation: Aggregation, values: list[Any]) -> Column:
    """One value of those of all blocks and runs; None stands for NULL. NaN is greater than all numbers."""
    type = aggregation.type
    present = [value for value in values if value is not None]
    if aggregation.function in ("count_star", "count"):
        return Column(type, np.array([sum(map(int, present))], dtype=type.physical))
    if not present:
        return Column(type, np.zeros(1, dtype=type.physical), np.zeros(1, dtype=bool))
    best = (min if aggregation.function == "min" else max)(present, key=lambda value: (value != value, value))
    return Column(type, np.array([best], dtype=type.physical))


def _known(plan: BlockAggregate, scan: Scan, log: Any, part: Any) -> list[Any] | None:
    """The value of each aggregation over the rows of a slice, None for NULL; None if they have to be read."""
    for index, function, constant in plan.terms:
        facts = _facts(scan, index, log, part)
        if facts is None or facts.null_count or not _holds(function, facts.range, constant):
            return None
    count = int(part.row_count)
    values: list[Any] = []
    for aggregation in plan.aggregations:
        if aggregation.function == "count_star":
            values.append(count)
            continue
        (column,) = aggregation.args
        assert isinstance(column, ColumnRef)
        facts = _facts(scan, column.index, log, part)
        if facts is None:
            return None
        if aggregation.function == "count":
            values.append(count - facts.null_count)
        elif facts.null_count == count:
            values.append(None)
        elif facts.range is None or column.type.is_coded:
            return None
        else:
            values.append(facts.range[aggregation.function == "max"])
    return values


def _holds(function: str, held: tuple[Any, Any] | None, constant: Any) -> bool:
    """Whether `column function constant` is true for all values in a range; False if that is not known."""
    if function == "is_not_null":
        return True
    if held is None:
        return False
    least, greatest = held
    return bool(
        {
            "eq": least == constant == greatest, "lt": greatest < constant, "le": greatest <= constant,
            "gt": least > constant, "ge": least >= constant,
        }[function]
    )  # fmt: skip


def _facts(scan: Scan, index: int, log: Any, part: Any) -> _Facts | None:
    """What is known of a field of the scan in a slice; None if its rows have to be looked at."""
    name, type = scan.columns[index], scan.output[index].type
    if name == "_offset":
        return _Facts(0, (part.first_offset, offset_at(part, int(part.row_count) - 1)))
    position = log.event_time if name == "_time" else None if name.startswith("_") else log.schema.index_of(name)
    if position is None or log.schema.fields[position].type != type:
        return None
    ask = getattr(part, "exact_statistics", None)
    known = None if ask is None else ask(position)
    if known is not None:
        return _Facts(*known)
    return None if log.schema.fields[position].nullable else _Facts(0, None)
