"""A group key that is computed from another key alone is not grouped by but computed afterwards.

GROUP BY window_start, window_end groups by the start only: the end is always the start plus the width.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import ColumnRef, Expression, Literal, columns_of, substitute, transform
from eventdb.logical.plan import Aggregate, Plan, Project, transform_plan


def drop_dependent_keys(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, Aggregate) or len(plan.keys) < 2:
        return plan
    keys = plan.keys
    if isinstance(plan.input, Project):  # look through the projection: that is where windows are computed
        keys = tuple(substitute(key, plan.input.expressions) for key in keys)
    kept = list(range(len(keys)))
    for i in range(len(keys) - 1, -1, -1):
        others = [j for j in kept if j != i]
        if others and not isinstance(keys[i], (ColumnRef, Literal)) and _over(keys[i], keys, others) is not None:
            kept = others
    if len(kept) == len(keys):
        return plan
    return _rebuild(plan, keys, kept)


def _over(key: Expression, keys: tuple[Expression, ...], others: list[int]) -> Expression | None:
    """The key as an expression over the other keys' positions, None if it needs anything else.

    Not over floats: -0.0 and 0.0 are one group but not one value to every function.
    """
    marker = {keys[j]: ColumnRef(keys[j].type, -1 - j, str(keys[j])) for j in others if not keys[j].type.is_float}

    def swap(node: Expression) -> Expression:
        if node in marker:
            return marker[node]
        children = node.children()
        return node.with_children(tuple(swap(child) for child in children)) if children else node

    swapped = swap(key)
    return swapped if all(index < 0 for index in columns_of(swapped)) and columns_of(swapped) else None


def _rebuild(plan: Aggregate, keys: tuple[Expression, ...], kept: list[int]) -> Plan:
    fields = plan.output
    key_count, new_count = len(keys), len(kept)
    grouped = replace(
        plan,
        keys=tuple(plan.keys[j] for j in kept),
        output=tuple(fields[j] for j in kept) + fields[key_count:],
    )
    place = {-1 - j: i for i, j in enumerate(kept)}
    expressions: list[Expression] = []
    for i in range(key_count):
        if i in kept:
            expressions.append(ColumnRef(fields[i].type, kept.index(i), fields[i].name))
            continue
        over = _over(keys[i], keys, kept)
        assert over is not None

        def move(node: Expression) -> Expression:
            if not isinstance(node, ColumnRef):
                return node
            index = place[node.index]
            return ColumnRef(node.type, index, grouped.output[index].name)

        expressions.append(transform(over, move))
    for offset, field in enumerate(fields[key_count:]):
        expressions.append(ColumnRef(field.type, new_count + offset, field.name))
    return Project(grouped, tuple(expressions), fields)
