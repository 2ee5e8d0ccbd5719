"""Statements about tables: CREATE TABLE, UPDATE, DELETE, and the ON CONFLICT and RETURNING clauses."""

from __future__ import annotations

from eventdb.errors import TopicNotFound, UsageError
from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.logical.plan import Filter, OutputField, Plan, Project, Scan, Values
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.schema import BIGINT, DataType, Field, Schema
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign
from eventdb.sql.scope import Name, Scope
from eventdb.sql.statements import Conflict, CreateTable, Delete, TableInfo, Update
from eventdb.sql.tokens import TokenType
from eventdb.sql.topics import column_start
from eventdb.sql.words import Words

_OFFSET = "_offset"
_REFUSED = (
    "FROM", "USING", "ORDER", "ORDER BY", "LIMIT", "OFFSET", "FETCH", "GROUP", "GROUP BY", "HAVING", "QUALIFY",
    "WINDOW", "FOR", "JOIN", "WITH", "UNION",
)  # fmt: skip
_CLAUSES = ("WHERE", "RETURNING", *_REFUSED)


# --- CREATE TABLE -----------------------------------------------------------------------------------------------------


def create_table(words: Words, context: Context) -> CreateTable:
    """The statement after CREATE TABLE. ParseError or UnsupportedSQL with the place."""
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    name = words.name("the table's name")
    if words.word() == "AS":
        raise words.unsupported("CREATE TABLE ... AS SELECT", "create the table, then INSERT INTO it")
    fields: list[Field] = []
    key: list[tuple[str, int]] = []
    defaults: list[tuple[int, object]] = []
    words.elements(lambda: _element(words, context, fields, key, defaults))
    if words.word() == "WITH":
        raise words.unsupported("WITH (...) of a table", "a table has no options yet")
    words.end()
    if not key:
        raise words.error("a table needs a PRIMARY KEY; for a log without one write CREATE TOPIC", 0)
    try:
        schema = Schema(fields)
    except UsageError as error:
        raise words.error(str(error), 0) from None
    positions = []
    for column, at in key:
        index = schema.find(column)
        if index is None:
            raise words.error(f"PRIMARY KEY: no column {column!r}; the columns are {', '.join(schema.names)}", at)
        if index in positions:
            raise words.error(f"PRIMARY KEY: column {column!r} is named twice", at)
        positions.append(index)
    return CreateTable(name, required(schema, positions), tuple(positions), if_not_exists, tuple(defaults))


def required(schema: Schema, positions: list[int]) -> Schema:
    """The schema with the columns at the positions NOT NULL."""
    return Schema(Field(f.name, f.type, f.nullable and i not in positions) for i, f in enumerate(schema))


def _element(
    words: Words, context: Context, fields: list[Field], key: list[tuple[str, int]], defaults: list[tuple[int, object]]
) -> None:
    """One column or PRIMARY KEY clause between the commas."""
    at = words.index
    if words.word(1) == "(" and (words.word() == "PRIMARY KEY"):
        if key:
            raise words.error("PRIMARY KEY is given twice", at)
        words.index += 1
        key += words.names("a column")
        return
    if words.word() in ("CONSTRAINT", "UNIQUE", "FOREIGN", "FOREIGN KEY", "CHECK", "KEY") and words.word(1) in (
        "(", "KEY", "UNIQUE", "PRIMARY KEY",
    ):  # fmt: skip
        raise words.unsupported(f"the constraint {words.word()}", "a table has PRIMARY KEY (columns) and NOT NULL")
    name, type = column_start(words, fields)
    nullable = True
    while not words.ended and words.word() not in (",", ")"):
        if words.accept("NOT", "NULL"):
            nullable = False
        elif words.word() == "PRIMARY KEY":
            if key:
                raise words.error("PRIMARY KEY is given twice; of several columns: PRIMARY KEY (a, b)", words.index)
            key.append((name, words.index))
            words.index += 1
        elif words.accept("DEFAULT"):
            if defaults and defaults[-1][0] == len(fields):
                raise words.error(f"column {name!r} has two defaults", words.index - 1)
            defaults.append((len(fields), _default(words, context, name, type)))
        elif not words.accept("NULL"):
            found = words.word() or words.text()
            raise words.unsupported(f"{found} on a column", "a column has a type, NOT NULL, DEFAULT and PRIMARY KEY")
    fields.append(Field(name, type, nullable))


