"""A continuous query's plan, taken apart: what happens to a row before its group, the groups, what happens after.

The shape is Scan of one topic -> Filter, Project, TimeWindow -> optional Aggregate -> Filter, Project. `analyse` finds
the window a group belongs to by following the event-time column upwards: through TUMBLE and HOP's window columns, and
through `time_bucket` and `date_trunc` of the event time. That decides when a group can never change again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import Array
from eventdb.errors import InternalError, UnsupportedError, UnsupportedSQL
from eventdb.logical.expressions import Call, ColumnRef, Expression, IntervalValue, Literal
from eventdb.logical.functions import is_collected, is_volatile
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    DistinctOn,
    ExternalScan,
    Fields,
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
    Values,
    ViewScan,
)
from eventdb.schema import Schema

if TYPE_CHECKING:
    from eventdb.definitions import TopicInfo

_TRUNC_US = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 7 * 86_400_000_000,
}
_TRUNC_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_SHORTEST_MONTH_US = 28 * 86_400_000_000

APPEND, WINDOW_CLOSE, UPDATE = "append", "window_close", "update"

_FIXES = {
    Sort: ("ORDER BY", "a view is a set of rows: order it where you read it, SELECT ... FROM view ORDER BY ..."),
    Limit: ("LIMIT", "limit the rows where you read the view"),
    Join: ("JOIN", "this version maintains views over one topic; join where you read the view"),
    UnionAll: ("UNION ALL", "create one view per topic and unite them where you read them"),
    ViewScan: ("a view over a view", "write the inner view's query in the FROM clause instead"),
    ExternalScan: ("a file or object", "a view reads a topic; load it: INSERT INTO topic SELECT * FROM 'file'"),
    Values: ("a query without a topic", "a continuous query reads one topic: SELECT ... FROM topic"),
    Aggregate: ("an aggregate of an aggregate", "create a view of the inner query and aggregate that when reading"),
    DistinctOn: ("DISTINCT ON", "apply it where you read the view"),
    Over: ("a window function (OVER)", "compute it where you read the view"),
    GroupSets: ("GROUPING SETS", "create one view for each grouping"),
    Distinct: ("DISTINCT over an aggregate", "apply DISTINCT where you read the view"),
    TimeWindow: ("a window over an aggregate", "use one TUMBLE or HOP, directly over the topic"),
}


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What a continuous query must know of its input topic.

    `idle_after_us` is for queries over several inputs: with one input there is no other topic to wait for, so it has no
    effect here.
    """

    id: int
    name: str
    schema: Schema
    key: str | None = None
    event_time: str | None = None
    watermark_delay_us: int | None = None
    idle_after_us: int | None = None
    max_future_us: int | None = None

    @staticmethod
    def of(info: TopicInfo) -> TopicFacts:
        """UnsupportedError for a topic of several partitions: their rows have no common order."""
        if info.partitions > 1:
            raise UnsupportedError(
                f"event-time windows, and changes in the order of offsets, over topic {info.name!r}, which has "
                f"{info.partitions} partitions: this version has them for topics of one partition; a view that revises "
                "its rows (EMIT ON UPDATE) can read several",
                construct="partitions",
            )
        return TopicFacts(
            info.id,
            info.name,
            info.schema,
            info.key,
            info.event_time,
            info.watermark_delay_us,
            info.idle_after_us,
            info.max_future_us,
        )


@dataclass(frozen=True, slots=True)
class WindowKey:
    """Group key `position` plus `to_end_months` calendar months plus `to_end_us` is the end of the group's window.

    `size_us` is the length of the window, of the shortest one where months differ.
    """

    position: int
    to_end_us: int
    size_us: int
    to_end_months: int = 0

    def ends(self, keys: Array) -> Array:
        """The int64 window ends of the int64 values of that key."""
        if self.to_end_months:
            months = keys.astype("datetime64[us]").astype("datetime64[M]") + np.timedelta64(self.to_end_months, "M")
            keys = months.astype("datetime64[us]").astype(np.int64)
        return keys + self.to_end_us if self.to_end_us else keys


