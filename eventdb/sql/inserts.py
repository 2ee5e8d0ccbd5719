"""INSERT [OR REPLACE | OR IGNORE] INTO name [AS alias] [(columns)] [BY NAME | BY POSITION] rows [ON CONFLICT ...]
[RETURNING ...]; rows are VALUES ..., a query or DEFAULT VALUES."""

from __future__ import annotations

from difflib import get_close_matches

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef
from eventdb.logical.plan import OutputField, Plan, Values
from eventdb.schema import DataType
from eventdb.sql.changes import default_of, named_table, shown_kind
from eventdb.sql.conflicts import on_conflict, or_replace
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign, project
from eventdb.sql.queries import QueryBinder
from eventdb.sql.returning import returned
from eventdb.sql.scope import Scope
from eventdb.sql.statements import Conflict, Insert, InsertRows, Returning, TableInfo
from eventdb.sql.words import Words

_ROWS = ("VALUES", "SELECT", "WITH", "FROM", "(", "DEFAULT", "TABLE")


def insert(words: Words, context: Context) -> Insert | InsertRows:
    """The statement after INSERT."""
    verb, verb_at = "", words.index
    if words.word() == "OR":
        verb = words.word(1)
        if verb not in ("REPLACE", "IGNORE"):
            raise words.unsupported(f"INSERT OR {verb}", "write INSERT, which fails if a key is taken")
        words.index += 2
    words.expect("INTO")
    at = words.index
    table = _target(words, context, words.name("a topic"), at)
    alias = table.name
    if words.accept("AS") or words.word() not in ("BY", *_ROWS):
        alias = words.name("an alias")
    names = None
    if words.word() == "(" and words.word(1) not in ("SELECT", "WITH", "VALUES", "(", "FROM"):
        names = words.names("a column")
    by_name = _order(words, names)
    start = words.index
    if words.word() not in _ROWS:
        words.wrong("expected VALUES or SELECT")
    returning_at = words.at_depth_zero(start, "RETURNING")
    conflict_at = _conflict_at(words, start)
    _refuse(words, table, verb, verb_at, conflict_at)
    outer, stop = words.stop, words.stop if returning_at is None else returning_at
    returning: Returning | None = None
    if returning_at is not None:
        words.index = returning_at
        returning = returned(words, context, table.schema, alias)
    conflict: Conflict | None = or_replace(table, verb) if verb else None
    if conflict_at is not None:
        words.index, words.stop = conflict_at, stop
        conflict = on_conflict(words, context, table, alias)
        words.stop, stop = outer, conflict_at
    columns, plan = _rows(words, context, table, names, (start, stop), by_name)
    if table.kind == "topic":
        return Insert(table, columns, plan, returning)
    return InsertRows(table, columns, plan, conflict, returning)


def _conflict_at(words: Words, start: int) -> int | None:
    """Where ON CONFLICT begins; in `JOIN ... ON conflict = 1` it is a column."""
    at = words.at_depth_zero(start, "ON", "CONFLICT")
    while at is not None and words.word_at(at + 2) not in ("", "(", "DO", "ON", "WHERE"):
        at = words.at_depth_zero(at + 1, "ON", "CONFLICT")
    return at


def _order(words: Words, names: list[tuple[str, int]] | None) -> bool:
    """BY NAME or BY POSITION, if one comes next; whether it is the first."""
    if not words.accept("BY"):
        return False
    if words.accept("POSITION"):
        return False
    words.expect("NAME")
    if names is not None:
        raise words.error("BY NAME takes the columns from the query: leave the list of columns out", names[0][1])
    return True


def _refuse(words: Words, table: TableInfo, verb: str, verb_at: int, conflict_at: int | None) -> None:
    """UnsupportedSQL for clauses about keys where there is none, or for two of them."""
    if not table.primary_key and (verb or conflict_at is not None):
        what, at = (f"INSERT OR {verb}", verb_at) if verb else ("ON CONFLICT", conflict_at)
        if table.kind == "topic":
            raise words.unsupported(f"{what} on a topic", "a topic has no primary key, a table has: CREATE TABLE", at)
        fix = f"no row of {table.name} can be in the way: write INSERT, or make the table with PRIMARY KEY"
        raise words.unsupported(f"{what} on a table without a key", fix, at)
    if verb and conflict_at is not None:
        raise words.unsupported(f"INSERT OR {verb} with ON CONFLICT", "write one of the two", verb_at)


