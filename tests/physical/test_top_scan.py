"""ORDER BY ... LIMIT over a topic's own rows gives what a stable sort gives, and reads few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb
from eventdb.logical.expressions import SortKey
from eventdb.logical.plan import Limit, OutputField, Project, Sort
from eventdb.physical.planner import plan_physical
from eventdb.physical.top_scan import TopOfScan, top_shape
from eventdb.schema import DOUBLE
from eventdb.storage.sealed import blocks
from tests.physical.building import batch_of, call, col, lit, physical, plan_over, split

VALUES = st.tuples(
    st.one_of(st.none(), st.integers(-2, 2), st.sampled_from([2**63 - 1, -(2**63)])),
    st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"])),
    st.one_of(st.none(), st.sampled_from([-1.0, -0.0, 0.0, 2.5, float("inf"), float("nan")])),
)
KEYS = st.tuples(st.sampled_from(["ax", "axs", "xa", "xs", "a", "x"]), st.integers(0, 7), st.integers(0, 7))


@given(st.lists(VALUES, max_size=30), KEYS, st.lists(st.integers(0, 30), max_size=4), st.integers(1, 8),
       st.integers(0, 3), st.integers(1, 2))  # fmt: skip
def test_the_top_of_a_scan_is_what_sorting_everything_begins_with(
    rows: list[Any], keys: tuple[str, int, int], cuts: list[int], count: int, skip: int, threads: int
) -> None:
    types = ("BIGINT", "VARCHAR", "DOUBLE")
    batch = batch_of({n: (t, [r[i] for r in rows]) for i, (n, t) in enumerate(zip("asx", types, strict=True))})
    scan, context = plan_over(*split(batch, cuts))
    context.threads = threads
    names, down, first = keys
    order = tuple(SortKey(col(batch, n), bool(down >> i & 1), bool(first >> i & 1)) for i, n in enumerate(names))
    sort = Sort(scan, order)
    sorted_rows = [row for b in plan_physical(sort, context).batches() for row in _rows(b)]
    shape = top_shape(sort)
    assert shape is not None
    limit = Limit(sort, count, skip)
    found = [row for b in TopOfScan(limit, shape, context).batches() for row in _rows(b)]
    assert repr(found) == repr(sorted_rows[skip : skip + count])


def _rows(batch: Any) -> list[tuple[Any, ...]]:
    return list(zip(*map(physical, batch.columns), strict=True))


def test_a_sort_over_what_may_fail_or_of_computed_first_keys_is_left_to_others() -> None:
    batch = batch_of({"a": ("BIGINT", [1, 2]), "x": ("DOUBLE", [1.0, 2.0])})
    scan, _ = plan_over(batch)
    ratio = call("divide", lit("DOUBLE", 1.0), col(batch, "x"))
    assert top_shape(Sort(scan, (SortKey(call("add", col(batch, "a"), lit("BIGINT", 1))),))) is None
    total = Project(scan, (call("add", col(batch, "a"), lit("BIGINT", 1)),), (OutputField("b", DOUBLE),))
    assert top_shape(Sort(total, (SortKey(ratio),))) is None
    assert top_shape(Sort(scan, (SortKey(col(batch, "x")),))) is not None


ROWS = 40_000
QUERIES = (
    "SELECT * FROM t ORDER BY _offset DESC LIMIT 5",
    "SELECT id, note FROM t ORDER BY ts DESC LIMIT 7 OFFSET 3",
    "SELECT ts, price FROM t ORDER BY ts LIMIT 7",
    "SELECT price, id FROM t ORDER BY price DESC, word, id DESC LIMIT 20",
    "SELECT price FROM t ORDER BY price LIMIT 100 OFFSET 100",
    "SELECT word, id, note FROM t ORDER BY word DESC LIMIT 9",
    "SELECT word, id FROM t ORDER BY word, price DESC NULLS LAST LIMIT 9",
    "SELECT real, id FROM t ORDER BY real DESC LIMIT 9",
    "SELECT maybe, id FROM t ORDER BY maybe NULLS FIRST LIMIT 30",
    "SELECT maybe, id FROM t ORDER BY maybe DESC NULLS LAST, real LIMIT 30",
    "SELECT price > 7 AS s, upper(word) FROM t ORDER BY price, id LIMIT 12",
    "SELECT id FROM t ORDER BY _append_time DESC, id LIMIT 3",
)


def table(first: int, rows: int) -> pa.Table:
    random = np.random.default_rng(first)
    maybe = random.integers(-9, 9, rows)
    ts = pa.array(1_700_000_000_000_000 + (first + np.arange(rows)) * 1_000, pa.timestamp("us"))
    return pa.table(
        {
            "ts": ts, "id": first + np.arange(rows), "price": random.integers(0, 3_000, rows),
            "real": random.normal(0, 1, rows).round(3), "maybe": pa.array(maybe, mask=maybe == 3),
            "word": [f"w{n}" for n in random.integers(0, 64, rows)],
            "note": [f"note {first + i}" for i in range(rows)],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sealed blocks, then raw rows."""
    path: Path = tmp_path_factory.mktemp("top")
    with pytest.MonkeyPatch.context() as patch, eventdb.open(path / "a.eventdb", durability="os", threads=2) as db:
        patch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 8_192)
        topic = db.create_topic("t", like=table(0, 1), event_time="ts")
        topic.append_batch(table(0, 30_000))
        db.compact(full=True)
        topic.append_batch(table(30_000, ROWS - 30_000))
        blocks.CACHE.clear()
        yield db
        blocks.CACHE.clear()


