"""Joins that do not fit in memory give the rows of the model, however small the parts and chunks get."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, RecordBatch
from eventdb.errors import EvaluationError, QueryCancelled
from eventdb.kernels.hash_spread import SPREAD
from eventdb.logical.plan import Join, Plan
from eventdb.physical.context import CancelToken
from eventdb.physical.planner import plan_physical
from eventdb.physical.spilled_parts import PARTS, KeyPlaces
from eventdb.schema import BIGINT
from tests.physical.building import MemoryLog, batch_of, call, col, context_of, physical, rows_of, scan_of, split
from tests.physical.test_joins import KINDS, Row, le, model, numbers, table_of

_cells = st.tuples(st.none() | st.sampled_from(["a", "b", "", "é"]), st.none() | st.integers(0, 2))
_rows = st.lists(_cells, max_size=12)
_cuts = st.lists(st.integers(0, 12), max_size=3)
LIMITS = st.sampled_from([1, 200, 600])
"""Bytes: nothing fits but what must; a row or two; a few."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("spill")
    yield str(path)
    assert os.listdir(path) == []


@pytest.mark.parametrize(
    ("kind", "comparison"), [*((kind, "") for kind in (*KINDS, "single", "mark")), ("mark", "eq"), ("mark", "le")]
)
@pytest.mark.parametrize("key_count", [0, 1, 2])
@given(_rows, _rows, _cuts, st.booleans(), st.booleans(), LIMITS)
def test_a_join_on_disk_gives_the_rows_of_the_model(
    folder: str, kind: str, comparison: str, key_count: int, left: list[Row], right: list[Row], cuts: list[int],
    nulls: bool, residual: bool, limit: int,
) -> None:  # fmt: skip
    a, b = table_of(left, "kn"), table_of(right, "lm")
    logs = MemoryLog(split(a, cuts)), MemoryLog(split(b, cuts))
    names = [("k", "l"), ("n", "m")][:key_count]
    n, m = col(a, "n"), replace(col(b, "m"), index=3)
    plan = Join(
        kind, scan_of(logs[0]), scan_of(logs[1], 2), tuple(col(a, x) for x, _ in names),
        tuple(col(b, y) for _, y in names), call("le", n, m) if residual else None, (nulls,) * key_count,
        call(comparison, n, m) if comparison else None,
    )  # fmt: skip

    def pairs(x: Row, y: Row) -> bool:
        same = all((nulls or x[i] is not None) and x[i] == y[i] for i in range(key_count))
        return same and (not residual or le(x[1], y[1]) is True)

    def mark(x: Row, y: Row) -> bool | None:
        if not comparison:
            return True
        if comparison == "le":
            return le(x[1], y[1])
        return None if x[1] is None or y[1] is None else x[1] == y[1]

    context = context_of(*logs, memory_limit_bytes=limit, spill_folder=folder)
    if kind == "single" and any(sum(pairs(x, y) for y in right) > 1 for x in left):
        with pytest.raises(EvaluationError, match="more than one row"):
            rows_of(plan, context)
        return
    expected = model("left" if kind == "single" else kind, left, right, pairs, mark)
    assert sorted(rows_of(plan, context), key=repr) == sorted(expected, key=repr)
    assert context.held_bytes == 0


@given(st.lists(st.none() | st.sampled_from([-0.0, 0.0, 1.5, float("nan"), float("inf")]), max_size=9), LIMITS)
def test_floats_meet_their_equals_on_disk_as_in_memory(folder: str, values: list[Any], limit: int) -> None:
    batch = batch_of({"x": ("DOUBLE", values), "i": ("BIGINT", list(range(len(values))))})
    logs = MemoryLog([batch]), MemoryLog([batch])
    x = col(batch, "x")
    for kind in ("inner", "full", "anti"):
        plan = Join(kind, scan_of(logs[0]), scan_of(logs[1], 2), (x,), (x,))
        expected = rows_of(plan, context_of(*logs))
        context = context_of(*logs, memory_limit_bytes=limit, spill_folder=folder)
        assert sorted(map(repr, rows_of(plan, context))) == sorted(map(repr, expected))


