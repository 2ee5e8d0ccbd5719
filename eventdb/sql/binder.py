"""SQL text to a bound statement: the entry of the SQL layer.

The first words decide: what sqlglot knows (queries, expressions) goes to its parser, the statements that are
EventDB's own are read here. Nothing is executed and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from eventdb.errors import EventDBError, InternalError, ParseError, QueryError, TopicNotFound, UsageError
from eventdb.logical.constants import parse_timestamp_us
from eventdb.logical.expressions import IntervalValue, Literal
from eventdb.logical.plan import ExternalScan, Plan, Values
from eventdb.schema import TIMESTAMP
from eventdb.sql import transactions
from eventdb.sql.changes import delete, truncate, update
from eventdb.sql.context import Context, Parameters
from eventdb.sql.continuous import check_continuous, check_output
from eventdb.sql.copies import copy
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.inserts import insert
from eventdb.sql.merges import merge
from eventdb.sql.parser import deep_stack, parse
from eventdb.sql.prepared import deallocate, execute, prepare
from eventdb.sql.queries import QueryBinder
from eventdb.sql.relations import RelationBinder
from eventdb.sql.scope import Scope
from eventdb.sql.statements import (
    CreateView,
    Describe,
    DropTable,
    DropTopic,
    DropView,
    Every,
    Explain,
    Query,
    Rename,
    Resolver,
    SetOption,
    ShowSetting,
    ShowTopics,
    Statement,
    Subscribe,
    TableInfo,
)
from eventdb.sql.tables import create_as, create_plain_view, create_table, is_query_next
from eventdb.sql.tokens import TokenType
from eventdb.sql.topics import alter_topic, create_topic, with_options
from eventdb.sql.view_statements import alter_view, refresh, verify
from eventdb.sql.words import Words
from eventdb.values import decode_value, parse_size_bytes

__all__ = ["Parameters", "Resolver", "TableInfo", "bind"]

_QUERIES = frozenset(("SELECT", "WITH", "FROM", "VALUES", "("))
_ELSEWHERE = frozenset(
    """GRANT REVOKE ATTACH DETACH
    USE PRAGMA CALL VACUUM ANALYZE CHECKPOINT COMMENT LOCK DECLARE FETCH LISTEN NOTIFY
    PIVOT UNPIVOT INSTALL LOAD EXPORT IMPORT SUMMARIZE TABLE KILL REPLACE UPSERT RESET""".split()
)


def bind(sql: str, resolver: Resolver, parameters: Parameters = None) -> Statement:
    """The bound statement of one SQL text.

    `parameters`: a mapping for $name, a sequence for ? and $1. ParseError, BindError or UnsupportedSQL with line and
    column; UsageError for parameters the statement does not use. About 0.5 ms for a simple query whose text was seen
    before.
    """
    source = parse(sql)
    context = Context(source, resolver, parameters)
    try:
        with deep_stack(source.is_deep):
            statement = _statement(Words(source), context)
            source.check_bound()
            context.check_parameters()
            return statement
    except RecursionError:
        raise ParseError("the statement is nested too deeply", sql=sql) from None
    except EventDBError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InternalError(
            f"the binder failed on this statement ({type(error).__name__}: {error}): {sql[:200]}"
        ) from error


def _statement(words: Words, context: Context) -> Statement:
    first = words.word()
    if first == "WITH" and (changed := _change_behind(words)) is not None:
        tree = words.source.ctes(words.index, changed)
        with QueryBinder(context).nested({}):
            named = QueryBinder(context).named_queries(tree)
        context.ctes = named
        words.index = changed + 1
        return _STATEMENTS[words.word(-1)](words, context)
    if first in _QUERIES:
        return _query(words, context)
    handler = _STATEMENTS.get(first)
    if handler is not None:
        words.index += 1
        return handler(words, context)
    if first in ("SAVEPOINT", "RELEASE"):
        raise words.unsupported(first, "a statement that fails leaves nothing; ROLLBACK ends the whole transaction")
    if first in _ELSEWHERE:
        raise words.unsupported(first)
    from difflib import get_close_matches

    near = get_close_matches(first, [*_QUERIES, *_STATEMENTS, *_ELSEWHERE], 1)
    hint = f"; did you mean {near[0]}?" if near else "; statements begin with SELECT, INSERT, CREATE, DROP, SHOW, ..."
    raise words.error(f"{words.text()!r} does not begin a statement{hint}", words.index)


def _change_behind(words: Words) -> int | None:
    """Where INSERT, UPDATE, DELETE or MERGE stands behind a WITH clause."""
    places = [words.at_depth_zero(words.index, word) for word in ("INSERT", "UPDATE", "DELETE", "MERGE")]
    found = min([place for place in places if place is not None], default=None)
    return found if found is not None and words.word_at(found - 1) == ")" else None


# --- queries ------------------------------------------------------------------------------------------------------


def _plan(words: Words, context: Context, start: int, stop: int) -> Plan:
    return QueryBinder(context).bind(words.source.query(start, stop), {})


def _query(words: Words, context: Context) -> Statement:
    """A query, or SELECT ... EMIT CHANGES [LIMIT n]."""
    start = words.index
    emit = words.at_depth_zero(start, "EMIT")
    if emit is None or emit + 1 >= words.stop or words.tokens[emit + 1].text.upper() not in ("CHANGES", "ON", "EVERY"):
        return Query(_plan(words, context, start, words.stop))
    words.index = emit + 1
    mode, grace, every = None, 0, Every()
    if not words.accept("CHANGES"):
        words.index = emit
        mode, grace, _, every = _emit_clauses(words, context)
    limit = _limit(words)
    words.end()
    plan = _plan(words, context, start, emit)
    return _subscription(context, plan, mode, Subscribe(plan, None, "now", None, None, grace, limit, None, every))


def _limit(words: Words) -> int | None:
    """[LIMIT n]"""
    if not words.accept("LIMIT"):
        return None
    text = words.text()
    if not text.isdigit():
        words.wrong("expected a row count")
    words.index += 1
    return int(text)


def _subscription(context: Context, plan: Plan, emit: str | None, asked: Subscribe) -> Subscribe:
    """What is asked for, of a query."""
    found = check_continuous(context, plan, emit, None)
    return replace(asked, query=plan, topic=found.topic, emit=found.emit)


def _explain(words: Words, context: Context) -> Statement:
    analyze = words.accept("ANALYZE") or words.accept("ANALYSE")
    format = "text"
    if words.text() == "(" and words.word(1) in ("ANALYZE", "ANALYSE", "FORMAT"):
        analyze_option, format = _explain_options(words)
        analyze = analyze or analyze_option
    if words.ended:
        words.wrong("expected a statement to explain")
    inner = _statement(words, context)
    if isinstance(inner, Explain):
        raise words.error("EXPLAIN of EXPLAIN", 0)
    return Explain(inner, analyze, format)


def _explain_options(words: Words) -> tuple[bool, str]:
    """(ANALYZE [TRUE | FALSE], FORMAT TEXT | JSON), in any order: whether to run it, and the format."""
    analyze, format = False, "text"
    words.index += 1
    while True:
        if words.accept("FORMAT"):
            format = words.text().lower()
            if format not in ("text", "json"):
                words.wrong("expected FORMAT TEXT or FORMAT JSON")
            words.index += 1
        elif words.accept("ANALYZE") or words.accept("ANALYSE"):
            analyze = not words.accept("FALSE")
            words.accept("TRUE")
        else:
            words.wrong("expected ANALYZE or FORMAT")
        if words.text() == ")":
            words.index += 1
            return analyze, format
        if words.text() != ",":
            words.wrong("expected , or )")
        words.index += 1


# --- topics and views ---------------------------------------------------------------------------------------------


def _create(words: Words, context: Context) -> Statement:
    start = words.index - 1
    or_replace = words.accept("OR", "REPLACE")
    if words.accept("VIEW"):
        return create_plain_view(words, context, or_replace)
    if words.accept("TABLE"):
        return create_table(words, context, or_replace)
    if or_replace and words.word() == "TOPIC":
        raise words.unsupported("CREATE OR REPLACE TOPIC", "DROP it first", start)
    if words.accept("TOPIC"):
        at = words.index
        if_not_exists = words.accept("IF", "NOT", "EXISTS")
        name = words.name("the topic's name")
        if is_query_next(words):
            return create_as(words, context, "topic", name, if_not_exists, False)
        words.index = at
        return create_topic(words, context)
    if words.accept("MATERIALIZED", "VIEW"):
        return _create_view(words, context, or_replace)
    word = words.word()
    if word in ("TEMP", "TEMPORARY"):
        raise words.unsupported("CREATE TEMPORARY TABLE", "write CREATE TABLE", start)
    if word:
        raise words.unsupported(f"CREATE {word}", "", start)
    words.wrong("expected TOPIC, TABLE or MATERIALIZED VIEW")


def _create_view(words: Words, context: Context, or_replace: bool) -> Statement:
    at = words.index
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    if or_replace and if_not_exists:
        raise words.error("OR REPLACE and IF NOT EXISTS exclude each other", at)
    name = words.name("the view's name")
    at = words.index
    keep_state = words.accept("KEEP", "STATE")
    if keep_state and not or_replace:
        raise words.error("KEEP STATE goes with CREATE OR REPLACE MATERIALIZED VIEW", at)
    start: str | int | None = None
    into = _into(words, context) if words.accept("INTO") else None
    if words.word() == "START":
        start = _start(words, context)
    limit = _state_limit(words) if words.word() == "STATE" else None
    at = words.index
    options = dict(with_options(words)) if words.accept("WITH") else {}
    dead_letter = options.pop("dead_letter", None)
    if options:
        raise words.error(f"a view has no option {next(iter(options))!r}; it has dead_letter", at)
    words.expect("AS")
    begin = words.index
    cuts = [
        words.at_depth_zero(begin, *clause)
        for clause in (("EMIT", "ON"), ("EMIT", "CHANGES"), ("EMIT", "EVERY"), ("LATE", "ROWS"), ("START", "FROM"))
    ]
    end = min([cut for cut in cuts if cut is not None], default=words.stop)
    words.index = end
    emit, grace, later, every = _emit_clauses(words, context)
    if later is not None and start is not None:
        raise words.error("START FROM is given twice", end)
    words.end()
    plan = _plan(words, context, begin, end)
    tree = words.source.query(begin, end)
    if context.used:
        context.fail("a view is stored as its text: write the value in place of the parameter", tree)
    found = check_continuous(context, plan, emit, tree)
    if grace and found.emit != "window_close":
        context.fail("GRACE goes with EMIT ON WINDOW CLOSE", tree)
    check_output(context, plan, tree)
    first = later if later is not None else start
    return CreateView(
        name,
        plan,
        found.topic,
        found.emit,
        grace,
        "beginning" if first is None else first,
        if_not_exists,
        context.sql.strip(),
        limit,
        or_replace=or_replace,
        keep_state=keep_state,
        dead_letter=dead_letter,
        every=every,
        into=into,
    )


def _into(words: Words, context: Context) -> TableInfo:
    """[TOPIC | TABLE] name"""
    wanted = "TOPIC" if words.accept("TOPIC") else "TABLE" if words.accept("TABLE") else ""
    at = words.index
    found = _table(words, context, words.name("a topic or table"), at)
    if wanted and found.kind != wanted.lower():
        raise words.error(f"{found.name!r} is a {found.kind}, not a {wanted.lower()}", at)
    return found


def _state_limit(words: Words) -> int:
    """STATE LIMIT '64MB' [ON FULL FAIL]: bytes."""
    words.expect("STATE", "LIMIT")
    at = words.index
    try:
        limit = parse_size_bytes(words.string("a size such as '64MB'"), "STATE LIMIT")
    except UsageError as error:
        raise words.error(str(error), at) from None
    if words.accept("ON", "FULL") and not words.accept("FAIL"):
        raise words.unsupported(f"ON FULL {words.word()}", "write ON FULL FAIL")
    return limit


def _emit_clauses(words: Words, context: Context) -> tuple[str | None, int, str | int | None, Every]:
    """[EMIT ...] [LATE ROWS DROP] [START FROM ...] in any order: emission, grace in us, start, EVERY."""
    emit: str | None = None
    grace, every = 0, Every()
    start: str | int | None = None
    while not words.ended:
        if words.accept("EMIT", "ON", "WINDOW", "CLOSE"):
            emit = "window_close"
            if words.accept("GRACE"):
                grace = words.interval_us("GRACE")
        elif words.accept("EMIT", "ON", "UPDATE") or words.accept("EMIT", "CHANGES"):
            emit = "update"
        elif words.accept("EMIT", "EVERY"):
            emit, every = "update", _every(words)
        elif words.accept("LATE", "ROWS"):
            if not words.accept("DROP"):
                raise words.unsupported(
                    f"LATE ROWS {words.word()}", "late rows are dropped and counted: LATE ROWS DROP"
                )
        elif words.word() == "START":
            start = _start(words, context)
        else:
            break
    return emit, grace, start, every


def _every(words: Words) -> Every:
    """EVERY's interval [REPEAT]."""
    at = words.index
    every = words.interval_us("EVERY")
    if not every:
        raise words.error("EMIT EVERY takes an interval of more than 0; write EMIT ON UPDATE", at)
    return Every(every, words.accept("REPEAT"))