@pytest.mark.parametrize("sql", QUERIES)
def test_the_top_of_sealed_and_raw_rows_is_that_of_the_interpreted_sort(db: Any, sql: str) -> None:
    db.sql("SET execution = 'interpreted'")
    expected = db.sql(sql).fetchall()
    db.sql("SET execution = 'compiled'")
    try:
        assert db.sql(sql).fetchall() == expected
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN {sql}").fetchall())
    finally:
        db.sql("SET execution = 'auto'")
    assert " of Scan t" in plan


@pytest.mark.parametrize("sql", QUERIES[:3])
def test_the_newest_and_oldest_rows_are_found_without_reading_the_others(db: Any, sql: str) -> None:
    db.sql("SET execution = 'compiled'")
    db.sql("SET threads = 1")
    try:
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall())
    finally:
        db.sql("SET execution = 'auto'")
        db.sql("SET threads = 2")
    read = int(plan.partition(" rows read)")[0].rpartition("(")[2].split(" of ")[0])
    assert read <= 10_001, plan


@pytest.mark.parametrize("nulls_first", [True, False])
@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("nulls_later", [True, False])
@pytest.mark.parametrize("count", [1, 3, 2_000])
def test_null_and_the_extremes_of_bigint_are_told_apart_over_many_rows(
    nulls_first: bool, down: bool, nulls_later: bool, count: int
) -> None:
    extreme = 2**63 - 1 if down == nulls_first else -(2**63)
    values: list[int | None] = [None] * 40_000 + [extreme] * 40_000
    batch = batch_of({"a": ("BIGINT", values[::-1] if nulls_later else values)})
    scan, context = plan_over(*split(batch, [30_000, 50_000]))
    context.threads = 1
    sort = Sort(scan, (SortKey(col(batch, "a"), down, nulls_first),))
    shape = top_shape(sort)
    assert shape is not None
    found = [row[0] for b in TopOfScan(Limit(sort, count, 0), shape, context).batches() for row in _rows(b)]
    assert found == [None if nulls_first else extreme] * count


def test_a_string_that_is_new_while_the_query_runs_moves_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that were made anew in the middle of a query did not compare with those that it held."""
    look = TopOfScan._look_at
    with eventdb.open(tmp_path / "a.eventdb", durability="os", threads=1) as db:
        topic = db.create_topic("t", {"word": "VARCHAR", "id": "BIGINT"})
        words = ["b"] * 70_000 + ["a"] * 70_000
        topic.append_batch(pa.table({"word": words, "id": list(range(len(words)))}))
        looked: list[int] = []

        def look_and_append(operator: Any, thread: int, rows: Any) -> bool:
            found = look(operator, thread, rows)
            looked.append(rows.place)
            topic.append({"word": f"0{len(looked)}", "id": -1})  # before all others
            return found

        monkeypatch.setattr(TopOfScan, "_look_at", look_and_append)
        db.sql("SET execution = 'compiled'")
        found = db.sql("SELECT word, id FROM t ORDER BY word LIMIT 3").fetchall()
        assert found == [("a", 70_000), ("a", 70_001), ("a", 70_002)]
        assert len(looked) > 1
