"""Aggregates: against DuckDB, against themselves under any batching, and their stored form."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import RecordBatch
from eventdb.errors import CorruptionError, EvaluationError
from eventdb.logical.expressions import Aggregation, Expression
from eventdb.logical.functions import AGGREGATES, COLLECTED
from eventdb.logical.plan import Aggregate, OutputField
from eventdb.physical import collected
from eventdb.physical.accumulators import accumulator_of
from eventdb.physical.aggregate_state import AggregateInputs, GroupedState, decode_key, encode_key
from eventdb.physical.state_bytes import decode, encode
from eventdb.schema import decimal_type
from eventdb.wide_decimals import pack

from .building import aggregate, batch_of, call, col, lit, physical, plan_over, rows_of, split

COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "g": ("VARCHAR", st.sampled_from(["a", "b", "", "é"])),
    "h": ("INTEGER", st.integers(0, 3)),
    "i": ("BIGINT", st.one_of(st.integers(-5, 5), st.sampled_from([-(2**62), 2**62, 2**53 + 1]))),
    "x": ("DOUBLE", st.sampled_from([-1.5, 0.0, 0.25, 2.0, 1e6])),
    "d": ("DECIMAL(9,2)", st.integers(-(10**9) + 1, 10**9 - 1)),
    "s": ("VARCHAR", st.sampled_from(["", "x", "y", "ß", "zz"])),
    "b": ("BOOLEAN", st.booleans()),
    "t": ("TIMESTAMP", st.integers(0, 10**15)),
    "f": ("FLOAT", st.sampled_from([-0.5, 0.0, 4.0])),
}


@st.composite
def events(draw: st.DrawFn, least: int = 0, most: int = 30) -> RecordBatch:
    count = draw(st.integers(least, most))
    columns = {}
    for name, (type, value) in COLUMNS.items():
        columns[name] = (type, draw(st.lists(st.one_of(st.none(), value), min_size=count, max_size=count)))
    return batch_of(columns)


def every_aggregation(batch: RecordBatch) -> list[tuple[Aggregation, str]]:
    """Each aggregate over each column it takes, with the SQL DuckDB understands."""
    found = []
    where = call("ge", col(batch, "h"), lit("INTEGER", 2))
    for name in sorted(AGGREGATES.keys() - COLLECTED):
        arguments = [None] if name == "count_star" else list(COLUMNS)
        for argument in arguments:
            args = [] if argument is None else [col(batch, argument)]
            if AGGREGATES[name].resolve([a.type for a in args]) is None:
                continue
            spelled = {"count_star": "count(*)"}.get(name, f"{name}({argument})")
            found.append((aggregate(name, *args), spelled))
            found.append((aggregate(name, *args, where=where), f"{spelled} FILTER (WHERE h >= 2)"))
            if name in ("count", "sum", "avg", "min", "max", "stddev_samp"):
                spelled = f"{name}(DISTINCT {argument})"
                found.append((aggregate(name, *args, distinct=True), spelled))
    return found


def test_every_aggregate_of_the_registry_has_an_accumulator() -> None:
    batch = batch_of({name: (type, []) for name, (type, _) in COLUMNS.items()})
    built = {a.function for a, _ in every_aggregation(batch) if accumulator_of(a) is not None}
    assert built == AGGREGATES.keys() - COLLECTED


def plan_of(
    batches: list[RecordBatch], keys: list[Expression], aggregations: list[Aggregation]
) -> tuple[Aggregate, Any]:
    scan, context = plan_over(*batches)
    fields = [OutputField(f"k{i}", k.type) for i, k in enumerate(keys)]
    fields += [OutputField(f"a{i}", a.type) for i, a in enumerate(aggregations)]
    return Aggregate(scan, tuple(keys), tuple(aggregations), tuple(fields)), context


def load_duckdb(batch: RecordBatch) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE e ({', '.join(f'{n} {t}' for n, (t, _) in COLUMNS.items())}, _o BIGINT)")
    rows = [(*row, i) for i, row in enumerate(batch.to_pylist())]
    if rows:
        connection.executemany(f"INSERT INTO e VALUES ({', '.join('?' * len(rows[0]))})", rows)
    return connection


def close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-7)
    if isinstance(b, float):
        return close(float(a), b) if a is not None else False
    return bool(a == b)


def fits(aggregation: Aggregation) -> bool:
    """Whether DuckDB means the same: its sums do not overflow, its any_value, first and last depend on the plan."""
    return aggregation.function not in ("first", "last", "any_value")


@given(events(), st.booleans(), st.lists(st.integers(0, 30), max_size=3))
def test_grouped_aggregates_agree_with_duckdb(batch: RecordBatch, grouped: bool, cuts: list[int]) -> None:
    chosen = [(a, sql) for a, sql in every_aggregation(batch) if fits(a)]
    keys: list[Expression] = [col(batch, "g"), call("modulo", col(batch, "h"), lit("INTEGER", 2))] if grouped else []
    connection = load_duckdb(batch)
    by = " GROUP BY g, h % 2" if grouped else ""
    expected = connection.execute(
        f"SELECT {'g, h % 2, ' if grouped else ''}{', '.join(sql for _, sql in chosen)} FROM e{by}"
    ).fetchall()
    low, high = -(2**63), 2**63 - 1
    exceeds = any(
        a.function == "sum" and a.args[0].type.is_integer and row[i + len(keys)] is not None
        and not low <= row[i + len(keys)] <= high
        for row in expected
        for i, (a, _) in enumerate(chosen)
    )  # fmt: skip
    plan, context = plan_of(split(batch, cuts), keys, [a for a, _ in chosen])
    if exceeds:
        with pytest.raises(EvaluationError, match="sum overflow"):
            rows_of(plan, context)
        return
    from eventdb.physical.planner import run

    rows = [row for b in run(plan, context) for row in b.to_pylist()]
    order = {row[: len(keys)]: row for row in rows}
    assert len(order) == len(rows) == len(expected)
    for row in expected:
        mine = order[row[: len(keys)]]
        for (a, sql), found, wanted in zip([(None, "key")] * len(keys) + chosen, mine, row, strict=True):
            assert close(found, wanted), (sql, a, found, wanted)


def model_position(function: str, values: list[Any]) -> Any:
    if function == "any_value":
        values = [v for v in values if v is not None]
    if not values:
        return None
    return values[-1 if function == "last" else 0]


@given(events(), st.lists(st.integers(0, 30), max_size=4))
def test_first_last_and_any_value_follow_the_row_order(batch: RecordBatch, cuts: list[int]) -> None:
    functions = ("first", "last", "any_value")
    names = ("i", "s", "x", "b")
    aggregations = [aggregate(f, col(batch, n)) for f in functions for n in names]
    plan, context = plan_of(split(batch, cuts), [col(batch, "g")], aggregations)
    groups: dict[Any, list[int]] = {}
    for row, value in enumerate(physical(batch.columns[0])):
        groups.setdefault(value, []).append(row)
    found = {row[0]: row[1:] for row in rows_of(plan, context)}
    assert set(found) == set(groups)
    for value, rows in groups.items():
        held = {n: [physical(batch.columns[batch.names.index(n)])[r] for r in rows] for n in names}
        assert found[value] == tuple(model_position(f, held[n]) for f in functions for n in names)


def run_state(batch: RecordBatch, pieces: list[RecordBatch]) -> GroupedState:
    aggregations = [a for a, _ in every_aggregation(batch)]
    keys = [col(batch, "g"), col(batch, "h")]
    state = GroupedState(aggregations, [k.type for k in keys])
    inputs = AggregateInputs(keys, aggregations)
    for piece in pieces:
        touched = state.update_batch(inputs, piece)
        assert len(set(touched.tolist())) == len(touched)
        rows = zip(physical(piece.columns[0]), physical(piece.columns[1]), strict=True)
        assert {state.key_of(g) for g in touched.tolist()} == set(rows)
    return state


def all_results(state: GroupedState) -> dict[Any, tuple[Any, ...]]:
    try:
        rows = state.result(state.group_ids()).to_pylist()
    except EvaluationError:
        return {}
    return {row[:2]: row[2:] for row in rows}


def same(a: dict[Any, tuple[Any, ...]], b: dict[Any, tuple[Any, ...]]) -> bool:
    return set(a) == set(b) and all(close(x, y) for k in a for x, y in zip(a[k], b[k], strict=True))


@given(events(least=1), st.lists(st.integers(0, 30), max_size=6))
def test_grouped_state_is_the_batch_result_under_any_batching(batch: RecordBatch, cuts: list[int]) -> None:
    whole = all_results(run_state(batch, [batch]))
    assert same(all_results(run_state(batch, split(batch, cuts))), whole)
    one_by_one = [batch.slice(i, i + 1) for i in range(batch.row_count)]
    state = run_state(batch, one_by_one)
    assert same(all_results(state), whole)
    plan, context = plan_of([batch], [col(batch, "g"), col(batch, "h")], [a for a, _ in every_aggregation(batch)])
    if whole:
        from eventdb.physical.planner import run

        rows = {row[:2]: row[2:] for b in run(plan, context) for row in b.to_pylist()}
        assert same(rows, whole)


@given(events(least=1), events(least=1))
def test_dumped_groups_continue_where_they_were(first: RecordBatch, second: RecordBatch) -> None:
    straight = run_state(first, [first, second])
    state = run_state(first, [first])
    restored = GroupedState(state.aggregations, state.key_types)
    for group in state.group_ids().tolist():
        key = decode_key(encode_key(state.key_of(group)))
        assert key == state.key_of(group)
        data = state.dump(group)
        assert restored.dump(restored.load(key, data)) == data
    inputs = AggregateInputs([col(first, "g"), col(first, "h")], state.aggregations)
    restored.update_batch(inputs, second)
    assert same(all_results(restored), all_results(straight))


@given(events(least=1), events(least=1))
def test_merged_states_are_the_state_of_all_rows(first: RecordBatch, second: RecordBatch) -> None:
    straight = run_state(first, [first, second])
    left, right = run_state(first, [first]), run_state(first, [second])
    touched = left.merge(right)
    assert {left.key_of(g) for g in touched.tolist()} == {right.key_of(g) for g in right.group_ids().tolist()}
    assert same(all_results(left), all_results(straight))


@pytest.mark.parametrize("times", [1, 5])
def test_removed_groups_start_afresh(times: int) -> None:
    batch = batch_of({"g": ("VARCHAR", ["a", "b", "a"] * times), "i": ("BIGINT", [1, 2, 3] * times)})
    aggregations = [aggregate("sum", col(batch, "i")), aggregate("max", col(batch, "g")), aggregate("count_star")]
    state = GroupedState(aggregations, [batch.columns[0].type])
    inputs = AggregateInputs([col(batch, "g")], aggregations)
    state.update_batch(inputs, batch)
    found = state.find(("a",))
    assert found is not None
    state.remove(np.array([found]))
    assert (len(state), state.find(("a",))) == (1, None)
    touched = state.update_batch(inputs, batch)
    found_again = sorted(state.result(touched).to_pylist())
    assert found_again == [("a", 4 * times, "a", 2 * times), ("b", 4 * times, "b", 2 * times)]
    assert state.find(("a",)) in touched.tolist()


def test_a_float_key_has_one_nan_and_one_zero() -> None:
    batch = batch_of({"x": ("DOUBLE", [math.nan, -0.0, 0.0, -math.nan, math.nan])})
    count = [aggregate("count_star")]
    state = GroupedState(count, [batch.columns[0].type])
    inputs = AggregateInputs([col(batch, "x")], count)
    for i in range(5):
        state.update_batch(inputs, batch.slice(i, i + 1))
    state.update_batch(inputs, RecordBatch.concat([batch] * 4))
    assert sorted(n for _, n in state.result(state.group_ids()).to_pylist()) == [10, 15]


def test_a_sum_fails_only_if_the_sum_of_all_rows_does_not_fit() -> None:
    top = 2**63 - 1
    batch = batch_of({"i": ("BIGINT", [top, top, -top, -5])})
    plan, context = plan_of([batch.slice(0, 2), batch.slice(2, 4)], [], [aggregate("sum", col(batch, "i"))])
    assert rows_of(plan, context) == [(top - 5,)]
    plan, context = plan_of([batch.slice(0, 1), batch.slice(1, 2)], [], [aggregate("sum", col(batch, "i"))])
    with pytest.raises(EvaluationError, match=f"sum overflow: {2 * top}"):
        rows_of(plan, context)
    average, context = plan_of([batch.slice(0, 2)], [], [aggregate("avg", col(batch, "i"))])
    assert rows_of(average, context) == [(float(top),)]


HUGE = st.one_of(st.sampled_from([-(2**63), 2**63 - 1, -(2**62), 2**62]), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(HUGE, min_size=1, max_size=40), st.integers(1, 3), st.lists(st.integers(0, 40), max_size=8))
def test_grouped_sums_of_huge_integers_are_exact(values: list[int], groups: int, cuts: list[int]) -> None:
    values += [-v for v in values[::2] if v > -(2**63)]  # so that many sums fit in the end, but not on the way
    keys = [i % groups for i in range(len(values))]
    batch = batch_of({"g": ("INTEGER", keys), "i": ("BIGINT", values)})
    sums = {g: sum(v for v, k in zip(values, keys, strict=True) if k == g) for g in set(keys)}
    plan, context = plan_of(split(batch, cuts), [col(batch, "g")], [aggregate("sum", col(batch, "i"))])
    if all(-(2**63) <= s < 2**63 for s in sums.values()):
        assert dict(rows_of(plan, context)) == sums  # type: ignore[arg-type]
    else:
        with pytest.raises(EvaluationError, match="sum overflow"):
            rows_of(plan, context)


def test_sums_that_leave_the_range_downwards_and_return_are_exact_per_group() -> None:
    low = -(2**63)
    batch = batch_of({"g": ("INTEGER", [0, 1] * 4), "i": ("BIGINT", [low, 1, low, 1, 2**62, 1, 2**62, 1])})
    pieces = [batch.slice(i, i + 2) for i in range(0, 8, 2)]
    plan, context = plan_of(pieces, [col(batch, "g")], [aggregate("sum", col(batch, "i"))])
    assert sorted(rows_of(plan, context)) == [(0, low), (1, 4)]


def test_decimal_sums_keep_their_scale_and_have_38_digits() -> None:
    batch = batch_of({"d": ("DECIMAL(18,2)", [10**18 - 1, 1])})
    plan, context = plan_of([batch], [], [aggregate("sum", col(batch, "d"))])
    assert plan.fields[0].type == decimal_type(38, 2)
    assert rows_of(plan, context) == [(pack(10**18),)]
    batch = batch_of({"d": ("DECIMAL(38,2)", [pack(10**38 - 1), pack(1)])})
    plan, context = plan_of([batch], [], [aggregate("sum", col(batch, "d"))])
    with pytest.raises(EvaluationError, match=r"1(0{36})\.00 is outside .* DECIMAL\(38,2\)"):
        rows_of(plan, context)


def test_no_rows_give_one_row_without_keys_and_none_with_keys() -> None:
    batch = batch_of({name: (type, []) for name, (type, _) in COLUMNS.items()})
    aggregations = [
        aggregate("count_star"),
        aggregate("sum", col(batch, "i")),
        aggregate("count", col(batch, "s"), distinct=True),
    ]
    assert rows_of(*plan_of([batch], [], aggregations)) == [(0, None, 0)]
    assert rows_of(*plan_of([batch], [col(batch, "g")], aggregations)) == []


def test_a_filtered_argument_is_not_evaluated_where_the_filter_is_false() -> None:
    batch = batch_of({"i": ("BIGINT", [0, 2, 5])})
    i = col(batch, "i")
    ten = lit("BIGINT", 10)
    safe = aggregate("sum", call("divide", ten, i), where=call("ne", i, lit("BIGINT", 0)))
    assert rows_of(*plan_of([batch], [], [safe])) == [(7,)]


def test_distinct_arguments_obey_the_filter() -> None:
    batch = batch_of(
        {"g": ("INTEGER", [1, 1, 1, 2]), "i": ("BIGINT", [5, 5, 7, None]), "b": ("BOOLEAN", [True, True, None, True])}
    )
    count = aggregate("count", col(batch, "i"), distinct=True, where=col(batch, "b"))
    total = aggregate("sum", col(batch, "i"), distinct=True)
    plan, context = plan_of([batch], [col(batch, "g")], [count, total])
    assert sorted(rows_of(plan, context)) == [(1, 1, 12), (2, 0, None)]


def test_many_groups_over_many_batches_merge_exactly() -> None:
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 60_000, 200_000)
    batch = batch_of({"k": ("BIGINT", keys.tolist()), "v": ("BIGINT", list(range(200_000)))})
    pieces = [batch.slice(i, i + 20_000) for i in range(0, 200_000, 20_000)]
    aggregations = [
        aggregate("count_star"),
        aggregate("last", col(batch, "v")),
        aggregate("count", col(batch, "v"), distinct=True),
    ]
    plan, context = plan_of(pieces, [col(batch, "k")], aggregations)
    counts = np.bincount(keys, minlength=60_000)
    last = np.zeros(60_000, dtype=np.int64)
    last[keys] = np.arange(200_000)
    rows = rows_of(plan, context)
    assert len(rows) == np.count_nonzero(counts)
    assert all((n, v, m) == (counts[k], last[k], counts[k]) for k, n, v, m in rows)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**200), 2**200),
        st.text(),
        st.binary(),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=6))
def test_stored_values_come_back_with_their_types(values: list[Any]) -> None:
    back = decode(encode(values))
    assert back == values
    assert list(map(type, back)) == list(map(type, values))


@given(st.lists(VALUES, min_size=1, max_size=4), st.data())
def test_cut_bytes_are_corruption_never_another_error(values: list[Any], data: st.DataObject) -> None:
    whole = encode(values)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(CorruptionError):
        assert len(decode(cut)) < len(values)
    with contextlib.suppress(CorruptionError):
        decode(data.draw(st.binary(max_size=20)))


def test_bytes_of_another_query_are_refused() -> None:
    batch = batch_of({"i": ("BIGINT", [1]), "s": ("VARCHAR", ["a"])})
    count, both = [aggregate("count_star")], [aggregate("sum", col(batch, "i")), aggregate("max", col(batch, "i"))]
    state = GroupedState(both, [batch.columns[1].type])
    group = state.update([batch.columns[1]], [batch.columns[0]] * 2, [None, None], 1)[0]
    with pytest.raises(CorruptionError):
        GroupedState(count, state.key_types).load(("a",), state.dump(int(group)))
    with pytest.raises(CorruptionError):
        state.load(("b",), encode(["text", 1, 2, True]))


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(-3, 3))), max_size=60),
       st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), st.sampled_from(["DOUBLE", "BIGINT", "TIMESTAMP"]))  # fmt: skip
def test_a_quantile_selected_in_each_group_is_the_one_of_the_sorted_group(
    rows: list[tuple[int, int | None]], fraction: float, type: str
) -> None:
    present = [(g, v) for g, v in rows if v is not None]
    batch = batch_of({"g": ("BIGINT", [g for g, _ in present]), "v": (type, [v for _, v in present])})
    for function in ("quantile_disc", "quantile_cont"):
        wanted = aggregate(function, col(batch, "v"), lit("DOUBLE", fraction))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collected, "_ROWS_PER_GROUP", 1 << 40)
            expected = collected.aggregate_rows(wanted, [batch.columns[1]], batch.columns[0].values, 3)
            patch.setattr(collected, "_ROWS_PER_GROUP", 0)
            found = collected.aggregate_rows(wanted, [batch.columns[1]], batch.columns[0].values, 3)
        assert physical(found) == physical(expected)