def _default(words: Words, context: Context, name: str, type: DataType) -> object:
    """The physical value of the constant behind DEFAULT."""
    start = words.index
    ends = [words.at_depth_zero(start, word) for word in (",", "NOT", "NULL", "PRIMARY KEY", "DEFAULT")]
    depth, stop = 0, words.stop
    for i in range(start, words.stop):  # up to the bracket that closes the list of columns
        text = "" if words.tokens[i].token_type is TokenType.STRING else words.tokens[i].text
        depth += (text == "(") - (text == ")")
        if depth < 0:
            stop = i
            break
    words.index = min([end for end in ends if end is not None and end > start], default=stop)
    words.index = min(words.index, stop)
    if words.index == start:
        words.wrong(f"expected a constant behind DEFAULT of {name}")
    tree = words.source.expression(start, words.index)
    binder = ExpressionBinder(context, Scope([], []), "DEFAULT")
    value = fold_constants(Project(Values(((),), ()), (assign(binder, binder.bind(tree), type, name, tree),),
                                   (OutputField(name, type),)))  # fmt: skip
    assert isinstance(value, Project)
    (found,) = value.expressions
    if not isinstance(found, Literal):
        raise words.unsupported("a DEFAULT that is no constant", "give the value in each INSERT", start)
    return found.value


# --- UPDATE and DELETE ------------------------------------------------------------------------------------------------


def update(words: Words, context: Context) -> Update:
    """The statement after UPDATE."""
    table = _target(words, context, "UPDATE")
    alias = _alias(words, table, "SET")
    words.expect("SET")
    _refuse_from(words)
    scan, scope = _rows(table, alias)
    changed = _assignments(words, context, table, scope)
    plan = _filtered(words, context, scan, scope, "UPDATE")
    returning = returned(words, context, table) if words.word() == "RETURNING" else None
    words.end()
    kept = _columns(table)
    values = [changed.get(i, kept[i]) for i in range(len(table.schema))]
    fields = tuple(OutputField(f.name, f.type, True) for f in table.schema)
    outputs = (*scan.output, *fields)
    return Update(table, Project(plan, (*kept, _offset(table), *values), outputs), returning)


def delete(words: Words, context: Context) -> Delete:
    """The statement after DELETE."""
    words.expect("FROM")
    table = _target(words, context, "DELETE")
    alias = _alias(words, table, *_CLAUSES)
    scan, scope = _rows(table, alias)
    plan = _filtered(words, context, scan, scope, "DELETE")
    returning = returned(words, context, table) if words.word() == "RETURNING" else None
    words.end()
    return Delete(table, plan, returning)


def _target(words: Words, context: Context, verb: str) -> TableInfo:
    at = words.index
    name = words.name("a table")
    table = named_table(words, context, name, at)
    if table.kind == "topic":
        fix = "events do not change; what changes is a table: CREATE TABLE"
        raise words.unsupported(f"{verb} of a topic", fix, at)
    if table.kind != "table":
        raise words.bind_error(f"{name!r} is a {table.kind}: {verb} changes tables", at)
    return table


def named_table(words: Words, context: Context, name: str, at: int) -> TableInfo:
    """What the name at a place names."""
    try:
        return context.resolver.table(name)
    except TopicNotFound as error:
        raise words.bind_error(str(error), at) from error


def _alias(words: Words, table: TableInfo, *ends: str) -> str:
    if words.accept("AS") or (not words.ended and words.word() not in ends):
        return words.name("an alias")
    return table.name


def _rows(table: TableInfo, alias: str) -> tuple[Scan, Scope]:
    """A scan of all columns and `_offset`, and their names."""
    fields = tuple(OutputField(f.name, f.type, f.nullable) for f in table.schema)
    scan = Scan(
        table.id, table.name, (*table.schema.names, _OFFSET), (*fields, OutputField(_OFFSET, BIGINT, nullable=False)),
        primary_key=tuple(table.schema.names[i] for i in table.primary_key),
    )  # fmt: skip
    names = [Name(alias, f.name, f.type, i, in_star=f.name != _OFFSET) for i, f in enumerate(scan.output)]
    return scan, Scope(names, [alias])


def _columns(table: TableInfo) -> list[Expression]:
    return [ColumnRef(f.type, i, f.name) for i, f in enumerate(table.schema)]


def _offset(table: TableInfo) -> Expression:
    return ColumnRef(BIGINT, len(table.schema), _OFFSET)


def _filtered(words: Words, context: Context, scan: Scan, scope: Scope, verb: str) -> Plan:
    if words.word() in _REFUSED:
        raise words.unsupported(f"{verb} ... {words.word()}", "choose the rows with WHERE")
    where = _where(words, context, scope, verb)
    return scan if where is None else Filter(scan, where)


def _where(words: Words, context: Context, scope: Scope, verb: str) -> Expression | None:
    if not words.accept("WHERE"):
        return None
    start = words.index
    stop = words.at_depth_zero(start, "RETURNING")
    words.index = words.stop if stop is None else stop
    tree = words.source.expression(start, words.index, verb)
    return ExpressionBinder(context, scope, "WHERE").predicate(tree)


