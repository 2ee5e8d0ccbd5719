"""How many rows a plan gives, roughly, from what is known of the scans below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eventdb.logical.expressions import Call, ColumnRef, Expression, InList
from eventdb.logical.plan import Aggregate, Filter, Join, Limit, Plan, Project, Scan, Values
from eventdb.logical.predicates import terms_of

_SHARES = {"eq": 0.1, "is_null": 0.1, "like": 0.2, "ilike": 0.2, "ne": 0.9, "is_not_null": 0.95}
_RANGE = 1 / 3
_IN = 0.2
_LEAST_SHARE = 0.01
_SEMI = 0.3
_GROUPS = 0.3


class Statistics(Protocol):
    """What is known of stored rows without reading them all."""

    def row_count(self, scan: Scan) -> int:
        """At most so many rows come from the scan."""

    def distinct_count(self, scan: Scan, column: int) -> int | None:
        """At most so many values field `column` of a scan has; None = not known."""


def row_count(plan: Plan, statistics: Statistics) -> float:
    """The estimate. Never negative."""
    if isinstance(plan, Scan):
        return float(statistics.row_count(plan))
    if isinstance(plan, Values):
        return float(len(plan.rows))
    below = [row_count(child, statistics) for child in plan.children]
    if not below:
        return 1_000.0
    if isinstance(plan, Filter):
        return below[0] * _share(plan.predicate)
    if isinstance(plan, Limit) and plan.row_count is not None:
        return min(below[0], float(plan.row_count))
    if isinstance(plan, Aggregate):
        return below[0] * _GROUPS if plan.keys else 1.0
    if isinstance(plan, Join):
        if plan.kind in ("semi", "anti"):
            return below[0] * _SEMI
        return max(below) if plan.left_keys else below[0] * below[1]
    return sum(below)


def whole_count(plan: Plan, statistics: Statistics) -> float:
    """The estimate without the filters and semi joins at the top of a plan."""
    while isinstance(plan, Filter | Project) or (isinstance(plan, Join) and plan.kind in ("semi", "anti")):
        plan = plan.children[0]
    return row_count(plan, statistics)


def _share(predicate: Expression) -> float:
    """The part of the rows that a predicate keeps."""
    share = 1.0
    for term in terms_of(predicate):
        if isinstance(term, InList):
            share *= 1 - _IN if term.negated else _IN
        elif isinstance(term, Call):
            share *= _SHARES.get(term.function, _RANGE)
        else:
            share *= _RANGE
    return max(share, _LEAST_SHARE)


def may_be_unique(plan: Plan, keys: Sequence[Expression], statistics: Statistics) -> bool:
    """Whether the values of `keys` may differ in (nearly) all rows: not if there are far fewer than rows below."""
    total = 1
    scan = None
    for key in keys:
        found = _source(plan, key.index) if isinstance(key, ColumnRef) else None
        if found is None:
            return True
        scan, column = found
        count = statistics.distinct_count(scan, column)
        if count is None:
            return True
        total *= count
    return scan is None or 2 * total >= statistics.row_count(scan)


def _source(plan: Plan, index: int) -> tuple[Scan, int] | None:
    """The scan and the field of it that field `index` of a plan passes on; None where that is computed or grouped."""
    while not isinstance(plan, Scan):
        if isinstance(plan, Project):
            expression = plan.expressions[index]
            if not isinstance(expression, ColumnRef):
                return None
            plan, index = plan.input, expression.index
        elif isinstance(plan, Filter) or (isinstance(plan, Join) and index < len(plan.left.fields)):
            plan = plan.children[0]
        else:
            return None
    return plan, index
