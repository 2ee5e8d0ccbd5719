"""COPY (query) | name [(columns)] TO 'file' (options), and COPY name [(columns)] FROM 'file' (options)."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from sqlglot import exp

from eventdb.errors import EventDBError, UsageError
from eventdb.external.options import FORMAT_SYNONYMS, READERS
from eventdb.logical.expressions import ColumnRef, Expression
from eventdb.logical.plan import Plan
from eventdb.schema import Schema
from eventdb.sql.arguments import constant
from eventdb.sql.changes import named_table
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign, project
from eventdb.sql.queries import QueryBinder
from eventdb.sql.relations import RelationBinder
from eventdb.sql.scope import Scope
from eventdb.sql.statements import CopyTo, Insert, InsertRows, Statement, TableInfo
from eventdb.sql.tokens import TokenType
from eventdb.sql.words import Words

_READER = {format: name for name, format in reversed(READERS.items())}


def copy(words: Words, context: Context) -> Statement:
    """The statement after COPY."""
    if words.word() == "(":
        start = words.index
        close = words.at_depth_zero(start, ")")
        assert close is not None
        words.index = close + 1
        words.expect("TO")
        return _to(words, context, QueryBinder(context).bind(words.source.query(start + 1, close), {}))
    at = words.index
    if words.tokens[at : at + 1] and words.tokens[at].token_type is TokenType.STRING:
        words.wrong("expected a table or (query)")
    name = words.name("a topic, table, view or (query)")
    columns = words.names("a column") if words.word() == "(" else None
    if words.accept("TO"):
        return _to(words, context, _columns_of(words, context, name, columns, at))
    words.expect("FROM")
    return _from(words, context, name, columns, at)


# --- TO ---------------------------------------------------------------------------------------------------------------


def _columns_of(words: Words, context: Context, name: str, columns: list[tuple[str, int]] | None, at: int) -> Plan:
    """The rows of a name, without its system columns."""
    tree = exp.Table(this=exp.Identifier(this=name, quoted=False))
    relation = RelationBinder(context, {}, QueryBinder(context).bind).item(tree)
    known = [n for n in relation.scope.names if n.in_star]
    chosen = known
    if columns is not None:
        chosen = []
        for column, place in columns:
            found = next((n for n in known if n.name.lower() == column.lower()), None)
            if found is None:
                near = get_close_matches(column, [n.name for n in known], 1)
                hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(n.name for n in known)}"
                raise words.bind_error(f"no column {column!r} in {name}; {hint}", place)
            chosen.append(found)
    refs = [ColumnRef(n.type, n.index, n.name) for n in chosen]
    return project(relation.plan, refs, [n.name for n in chosen])


def _to(words: Words, context: Context, plan: Plan) -> CopyTo:
    path = _path(words, context)
    return CopyTo(plan, path, tuple(_options(words, context).items()))


def _path(words: Words, context: Context) -> str:
    if words.ended or words.tokens[words.index].token_type not in (TokenType.STRING, TokenType.PARAMETER):
        words.wrong("expected a file as a 'string'")
    width = 1 if words.tokens[words.index].token_type is TokenType.STRING else 2
    path = constant(context, words.source.expression(words.index, words.index + width), "the path")
    if not isinstance(path, str) or not path:
        words.wrong("expected a path")
    words.index += width
    return path


def _options(words: Words, context: Context) -> dict[str, Any]:
    """[WITH] (NAME [=] value, ...): a name alone is true."""
    words.accept("WITH")
    found: dict[str, Any] = {}
    if words.ended:
        return found

    def option() -> None:
        at, name = words.index, words.text().lower()
        words.index += 1
        if name in found:
            raise words.bind_error(f"{name} is given twice", at)
        words.accept("=")
        found[name] = _value(words, context, name)

    words.elements(option)
    words.end()
    return found


def _value(words: Words, context: Context, name: str) -> Any:
    """What stands up to the next comma: true if nothing does."""
    start = words.index
    depth = 0
    while not words.ended:
        text = words.tokens[words.index].text
        if words.tokens[words.index].token_type is not TokenType.STRING:
            if not depth and text in (",", ")"):
                break
            depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
        words.index += 1
    stop = words.index
    if stop == start:
        return True
    if stop == start + 1 and words.tokens[start].token_type not in (TokenType.STRING, TokenType.NUMBER):
        text = words.tokens[start].text
        return {"TRUE": True, "FALSE": False}.get(text.upper(), text)
    if words.tokens[start].text == "(" and words.tokens[stop - 1].text == ")":
        return [t.text for t in words.tokens[start + 1 : stop - 1] if t.token_type is not TokenType.COMMA]
    return constant(context, words.source.expression(start, stop), f"COPY: {name}")


# --- FROM -------------------------------------------------------------------------------------------------------------


def _from(
    words: Words, context: Context, name: str, columns: list[tuple[str, int]] | None, at: int
) -> Insert | InsertRows:
    """The rows of a file, as an INSERT: its columns go by name, those of a CSV file without header in order."""
    table = named_table(words, context, name, at)
    if table.kind not in ("topic", "table"):
        raise words.bind_error(f"{name!r} is a {table.kind}: rows are copied into topics and tables", at)
    path_at = words.index
    path = _path(words, context)
    options = _options(words, context)
    schema = table.schema
    listed = list(range(len(schema))) if columns is None else _positions(words, table, columns)
    try:
        source = _source(context, path, options, schema, listed)
        positions = _matched(source, table, listed)
    except EventDBError as error:
        raise words.bind_error(str(error), path_at) from error
    plan, _ = RelationBinder(context, {}, QueryBinder(context).bind).scan(source)
    binder = ExpressionBinder(context, Scope([], []), "COPY")
    values: list[Expression] = [
        assign(binder, ColumnRef(f.type, i, f.name), schema.types[p], schema.names[p], None)
        for i, (f, p) in enumerate(zip(plan.fields, positions, strict=True))
    ]
    plan = project(plan, values, [schema.names[p] for p in positions])
    kind = Insert if table.kind == "topic" else InsertRows
    return kind(table, tuple(positions), plan)


def _is_plain(options: dict[str, Any]) -> bool:
    """Whether the file has no header that names its columns."""
    return str(options.get("header", True)).lower() in ("false", "0")


def _positions(words: Words, table: TableInfo, columns: list[tuple[str, int]]) -> list[int]:
    found: list[int] = []
    for column, at in columns:
        index = table.schema.find(column)
        if index is None or index in found:
            known = f"the columns are {', '.join(table.schema.names)}"
            what = f"no column {column!r}; {known}" if index is None else f"column {column!r} is listed twice"
            raise words.bind_error(what, at)
        found.append(index)
    return found


def _source(context: Context, path: str, options: dict[str, Any], schema: Schema, listed: list[int]) -> TableInfo:
    """The file, its text read as the types of the columns it goes to."""
    given = dict(options)
    format = str(given.pop("format", "")).lower() or context.resolver.format_of(path)
    format = FORMAT_SYNONYMS.get(format, format)
    reader = _READER.get(format)
    if reader is None:
        raise UsageError(f"format is csv, json, parquet or arrow, not {format!r}")
    if format == "csv":
        if _is_plain(given):
            given.setdefault("names", [schema.names[i] for i in listed])
        names = context.resolver.files(reader, [path], given).schema.names
        found = {name: schema.find(name) for name in names}
        given.setdefault("types", {name: str(schema.types[i]) for name, i in found.items() if i is not None})
    if format == "json" and any(schema.types[i].is_wide for i in listed):  # a double has not all their digits
        names = context.resolver.files(reader, [path], given).schema.names
        found = {name: schema.find(name) for name in names}
        wide = {name: str(schema.types[i]) for name, i in found.items() if i is not None and schema.types[i].is_wide}
        given.setdefault("columns", wide)
    return context.resolver.files(reader, [path], given)


def _matched(source: TableInfo, table: TableInfo, listed: list[int]) -> list[int]:
    """The position in the table of each column of the file. UsageError for one that has none, and for a column of the
    table that must be there and is not."""
    schema = table.schema
    wanted = {schema.names[i].lower(): i for i in listed}
    found: list[int] = []
    for name in source.schema.names:
        position = wanted.get(name.lower())
        if position is None:
            near = get_close_matches(name, [schema.names[i] for i in listed], 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"the file's column {name!r} goes nowhere: {hint}{table.name} has "
                f"{', '.join(schema.names[i] for i in listed)}; choose with INSERT INTO {table.name} SELECT ... FROM "
                f"{source.name!r}"
            )
        found.append(position)
    for i, field in enumerate(schema):
        if not field.nullable and i not in found and table.default(i) is None:
            raise UsageError(f"column {field.name!r} of {table.name} is NOT NULL and the file does not have it")
    return found
