"""Conditions of WHERE that read both sides of an inner join become part of the join.

Equalities become its keys, others its residual, so that FROM a, b WHERE a.id = b.id is no product of a and b. A term
that may raise moves only if no term in front of it stays behind to protect it.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Expression, columns_of
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Filter, Join, Plan, transform_plan
from eventdb.logical.predicates import all_of, split_pairs, terms_of


def join_filters(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if isinstance(plan, Join) and plan.residual is not None and plan.kind in ("inner", "semi"):
        return _with_terms(plan, [])
    if not isinstance(plan, Filter) or not isinstance(plan.input, Join) or plan.input.kind != "inner":
        return plan
    join = plan.input
    width = len(join.left.fields)
    moved: list[Expression] = []
    kept: list[Expression] = []
    for term in terms_of(plan.predicate):
        read = columns_of(term)
        both = bool(read) and min(read) < width <= max(read)
        (moved if both and not (may_raise(term) and kept) else kept).append(term)
    if not moved:
        return plan
    predicate = all_of(kept)
    joined = _with_terms(join, moved)
    return joined if predicate is None else Filter(joined, predicate)


def _with_terms(join: Join, terms: list[Expression]) -> Join:
    """The join with more conditions. Old keys stay first, and equalities of its residual become keys, too."""
    pairs, nulls, rest = split_pairs([*terms_of(join.residual), *terms], len(join.left.fields))
    if not pairs and not terms:
        return join
    return replace(
        join,
        left_keys=(*join.left_keys, *(a for a, _ in pairs)),
        right_keys=(*join.right_keys, *(b for _, b in pairs)),
        null_matches=(*(join.null_matches or (False,) * len(join.left_keys)), *nulls),
        residual=all_of(rest),
    )
