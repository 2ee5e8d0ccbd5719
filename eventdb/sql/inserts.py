"""INSERT [OR REPLACE | OR IGNORE] INTO name [(columns)] VALUES ... | SELECT ... [ON CONFLICT ...] [RETURNING ...]."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef, Literal
from eventdb.logical.plan import Plan
from eventdb.schema import DataType
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign, project
from eventdb.sql.queries import QueryBinder
from eventdb.sql.scope import Scope
from eventdb.sql.statements import Insert, InsertRows, TableInfo
from eventdb.sql.tables import named_table, on_conflict, or_replace, returned
from eventdb.sql.words import Words


def insert(words: Words, context: Context) -> Insert | InsertRows:
    """The statement after INSERT."""
    verb = ""
    if words.word() == "OR":
        verb = words.word(1)
        if verb not in ("REPLACE", "IGNORE"):
            raise words.unsupported(f"INSERT OR {verb}", "write INSERT, which fails if a key is taken")
        verb_at, words.index = words.index, words.index + 2
    words.expect("INTO")
    at = words.index
    table = _target(words, context, words.name("a topic"), at)
    names = (
        words.names("a column")
        if words.word() == "(" and words.word(1) not in ("SELECT", "WITH", "VALUES", "(")
        else None
    )
    columns = _positions(words, table, names)
    start = words.index
    if words.word() == "DEFAULT":
        raise words.unsupported("DEFAULT VALUES")
    if words.word() not in ("VALUES", "SELECT", "WITH", "FROM", "("):
        words.wrong("expected VALUES or SELECT")
    returning = words.at_depth_zero(start, "RETURNING")
    conflict = words.at_depth_zero(start, "ON", "CONFLICT")
    if verb and (table.kind != "table" or conflict is not None):
        words.index = verb_at
        if table.kind == "table":
            raise words.unsupported(f"INSERT OR {verb} with ON CONFLICT", "write one of the two")
        raise words.unsupported(f"INSERT OR {verb} on a topic", "a topic has no primary key, a table has: CREATE TABLE")
    if table.kind == "table":
        found = _into_table(words, context, table, columns, (start, conflict, returning))
        return replace(found, conflict=or_replace(table, verb)) if verb else found
    if conflict is not None:
        words.index = conflict
        raise words.unsupported("ON CONFLICT on a topic", "a topic has no primary key, a table has: CREATE TABLE")
    stop = words.stop
    if returning is not None:
        stop = words.index = returning
        words.expect("RETURNING")
        if not words.accept("_OFFSET") or not words.ended:
            raise words.unsupported("RETURNING of anything but _offset")
    plan = _rows(words, context, table, columns, start, stop)
    return Insert(table, columns, plan, returning is not None)


def _into_table(
    words: Words, context: Context, table: TableInfo, columns: tuple[int, ...],
    places: tuple[int, int | None, int | None],
) -> InsertRows:  # fmt: skip
    start, conflict_at, returning_at = places
    stop = words.stop if returning_at is None else returning_at
    returning = None
    if returning_at is not None:
        words.index = returning_at
        returning = returned(words, context, table)
    conflict = None
    if conflict_at is not None:
        words.index, outer, words.stop = conflict_at, words.stop, stop
        conflict = on_conflict(words, context, table)
        words.stop, stop = outer, conflict_at
    plan = _rows(words, context, table, columns, start, stop)
    return InsertRows(table, columns, plan, conflict, returning)


def _target(words: Words, context: Context, name: str, at: int) -> TableInfo:
    table = named_table(words, context, name, at)
    if table.kind not in ("topic", "table"):
        raise words.bind_error(f"{name!r} is a {table.kind}: rows are inserted into topics and tables", at)
    return table


def _positions(words: Words, table: TableInfo, names: list[tuple[str, int]] | None) -> tuple[int, ...]:
    """Schema positions of the listed columns (all if none are listed)."""
    schema = table.schema
    if names is None:
        return tuple(range(len(schema)))
    positions: list[int] = []
    for name, at in names:
        index = schema.find(name)
        if index is None or index in positions:
            near = get_close_matches(name, schema.names, 1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(schema.names)}"
            message = f"column {name!r} is listed twice" if index is not None else f"no column {name!r}; {hint}"
            raise words.bind_error(message, at)
        positions.append(index)
    missing = [
        f.name for i, f in enumerate(schema) if not f.nullable and i not in positions and table.default(i) is None
    ]
    if missing:
        raise words.bind_error(f"column {missing[0]!r} is NOT NULL and must be listed", names[0][1])
    return tuple(positions)


def _rows(words: Words, context: Context, table: TableInfo, columns: tuple[int, ...], start: int, stop: int) -> Plan:
    """The rows to insert, in the types of their columns."""
    tree = words.source.query(start, stop)
    binder = QueryBinder(context)
    fields = [table.schema.fields[i] for i in columns]
    targets = [(f.name, f.type) for f in fields]
    if isinstance(tree, exp.Values) and not any(tree.args.get(part) for part in ("order", "limit", "offset", "alias")):
        width = len(tree.expressions[0].expressions) if isinstance(tree.expressions[0], exp.Tuple) else 1
        if width != len(targets):
            _wrong_width(context, table, targets, width, tree.expressions[0])
        return binder.values(tree, targets, [Literal(table.schema.types[i], table.default(i)) for i in columns])
    plan = binder.bind(tree, {})
    if len(plan.fields) != len(targets):
        _wrong_width(context, table, targets, len(plan.fields), tree)
    cast = ExpressionBinder(context, Scope([], []), "INSERT")
    values = [
        assign(cast, ColumnRef(f.type, i, f.name), type, name, tree)
        for i, (f, (name, type)) in enumerate(zip(plan.fields, targets, strict=True))
    ]
    if all(isinstance(value, ColumnRef) for value in values):
        return plan
    return project(plan, values, [name for name, _ in targets])


def _wrong_width(
    context: Context, table: TableInfo, targets: list[tuple[str, DataType]], width: int, node: exp.Expr
) -> None:
    listed = ", ".join(name for name, _ in targets)
    context.fail(f"{width} values for {len(targets)} columns of {table.name} ({listed})", node)
