"""CREATE TOPIC and its clauses, ALTER TOPIC."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventdb.errors import UnsupportedSQL, UsageError
from eventdb.logical.expressions import Call, ColumnRef, IntervalValue, Literal
from eventdb.schema import DataType, Field, Schema
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.scope import Name, Scope
from eventdb.sql.statements import AlterTopic, CreateTopic
from eventdb.sql.tokens import TokenType
from eventdb.sql.words import Words


@dataclass(slots=True)
class _Parts:
    fields: list[Field] = field(default_factory=list)
    key: tuple[str, int] | None = None
    time: tuple[str, int] | None = None
    watermark: tuple[str, int, int, int] | None = None  # column, its token, the expression's tokens [from, to)
    idle_us: int | None = None
    future_us: int | None = None


def create_topic(words: Words, context: Context) -> CreateTopic:
    """The statement after CREATE TOPIC. ParseError, BindError or UnsupportedSQL with the place."""
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    name = words.name("the topic's name")
    parts = _Parts()
    words.elements(lambda: _element(words, parts, context))
    options = with_options(words) if words.accept("WITH") else ()
    words.end()
    return _build(words, context, name, if_not_exists, parts, options)


def alter_topic(words: Words, context: Context) -> AlterTopic:
    """The statement after ALTER TOPIC."""
    name = words.name("the topic's name")
    if not words.accept("SET"):
        construct = f"ALTER TOPIC ... {words.word() or words.text()}"
        place = words.error(f"{construct} is not supported; write ALTER TOPIC t SET (...)", words.index)
        raise UnsupportedSQL(place.message, construct=construct, sql=place.sql, line=place.line, column=place.column)
    options = with_options(words)
    words.end()
    return AlterTopic(name, options)


def _build(
    words: Words, context: Context, name: str, if_not_exists: bool, parts: _Parts, options: tuple[tuple[str, str], ...]
) -> CreateTopic:
    try:
        schema = Schema(parts.fields)
    except UsageError as error:
        raise words.error(str(error), 0) from None
    key = _column(words, schema, parts.key, "KEY") if parts.key is not None else None
    event_time = _column(words, schema, parts.time, "TIMESTAMP") if parts.time is not None else None
    delay = None
    if parts.watermark is not None:
        column, at, start, stop = parts.watermark
        source = _column(words, schema, (column, at), "WATERMARK")
        if event_time is not None and event_time != source:
            raise words.error(
                f"the WATERMARK is for {source}, the TIMESTAMP is {event_time}: they must be one column", at
            )
        event_time = source
        delay = _delay(words, context, schema, source, start, stop)
    if event_time is not None:
        found = schema.fields[schema.index_of(event_time)]
        if found.type.name != "TIMESTAMP":
            where = parts.time[1] if parts.time is not None else parts.watermark[1] if parts.watermark else 0
            raise words.error(f"the event-time column {event_time} must be TIMESTAMP, not {found.type}", where)
    return CreateTopic(name, schema, key, event_time, delay, parts.idle_us, parts.future_us, if_not_exists, options)


def _element(words: Words, parts: _Parts, context: Context) -> None:
    """One column or clause between the commas."""
    at = words.index
    bracket = words.word(1) == "("
    if words.word() in ("KEY", "TIMESTAMP") and bracket:
        clause = words.word()
        words.index += 2
        column = (words.name("a column"), at)
        if words.word() == ",":
            context.unsupported(f"{clause} of several columns", None, f"write {clause} (one_column)")
        words.expect(")")
        if (parts.key if clause == "KEY" else parts.time) is not None:
            raise words.error(f"{clause} is given twice", at)
        if clause == "KEY":
            parts.key = column
        else:
            parts.time = column
    elif words.accept("WATERMARK", "FOR"):
        if parts.watermark is not None:
            raise words.error("WATERMARK is given twice", at)
        _watermark(words, parts)
    elif (
        words.word() in ("PRIMARY", "PRIMARY KEY", "CONSTRAINT", "UNIQUE", "FOREIGN", "CHECK") and words.tokens[at].text
    ):
        context.unsupported(f"the constraint {words.word()}", None, "a topic has KEY (column) and NOT NULL")
    else:
        _add_column(words, parts, context)


def column_start(words: Words, fields: list[Field]) -> tuple[str, DataType]:
    """The name and the type a column definition begins with; ParseError if no column may be called so."""
    at = words.index
    if words.word() in ("TIMESTAMP", "KEY") and words.word(1) in ("", ",", ")"):
        words.wrong("expected a column and its type")
    name = words.name("a column name")
    if name.startswith("_"):
        raise words.error(f"column {name!r}: names that begin with '_' are kept for system columns", at)
    if any(field.name.lower() == name.lower() for field in fields):
        raise words.error(f"column {name!r} is named twice", at)
    return name, words.type()


def _add_column(words: Words, parts: _Parts, context: Context) -> None:
    name, type = column_start(words, parts.fields)
    nullable = True
    while not words.ended and words.word() not in (",", ")"):
        if words.accept("NOT", "NULL"):
            nullable = False
        elif not words.accept("NULL"):
            context.unsupported(f"{words.word() or words.text()} on a column", None, "a column has a type and NOT NULL")
    parts.fields.append(Field(name, type, nullable))


def _watermark(words: Words, parts: _Parts) -> None:
    at = words.index
    column = words.name("the event-time column")
    words.expect("AS")
    start, depth = words.index, 0
    while not words.ended:
        if depth == 0 and (words.word() in (",", ")") or words.word() in ("IDLE", "MAX")):
            break
        depth += (words.word() == "(") - (words.word() == ")")
        words.index += 1
    parts.watermark = (column, at, start, words.index)
    while words.word() in ("IDLE", "MAX"):
        if words.accept("IDLE", "AFTER"):
            parts.idle_us = words.interval_us("IDLE AFTER")
        elif words.accept("MAX", "FUTURE"):
            parts.future_us = words.interval_us("MAX FUTURE")
        else:
            words.wrong("expected IDLE AFTER or MAX FUTURE")


def _column(words: Words, schema: Schema, named: tuple[str, int], clause: str) -> str:
    name, at = named
    index = schema.find(name)
    if index is None:
        raise words.error(f"{clause}: no column {name!r}; the columns are {', '.join(schema.names)}", at)
    return schema.names[index]


def _delay(words: Words, context: Context, schema: Schema, column: str, start: int, stop: int) -> int:
    """The microseconds of `ts - INTERVAL '...'` or of plain `ts`."""
    tree = words.source.expression(start, stop)
    scope = Scope([Name("", f.name, f.type, i) for i, f in enumerate(schema)], [])
    bound = ExpressionBinder(context, scope, "WATERMARK").bind(tree)
    delay = 0
    if isinstance(bound, Call) and bound.function == "subtract" and isinstance(bound.args[1], Literal):
        interval = bound.args[1].value
        bound = bound.args[0]
        delay = interval.microseconds if isinstance(interval, IntervalValue) else -1
    if not isinstance(bound, ColumnRef) or bound.name != column or delay < 0:
        raise words.error(f"write WATERMARK FOR {column} AS {column} - INTERVAL '5 seconds'", start)
    return delay


def with_options(words: Words) -> tuple[tuple[str, str], ...]:
    """(name = value, ...), behind WITH or SET."""
    words.expect("(")
    options: dict[str, str] = {}
    while not words.accept(")"):
        at = words.index
        name = words.name("an option").lower()
        words.expect("=")
        if words.ended or words.word() in (",", ")"):
            words.wrong(f"expected a value for {name}")
        sign = "-" if words.accept("-") else ""
        value = sign + words.text()
        if not sign and words.tokens[words.index].token_type is TokenType.INTERVAL:
            value = words.text(1)
            words.index += 1
        words.index += 1
        if name in options:
            raise words.error(f"option {name} is given twice", at)
        options[name] = value
        if not words.accept(",") and words.word() != ")":
            words.wrong("expected , or )")
    return tuple(options.items())
