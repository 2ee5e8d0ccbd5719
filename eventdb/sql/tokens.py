"""Text to tokens: sqlglot's tokenizer, then the few rewrites that let its parser read our dialect.

Only the Tokenizer is subclassed: sqlglot's compiled build does not allow more. The rewrites:

* `name(` becomes `fx$name(`, so that every function reaches the binder as it was written (an Anonymous node) instead of
  as one of sqlglot's several hundred classes;
* `?` becomes `$1`, `$2`, ... in the order of the text;
* `5m` becomes INTERVAL '5 m', `x'0f'` a blob, `$$text$$` a string;
* RETURNING where no clause can begin is a name;
* GROUPS at the head of a window's frame becomes a kind of ROWS;
* TABLE before a table argument of TUMBLE and HOP is dropped.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType  # type: ignore[attr-defined]  # it re-exports them

from eventdb.config import MAX_STATEMENT_BYTES
from eventdb.errors import ParseError, UsageError
from eventdb.sql.intervals import UNITS

__all__ = ["DIALECT", "FUNCTION_PREFIX", "Token", "TokenType", "place", "split", "syntax_error", "tokenize"]

FUNCTION_PREFIX = "fx$"
MAX_NESTING = 256  # parentheses and brackets


class EventDB(DuckDB):
    NULL_ORDERING = "nulls_are_large"

    class Tokenizer(DuckDB.Tokenizer):
        COMMANDS: ClassVar[set[TokenType]] = set()  # else EXPLAIN and SHOW swallow the rest of the text as one string


DIALECT = EventDB()

_PIECES = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) | --[^\n]* | /\*.*?(?:\*/|\Z)
      | (?<![\w$])\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z) | ;""",
    re.VERBOSE | re.DOTALL,
)

_PARAMETER = re.compile(r"(?<![\w$])\$(?=\w)")

# Words before a parenthesis that are not functions, or that sqlglot must see to read their own grammar.
_NOT_FUNCTIONS = frozenset(
    """AND OR NOT IN EXISTS ANY ALL SOME VALUES USING OVER FILTER AS ON WHEN THEN ELSE CASE WHERE HAVING BY SELECT FROM
    JOIN WITH UNION EXCEPT INTERSECT BETWEEN LIKE ILIKE IS DISTINCT SETS ROLLUP CUBE EXCLUDE RENAME PIVOT UNPIVOT
    UNNEST LATERAL CAST TRY_CAST EXTRACT POSITION SUBSTRING TRIM OVERLAY INTERVAL VARCHAR CHAR DECIMAL NUMERIC DEC
    MATERIALIZED RECURSIVE GROUPING GROUP WITHIN MATCH_RECOGNIZE TABLESAMPLE ESCAPE STRUCT MAP ROW QUALIFY
    COLUMNS LAMBDA GLOB SIMILAR SEMI ANTI ASOF CROSS NATURAL INNER FULL OUTER POSITIONAL SET KEY LIMIT OFFSET
    ORDER""".split()
)
_OPERAND_ENDS = frozenset(
    (TokenType.VAR, TokenType.IDENTIFIER, TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.STRING, TokenType.NUMBER)
)
_BEFORE_NAMES = _OPERAND_ENDS | {TokenType.ALIAS, TokenType.DOT, TokenType.DCOLON, TokenType.PARAMETER}
_BEFORE_COLUMNS = frozenset(
    (
        TokenType.DOT, TokenType.COMMA, TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.SELECT, TokenType.DISTINCT,
        TokenType.WHERE, TokenType.HAVING, TokenType.QUALIFY, TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.SET,
        TokenType.ON, TokenType.USING, TokenType.GROUP_BY, TokenType.ORDER_BY, TokenType.PARTITION_BY, TokenType.WHEN,
        TokenType.ELSE, TokenType.CASE, TokenType.ALIAS, TokenType.RETURNING, TokenType.BETWEEN, TokenType.LIKE,
        TokenType.ILIKE, TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.LTE, TokenType.GT, TokenType.GTE,
        TokenType.PLUS, TokenType.DASH, TokenType.SLASH, TokenType.DIV, TokenType.MOD, TokenType.DPIPE,
    )
)  # fmt: skip
"""What RETURNING cannot follow as a clause: behind these it is a column's name."""
_OPENS = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSES = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)


def place(sql: str, position: int) -> tuple[int, int]:
    """Line and column, from 1, of a character position."""
    position = min(max(position, 0), len(sql))
    return sql.count("\n", 0, position) + 1, position - sql.rfind("\n", 0, position)


def syntax_error(sql: str, message: str, position: int) -> ParseError:
    line, column = place(sql, position)
    return ParseError(message, sql=sql, line=line, column=column)


