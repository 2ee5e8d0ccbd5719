"""Subqueries in expressions: scalar, EXISTS, IN, ANY and ALL, and the columns they take from queries around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal
from eventdb.logical.plan import Plan
from eventdb.logical.subqueries import OuterRef, Subquery
from eventdb.schema import BOOLEAN

if TYPE_CHECKING:
    from eventdb.sql.context import Context
    from eventdb.sql.expressions import ExpressionBinder

QUERIES = (exp.Subquery, exp.Select, exp.Values, exp.SetOperation)


@dataclass(slots=True)
class Enclosing:
    """A query around the one that is bound: how it finds a column, and what was taken from its rows so far."""

    find: Callable[[str, str, exp.Expr], Expression | None]
    binder: ExpressionBinder | None  # None in LATERAL, which no aggregate of the query around it reaches
    args: list[Expression] = field(default_factory=list)

    def argument(self, expression: Expression, name: str) -> OuterRef:
        if expression not in self.args:
            self.args.append(expression)
        return OuterRef(expression.type, self.args.index(expression), name)


def outer_column(context: Context, name: str, table: str, node: exp.Expr) -> Expression | None:
    """The column of the nearest query around that has it, as a reference to it; None if none has."""
    if not context.enclosing:
        return None
    enclosing = context.enclosing[-1]
    with inside(context, -1):
        found = enclosing.find(name, table, node)
    return None if found is None else enclosing.argument(found, name)


@contextmanager
def inside(context: Context, depth: int) -> Iterator[None]:
    """Inside the block only the first `depth` queries are around the one that is bound."""
    around, context.enclosing = context.enclosing, context.enclosing[:depth]
    try:
        yield
    finally:
        context.enclosing = around


def bind_nested(
    context: Context, find: Callable[[str, str, exp.Expr], Expression | None], node: exp.Expr,
    binder: ExpressionBinder | None = None,
) -> tuple[Plan, Enclosing]:  # fmt: skip
    """The plan of a query inside another one, and what it takes from it."""
    if context.bind_query is None:
        context.unsupported("a subquery here", node, "run it first and pass its result")
    enclosing = Enclosing(find, binder)
    context.enclosing = [*context.enclosing, enclosing]
    try:
        plan = context.bind_query(_query(node), context.ctes)
    finally:
        context.enclosing = context.enclosing[:-1]
    return plan, enclosing


def _query(node: exp.Expr) -> exp.Expr:
    """The query in plain parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def scalar_subquery(binder: ExpressionBinder, node: exp.Expr) -> Expression:
    plan, enclosing = bind_nested(binder.context, binder.known, node, binder)
    if len(plan.fields) != 1:
        binder.context.fail(f"a subquery used as a value has one column, not {len(plan.fields)}", node)
    return Subquery(plan.fields[0].type, "scalar", plan, tuple(enclosing.args))


def exists_subquery(binder: ExpressionBinder, node: exp.Exists) -> Expression:
    plan, enclosing = bind_nested(binder.context, binder.known, node.this, binder)
    return Subquery(BOOLEAN, "exists", plan, tuple(enclosing.args))


def in_subquery(binder: ExpressionBinder, operand: exp.Expr, query: exp.Expr, node: exp.Expr) -> Expression:
    """operand IN (query)."""
    return _any(binder, operand, query, "eq", False, node)


def quantified(binder: ExpressionBinder, node: exp.Binary, function: str) -> Expression:
    """operand OP ANY (query), operand OP ALL (query): ALL holds where no row has NOT (operand OP value)."""
    side = node.expression
    query = _query(side.this)
    if not isinstance(query, QUERIES):
        binder.context.unsupported(f"{type(side).__name__.upper()} over a list value", node, "write IN (...)")
    if isinstance(side, exp.Any):
        return _any(binder, node.this, query, function, False, node)
    negated = {"ne": "eq", "eq": "ne"}.get(function)
    found = _any(binder, node.this, query, negated or function, negated is None, node)
    return binder.call("not", [found], node)


def _any(
    binder: ExpressionBinder, operand: exp.Expr, query: exp.Expr, function: str, negated: bool, node: exp.Expr
) -> Expression:
    """Whether `operand FUNCTION value` (or its negation) is true for a value of the query."""
    trees = operand.expressions if isinstance(operand, exp.Tuple) else [operand]
    operands = [binder.bind(tree) for tree in trees]
    plan, enclosing = bind_nested(binder.context, binder.known, query, binder)
    if len(plan.fields) != len(operands):
        binder.context.fail(f"{len(operands)} values are compared with {len(plan.fields)} columns of a subquery", node)
    if len(operands) > 1 and (negated or function != "eq"):
        binder.context.unsupported("a comparison of rows with ANY or ALL", node, "use IN, or compare each column")
    tests: list[Expression] = []
    for value, column in zip(operands, plan.fields, strict=True):
        index = len(tests)
        mine = value if isinstance(value, Literal) else enclosing.argument(value, str(value))
        test = binder.call(function, [mine, ColumnRef(column.type, index, column.name)], node)
        tests.append(binder.call("not", [test], node) if negated else test)
    test = tests[0] if len(tests) == 1 else Call(BOOLEAN, "and", tuple(tests))
    return Subquery(BOOLEAN, "any", plan, tuple(enclosing.args), test)
