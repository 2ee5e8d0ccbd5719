"""UPDATE [... FROM], DELETE [... USING], TRUNCATE, and what they share with INSERT and MERGE."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from eventdb.errors import TopicNotFound
from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.logical.plan import Filter, OutputField, Plan, Project, Scan
from eventdb.schema import BIGINT
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.joins import join_plan
from eventdb.sql.projection import assign, says_default
from eventdb.sql.queries import QueryBinder
from eventdb.sql.relation import Relation
from eventdb.sql.relations import RelationBinder
from eventdb.sql.returning import OFFSET, returned
from eventdb.sql.scope import Name, Scope
from eventdb.sql.statements import Delete, TableInfo, Update
from eventdb.sql.words import Words

_REFUSED = (
    "FROM",
    "USING",
    "JOIN",
    "WITH",
    "UNION",
    "ORDER",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "GROUP",
    "GROUP BY",
    "HAVING",
    "QUALIFY",
    "WINDOW",
    "FOR",
)
_CLAUSES = ("WHERE", "RETURNING", *_REFUSED)


def update(words: Words, context: Context) -> Update:
    """The statement after UPDATE."""
    table = target(words, context, "UPDATE")
    alias = alias_of(words, table, "SET")
    words.expect("SET")
    with QueryBinder(context).nested(context.ctes):
        start = words.index
        source = _from_at(words)
        rows = target_rows(table, alias)
        if source is not None:
            words.index = source
            words.expect("FROM")
            rows = product(words, context, rows, "UPDATE")
        stop = words.index
        plan = _filtered(words, context, rows, "UPDATE")
        rest, words.index = words.index, start
        changed = assignments(words, context, table, alias, rows.scope)
        if words.index not in (source, stop):
            words.wrong("expected , FROM, WHERE or RETURNING")
        words.index = rest
    returning = returned(words, context, table.schema, alias) if words.word() == "RETURNING" else None
    words.end()
    kept = columns_of_table(table)
    values = [changed.get(i, kept[i]) for i in range(len(table.schema))]
    fields = tuple(OutputField(f.name, f.type, True) for f in table.schema)
    outputs = (*_fields(table), *fields)
    return Update(table, Project(plan, (*kept, _offset(table), *values), outputs), returning)


def delete(words: Words, context: Context) -> Delete:
    """The statement after DELETE."""
    words.expect("FROM")
    table = target(words, context, "DELETE")
    alias = alias_of(words, table, *_CLAUSES)
    with QueryBinder(context).nested(context.ctes):
        rows = target_rows(table, alias)
        joined = words.accept("USING")
        if joined:
            rows = product(words, context, rows, "DELETE")
        plan = _filtered(words, context, rows, "DELETE")
    if joined:
        plan = Project(plan, (*columns_of_table(table), _offset(table)), _fields(table))
    returning = returned(words, context, table.schema, alias) if words.word() == "RETURNING" else None
    words.end()
    return Delete(table, plan, returning)


def truncate(words: Words, context: Context) -> Delete:
    """The statement after TRUNCATE: [TABLE] name. It is a DELETE of all rows."""
    words.accept("TABLE")
    table = target(words, context, "TRUNCATE")
    words.end()
    return Delete(table, target_rows(table, table.name).plan)


# --- what is changed --------------------------------------------------------------------------------------------------


def target(words: Words, context: Context, verb: str) -> TableInfo:
    """The table a statement changes. UnsupportedSQL for a topic, BindError for what holds no rows of its own."""
    at = words.index
    name = words.name("a table")
    table = named_table(words, context, name, at)
    if table.kind == "topic":
        fix = "events do not change; what changes is a table: CREATE TABLE"
        raise words.unsupported(f"{verb} of a topic", fix, at)
    if table.kind != "table":
        raise words.bind_error(f"{name!r} is a {shown_kind(table)}: {verb} changes tables", at)
    return table


def shown_kind(table: TableInfo) -> str:
    """What it is, in messages."""
    return "view" if table.kind == "query" else table.kind


def named_table(words: Words, context: Context, name: str, at: int) -> TableInfo:
    """What the name at a place names."""
    try:
        return context.resolver.table(name)
    except TopicNotFound as error:
        raise words.bind_error(str(error), at) from error


def alias_of(words: Words, table: TableInfo, *ends: str) -> str:
    """The alias that follows, before one of the words `ends`; the table's name if there is none."""
    if words.accept("AS") or (not words.ended and words.word() not in ends):
        return words.name("an alias")
    return table.name


def target_rows(table: TableInfo, alias: str) -> Relation:
    """A scan of all columns and `_offset`, and their names."""
    scan = Scan(
        table.id, table.name, (*table.schema.names, OFFSET), _fields(table),
        primary_key=tuple(table.schema.names[i] for i in table.primary_key),
    )  # fmt: skip
    names = [Name(alias, f.name, f.type, i, in_star=f.name != OFFSET) for i, f in enumerate(scan.output)]
    return Relation(scan, Scope(names, [alias]))


def source_rows(words: Words, context: Context, start: int, stop: int, verb: str) -> Relation:
    """The FROM items in tokens [start, stop)."""
    if start == stop:
        words.wrong("expected a table or a query")
    select = words.source.select(start, stop, "SELECT * FROM", verb)
    return RelationBinder(context, context.ctes, QueryBinder(context).bind).bind_from(select)


def product(words: Words, context: Context, rows: Relation, verb: str) -> Relation:
    """Every pair of a row to change and one of FROM or USING, up to the next clause."""
    start = words.index
    ends = [words.at_depth_zero(start, word) for word in ("WHERE", "RETURNING")]
    words.index = min([end for end in ends if end is not None], default=words.stop)
    source = source_rows(words, context, start, words.index, verb)
    joined = Relation(
        join_plan(rows.plan, source.plan, "inner", []), rows.scope.joined(source.scope, len(rows.plan.fields))
    )
    refuse_same_name(words, rows.scope, source.scope, start)
    return joined


