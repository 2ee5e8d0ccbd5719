"""Predicates as lists of terms."""

from __future__ import annotations

from collections.abc import Iterable

from eventdb.logical.expressions import Call, Expression
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
