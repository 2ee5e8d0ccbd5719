"""What may run continuously: views and subscriptions to queries, and when their rows appear.

Refusals name the construct and the fix; every rule is checked on the bound plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.logical.functions import is_collected, is_volatile
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    DistinctOn,
    ExternalScan,
    Filter,
    GroupSets,
    Join,
    Limit,
    Plan,
    Project,
    Scan,
    Sort,
    TimeWindow,
    UnionAll,
    ViewScan,
)
from eventdb.logical.python_functions import calls_python
from eventdb.logical.relational import LimitValue, RecursiveUnion, SetOperation
from eventdb.logical.subqueries import Apply, holds_subquery
from eventdb.logical.windows import window_of
from eventdb.sql.context import Context
from eventdb.sql.statements import TableInfo

_REFUSED = {
    Join: ("a join in a continuous query", "join when you read the view"),
    Sort: ("ORDER BY in a continuous query", "sort when you read it: SELECT * FROM view ORDER BY ..."),
    Limit: ("LIMIT in a continuous query", "limit when you read it: SELECT * FROM view LIMIT ..."),
    LimitValue: ("LIMIT in a continuous query", "limit when you read it: SELECT * FROM view LIMIT ..."),
    Distinct: ("DISTINCT in a continuous query", "GROUP BY the columns instead"),
    SetOperation: ("INTERSECT or EXCEPT in a continuous query", "create one view for each side"),
    RecursiveUnion: ("WITH RECURSIVE in a continuous query", "run it when you read the view"),
    Apply: ("LATERAL in a continuous query", "join when you read the view"),
    DistinctOn: ("DISTINCT ON in a continuous query", "apply it when you read the view"),
    Over: ("a window function (OVER) in a continuous query", "compute it when you read the view"),
    GroupSets: ("GROUPING SETS, ROLLUP and CUBE in a continuous query", "create one view for each grouping"),
    UnionAll: ("UNION ALL in a continuous query", "create one view for each branch"),
    ViewScan: ("a continuous query over a view", "query the view's topic"),
    ExternalScan: ("a continuous query over a file or a Python object", "load its rows into a topic first"),
}


@dataclass(frozen=True, slots=True)
class Continuous:
    """The one topic a continuous query reads, and its emission ('window_close', 'update' or None)."""

    topic: TableInfo
    emit: str | None


def check_continuous(context: Context, plan: Plan, emit: str | None, where: object) -> Continuous:
    """Refuse what cannot be maintained, and settle the emission (`emit` as written, None for the default)."""
    aggregate: Aggregate | None = None
    node = plan
    while not isinstance(node, Scan):
        refusal = _REFUSED.get(type(node))
        if refusal is not None:
            context.unsupported(refusal[0], where, refusal[1])
        if isinstance(node, Aggregate):
            if aggregate is not None:
                context.unsupported("an aggregate over an aggregate in a continuous query", where)
            kept = next((a for a in node.aggregations if is_collected(a)), None)
            if kept is not None:
                fix = "compute it when you read the topic: it needs all rows of a group together"
                context.unsupported(f"{kept} in a continuous query", where, fix)
            aggregate = node
        elif not isinstance(node, (Filter, Project, TimeWindow)):
            context.unsupported("a continuous query without a topic", where, "select FROM a topic")
        for expression in expressions_of(node):
            if holds_subquery(expression):
                context.unsupported("a subquery in a continuous query", where, "compare when you read the view")
            if calls_python(expression):
                context.unsupported(
                    "a Python function in a continuous query", where,
                    "other processes that keep the view do not have it: call it when you read the view, or store its "
                    "value in the topic",
                )  # fmt: skip
            if is_volatile(expression):
                context.unsupported(
                    "now() in a continuous query", where, "use the event time of the rows, or filter when you read it"
                )
        node = node.children[0]
    topic = context.resolver.table(node.name)
    if "_headers" in node.columns:
        context.unsupported("_headers in a continuous query", where, "read them with topic.read()")
    refuse_table(context, topic, where)
    if aggregate is None:
        if emit == "window_close":
            context.fail("EMIT ON WINDOW CLOSE needs a GROUP BY over a window; this query has no aggregate", where)
        return Continuous(topic, None)
    return Continuous(topic, _emission(context, aggregate, topic, emit, where))


def refuse_table(context: Context, table: TableInfo, where: object) -> None:
    """UnsupportedSQL for a table: its rows are revised, which continuous queries do not follow yet."""
    if table.kind == "table":
        context.unsupported(
            f"a continuous query over the table {table.name!r}", where,
            "query it with SELECT, or read its changes with db.table(...).read()",
        )  # fmt: skip


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
