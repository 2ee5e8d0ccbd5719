"""Generated pipelines, run as plain Python over many shapes, give what the interpreted engine gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventdb.logical.expressions import Aggregation, Expression
from eventdb.logical.plan import Aggregate, Filter, OutputField, Plan, Project, TimeWindow
from eventdb.physical import fused
from eventdb.schema import BIGINT, BOOLEAN, DATE, DOUBLE, FLOAT, INTEGER, TIMESTAMP, VARCHAR
from tests.physical.building import MemoryLog, aggregate, call, context_of, scan_of
from tests.physical.engines import assert_same_rows, both, plain_kernel
from tests.physical.expressions import COLUMNS, HOUR, MONEY, column, expressions, predicates, rows, table

EXAMPLES = 100
PHASES = (Phase.explicit, Phase.generate)  # a failing plan is printed as found: shrinking it takes minutes
TIME = list(COLUMNS).index("ts")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "build_now", plain_kernel)


@pytest.fixture(scope="module")
def engines() -> Iterator[Counter[str]]:
    """Counts which engine ran: the comparison means nothing if everything fell back."""
    found: Counter[str] = Counter()
    yield found
    print(found)
    total = sum(found.values())
    assert total == 0 or found["compiled"] >= total * 0.4, found


def log_of(data: list[tuple[Any, ...]], cut: int) -> MemoryLog:
    """One or two segments that share dictionaries."""
    whole = table(data)
    parts = [whole.slice(0, cut), whole.slice(cut, len(data))] if 0 < cut < len(data) else [whole]
    return MemoryLog(parts, event_time=TIME)


_TYPES = st.sampled_from([BIGINT, INTEGER, DOUBLE, FLOAT, MONEY, BOOLEAN, TIMESTAMP, DATE])


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(
    data=rows(),
    cut=st.integers(0, 6),
    condition=predicates(),
    outputs=st.lists(_TYPES.flatmap(expressions), min_size=1, max_size=3),
)
def test_filter_and_project_agree(
    engines: Counter[str], data: list[tuple[Any, ...]], cut: int, condition: Expression, outputs: list[Expression]
) -> None:
    log = log_of(data, cut)
    fields = tuple(OutputField(f"c{i}", e.type) for i, e in enumerate([*outputs, column("name")]))
    plan = Project(Filter(scan_of(log), condition), (*outputs, column("name")), fields)
    expected, found, engine = both(plan, context_of(log, threads=2))
    engines[engine] += 1
    assert_same_rows(expected, found, ordered=True)


_NUMERIC = st.sampled_from([BIGINT, INTEGER, DOUBLE, FLOAT, MONEY])


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    name = draw(
        st.sampled_from(
            ["count_star", "count", "sum", "avg", "min", "max", "stddev_samp", "var_pop", "bool_and", "bool_or"]
        )
    )
    where = draw(st.none() | predicates(1))
    if name == "count_star":
        return aggregate(name, where=where)
    if name.startswith("bool"):
        return aggregate(name, draw(predicates(1)), where=where)
    if name in ("count", "min", "max") and draw(st.booleans()):
        text: Expression = column(draw(st.sampled_from(["name", "site"])))
        return aggregate(name, call("upper", text) if draw(st.booleans()) else text, where=where)
    type = draw(_NUMERIC | st.sampled_from([TIMESTAMP, DATE]) if name in ("count", "min", "max") else _NUMERIC)
    return aggregate(name, draw(expressions(type, 1)), where=where)


@st.composite
def group_keys(draw: st.DrawFn) -> tuple[Expression, ...]:
    choices = [
        column("name"),
        column("site"),
        column("flag"),
        column("tiny"),
        column("big"),
        column("dbl"),
        column("day"),
        column("num"),
        call("upper", column("name")),
        call("reverse", column("name")),
        call("date_trunc", _text("hour"), column("ts")),
        call("date_trunc", _text("week"), column("ts")),
        call("date_part", _text("hour"), column("ts")),
        call("length", column("name")),
    ]
    return tuple(draw(st.lists(st.sampled_from(choices), min_size=0, max_size=3, unique=True)))


def _text(value: str) -> Expression:
    from eventdb.logical.expressions import Literal

    return Literal(VARCHAR, value)


def aggregate_plan(source: Plan, keys: tuple[Expression, ...], found: list[Aggregation]) -> Plan:
    fields = tuple(OutputField(f"g{i}", e.type) for i, e in enumerate((*keys, *found)))
    return Aggregate(source, keys, tuple(found), fields)


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(
    data=rows(),
    cut=st.integers(0, 6),
    condition=st.none() | predicates(1),
    keys=group_keys(),
    found=st.lists(aggregations(), min_size=1, max_size=4),
)
def test_group_by_agrees(
    engines: Counter[str],
    data: list[tuple[Any, ...]],
    cut: int,
    condition: Expression | None,
    keys: tuple[Expression, ...],
    found: list[Aggregation],
) -> None:
    log = log_of(data, cut)
    source: Plan = scan_of(log)
    if condition is not None:
        source = Filter(source, condition)
    expected, rows_, engine = both(aggregate_plan(source, keys, found), context_of(log, threads=2))
    engines[engine] += 1
    assert_same_rows(expected, rows_, ordered=False, tolerance=1e-6, keys=len(keys))


@settings(max_examples=EXAMPLES // 3, phases=PHASES)
@given(data=rows(least=2), cut=st.integers(0, 6), condition=st.none() | predicates(1), second=st.booleans())
def test_tumbling_windows_agree(
    engines: Counter[str], data: list[tuple[Any, ...]], cut: int, condition: Expression | None, second: bool
) -> None:
    log = log_of(data, cut)
    windows = TimeWindow(scan_of(log), column("ts"), 2 * HOUR, 2 * HOUR)
    source: Plan = windows if condition is None else Filter(windows, condition)
    width = len(COLUMNS)
    from eventdb.logical.expressions import ColumnRef

    start, end, last = (ColumnRef(TIMESTAMP, width + i, windows.fields[width + i].name) for i in range(3))
    keys = (start, end, last, column("site")) if second else (end, column("name"))
    plan = aggregate_plan(source, keys, [aggregate("count_star"), aggregate("avg", column("num"))])
    expected, found, engine = both(plan, context_of(log, threads=2))
    engines[engine] += 1
    assert_same_rows(expected, found, ordered=False, tolerance=1e-9, keys=len(keys))
