"""LIKE patterns with ESCAPE: constants, rewritten to the escape character that matching knows."""

from __future__ import annotations

from eventdb.logical.expressions import Call, Expression, Literal, transform
from eventdb.schema import VARCHAR


def constant_text(expression: Expression) -> Expression:
    """The expression with what `||`, lower() and upper() make of constant texts computed."""
    return transform(expression, _text)


def _text(node: Expression) -> Expression:
    if not isinstance(node, Call) or node.function not in ("concat_op", "lower", "upper"):
        return node
    values = [arg.value for arg in node.args if isinstance(arg, Literal)]
    if len(values) < len(node.args) or not all(isinstance(value, str) for value in values):
        return node
    text = "".join(values)
    return Literal(VARCHAR, text if node.function == "concat_op" else getattr(text, node.function)())


def requoted(pattern: str, mark: str) -> str:
    """A LIKE pattern with escape character `mark` ('' = none) rewritten to backslashes."""
    result, i = [], 0
    while i < len(pattern):
        character = pattern[i]
        if mark and character == mark:
            following = pattern[i + 1 : i + 2]
            result.append("\\" + following)
            i += 2
            continue
        result.append("\\\\" if character == "\\" else character)
        i += 1
    return "".join(result)
