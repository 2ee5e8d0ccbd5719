"""Completion as a pure function of text, cursor and catalog.

The words left of the cursor decide what fits: after FROM or JOIN a topic, after `alias.` a column of that topic,
after DESCRIBE any name, at the start of a statement its first keywords; anywhere else the columns of the topics the
statement names, then functions, then keywords.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .tokens import Token, tokenize

STATEMENT_STARTS = (
    "SELECT", "WITH", "INSERT INTO", "CREATE TOPIC", "CREATE MATERIALIZED VIEW", "DROP TOPIC", "DROP VIEW", "DESCRIBE",
    "SHOW TOPICS", "SHOW VIEWS", "EXPLAIN", "EXPLAIN ANALYZE", "SUBSCRIBE TO", "FROM", "SET", "SHOW",
)  # fmt: skip
KEYWORDS = """
    ALL AND ANALYZE AS ASC BEGINNING BETWEEN BIGINT BLOB BOOLEAN BY CASE CAST CHANGES CLOSE CREATE DATE DECIMAL DELAY
    DELETE DESC DESCRIBE DISTINCT DOUBLE DROP ELSE EMIT END EXISTS EXPLAIN FALSE FIRST FLOAT FROM GRACE GROUP HAVING
    HOP IF IN INNER INSERT INTEGER INTERVAL INTO IS JOIN KEY LAST LEFT LIKE LIMIT MATERIALIZED NOT NOW NULL NULLS
    OFFSET ON OR ORDER OUTER RETURNING SELECT SET SHOW SMALLINT SNAPSHOT START SUBSCRIBE THEN TIMESTAMP TINYINT TO
    TOPIC TOPICS TRUE TUMBLE UNION UPDATE VALUES VARCHAR VIEW VIEWS WATERMARK WHEN WHERE WINDOW WITH
""".split()
SYSTEM_COLUMNS = ("_offset", "_time", "_append_time")
_TABLE_PLACES = {"FROM", "JOIN", "INTO", "DESCRIBE", "TOPIC", "VIEW", "TO", "TUMBLE", "HOP"}
_ALIAS_ENDS = frozenset("WHERE JOIN ON GROUP ORDER LIMIT LEFT INNER HAVING UNION EMIT OFFSET SET VALUES SELECT".split())
_BREAKERS = {"SELECT", "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "ON", "SET", "VALUES"}


@dataclass(frozen=True)
class Catalog:
    """What can be named. `tables` are topics and views: name -> ((column, type), ...)."""

    tables: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    views: frozenset[str] = frozenset()
    functions: Mapping[str, str] = field(default_factory=dict)  # name -> what it does
    commands: Mapping[str, str] = field(default_factory=dict)  # dot commands, with the dot
    modes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may replace input[start:cursor]; `kind` is keyword, topic, view, column, function or command."""

    text: str
    start: int
    kind: str
    detail: str = ""


def complete(text: str, cursor: int, catalog: Catalog) -> list[Candidate]:
    """The candidates at a cursor, the likeliest first; none inside strings and comments."""
    before = text[:cursor]
    if before.lstrip().startswith("."):
        return _complete_command(before, catalog)
    tokens = tokenize(before)
    if tokens and _inside_quotes(tokens[-1]):
        return []
    prefix = ""
    if tokens and tokens[-1].kind in ("word", "identifier"):
        prefix = tokens.pop().text
    statement = _current_statement(text, cursor)
    left = [token for token in _last_statement(tokens) if not token.is_quiet]
    start = cursor - len(prefix)
    if left and left[-1].text == ".":
        owner = _name_of(left[-2]) if len(left) > 1 else ""
        return _match(_columns_of(owner, statement, catalog), prefix, start)
    if tokens and tokens[-1].kind == "number":  # 5m, 1e3: not a name
        return []
    if not left:
        return _match([Candidate(word, start, "keyword") for word in STATEMENT_STARTS], prefix, start)
    if _wants_table(left):
        return _match(_tables(catalog), prefix, start)
    return _match([*_columns(statement, catalog), *_functions(catalog), *_keywords(), *_tables(catalog)], prefix, start)


def _inside_quotes(token: Token) -> bool:
    if token.kind == "comment":
        return not token.closed or token.text.startswith("--")
    if token.kind == "string":
        return not token.closed
    return token.kind == "number"


def _complete_command(before: str, catalog: Catalog) -> list[Candidate]:
    words = before.lstrip().split(" ")
    prefix = words[-1]
    start = len(before) - len(prefix)
    if len(words) == 1:
        return _match([Candidate(n, start, "command", d) for n, d in catalog.commands.items()], prefix, start)
    arguments: dict[str, Iterable[str]] = {".mode": catalog.modes, ".timer": ("on", "off"), ".schema": catalog.tables}
    return _match([Candidate(word, start, "argument") for word in arguments.get(words[0], ())], prefix, start)


