"""The short way of a query that reads few rows: Project? over Filter? over a Scan, without threads, kernels or streams.

A query by key, offset or a short time finds its slices through the storage's look-ups; what is left is a comparison or
two on some rows, and setting up operators would cost more than that. Columns that only the result needs are read where
a slice keeps a row. The rows are those of the interpreted operators, which also run whatever is not simple here: a
predicate term is evaluated by Evaluator unless it compares a column with a constant of its type, and a row that breaks
an expression sends the query the ordinary way, which names the row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal
from eventdb.logical.plan import Filter, Plan, Project, Scan
from eventdb.logical.predicates import terms_of
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator, Frame
from eventdb.physical.fused import LEAST_COMPILED_ROWS, scanned_rows
from eventdb.physical.scan import KeyLookup, LogScan
from eventdb.physical.visible import meets_superseded

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def short_rows(plan: Plan, context: QueryContext) -> list[RecordBatch] | None:
    """All rows of a plan without now(); None if it has another shape, reads more rows than are worth it here, or breaks
    on one of them."""
    if context.execution == "compiled" or context.metrics is not None:
        return None
    project = plan if isinstance(plan, Project) else None
    node = plan if project is None else project.input
    predicate = None
    if isinstance(node, Filter):
        predicate = node.predicate
        node = node.input
    if not isinstance(node, Scan):
        return None
    if node.keys is None and (meets_superseded(node, context) or scanned_rows(node, context) >= LEAST_COMPILED_ROWS):
        return None
    scan = LogScan(node, context) if node.keys is None else KeyLookup(node, context)
    outputs = None if project is None else project.expressions
    names = tuple(field.name for field in plan.fields)
    batches = []
    try:
        for readers, parts in scan.found():
            for part in parts:
                context.cancel.check()
                batch = _batch(_Rows(part, readers), predicate, outputs, names)
                if batch is not None:
                    batches.append(batch)
    except EvaluationError:
        return None
    return batches


class _Rows(Frame):
    """The rows of a slice; a column is read when somebody asks for it."""

    __slots__ = ("_part", "_readers")

    def __init__(self, part: Any, readers: list[Callable[[Any], Column]]) -> None:
        super().__init__(_Columns(self), part.row_count)
        self._part = part
        self._readers = readers

    @property
    def width(self) -> int:
        return len(self._readers)

    def read(self, index: int) -> Column:
        return self._readers[index](self._part)


class _Columns(dict[int, Column]):
    __slots__ = ("_rows",)

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, index: int) -> Column:
        column = self[index] = self._rows.read(index)
        return column


def _batch(
    rows: _Rows, predicate: Expression | None, outputs: tuple[Expression, ...] | None, names: tuple[str, ...]
) -> RecordBatch | None:
    """The kept rows of one slice; None if it keeps none."""
    keep = None if predicate is None else _keep(predicate, rows)
    count = rows.row_count if keep is None else int(keep.sum())
    if not count:
        return None
    if outputs is None:
        indexes = list(range(len(names)))
    else:
        indexes = [output.index for output in outputs if isinstance(output, ColumnRef)]
    if outputs is None or len(indexes) == len(outputs):
        columns = [rows.columns[index] for index in indexes]
        return RecordBatch(names, columns if keep is None else [column.filter(keep) for column in columns], count)
    inputs = [rows.columns[index] for index in range(rows.width)]
    batch = RecordBatch([""] * len(inputs), inputs if keep is None else [c.filter(keep) for c in inputs], count)
    return RecordBatch(names, [Evaluator(output)(batch) for output in outputs], count)


def _keep(predicate: Expression, rows: _Rows) -> Array | None:
    """Which rows satisfy the predicate; None: all of them."""
    keep: Array | None = None
    for term in terms_of(predicate):
        found = _compared(term, rows)
        if found is None:
            return Evaluator(predicate).keep(rows)
        keep = found if keep is None else keep & found
    return None if keep is None or keep.all() else keep


def _compared(term: Expression, rows: _Rows) -> Array | None:
    """Where a comparison of a column with a constant of its type is true; None for any other term."""
    if not isinstance(term, Call) or term.function not in _COMPARE:
        return None
    left, right = term.args
    if not isinstance(left, ColumnRef) or not isinstance(right, Literal) or left.type != right.type or right.is_null:
        return None
    if left.type.is_float or (left.type.is_coded and term.function not in ("eq", "ne")):
        return None  # NaN and the order of strings are the evaluator's
    column, value = rows.columns[left.index], right.value
    if column.dictionary is not None:
        value = column.dictionary.code_of(value)
    found: Array = _COMPARE[term.function](column.values, value)
    return found if column.validity is None else found & column.validity