def _start(words: Words, context: Context) -> str | int:
    """START FROM BEGINNING | NOW | TIMESTAMP '...'."""
    words.expect("START", "FROM")
    if words.accept("BEGINNING"):
        return "beginning"
    if words.accept("NOW"):
        return "now"
    words.expect("TIMESTAMP")
    at = words.index
    us = parse_timestamp_us(words.string("a time"))
    if us is None:
        raise words.error(f"not a timestamp; write for example {TIMESTAMP} '2026-01-31 12:00:00'", at)
    return us


def _alter(words: Words, context: Context) -> Statement:
    at, kind = words.index, words.word().lower()
    if kind in ("view", "materialized"):
        return alter_view(words, context)
    if kind not in ("table", "topic"):
        fix = "write ALTER TOPIC, ALTER TABLE or ALTER VIEW"
        raise words.unsupported(f"ALTER {words.word()}", fix, words.index - 1)
    words.index += 1
    name = words.name(f"the {kind}'s name")
    if words.accept("RENAME", "TO"):
        to = words.name("the new name")
        words.end()
        return Rename(kind, name, to)
    if kind == "table":
        change = f"ALTER TABLE ... {words.word()} {words.word(1)}".rstrip()
        fix = f"make another one of it: CREATE OR REPLACE TABLE {name} AS SELECT ... FROM {name}"
        raise words.unsupported(change, fix, words.index)
    words.index = at + 1
    return alter_topic(words, context)


