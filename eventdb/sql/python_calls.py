"""Calls of functions written in Python, bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from eventdb.logical.expressions import Expression, Literal, SortKey
from eventdb.logical.python_functions import (
    Callee,
    PythonAggregate,
    PythonAggregation,
    PythonCall,
    PythonFunction,
    PythonTable,
    resolve,
    signature,
)
from eventdb.schema import VARCHAR

if TYPE_CHECKING:
    from eventdb.sql.expressions import ExpressionBinder


def coerced(binder: ExpressionBinder, callee: Callee, args: list[Expression], node: Any) -> tuple[Expression, ...]:
    """The arguments in the types of the parameters; string literals are read as those. BindError if they do not fit."""
    types = [arg.type for arg in args]
    wanted = list(callee.arguments) + [callee.arguments[-1]] * len(args) if callee.repeats else list(callee.arguments)
    for i, arg in enumerate(args):
        if isinstance(arg, Literal) and arg.type == VARCHAR and i < len(wanted):
            types[i] = wanted[i]
    found = resolve(callee, types)
    if found is None:
        shown = ", ".join(str(arg.type) for arg in args)
        binder.context.fail(f"{callee.name}({shown}) does not exist; it is {signature(callee)}", node)
    return tuple(binder.coerce(arg, type, node) for arg, type in zip(args, found, strict=True))


def python_scalar(binder: ExpressionBinder, callee: Callee, args: list[Expression], node: Any) -> Expression:
    """The call of a scalar function."""
    if isinstance(callee, PythonTable):
        _misplaced(binder, callee, node)
    assert isinstance(callee, PythonFunction)
    return PythonCall(callee.returns, callee, coerced(binder, callee, args, node))


def python_aggregation(
    binder: ExpressionBinder, callee: PythonAggregate, args: list[Expression], distinct: bool,
    keep: Expression | None, order: tuple[SortKey, ...], node: Any,
) -> PythonAggregation:  # fmt: skip
    """The aggregation by an aggregate."""
    bound = coerced(binder, callee, args, node)
    return PythonAggregation(callee.name, bound, callee.returns, distinct, keep, order, aggregate=callee)


def _misplaced(binder: ExpressionBinder, callee: PythonTable, node: Any) -> NoReturn:
    binder.context.fail(f"{callee.name}() is a table function: write FROM {callee.name}(...)", node)