def _last_statement(tokens: Sequence[Token]) -> Sequence[Token]:
    for i in range(len(tokens) - 1, -1, -1):
        if tokens[i].text == ";" and tokens[i].kind == "punctuation":
            return tokens[i + 1 :]
    return tokens


def _current_statement(text: str, cursor: int) -> list[Token]:
    """The meaningful tokens of the whole statement around the cursor: what follows it counts too (SELECT | FROM t)."""
    statement: list[Token] = []
    for token in tokenize(text):
        if token.text == ";" and token.kind == "punctuation":
            if token.start >= cursor:
                break
            statement = []
        elif not token.is_quiet:
            statement.append(token)
    return statement


def _wants_table(left: Sequence[Token]) -> bool:
    """Whether the words left of the cursor ask for a table: FROM |, JOIN |, FROM a, |, TUMBLE( |."""
    last = left[-1]
    if last.kind == "word":
        return last.text.upper() in _TABLE_PLACES
    if last.text == "(" and len(left) > 1:
        return left[-2].text.upper() in ("TUMBLE", "HOP")
    if last.text != ",":
        return False
    depth = 0
    for token in reversed(left):
        if token.text in "()":
            depth += 1 if token.text == ")" else -1
        if depth < 0:
            return False
        if depth == 0 and token.kind == "word" and token.text.upper() in _BREAKERS:
            return False
        if depth == 0 and token.kind == "word" and token.text.upper() == "FROM":
            return True
    return False


def _name_of(token: Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "identifier" else token.text


def _named_tables(statement: Sequence[Token], catalog: Catalog) -> dict[str, str]:
    """Alias or name (lower case) -> table, for every table the statement names."""
    known = {name.lower(): name for name in catalog.tables}
    found: dict[str, str] = {}
    for i, token in enumerate(statement):
        table = known.get(_name_of(token).lower()) if token.kind in ("word", "identifier") else None
        if table is None:
            continue
        found[table.lower()] = table
        follows = [t for t in statement[i + 1 : i + 3] if t.kind in ("word", "identifier")]
        if follows and follows[0].text.upper() == "AS":
            follows = follows[1:]
        elif follows and statement[i + 1] is not follows[0]:
            follows = []
        if follows and follows[0].text.upper() not in _ALIAS_ENDS:
            found[_name_of(follows[0]).lower()] = table
    return found


def _columns_of(owner: str, statement: Sequence[Token], catalog: Catalog) -> list[Candidate]:
    table = _named_tables(statement, catalog).get(owner.lower())
    if table is None:
        return []
    return [Candidate(quote_name(name), 0, "column", type) for name, type in catalog.tables[table]]


def _columns(statement: Sequence[Token], catalog: Catalog) -> list[Candidate]:
    tables = dict.fromkeys(_named_tables(statement, catalog).values())
    found = [
        Candidate(quote_name(n), 0, "column", f"{t} of {table}") for table in tables for n, t in catalog.tables[table]
    ]
    if tables:
        found += [Candidate(name, 0, "column", "system column") for name in SYSTEM_COLUMNS]
    return found


def _tables(catalog: Catalog) -> list[Candidate]:
    return [
        Candidate(quote_name(name), 0, "view" if name in catalog.views else "topic", ", ".join(c for c, _ in columns))
        for name, columns in catalog.tables.items()
    ]


def _functions(catalog: Catalog) -> list[Candidate]:
    return [Candidate(name + "(", 0, "function", text) for name, text in catalog.functions.items()]


def _keywords() -> list[Candidate]:
    return [Candidate(word, 0, "keyword") for word in KEYWORDS]


def _match(candidates: Iterable[Candidate], prefix: str, start: int) -> list[Candidate]:
    """Those that begin with the prefix (without case), once each; keywords follow the case of the prefix."""
    wanted = prefix.lower()
    quoted = wanted.startswith('"')
    lower = bool(prefix) and prefix == prefix.lower()
    chosen: dict[str, Candidate] = {}
    for c in candidates:
        name = c.text.lower()
        if not (name.startswith(wanted) or (quoted and name.strip('"').startswith(wanted[1:]))):
            continue
        if len(name) == len(wanted) and name == wanted and c.kind == "keyword":
            continue  # already typed
        shown = c.text.lower() if c.kind == "keyword" and lower else c.text
        chosen.setdefault(shown, Candidate(shown, start, c.kind, c.detail))
    return list(chosen.values())


def quote_name(name: str) -> str:
    """A name as it must be written in SQL: in double quotes unless it is a plain word that is no keyword."""
    tokens = tokenize(name)
    plain = len(tokens) == 1 and tokens[0].kind == "word" and name.upper() not in KEYWORDS
    return name if plain else '"' + name.replace('"', '""') + '"'
