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
from typing import Any

from eventdb.logical.plan import Plan
from eventdb.physical.bounds import most_rows
from eventdb.physical.context import QueryContext
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
