"""A term that all branches of an OR share stands beside it: (a AND x) OR (a AND y) becomes a AND (x OR y).

So an equality in every branch becomes a join's key. Kleene's three-valued logic distributes as Boolean logic does. Not
where something may raise: the term would be evaluated before the others.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Call, Expression
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Filter, Join, Plan, transform_plan
from eventdb.logical.predicates import all_of, terms_of
from eventdb.schema import BOOLEAN


def factor_terms(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if isinstance(plan, Filter):
        predicate = _factored(plan.predicate)
        return plan if predicate is None else replace(plan, predicate=predicate)
    if isinstance(plan, Join) and plan.residual is not None:
        residual = _factored(plan.residual)
        return plan if residual is None else replace(plan, residual=residual)
    return plan


def _factored(predicate: Expression) -> Expression | None:
    """The predicate with shared terms taken out; None if there are none."""
    terms = terms_of(predicate)
    changed = [_shared(term) for term in terms]
    if all(new is None for new in changed):
        return None
    return all_of(part for term, new in zip(terms, changed, strict=True) for part in (new or [term]))


def _shared(term: Expression) -> list[Expression] | None:
    if not isinstance(term, Call) or term.function != "or" or may_raise(term):
        return None
    branches = [terms_of(branch) for branch in term.args]
    shared = [t for t in dict.fromkeys(branches[0]) if all(t in branch for branch in branches[1:])]
    if not shared:
        return None
    rest = [all_of(t for t in branch if t not in shared) for branch in branches]
    left = [r for r in rest if r is not None]
    if len(left) < len(rest):  # a branch says no more than what is shared
        return shared
    return [*shared, Call(BOOLEAN, "or", tuple(left))]
