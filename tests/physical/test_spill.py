"""Queries larger than the memory limit give what they give in memory, and leave nothing on disk."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb
from eventdb.batch import Column, Dictionary, RecordBatch
from eventdb.errors import DiskFullError, MemoryLimitExceeded
from eventdb.logical.expressions import SortKey
from eventdb.logical.plan import Sort
from eventdb.physical import sort as sort_module
from eventdb.physical.budget import MemoryBudget
from eventdb.physical.planner import plan_physical
from eventdb.physical.sorted_runs import SortedRuns
from eventdb.physical.spill import SpilledRows, SpillFile
from eventdb.physical.spilled_groups import KeyPlaces
from eventdb.schema import BIGINT, VARCHAR
from tests.physical.building import MemoryLog, batch_of, col, context_of, plan_over, rows_of, scan_of, split

VALUES = st.tuples(
    st.one_of(st.none(), st.integers(-3, 3)),
    st.one_of(st.none(), st.sampled_from(["", "a", "bb", "é\ud800", "zebra"])),
    st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 2.5, float("inf"), float("nan")])),
)
TYPES = ("BIGINT", "VARCHAR", "DOUBLE")


def table(rows: list[Any]) -> RecordBatch:
    return batch_of({n: (t, [r[i] for r in rows]) for i, (n, t) in enumerate(zip("asx", TYPES, strict=True))})


@given(st.lists(VALUES, min_size=1, max_size=40), st.permutations("asx"), st.integers(1, 3), st.integers(0, 63),
       st.lists(st.integers(0, 40), max_size=5), st.integers(1, 5), st.integers(2, 7))  # fmt: skip
def test_a_sort_through_disk_is_the_stable_sort_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], names: list[str], width: int, flags: int,
    cuts: list[int], block_rows: int, at_a_time: int,
) -> None:  # fmt: skip
    batch = table(rows)
    keys = tuple(
        SortKey(col(batch, n), bool(flags >> i & 1), bool(flags >> (i + 3) & 1)) for i, n in enumerate(names[:width])
    )
    pieces = [piece for piece in split(batch, cuts) if piece.row_count]
    scan, context = plan_over(*pieces)
    sort = Sort(scan, keys)
    expected = rows_of(sort, context)
    order = sort_module._Order(sort)
    runs = SortedRuns(str(tmp_path_factory.getbasetemp()), order.columns, order.rows)
    for piece in pieces:
        runs.add([piece], block_rows)
    found = [tuple(row) for piece in runs.merged(at_a_time, lambda: None) for row in _physical(piece)]
    runs.close()
    assert repr(found) == repr(expected)


def _physical(batch: RecordBatch) -> list[tuple[Any, ...]]:
    from tests.physical.building import physical

    return list(zip(*map(physical, batch.columns), strict=True))


def test_a_sort_beyond_the_limit_spills_and_one_without_a_folder_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 50_000, 200_000)
    batch = RecordBatch(("n", "i"), [Column(BIGINT, values), Column(BIGINT, np.arange(200_000))])
    log = MemoryLog([batch.slice(i, i + 10_000) for i in range(0, 200_000, 10_000)])
    plan = Sort(scan_of(log), (SortKey(col(batch, "n")),))
    with pytest.raises(MemoryLimitExceeded, match="ORDER BY"):
        rows_of(plan, context_of(log, memory_limit_bytes=2_000_000))
    context = context_of(log, memory_limit_bytes=2_000_000, spill_folder=str(tmp_path))
    operator = plan_physical(plan, context)
    found = [row for piece in operator.batches() for row in _physical(piece)]
    order = np.argsort(values, kind="stable")
    assert [i for _, i in found] == order.tolist()
    assert "spilled" in operator.label()
    assert os.listdir(tmp_path) == []
    assert context.held_bytes == 0


def test_a_sort_of_many_runs_holds_blocks_of_few_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 400_000
    values = np.random.default_rng(1).integers(0, 50_000, count)
    batch = RecordBatch(("n", "i"), [Column(BIGINT, values), Column(BIGINT, np.arange(count))])
    log = MemoryLog([batch.slice(i, i + 2_000) for i in range(0, count, 2_000)])
    context = context_of(log, memory_limit_bytes=500_000, spill_folder=str(tmp_path))
    read = SpillFile.read
    blocks: list[weakref.ref[Any]] = []
    most = 0

    def read_and_count(file: SpillFile, spilled: Any) -> RecordBatch:
        nonlocal most
        found = read(file, spilled)
        blocks.append(weakref.ref(found.columns[0].values))
        most = max(most, sum(block() is not None for block in blocks))
        return found

    monkeypatch.setattr(SpillFile, "read", read_and_count)
    found: list[int] = []
    for piece in plan_physical(Sort(scan_of(log), (SortKey(col(batch, "n")),)), context).batches():
        found += piece.columns[1].values.tolist()
        assert 0 < context.held_bytes <= 500_000
    assert found == np.argsort(values, kind="stable").tolist()
    assert len(blocks) > 40  # so many runs at least
    assert most * 1_024 * 16 <= 500_000


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(eventdb.StorageError, match=r"missing.*memory_limit"):
        SpillFile(str(tmp_path / "missing"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    file = SpillFile(str(tmp_path))

    class Full:
        def seek(self, position: int) -> None: ...
        def write(self, data: object) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(file, "_file", Full())
    with pytest.raises(DiskFullError, match="free space"):
        file.write(table([(1, "a", 2.0)]))


def test_one_budget_counts_all_queries() -> None:
    budget = MemoryBudget()
    log = MemoryLog([table([(1, "a", 2.0)])])
    one, two = (context_of(log, memory_limit_bytes=1_000, budget=budget) for _ in range(2))
    one.hold(one, "ORDER BY", 800)
    assert not two.may_hold(two, 200)
    with pytest.raises(MemoryLimitExceeded):
        two.hold(two, "a join", 300)
    copy = replace(two, execution="compiled")  # as an operator that falls back makes it: the same query
    with pytest.raises(MemoryLimitExceeded):
        copy.hold(copy, "a join", 100)
    assert budget.held_bytes == 1_200
    two.release_all()
    one.release_all()
    assert budget.held_bytes == 0
    two.hold(two, "a join", 300)


@pytest.mark.parametrize("order", ["word DESC, n", "real DESC NULLS LAST, note"])
def test_queries_of_a_database_spill_and_agree(tmp_path: Path, order: str) -> None:
    random = np.random.default_rng(3)
    count = 60_000
    rows = pa.table(
        {
            "n": random.integers(0, 9_000, count), "real": random.normal(0, 1, count).round(2),
            "word": [f"w{n}" for n in random.integers(0, 50, count)], "note": [f"note {n}" for n in range(count)],
        }
    )  # fmt: skip
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows)
        for start in range(0, count, 10_000):
            topic.append_batch(rows.slice(start, 10_000))
        sql = f"SELECT *, _offset FROM t ORDER BY {order}"
        expected = db.sql(sql).fetchall()
        db.sql("SET memory_limit = '2MB'")
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall())
        assert "spilled" in plan
        result = db.sql(sql)
        assert len(result) == count
        assert result._rows(count - 2, count) == expected[-2:]
        assert list(result) == expected
        assert result.arrow().num_rows == count
        assert os.listdir(tmp_path / "a.eventdb" / "spill") == []


AGGREGATES = (
    "count(*)", "sum(n)", "avg(real)", "min(word)", "max(note)", "count(DISTINCT word)", "median(real)", "any_value(n)",
)  # fmt: skip


@pytest.mark.parametrize("execution", ["interpreted", "compiled"])
@pytest.mark.parametrize("key", ["note", "n, word", "real"])
def test_groups_beyond_the_limit_spill_and_agree(tmp_path: Path, key: str, execution: str) -> None:
    random = np.random.default_rng(4)
    count = 60_000
    missing = random.integers(0, 9, count) == 0
    rows = pa.table(
        {
            "n": pa.array(random.integers(0, 30_000, count) * 7_919_000_001, mask=missing),
            "real": random.integers(0, 20_000, count) / 4, "word": [f"w{n}" for n in random.integers(0, 50, count)],
            "note": [f"note {n}" for n in random.integers(0, 20_000, count)],
        }
    )  # fmt: skip
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", like=rows)
        for start in range(0, count, 10_000):
            topic.append_batch(rows.slice(start, 10_000))
        chosen = AGGREGATES[:2] if execution == "compiled" else AGGREGATES
        sql = f"SELECT {key}, {', '.join(chosen)} FROM t GROUP BY {key}"
        db.sql(f"SET execution = '{execution}'")
        expected = sorted(map(repr, db.sql(sql).fetchall()))
        db.sql("SET memory_limit = '3MB'")
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall())
        assert execution == "compiled" or "spilled" in plan
        assert sorted(map(repr, db.sql(sql).fetchall())) == expected
        assert os.listdir(tmp_path / "a.eventdb" / "spill") == []


def test_the_strings_of_each_key_are_hashed_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batch_of({"a": ("VARCHAR", ["x", "y", None, "x"]), "b": ("VARCHAR", ["p", None, "q", "p"])})
    map_values, hashed = Dictionary.map, list[Dictionary]()

    def count(dictionary: Dictionary, *args: Any) -> Any:
        hashed.append(dictionary)
        return map_values(dictionary, *args)

    monkeypatch.setattr(Dictionary, "map", count)
    place = KeyPlaces()
    found = [place(whole.slice(row, row + 1).columns).tolist() for row in range(4)]
    assert found[0] == found[3]
    assert len({tuple(part) for part in found}) > 1
    assert hashed == [column.dictionary for column in whole.columns]


MAPPED = np.frombuffer(bytes(8_000), np.int64)
TOPIC = Dictionary([f"{i} {'x' * 1_000}" for i in range(50_000)])
RESULTS: dict[str, tuple[Callable[[int], Column], bool]] = {
    "strings of each batch": (lambda i: Column.encode(VARCHAR, [f"{i} {n} {'x' * 999}" for n in range(100)]), True),
    "validity": (lambda i: Column(BIGINT, MAPPED, np.ones(1_000, bool)), True),
    "parts of arrays": (lambda i: Column(BIGINT, np.arange(2_000)[:1_000]), True),
    "a mapped file": (lambda i: Column(BIGINT, MAPPED), False),
    "a topic's strings": (lambda i: Column(VARCHAR, MAPPED.view(np.int32)[:100], None, TOPIC), False),
}


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_goes_to_disk_when_all_that_it_holds_passes_the_limit(tmp_path: Path, what: str) -> None:
    make, goes = RESULTS[what]
    rows = SpilledRows(str(tmp_path), 500_000)
    for number in range(600):
        rows.append(RecordBatch(("a",), [make(number)]))
        assert rows.held_bytes <= 500_000
    assert rows.is_spilled == goes
