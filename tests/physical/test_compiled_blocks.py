"""Compiled pipelines unpack sealed columns themselves, tile by tile, and give what the interpreted engine gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import eventdb
from eventdb.physical import compiled_aggregate
from eventdb.storage.sealed import blocks

ROWS = 30_000
QUERIES = (
    "SELECT count(*), sum(price), max(stamp), min(small) FROM t WHERE price > 500",
    "SELECT word, count(*), sum(price), min(stamp) FROM t GROUP BY word",
    "SELECT id, sum(price), count(*) FROM t GROUP BY id",
    "SELECT stamp, sum(id), max(price) FROM t GROUP BY stamp",  # more groups than the table begins with: it resumes
    "SELECT price, count(*), max(stamp) FROM t WHERE word <> 'w3' GROUP BY price",
    "SELECT id + price, word, real FROM t WHERE stamp % 7 = 3 AND maybe IS NOT NULL",
    "SELECT count(*), sum(id), sum(maybe), avg(real) FROM t WHERE _offset >= 12345 AND _offset < 27001",
    "SELECT word, sum(maybe), sum(flat) FROM t WHERE _offset >= 777 GROUP BY word",
    "SELECT sum(id) FROM t WHERE flat = 5 AND small > 30000 OR word IN ('w1', 'w2')",
)


def table(rows: int) -> pa.Table:
    random = np.random.default_rng(5)
    maybe = random.integers(-9, 9, rows)
    return pa.table(
        {
            "id": np.cumsum(random.integers(0, 3, rows)) - (1 << 40),  # differences
            "price": random.integers(0, 1_000, rows),  # packed
            "stamp": np.arange(rows) * 1_000_003 + random.integers(0, 9, rows),
            "small": random.integers(30_000, 40_000, rows).astype(np.int32),  # packed, 32 bits
            "flat": np.full(rows, 5),  # constant: decoded
            "real": random.normal(0, 1, rows).round(2),
            "maybe": pa.array(maybe, mask=maybe == 3),
            "word": pa.array([f"w{n}" for n in random.integers(0, 64, rows)]),
        },
        schema=pa.schema(
            [
                pa.field("id", pa.int64(), False), pa.field("price", pa.int64(), False),
                pa.field("stamp", pa.int64(), False), pa.field("small", pa.int32(), False),
                pa.field("flat", pa.int64(), False), pa.field("real", pa.float64(), False),
                pa.field("maybe", pa.int64(), True), pa.field("word", pa.string(), False),
            ]
        ),
    )  # fmt: skip


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sealed segments of several blocks, the last ones short, and raw rows behind them."""
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 8_192)
    rows = table(ROWS)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows)
        topic.append_batch(rows.slice(0, 25_000))
        db.compact(full=True)
        topic.append_batch(rows.slice(25_000))
        blocks.CACHE.clear()
        yield db
        blocks.CACHE.clear()


def rounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(tuple(round(v, 9) if isinstance(v, float) else v for v in row) for row in rows)


def test_sealed_columns_unpacked_in_the_pipeline_are_those_that_are_decoded(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.sql("SET execution = 'interpreted'")
    expected = [rounded(db.sql(query).fetchall()) for query in QUERIES]
    assert len(expected[3]) > 10_000
    whole = blocks.SealedSlice.packed
    used: dict[bool, set[int]] = {True: set(), False: set()}

    def packed(part: Any, index: int, start: int) -> Any:
        found = whole(part, index, start)
        used[found is not None].add(index)
        return found

    monkeypatch.setattr(blocks.SealedSlice, "packed", packed)
    db.sql("SET execution = 'compiled'")
    blocks.CACHE.clear()
    for threads in (1, 2):
        db.sql(f"SET threads = {threads}")
        for query, rows in zip(QUERIES, expected, strict=True):
            assert rounded(db.sql(query).fetchall()) == rows, query
    assert used[True] >= {0, 1, 3, 7}  # id (differences), price, small, word
    assert used[False] >= {4, 6}  # a constant, and what has NULLs


def test_blocks_that_are_kept_decoded_are_read_as_they_are(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        db.sql("SET execution = 'interpreted'")
        expected = rounded(db.sql(QUERIES[1]).fetchall())
    assert blocks.CACHE.held_bytes

    def packed(part: Any, index: int, start: int) -> Any:
        raise AssertionError(f"column {index} is unpacked again")

    monkeypatch.setattr(blocks.SealedSlice, "packed", packed)
    db.sql("SET execution = 'compiled'")
    assert rounded(db.sql(QUERIES[1]).fetchall()) == expected


def test_a_code_outside_the_dictionary_is_named_by_the_interpreted_engine(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = blocks.SealedSlice.packed

    def packed(part: Any, index: int, start: int) -> Any:
        found = whole(part, index, start)
        if index != 7 or found is None:
            return found
        shape = found[1].copy()
        shape[3] += 1 << 20
        shape.flags.writeable = False
        return found[0], shape

    monkeypatch.setattr(blocks.SealedSlice, "packed", packed)
    asked = []
    monkeypatch.setattr(
        compiled_aggregate.FusedAggregate, "_explain",
        lambda self, source, morsel: asked.append(morsel) or (_ for _ in ()).throw(compiled_aggregate.CannotCompile()),
    )  # fmt: skip
    db.sql("SET execution = 'interpreted'")
    expected = rounded(db.sql(QUERIES[1]).fetchall())
    blocks.CACHE.clear()
    db.sql("SET execution = 'compiled'")
    assert rounded(db.sql(QUERIES[1]).fetchall()) == expected
    assert asked
