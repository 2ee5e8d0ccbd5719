"""What a circuit may keep: a join of two topics keeps the rows of both for ever, unless something bounds them."""

from __future__ import annotations

from collections.abc import Callable

from eventdb.errors import UnsupportedSQL
from eventdb.logical.plan import Aggregate, Distinct, DistinctOn, GroupSets, Join, Plan, Scan

_KEPT_ONCE = (Aggregate, Distinct, DistinctOn, GroupSets)
"""Nodes with a row per key: what is kept of them grows with the keys, not with the events."""


def refuse_unbounded(plan: Plan, is_table: Callable[[int], bool]) -> None:
    """UnsupportedSQL for a join of two sides that both have a row per event of a topic."""
    if isinstance(plan, Join) and _grows(plan.left, is_table) and _grows(plan.right, is_table):
        raise UnsupportedSQL(
            "a continuous join of two topics keeps all events of both: join a topic with a table or with a GROUP BY, "
            "or say how much it may keep: CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' AS ...",
            construct="a join of two topics without a bound",
        )
    for child in plan.children:
        refuse_unbounded(child, is_table)


def _grows(plan: Plan, is_table: Callable[[int], bool]) -> bool:
    if isinstance(plan, Scan):
        return not is_table(plan.topic_id)
    return not isinstance(plan, _KEPT_ONCE) and any(_grows(child, is_table) for child in plan.children)