def _drop(words: Words, context: Context) -> Statement:
    start = words.index - 1
    kind = (
        "topic"
        if words.accept("TOPIC")
        else "table"
        if words.accept("TABLE")
        else "view"
        if words.accept("MATERIALIZED", "VIEW") or words.accept("VIEW")
        else ""
    )
    if not kind:
        if words.word():
            raise words.unsupported(f"DROP {words.word()}", "", start)
        words.wrong("expected TOPIC, TABLE or VIEW")
    if_exists = words.accept("IF", "EXISTS")
    name = words.name(f"the {kind}'s name")
    cascade = words.accept("CASCADE")
    if not cascade:
        words.accept("RESTRICT")
    words.end()
    return {"topic": DropTopic, "table": DropTable, "view": DropView}[kind](name, if_exists, cascade)


def _describe(words: Words, context: Context) -> Statement:
    if words.word() in _QUERIES:
        return Describe("", None, _plan(words, context, words.index, words.stop))
    if not words.ended and words.tokens[words.index].token_type is TokenType.STRING:
        at = words.index
        path = words.string("a file")
        words.end()
        try:
            return Describe(path, context.resolver.file(path))
        except EventDBError as error:
            raise words.bind_error(str(error), at) from error
    words.accept("TOPIC") or words.accept("VIEW") or words.accept("TABLE")
    at = words.index
    name = words.name("a topic, view or file")
    words.end()
    table = _table(words, context, name, at)
    return Describe(table.name, table)


