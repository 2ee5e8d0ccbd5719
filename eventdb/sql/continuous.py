"""What may run continuously: views and subscriptions to queries, and when their rows appear.

Refusals name the construct and the fix; every rule is checked on the bound plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eventdb.logical.expressions import walk
from eventdb.logical.functions import is_collected, is_volatile
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.plan import (
    Aggregate,
    DistinctOn,
    ExternalScan,
    Filter,
    GroupSets,
    Limit,
    Plan,
    Project,
    Scan,
    Sort,
    TimeWindow,
    ViewScan,
)
from eventdb.logical.python_functions import PythonAggregation, calls_python
from eventdb.logical.relational import LimitBy, LimitValue
from eventdb.logical.subqueries import Subquery, holds_subquery
from eventdb.logical.windows import window_of
from eventdb.sql.context import Context
from eventdb.sql.statements import TableInfo

_REFUSED = {
    Sort: ("ORDER BY in a continuous query", "sort when you read it: SELECT * FROM view ORDER BY ..."),
    Limit: ("LIMIT without ORDER BY in a continuous query", "say by ORDER BY which rows it keeps"),
    LimitBy: ("LIMIT without ORDER BY in a continuous query", "say by ORDER BY which rows it keeps"),
    DistinctOn: ("DISTINCT ON without ORDER BY in a continuous query", "say by ORDER BY which row it keeps"),
    LimitValue: ("LIMIT without ORDER BY in a continuous query", "say by ORDER BY which rows it keeps"),
    ExternalScan: ("a continuous query over a file or a Python object", "load its rows into a topic first"),
}


_SORTED = (Limit, LimitValue, LimitBy, DistinctOn)


@dataclass(frozen=True, slots=True)
class Continuous:
    """`topic`: the one topic a query without joins reads, through at most one GROUP BY; None for others, whose rows are
    revised. `emit`: 'window_close', 'update' or None (each event's rows)."""

    topic: TableInfo | None
    emit: str | None


def check_continuous(context: Context, plan: Plan, emit: str | None, where: object) -> Continuous:
    """Refuse what cannot be maintained, and settle the emission (`emit` as written, None for the default)."""
    _check_nodes(context, plan, where)
    aggregates = [node for node in _nodes(plan) if isinstance(node, Aggregate)]
    topic = _only_topic(context, plan)
    if topic is None:
        return Continuous(None, _revised(context, plan, aggregates, emit))
    if not aggregates:
        if emit == "window_close":
            context.fail("EMIT ON WINDOW CLOSE needs a GROUP BY over a window; this query has no aggregate", where)
        return Continuous(topic, None)
    return Continuous(topic, _emission(context, aggregates[0], topic, emit, where))


def _nodes(plan: Plan) -> Iterator[Plan]:
    """All nodes of a plan, and of those in its subqueries."""
    yield plan
    for expression in expressions_of(plan):
        for part in walk(expression):
            if isinstance(part, Subquery):
                yield from _nodes(part.plan)
    for child in plan.children:
        yield from _nodes(child)


def _check_nodes(context: Context, plan: Plan, where: object) -> None:
    if isinstance(plan, Sort):
        context.unsupported(*_REFUSED[Sort][:1], where, _REFUSED[Sort][1])
    inputs = 0
    for node in _nodes(plan):
        if isinstance(node, ExternalScan) or (isinstance(node, _SORTED) and not _is_sorted(node)):
            construct, fix = _REFUSED[type(node)]
            context.unsupported(construct, where, fix)
        if isinstance(node, Scan | ViewScan):
            inputs += 1
            if "_headers" in node.columns:
                context.unsupported("_headers in a continuous query", where, "read them with topic.read()")
        if _calls_python(node):
            context.unsupported(
                "a Python function in a continuous query", where,
                "other processes that keep the view do not have it: call it when you read the view, or store its value "
                "in the topic",
            )  # fmt: skip
        for expression in expressions_of(node):
            if is_volatile(expression):
                context.unsupported(
                    "now() in a continuous query", where, "use the event time of the rows, or filter when you read it"
                )
    if not inputs:
        context.unsupported("a continuous query without a topic", where, "select FROM a topic")


def _calls_python(node: Plan) -> bool:
    aggregations = node.aggregations if isinstance(node, Aggregate | GroupSets) else ()
    return any(map(calls_python, expressions_of(node))) or any(isinstance(a, PythonAggregation) for a in aggregations)


def _is_sorted(plan: Plan) -> bool:
    """Whether ORDER BY says which rows LIMIT keeps."""
    node = plan.children[0]
    while isinstance(node, Project | Filter):
        node = node.input
    return isinstance(node, Sort)


def _only_topic(context: Context, plan: Plan) -> TableInfo | None:
    """The topic a plan without joins reads through at most one GROUP BY, whose aggregates are kept as numbers."""
    seen = False
    node = plan
    while not isinstance(node, Scan):
        if isinstance(node, Aggregate):
            if seen or any(map(is_collected, node.aggregations)):
                return None
            seen = True
        elif not isinstance(node, Filter | Project | TimeWindow) or any(map(holds_subquery, expressions_of(node))):
            return None
        node = node.children[0]
    topic = context.resolver.table(node.name)
    return topic if topic.kind == "topic" else None


def _revised(context: Context, plan: Plan, aggregates: list[Aggregate], emit: str | None) -> str:
    """The emission of a query of any shape: where it has windows over a topic with a watermark, rows wait for them to
    close. Whether they can is found when the query is planned."""
    if emit is not None:
        return emit
    topics = [node for node in _nodes(plan) if isinstance(node, Scan)]
    waits = any(context.resolver.table(scan.name).watermark_delay_us is not None for scan in topics)
    windows = any(isinstance(node, TimeWindow) for node in _nodes(plan))
    windows = windows or any(window_of(aggregate) is not None for aggregate in aggregates)
    return "window_close" if waits and windows else "update"


def _emission(context: Context, aggregate: Aggregate, topic: TableInfo, emit: str | None, where: object) -> str:
    window = window_of(aggregate)
    if emit == "update":
        return "update"
    if window is None:
        if emit == "window_close":
            context.fail(
                "EMIT ON WINDOW CLOSE needs a window: GROUP BY window_start of TUMBLE(topic, ts, INTERVAL '1 minute')",
                where,
            )
        return "update"
    if topic.watermark_delay_us is None:
        context.fail(
            f"a window over topic {topic.name!r} never closes: it has no WATERMARK; create the topic with "
            "WATERMARK FOR ts AS ts - INTERVAL '5 seconds', or write EMIT ON UPDATE",
            where,
        )
    if window.column is None or window.column.lower() != (topic.event_time or "").lower():
        context.fail(
            f"EMIT ON WINDOW CLOSE needs a window over {topic.event_time}, the column of the WATERMARK; "
            "or write EMIT ON UPDATE",
            where,
        )
    return "window_close"


def check_output(context: Context, plan: Plan, where: object) -> None:
    """BindError unless the plan's columns can be stored: distinct names, storable types, no system names."""
    seen: set[str] = set()
    for column in plan.fields:
        if not column.type.is_storable:
            context.fail(f"column {column.name!r} is {column.type}, which cannot be stored; add a CAST", where)
        if column.name.startswith("_"):
            context.fail(f"column {column.name!r}: names that begin with '_' are kept; give it an alias", where)
        if column.name.lower() in seen:
            context.fail(f"two columns are called {column.name!r}; give one an alias", where)
        seen.add(column.name.lower())
