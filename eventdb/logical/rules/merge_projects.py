"""Project over Project becomes one Project, and a Project that changes nothing disappears.

An inner expression that costs something is merged only if it is used once, so nothing is computed twice.
"""

from __future__ import annotations

from eventdb.logical.expressions import ColumnRef, Literal, substitute, walk
from eventdb.logical.plan import Plan, Project, transform_plan


def merge_projects(plan: Plan) -> Plan:
    return transform_plan(plan, _merge)


def _merge(plan: Plan) -> Plan:
    if not isinstance(plan, Project):
        return plan
    inner = plan.input
    if isinstance(inner, Project) and _is_cheap(plan, inner):
        merged = tuple(substitute(expression, inner.expressions) for expression in plan.expressions)
        plan = Project(inner.input, merged, plan.output)
    return plan.input if isinstance(plan, Project) and _is_identity(plan) else plan


def _is_cheap(outer: Project, inner: Project) -> bool:
    uses: dict[int, int] = {}
    for expression in outer.expressions:
        for node in walk(expression):
            if isinstance(node, ColumnRef):
                uses[node.index] = uses.get(node.index, 0) + 1
    return all(
        count == 1 or isinstance(inner.expressions[index], (ColumnRef, Literal)) for index, count in uses.items()
    )


def _is_identity(plan: Project) -> bool:
    below = plan.input.fields
    if len(below) != len(plan.expressions):
        return False
    return all(
        isinstance(e, ColumnRef) and e.index == i and plan.output[i].name == below[i].name
        for i, e in enumerate(plan.expressions)
    )