@pytest.mark.parametrize("execution", ["interpreted", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_join_beyond_the_limit_is_the_join_within_it(folder: str, kind: str, execution: str) -> None:
    random = np.random.default_rng(5)
    left, right = (
        RecordBatch(("k", "i"), [Column(BIGINT, random.integers(0, 90_000, n)), Column(BIGINT, np.arange(n))])
        for n in (60_000, 80_000)
    )
    logs = [MemoryLog([b.slice(i, i + 7_000) for i in range(0, b.row_count, 7_000)]) for b in (left, right)]
    plan = Join(kind, scan_of(logs[0]), scan_of(logs[1], 2), (col(left, "k"),), (col(right, "k"),))
    expected = sorted(map(repr, rows_of(plan, context_of(*logs, execution=execution))))
    context = context_of(*logs, execution=execution, memory_limit_bytes=1_000_000, spill_folder=folder)
    context.measure()
    operator = plan_physical(plan, context)
    found = [row for batch in operator.batches() for row in zip(*map(physical, batch.columns), strict=True)]
    assert sorted(map(repr, found)) == expected
    assert "spilled" in " ".join(o.label() for o in (operator, *operator.children))
    assert context.held_bytes == 0
    assert max(entry.memory_bytes for entry in context.metrics.values()) <= 1_000_000


def test_one_key_in_all_rows_is_joined_in_chunks(folder: str) -> None:
    left, right = numbers(30), RecordBatch(("n",), [Column(BIGINT, np.full(60_000, 7))])
    logs = MemoryLog([left]), MemoryLog([right.slice(i, i + 9_000) for i in range(0, 60_000, 9_000)])
    n = col(left, "n")
    for kind, count in (("inner", 60_000), ("left", 60_029), ("semi", 1), ("anti", 29)):
        plan = Join(kind, scan_of(logs[0]), scan_of(logs[1], 2), (n,), (n,))
        context = context_of(*logs, memory_limit_bytes=1_000_000, spill_folder=folder)
        assert len(rows_of(plan, context)) == count


def test_levels_cut_one_part_anew() -> None:
    keys = [Column(BIGINT, np.arange(100_000) * 64)]
    first = KeyPlaces()(keys)
    assert np.bincount(first, minlength=PARTS).max() < 2_500
    part = [keys[0].take(np.flatnonzero(first == 5))]
    counts = np.bincount(KeyPlaces(1)(part), minlength=PARTS)
    assert counts.max() < 4 * len(part[0]) / PARTS


def cancelled_plans() -> list[Callable[[Plan, Plan, Any], Plan]]:
    return [
        lambda a, b, n: Join("inner", a, b, (n,), (n,)),
        lambda a, b, n: Join("mark", a, b, (), (), None, (), call("eq", n, replace(n, index=1))),
    ]


@pytest.mark.parametrize("make", cancelled_plans())
def test_a_join_on_disk_stops_when_it_is_told_to(folder: str, make: Any) -> None:
    batch = numbers(3_000_000)
    logs = MemoryLog([batch.slice(i, i + 100_000) for i in range(0, 3_000_000, 100_000)])
    token = CancelToken()
    context = context_of(logs, logs, memory_limit_bytes=4_000_000, spill_folder=folder, cancel=token)
    Timer(0.3, token.cancel).start()
    with pytest.raises(QueryCancelled):
        rows_of(make(scan_of(logs), scan_of(logs, 2), col(batch, "n")), context)


def test_a_query_joins_more_than_memory_holds(tmp_path: Path) -> None:
    import pyarrow as pa

    import eventdb

    random = np.random.default_rng(6)
    count = 60_000
    rows = pa.table(
        {"k": random.integers(0, 40_000, count), "w": [f"w{n}" for n in random.integers(0, 30_000, count)],
         "v": random.integers(0, 9, count)}
    )  # fmt: skip
    queries = (
        "SELECT a.v, count(*), sum(b.v) FROM t a JOIN t b ON a.k = b.k GROUP BY a.v",
        "SELECT a.v, b.v, count(*) FROM t a LEFT JOIN t b ON a.w = b.w AND b.v > a.v GROUP BY 1, 2",
        "SELECT a.v, count(*) FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.k = a.k + 1 AND b.v = 3) GROUP BY 1",
        "SELECT count(*) FROM t a FULL JOIN (SELECT * FROM t WHERE v < 7) b ON a.k = b.k + 5 AND a.w = b.w",
        "SELECT count(*) FILTER (WHERE k IN (SELECT k + 3 FROM t WHERE v < 5)) FROM t",
    )
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows)
        for start in range(0, count, 10_000):
            topic.append_batch(rows.slice(start, 10_000))
        expected = [sorted(map(repr, db.sql(sql).fetchall())) for sql in queries]
        db.sql("SET memory_limit = '1MB'")
        for execution in ("auto", "interpreted", "compiled"):
            db.sql(f"SET execution = '{execution}'")
            for sql, rows_in_memory in zip(queries, expected, strict=True):
                assert sorted(map(repr, db.sql(sql).fetchall())) == rows_in_memory, (execution, sql)
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {queries[0]}").fetchall())
        assert "spilled" in plan
        assert os.listdir(tmp_path / "a.eventdb" / "spill") == []


def test_the_keys_of_a_part_are_spread_over_a_whole_table() -> None:
    """Parts were cut by the product that tables place keys by: each part's keys met in a 64th of its table."""
    keys = np.arange(200_000) * 1_000_003
    part = keys[KeyPlaces()([Column(BIGINT, keys)]) == 9]
    with np.errstate(over="ignore"):
        places = ((part - part.min()).astype(np.uint64) * np.uint64(SPREAD)) >> np.uint64(58)
    assert np.bincount(places.astype(np.int64), minlength=64).min() > len(part) / 64 / 3