def split(text: str) -> list[str]:
    """The statements of a text, without their semicolons; quotes, comments and dollar quotes hide semicolons.

    Empty statements and pieces of comments only are left out. An unterminated quote or comment runs to the end.
    """
    statements: list[str] = []
    start, content = 0, False
    position = 0
    for piece in _PIECES.finditer(text):
        content = content or bool(text[position : piece.start()].strip())
        position = piece.end()
        if piece.group() == ";":
            if content:
                statements.append(text[start : piece.start()].strip())
            start, content = position, False
        elif not piece.group().startswith(("--", "/*")):
            content = True
    if content or text[position:].strip():
        statements.append(text[start:].strip())
    return statements


def tokenize(sql: str) -> list[Token]:
    """The rewritten tokens of one statement, trailing semicolons removed.

    ParseError for an empty text, several statements, NUL bytes, more than 1 MiB, brackets that do not match or nest
    deeper than MAX_NESTING, and unterminated quotes.
    """
    if not isinstance(sql, str):
        raise UsageError(f"a SQL statement is a string, not {type(sql).__name__}")
    if len(sql) > MAX_STATEMENT_BYTES or len(sql.encode("utf-8", "surrogatepass")) > MAX_STATEMENT_BYTES:
        raise ParseError(
            f"the statement has more than {MAX_STATEMENT_BYTES:,} bytes; pass data as parameters or use append_batch"
        )
    if "\0" in sql:
        raise syntax_error(sql, "the statement contains a NUL character", sql.index("\0"))
    try:
        tokens = DIALECT.tokenize(_without_tags(sql))
    except TokenError as error:
        raise _token_error(sql, error) from None
    except RecursionError:
        raise ParseError("the statement is nested too deeply", sql=sql) from None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise ParseError("the statement is empty")
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            raise syntax_error(
                sql,
                "one statement at a time: this text holds several (eventdb.sql.parser.split separates them)",
                token.start,
            )
    return _rewrite(tokens, _match_brackets(tokens, sql), sql)


def _without_tags(sql: str) -> str:
    """`$1` and `$name` as `?1` and `?name`: in `$1,$2` sqlglot sees the tag of a dollar quote."""
    if "$" not in sql:
        return sql
    parts, position = [], 0
    for piece in _PIECES.finditer(sql):
        parts += [_PARAMETER.sub("?", sql[position : piece.start()]), piece.group()]
        position = piece.end()
    return "".join(parts) + _PARAMETER.sub("?", sql[position:])


def _token_error(sql: str, error: Exception) -> ParseError:
    """What sqlglot could not tokenize: nearly always a quote or comment that is not closed."""
    for piece in _PIECES.finditer(sql):
        text = piece.group()
        closers = {"'": "'", '"': '"', "/*": "*/", "$": text[: text.find("$", 1) + 1] if text.startswith("$") else ""}
        for opener, closer in closers.items():
            if text.startswith(opener) and (len(text) < len(opener) + len(closer) or not text.endswith(closer)):
                what = "comment" if opener == "/*" else "quoted name" if opener == '"' else "string"
                return syntax_error(sql, f"this {what} is not closed", piece.start())
    return ParseError(f"not SQL: {str(error).splitlines()[0]}", sql=sql, line=1, column=1)


def _match_brackets(tokens: list[Token], sql: str) -> dict[int, int]:
    """Index of each opening bracket -> index of its closing one."""
    open_at: list[int] = []
    pairs: dict[int, int] = {}
    for i, token in enumerate(tokens):
        if token.token_type in _OPENS:
            open_at.append(i)
            if len(open_at) > MAX_NESTING:
                raise syntax_error(sql, f"brackets are nested more than {MAX_NESTING} deep", token.start)
        elif token.token_type in _CLOSES:
            if not open_at or _OPENS.index(tokens[open_at[-1]].token_type) != _CLOSES.index(token.token_type):
                raise syntax_error(sql, f"unexpected {token.text!r}: no bracket is open here", token.start)
            pairs[open_at.pop()] = i
    if open_at:
        raise syntax_error(sql, "this bracket is not closed", tokens[open_at[-1]].start)
    return pairs


def _is_function(tokens: list[Token], i: int, pairs: dict[int, int]) -> bool:
    """Whether token i, followed by a parenthesis, is a function's name."""
    from eventdb.sql.functions import FUNCTION_NAMES

    token = tokens[i]
    name = token.text.upper()
    if name in _NOT_FUNCTIONS:
        return False
    if token.token_type not in (TokenType.VAR, TokenType.RANGE) and name.lower() not in FUNCTION_NAMES:
        return False
    before = tokens[i - 1].token_type if i else None
    if i > 1 and tokens[i - 1].text.upper() == "ERROR" and tokens[i - 2].token_type is TokenType.THEN:
        before = TokenType.THEN  # MERGE: THEN ERROR upper(...)
    if before is TokenType.R_PAREN and _ends_distinct_on(tokens, i - 1, pairs):
        before = None
    if before in _BEFORE_NAMES and not (before is TokenType.VAR and tokens[i - 1].text.upper() in ("BOTH", "LEADING")):
        return False
    if name == "REPLACE" and before is TokenType.STAR:  # SELECT * REPLACE (...) against a * replace(...)
        earlier = tokens[i - 2].token_type if i > 1 else None
        if earlier not in _OPERAND_ENDS:
            return False
    end = pairs[i + 1]
    follows_as = end + 2 < len(tokens) and tokens[end + 1].token_type is TokenType.ALIAS
    if not follows_as:
        return True
    named = tokens[end + 2]  # WITH name (columns) AS [[NOT] MATERIALIZED] (
    return named.token_type not in (TokenType.L_PAREN, TokenType.NOT) and named.text.upper() != "MATERIALIZED"


