"""Expressions over batches with NumPy: the oracle of the compiled execution.

`compile_expression` turns an expression into a tree of closures once (types, constants and kernels are chosen then),
so a batch costs one call per node. `evaluate` does both and remembers the tree.

CASE, COALESCE, AND and OR evaluate an argument only for the rows that reach it when it could raise; arguments that
cannot raise are evaluated on every row, which is cheaper than selecting rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import InternalError
from eventdb.logical.expressions import (
    Call,
    Case,
    Cast,
    ColumnRef,
    Expression,
    InList,
    IntervalValue,
    Literal,
    columns_of,
)
from eventdb.logical.functions import may_raise
from eventdb.logical.python_functions import PythonCall
from eventdb.physical.cast import cast_kernel
from eventdb.physical.dictionary_memo import DictionaryUnion
from eventdb.physical.evaluate_decimal import decimal_kernel, without_widening
from eventdb.physical.evaluate_numeric import NUMERIC
from eventdb.physical.evaluate_text import TEXT, in_memo
from eventdb.physical.evaluate_time import TIME
from eventdb.physical.operands import KernelBuilder, constant, null_column, stretch
from eventdb.physical.python_call import python_call
from eventdb.schema import BOOLEAN, DataType

KERNELS: dict[str, KernelBuilder] = {**NUMERIC, **TEXT, **TIME}
"""Every scalar function of the registry except those that decide which arguments to evaluate: LAZY below."""


class Frame:
    """Rows an expression is evaluated on: a batch, or some rows of it with only the columns that are needed."""

    __slots__ = ("columns", "row_count")

    def __init__(self, columns: Sequence[Column] | Mapping[int, Column], row_count: int) -> None:
        self.columns = columns
        self.row_count = row_count

    def take(self, rows: Array, needed: Sequence[int]) -> Frame:
        return Frame({i: self.columns[i].take(rows) for i in needed}, len(rows))


Node = Callable[[Any], Column]
"""Frame or RecordBatch -> Column with as many rows, or with one row when it is constant."""


class Evaluator:
    """A compiled expression; call it with a batch. Reusable for any number of batches, from any thread."""

    __slots__ = ("_index", "_node", "expression")

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._index = expression.index if isinstance(expression, ColumnRef) else -1
        self._node = compile_expression(expression)

    def __call__(self, batch: RecordBatch) -> Column:
        """One value per row of the batch. EvaluationError when a value breaks the expression."""
        if self._index >= 0:
            return batch.columns[self._index]
        with np.errstate(all="ignore"):
            column = self._node(batch)
        return column if len(column) == batch.row_count else stretch(column, batch.row_count)

    def keep(self, batch: RecordBatch | Frame) -> Array | None:
        """For a BOOLEAN expression: where it is true, as a bool array; None when it is true for every row."""
        with np.errstate(all="ignore"):
            column = self._node(batch)
        keep = column.values if column.validity is None else column.values & column.validity
        if len(keep) != batch.row_count:
            return None if keep[0] else np.zeros(batch.row_count, dtype=bool)
        return None if keep.all() else keep


_MAX_REMEMBERED = 512
_remembered: dict[int, Evaluator] = {}


def evaluator_of(expression: Expression) -> Evaluator:
    """The compiled form of this very object; kept, so that micro-batches do not compile again."""
    found = _remembered.get(id(expression))
    if found is None or found.expression is not expression:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        found = _remembered[id(expression)] = Evaluator(expression)
    return found


def evaluate(expression: Expression, batch: RecordBatch) -> Column:
    """The value of the expression for every row of the batch. EvaluationError when a value breaks it."""
    return evaluator_of(expression)(batch)


def compile_expression(expression: Expression) -> Node:
    """The expression as a function of frames. Kernels are chosen here, once."""
    if isinstance(expression, ColumnRef):
        index = expression.index
        return lambda frame: frame.columns[index]
    if isinstance(expression, Literal):
        return _literal(expression)
    if isinstance(expression, Call):
        return _call(expression)
    if isinstance(expression, Cast):
        operand = compile_expression(expression.operand)
        kernel = cast_kernel(expression.operand.type, expression.type, expression.safe)
        return lambda frame: kernel([operand(frame)])
    if isinstance(expression, Case):
        return _case(expression)
    if isinstance(expression, InList):
        return _in_list(expression)
    if isinstance(expression, PythonCall):
        return python_call(expression, [compile_expression(arg) for arg in expression.args])
    raise InternalError(f"no evaluation for {type(expression).__name__}")


def _literal(expression: Literal) -> Node:
    value = expression.value
    if isinstance(value, IntervalValue):
        if value.months:
            raise InternalError(f"INTERVAL '{value}' reached evaluation with months")
        value = value.microseconds
    column = constant(expression.type, value)
    return lambda frame: column


def _call(call: Call) -> Node:
    lazy = LAZY.get(call.function)
    if lazy is not None:
        return lazy(call)
    builder = decimal_kernel(call) or KERNELS.get(call.function)
    if builder is None:
        raise InternalError(f"no kernel for function {call.function}")
    kernel = builder(call)
    call = without_widening(call)
    nodes = [compile_expression(arg) for arg in call.args]
    if len(nodes) == 1:
        only = nodes[0]
        return lambda frame: kernel((only(frame),))
    if len(nodes) == 2:
        left, right = nodes
        return lambda frame: kernel((left(frame), right(frame)))
    return lambda frame: kernel([node(frame) for node in nodes])


# --- functions that decide what to evaluate -----------------------------------------------------------------------


class _Branch:
    """An argument that some rows may not reach."""

    __slots__ = ("needed", "node", "raises")

    def __init__(self, expression: Expression) -> None:
        self.node = compile_expression(expression)
        self.raises = may_raise(expression)
        self.needed = sorted(columns_of(expression)) if self.raises else []

    def on(self, frame: Any, rows: Array) -> Column:
        """The values of some rows only, in their order."""
        if len(rows) == frame.row_count:
            return stretch(self.node(frame), len(rows))
        part = Frame({i: frame.columns[i].take(rows) for i in self.needed}, len(rows))
        return stretch(self.node(part), len(rows))


def _logic(call: Call) -> Node:
    """AND and OR. For AND a NULL counts as true until the end: the result is false if anything is, else NULL if
    anything was, else true; OR is the mirror image."""
    conjunction = call.function == "and"
    branches = [_Branch(arg) for arg in call.args]

    def run(frame: Any) -> Column:
        count = frame.row_count
        truth, unknown = _side(branches[0].node(frame), conjunction)
        for branch in branches[1:]:
            if branch.raises:
                truth, unknown = _decide_rest(frame, branch, truth, unknown, conjunction)
                continue
            other, missing = _side(branch.node(frame), conjunction)
            truth = truth & other if conjunction else truth | other
            if missing is not None:
                unknown = missing if unknown is None else unknown | missing
        if unknown is None:
            return Column(BOOLEAN, truth)
        valid = ~(unknown & truth) if conjunction else ~unknown | truth
        if len(truth) != len(valid):
            truth, valid = np.broadcast_to(truth, (count,)), np.broadcast_to(valid, (count,))
        return Column(BOOLEAN, truth, valid)

    return run


def _side(column: Column, conjunction: bool) -> tuple[Array, Array | None]:
    """The values with NULL as true (AND) or false (OR), and where NULLs are."""
    if column.validity is None:
        return column.values, None
    unknown = ~column.validity
    return (column.values | unknown if conjunction else column.values & column.validity), unknown


def _decide_rest(
    frame: Any, branch: _Branch, truth: Array, unknown: Array | None, conjunction: bool
) -> tuple[Array, Array | None]:
    """Evaluates a branch that may raise for the rows that are still undecided."""
    count = frame.row_count
    truth = np.broadcast_to(truth, (count,))
    rows = np.flatnonzero(truth if conjunction else ~truth)
    if not len(rows):
        return truth, unknown
    other, missing = _side(branch.on(frame, rows), conjunction)
    truth = truth.copy()
    truth[rows] = other
    if missing is not None:
        unknown = np.zeros(count, dtype=bool) if unknown is None else np.broadcast_to(unknown, (count,)).copy()
        unknown[rows] |= missing
    return truth, unknown


class _Assembly:
    """A column put together from values of disjoint rows. String values of all parts share one dictionary."""

    __slots__ = ("_type", "_union")

    def __init__(self, type: DataType) -> None:
        self._type = type
        self._union = DictionaryUnion(type) if type.is_coded else None

    def __call__(self, parts: list[tuple[Array | None, Column]], count: int) -> Column:
        """Later parts overwrite earlier ones; the rows of a part are positions, None for all rows."""
        if len(parts) == 1 and parts[0][0] is None:
            return parts[0][1]
        columns = [column for _, column in parts]
        if self._union is not None:
            columns = self._union(columns)
        values = np.zeros(count, dtype=self._type.physical)
        nullable = any(column.validity is not None for column in columns)
        valid = np.ones(count, dtype=bool) if nullable else None
        for (rows, _), column in zip(parts, columns, strict=True):
            where: Any = slice(None) if rows is None else rows
            values[where] = column.values
            if valid is not None:
                valid[where] = True if column.validity is None else column.validity
        return Column(self._type, values, valid, columns[0].dictionary)


def _case(case: Case) -> Node:
    conditions = [_Branch(condition) for condition in case.conditions]
    results = [_Branch(result) for result in case.results]
    otherwise = _Branch(case.otherwise)
    assemble = _Assembly(case.type)
    constant_result = not case.type.is_coded and all(isinstance(r, Literal) for r in (*case.results, case.otherwise))
    if constant_result and len(conditions) == 1 and not conditions[0].raises:
        return _choose(case)

    def run(frame: Any) -> Column:
        count = frame.row_count
        undecided: Array | None = None  # None = every row
        parts: list[tuple[Array | None, Column]] = []
        for condition, result in zip(conditions, results, strict=True):
            undecided, rows = _split(frame, condition, undecided)
            if len(rows):
                parts.append((rows, _on(result, frame, rows)))
            if not len(undecided):
                break
        if undecided is None:
            undecided = np.arange(count)
        if len(undecided):
            parts.append((undecided, _on(otherwise, frame, undecided)))
        if len(parts) == 1:
            return stretch(parts[0][1], count)
        return assemble(parts, count) if parts else null_column(case.type, 0)

    return run


def _split(frame: Any, condition: _Branch, undecided: Array | None) -> tuple[Array, Array]:
    """The rows that stay undecided and those for which the condition is true."""
    if undecided is None or not condition.raises:
        column = stretch(condition.node(frame), frame.row_count)
        hit = column.values if column.validity is None else column.values & column.validity
        if undecided is None:
            return np.flatnonzero(~hit), np.flatnonzero(hit)
        hit = hit[undecided]
    else:
        column = condition.on(frame, undecided)
        hit = column.values if column.validity is None else column.values & column.validity
    return undecided[~hit], undecided[hit]


def _on(branch: _Branch, frame: Any, rows: Array) -> Column:
    """The branch's values at some rows; evaluated on all rows when that cannot raise."""
    if branch.raises:
        return branch.on(frame, rows)
    column = branch.node(frame)
    if len(column) == 1 and frame.row_count != 1:
        return stretch(column, len(rows))
    return column if len(rows) == len(column) else column.take(rows)


