"""EXPLAIN (FORMAT JSON): the plan for programs. One JSON object, whose fields stay; later versions may add some.

    version         1
    logical         the optimised plan: a node
    physical        what runs: a node
    row_count       rows of the result          \\  both only
    elapsed_ms      from planning to the last   /   after ANALYZE

A node of either tree:

    operator        what it is ("Scan", "Join"; physical "LogScan", "HashJoin", "FusedAggregate")
    label           the line that EXPLAIN prints for it
    columns         its output: [{"name", "type" (SQL), "nullable"}]
    most_rows       it returns so many rows at most; null where nothing says
    children        nodes

and of the physical tree also:

    engine          "interpreted" or "compiled"
    actual          after ANALYZE, else null: {"row_count", "batch_count", "own_ms" (in it), "total_ms" (and below it),
                    "memory_bytes" (the most it held)}
"""

from __future__ import annotations

import json
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
from eventdb.logical.relational import LimitBy
from eventdb.physical.context import QueryContext
from eventdb.physical.fused import scanned_rows
from eventdb.physical.operator import Operator

VERSION = 1


def plan_json(
    plan: Plan, operator: Operator, context: QueryContext, row_count: int | None = None, elapsed_ms: float | None = None
) -> str:
    """The document of a plan and its operators; with `row_count` and `elapsed_ms` of one that was run and measured."""
    document: dict[str, Any] = {
        "version": VERSION,
        "logical": _logical(plan, context),
        "physical": _physical(operator, context, row_count is not None),
    }
    if row_count is not None:
        document |= {"row_count": row_count, "elapsed_ms": elapsed_ms}
    return json.dumps(document, indent=2, ensure_ascii=False)


def _logical(plan: Plan, context: QueryContext) -> dict[str, Any]:
    return {
        "operator": type(plan).__name__,
        "label": plan.label(),
        "columns": _columns(plan.fields),
        "most_rows": most_rows(plan, context),
        "children": [_logical(child, context) for child in plan.children],
    }


def _physical(operator: Operator, context: QueryContext, measured: bool) -> dict[str, Any]:
    plan = getattr(operator, "plan", None) or getattr(getattr(operator, "shape", None), "plan", None)
    actual = None
    if measured:
        metrics = context.metrics_of(operator)
        below_us = sum(context.metrics_of(child).elapsed_us for child in operator.children)
        actual = {
            "row_count": metrics.row_count,
            "batch_count": metrics.batch_count,
            "own_ms": max(0, metrics.elapsed_us - below_us) / 1000,
            "total_ms": metrics.elapsed_us / 1000,
            "memory_bytes": metrics.memory_bytes,
        }
    return {
        "operator": type(operator).__name__,
        "label": operator.label(),
        "engine": operator.engine,
        "columns": _columns(operator.fields),
        "most_rows": most_rows(plan, context) if isinstance(plan, Plan) else None,
        "actual": actual,
        "children": [_physical(child, context, measured) for child in operator.children],
    }


def _columns(fields: Any) -> list[dict[str, Any]]:
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in fields]


def most_rows(plan: Plan, context: QueryContext) -> int | None:
    """A bound of the rows of a plan; None if there is none."""
    bound = _BOUNDS.get(type(plan))
    return None if bound is None else bound(plan, context)


def _of_input(plan: Any, context: QueryContext) -> int | None:
    return most_rows(plan.children[0], context)


def _of_scan(plan: Scan, context: QueryContext) -> int | None:
    return len(plan.keys) if plan.keys is not None else scanned_rows(plan, context)


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


_BOUNDS: dict[type[Plan], Callable[[Any, QueryContext], int | None]] = {
    Scan: _of_scan,
    Values: lambda plan, context: len(plan.rows),
    Filter: _of_input,
    Project: _of_input,
    Sort: _of_input,
    Distinct: _of_input,
    LimitBy: _of_input,
    Aggregate: lambda plan, context: _of_input(plan, context) if plan.keys else 1,
    Limit: _of_limit,
    Join: _of_join,
    UnionAll: _of_union,
}
