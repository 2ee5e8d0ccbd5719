"""How many rows a plan has at most, known from the ends of the logs before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    Filter,
    Join,
    Limit,
    Plan,
    Project,
    Scan,
    Sort,
    UnionAll,
    Values,
)
from eventdb.logical.relational import LimitBy, Shared, WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.physical.fused import scanned_rows


def is_small(plan: Plan, context: QueryContext, rows: int) -> bool:
    """Whether no operator of the plan can give more rows than that; False where it is not known."""
    bound = most_rows(plan, context)
    return bound is not None and bound <= rows and all(is_small(child, context, rows) for child in plan.children)


def most_rows(plan: Plan, context: QueryContext) -> int | None:
    """A bound of the rows of a plan; None if there is none."""
    bound = _BOUNDS.get(type(plan))
    return None if bound is None else bound(plan, context)


def _of_input(plan: Any, context: QueryContext) -> int | None:
    return most_rows(plan.children[0], context)


def _of_limit(plan: Limit, context: QueryContext) -> int | None:
    below = most_rows(plan.input, context)
    rest = None if below is None else max(0, below - plan.skip_count)
    if plan.row_count is None or rest is None:
        return rest if plan.row_count is None else plan.row_count
    return min(plan.row_count, rest)


def _of_join(plan: Join, context: QueryContext) -> int | None:
    left, right = most_rows(plan.left, context), most_rows(plan.right, context)
    if plan.kind in ("semi", "anti", "mark", "single"):
        return left
    if left is None or right is None:
        return None
    return {"inner": left * right, "left": left * max(right, 1)}.get(plan.kind, left * right + left + right)


def _of_union(plan: UnionAll, context: QueryContext) -> int | None:
    parts = [most_rows(part, context) for part in plan.inputs]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _of_working(plan: WorkingTable, context: QueryContext) -> int | None:
    """Of rows that are held; a round of a recursion may have any number."""
    return sum(map(len, context.working[plan.number])) if plan.number < 0 else None


_BOUNDS: dict[type[Plan], Callable[[Any, QueryContext], int | None]] = {
    Scan: scanned_rows,
    Values: lambda plan, context: len(plan.rows),
    Filter: _of_input,
    Project: _of_input,
    Sort: _of_input,
    Shared: _of_input,
    Distinct: _of_input,
    LimitBy: _of_input,
    Aggregate: lambda plan, context: _of_input(plan, context) if plan.keys else 1,
    Limit: _of_limit,
    Join: _of_join,
    UnionAll: _of_union,
    WorkingTable: _of_working,
}
