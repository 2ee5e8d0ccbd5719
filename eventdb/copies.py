"""COPY ... TO: the rows of a plan into files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventdb.errors import UnsupportedError
from eventdb.logical.expressions import Cast, ColumnRef, Expression
from eventdb.logical.plan import OutputField, Plan, Project
from eventdb.physical.planner import run
from eventdb.result import Result
from eventdb.schema import VARCHAR

if TYPE_CHECKING:
    from eventdb.physical.context import QueryContext
    from eventdb.sql.statements import CopyTo

_AS_TEXT = {"csv": ("INTERVAL", "BLOB"), "json": ("INTERVAL",)}  # what a format has no form of its own for


def copy_to(statement: CopyTo, context: QueryContext, filesystems: dict[str, Any], own_folder: str) -> Result:
    """The statement run: `rowcount` of the result is how many rows were written. `own_folder` is the database's."""
    from eventdb.external.writers import write, write_options

    plan = statement.plan
    names = [field.name for field in plan.fields]
    options = write_options(statement.path, dict(statement.options), names)
    plan = _writable(plan, options.format)
    types = [field.type for field in plan.fields]
    count = write(run(plan, context), names, types, statement.path, options, filesystems, own_folder)
    return Result([], [], [], rowcount=count)


def _writable(plan: Plan, format: str) -> Plan:
    """The plan with the columns as text that the format cannot hold."""
    for field in plan.fields:
        if field.type.name == "NULL" and format in ("parquet", "arrow"):
            raise UnsupportedError(f"column {field.name!r} is NULL without a type: write CAST({field.name} AS type)",
                                   construct="NULL")  # fmt: skip
    changed = _AS_TEXT.get(format, ())
    if not any(field.type.name in changed for field in plan.fields):
        return plan
    made: list[Expression] = []
    for i, field in enumerate(plan.fields):
        column = ColumnRef(field.type, i, field.name)
        made.append(Cast(VARCHAR, column) if field.type.name in changed else column)
    output = tuple(OutputField(f.name, e.type, f.nullable) for f, e in zip(plan.fields, made, strict=True))
    return Project(plan, tuple(made), output)
