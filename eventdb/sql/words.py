"""Reading a statement's own words: the part of the grammar that is not sqlglot's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from eventdb.errors import BindError, ParseError, UnsupportedSQL, UsageError
from eventdb.schema import DataType, parse_type
from eventdb.sql.intervals import parse_interval
from eventdb.sql.parser import Source
from eventdb.sql.tokens import FUNCTION_PREFIX, Token, TokenType

_TYPE_ENDS = frozenset(
    (",", ")", "NOT", "NULL", "PRIMARY", "PRIMARY KEY", "DEFAULT", "UNIQUE", "REFERENCES", "CHECK", "COLLATE")
)


class Words:
    """A cursor over the tokens of a statement."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens: list[Token] = source.tokens
        self.index = 0
        self.stop = len(self.tokens)

    @property
    def ended(self) -> bool:
        return self.index >= self.stop

    def text(self, ahead: int = 0) -> str:
        """The text of a token ahead, '' past the end; quoted names as they are."""
        i = self.index + ahead
        return self.tokens[i].text.removeprefix(FUNCTION_PREFIX) if i < self.stop else ""

    def word(self, ahead: int = 0) -> str:
        """The upper-case text of a token ahead, '' for strings, quoted names and past the end."""
        i = self.index + ahead
        if i >= self.stop or self.tokens[i].token_type in (TokenType.STRING, TokenType.IDENTIFIER):
            return ""
        return self.text(ahead).upper()

    def word_at(self, index: int) -> str:
        """`word` of the token at an index."""
        return self.word(index - self.index)

    def accept(self, *words: str) -> bool:
        """Skip these words if they come next."""
        for i, word in enumerate(words):
            if self.word(i) != word:
                return False
        self.index += len(words)
        return True

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.accept(word):
                self.wrong(f"expected {word}")

    def wrong(self, message: str) -> NoReturn:
        found = f" before {self.text()!r}" if not self.ended else " at the end"
        raise self.source.error(message + found, self.index)

    def error(self, message: str, index: int) -> ParseError:
        return self.source.error(message, index)

    def bind_error(self, message: str, index: int) -> BindError:
        place = self.error("", index)
        return BindError(message, sql=place.sql, line=place.line, column=place.column)

    def unsupported(self, construct: str, fix: str = "", index: int | None = None) -> UnsupportedSQL:
        place = self.error("", self.index if index is None else index)
        message = f"{construct} is not supported" + (f"; {fix}" if fix else "")
        return UnsupportedSQL(message, construct=construct, sql=place.sql, line=place.line, column=place.column)

    def end(self) -> None:
        """ParseError if anything is left."""
        if not self.ended:
            raise self.source.error(f"unexpected {self.text()!r}", self.index)

    def name(self, what: str) -> str:
        """A name: word, "quoted", or dotted parts."""
        if (
            self.ended
            or self.tokens[self.index].token_type in (TokenType.STRING, TokenType.NUMBER)
            or (not self.text() or not (self.text()[0].isalpha() or self.text()[0] in "_" or self._quoted()))
        ):
            self.wrong(f"expected {what}")
        parts = [self.text()]
        self.index += 1
        while self.word() == "." and not self.ended:
            self.index += 1
            parts.append(self.text())
            self.index += 1
        return ".".join(parts)

    def names(self, what: str) -> list[tuple[str, int]]:
        """(name, ...), each with its place."""
        self.expect("(")
        found = []
        while True:
            found.append((self.text(), self.index))
            self.name(what)
            if self.accept(")"):
                return found
            self.expect(",")

    def elements(self, element: Callable[[], None]) -> None:
        """(element, ...), a comma behind the last one allowed."""
        self.expect("(")
        while True:
            element()
            if self.accept(")"):
                return
            if not self.accept(","):
                self.wrong("expected , or )")
            if self.accept(")"):
                return

    def _quoted(self) -> bool:
        return self.tokens[self.index].token_type is TokenType.IDENTIFIER

    def string(self, what: str) -> str:
        if self.ended or self.tokens[self.index].token_type is not TokenType.STRING:
            self.wrong(f"expected {what} as a 'string'")
        self.index += 1
        return str(self.tokens[self.index - 1].text)

    def interval_us(self, what: str) -> int:
        """INTERVAL '5 seconds', INTERVAL '5' SECOND, '5 seconds' or 5s, in microseconds; no months, not negative."""
        at = self.index
        self.accept("INTERVAL")
        if self.ended or self.tokens[self.index].token_type not in (TokenType.STRING, TokenType.NUMBER):
            self.wrong(f"expected an interval after {what}")
        text = str(self.tokens[self.index].text)
        self.index += 1
        value = parse_interval(text)
        if value is None and not self.ended:
            value = parse_interval(text, self.text())
            self.index += value is not None
        if value is None or value.months or value.microseconds < 0:
            raise self.source.error(f"{what} needs an exact interval such as INTERVAL '5 seconds'", at)
        return value.microseconds

    def type(self) -> DataType:
        """A column type: its words up to a comma, a parenthesis of the list, or a constraint."""
        at, parts, depth = self.index, [], 0
        while not self.ended and (depth or self.word() not in _TYPE_ENDS):
            depth += (self.word() == "(") - (self.word() == ")")
            parts.append(self.text())
            self.index += 1
        if not parts:
            self.wrong("expected a type")
        try:
            return parse_type(" ".join(parts))
        except UsageError as error:
            raise self.source.error(str(error), at) from None

    def at_depth_zero(self, start: int, *words: str) -> int | None:
        """The first index from `start` on, outside brackets, where these words stand."""
        depth = 0
        for i in range(start, self.stop):
            text = self.tokens[i].text
            if self.tokens[i].token_type in (TokenType.STRING, TokenType.IDENTIFIER):
                continue
            depth += (text in "([{" and text != "") - (text in ")]}" and text != "")
            if depth == 0 and all(
                i + k < self.stop and self.tokens[i + k].text.removeprefix(FUNCTION_PREFIX).upper() == word
                for k, word in enumerate(words)
            ):
                return i
        return None
