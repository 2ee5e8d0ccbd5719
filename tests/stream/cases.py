"""Generated continuous queries: as a plan, and as a plain Python model of what their content must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from eventdb.logical.expressions import Aggregation, Call, ColumnRef, Expression, IntervalValue, Literal
from eventdb.logical.plan import Aggregate, Fields, Filter, OutputField, Plan, Project, Scan, TimeWindow
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, INTERVAL, TIMESTAMP, VARCHAR, DataType, Field, Schema
from eventdb.stream.program import TopicFacts

SECOND = 1_000_000
TOPIC_ID = 3
COLUMNS = {"device": VARCHAR, "v": BIGINT, "d": DOUBLE, "ts": TIMESTAMP}
SCHEMA = Schema(Field(name, type) for name, type in COLUMNS.items())
SCAN_FIELDS = tuple(OutputField(name, type) for name, type in COLUMNS.items())
Row = tuple[Any, ...]


def ref(fields: Fields, name: str) -> ColumnRef:
    index = [field.name for field in fields].index(name)
    return ColumnRef(fields[index].type, index, name)


def call(function: str, type: DataType, *args: Expression) -> Call:
    return Call(type, function, args)


def big(value: int) -> Literal:
    return Literal(BIGINT, value)


@dataclass(frozen=True)
class Case:
    """`window` is (kind, size s, slide s) with kind tumble, hop or bucket, or None. `keys` None: no aggregate."""

    where: str | None
    window: tuple[str, int, int] | None
    keys: tuple[str, ...] | None
    aggregates: tuple[str, ...]
    having: int | None
    emit: str | None
    delay_s: int | None
    grace_s: int
    max_future_s: int | None

    @property
    def facts(self) -> TopicFacts:
        delay_us = None if self.delay_s is None else self.delay_s * SECOND
        future_us = None if self.max_future_s is None else self.max_future_s * SECOND
        return TopicFacts(TOPIC_ID, "readings", SCHEMA, "device", "ts", delay_us, None, future_us)

    @property
    def time_keys(self) -> bool:
        names = {"window_start", "window_end", "window_time", "bucket"}
        return self.window is not None and self.keys is not None and bool(names & set(self.keys))

    @property
    def judges_lateness(self) -> bool:
        return self.time_keys and self.delay_s is not None

    @property
    def closes(self) -> bool:
        return self.judges_lateness and self.emit != "update"


# --- as a plan ----------------------------------------------------------------------------------------------------


def plan_of(case: Case, accepted_only: Expression | None = None) -> Plan:
    plan: Plan = Scan(TOPIC_ID, "readings", tuple(COLUMNS), SCAN_FIELDS)
    where = _where(plan.fields, case.where)
    if where is not None:
        plan = Filter(plan, where)
    if case.window is not None and case.window[0] != "bucket":
        _, size, slide = case.window
        plan = TimeWindow(plan, ref(plan.fields, "ts"), size * SECOND, slide * SECOND)
    if case.keys is None:
        expressions: list[Expression] = [ref(plan.fields, "device"), call("add", BIGINT, ref(plan.fields, "v"), big(1))]
        names = ["device", "next"]
        if len(plan.fields) > len(SCAN_FIELDS):
            expressions.append(ref(plan.fields, "window_end"))
            names.append("window_end")
        fields = tuple(OutputField(n, e.type) for n, e in zip(names, expressions, strict=True))
        return Project(plan, tuple(expressions), fields)
    keys = tuple(_key(plan.fields, name, case.window) for name in case.keys)
    aggregations = tuple(_aggregation(plan.fields, text) for text in case.aggregates)
    fields = tuple(OutputField(n, k.type) for n, k in zip(case.keys, keys, strict=True))
    fields += tuple(OutputField(f"a{i}", a.type) for i, a in enumerate(aggregations))
    plan = Aggregate(plan, keys, aggregations, fields)
    if case.having is not None:
        count = ColumnRef(BIGINT, len(keys), "a0")
        plan = Filter(plan, call("gt", BOOLEAN, count, big(case.having)))
        columns = tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(fields))
        doubled = call("multiply", BIGINT, count, big(2))
        plan = Project(plan, (*columns, doubled), (*fields, OutputField("twice", BIGINT)))
    return plan


def _where(fields: Fields, text: str | None) -> Expression | None:
    if text == "v > 3":
        return call("gt", BOOLEAN, ref(fields, "v"), big(3))
    if text == "device = 'a'":
        return call("eq", BOOLEAN, ref(fields, "device"), Literal(VARCHAR, "a"))
    return None


def _key(fields: Fields, name: str, window: tuple[str, int, int] | None) -> Expression:
    if name == "third":
        return call("modulo", BIGINT, ref(fields, "v"), big(3))
    if name == "bucket":
        assert window is not None
        width = Literal(INTERVAL, IntervalValue(0, window[1] * SECOND))
        return call("time_bucket", TIMESTAMP, width, ref(fields, "ts"))
    return ref(fields, name)


def _aggregation(fields: Fields, text: str) -> Aggregation:
    function, _, rest = text.partition(" ")
    if function == "count_star":
        return Aggregation(function, (), BIGINT)
    distinct, positive = rest.startswith("distinct "), rest.endswith(" positive")
    argument = ref(fields, rest.removeprefix("distinct ").removesuffix(" positive"))
    type = {"count": BIGINT, "avg": DOUBLE}.get(function, argument.type)
    zero = Literal(DOUBLE, 0.0)
    condition = call("gt", BOOLEAN, ref(fields, "d"), zero) if positive else None
    return Aggregation(function, (argument,), type, distinct, condition)


# --- as a model ---------------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """`rows` is the content (physical values, in no order), `late` how many rows lost a window.

    `watermark_us` is None before any row moved it. `fully_late` are the offsets of rows all of whose windows were
    closed, `partly_late` says whether a row lost some of its windows only.
    """

    rows: list[Row]
    late: int
    watermark_us: int | None
    fully_late: set[int]
    partly_late: bool
    open_groups: int


def expect(case: Case, rows: Sequence[Row], append_us: Sequence[int]) -> Expected:
    watermark: int | None = None
    late, fully_late, partly_late = 0, set(), False
    groups: dict[tuple[Any, ...], list[tuple[Row, dict[str, Any]]]] = {}
    plain: list[Row] = []
    if case.keys == ():
        groups[()] = []
    for offset, row in enumerate(rows):
        windows = _windows(case, row)
        lost = 0
        for window in windows if _passes(case.where, row) else []:
            if (
                case.judges_lateness
                and watermark is not None
                and window["window_end"] is not None
                and (watermark >= window["window_end"] + case.grace_s * SECOND)
            ):
                lost += 1
            elif case.keys is None:
                extra = (window["window_end"],) if case.window is not None and case.window[0] != "bucket" else ()
                plain.append((row[0], None if row[1] is None else row[1] + 1, *extra))
            else:
                key = tuple(_key_value(name, row, window) for name in case.keys)
                groups.setdefault(key, []).append((row, window))
        if lost:
            late += 1
            if lost == len(windows):
                fully_late.add(offset)
            else:
                partly_late = True
        time = row[3]
        future_us = (1 << 62) if case.max_future_s is None else case.max_future_s * SECOND
        if case.delay_s is not None and time is not None and time - append_us[offset] <= future_us:
            mark = time - case.delay_s * SECOND
            watermark = mark if watermark is None else max(watermark, mark)
    if case.keys is None:
        return Expected(plain, late, watermark, fully_late, partly_late, 0)
    out, open_groups = [], 0
    for key, members in groups.items():
        if case.closes:
            end = members[0][1]["window_end"]
            if end is None:
                continue
            if watermark is None or watermark < end + case.grace_s * SECOND:
                open_groups += 1
                continue
        result = key + tuple(_aggregate(text, [row for row, _ in members]) for text in case.aggregates)
        if case.having is None:
            out.append(result)
        elif result[len(key)] > case.having:
            out.append((*result, 2 * result[len(key)]))
    return Expected(out, late, watermark, fully_late, partly_late, open_groups)


def _passes(where: str | None, row: Row) -> bool:
    if where == "v > 3":
        return row[1] is not None and row[1] > 3
    return where is None or row[0] == "a"


def _windows(case: Case, row: Row) -> list[dict[str, Any]]:
    time = row[3]
    if case.window is None:
        return [{"window_end": None}]
    kind, size, slide = case.window
    if time is None:
        return [{"window_end": None, "bucket": None}] if kind == "bucket" else []
    first = time // (slide * SECOND) * slide * SECOND
    found = []
    while first + size * SECOND > time:
        end = first + size * SECOND
        found.append({"window_start": first, "window_end": end, "window_time": end - 1, "bucket": first})
        first -= slide * SECOND
    return found


def _key_value(name: str, row: Row, window: dict[str, Any]) -> Any:
    if name == "device":
        return row[0]
    if name == "third":
        return None if row[1] is None else int(math.fmod(row[1], 3))
    return window[name]


def _aggregate(text: str, rows: list[Row]) -> Any:
    function, _, rest = text.partition(" ")
    if function == "count_star":
        return len(rows)
    if rest.endswith(" positive"):
        rows = [row for row in rows if row[2] is not None and row[2] > 0]
    position = list(COLUMNS).index(rest.removeprefix("distinct ").removesuffix(" positive"))
    every = [row[position] for row in rows]
    if function == "last":
        return every[-1] if every else None
    values = [value for value in every if value is not None]
    if rest.startswith("distinct "):
        values = list(dict.fromkeys(values))
    if function == "count":
        return len(values)
    if not values:
        return None
    if function == "avg":
        return sum(values) / len(values)
    return {"sum": sum, "min": min, "max": max}[function](values)


# --- strategies ---------------------------------------------------------------------------------------------------

_AGGREGATE_TEXTS = [
    "sum v", "min v", "max d", "avg v", "count device", "min device", "count distinct v", "sum v positive", "last v",
    "sum d", "count distinct device",
]  # fmt: skip


_WINDOWS = [("tumble", 10, 10), ("hop", 10, 5), ("bucket", 10, 10), ("hop", 10, 4), ("hop", 4, 6)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Mostly groups by a window of a topic with a watermark: that is where rows are late and windows close."""
    shape = draw(st.sampled_from(["windowed", "windowed", "windowed", "grouped", "plain"]))
    window = draw(st.sampled_from(_WINDOWS)) if shape == "windowed" else draw(st.sampled_from([None, *_WINDOWS]))
    keys: tuple[str, ...] | None = None
    aggregates: tuple[str, ...] = ()
    having, delay_s = None, draw(st.sampled_from([3, 0, 12, None]))
    if shape != "plain":
        others = draw(st.sampled_from([("device",), (), ("device", "third"), ("third",)]))
        keys = others
        if shape == "windowed":
            assert window is not None
            times = ["bucket"] if window[0] == "bucket" else ["window_end", "window_start", "window_time"]
            time = draw(st.sampled_from(times))
            keys = draw(st.sampled_from([(time, *others), (*others, time), (times[0], *others, time)]))
            keys = tuple(dict.fromkeys(keys))
        chosen = draw(st.lists(st.sampled_from(_AGGREGATE_TEXTS), unique=True, max_size=3))
        aggregates = ("count_star", *chosen)
        having = draw(st.sampled_from([None, None, 1, 2]))
    emit = draw(st.sampled_from([None, None, "update"]))
    where = draw(st.sampled_from([None, None, "v > 3", "device = 'a'"]))
    max_future_s = draw(st.sampled_from([30, None]))
    return Case(where, window, keys, aggregates, having, emit, delay_s, draw(st.sampled_from([0, 0, 4])), max_future_s)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[list[Row], list[int]]:
    """Rows whose times mostly advance, with disorder, repetitions, NULLs and wrong clocks; and their append times.

    The rows come from a seed: drawn one by one they would nearly all be alike.
    """
    count = draw(st.sampled_from([40, 40, 15, 80, 5, 2, 1, 0]))
    random = Random(draw(st.integers(0, 1 << 32)))
    devices, pace = ["a", "b", "c", None, ""][: random.randint(1, 5)], random.randint(0, 3)
    now, rows, appended = 0, [], []
    while len(rows) < count:
        now += random.randint(0, pace) * SECOND
        time: int | None = now
        kind = random.random()
        if kind < 0.05:
            time = None
        elif kind < 0.08:
            time = now + 500 * SECOND
        elif kind < 0.5:
            time = now + random.randint(-20, 3) * SECOND
        value = random.choice([None, random.randint(-5, 20)])
        rows.append((random.choice(devices), value, random.choice([None, 0.0, -1.5, 2.0, 7.25]), time))
        appended.append(now)
        if kind > 0.97:
            rows.append(rows[-1])
            appended.append(now)
    return rows, appended


def cuts(row_count: int) -> st.SearchStrategy[list[int]]:
    """Ascending positions at which rows [0, row_count) are cut into batches."""

    def cut(seed: int) -> list[int]:
        random = Random(seed)
        points = {random.randint(0, row_count) for _ in range(random.randint(0, 12))}
        return sorted({*points, row_count} - {0})

    return st.integers(0, 1 << 32).map(cut)


def comparable(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as sorted text: a bag that can be compared; floats rounded past the order of summation."""
    return sorted(repr(tuple(round(v, 9) + 0.0 if isinstance(v, float) else v for v in row)) for row in rows)
