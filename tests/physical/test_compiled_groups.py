"""Fused aggregation: every kind of key and aggregate, groups merged from two threads, direct and hashed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from eventdb.logical.expressions import Aggregation, ColumnRef, Expression, IntervalValue, Literal
from eventdb.logical.plan import Aggregate, Filter, OutputField, Plan, Project, TimeWindow
from eventdb.physical import compiled_sinks, fused
from eventdb.schema import BIGINT, DOUBLE, INTERVAL, TIMESTAMP, VARCHAR
from tests.physical.building import MemoryLog, aggregate, call, context_of, lit, scan_of
from tests.physical.engines import assert_same_rows, both, plain_kernel
from tests.physical.expressions import COLUMNS, HOUR, column, table
from tests.physical.test_compiled_functions import DATA

TIME = list(COLUMNS).index("ts")
ORDINARY = [row for row in DATA if 0 <= row[TIME] < 2 * 10**15]

KEYS: dict[str, Expression] = {
    "string": column("name"),
    "plain string": column("site"),
    "string function": call("upper", column("name")),
    "string to NULL": call("coalesce", column("name"), lit(VARCHAR, "a")),
    "boolean": column("flag"),
    "predicate": call("gt", column("dbl"), lit(DOUBLE, 1.0)),
    "tiny": column("tiny"),
    "integer": column("num"),
    "bigint": column("big"),
    "double": column("dbl"),
    "float": column("flt"),
    "decimal": column("money"),
    "date": column("day"),
    "timestamp": column("ts"),
    "bucket": call("time_bucket", Literal(INTERVAL, IntervalValue(0, 7 * HOUR)), column("ts")),
    "week": call("date_trunc", lit(VARCHAR, "week"), column("ts")),
    "weekday": call("date_part", lit(VARCHAR, "dow"), column("ts")),
    "remainder": call("modulo", column("num"), lit("INTEGER", 7)),
    "length": call("length", column("name")),
}
ARGUMENTS: dict[str, list[Expression]] = {
    "count": [column(n) for n in COLUMNS] + [call("upper", column("name"))],
    "sum": [column("num"), column("tiny"), column("money"), column("dbl"), column("flt")],
    "avg": [column("num"), column("money"), column("dbl"), column("flt")],
    "min": [column(n) for n in COLUMNS] + [call("reverse", column("name"))],
    "max": [column(n) for n in COLUMNS] + [call("upper", column("site"))],
    "stddev_samp": [column("num"), column("flt")],
    "stddev_pop": [column("tiny")],
    "var_samp": [column("tiny")],
    "var_pop": [column("num")],
    "bool_and": [column("flag"), call("gt", column("dbl"), lit(DOUBLE, 1.0))],
    "bool_or": [column("flag")],
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "build_now", plain_kernel)


def plan_of(source: Plan, keys: tuple[Expression, ...], found: list[Aggregation]) -> Plan:
    fields = tuple(OutputField(f"g{i}", e.type) for i, e in enumerate((*keys, *found)))
    return Aggregate(source, keys, tuple(found), fields)


def compare(keys: tuple[Expression, ...], found: list[Aggregation], data: list[tuple[Any, ...]] = ORDINARY) -> None:
    whole = table(data)
    half = len(data) // 2
    log = MemoryLog([whole.slice(0, half), whole.slice(half, len(data))], event_time=TIME)
    expected, rows, engine = both(plan_of(scan_of(log), keys, found), context_of(log, threads=2))
    assert engine == "compiled"
    assert not isinstance(expected, str), expected
    assert_same_rows(expected, rows, ordered=False, tolerance=1e-9, keys=len(keys))


@pytest.mark.parametrize("pair", [*itertools.combinations(KEYS, 2), *((k,) for k in KEYS)], ids=" and ".join)
def test_every_pair_of_keys_groups_as_the_interpreted_engine_does(pair: tuple[str, ...]) -> None:
    compare(tuple(KEYS[name] for name in pair), [aggregate("count_star"), aggregate("sum", column("num"))])


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("grouping", ["none", "direct", "hashed"])
def test_every_aggregate_agrees(name: str, grouping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if grouping == "hashed":
        monkeypatch.setattr(compiled_sinks, "MAX_DIRECT_SLOTS", 0)
    keys = () if grouping == "none" else (column("flag"), column("site"))
    where = call("gt", column("tiny"), lit("TINYINT", 0))
    for argument in ARGUMENTS[name]:
        compare(keys, [aggregate(name, argument), aggregate("count_star"), aggregate(name, argument, where=where)])


def test_groups_that_only_one_thread_sees_keep_their_values() -> None:
    late = [(*row[:7], "west", *row[8:]) if i >= len(ORDINARY) // 2 else row for i, row in enumerate(ORDINARY)]
    compare((column("site"),), [aggregate("min", column("num")), aggregate("max", column("dbl"))], late)


def test_nothing_left_by_the_filter_is_one_row_without_keys_and_none_with() -> None:
    log = MemoryLog([table(ORDINARY)], event_time=TIME)
    nothing = Filter(scan_of(log), call("gt", column("tiny"), lit("TINYINT", 127)))
    found = [aggregate("count_star"), aggregate("sum", column("num")), aggregate("min", column("name"))]
    for keys, rows in (((), [(0, None, None)]), ((column("site"),), [])):
        expected, compiled, engine = both(plan_of(nothing, keys, found), context_of(log))
        assert engine == "compiled"
        assert expected == compiled == rows


def test_a_sum_beyond_64_bits_is_the_same_error() -> None:
    big = [(2**62, *row[1:]) for row in ORDINARY]
    log = MemoryLog([table(big)], event_time=TIME)
    for keys in ((), (column("site"),)):
        expected, found, _ = both(plan_of(scan_of(log), keys, [aggregate("sum", column("big"))]), context_of(log))
        assert isinstance(expected, str)
        assert found == expected


def test_a_hash_table_grows_through_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_sinks, "_FIRST_GROUPS", 4)
    monkeypatch.setattr(compiled_sinks.HashState.__init__, "__defaults__", (4,))
    many = [(i * 10**13, *ORDINARY[i % len(ORDINARY)][1:]) for i in range(300)] * 2
    compare((column("big"),), [aggregate("count_star"), aggregate("sum", column("num"))], many)


def test_windows_share_one_digit_for_start_end_and_time() -> None:
    log = MemoryLog([table(ORDINARY)], event_time=TIME)
    windows = TimeWindow(scan_of(log), column("ts"), HOUR, HOUR)
    start, end, last = (
        ColumnRef(TIMESTAMP, len(COLUMNS) + i, n) for i, n in enumerate(("window_start", "window_end", "window_time"))
    )
    plan = plan_of(windows, (last, column("name"), start, end), [aggregate("count_star")])
    expected, found, engine = both(plan, context_of(log))
    assert engine == "compiled"
    assert_same_rows(expected, found, ordered=False, keys=4)


def test_an_expression_that_raises_below_the_filter_still_raises() -> None:
    log = MemoryLog([table(ORDINARY)], event_time=TIME)
    scan = scan_of(log)
    division = call("divide", lit(BIGINT, 10), column("big"))
    inner = Project(scan, (division, column("num")), (OutputField("q", BIGINT), OutputField("n", COLUMNS["num"])))
    kept = Filter(inner, call("eq", ColumnRef(COLUMNS["num"], 1, "n"), lit("INTEGER", 60)))
    plan = plan_of(kept, (), [aggregate("count_star")])
    expected, found, _ = both(plan, context_of(log))
    assert isinstance(expected, str)
    assert found == expected
