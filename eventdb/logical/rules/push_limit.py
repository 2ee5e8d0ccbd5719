"""Limits move below Project, and a file or each input of a UnionAll gives no more rows than the limit can use."""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.plan import ExternalScan, Limit, Plan, Project, UnionAll


def push_limit(plan: Plan) -> Plan:
    if isinstance(plan, Limit):
        plan = _push(plan)
    children = plan.children
    changed = tuple(push_limit(child) for child in children)
    if any(new is not old for new, old in zip(changed, children, strict=True)):
        plan = plan.with_children(changed)
    return plan


def _push(plan: Limit) -> Plan:
    below = plan.input
    if isinstance(below, Project):
        return replace(below, input=_push(replace(plan, input=below.input)))
    if isinstance(below, ExternalScan) and plan.row_count is not None:
        return replace(plan, input=replace(below, limit=plan.row_count + plan.skip_count))
    if isinstance(below, UnionAll) and plan.row_count is not None:
        most = plan.row_count + plan.skip_count
        return replace(plan, input=replace(below, inputs=tuple(_capped(child, most) for child in below.inputs)))
    return plan


def _capped(plan: Plan, most: int) -> Plan:
    inner = plan
    while isinstance(inner, Project):
        inner = inner.input
    if isinstance(inner, Limit) and inner.row_count is not None and inner.row_count <= most:
        return plan
    return Limit(plan, most)