def _target(words: Words, context: Context, name: str, at: int) -> TableInfo:
    table = named_table(words, context, name, at)
    if table.kind not in ("topic", "table"):
        raise words.bind_error(f"{name!r} is a {shown_kind(table)}: rows are inserted into topics and tables", at)
    return table


def positions(words: Words, table: TableInfo, names: list[tuple[str, int]] | None) -> tuple[int, ...]:
    """Schema positions of the listed columns (all if none are listed)."""
    schema = table.schema
    if names is None:
        return tuple(range(len(schema)))
    found: list[int] = []
    for name, at in names:
        index = schema.find(name)
        if index is None or index in found:
            near = get_close_matches(name, schema.names, 1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(schema.names)}"
            message = f"column {name!r} is listed twice" if index is not None else f"no column {name!r}; {hint}"
            raise words.bind_error(message, at)
        found.append(index)
    missing = [f.name for i, f in enumerate(schema) if not f.nullable and i not in found and table.default(i) is None]
    if missing:
        raise words.bind_error(f"column {missing[0]!r} is NOT NULL and must be listed", names[0][1] if names else 0)
    return tuple(found)


def _rows(
    words: Words, context: Context, table: TableInfo, names: list[tuple[str, int]] | None, at: tuple[int, int],
    by_name: bool,
) -> tuple[tuple[int, ...], Plan]:  # fmt: skip
    """The columns that are given, and the rows to insert, in their types."""
    start, stop = at
    if words.word_at(start) == "DEFAULT":
        words.index = start + 1
        words.expect("VALUES")
        if words.index != stop:
            words.wrong("expected nothing more")
        if names is not None:
            raise words.error("DEFAULT VALUES fills all columns: leave the list of columns out", names[0][1])
        positions(words, table, [])
        columns = tuple(range(len(table.schema)))
        fields = tuple(OutputField(f.name, f.type, f.nullable) for f in table.schema)
        return columns, Values((tuple(default_of(table, i) for i in columns),), fields)
    tree = words.source.query(start, stop)
    binder = QueryBinder(context)
    if isinstance(tree, exp.Values) and not any(tree.args.get(part) for part in ("order", "limit", "offset", "alias")):
        if by_name:
            context.fail("BY NAME needs the names of a query: INSERT INTO ... BY NAME SELECT ...", tree)
        columns = positions(words, table, names)
        targets = _targets(table, columns)
        width = len(tree.expressions[0].expressions) if isinstance(tree.expressions[0], exp.Tuple) else 1
        if width != len(targets):
            wrong_width(context, table, targets, width, tree.expressions[0])
        with binder.nested(context.ctes):
            return columns, binder.values(tree, targets, [default_of(table, i) for i in columns])
    plan = binder.bind(tree, context.ctes)
    columns = positions(words, table, [(f.name, start) for f in plan.fields] if by_name else names)
    return columns, as_rows(context, table, columns, plan, tree)


def as_rows(context: Context, table: TableInfo, columns: tuple[int, ...], plan: Plan, tree: exp.Expr) -> Plan:
    """The plan's rows in the types of the columns."""
    targets = _targets(table, columns)
    if len(plan.fields) != len(targets):
        wrong_width(context, table, targets, len(plan.fields), tree)
    cast = ExpressionBinder(context, Scope([], []), "INSERT")
    values = [
        assign(cast, ColumnRef(f.type, i, f.name), type, name, tree)
        for i, (f, (name, type)) in enumerate(zip(plan.fields, targets, strict=True))
    ]
    if all(isinstance(value, ColumnRef) for value in values):
        return plan
    return project(plan, values, [name for name, _ in targets])


def _targets(table: TableInfo, columns: tuple[int, ...]) -> list[tuple[str, DataType]]:
    return [(table.schema.names[i], table.schema.types[i]) for i in columns]


def wrong_width(
    context: Context, table: TableInfo, targets: list[tuple[str, DataType]], width: int, node: exp.Expr
) -> None:
    """BindError for rows with another number of values than there are columns."""
    listed = ", ".join(name for name, _ in targets)
    context.fail(f"{width} values for {len(targets)} columns of {table.name} ({listed})", node)
