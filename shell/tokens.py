"""SQL text as tokens with positions: enough to split, complete and colour, not to parse.

Every character belongs to exactly one token, so that joining the texts gives the input back. An unclosed string,
quoted identifier or comment reaches to the end of the text and has `closed=False`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["word", "identifier", "string", "number", "comment", "punctuation", "space"]

_WORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_SPACE = re.compile(r"\s+")
_LINE_COMMENT = re.compile(r"--[^\n]*")


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is input[start:stop]. `identifier` is a "quoted" name; `word` a bare name or keyword."""

    kind: Kind
    text: str
    start: int
    closed: bool = True

    @property
    def stop(self) -> int:
        return self.start + len(self.text)

    @property
    def is_quiet(self) -> bool:
        """Whether the token means nothing (space, comment)."""
        return self.kind in ("space", "comment")


def iterate_tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, in order and without gaps."""
    position = 0
    while position < len(text):
        token = _next_token(text, position)
        yield token
        position = token.stop


def tokenize(text: str) -> list[Token]:
    """As iterate_tokens, all of them."""
    return list(iterate_tokens(text))


def _next_token(text: str, start: int) -> Token:
    character = text[start]
    if character in "'\"":
        return _quoted(text, start, character)
    if text.startswith("/*", start):
        return _block_comment(text, start)
    patterns: tuple[tuple[Kind, re.Pattern[str]], ...] = (
        ("space", _SPACE),
        ("comment", _LINE_COMMENT),
        ("word", _WORD),
        ("number", _NUMBER),
    )
    for kind, pattern in patterns:
        found = pattern.match(text, start)
        if found:
            return Token(kind, found.group(), start)
    return Token("punctuation", character, start)


def _quoted(text: str, start: int, quote: str) -> Token:
    """A string or quoted identifier; the quote is written twice to stand for itself."""
    kind: Kind = "string" if quote == "'" else "identifier"
    position = start + 1
    while True:
        end = text.find(quote, position)
        if end < 0:
            return Token(kind, text[start:], start, closed=False)
        if text[end + 1 : end + 2] != quote:
            return Token(kind, text[start : end + 1], start)
        position = end + 2


def _block_comment(text: str, start: int) -> Token:
    """A /* comment */; they nest, as in PostgreSQL."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return Token("comment", text[start : mark.end()], start)
    return Token("comment", text[start:], start, closed=False)