def refuse_same_name(words: Words, scope: Scope, other: Scope, at: int) -> None:
    """BindError if both sides use one name."""
    for table in other.tables:
        if scope.has_table(table):
            raise words.bind_error(f"two tables are called {table!r}; give one an alias", at)


def columns_of_table(table: TableInfo) -> list[Expression]:
    """References to the columns of the rows to change."""
    return [ColumnRef(f.type, i, f.name) for i, f in enumerate(table.schema)]


def _fields(table: TableInfo) -> tuple[OutputField, ...]:
    fields = tuple(OutputField(f.name, f.type, f.nullable) for f in table.schema)
    return (*fields, OutputField(OFFSET, BIGINT, nullable=False))


def _offset(table: TableInfo) -> Expression:
    return ColumnRef(BIGINT, len(table.schema), OFFSET)


# --- clauses ----------------------------------------------------------------------------------------------------------


def _filtered(words: Words, context: Context, rows: Relation, verb: str) -> Plan:
    if words.word() in _REFUSED:
        raise words.unsupported(f"{verb} ... {words.word()}", "choose the rows with WHERE")
    predicate = where(words, context, rows.scope, verb)
    return rows.plan if predicate is None else Filter(rows.plan, predicate)


def where(words: Words, context: Context, scope: Scope, verb: str) -> Expression | None:
    """The predicate of WHERE, if it comes next."""
    if not words.accept("WHERE"):
        return None
    start = words.index
    stop = words.at_depth_zero(start, "RETURNING")
    words.index = words.stop if stop is None else stop
    tree = words.source.expression(start, words.index, verb)
    return ExpressionBinder(context, scope, "WHERE").predicate(tree)


def _from_at(words: Words) -> int | None:
    """Where the FROM of an UPDATE stands; its index is behind all of SET if there is none."""
    ends = [words.at_depth_zero(words.index, word) for word in ("WHERE", "RETURNING")]
    stop = min([end for end in ends if end is not None], default=words.stop)
    at = words.at_depth_zero(words.index, "FROM")
    while at is not None and at < stop:
        if words.tokens[at - 1].text.upper() != "DISTINCT":  # a IS DISTINCT FROM b
            return at
        at = words.at_depth_zero(at + 1, "FROM")
    words.index = stop
    return None


def assignments(
    words: Words, context: Context, table: TableInfo, alias: str, scope: Scope, ends: Sequence[int] = ()
) -> dict[int, Expression]:
    """SET column = value, (columns) = (values), ...: the values by position, in the columns' types. They end at a
    clause or at one of the places `ends`."""
    binder = ExpressionBinder(context, scope, "SET")
    changed: dict[int, Expression] = {}
    while True:
        several = words.accept("(")
        places = [_column(words, table, alias, changed)]
        while several and not words.accept(")"):
            words.expect(",")
            places.append(_column(words, table, alias, changed))
        words.expect("=")
        start = words.index
        words.index = _end_of_value(words, ends)
        if words.index == start:
            words.wrong(f"expected a value for {table.schema.names[places[0]]}")
        if not several and words.index == start + 1 and words.text(-1).upper() == "DEFAULT":
            changed[places[0]] = default_of(table, places[0])
        else:
            trees = [words.source.expression(start, words.index, "SET")]
            if several:
                trees = _several(context, trees[0], len(places))
            for index, tree in zip(places, trees, strict=True):
                field = table.schema.fields[index]
                if says_default(tree):
                    changed[index] = default_of(table, index)
                else:
                    changed[index] = assign(binder, binder.bind(tree), field.type, field.name, tree)
        if not words.accept(","):
            return changed


def _column(words: Words, table: TableInfo, alias: str, changed: dict[int, Expression]) -> int:
    """The position of the column to set, perhaps written with the table's name."""
    at = words.index
    name = words.name("a column")
    before, _, column = name.rpartition(".")
    if before and before.lower() not in (alias.lower(), table.name.lower()):
        raise words.bind_error(f"SET changes columns of {alias}, not of {before}", at)
    index = table.schema.find(column)
    if index is None:
        raise words.error(f"no column {name!r}; the columns are {', '.join(table.schema.names)}", at)
    if index in changed:
        raise words.error(f"column {name!r} is set twice", at)
    changed[index] = Literal(table.schema.types[index], None)  # until its value is known
    return index


def _end_of_value(words: Words, ends: Sequence[int]) -> int:
    found = [words.at_depth_zero(words.index, word) for word in (",", "WHERE", "RETURNING")]
    found += [end for end in ends if end >= words.index]
    at = words.at_depth_zero(words.index, "FROM")
    while at is not None and words.tokens[at - 1].text.upper() == "DISTINCT":
        at = words.at_depth_zero(at + 1, "FROM")
    return min([end for end in (*found, at) if end is not None], default=words.stop)


def _several(context: Context, tree: exp.Expr, count: int) -> list[exp.Expr]:
    """The values of (a, b) = (x, y)."""
    if isinstance(tree, (exp.Subquery, exp.Select)):
        context.unsupported("SET (columns) = (SELECT ...)", tree, "set each column, or write UPDATE ... FROM")
    values = (
        list(tree.expressions) if isinstance(tree, exp.Tuple) else [tree.this if isinstance(tree, exp.Paren) else tree]
    )
    if len(values) != count:
        context.fail(f"{len(values)} values for {count} columns", tree)
    return values


def default_of(table: TableInfo, index: int) -> Literal:
    """What a column has that is not named."""
    return Literal(table.schema.types[index], table.default(index))
