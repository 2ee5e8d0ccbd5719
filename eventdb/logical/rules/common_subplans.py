"""Equal parts of a plan that group, rank or deduplicate rows become Shared: run once, read in each of their places.

Parts that only scan, filter and join stay as they are: their rows may be many, and what is above them runs in one loop
with them.
"""

from __future__ import annotations

from collections import Counter

from eventdb.logical.facts import is_volatile
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.over import Over
from eventdb.logical.plan import Aggregate, Distinct, DistinctOn, Filter, GroupSets, Limit, Plan, Project, Sort
from eventdb.logical.relational import LimitBy, RecursiveUnion, SetOperation, Shared, WorkingTable

_COSTLY = (Aggregate, GroupSets, Distinct, DistinctOn, Over, SetOperation, RecursiveUnion)
_THROUGH = (Filter, Project, Sort, Limit, LimitBy)


def common_subplans(plan: Plan) -> Plan:
    if _count_costly(plan) < 2:
        return plan
    counts: Counter[Plan] = Counter()
    try:
        _count(plan, counts)
    except TypeError:  # the rows of a source outside the database are no part of a key
        return plan
    shared = {part: count for part, count in counts.items() if count > 1 and _is_alone(part)}
    return _exchange(plan, shared) if shared else plan


def _count_costly(plan: Plan) -> int:
    return isinstance(plan, _COSTLY) + sum(map(_count_costly, plan.children))


def _count(plan: Plan, counts: Counter[Plan]) -> None:
    """How often each costly part stands in the plan; what is inside of one counts once for all of its places."""
    if _is_costly(plan):
        counts[plan] += 1
        if counts[plan] > 1:
            return
    if not isinstance(plan, Shared):
        for child in plan.children:
            _count(child, counts)


def _is_costly(plan: Plan) -> bool:
    while isinstance(plan, _THROUGH):
        plan = plan.children[0]
    return isinstance(plan, _COSTLY)


def _is_alone(plan: Plan) -> bool:
    """Whether the part gives the same rows each time it is run."""
    return not _open_tables(plan) and not _changes(plan)


def _changes(plan: Plan) -> bool:
    return any(map(is_volatile, expressions_of(plan))) or any(map(_changes, plan.children))


def _open_tables(plan: Plan) -> set[int]:
    """Numbers of the recursions around the part whose last round it reads."""
    if isinstance(plan, WorkingTable):
        return {plan.number}
    found: set[int] = set().union(*map(_open_tables, plan.children))
    return found - {plan.number} if isinstance(plan, RecursiveUnion) else found


def _exchange(plan: Plan, shared: dict[Plan, int]) -> Plan:
    if isinstance(plan, Shared) or not plan.children:
        return plan
    children = tuple(_exchange(child, shared) for child in plan.children)
    same = all(new is old for new, old in zip(children, plan.children, strict=True))
    count = shared.get(plan) if _is_costly(plan) else None
    changed = plan if same else plan.with_children(children)
    return changed if count is None else Shared(changed, count)
