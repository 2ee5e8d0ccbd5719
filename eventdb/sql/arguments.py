"""Arguments of table functions: positions, names, and the Python values of those that are constant."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from eventdb.logical.expressions import Literal
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.scope import Scope
from eventdb.values import decode_value


def arguments(call: exp.Anonymous) -> tuple[dict[str, exp.Expr], list[exp.Expr]]:
    """Named (slide => x, slide := x) and positional arguments."""
    named: dict[str, exp.Expr] = {}
    positional: list[exp.Expr] = []
    for argument in call.expressions:
        if isinstance(argument, (exp.Kwarg, exp.PropertyEQ)):
            named[argument.this.name.lower()] = argument.expression
        else:
            positional.append(argument)
    return named, positional


def options(context: Context, call: exp.Anonymous, function: str) -> tuple[list[exp.Expr], dict[str, Any]]:
    """The positional arguments, and the values of the named ones; `header = true` names one too."""
    positional: list[exp.Expr] = []
    found: dict[str, Any] = {}
    for argument in call.expressions:
        named = isinstance(argument, (exp.Kwarg, exp.PropertyEQ)) or (
            isinstance(argument, exp.EQ) and isinstance(argument.this, exp.Column) and not argument.this.table
        )
        if not named:
            positional.append(argument)
            continue
        name = argument.this.name.lower()
        if name in found:
            context.fail(f"{function}(): {name} is given twice", argument)
        found[name] = constant(context, argument.expression, f"{function}(): {name}")
    return positional, found


def constant(context: Context, node: exp.Expr, what: str) -> Any:
    """The Python value of a literal, a parameter, a list of them or a struct {'a': 1}. BindError naming `what`."""
    if isinstance(node, (exp.Array, exp.Tuple)):
        return [constant(context, part, what) for part in node.expressions]
    if isinstance(node, exp.Paren):
        return constant(context, node.this, what)
    if isinstance(node, exp.Struct):
        pairs = [(part.this, part.expression) for part in node.expressions if isinstance(part, exp.PropertyEQ)]
        if len(pairs) != len(node.expressions):
            context.fail(f"{what}: a struct is written {{'name': value}}", node)
        return {key.name: constant(context, value, what) for key, value in pairs}
    if isinstance(node, exp.Column) and not node.table:  # a bare word: delim = tab, format = csv
        return node.name
    bound = ExpressionBinder(context, Scope([], []), what).bind(node)
    if not isinstance(bound, Literal):
        context.fail(f"{what} must be a constant", node)
    return decode_value(bound.type, bound.value) if bound.value is not None else None