def _table(words: Words, context: Context, name: str, at: int) -> TableInfo:
    """The topic or view of a name, BindError with the place if missing."""
    try:
        return context.resolver.table(name)
    except QueryError:
        raise
    except TopicNotFound as error:
        raise words.bind_error(str(error), at) from error


def _show(words: Words, context: Context) -> Statement:
    word = words.word()
    if word in ("TOPICS", "VIEWS", "TABLES"):
        words.index += 1
        words.end()
        return ShowTopics(word.lower())
    if word == "QUERIES":
        words.index += 1
        words.end()
        table = context.resolver.table("eventdb.queries")
        return Query(RelationBinder(context, {}, QueryBinder(context).bind).scan(table)[0])
    if word in ("GROUPS", "SEGMENTS", "FUNCTIONS", "COLUMNS", "DATABASES", "SCHEMAS"):
        raise words.unsupported(f"SHOW {word}")
    name = words.name("TOPICS, VIEWS, TABLES or a setting")
    if not words.ended:
        fix = "write SHOW TOPICS, SHOW VIEWS, SHOW TABLES, DESCRIBE name or SHOW setting"
        raise words.unsupported(f"SHOW {name.upper()} {words.word()}".rstrip(), fix, 0)
    return ShowSetting(name.lower())


def _set(words: Words, context: Context) -> Statement:
    name = words.name("a setting").lower()
    if not words.accept("=") and not words.accept("TO"):
        words.wrong("expected =")
    if words.ended:
        words.wrong(f"expected a value for {name}")
    token = words.tokens[words.index]
    text = words.word()
    value: Any
    if (
        words.index + 1 == words.stop
        and token.token_type is not TokenType.STRING
        and text not in ("TRUE", "FALSE", "DEFAULT", "NULL")
    ):
        plain = token.text
        value = _number(plain) if token.token_type is TokenType.NUMBER else plain
    elif text == "DEFAULT":
        value = None
    else:
        tree = words.source.expression(words.index, words.stop)
        bound = ExpressionBinder(context, Scope([], []), "SET").bind(tree)
        value = _plain(bound) if isinstance(bound, Literal) else bound
        value = float(value) if isinstance(value, Decimal) else value
        if not isinstance(value, (str, int, float, bool, timedelta, type(None))):
            raise words.error("SET needs a plain value: a number, a 'string', an interval, true or false", words.index)
    return SetOption(name, value)


