"""generate_series(start, stop[, step]) and range([start,] stop[, step]) in FROM."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from eventdb.logical.expressions import Expression, IntervalValue, Literal
from eventdb.logical.plan import Plan
from eventdb.logical.series import Series
from eventdb.schema import BIGINT, INTERVAL, TIMESTAMP
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.relation import Relation
from eventdb.sql.scope import Name, Scope
from eventdb.sql.tokens import FUNCTION_PREFIX


def series_call(node: exp.Expr) -> exp.Anonymous | None:
    """The call in a FROM item that is a series."""
    call = node.this if isinstance(node, (exp.Table, exp.Lateral)) else None
    if not isinstance(call, exp.Anonymous):
        return None
    return call if str(call.this).removeprefix(FUNCTION_PREFIX).lower() in ("generate_series", "range") else None


def bind_series(context: Context, call: exp.Anonymous, node: exp.Expr, left: Relation) -> Relation:
    """The rows of `left`, each with its values. The arguments may read its columns."""
    name = str(call.this).removeprefix(FUNCTION_PREFIX).lower()
    plan = _series(ExpressionBinder(context, left.scope, name), call, name, left.plan)
    alias = node.args.get("alias")
    table = alias.name if alias is not None and alias.name else name
    if table.lower() in (known.lower() for known in left.scope.tables):
        context.fail(f"two tables are called {table!r}; give one an alias", node)
    columns = [part.name for part in alias.args.get("columns") or []] if alias is not None else []
    if len(columns) > 1:
        context.fail(f"{len(columns)} column names for 1 column", node)
    index = len(left.plan.fields)
    value = Name(table, columns[0] if columns else name, plan.start.type, index)
    names = [*left.scope.names, value]
    if not columns and table != name:  # FROM generate_series(1, 3) i: PostgreSQL calls the column i, DuckDB does not
        names.append(replace(value, name=table, in_star=False))
    return Relation(plan, Scope(names, [*left.scope.tables, table]))


def _series(binder: ExpressionBinder, call: exp.Anonymous, name: str, below: Plan) -> Series:
    context = binder.context
    args: list[Expression] = [binder.bind(tree) for tree in call.expressions]
    if not 1 <= len(args) <= 3:
        context.fail(f"{name}() takes a start, a stop and a step, not {len(args)} arguments", call)
    if len(args) == 1:
        args = [Literal(BIGINT, 0), *args]
    times = any(arg.type.name in ("DATE", "TIMESTAMP") for arg in args[:2])
    if times and len(args) == 2:
        context.fail(f"{name}() of times needs a step: {name}(start, stop, INTERVAL '1 day')", call)
    if len(args) == 2:
        args.append(Literal(BIGINT, 1))
    types = (TIMESTAMP, TIMESTAMP, INTERVAL) if times else (BIGINT, BIGINT, BIGINT)
    for arg, type, tree in zip(args, types, [*call.expressions, call, call], strict=False):
        if type == BIGINT and not (arg.type.is_integer or arg.type.name == "NULL"):
            context.fail(f"{name}() is of whole numbers or times, not {arg.type}", tree)
    start, stop, step = (binder.coerce(arg, type, call) for arg, type in zip(args, types, strict=True))
    if isinstance(step, Literal) and isinstance(step.value, IntervalValue):
        months, rest = step.value.months, step.value.microseconds
        if months * rest < 0:
            context.unsupported(f"a step of {name}() that goes both ways", call, "use one sign")
    return Series(below, start, stop, step, name == "generate_series", name)
