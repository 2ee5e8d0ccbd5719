"""EMIT ON WINDOW CLOSE as a plan: where late rows are dropped, and where rows wait until their window has closed.

`close_windows` puts three nodes into a plan:

* `Late`: right above the windows over a topic. It drops the rows whose window was closed when they came; the mark
  before each row (how far event time had come) is a hidden last column from the Scan up to there.
* `Closed`: as far down as possible above that, at the first node that needs more than a row at a time. It holds back
  the rows of open windows. What is above it only ever sees all rows of a window, at once.
* `Ended`: at the top, the end of each row's window as a hidden last column.

So a node above `Closed` must not bring windows together: the rows of a window are a function of the rows that go into
it and end with it. That is checked by following the window's columns upwards: a GROUP BY or DISTINCT must have one, a
join compare those of its sides, an OVER be partitioned by one. A window over windows (TUMBLE over a window_time) opens
them again, and closes later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eventdb.errors import UnsupportedSQL
from eventdb.logical.aggregates import is_collected
from eventdb.logical.expressions import Call, ColumnRef, Expression, IntervalValue, Literal
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    DistinctOn,
    Fields,
    Filter,
    GroupSets,
    Join,
    OutputField,
    Plan,
    Project,
    Scan,
    Sort,
    TimeWindow,
    Unary,
    UnionAll,
    Values,
    ViewScan,
)
from eventdb.logical.relational import LimitBy, SetOperation
from eventdb.logical.series import Series
from eventdb.schema import TIMESTAMP

MARK, END = "_mark", "_end"
_MARK_FIELD = OutputField(MARK, TIMESTAMP, False)
_TRUNC_US = {
    "microsecond": 1, "millisecond": 1_000, "second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000,
    "day": 86_400_000_000, "week": 7 * 86_400_000_000,
}  # fmt: skip
_TRUNC_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_MONTH_US = 28 * 86_400_000_000
_FIX = "or write EMIT ON UPDATE"


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """`key` (over the input's fields) plus so many months and microseconds is the end of a row's window."""

    key: Expression
    to_end_us: int
    to_end_months: int = 0

    def __str__(self) -> str:
        return f"{self.key} + {self.to_end_months} months {self.to_end_us} us"


@dataclass(frozen=True, slots=True)
class Late(Unary):
    """Drops the rows of windows that were closed, `grace_us` after their end, by the mark in the last column; and those
    without a window, whose `end` is NULL."""

    end: WindowEnd
    grace_us: int

    def label(self) -> str:
        return f"Late {self.end} grace {self.grace_us} us"


@dataclass(frozen=True, slots=True)
class Closed(Unary):
    """The rows of windows that have closed, all rows of a window at once."""

    end: WindowEnd

    def label(self) -> str:
        return f"Closed {self.end}"


@dataclass(frozen=True, slots=True)
class Ended(Unary):
    """The rows with the end of their window as one more column."""

    end: WindowEnd

    @property
    def fields(self) -> Fields:
        return (*self.input.fields, OutputField(END, TIMESTAMP, False))

    def label(self) -> str:
        return f"Ended {self.end}"


def close_windows(plan: Plan, event_time: Callable[[Scan], str], grace_us: int) -> Plan:
    """The plan of the rows of closed windows, with the end of each row's window as one more column.

    `event_time` gives the event-time column of a topic that has a watermark, and raises for others. UnsupportedSQL,
    with the fix, where the window of a row of the result cannot be told.
    """
    return _Closing(event_time, grace_us).result(plan)


def has_closed(plan: Plan) -> bool:
    """Whether some rows below wait for their windows to close."""
    return isinstance(plan, Closed) or any(map(has_closed, plan.children))


@dataclass(frozen=True, slots=True)
class _Origin:
    """A column that is the event time (`size_us` 0), or from which the end of a window follows. Columns of one window
    have one `family`. `guarded`: late rows of that window are dropped already."""

    to_end_us: int = 0
    size_us: int = 0
    slide_us: int = 0
    to_end_months: int = 0
    family: int = -1
    guarded: bool = False

    def end(self, key: Expression) -> WindowEnd:
        return WindowEnd(key, self.to_end_us, self.to_end_months)

    def ends_with(self, other: _Origin | None) -> bool:
        return other is not None and (self.to_end_us, self.to_end_months) == (other.to_end_us, other.to_end_months)


_Origins = tuple[_Origin | None, ...]


@dataclass(frozen=True, slots=True)
class _Timed:
    """A plan and what its columns have to do with windows. `is_open`: its windows have not closed; else `family` is
    that of the windows that have. `is_marked`: it has the mark as one more column, behind `origins`. `is_static`: its
    rows never change."""

    plan: Plan
    origins: _Origins
    family: int = -1
    is_open: bool = False
    is_marked: bool = False
    is_static: bool = False


class _Closing:
    def __init__(self, event_time: Callable[[Scan], str], grace_us: int) -> None:
        self._event_time = event_time
        self._grace_us = grace_us
        self._families: dict[object, int] = {}

    def result(self, plan: Plan) -> Plan:
        timed = self._timed(plan)
        if timed.is_open and _smallest(timed.origins) is not None:
            timed = self._close(timed, plan)
        place = None if timed.is_open else _smallest(_only(timed.origins, timed.family))
        if place is not None:
            origin = timed.origins[place]
            assert origin is not None
            return Ended(timed.plan, origin.end(_column(timed.plan.fields, place)))
        # The result does not tell the windows of its rows: the rows below do, and it is made of one row at a time.
        if isinstance(plan, Filter):
            return replace(plan, input=self.result(plan.input))
        if isinstance(plan, Project):
            below = self.result(plan.input)
            return _with_last(plan, below)
        if isinstance(plan, UnionAll):
            inputs = tuple(self.result(child) for child in plan.inputs)
            return UnionAll(inputs, (*plan.output, OutputField(END, TIMESTAMP, False)))
        raise _unsupported("a query without a window", f"GROUP BY window_start or window_end of TUMBLE or HOP, {_FIX}")

    # --- the nodes --------------------------------------------------------------------------------------------------

    def _timed(self, plan: Plan) -> _Timed:
        if _is_static(plan):
            return _Timed(plan, (None,) * len(plan.fields), is_static=True)
        if isinstance(plan, Scan):
            names = (self._event_time(plan).lower(), "_time")
            origins = tuple(_Origin() if name.lower() in names else None for name in plan.columns)
            marked = replace(plan, columns=(*plan.columns, MARK), output=(*plan.output, _MARK_FIELD))
            return _Timed(marked, origins, is_open=True, is_marked=True)
        if isinstance(plan, Filter):
            below = self._timed(plan.input)
            return replace(below, plan=replace(plan, input=below.plan))
        if isinstance(plan, Project):
            below = self._timed(plan.input)
            origins = tuple(self._origin(e, below.origins) for e in plan.expressions)
            made = _with_last(plan, below.plan) if below.is_marked else replace(plan, input=below.plan)
            return replace(below, plan=made, origins=origins)
        if isinstance(plan, TimeWindow):
            return self._window(plan)
        if isinstance(plan, Series):
            below = self._timed(plan.input)
            series = replace(plan, input=below.plan)
            return replace(below, plan=_mark_last(series, below), origins=(*below.origins, None))
        if isinstance(plan, UnionAll):
            return self._union(plan)
        if isinstance(plan, Aggregate):
            return self._aggregate(plan)
        if isinstance(plan, Join):
            return self._join(plan)
        return self._other(plan)

    def _window(self, plan: TimeWindow) -> _Timed:
        below = self._timed(plan.input)
        time = self._origin(plan.time, below.origins)
        size, slide = plan.size_us, plan.slide_us
        family = self._family(("window", len(self._families)))
        bounds = tuple(_Origin(d, size, slide, 0, family, guarded=True) for d in (size, 0, 1))
        made: Plan = replace(plan, input=below.plan)
        if below.is_marked:
            if time is None or time.size_us:
                raise _unsupported(
                    f"a window over {plan.time}", f"it must be over the column of the topic's WATERMARK, {_FIX}"
                )
            made = _mark_last(made, below)
            end = bounds[1].end(_column(made.fields, len(below.origins) + 1))
            return _Timed(Late(made, end, self._grace_us), below.origins + bounds, is_open=True, is_marked=True)
        if time is None or not time.size_us or not _holds(time, size, slide):
            raise _unsupported(
                f"a window over {plan.time}",
                f"a window over windows must be over window_time of the inner ones, and not be shorter, {_FIX}",
            )
        return _Timed(made, (None,) * len(below.origins) + bounds, is_open=True)

    def _union(self, plan: UnionAll) -> _Timed:
        inputs = [self._timed(child) for child in plan.inputs]
        if not all(one.is_open and one.is_marked for one in inputs):
            inputs = [self._close(one, child) for one, child in zip(inputs, plan.inputs, strict=True)]
        marked = inputs[0].is_marked
        output = (*plan.output, _MARK_FIELD) if marked else plan.output
        made = UnionAll(tuple(one.plan for one in inputs), output)
        if marked:
            return _Timed(made, self._common([one.origins for one in inputs]), is_open=True, is_marked=True)
        return self._closed(made, self._common([_own(one) for one in inputs]))

    def _aggregate(self, plan: Aggregate) -> _Timed:
        below = self._timed(plan.input)
        keys = tuple(self._origin(key, below.origins) for key in plan.keys)
        place = None if below.is_open else _smallest(_only(keys, below.family))
        stays = place is not None  # the rows of a group come together already
        if place is None:
            place = _smallest(keys)
        if place is None:
            raise _unsupported("a GROUP BY without a window", f"add window_start or window_end to its keys, {_FIX}")
        origin = keys[place]
        assert origin is not None
        if stays:
            made: Plan = replace(plan, input=below.plan)
        elif not any(map(is_collected, plan.aggregations)):
            guarded = self._guarded(below, plan.keys[place], origin)
            end = origin.end(_column(plan.fields, place))
            made = Closed(replace(plan, input=guarded.plan), end)
        else:
            made = replace(plan, input=self._held(below, plan.keys[place], origin).plan)
        others = (None,) * len(plan.aggregations)
        return _Timed(made, _only(keys, origin.family) + others, origin.family)

    def _join(self, plan: Join) -> _Timed:
        left, right = (self._side(child) for child in plan.children)
        mine, theirs = _own(left), _own(right)
        made = replace(plan, left=left.plan, right=right.plan)
        beside = mine + (None,) * (len(made.fields) - len(mine))
        if right.is_static and plan.kind != "full":
            return _Timed(made, beside, left.family)
        if left.is_static and plan.kind == "inner":
            return _Timed(made, (None,) * len(mine) + theirs, right.family)
        for left_key, right_key in zip(plan.left_keys, plan.right_keys, strict=True):
            own, other = self._origin(left_key, mine), self._origin(right_key, theirs)
            if own is None or other is None or own.family != left.family or other.family != right.family:
                continue
            if own.ends_with(other):
                break
        else:
            raise _unsupported(
                "a join that does not compare the windows of its sides",
                f"add AND a.window_end = b.window_end to its condition, {_FIX}",
            )
        if plan.kind == "inner":
            theirs = tuple(None if origin is None else replace(origin, family=left.family) for origin in theirs)
            return _Timed(made, mine + theirs, left.family)
        if plan.kind == "full":
            return _Timed(made, (None,) * len(made.fields), left.family)
        return _Timed(made, beside, left.family)

    def _side(self, plan: Plan) -> _Timed:
        timed = self._timed(plan)
        return timed if timed.is_static else self._close(timed, plan)

    def _other(self, plan: Plan) -> _Timed:
        """Nodes that leave the columns of windows where they are, if each window is for itself."""
        below = [self._close(self._timed(child), child) for child in plan.children]
        made = plan.with_children(tuple(one.plan for one in below))
        if isinstance(plan, Sort):
            return replace(below[0], plan=made)
        if isinstance(plan, SetOperation):
            found = self._common([_own(one) for one in below])
            if not any(found):
                raise _unsupported(f"{plan.kind.upper()} of other columns than windows", f"select window_end, {_FIX}")
            return self._closed(made, found)
        if not below:
            raise _unsupported(_NAMES.get(type(plan).__name__, type(plan).__name__), f"leave it out, {_FIX}")
        origins, family = _own(below[0]), below[0].family
        if isinstance(plan, Distinct):
            if not any(origins):
                raise _unsupported("DISTINCT of columns without a window", f"select window_end, too, {_FIX}")
            return _Timed(made, origins, family)
        if isinstance(plan, GroupSets):
            keys = _only(tuple(self._origin(key, origins) for key in plan.keys), family)
            always = [place for place in range(len(keys)) if all(place in chosen for chosen in plan.sets)]
            place = next((place for place in always if keys[place] is not None), None)
            if place is None:
                raise _unsupported("GROUPING SETS without a window in each", f"add window_end to each, {_FIX}")
            kept = tuple(key if place in always else None for place, key in enumerate(keys))
            return _Timed(made, kept + (None,) * (len(plan.fields) - len(kept)), family)
        wanted: Sequence[Sequence[Expression]] = ()
        if isinstance(plan, DistinctOn | LimitBy):
            wanted = [plan.keys]
        elif isinstance(plan, Over):
            wanted = [call.partition for call in plan.calls]
        if not wanted or not all(
            any(_only(tuple(self._origin(key, origins) for key in keys), family)) for keys in wanted
        ):
            name = type(plan).__name__
            raise _unsupported(
                _NAMES.get(name, name) + " across windows",
                "partition by window_end, as in QUALIFY row_number() OVER (PARTITION BY window_end ORDER BY ...) <= 3, "
                f"{_FIX}",
            )
        return _Timed(made, origins + (None,) * (len(made.fields) - len(origins)), family)

    # --- closing ----------------------------------------------------------------------------------------------------

    def _close(self, timed: _Timed, plan: Plan) -> _Timed:
        """The rows of closed windows, without marks."""
        if not timed.is_open:
            return timed
        place = _smallest(timed.origins)
        if place is None:
            raise _unsupported(
                f"{_NAMES.get(type(plan).__name__, type(plan).__name__)} without a window",
                f"put it into windows first, FROM TUMBLE(topic, ts, INTERVAL '1 minute'), {_FIX}",
            )
        origin = timed.origins[place]
        assert origin is not None
        return self._held(timed, _column(timed.plan.fields, place), origin)

    def _held(self, timed: _Timed, key: Expression, origin: _Origin) -> _Timed:
        guarded = self._guarded(timed, key, origin).plan
        width = len(timed.origins)
        if timed.is_marked:
            guarded = Project(guarded, tuple(_column(guarded.fields, i) for i in range(width)), guarded.fields[:width])
        return _Timed(Closed(guarded, origin.end(key)), _only(timed.origins, origin.family), origin.family)

    def _closed(self, plan: Plan, origins: _Origins) -> _Timed:
        return _Timed(plan, origins, next((origin.family for origin in origins if origin is not None), -1))

    def _guarded(self, timed: _Timed, key: Expression, origin: _Origin) -> _Timed:
        if not timed.is_marked or origin.guarded:
            return timed
        return replace(timed, plan=Late(timed.plan, origin.end(key), self._grace_us))

    def _origin(self, expression: Expression, origins: _Origins) -> _Origin | None:
        if isinstance(expression, ColumnRef):
            return origins[expression.index] if expression.index < len(origins) else None
        if not isinstance(expression, Call) or len(expression.args) != 2:
            return None
        if expression.function in ("add", "subtract"):
            return self._moved(expression, origins)
        width, time = expression.args
        source = self._origin(time, origins)
        if source is None or not isinstance(width, Literal) or width.value is None:
            return None
        size_us, months = _bucket(expression.function, width.value)
        family = self._family((size_us, months, source.family, source.to_end_us))
        if months > 0:
            found = _Origin(0, months * _MONTH_US, 0, months, family)
        elif size_us > 0:
            found = _Origin(size_us, size_us, size_us, 0, family)
        else:
            return None
        if source.size_us and not _holds(source, size_us, size_us):
            return None
        return found

    def _moved(self, expression: Call, origins: _Origins) -> _Origin | None:
        """A bound of a window plus or minus an interval."""
        source, by = self._origin(expression.args[0], origins), expression.args[1]
        if source is None or not source.size_us or source.to_end_months or not isinstance(by, Literal):
            return None
        if not isinstance(by.value, IntervalValue) or by.value.months:
            return None
        us = by.value.microseconds if expression.function == "add" else -by.value.microseconds
        return replace(source, to_end_us=source.to_end_us - us)

    def _family(self, window: object) -> int:
        return self._families.setdefault(window, len(self._families))

    def _common(self, inputs: Sequence[_Origins]) -> _Origins:
        """Of columns that mean the same window, relative to its end, in all inputs."""
        found: list[_Origin | None] = []
        for column in zip(*inputs, strict=True):
            first = column[0]
            same = [one for one in column if one is not None and first is not None and first.ends_with(one)]
            if first is None or len(same) < len(column) or any(bool(o.size_us) != bool(first.size_us) for o in same):
                found.append(None)
                continue
            family = self._family(tuple(one.family for one in same)) if first.size_us else first.family
            size = min(one.size_us for one in same)
            found.append(replace(first, family=family, size_us=size, guarded=all(one.guarded for one in same)))
        return tuple(found)


_NAMES = {
    "Scan": "rows of a topic", "Filter": "rows of a topic", "Project": "rows of a topic", "Limit": "LIMIT",
    "LimitBy": "LIMIT BY", "LimitValue": "LIMIT", "Over": "OVER", "DistinctOn": "DISTINCT ON", "Sort": "ORDER BY",
    "RecursiveUnion": "WITH RECURSIVE", "WorkingTable": "WITH RECURSIVE", "ViewScan": "a view",
}  # fmt: skip


def _unsupported(construct: str, fix: str) -> UnsupportedSQL:
    return UnsupportedSQL(f"EMIT ON WINDOW CLOSE of {construct} is not supported: {fix}", construct=construct)


def _is_static(plan: Plan) -> bool:
    if isinstance(plan, Scan | ViewScan):
        return False
    return isinstance(plan, Values) or (bool(plan.children) and all(map(_is_static, plan.children)))


def _bucket(function: str, width: object) -> tuple[int, int]:
    """Microseconds or months of the windows that a function of event time makes; 0 where it makes none."""
    if function == "time_bucket" and isinstance(width, IntervalValue) and not width.months:
        return width.microseconds, 0
    if function == "month_bucket" and isinstance(width, int):
        return 0, width
    if function == "date_trunc":
        return _TRUNC_US.get(str(width).lower(), 0), _TRUNC_MONTHS.get(str(width).lower(), 0)
    return 0, 0


def _holds(inner: _Origin, size_us: int, slide_us: int) -> bool:
    """Whether every window that holds the column ends at or after the inner window; sizes of 0 are whole months."""
    if inner.to_end_months or inner.to_end_us <= 1:
        return not inner.to_end_months
    step = inner.size_us
    return bool(size_us) and inner.to_end_us == step and not any(w % step for w in (size_us, slide_us, inner.slide_us))


def _smallest(origins: _Origins) -> int | None:
    found = [place for place, origin in enumerate(origins) if origin is not None and origin.size_us]
    return min(found, key=lambda place: (origins[place] or _Origin()).size_us, default=None)


def _only(origins: _Origins, family: int) -> _Origins:
    return tuple(origin if origin is not None and origin.family == family else None for origin in origins)


def _own(timed: _Timed) -> _Origins:
    """The columns that tell the window with which a row came."""
    return _only(timed.origins, timed.family)


def _column(fields: Fields, place: int) -> ColumnRef:
    return ColumnRef(fields[place].type, place, fields[place].name)


def _with_last(plan: Project, below: Plan) -> Project:
    """The projection with the last column of its input as one more."""
    last = len(below.fields) - 1
    return Project(below, (*plan.expressions, _column(below.fields, last)), (*plan.output, below.fields[last]))


def _mark_last(plan: Plan, below: _Timed) -> Plan:
    """The mark, which stands before the columns that a node has added, behind them."""
    if not below.is_marked:
        return plan
    mark = len(below.origins)
    order = [*range(mark), *range(mark + 1, len(plan.fields)), mark]
    return Project(plan, tuple(_column(plan.fields, i) for i in order), tuple(plan.fields[i] for i in order))