def _refuse_from(words: Words) -> None:
    """UnsupportedSQL for SET ... FROM, before a column of it is said to be missing."""
    where = words.at_depth_zero(words.index, "WHERE") or words.stop
    at = words.at_depth_zero(words.index, "FROM")
    while at is not None and at < where:
        if words.tokens[at - 1].text.upper() != "DISTINCT":  # a IS DISTINCT FROM b
            raise words.unsupported("UPDATE ... FROM", "read the other rows first, then UPDATE with their values", at)
        at = words.at_depth_zero(at + 1, "FROM")


def _assignments(words: Words, context: Context, table: TableInfo, scope: Scope) -> dict[int, Expression]:
    """SET column = expression, ...: the values by position, in the columns' types."""
    binder = ExpressionBinder(context, scope, "SET")
    changed: dict[int, Expression] = {}
    while True:
        at = words.index
        if words.word() == "(":
            raise words.unsupported("SET (columns) = ...", "write one SET column = value for each")
        name = words.name("a column")
        index = table.schema.find(name.rpartition(".")[2])
        if index is None:
            raise words.error(f"no column {name!r}; the columns are {', '.join(table.schema.names)}", at)
        if index in changed:
            raise words.error(f"column {name!r} is set twice", at)
        words.expect("=")
        start = words.index
        ends = [words.at_depth_zero(start, word) for word in (",", "WHERE", "RETURNING")]
        words.index = min([end for end in ends if end is not None], default=words.stop)
        if words.index == start:
            words.wrong(f"expected a value for {name}")
        field = table.schema.fields[index]
        if words.index == start + 1 and words.text(-1).upper() == "DEFAULT":
            changed[index] = Literal(field.type, table.default(index))
            if not words.accept(","):
                return changed
            continue
        tree = words.source.expression(start, words.index, "SET")
        changed[index] = assign(binder, binder.bind(tree), field.type, field.name, tree)
        if not words.accept(","):
            return changed


# --- clauses ----------------------------------------------------------------------------------------------------------


def on_conflict(words: Words, context: Context, table: TableInfo) -> Conflict:
    """ON CONFLICT [(key columns)] DO NOTHING | DO UPDATE SET ... [WHERE ...]."""
    words.expect("ON", "CONFLICT")
    at = words.index
    named = _key_columns(words, table) if words.accept("(") else None
    if words.word() == "WHERE":
        raise words.unsupported("ON CONFLICT ... WHERE", "a table has one key, its PRIMARY KEY")
    words.expect("DO")
    if words.accept("NOTHING"):
        words.end()
        return Conflict(None)
    key = ", ".join(table.schema.names[i] for i in table.primary_key)
    if named is None:
        raise words.error(f"name the key: ON CONFLICT ({key}) DO UPDATE SET ...", at)
    words.expect("UPDATE", "SET")
    width = len(table.schema)
    names = [Name(table.name, f.name, f.type, i) for i, f in enumerate(table.schema)]
    names += [Name("excluded", n.name, n.type, width + n.index, in_star=False, bare=False) for n in names]
    scope = Scope(names, [table.name, "excluded"])
    changed = _assignments(words, context, table, scope)
    where = _where(words, context, scope, "ON CONFLICT")
    words.end()
    kept = _columns(table)
    return Conflict(tuple(changed.get(i, kept[i]) for i in range(width)), where)


def or_replace(table: TableInfo, verb: str) -> Conflict:
    """What INSERT OR REPLACE and INSERT OR IGNORE, SQLite's spelling, do with a row whose key is taken."""
    width = len(table.schema)
    kept = tuple(ColumnRef(f.type, width + i, f.name) for i, f in enumerate(table.schema))
    return Conflict(kept if verb == "REPLACE" else None)


def _key_columns(words: Words, table: TableInfo) -> set[int]:
    """The columns of ON CONFLICT (...), which must be the primary key."""
    at = words.index
    found = set()
    while True:
        name = words.name("a column")
        index = table.schema.find(name)
        if index is None:
            raise words.error(f"no column {name!r}; the columns are {', '.join(table.schema.names)}", at)
        found.add(index)
        if words.accept(")"):
            break
        words.expect(",")
    if found != set(table.primary_key):
        key = ", ".join(table.schema.names[i] for i in table.primary_key)
        raise words.error(f"ON CONFLICT needs the primary key of {table.name}: ({key})", at)
    return found


def returned(words: Words, context: Context, table: TableInfo) -> tuple[int, ...]:
    """RETURNING * | columns and _offset: their positions, -1 for _offset."""
    words.expect("RETURNING")
    found: list[int] = []
    while True:
        at = words.index
        if words.accept("*"):
            found += range(len(table.schema))
        else:
            name = words.name("a column")
            index = -1 if name.lower() == _OFFSET else table.schema.find(name)
            if index is None:
                raise words.error(f"no column {name!r}; the columns are {', '.join(table.schema.names)}", at)
            found.append(index)
        if words.ended:
            return tuple(found)
        if words.word() != ",":
            raise words.unsupported("RETURNING of expressions", "name columns, _offset or *")
        words.index += 1
