"""GROUP BY, DISTINCT and set operations that do not fit in memory give what they give in memory, and DuckDB's rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb
from eventdb.batch import Column, RecordBatch
from eventdb.errors import MemoryLimitExceeded
from eventdb.logical.plan import Aggregate, Distinct, DistinctOn, GroupSets, OutputField, Plan
from eventdb.logical.relational import SetOperation
from eventdb.schema import BIGINT, DOUBLE
from tests.physical.building import MemoryLog, aggregate, batch_of, col, context_of, fields_of, rows_of, scan_of, split

duckdb = pytest.importorskip("duckdb", reason="DuckDB is the oracle of these tests; it is in the dev extra")

_cells = st.tuples(
    st.none() | st.sampled_from(["a", "b", "", "é"]),
    st.none() | st.integers(0, 2),
    st.none() | st.sampled_from([0.0, -0.0, 2.5, float("nan")]),
)
_rows = st.lists(_cells, max_size=16)
_cuts = st.lists(st.integers(0, 16), max_size=4)
LIMITS = st.sampled_from([100, 400, 1_500])
"""Bytes: nothing fits but what must; a few rows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("spill")
    yield str(path)
    assert os.listdir(path) == []


def table_of(rows: list[Any]) -> RecordBatch:
    types = {"s": "VARCHAR", "n": "BIGINT", "x": "DOUBLE"}
    return batch_of({name: (type, [r[i] for r in rows]) for i, (name, type) in enumerate(types.items())})


def assert_same(plan: Plan, logs: list[MemoryLog], folder: str, limit: int, *, ordered: bool = False) -> None:
    """The rows of a plan in memory, and with so much memory and a disk."""
    expected = list(map(repr, rows_of(plan, context_of(*logs))))
    context = context_of(*logs, memory_limit_bytes=limit, spill_folder=folder)
    found = list(map(repr, rows_of(plan, context)))
    assert (found == expected) if ordered else (Counter(found) == Counter(expected))
    assert context.held_bytes == 0


@given(_rows, _cuts, LIMITS, st.sampled_from(["", "s", "sn", "snx"]))
def test_groups_on_disk_are_those_in_memory(
    folder: str, rows: list[Any], cuts: list[int], limit: int, names: str
) -> None:
    batch = table_of(rows)
    log = MemoryLog(split(batch, cuts))
    keys = tuple(col(batch, name) for name in names)
    n, x, s = (col(batch, name) for name in "nxs")
    aggregations = (
        aggregate("count_star"), aggregate("sum", n), aggregate("min", s), aggregate("count", n, distinct=True),
        aggregate("sum", x, distinct=True), aggregate("count", s, distinct=True),
    )  # fmt: skip
    fields = [OutputField(f"c{i}", e.type) for i, e in enumerate((*keys, *aggregations))]
    assert_same(Aggregate(scan_of(log), keys, aggregations, tuple(fields)), [log], folder, limit)


@given(_rows, _cuts, LIMITS)
def test_grouping_sets_on_disk_are_those_in_memory(folder: str, rows: list[Any], cuts: list[int], limit: int) -> None:
    batch = table_of(rows)
    log = MemoryLog(split(batch, cuts))
    keys = col(batch, "s"), col(batch, "n")
    aggregations = aggregate("count_star"), aggregate("count", col(batch, "x"), distinct=True)
    fields = [OutputField(f"c{i}", e.type) for i, e in enumerate((*keys, *aggregations))]
    sets = ((0, 1), (1,), (), (0,))
    plan = GroupSets(scan_of(log), keys, sets, aggregations, (*fields, OutputField("set", BIGINT)))
    assert_same(plan, [log], folder, limit)


@given(_rows, _cuts, LIMITS)
def test_distinct_rows_on_disk_are_those_in_memory(folder: str, rows: list[Any], cuts: list[int], limit: int) -> None:
    log = MemoryLog(split(table_of(rows), cuts))
    assert_same(Distinct(scan_of(log)), [log], folder, limit)


@given(_rows, _cuts, LIMITS, st.sampled_from(["s", "n", "xs"]))
def test_first_rows_on_disk_are_those_in_memory_in_order(
    folder: str, rows: list[Any], cuts: list[int], limit: int, names: str
) -> None:
    batch = table_of(rows)
    log = MemoryLog(split(batch, cuts))
    plan = DistinctOn(scan_of(log), tuple(col(batch, name) for name in names))
    assert_same(plan, [log], folder, limit, ordered=True)


