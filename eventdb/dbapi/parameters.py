"""Placeholders of PEP 249's style `named` in the text of a statement: `:name` becomes `$name`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# What may hold a colon that begins no placeholder, then the placeholders.
_PIECES = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$
      | :: | (?<![\w\])]):(?P<named>[A-Za-z_]\w*) | (?<![\w$])\$(?P<dollar>[A-Za-z_]\w*)""",
    re.VERBOSE | re.DOTALL,
)


@lru_cache(maxsize=256)
def named(operation: str, names: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The statement with `$name` for each `:name` of the names, and those of the names that it has."""
    found: set[str] = set()

    def change(piece: re.Match[str]) -> str:
        name = piece["named"] or piece["dollar"]
        if name not in names:
            return piece.group()
        found.add(name)
        return f"${name}"

    return _PIECES.sub(change, operation), frozenset(found)


def native(operation: str, parameters: Any) -> tuple[str, Any]:
    """A statement and its parameters as Database.sql takes them. Names that the statement does not have are left out
    of a dict, as other drivers do."""
    if isinstance(parameters, Mapping):
        text, found = named(operation, frozenset(parameters))
        return text, {name: parameters[name] for name in parameters if name in found} or None
    return operation, parameters if parameters is None or len(parameters) else None
