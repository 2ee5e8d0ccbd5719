"""Predicates as lists of terms."""

from __future__ import annotations

from collections.abc import Iterable

from eventdb.logical.expressions import Call, Expression, columns_of, remap
from eventdb.schema import BOOLEAN


def terms_of(predicate: Expression | None) -> list[Expression]:
    """The terms an AND joins, in order; [] for None."""
    if predicate is None:
        return []
    if isinstance(predicate, Call) and predicate.function == "and":
        return [term for arg in predicate.args for term in terms_of(arg)]
    return [predicate]


def all_of(terms: Iterable[Expression]) -> Expression | None:
    """The AND of the terms, None for none."""
    listed = list(terms)
    if not listed:
        return None
    return listed[0] if len(listed) == 1 else Call(BOOLEAN, "and", tuple(listed))


def equal_sides(term: Expression, width: int) -> tuple[Expression, Expression] | None:
    """The sides of `left = right`, over the left fields and over the right ones counted from 0; None if it is no such
    term. Left fields are the first `width`."""
    if not isinstance(term, Call) or term.function not in ("eq", "is_not_distinct_from"):
        return None
    for a, b in (term.args, term.args[::-1]):
        if max(columns_of(a), default=-1) < width <= min(columns_of(b), default=width):
            return a, remap(b, {i: i - width for i in columns_of(b)})
    return None


def split_pairs(
    terms: Iterable[Expression], width: int
) -> tuple[list[tuple[Expression, Expression]], list[bool], list[Expression]]:
    """Terms that compare a left with a right side for equality, as join keys; whether NULL matches NULL in each; and
    the other terms."""
    pairs, nulls, rest = [], [], []
    for term in terms:
        sides = equal_sides(term, width)
        if sides is None or not columns_of(sides[0]) or not columns_of(sides[1]):
            rest.append(term)
        else:
            pairs.append(sides)
            nulls.append(isinstance(term, Call) and term.function == "is_not_distinct_from")
    return pairs, nulls, rest
