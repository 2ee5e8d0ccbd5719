"""Statement text to syntax trees: sqlglot's only door, with a cache of what was parsed before.

A `Source` is one statement: its rewritten tokens and the trees of the parts the binder asked for. Trees are shared
between binds and never changed.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlglot import exp
from sqlglot.errors import ParseError as SqlglotError
from sqlglot.errors import SqlglotError as AnySqlglotError

from eventdb.errors import ParseError, UnsupportedSQL
from eventdb.sql.handled import shown, unhandled, unlisted
from eventdb.sql.tokens import DIALECT, FUNCTION_PREFIX, Token, TokenType, place, split, syntax_error, tokenize

__all__ = ["Source", "parse", "split"]

_CACHE_STATEMENTS = 256
_STACK_FRAMES = 12_000  # sqlglot needs about 25 frames for each parenthesis
_cache: OrderedDict[str, Source] = OrderedDict()


class Source:
    """One statement: text, tokens and the trees of its token ranges."""

    __slots__ = ("_starts", "_trees", "_unlisted", "sql", "tokens", "words")

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokenize(sql)
        self.words = {token.text.lower() for token in self.tokens}
        self._starts: dict[int, int] = {}
        self._trees: dict[tuple[int, int], exp.Expr] = {}
        self._unlisted: exp.Expr | None = None

    @property
    def is_deep(self) -> bool:
        """Whether reading it may need more stack than usual."""
        return len(self.tokens) > 60

    def token_at(self, position: int | None) -> int | None:
        """The index of the token that begins at a character position."""
        if not self._starts:
            self._starts = {token.start: i for i, token in reversed(list(enumerate(self.tokens)))}
        return None if position is None else self._starts.get(position)

    def query(self, start: int, stop: int) -> exp.Expr:
        """The tree of the query (or FROM-first query, VALUES) in tokens [start, stop). UnsupportedSQL if it has a part
        that the binder does not read."""
        tree = self._trees.get((start, stop))
        if tree is None:
            tree = self._trees[start, stop] = self._checked(self._parse(self.tokens[start:stop], start))
        return tree

    def expression(self, start: int, stop: int, place: str = "an expression") -> exp.Expr:
        """The tree of the scalar expression in tokens [start, stop). UnsupportedSQL if a clause follows it, or if it
        has a part that the binder does not read; `place` names the statement for the message."""
        key = (-1 - start, stop)
        tree = self._trees.get(key)
        if tree is None:
            select = self.select(start, stop, "SELECT", place)
            if len(select.expressions) != 1:
                raise self.error("expected one expression", start)
            tree = self._trees[key] = self._checked(select.expressions[0])
        return tree

    def select(self, start: int, stop: int, head: str, place: str) -> exp.Select:
        """The tree of tokens [start, stop) behind a head: "SELECT" makes a select list of them, "SELECT * FROM" a FROM.
        UnsupportedSQL if another clause follows; `place` names the statement for the message."""
        words = {"SELECT": TokenType.SELECT, "*": TokenType.STAR, "FROM": TokenType.FROM}
        before = [Token(words[word], word) for word in head.split()]
        select = self._parse([*before, *self.tokens[start:stop]], start)
        if not isinstance(select, exp.Select):
            raise self.unsupported(f"{type(select).__name__.upper()} in {place}", select)
        allowed = ("expressions",) if head == "SELECT" else ("expressions", "from_", "joins")
        for name, value in select.args.items():
            if value and name not in allowed:
                part = value[0] if isinstance(value, list) else value
                raise self.unsupported(f"{shown(name)} in {place}", part)
        checked = self._checked(select)
        assert isinstance(checked, exp.Select)
        return checked

    def ctes(self, start: int, stop: int) -> exp.Expr:
        """The tree of the WITH clause in tokens [start, stop), on a query of nothing."""
        one = [Token(TokenType.SELECT, "SELECT"), Token(TokenType.NUMBER, "1")]
        return self._checked(self._parse([*self.tokens[start:stop], *one], start))

    def check_bound(self) -> None:
        """UnsupportedSQL if a tree that was bound holds a kind of node that the binder does not know."""
        if self._unlisted is not None:
            raise self.unsupported(type(self._unlisted).__name__.upper(), self._unlisted)

    def unsupported(self, construct: str, node: Any, fix: str = "") -> UnsupportedSQL:
        """The error for a construct at a tree."""
        line, column = locate(self.sql, node)
        message = f"{construct} is not supported" + (f"; {fix}" if fix else "")
        return UnsupportedSQL(message, construct=construct, sql=self.sql, line=line, column=column)

    def _checked(self, tree: exp.Expr) -> exp.Expr:
        found = unhandled(tree)
        if found is not None:
            raise self.unsupported(*found)
        self._unlisted = self._unlisted or unlisted(tree)
        return tree

    def error(self, message: str, index: int) -> ParseError:
        """A ParseError at token `index`, or after the last token."""
        if index < len(self.tokens):
            return syntax_error(self.sql, message, self.tokens[index].start)
        return syntax_error(self.sql, message, self.tokens[-1].end + 1)

    def _parse(self, tokens: list[Token], start: int) -> exp.Expr:
        if not tokens:
            raise self.error("a query is missing here", start)
        try:
            with deep_stack(self.is_deep):
                trees = DIALECT.parser().parse(tokens, self.sql)
        except SqlglotError as error:
            raise self._syntax_error(error) from None
        except (AnySqlglotError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise ParseError(
                f"not SQL: {str(error).splitlines()[0] if str(error) else 'unreadable'}", sql=self.sql
            ) from None
        except RecursionError:
            raise ParseError("the statement is nested too deeply", sql=self.sql) from None
        tree = trees[0] if trees else None
        if tree is None:
            raise self.error("a query is missing here", start)
        if isinstance(tree, exp.Command):
            raise self.error("not a query", start)
        return tree

    def _syntax_error(self, error: SqlglotError) -> ParseError:
        facts: dict[str, Any] = error.errors[0] if error.errors else {}
        found = str(facts.get("highlight") or "").replace(FUNCTION_PREFIX, "")
        description = str(facts.get("description") or "")
        line, end_column = int(facts.get("line") or 0), int(facts.get("col") or 0)
        column = max(1, end_column - len(found) + 1)
        last = self.tokens[-1]
        at_end = line == last.line and end_column >= last.col
        description = description.partition(" but got ")[0]
        if description.startswith("Expecting") or description.startswith("Expected"):
            message = f"syntax error at {found!r}: {description[0].lower()}{description[1:]}"
        elif description.startswith("Required keyword"):
            message = f"syntax error: something is missing {'after' if at_end else 'before or after'} {found!r}"
        else:
            message = f"syntax error at {found!r}"
        return ParseError(message, sql=self.sql, line=line, column=column)


def has_parameters(sql: str) -> bool:
    """Whether a statement has parameters. ParseError if it is none."""
    return any(token.token_type in (TokenType.PARAMETER, TokenType.PLACEHOLDER) for token in parse(sql).tokens)


@contextmanager
def deep_stack(wanted: bool) -> Iterator[None]:
    """Room for deeply nested statements inside the block."""
    before = sys.getrecursionlimit()
    if not wanted or before >= _STACK_FRAMES:
        yield
        return
    sys.setrecursionlimit(_STACK_FRAMES)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def parse(sql: str) -> Source:
    """The statement's source, from the cache if this text was parsed before. ParseError if it is not one statement."""
    source = _cache.get(sql) if isinstance(sql, str) else None
    if source is None:
        source = Source(sql)
        _cache[sql] = source
        while len(_cache) > _CACHE_STATEMENTS:
            _cache.popitem(last=False)
    return source


def position_of(node: Any) -> int | None:
    """The character position of a tree: of its first part that carries one, else of what it is part of."""
    while isinstance(node, exp.Expr):
        best: int | None = None
        for part in node.walk():
            start = (part._meta or {}).get("start")
            if start is not None and (best is None or start < best):
                best = start
        if best is not None:
            return best
        node = node.parent
    return None


def locate(sql: str, node: Any) -> tuple[int, int]:
    """Line and column of a tree, (0, 0) if unknown."""
    position = position_of(node)
    return (0, 0) if position is None else place(sql, position)
