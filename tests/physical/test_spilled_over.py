"""Analytic functions over rows that do not fit in memory give DuckDB's values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import EvaluationError, MemoryLimitExceeded
from tests.physical.duckdb_pair import FIXED, Rows, agree, databases, same, stored, tables
from tests.physical.test_over_duckdb import NULLS, PARTITIONS, calls

LIMITS = st.sampled_from(["1KB", "4KB", "8KB"])
FEW = settings(max_examples=10)


@contextmanager
def limited(limit: str) -> Iterator[None]:
    db = databases()[0]
    db.sql(f"SET memory_limit = '{limit}'")
    try:
        yield
    finally:
        db.sql("SET memory_limit = '256MB'")


@FEW
@given(tables(), st.lists(calls(), min_size=1, max_size=3), LIMITS)
def test_calls_on_disk_agree_with_duckdb_or_need_a_whole_partition(rows: Rows, chosen: list[str], limit: str) -> None:
    with limited(limit), suppress(MemoryLimitExceeded):
        agree(rows, f"SELECT o, {', '.join(chosen)} FROM {{e}} ORDER BY o")


STREAMED = [
    "row_number()", "rank()", "dense_rank()", "count(*)", "count(s)", "sum(i)", "sum(d)", "sum(x)", "avg(i)", "avg(d)",
    "avg(x)", "min(x)", "max(x)", "min(s)", "max(s)", "min(t)", "max(d)", "bool_and(h > 1)", "bool_or(h > 1)",
    "first_value(s)", "lag(s)", "lead(x)", "lag(h, 2)", "lead(h, 2, -1)", "lag(d, 1, 0)", "lead(s, 1, g)",
    "sum(h) FILTER (WHERE h >= 1)", "avg(x) FILTER (WHERE h >= 1)",
]  # fmt: skip
FRAMES = ["", "ROWS UNBOUNDED PRECEDING", "ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING",
          "ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING", "ROWS BETWEEN 3 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW",
          "RANGE UNBOUNDED PRECEDING"]  # fmt: skip


@pytest.mark.parametrize("frame", FRAMES)
@FEW
@given(st.just(FIXED) | tables(), st.lists(st.sampled_from(STREAMED), min_size=1, max_size=4), PARTITIONS, NULLS,
       st.sampled_from(["h", "s", "x", "g"]), st.sampled_from(["1KB", "4KB"]))  # fmt: skip
def test_running_calls_and_near_frames_stream(
    frame: str, rows: Rows, chosen: list[str], partition: str, nulls: str, key: str, limit: str
) -> None:
    window = f"({partition} ORDER BY {key}{nulls}, o {frame})"
    with limited(limit):
        agree(rows, f"SELECT o, {', '.join(f'{call} OVER {window}' for call in chosen)} FROM {{e}} ORDER BY o")


@FEW
@given(
    st.just(FIXED) | tables(),
    PARTITIONS,
    NULLS,
    st.sampled_from(["h", "s", "x", "g"]),
    st.sampled_from(["8KB", "12KB"]),
)
def test_peers_stay_together(rows: Rows, partition: str, nulls: str, key: str, limit: str) -> None:
    window = f"({partition} ORDER BY {key}{nulls})"
    peered = ("rank()", "dense_rank()", "count(*)", "sum(h)", "avg(d)", "max(s)", "min(x)")
    with limited(limit):
        agree(rows, f"SELECT o, {', '.join(f'{call} OVER {window}' for call in peered)} FROM {{e}} ORDER BY o")


def test_windows_with_and_without_common_keys_and_whole_partitions() -> None:
    calls = ("sum(i) OVER ()", "count(*) OVER (PARTITION BY g)", "max(s) OVER (PARTITION BY g, h)",
             "row_number() OVER (PARTITION BY h ORDER BY o)", "avg(x) OVER (PARTITION BY x)",
             "lag(o) OVER (ORDER BY o)", "median(x) OVER (PARTITION BY g)")  # fmt: skip
    for limit in ("2KB", "6KB", "20KB"):
        with limited(limit):
            agree(FIXED, f"SELECT o, {', '.join(calls[:-1])} FROM {{e}} ORDER BY o")
    with limited("20KB"):
        agree(FIXED, f"SELECT o, {', '.join(calls)} FROM {{e}} ORDER BY o")


def test_a_running_sum_that_overflows_in_a_later_piece_says_so() -> None:
    db, _ = databases()
    big = 2**62
    rows: Rows = [(o, "a", 1, big if o in (1, 39) else 0, None, None, None, None) for o in range(40)]
    with limited("100B"), pytest.raises(EvaluationError, match=f"sum overflow: {2 * big}"):
        db.sql(f"SELECT sum(i) OVER (ORDER BY o) FROM {stored(rows)}").fetchall()


def test_a_partition_that_must_be_there_as_a_whole_is_refused_by_name() -> None:
    db, _ = databases()
    with limited("2KB"), pytest.raises(MemoryLimitExceeded, match=r"ntile\(3\).*partition.*memory_limit"):
        db.sql(f"SELECT ntile(3) OVER (ORDER BY o) FROM {stored(FIXED)}").fetchall()


QUERIES = (
    "SELECT o, row_number() OVER (PARTITION BY k ORDER BY o), sum(v) OVER (PARTITION BY k ORDER BY o) FROM t",
    "SELECT o, sum(v) OVER (ORDER BY o), lag(w) OVER (ORDER BY o), count(*) OVER (PARTITION BY w) FROM t",
    "SELECT o, rank() OVER (ORDER BY v), avg(v) OVER (ORDER BY o ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) FROM t",
)


def test_windows_of_a_database_spill_and_agree(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    random = np.random.default_rng(8)
    count = 30_000
    rows = pa.table(
        {"o": np.arange(count), "k": random.integers(0, 3_000, count), "v": random.integers(0, 400, count),
         "w": [f"w{n}" for n in random.integers(0, 5_000, count)]}
    )  # fmt: skip
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db, duckdb.connect() as other:
        other.register("t", rows)
        topic = db.create_topic("t", like=rows)
        for start in range(0, count, 5_000):
            topic.append_batch(rows.slice(start, 5_000))
        db.sql("SET memory_limit = '2MB'")
        for sql in QUERIES:
            expected = other.execute(f"{sql} ORDER BY 1").fetchall()
            found = sorted(db.sql(sql).fetchall())
            assert len(found) == len(expected)
            assert all(all(map(same, a, b)) for a, b in zip(found, expected, strict=True)), sql
        assert os.listdir(tmp_path / "a.eventdb" / "spill") == []
