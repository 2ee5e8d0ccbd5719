"""One operator at a time: which rows, in which order, reading how much, holding how much."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, RecordBatch
from eventdb.errors import EvaluationError, MemoryLimitExceeded, QueryCancelled, QueryTimeout
from eventdb.logical.expressions import Call, Literal, SortKey
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    Filter,
    Join,
    Limit,
    OutputField,
    Plan,
    Project,
    Sort,
    TimeWindow,
    UnionAll,
    Values,
    ViewScan,
)
from eventdb.physical.context import CancelToken, QueryContext
from eventdb.physical.explain import analyzed_lines, physical_lines
from eventdb.physical.planner import plan_physical, run
from eventdb.schema import BIGINT, TIMESTAMP, VARCHAR

from .building import (
    MemoryLog,
    aggregate,
    batch_of,
    call,
    col,
    context_of,
    fields_of,
    lit,
    plan_over,
    rows_of,
    scan_of,
    split,
    type_of,
)


def numbers(count: int, start: int = 0) -> RecordBatch:
    return RecordBatch(("n",), [Column(BIGINT, np.arange(start, start + count))])


# --- scan ---------------------------------------------------------------------------------------------------------


def test_a_scan_gives_the_rows_between_its_offsets_and_the_system_columns() -> None:
    segments = [numbers(10), numbers(10, 10), numbers(5, 20)]
    log = MemoryLog(segments, start=100)
    scan = scan_of(
        log, columns=["n", "_offset", "_append_time", "_time", "_partition"], start_offset=105, stop_offset=112
    )
    rows = rows_of(scan, context_of(log))
    assert rows == [(i, 100 + i, (100 + i) * 1000, (100 + i) * 1000, 0) for i in range(5, 12)]
    assert rows_of(replace(scan, start_offset=0, stop_offset=10**9), context_of(log))[-1][1] == 124
    assert rows_of(replace(scan, start_offset=500, stop_offset=None), context_of(log)) == []


def test_time_is_the_event_time_column_and_skips_segments_by_it() -> None:
    segments = [
        batch_of({"ts": ("TIMESTAMP", [0, 5]), "k": ("VARCHAR", ["a", "b"])}),
        batch_of({"ts": ("TIMESTAMP", [50, 70]), "k": ("VARCHAR", ["c", "d"])}),
    ]
    log = MemoryLog(segments, event_time=0)
    context = context_of(log, topic_key=lambda topic: "k")
    scan = replace(scan_of(log, columns=["_time", "ts"]), time_range=(6, 60))
    operator = plan_physical(scan, context)
    assert [row for b in operator.batches() for row in b.columns[0].values.tolist()] == [50, 70]
    assert "1 segments skipped" in operator.label()
    assert [s.columns_read for s in log.slices_made] == [set(), {0}]
    key = scan_of(log, columns=[])
    key = replace(key, columns=("_key",), output=(OutputField("_key", VARCHAR),))
    assert rows_of(key, context) == [("a",), ("b",), ("c",), ("d",)]
    assert rows_of(key, context_of(log)) == [(None,)] * 4


def test_a_scan_without_columns_still_counts_rows() -> None:
    log = MemoryLog([numbers(7), numbers(3)])
    count = Aggregate(scan_of(log, columns=[]), (), (aggregate("count_star"),), (OutputField("n", BIGINT),))
    assert rows_of(count, context_of(log)) == [(10,)]


def test_batches_are_at_most_a_morsel() -> None:
    log = MemoryLog([numbers(300_000)])
    sizes = [b.row_count for b in run(scan_of(log), context_of(log))]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 131_072


# --- filter, project, limit, union, values ------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=20), st.lists(st.integers(0, 20), max_size=3))
def test_filter_keeps_rows_whose_predicate_is_true(values: list[int | None], cuts: list[int]) -> None:
    batch = batch_of({"a": ("BIGINT", values)})
    scan, context = plan_over(*split(batch, cuts))
    plan = Filter(scan, call("gt", col(batch, "a"), lit("BIGINT", 0)))
    assert rows_of(plan, context) == [(v,) for v in values if v is not None and v > 0]


@given(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 12)), st.lists(st.integers(0, 10), max_size=4))
def test_limit_is_a_slice(skip: int, count: int | None, cuts: list[int]) -> None:
    scan, context = plan_over(*split(numbers(10), cuts))
    expected = [(i,) for i in range(10)][skip : None if count is None else skip + count]
    assert rows_of(Limit(scan, count, skip), context) == expected


def test_limit_stops_reading() -> None:
    read: list[int] = []

    def content(view: int, columns: Any) -> Iterator[RecordBatch]:
        for start in itertools.count(0, 10):
            read.append(start)
            yield numbers(10, start)

    context = QueryContext(view_content=content, execution="interpreted")
    view = ViewScan(1, "v", ("n",), (OutputField("n", BIGINT),))
    assert len(rows_of(Limit(view, 25, 3), context)) == 25
    assert read == [0, 10, 20]


def test_union_all_passes_inputs_in_order_and_names_them_by_its_output() -> None:
    a, b = batch_of({"s": ("VARCHAR", ["x", "y"])}), batch_of({"t": ("VARCHAR", ["y", None])})
    logs = MemoryLog([a]), MemoryLog([b])
    union = UnionAll((scan_of(logs[0]), scan_of(logs[1], 2)), (OutputField("u", VARCHAR),))
    context = context_of(*logs)
    assert rows_of(union, context) == [("x",), ("y",), ("y",), (None,)]
    assert rows_of(Distinct(union), context) == [("x",), ("y",), (None,)]
    sort = Sort(union, (SortKey(col(RecordBatch(("u",), a.columns), "u"), descending=True, nulls_first=True),))
    assert rows_of(sort, context) == [(None,), ("y",), ("y",), ("x",)]


def test_values_and_select_without_from() -> None:
    fields = (OutputField("a", BIGINT), OutputField("s", VARCHAR))
    rows = ((lit("BIGINT", 1), lit("VARCHAR", "x")), (lit("BIGINT", None), lit("VARCHAR", None)))
    assert rows_of(Values(rows, fields), QueryContext(execution="interpreted")) == [(1, "x"), (None, None)]
    one = Project(Values(((),), ()), (call("add", lit("BIGINT", 2), lit("BIGINT", 3)),), (OutputField("five", BIGINT),))
    assert rows_of(one, QueryContext(execution="interpreted")) == [(5,)]


def test_weights_pass_through_filter_project_and_windows() -> None:
    batch = RecordBatch(("n",), numbers(3).columns, 3, np.array([1, -1, 1]))
    context = QueryContext(view_content=lambda view, columns: iter([batch]), execution="interpreted")
    from eventdb.physical.filter import FilterRows
    from eventdb.physical.project import ProjectColumns
    from eventdb.physical.time_window import WindowRows

    view = ViewScan(1, "v", ("n",), (OutputField("n", BIGINT),))
    leaf = plan_physical(view, context)
    n = col(batch, "n")
    kept = FilterRows(Filter(view, call("gt", n, lit("BIGINT", 0))), leaf, context).apply(batch)
    assert kept.weight is not None
    assert kept.weight.tolist() == [-1, 1]
    projected = ProjectColumns(Project(view, (n,), view.output), leaf, context).apply(kept)
    window = WindowRows(TimeWindow(view, call("make_timestamp", n), 10, 5), leaf, context).apply(projected)
    assert window.weight is not None
    assert window.weight.tolist() == [-1, -1, 1, 1]


def test_now_is_one_moment_for_the_whole_statement() -> None:
    scan, context = plan_over(numbers(3), numbers(3))
    plan = Project(
        scan,
        (Call(TIMESTAMP, "now", ()), Call(TIMESTAMP, "now", ())),
        (OutputField("a", TIMESTAMP), OutputField("b", TIMESTAMP)),
    )
    found: list[Any] = []
    for batch in run(plan, context):
        time.sleep(0.002)
        found += [v for c in batch.columns for v in c.values.tolist()]
    assert len(found) == 12
    assert len(set(found)) == 1


def test_an_error_names_the_first_row_that_breaks_by_its_offset() -> None:
    batches = [batch_of({"n": ("BIGINT", values)}) for values in ([1, 2], [3, None, 0, 5, 0], [0])]
    log = MemoryLog(batches, start=40)
    n = col(batches[0], "n")
    broken = call("divide", lit("BIGINT", 10), n)
    kept = Filter(scan_of(log), call("ne", n, lit("BIGINT", 2)))
    field = (OutputField("q", BIGINT),)
    total = Aggregate(kept, (), (aggregate("sum", broken),), field)
    for plan in (
        Project(kept, (broken,), field),
        total,
        Filter(Project(kept, (n,), field), call("gt", broken, n)),
    ):
        with pytest.raises(EvaluationError, match=r"10 is divided by 0.*\(row at offset 44\)"):
            rows_of(plan, context_of(log))
    union = UnionAll((scan_of(log), scan_of(log)), field)
    with pytest.raises(EvaluationError, match="divided by 0") as caught:
        rows_of(Project(union, (broken,), field), context_of(log))
    assert "offset" not in str(caught.value)


# --- sort, top, distinct ------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-2, 2)),
        st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"])),
        st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 2.5, float("inf")])),
    ),
    max_size=25,
)


def table(rows: list[Any]) -> RecordBatch:
    types = ("BIGINT", "VARCHAR", "DOUBLE")
    return batch_of({n: (t, [r[i] for r in rows]) for i, (n, t) in enumerate(zip("asx", types, strict=True))})


class Down:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Down) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Down) and bool(self.value == other.value)


def place(value: Any, key: SortKey) -> Any:
    if value is None:
        return (0 if key.nulls_first else 2,)
    return (1, Down(value) if key.descending else value)


@st.composite
def sort_keys(draw: st.DrawFn) -> list[tuple[int, bool, bool]]:
    return [
        (i, draw(st.booleans()), draw(st.booleans()))
        for i in draw(st.permutations([0, 1, 2]))[: draw(st.integers(1, 3))]
    ]


@given(ROWS, sort_keys(), st.lists(st.integers(0, 25), max_size=3), st.integers(0, 30), st.integers(0, 5))
def test_sort_and_top_n_are_pythons_stable_sort(
    rows: list[Any], chosen: list[tuple[int, bool, bool]], cuts: list[int], count: int, skip: int
) -> None:
    batch = table(rows)
    keys = tuple(SortKey(col(batch, "asx"[i]), down, first) for i, down, first in chosen)
    expected = sorted(rows, key=lambda r: tuple(place(r[i], k) for (i, _, _), k in zip(chosen, keys, strict=True)))
    scan, context = plan_over(*split(batch, cuts))
    sort = Sort(scan, keys)
    assert rows_of(sort, context) == expected
    limit = Limit(sort, count, skip)
    assert rows_of(limit, context) == expected[skip : skip + count]
    through = Limit(Project(sort, (col(batch, "a"),), (OutputField("a", BIGINT),)), count, skip)
    assert rows_of(through, context) == [(r[0],) for r in expected[skip : skip + count]]
    assert plan_physical(limit, context).label().startswith("Top ")
    assert "Top " in plan_physical(through, context).children[0].label()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("nulls_first", [False, True])
def test_top_n_over_many_batches_forgets_rows_and_keeps_the_best(descending: bool, nulls_first: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 1_000_000, 400_000)
    valid = rng.random(400_000) > 0.00001
    batch = RecordBatch(("n", "i"), [Column(BIGINT, values, valid), Column(BIGINT, np.arange(400_000))])
    log = MemoryLog([batch.slice(i, i + 50_000) for i in range(0, 400_000, 50_000)])
    context = context_of(log, memory_limit_bytes=4_000_000)
    plan = Limit(Sort(scan_of(log), (SortKey(col(batch, "n"), descending, nulls_first),)), 20, 5)
    present = np.argsort(-values if descending else values, kind="stable")
    present = present[valid[present]].tolist()
    missing = np.flatnonzero(~valid).tolist()
    order = missing + present if nulls_first else present + missing
    found = [i for _, i in rows_of(plan, context)]
    assert found == order[5:25]


@given(ROWS, st.lists(st.integers(0, 25), max_size=4))
def test_distinct_gives_each_row_once_in_order_of_appearance(rows: list[Any], cuts: list[int]) -> None:
    scan, context = plan_over(*split(table(rows), cuts))
    assert rows_of(Distinct(scan), context) == list(dict.fromkeys(rows))


def test_distinct_over_many_rows_is_exact_and_streams() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 150_000, 400_000)
    batch = RecordBatch(("n",), [Column(BIGINT, values)])
    scan, context = plan_over(*[batch.slice(i, i + 40_000) for i in range(0, 400_000, 40_000)])
    assert [v for (v,) in rows_of(Distinct(scan), context)] == list(dict.fromkeys(values.tolist()))
    few, context = plan_over(numbers(3), numbers(3))
    assert next(run(Distinct(few), context)).row_count == 3


# --- join ---------------------------------------------------------------------------------------------------------

PAIRS = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(["a", "b", "c"])), st.one_of(st.none(), st.integers(0, 3))),
    max_size=12,
)


@given(
    PAIRS,
    PAIRS,
    st.sampled_from(["inner", "left"]),
    st.booleans(),
    st.integers(0, 2),
    st.lists(st.integers(0, 12), max_size=2),
)
def test_joins_are_nested_loops(
    left: list[Any], right: list[Any], kind: str, residual: bool, key_count: int, cuts: list[int]
) -> None:
    def table_of(rows: list[Any], names: str) -> RecordBatch:
        return batch_of({names[0]: ("VARCHAR", [r[0] for r in rows]), names[1]: ("BIGINT", [r[1] for r in rows])})

    a, b = table_of(left, "kn"), table_of(right, "lm")
    logs = MemoryLog(split(a, cuts)), MemoryLog(split(b, cuts))
    keys = [("k", "l"), ("n", "m")][:key_count]
    condition = None
    if residual:
        n = col(a, "n")
        m = replace(col(b, "m"), index=3)
        condition = call("le", n, m)
    plan = Join(
        kind, scan_of(logs[0]), scan_of(logs[1], 2),
        tuple(col(a, x) for x, _ in keys), tuple(col(b, y) for _, y in keys), condition,
    )  # fmt: skip

    def matches(x: Any, y: Any) -> bool:
        same = all(x[i] is not None and x[i] == y[i] for i in range(key_count))
        return same and (not residual or (x[1] is not None and y[1] is not None and x[1] <= y[1]))

    expected = []
    for x in left:
        partners = [(*x, *y) for y in right if matches(x, y)]
        expected += partners or ([(*x, None, None)] if kind == "left" else [])
    assert sorted(rows_of(plan, context_of(*logs)), key=repr) == sorted(expected, key=repr)


def test_a_key_repeated_on_both_sides_comes_out_in_morsels() -> None:
    left = RecordBatch(("k", "i"), [Column(BIGINT, np.zeros(700, np.int64)), Column(BIGINT, np.arange(700))])
    logs = MemoryLog([left]), MemoryLog([left])
    key = (col(left, "k"),)
    condition = call("ne", col(left, "i"), replace(col(left, "i"), index=3))
    plan = Join("left", scan_of(logs[0]), scan_of(logs[1], 2), key, key, condition)
    batches = list(run(plan, context_of(*logs)))
    assert max(b.row_count for b in batches) <= 131_072
    pairs = np.concatenate([b.columns[1].values * 700 + b.columns[3].values for b in batches])
    assert len(np.unique(pairs)) == len(pairs) == 700 * 699


def test_the_residual_of_a_join_may_guard_itself() -> None:
    a, b = batch_of({"n": ("BIGINT", [0, 4])}), batch_of({"m": ("BIGINT", [8])})
    logs = MemoryLog([a]), MemoryLog([b])
    n, m = col(a, "n"), replace(col(b, "m"), index=1)
    guard = call("and", call("ne", n, lit("BIGINT", 0)), call("eq", call("divide", m, n), lit("BIGINT", 2)))
    plan = Join("left", scan_of(logs[0]), scan_of(logs[1], 2), (), (), guard)
    assert sorted(rows_of(plan, context_of(*logs))) == [(0, None), (4, 8)]


# --- windows ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.none(), st.integers(-50, 50)), max_size=12), st.integers(1, 20), st.integers(1, 20),
    st.lists(st.integers(0, 12), max_size=2),
)  # fmt: skip
def test_every_row_is_in_the_windows_that_hold_its_time(
    times: list[int | None], size: int, slide: int, cuts: list[int]
) -> None:
    batch = batch_of({"t": ("TIMESTAMP", times)})
    scan, context = plan_over(*split(batch, cuts))
    plan = TimeWindow(scan, col(batch, "t"), size, slide)
    expected = []
    for t in times:
        starts = [] if t is None else [s for s in range(-100, 101) if s % slide == 0 and s <= t < s + size]
        expected += [(t, s, s + size, s + size - 1) for s in starts]
    assert rows_of(plan, context) == expected


def test_a_window_at_the_end_of_time_raises() -> None:
    batch = batch_of({"t": ("TIMESTAMP", [253_402_300_799_999_999])})
    scan, context = plan_over(batch)
    with pytest.raises(EvaluationError, match="window"):
        rows_of(TimeWindow(scan, col(batch, "t"), 10**6, 10**6), context)


# --- memory, cancel, explain --------------------------------------------------------------------------------------


def materialising_plans() -> list[tuple[str, Any]]:
    batch = numbers(400_000)
    n = col(batch, "n")
    fields = (OutputField("n", BIGINT), OutputField("c", BIGINT))
    return [
        ("ORDER BY", lambda scan: Sort(scan, (SortKey(n),))),
        ("GROUP BY", lambda scan: Aggregate(scan, (n,), (aggregate("count_star"),), fields)),
        ("GROUP BY", lambda scan: Aggregate(scan, (call("sign", n),), (aggregate("count", n, distinct=True),), fields)),
        ("DISTINCT", lambda scan: Distinct(scan)),
        ("JOIN", lambda scan: Join("inner", scan, scan, (n,), (n,))),
        ("LIMIT", lambda scan: Limit(Sort(scan, (SortKey(n, True),)), 300_000)),
    ]


@pytest.mark.parametrize(("what", "make"), materialising_plans())
def test_what_must_be_held_is_counted_and_refused_beyond_the_limit(what: str, make: Any) -> None:
    log = MemoryLog([numbers(40_000, i) for i in range(0, 400_000, 40_000)])
    plan: Plan = make(scan_of(log))
    with pytest.raises(MemoryLimitExceeded, match=rf"{what}.*memory_limit"):
        rows_of(plan, context_of(log, memory_limit_bytes=1_000_000))
    context = context_of(log, memory_limit_bytes=200_000_000)
    rows_of(plan, context)
    assert context.held_bytes == 0, "everything was released"


def test_an_operator_that_lets_go_hides_no_error_of_another() -> None:
    """The message lost its subject: the input's release found the total still past the limit and raised anew."""
    context = context_of(MemoryLog([numbers(1)]), memory_limit_bytes=1_000)
    above, below = object(), object()
    context.hold(below, "DISTINCT", 900)
    with pytest.raises(MemoryLimitExceeded, match="GROUP BY needs"):
        context.hold(above, "GROUP BY", 2_000)
    context.release(below)
    context.release(above)
    assert context.held_bytes == 0