def _ends_distinct_on(tokens: list[Token], i: int, pairs: dict[int, int]) -> bool:
    """Whether the bracket at token i closes DISTINCT ON (...)."""
    start = next(opened for opened, closed in pairs.items() if closed == i)
    return [token.text.upper() for token in tokens[max(start - 2, 0) : start]] == ["DISTINCT", "ON"]


def _begins_frame(tokens: list[Token], i: int) -> bool:
    """Whether GROUPS at token i begins the frame of a window: OVER (... GROUPS BETWEEN ..."""
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    if after is None or not (
        after.text.upper() in ("BETWEEN", "UNBOUNDED", "CURRENT") or after.token_type is TokenType.NUMBER
    ):
        return False
    before = tokens[i - 1].token_type
    if before in (TokenType.COMMA, TokenType.DOT) or tokens[i - 1].text.upper() in ("ORDER BY", "PARTITION BY", "BY"):
        return False
    depth = 0
    for j in range(i - 1, 0, -1):
        depth += (tokens[j].token_type in _CLOSES) - (tokens[j].token_type in _OPENS)
        if depth < 0:
            return tokens[j - 1].text.upper() in ("OVER", "AS")
    return False


def _copy(token: Token, kind: TokenType, text: str, **changes: Any) -> Token:
    facts: dict[str, Any] = {"line": token.line, "col": token.col, "start": token.start, "end": token.end, **changes}
    return Token(kind, text, **facts)


def _rewrite(tokens: list[Token], pairs: dict[int, int], sql: str) -> list[Token]:
    result: list[Token] = []
    parameters = 0
    skip = False
    for i, token in enumerate(tokens):
        kind = token.token_type
        if skip:
            skip = False
            continue
        after = tokens[i + 1] if i + 1 < len(tokens) else None
        touching = after is not None and after.start == token.end + 1
        if kind is TokenType.PLACEHOLDER and sql[token.start] == "$":
            result.append(_copy(token, TokenType.PARAMETER, "$"))
        elif kind in (TokenType.PLACEHOLDER, TokenType.QDCOLON):
            parameters += 1
            result.append(_copy(token, TokenType.PARAMETER, "$"))
            result.append(_copy(token, TokenType.NUMBER, str(parameters)))
            if kind is TokenType.QDCOLON:  # ?::type
                result.append(_copy(token, TokenType.DCOLON, "::"))
        elif kind is TokenType.RETURNING and i and tokens[i - 1].token_type in _BEFORE_COLUMNS:
            result.append(_copy(token, TokenType.IDENTIFIER, token.text))
        elif kind is TokenType.HEREDOC_STRING:
            result.append(_copy(token, TokenType.STRING, token.text))
        elif after is not None and touching and kind is TokenType.NUMBER and after.text.lower() in UNITS:
            result.append(_copy(token, TokenType.INTERVAL, "INTERVAL"))
            result.append(_copy(token, TokenType.STRING, f"{token.text} {after.text}", end=after.end))
            skip = True
        elif after is not None and touching and kind is TokenType.NUMBER and after.token_type is TokenType.VAR:
            text = token.text + after.text
            raise syntax_error(sql, f"{text!r} is not a number; quote it if it is text", token.start)
        elif (
            after is not None
            and touching
            and kind is TokenType.VAR
            and token.text in "xX"
            and after.token_type is TokenType.STRING
        ):
            result.append(_copy(token, TokenType.HEX_STRING, after.text, end=after.end))
            skip = True
        elif kind is TokenType.TABLE and result[-2:] and result[-1].token_type is TokenType.L_PAREN:
            if len(result) < 2 or result[-2].text.lower() not in ("fx$tumble", "fx$hop"):
                result.append(token)
        elif kind is TokenType.VAR and token.text.upper() == "GROUPS" and _begins_frame(tokens, i):
            result.append(_copy(token, TokenType.ROWS, "GROUPS"))
        elif after is not None and after.token_type is TokenType.L_PAREN and _is_function(tokens, i, pairs):
            result.append(_copy(token, TokenType.VAR, FUNCTION_PREFIX + token.text))
        else:
            result.append(token)
    return result