def _plain(literal: Literal) -> Any:
    """The Python value; an interval without months is a timedelta."""
    value = literal.value
    if isinstance(value, IntervalValue):
        return value if value.months else timedelta(microseconds=value.microseconds)
    return decode_value(literal.type, value)


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _subscribe(words: Words, context: Context) -> Statement:
    """SUBSCRIBE TO name | (query) [SNAPSHOT | FROM BEGINNING | FROM NOW | AFTER 'token'] [WITH PROGRESS] [LIMIT n]."""
    words.expect("TO")
    begin = words.index
    query: tuple[int, int] | None = None
    name = ""
    if words.word() == "(":
        close = words.at_depth_zero(begin, ")")
        assert close is not None
        query, words.index = (begin + 1, close), close + 1
    else:
        name = words.name("a view, a topic or (query)")
    mode, after = "snapshot", None
    if words.accept("FROM", "BEGINNING"):
        mode = "beginning"
    elif words.accept("FROM", "NOW"):
        mode = "now"
    elif words.accept("AFTER"):
        after = words.string("a token of a subscription")
    else:
        words.accept("SNAPSHOT")
    progress = words.accept("WITH", "PROGRESS")
    limit = _limit(words)
    words.end()
    empty = Values((), ())
    if query is not None:
        asked = Subscribe(empty, None, mode, limit=limit, after=after, progress=progress)
        return _subscribe_query(words, context, query, asked)
    table = _table(words, context, name, begin)
    if table.kind == "query":
        raise words.unsupported(f"SUBSCRIBE TO the plain view {name}", f"write SUBSCRIBE TO (SELECT * FROM {name})")
    plan, _ = RelationBinder(context, {}, QueryBinder(context).bind).scan(table)
    assert not isinstance(plan, ExternalScan)
    topic = table if table.kind == "topic" else None
    return Subscribe(plan, table, mode, topic, limit=limit, after=after, progress=progress)


def _subscribe_query(words: Words, context: Context, at: tuple[int, int], asked: Subscribe) -> Subscribe:
    start, stop = at
    emit_at = next((i for i in range(start, stop) if words.tokens[i].text.upper() == "EMIT"), stop)
    outer, words.stop, words.index = words.stop, stop, emit_at
    emit, grace, _, every = _emit_clauses(words, context)
    words.end()
    words.stop = outer
    plan = _plan(words, context, start, emit_at)
    return _subscription(context, plan, emit, replace(asked, grace_us=grace, every=every))


_STATEMENTS: dict[str, Callable[[Words, Context], Statement]] = {
    "EXPLAIN": _explain, "CREATE": _create, "DROP": _drop, "DESCRIBE": _describe, "DESC": _describe, "SHOW": _show,
    "ALTER": _alter, "SET": _set, "SUBSCRIBE": _subscribe, "COPY": copy, "INSERT": insert, "UPDATE": update,
    "DELETE": delete, "MERGE": merge, "TRUNCATE": truncate, "PREPARE": prepare, "EXECUTE": execute,
    "DEALLOCATE": deallocate, "BEGIN": transactions.begin, "START": transactions.start, "COMMIT": transactions.commit,
    "END": transactions.commit, "ROLLBACK": transactions.rollback, "ABORT": transactions.rollback,
    "REFRESH": refresh, "VERIFY": verify,
}  # fmt: skip