@dataclass(frozen=True, slots=True)
class Program:
    """`before` and `after` run first to last. Without `aggregate`, `after` is empty.

    `window` is set when the topic has a watermark and every group lies in one event-time window; only then can rows be
    late. `emission` is 'append' (each row's own output), 'window_close' or 'update'. With `skips_broken_rows` rows that
    break an expression are left out; only their event times count.
    """

    scan: Scan
    before: tuple[Plan, ...]
    aggregate: Aggregate | None
    after: tuple[Plan, ...]
    fields: Fields
    facts: TopicFacts
    emission: str
    grace_us: int
    window: WindowKey | None
    skips_broken_rows: bool = False
    names: tuple[str, ...] = field(init=False)
    picked: tuple[int, ...] | None = field(init=False)
    """Positions in the topic's schema when every row is handed on as these columns and nothing else is done."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "picked", _picked(self))
        object.__setattr__(self, "names", tuple(field.name for field in self.fields))


@dataclass(frozen=True, slots=True)
class _Origin:
    """A column that is the event time (`size_us` 0) or, with months and `to_end_us` added, the end of a window."""

    to_end_us: int = 0
    size_us: int = 0
    to_end_months: int = 0


def analyse(plan: Plan, facts: TopicFacts, emit: str | None = None, grace_us: int = 0) -> Program:
    """The program of a bound plan over the topic `facts` describe.

    `emit` is 'window_close', 'update' or None for the default: window_close for windows over a topic with a watermark,
    update for other aggregates, append without aggregate. UnsupportedSQL names what cannot be maintained, and the fix.
    """
    scan, before, aggregate, after = _take_apart(plan)
    if scan.topic_id != facts.id:
        raise InternalError(f"the plan reads topic {scan.topic_id}, the facts are of topic {facts.id}")
    _refuse_volatile((*before, *((aggregate,) if aggregate is not None else ()), *after))
    window = None
    if facts.event_time is not None and facts.watermark_delay_us is not None and aggregate is not None:
        window = _window_of(aggregate.keys, _follow(scan, before, facts))
    emission = _emission_of(emit, facts, aggregate, window)
    return Program(scan, before, aggregate, after, plan.fields, facts, emission, grace_us, window)


def _take_apart(plan: Plan) -> tuple[Scan, tuple[Plan, ...], Aggregate | None, tuple[Plan, ...]]:
    above: list[Plan] = []
    below: list[Plan] = []
    aggregate: Aggregate | None = None
    windowed = False
    node = plan
    while not isinstance(node, Scan):
        if isinstance(node, Distinct) and aggregate is None and _has_no_aggregate(node.input):
            keys = tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(node.fields))
            aggregate, above, below = Aggregate(node.input, keys, (), node.fields), below, []
        elif isinstance(node, Aggregate) and aggregate is None and not any(map(is_collected, node.aggregations)):
            aggregate, above, below = node, below, []
        elif isinstance(node, Filter | Project) or (isinstance(node, TimeWindow) and not windowed):
            windowed = windowed or isinstance(node, TimeWindow)
            below.append(node)
        else:
            raise _unsupported(node)
        node = node.children[0]
    if any(isinstance(step, TimeWindow) for step in above):
        raise _unsupported(next(step for step in above if isinstance(step, TimeWindow)))
    return node, tuple(reversed(below)), aggregate, tuple(reversed(above))


def _has_no_aggregate(plan: Plan) -> bool:
    return not isinstance(plan, Aggregate | Distinct) and all(_has_no_aggregate(child) for child in plan.children)


def _unsupported(node: Plan) -> UnsupportedSQL:
    for kept in filter(is_collected, node.aggregations if isinstance(node, Aggregate) else ()):
        return UnsupportedSQL(
            f"{kept} in a continuous query is not supported: it needs all rows of a group together", construct=str(kept)
        )
    unknown = (type(node).__name__, "maintain a simpler query and finish it when reading")
    construct, fix = _FIXES.get(type(node), unknown)
    return UnsupportedSQL(f"{construct} in a continuous query is not supported: {fix}", construct=construct)


def _refuse_volatile(steps: tuple[Plan, ...]) -> None:
    for expression in (e for step in steps for e in expressions_of(step)):
        if is_volatile(expression):
            raise UnsupportedSQL(
                f"{expression} in a continuous query is not supported: its rows would depend on when they are "
                "maintained; filter by now() where you read the view",
                construct="now()",
            )


def _follow(scan: Scan, before: tuple[Plan, ...], facts: TopicFacts) -> list[_Origin | None]:
    """For each column that reaches the groups, how it comes from the event time."""
    assert facts.event_time is not None
    names = (facts.event_time.lower(), "_time")
    columns = [_Origin() if name.lower() in names else None for name in scan.columns]
    for step in before:
        if isinstance(step, TimeWindow):
            source = _origin_of(step.time, columns)
            known = source is not None and not source.size_us
            size = step.size_us
            columns += [_Origin(d, size) if known else None for d in (size, 0, 1)]
        elif isinstance(step, Project):
            columns = [_origin_of(expression, columns) for expression in step.expressions]
    return columns


def _origin_of(expression: Expression, columns: list[_Origin | None]) -> _Origin | None:
    if isinstance(expression, ColumnRef):
        return columns[expression.index]
    if not isinstance(expression, Call) or len(expression.args) != 2:
        return None
    width, time = expression.args
    if expression.function == "add" and isinstance(time, Literal):  # the end of TUMBLE: its start plus its size
        source = _origin_of(width, columns)
        if source is None or not source.size_us or source.to_end_months:
            return None
        if not isinstance(time.value, IntervalValue) or time.value.months:
            return None
        return _Origin(source.to_end_us - time.value.microseconds, source.size_us)
    source = _origin_of(time, columns)
    if source is None or source.size_us or not isinstance(width, Literal) or width.value is None:
        return None
    unit = str(width.value).lower()
    size_us = months = 0
    if expression.function == "time_bucket" and isinstance(width.value, IntervalValue) and not width.value.months:
        size_us = width.value.microseconds
    elif expression.function == "month_bucket":
        months = width.value
    elif expression.function == "date_trunc":
        size_us, months = _TRUNC_US.get(unit, 0), _TRUNC_MONTHS.get(unit, 0)
    if months > 0:
        return _Origin(0, months * _SHORTEST_MONTH_US, months)
    return _Origin(size_us, size_us) if size_us > 0 else None


def _window_of(keys: tuple[Expression, ...], columns: list[_Origin | None]) -> WindowKey | None:
    """The smallest window among the keys: once it is over, no row can reach the group."""
    found = []
    for position, key in enumerate(keys):
        origin = _origin_of(key, columns)
        if origin is not None and origin.size_us and key.type.name == "TIMESTAMP":
            found.append(WindowKey(position, origin.to_end_us, origin.size_us, origin.to_end_months))
    return min(found, key=lambda window: window.size_us, default=None)


def _emission_of(emit: str | None, facts: TopicFacts, aggregate: Aggregate | None, window: WindowKey | None) -> str:
    if emit is None:
        return APPEND if aggregate is None else UPDATE if window is None else WINDOW_CLOSE
    if emit not in (WINDOW_CLOSE, UPDATE):
        raise InternalError(f"unknown emission {emit!r}")
    if emit == UPDATE:
        return APPEND if aggregate is None else UPDATE
    if window is not None:
        return WINDOW_CLOSE
    if aggregate is None:
        fix = "the query has no GROUP BY: leave EMIT out, each row is emitted as it comes"
    elif facts.event_time is None or facts.watermark_delay_us is None:
        fix = (
            f"topic {facts.name} has no watermark, so no window ever closes: create it with "
            "TIMESTAMP (ts), WATERMARK FOR ts AS ts - INTERVAL '5 seconds', or use EMIT ON UPDATE"
        )
    else:
        fix = (
            f"no GROUP BY key is a window of the event time {facts.event_time}: group by window_start or window_end of "
            "TUMBLE or HOP, or by time_bucket of it, or use EMIT ON UPDATE"
        )
    raise UnsupportedSQL(f"EMIT ON WINDOW CLOSE is not possible here: {fix}", construct="EMIT ON WINDOW CLOSE")


def _picked(program: Program) -> tuple[int, ...] | None:
    scan = program.scan
    if program.emission != APPEND or scan.start_offset is not None or scan.stop_offset is not None:
        return None
    names = list(scan.columns)
    for step in program.before:
        if not isinstance(step, Project):
            return None
        columns = [e for e in step.expressions if isinstance(e, ColumnRef)]
        if len(columns) < len(step.expressions):
            return None
        names = [names[column.index] for column in columns]
    positions = [program.facts.schema.find(name) for name in names]
    found = tuple(position for position in positions if position is not None)
    return found if len(found) == len(names) else None


def whole_topic(facts: TopicFacts, fields: Fields) -> Program:
    """The program that hands on every row of a topic (SUBSCRIBE TO topic)."""
    scan = Scan(facts.id, facts.name, tuple(field.name for field in fields), fields)
    return Program(scan, (), None, (), fields, facts, APPEND, 0, None)
