"""Colours of SQL at the prompt, from the same tokens that completion uses."""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style

from .completion import KEYWORDS
from .tokens import Token, tokenize

SQL_STYLE = Style.from_dict(
    {
        "sql.keyword": "bold ansiblue",
        "sql.string": "ansigreen",
        "sql.number": "ansicyan",
        "sql.comment": "italic ansibrightblack",
        "sql.command": "ansimagenta",
        "sql.unclosed": "ansired",
    }
)
_KEYWORDS = frozenset(KEYWORDS)


def style_of(token: Token) -> str:
    """The style class of a token, "" for plain text."""
    if not token.closed:
        return "class:sql.unclosed"
    if token.kind == "word":
        return "class:sql.keyword" if token.text.upper() in _KEYWORDS else ""
    return f"class:sql.{token.kind}" if token.kind in ("string", "number", "comment") else ""


class SqlLexer(Lexer):
    """Colours a whole document at once: strings and comments may span lines."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lines: list[StyleAndTextTuples] = [[]]
        if document.text.lstrip().startswith("."):
            pieces = [("class:sql.command", document.text)]
        else:
            pieces = [(style_of(token), token.text) for token in tokenize(document.text)]
        for style, text in pieces:
            first, *others = text.split("\n")
            lines[-1].append((style, first))
            lines.extend([(style, other)] for other in others)
        return lambda number: lines[number] if number < len(lines) else []
