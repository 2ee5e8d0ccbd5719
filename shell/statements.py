"""Where one SQL statement ends and the next begins."""

from __future__ import annotations

from dataclasses import dataclass

from .tokens import iterate_tokens


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement without its semicolon; `line` counts from 1 in the text it was cut from."""

    text: str
    line: int


def split_statements(text: str) -> tuple[list[Statement], str]:
    """The complete statements of a text (those that a top-level semicolon ends) and what follows the last of them.

    Statements of nothing but space and comments are left out.
    """
    statements: list[Statement] = []
    start: int | None = None  # of the first token that means something
    rest = 0
    for token in iterate_tokens(text):
        if token.kind == "punctuation" and token.text == ";":
            if start is not None:
                line = text.count("\n", 0, start) + 1
                statements.append(Statement(text[start : token.start].rstrip(), line))
            start = None
            rest = token.stop
        elif start is None and not token.is_quiet:
            start = token.start
    return statements, text[rest:]


def all_statements(text: str) -> list[Statement]:
    """The statements of a text whose last one may lack its semicolon."""
    statements, rest = split_statements(text)
    if is_blank(rest):
        return statements
    skipped = text[: len(text) - len(rest)].count("\n")
    # The newline keeps a trailing line comment from swallowing the semicolon.
    last, tail = split_statements(rest + "\n;")
    if not last:  # an unclosed string or comment: the parser says so better than we can
        last = [Statement(tail.removesuffix("\n;").strip(), 1)]
    return statements + [Statement(s.text, s.line + skipped) for s in last]


def is_blank(text: str) -> bool:
    """Whether a text holds only space and closed comments."""
    return all(token.is_quiet and token.closed for token in iterate_tokens(text))


def is_complete(text: str) -> bool:
    """Whether Enter should run the text: blank, a dot command, or ended by a semicolon outside strings and comments."""
    if text.lstrip().startswith("."):
        return True
    _, rest = split_statements(text)
    return is_blank(rest)