def test_a_cancelled_query_stops_within_a_tenth_of_a_second() -> None:
    log = MemoryLog([numbers(131_072)] * 400)
    token = CancelToken()
    batch = log.segments[0]
    n = col(batch, "n")
    heavy = Aggregate(
        scan_of(log),
        (call("modulo", n, lit("BIGINT", 1000)),),
        (aggregate("sum", n),),
        (OutputField("k", BIGINT), OutputField("s", BIGINT)),
    )
    context = context_of(log, cancel=token)
    cancelled_at: list[float] = []

    def cancel() -> None:
        cancelled_at.append(time.perf_counter())
        token.cancel()

    timer = threading.Timer(0.05, cancel)
    timer.start()
    with pytest.raises(QueryCancelled):
        rows_of(heavy, context)
    assert time.perf_counter() - cancelled_at[0] < 0.1


def test_a_query_past_its_deadline_times_out() -> None:
    scan, context = plan_over(numbers(3))
    context.cancel = CancelToken(0.0)
    time.sleep(0.001)
    with pytest.raises(QueryTimeout, match="timeout"):
        rows_of(scan, context)


def test_explain_shows_operators_and_analyze_their_rows() -> None:
    scan, context = plan_over(numbers(10), numbers(10))
    batch = numbers(1)
    plan = Limit(Sort(Filter(scan, call("gt", col(batch, "n"), lit("BIGINT", 4))), (SortKey(col(batch, "n")),)), 3)
    assert [line.strip().split()[0] for line in physical_lines(plan_physical(plan, context))] == [
        "Top",
        "Filter",
        "Scan",
    ]
    context.measure()
    operator = plan_physical(plan, context)
    assert sum(b.row_count for b in operator.batches()) == 3
    lines = analyzed_lines(operator, context)
    assert ["rows=3" in lines[0], "rows=10" in lines[1], "rows=20" in lines[2]] == [True] * 3
    assert all("[interpreted]" in line and " ms" in line for line in lines)


def test_file_rows_come_through_the_arrow_door(tmp_path: Any) -> None:
    from eventdb.external.files import open_files
    from eventdb.logical.plan import ExternalScan

    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,x\n2,\n")
    fields = (OutputField("b", VARCHAR), OutputField("a", BIGINT))
    rows = rows_of(ExternalScan(open_files([str(path)]), ("b", "a"), fields), QueryContext(execution="interpreted"))
    assert [row[1] for row in rows] == [1, 2]
    assert rows[0][0] == "x"


def test_columns_of_a_plan_have_the_names_and_types_of_its_fields() -> None:
    batch = table([(1, "a", 0.5)])
    scan, context = plan_over(batch)
    assert fields_of(batch) == scan.output
    literal = Project(scan, (Literal(type_of("DECIMAL(5,2)"), 150),), (OutputField("d", type_of("DECIMAL(5,2)")),))
    assert rows_of(literal, context) == [(150,)]
