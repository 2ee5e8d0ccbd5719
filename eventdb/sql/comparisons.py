"""Comparisons beyond those of two values: rows (a, b) = (c, d), and text with COLLATE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from eventdb.logical.expressions import Call, Expression
from eventdb.schema import BOOLEAN, VARCHAR

if TYPE_CHECKING:
    from eventdb.sql.expressions import ExpressionBinder

COMPARISONS = (
    "eq", "ne", "lt", "le", "gt", "ge", "is_not_distinct_from", "is_distinct_from",
)  # fmt: skip
_PLACES = (exp.Ordered, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_BY_CODE = ("C", "BINARY", "POSIX", "UCS_BASIC", "DEFAULT")


def special(binder: ExpressionBinder, node: exp.Binary, function: str) -> Expression | None:
    """The comparison if a side of it is a row value or has a COLLATE; else None."""
    if function not in COMPARISONS:
        return None
    sides = _plain(node.this), _plain(node.expression)
    if any(isinstance(side, exp.Tuple) for side in sides):
        left, right = (_row(binder, side) for side in sides)
        return compare_rows(binder, function, left, right, node)
    if any(isinstance(side, exp.Collate) for side in sides):
        name = next(_collation(binder, side) for side in sides if isinstance(side, exp.Collate))
        bound = [binder.bind(side.this if isinstance(side, exp.Collate) else side) for side in sides]
        return binder.call(function, [_folded(binder, name, part, node) for part in bound], node)
    return None


def compare_rows(
    binder: ExpressionBinder, function: str, left: list[Expression], right: list[Expression], node: exp.Expr
) -> Expression:
    """Rows are compared from left to right, as in SQL:2016: the first pair that differs decides."""
    if len(left) != len(right):
        binder.context.fail(f"a row of {len(left)} values is compared with one of {len(right)}", node)
    if function == "ne":
        return binder.call("not", [compare_rows(binder, "eq", left, right, node)], node)
    if function == "is_distinct_from":
        return binder.call("not", [compare_rows(binder, "is_not_distinct_from", left, right, node)], node)
    if function in ("eq", "is_not_distinct_from"):
        pairs = tuple(binder.call(function, [a, b], node) for a, b in zip(left, right, strict=True))
        return pairs[0] if len(pairs) == 1 else Call(BOOLEAN, "and", pairs)
    last = binder.call(function, [left[-1], right[-1]], node)
    strict = {"le": "lt", "ge": "gt"}.get(function, function)
    for a, b in zip(left[-2::-1], right[-2::-1], strict=True):
        equal = Call(BOOLEAN, "and", (binder.call("eq", [a, b], node), last))
        last = Call(BOOLEAN, "or", (binder.call(strict, [a, b], node), equal))
    return last


def in_rows(binder: ExpressionBinder, node: exp.In) -> Expression:
    """(a, b) IN ((1, 2), (3, 4))."""
    left = _row(binder, _plain(node.this))
    found = tuple(compare_rows(binder, "eq", left, _row(binder, _plain(tree)), node) for tree in node.expressions)
    return found[0] if len(found) == 1 else Call(BOOLEAN, "or", found)


def collate(binder: ExpressionBinder, node: exp.Collate) -> Expression:
    """text COLLATE name as what is ordered by or compared."""
    name = _collation(binder, node)
    if name == "NOCASE" and not isinstance(node.parent, _PLACES):
        binder.context.unsupported("COLLATE NOCASE outside of comparisons and ORDER BY", node, "write lower(...)")
    return _folded(binder, name, binder.bind(node.this), node)


def _plain(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _row(binder: ExpressionBinder, node: exp.Expr) -> list[Expression]:
    if not isinstance(node, exp.Tuple):
        binder.context.fail("a row value (a, b) is compared with another row value", node)
    return [binder.bind(part) for part in node.expressions]


def _collation(binder: ExpressionBinder, node: exp.Collate) -> str:
    name = str(node.expression.name).upper()
    if name not in ("NOCASE", *_BY_CODE):
        binder.context.unsupported(f"COLLATE {name}", node, "the collations are NOCASE and C")
    return name


def _folded(binder: ExpressionBinder, name: str, value: Expression, node: exp.Expr) -> Expression:
    if value.type.name not in ("VARCHAR", "NULL"):
        binder.context.fail(f"COLLATE is for VARCHAR, not {value.type}", node)
    return binder.call("lower", [binder.coerce(value, VARCHAR, node)], node) if name == "NOCASE" else value
