"""The event-time window of a grouped query: which key it is and how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.logical.expressions import Call, ColumnRef, Expression, IntervalValue, Literal, columns_of, substitute
from eventdb.logical.plan import Aggregate, Filter, Plan, Project, Scan, TimeWindow


@dataclass(frozen=True, slots=True)
class WindowKey:
    """Key `key_index` of an Aggregate is the start, end or time ('bound') of windows of `size_us` every `slide_us`.

    `column` is the name of the Scan's column the windows are over, None if they are over something else.
    """

    key_index: int
    bound: str
    size_us: int
    slide_us: int
    column: str | None


def window_of(aggregate: Aggregate) -> WindowKey | None:
    """The window of an Aggregate, its start key if there is one; None if it groups by no TimeWindow or time_bucket."""
    found: list[WindowKey] = []
    for index, key in enumerate(aggregate.keys):
        window = _trace(aggregate.input, key, index)
        if window is not None:
            found.append(window)
    order = {"start": 0, "end": 1, "time": 2}
    return min(found, key=lambda window: order[window.bound], default=None)


def _trace(plan: Plan, expression: Expression, index: int) -> WindowKey | None:
    while True:
        if isinstance(plan, Filter):
            plan = plan.input
        elif isinstance(plan, Project):
            expression, plan = substitute(expression, plan.expressions), plan.input
        elif isinstance(plan, TimeWindow):
            width = len(plan.input.fields)
            if isinstance(expression, ColumnRef) and expression.index >= width:
                bound = ("start", "end", "time")[expression.index - width]
                return WindowKey(index, bound, plan.size_us, plan.slide_us, _column(plan.input, plan.time))
            if any(column >= width for column in columns_of(expression)):
                return None
            plan = plan.input
        else:
            break
    if isinstance(expression, Call) and expression.function == "time_bucket":
        width_us = expression.args[0].value if isinstance(expression.args[0], Literal) else None
        if isinstance(width_us, IntervalValue):
            size = width_us.microseconds
            return WindowKey(index, "start", size, size, _column(plan, expression.args[1]))
    return None


def _column(plan: Plan, expression: Expression) -> str | None:
    """The Scan column an expression is, through filters and projections."""
    while isinstance(plan, (Filter, Project)):
        if isinstance(plan, Project):
            expression = substitute(expression, plan.expressions)
        plan = plan.input
    if isinstance(plan, Scan) and isinstance(expression, ColumnRef):
        return plan.columns[expression.index]
    return None
