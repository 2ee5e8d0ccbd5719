"""A tumbling TimeWindow is a projection: each row has exactly one window, so it needs no operator of its own."""

from __future__ import annotations

from eventdb.logical.expressions import Call, ColumnRef, Expression, IntervalValue, Literal
from eventdb.logical.functions import may_be_null
from eventdb.logical.plan import Filter, Plan, Project, TimeWindow, transform_plan
from eventdb.schema import BOOLEAN, INTERVAL, TIMESTAMP


def tumble_to_bucket(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, TimeWindow) or plan.size_us != plan.slide_us:
        return plan
    below = plan.input
    size = Literal(INTERVAL, IntervalValue(0, plan.size_us))
    start = Call(TIMESTAMP, "time_bucket", (size, plan.time))
    end = Call(TIMESTAMP, "add", (start, size))
    last = Call(TIMESTAMP, "add", (start, Literal(INTERVAL, IntervalValue(0, plan.size_us - 1))))
    if may_be_null(plan.time, [field.nullable for field in below.fields]):
        below = Filter(below, Call(BOOLEAN, "is_not_null", (plan.time,)))
    passed: list[Expression] = [ColumnRef(field.type, i, field.name) for i, field in enumerate(below.fields)]
    return Project(below, (*passed, start, end, last), plan.fields)