@given(_rows, _rows, _cuts, LIMITS, st.sampled_from(["intersect", "except"]), st.booleans())
def test_set_operations_on_disk_are_those_in_memory(
    folder: str, left: list[Any], right: list[Any], cuts: list[int], limit: int, kind: str, keep_all: bool
) -> None:
    a, b = table_of(left), table_of(right)
    logs = [MemoryLog(split(a, cuts)), MemoryLog(split(b, cuts))]
    plan = SetOperation(kind, scan_of(logs[0]), scan_of(logs[1], 2), keep_all, fields_of(a))
    assert_same(plan, logs, folder, limit)


def test_distinct_arguments_first_on_disk_then_their_groups_too(folder: str) -> None:
    """Few groups with many arguments, then many groups: what is on disk goes to the parts of its groups."""
    count = 60_000
    few, many = np.arange(count) % 3, np.arange(count) + 10
    values = np.arange(count) * 7
    keys = np.concatenate([few, many, few])
    batch = RecordBatch(("k", "v"), [Column(BIGINT, keys), Column(BIGINT, np.concatenate([values, values, values]))])
    log = MemoryLog([batch.slice(i, i + 5_000) for i in range(0, batch.row_count, 5_000)])
    plan = Aggregate(
        scan_of(log), (col(batch, "k"),), (aggregate("count", col(batch, "v"), distinct=True),),
        (OutputField("k", BIGINT), OutputField("c", BIGINT)),
    )  # fmt: skip
    context = context_of(log, memory_limit_bytes=1_500_000, spill_folder=folder)
    found = dict(rows_of(plan, context))
    assert found == {k: 20_000 if k < 3 else 1 for k in keys.tolist()}
    assert context.held_bytes == 0


def test_an_aggregate_that_needs_all_rows_of_one_group_is_refused_by_name(folder: str) -> None:
    batch = RecordBatch(("k",), [Column(DOUBLE, np.arange(200_000) * 0.5)])
    log = MemoryLog([batch.slice(i, i + 10_000) for i in range(0, 200_000, 10_000)])
    plan = Aggregate(scan_of(log), (), (aggregate("mode", col(batch, "k")),), (OutputField("m", DOUBLE),))
    with pytest.raises(MemoryLimitExceeded, match=r"an aggregate.*memory_limit"):
        rows_of(plan, context_of(log, memory_limit_bytes=1_000_000, spill_folder=folder))


QUERIES = (
    "SELECT DISTINCT k, w FROM t",
    "SELECT count(*) FROM (SELECT DISTINCT w FROM t)",
    "SELECT k, v FROM t INTERSECT SELECT k + 1, v FROM t",
    "SELECT w FROM t EXCEPT ALL SELECT w FROM t WHERE v < 5",
    "SELECT w FROM t INTERSECT ALL SELECT w FROM t WHERE v < 5",
    "SELECT k FROM t UNION SELECT k + 8000 FROM t",
    "SELECT v, count(DISTINCT k), count(DISTINCT w), sum(DISTINCT k) FROM t GROUP BY v",
    "SELECT count(DISTINCT k), count(DISTINCT w) FROM t",
    "SELECT w, v, count(DISTINCT k) FROM t GROUP BY ROLLUP (w, v)",
    "SELECT k % 1000, median(k), string_agg(w ORDER BY w) FROM t GROUP BY 1",
)


def test_queries_on_disk_agree_with_duckdb(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    count = 20_000
    missing = random.integers(0, 9, count) == 0
    rows = pa.table(
        {"k": pa.array(random.integers(0, 12_000, count), mask=missing),
         "w": [f"w{n}" for n in random.integers(0, 8_000, count)], "v": random.integers(0, 9, count)}
    )  # fmt: skip
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows)
        for start in range(0, count, 4_000):
            topic.append_batch(rows.slice(start, 4_000))
        db.sql("SET memory_limit = '400KB'")
        with duckdb.connect() as other:
            other.register("t", rows)
            for sql in QUERIES:
                expected = Counter(tuple(map(_plain, row)) for row in other.execute(sql).fetchall())
                assert Counter(tuple(map(_plain, row)) for row in db.sql(sql).fetchall()) == expected, sql
        assert os.listdir(tmp_path / "a.eventdb" / "spill") == []


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else float(value)
