"""Aggregates that block statistics answer are those of the scan, whatever part of the rows is sealed."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import eventdb
from eventdb.logical.plan import explain_lines
from eventdb.logical.rules.block_statistics import block_statistics
from tests.sql.tables import plan_of

BLOCK = 64
COLUMNS = ("n", "maybe", "real", "nan", "flag", "word", "day", "price", "ts", "_offset", "_time")
TERMS = (
    "n >= 0", "n < 300", "300 > n", "n >= 128 AND n < 384", "n = 5", "maybe IS NOT NULL", "maybe < 1000", "real < 2.5",
    "nan > -1", "flag = TRUE", "day >= DATE '2020-01-03'", "price <= 4.00", "word = 'w1'", "_offset >= 100",
    "_offset >= 70 AND _offset < 200", "ts >= TIMESTAMP '2020-01-01 00:01:40'",
    "_time < TIMESTAMP '2020-01-01 00:05:00'",
    "n < 300 AND real < 100", "n % 2 = 0", "n > 100000",
)  # fmt: skip


def rows(first: int, count: int) -> pa.Table:
    numbers = np.arange(first, first + count)
    draw = np.random.default_rng(first)
    return pa.table(
        {
            "n": numbers,
            "maybe": pa.array(numbers * 3, mask=(numbers // 50 % 3 == 0) | (draw.random(count) < 0.01)),
            "real": numbers / 100 - 1.5,
            "nan": np.where(numbers % 200 == 7, np.nan, numbers / 7 + 1),
            "flag": numbers % 128 < 64,
            "word": [f"w{n // 64}" for n in numbers],
            "day": pa.array((numbers // 64 + 18262).astype(np.int32), pa.date32()),
            "price": pa.array([None if n % 64 == 9 else n for n in numbers], pa.int64()).cast(pa.decimal128(19)).cast(
                pa.decimal128(18, 2), safe=False
            ),
            "ts": pa.array(numbers * 1_000_000 + 1_577_836_800_000_000, pa.timestamp("us")),
        },
        schema=pa.schema(
            [
                pa.field("n", pa.int64(), False), pa.field("maybe", pa.int64()), pa.field("real", pa.float64(), False),
                pa.field("nan", pa.float64()), pa.field("flag", pa.bool_(), False),
                pa.field("word", pa.string(), False),
                pa.field("day", pa.date32(), False), pa.field("price", pa.decimal128(18, 2)),
                pa.field("ts", pa.timestamp("us"), False),
            ]
        ),
    )  # fmt: skip


@pytest.fixture(params=["raw", "sealed", "both"])
def db(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", BLOCK)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows(0, 1), event_time="ts")
        topic.append_batch(rows(0, 400))
        if request.param != "raw":
            db.compact(full=True)
        if request.param != "sealed":
            topic.append_batch(rows(400, 150))
        db.create_topic("empty", like=rows(0, 1))
        yield db


def both_ways(db: Any, sql: str) -> list[tuple[Any, ...]]:
    """The rows with the rule; those without it have to be the same."""
    db.sql("SET disabled_optimizers = 'block_statistics'")
    expected = db.sql(sql).fetchall()
    assert "BlockAggregate" not in explained(db, sql)
    db.sql("SET disabled_optimizers = DEFAULT")
    found: list[tuple[Any, ...]] = db.sql(sql).fetchall()
    assert repr(found) == repr(expected), sql
    return found


def explained(db: Any, sql: str) -> str:
    return "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall())


def test_aggregates_are_those_of_the_scan(db: Any) -> None:
    for name in COLUMNS:
        parts = f"count(*), count({name}), min({name}), max({name})"
        both_ways(db, f"SELECT {parts} FROM t")
        both_ways(db, f"SELECT {parts} FROM empty")
        for term in TERMS:
            both_ways(db, f"SELECT {parts} FROM t WHERE {term}")
    draw = random.Random(3)
    for _ in range(40):
        parts = ", ".join(f"{draw.choice(('count', 'min', 'max'))}({draw.choice(COLUMNS)})" for _ in range(3))
        where = " AND ".join(draw.sample(TERMS, 2))
        both_ways(db, f"SELECT {parts} FROM (SELECT *, _offset, _time FROM t WHERE {where}) q")


def test_whole_blocks_are_not_read(db: Any) -> None:
    text = explained(db, "SELECT count(*), min(n), max(maybe) FROM t WHERE n >= 100")
    assert "BlockAggregate count(*), min(n), max(maybe) <- Scan t" in text
    sealed = list(Path(db.path).glob("topics/*/0/*.col"))
    assert bool(sealed) == ("blocks from statistics)" in text)
    assert "blocks from statistics)" in explained(db, "SELECT count(*), max(_offset) FROM t")


def test_nan_is_the_greatest_and_zero_keeps_its_sign(db: Any) -> None:
    ((greatest, least),) = both_ways(db, "SELECT max(nan), min(nan) FROM t")
    assert math.isnan(greatest)
    assert least == 1.0


def test_blocks_in_many_places_are_read_with_the_others(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.physical.block_statistics._MOST_RUNS", 0)
    assert both_ways(db, "SELECT count(*), max(n) FROM t WHERE n > 70")[0][1] in (399, 549)


def test_rows_of_a_table_that_are_not_current_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", BLOCK)
    with eventdb.open(tmp_path / "a.eventdb") as db:
        table = db.create_table("t", {"k": "BIGINT", "v": "BIGINT"}, primary_key="k")
        table.put_many([{"k": i, "v": i} for i in range(500)])
        db.compact(full=True)
        assert both_ways(db, "SELECT count(*), min(v), max(v) FROM t") == [(500, 0, 499)]
        table.put_many([{"k": 0, "v": 7}, {"k": 499, "v": 8}])
        table.delete_many([1, 2])
        assert both_ways(db, "SELECT count(*), min(v), max(v), min(k) FROM t") == [(498, 3, 498, 0)]
        db.compact(full=True)
        assert both_ways(db, "SELECT count(*), min(v), max(v), min(k) FROM t") == [(498, 3, 498, 0)]


def test_rows_that_retention_removed_are_not_counted(db: Any) -> None:
    whole = db.sql("SELECT count(*) FROM t").fetchall()[0][0]
    db.topic("t").delete_before(70)
    ((count, least),) = both_ways(db, "SELECT count(*), min(n) FROM t")
    assert (count, least) == (whole - 70, 70)


def test_every_partition_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", BLOCK)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"k": "BIGINT", "v": "BIGINT"}, key="k", partitions=3)
        topic.append_batch({"k": np.arange(700), "v": np.arange(700)[::-1]})
        db.compact(full=True)
        topic.append_batch({"k": np.arange(700, 750), "v": np.arange(50) - 9})
        for sql in (
            "SELECT count(*), min(v), max(v) FROM t",
            "SELECT count(*), min(v), max(_offset) FROM t WHERE v > 90",
        ):
            both_ways(db, sql)
        assert both_ways(db, "SELECT count(*), min(v), max(v) FROM t") == [(750, -9, 699)]


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("SELECT count(*) FROM plain", "BlockAggregate count(*)"),
        ("SELECT min(y), count(y) FROM (SELECT x AS y FROM plain) q", "BlockAggregate min(x), count(x)"),
        ("SELECT max(x) FROM plain WHERE x > 5 AND 9 >= x", "BlockAggregate max(x)"),
        ("SELECT max(x) FROM plain WHERE x IS NOT NULL", "BlockAggregate max(x)"),
        ("SELECT max(x) FROM plain WHERE x > 5 OR x < 2", "Aggregate max(x)"),
        ("SELECT max(x + 1) FROM plain", "Aggregate max((x + 1))"),
        ("SELECT count(DISTINCT x) FROM plain", "Aggregate count(DISTINCT x)"),
        ("SELECT sum(x), max(x) FROM plain", "Aggregate sum(x), max(x)"),
        ("SELECT max(x) FILTER (WHERE x > 1) FROM plain", "Aggregate max(x) FILTER (WHERE (x > 1))"),
        ("SELECT x, count(*) FROM plain GROUP BY x", "Aggregate count(*) by x"),
    ],
)
def test_block_statistics_changes_what_blocks_may_answer(sql: str, first: str) -> None:
    plan = block_statistics(plan_of(sql))
    assert [line.strip() for line in explain_lines(plan) if "Aggregate" in line] == [first]
    assert block_statistics(plan) == plan
