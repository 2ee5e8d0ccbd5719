"""What holds for an expression whatever its input: may it raise, is it volatile, may it be NULL."""

from __future__ import annotations

from collections.abc import Sequence

from eventdb.logical.aggregates import AGGREGATES
from eventdb.logical.expressions import Aggregation, Call, Case, Cast, ColumnRef, Expression, InList, Literal, walk
from eventdb.logical.python_functions import PythonAggregation, PythonCall
from eventdb.logical.scalars import SCALARS
from eventdb.logical.types import cast_may_fail
from eventdb.schema import DataType


def may_raise(expression: Expression) -> bool:
    """Whether evaluating the expression on some row could raise, so that it must not be evaluated on more rows."""
    for node in walk(expression):
        if isinstance(node, PythonCall):
            return True
        if isinstance(node, Call):
            function = SCALARS[node.function]
            if function.raises and not _float_only(node):
                return True
        elif isinstance(node, Cast) and not node.safe and cast_may_fail(node.operand.type, node.type):
            return True
    return False


def _float_only(call: Call) -> bool:
    """Float add, subtract, multiply, negate and abs cannot raise, and neither can LIKE with a sound literal pattern."""
    if call.function in ("like", "ilike"):
        return isinstance(call.args[1], Literal) and not ends_in_escape(call.args[1].value)
    return call.function in ("add", "subtract", "multiply", "negate", "abs", "round") and call.type.is_float


def ends_in_escape(pattern: str | None) -> bool:
    """Whether a LIKE pattern ends in a backslash that quotes nothing."""
    return pattern is not None and (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def is_volatile(expression: Expression) -> bool:
    """Whether the value depends on more than the row: now(), a Python function that says so."""
    return any(
        (isinstance(node, Call) and SCALARS[node.function].volatile)
        or (isinstance(node, PythonCall) and node.function.volatile)
        for node in walk(expression)
    )


def aggregation_type(aggregation: Aggregation) -> DataType:
    """The result type the registry gives an aggregation."""
    if isinstance(aggregation, PythonAggregation):
        return aggregation.aggregate.returns
    resolved = AGGREGATES[aggregation.function].resolve([arg.type for arg in aggregation.args])
    assert resolved is not None, aggregation
    return resolved[1]


def may_be_null(expression: Expression, nullable: Sequence[bool]) -> bool:
    """Whether the value can be NULL when input column i can be NULL only if nullable[i]."""
    if isinstance(expression, Literal):
        return expression.is_null
    if isinstance(expression, ColumnRef):
        return nullable[expression.index]
    if isinstance(expression, Case):
        return any(may_be_null(result, nullable) for result in (*expression.results, expression.otherwise))
    if isinstance(expression, InList):
        return any(value.is_null for value in expression.values) or may_be_null(expression.operand, nullable)
    if isinstance(expression, Cast):
        return expression.safe or may_be_null(expression.operand, nullable)
    if isinstance(expression, Call):
        if expression.function in _NEVER_NULL:
            return False
        nulls = [may_be_null(arg, nullable) for arg in expression.args]
        return all(nulls) if expression.function in ("coalesce", "greatest", "least") else any(nulls)
    return True


EMPTY_IS_ZERO = frozenset(("count", "count_star", "regr_count", "entropy"))
"""Aggregates that are 0 over no rows; the others are NULL."""

_NEVER_NULL = frozenset(("is_null", "is_not_null", "is_distinct_from", "is_not_distinct_from", "concat", "now"))
