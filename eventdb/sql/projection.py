"""Expressions as the columns of a Project, and values as what a column stores."""

from __future__ import annotations

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.logical.functions import may_be_null
from eventdb.logical.plan import Fields, OutputField, Plan, Project
from eventdb.schema import BLOB, NULL, VARCHAR, DataType
from eventdb.sql.expressions import ExpressionBinder


def project(plan: Plan, expressions: list[Expression] | list[ColumnRef], names: list[str]) -> Project:
    """A Project with nullability worked out."""
    nullable = [f.nullable for f in plan.fields]
    fields: Fields = tuple(
        OutputField(name, e.type, may_be_null(e, nullable)) for name, e in zip(names, expressions, strict=True)
    )
    return Project(plan, tuple(expressions), fields)


def renamed(plan: Plan, names: list[str]) -> Plan:
    refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
    return project(plan, refs, names)


def stored_type(type: DataType) -> DataType:
    """The type of a column that is kept: NULL alone is text."""
    return VARCHAR if type == NULL else type


def assign(
    binder: ExpressionBinder, value: Expression, target: DataType, column: str, node: exp.Expr | None
) -> Expression:
    """A value in the type of its column, as INSERT converts: numbers, times, string literals, anything to text."""
    if value.type == target:
        return value
    numbers = value.type.is_numeric and target.is_numeric
    times = value.type.name in ("DATE", "TIMESTAMP") and target.name in ("DATE", "TIMESTAMP")
    if target == VARCHAR and value.type != BLOB:
        return binder.cast(value, target, node)
    if numbers or times or value.type == NULL or (isinstance(value, Literal) and value.type == VARCHAR):
        return binder.coerce(value, target, node)
    binder.context.fail(f"column {column!r} is {target}, this is {value.type}; write CAST(... AS {target})", node)


def says_default(node: exp.Expr) -> bool:
    """Whether a value is the word DEFAULT."""
    if isinstance(node, exp.Column) and not node.table:
        return node.name.upper() == "DEFAULT" and not node.this.args.get("quoted")
    return isinstance(node, exp.Var) and str(node.this).upper() == "DEFAULT"
