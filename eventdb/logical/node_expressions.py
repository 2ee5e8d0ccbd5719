"""The expressions a plan node holds itself, not its children: to look at, and to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from eventdb.logical.expressions import Expression, SortKey
from eventdb.logical.over import Over
from eventdb.logical.plan import Aggregate, DistinctOn, Filter, GroupSets, Join, Plan, Project, Sort, TimeWindow
from eventdb.logical.relational import LimitBy
from eventdb.logical.series import Series


def expressions_of(plan: Plan) -> Iterator[Expression]:
    """A node's own expressions."""
    if isinstance(plan, Filter):
        yield plan.predicate
    elif isinstance(plan, Project):
        yield from plan.expressions
    elif isinstance(plan, TimeWindow):
        yield plan.time
    elif isinstance(plan, Series):
        yield from (plan.start, plan.stop, plan.step)
    elif isinstance(plan, Sort):
        for key in plan.keys:
            yield key.expression
    elif isinstance(plan, Join):
        yield from (*plan.left_keys, *plan.right_keys)
        yield from (part for part in (plan.residual, plan.compared) if part is not None)
    elif isinstance(plan, LimitBy | DistinctOn):
        yield from plan.keys
    elif isinstance(plan, Over):
        for call in plan.calls:
            yield from call.expressions()
    elif isinstance(plan, Aggregate | GroupSets):
        yield from plan.keys
        for aggregation in plan.aggregations:
            yield from aggregation.expressions()


def map_expressions(plan: Plan, change: Callable[[Expression], Expression]) -> Plan:
    """The node with `change` applied to each of its own expressions; the same object when nothing changed."""

    def all_of(expressions: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return tuple(change(e) for e in expressions)

    new: Plan = plan
    if isinstance(plan, Filter):
        new = replace(plan, predicate=change(plan.predicate))
    elif isinstance(plan, Project):
        new = replace(plan, expressions=all_of(plan.expressions))
    elif isinstance(plan, TimeWindow):
        new = replace(plan, time=change(plan.time))
    elif isinstance(plan, Series):
        new = replace(plan, start=change(plan.start), stop=change(plan.stop), step=change(plan.step))
    elif isinstance(plan, Sort):
        new = replace(plan, keys=tuple(SortKey(change(k.expression), k.descending, k.nulls_first) for k in plan.keys))
    elif isinstance(plan, Join):
        residual, compared = (None if part is None else change(part) for part in (plan.residual, plan.compared))
        keys = all_of(plan.left_keys), all_of(plan.right_keys)
        new = replace(plan, left_keys=keys[0], right_keys=keys[1], residual=residual, compared=compared)
    elif isinstance(plan, LimitBy | DistinctOn):
        new = replace(plan, keys=all_of(plan.keys))
    elif isinstance(plan, Over):
        new = replace(plan, calls=tuple(call.map(change) for call in plan.calls))
    elif isinstance(plan, Aggregate | GroupSets):
        aggregations = tuple(aggregation.map(change) for aggregation in plan.aggregations)
        new = replace(plan, keys=all_of(plan.keys), aggregations=aggregations)
    return plan if new == plan else new