def _choose(case: Case) -> Node:
    """CASE WHEN c THEN constant ELSE constant END: one look-up."""
    condition = compile_expression(case.conditions[0])
    yes = _literal_column(case.results[0])
    no = _literal_column(case.otherwise)
    table = np.array([no.values[0], yes.values[0]], dtype=case.type.physical)
    present = np.array([no.validity is None, yes.validity is None])
    nullable = not present.all()

    def run(frame: Any) -> Column:
        column = condition(frame)
        hit = column.values if column.validity is None else column.values & column.validity
        pick = hit.view(np.uint8)
        return Column(case.type, table[pick], present[pick] if nullable else None)

    return run


def _literal_column(expression: Expression) -> Column:
    return compile_expression(expression)(None)


def _coalesce(call: Call) -> Node:
    branches = [_Branch(arg) for arg in call.args]
    assemble = _Assembly(call.type)

    def run(frame: Any) -> Column:
        count = frame.row_count
        first = branches[0].node(frame)
        if first.validity is None or first.validity.all():
            return first
        first = stretch(first, count)
        assert first.validity is not None
        parts: list[tuple[Array | None, Column]] = [(None, first)]
        rows = np.flatnonzero(~first.validity)
        for branch in branches[1:]:
            column = _on(branch, frame, rows)
            parts.append((rows, column))
            if column.validity is None:
                break
            rows = rows[~column.validity]
            if not len(rows):
                break
        return assemble(parts, count)

    return run


LAZY: dict[str, Callable[[Call], Node]] = {"and": _logic, "or": _logic, "coalesce": _coalesce}
"""Functions that choose which rows their arguments are evaluated for."""


def _in_list(expression: InList) -> Node:
    operand = compile_expression(expression.operand)
    type = expression.operand.type
    values = [v.value for v in expression.values if v.value is not None]
    with_null = len(values) < len(expression.values)
    negated = expression.negated
    memo = in_memo(values, BOOLEAN) if type.is_coded else None
    numbers = [v.microseconds if isinstance(v, IntervalValue) else v for v in values]
    members = np.array(numbers, dtype=type.physical) if memo is None else np.zeros(0)

    def run(frame: Any) -> Column:
        column = operand(frame)
        if memo is not None:
            found = memo(column).values
        elif len(members) <= 8:
            found = np.zeros(len(column), dtype=bool)
            for member in members:
                found |= column.values == member
        else:
            found = np.isin(column.values, members)
        valid = column.validity
        if with_null:
            valid = found if valid is None else valid & found
        return Column(BOOLEAN, ~found if negated else found, valid)

    return run
