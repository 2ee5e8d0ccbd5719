"""WITH RECURSIVE name AS (base UNION [ALL] step): step sees the rows that the round before added under the name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef
from eventdb.logical.functions import common_type
from eventdb.logical.plan import Plan
from eventdb.logical.relational import RecursiveUnion, WorkingTable
from eventdb.schema import NULL, VARCHAR
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import project
from eventdb.sql.scope import Scope


def is_recursive(cte: exp.CTE) -> bool:
    """Whether a WITH query names itself."""
    name = cte.alias.lower()
    return any(table.name.lower() == name and not table.args.get("db") for table in cte.this.find_all(exp.Table))


def bind_recursive(
    context: Context, cte: exp.CTE, ctes: dict[str, Plan], bind: Callable[[exp.Expr, dict[str, Plan]], Plan]
) -> Plan:
    """The plan of a WITH query that names itself. Its columns have the types of its first part."""
    query = cte.this
    if not isinstance(query, exp.Union):
        context.fail(f"{cte.alias!r} names itself: write WITH RECURSIVE {cte.alias} AS (first UNION ALL next)", cte)
    if any(query.args.get(part) for part in ("order", "limit", "offset")):
        context.unsupported("ORDER BY or LIMIT over a recursive query", query, "put it behind the query that reads it")
    if query.args.get("by_name") or query.args.get("with_"):
        context.unsupported("WITH or BY NAME in a recursive query", query)
    base = bind(query.this, ctes)
    names = [part.name for part in cte.args["alias"].args.get("columns") or []] or [f.name for f in base.fields]
    if len(names) != len(base.fields):
        context.fail(f"{len(names)} column names for {len(base.fields)} columns", cte.args["alias"])
    binder = ExpressionBinder(context, Scope([], []), "WITH RECURSIVE")
    refs = [
        binder.coerce(ref, VARCHAR, None) if ref.type == NULL else ref
        for ref in (ColumnRef(f.type, i, f.name) for i, f in enumerate(base.fields))
    ]
    base = project(base, refs, names)
    fields = tuple(replace(f, nullable=True) for f in base.fields)
    context.recursions += 1
    table = WorkingTable(context.recursions, cte.alias, fields)
    step = bind(query.expression, {**ctes, cte.alias.lower(): table})
    if len(step.fields) != len(fields):
        context.fail(f"the recursive part has {len(step.fields)} columns, the first {len(fields)}", query.expression)
    casts = []
    for i, (have, want) in enumerate(zip(step.fields, fields, strict=True)):
        ref = ColumnRef(have.type, i, have.name)
        whole = have.type.is_integer and want.type.is_integer  # a value that does not fit is an error, as in any cast
        if not whole and common_type(have.type, want.type) != want.type:
            context.fail(
                f"column {want.name!r} is {want.type} in the first part and {have.type} in the recursive one; "
                "write a CAST in the first part", query.expression,
            )  # fmt: skip
        casts.append(binder.cast(ref, want.type, query.expression))
    return RecursiveUnion(
        table.number, cte.alias, base, project(step, casts, names), bool(query.args.get("distinct")), fields
    )
