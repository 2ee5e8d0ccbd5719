"""Sealed segments hold the rows of the raw ones they replace, whoever reads them and whatever happens meanwhile."""

from __future__ import annotations

import math
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.batch import Column, Dictionary
from eventdb.errors import CorruptionError, StorageError
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import Store
from eventdb.storage.sealed import blocks
from eventdb.storage.sealed.sealed import SealedSegment
from tests.storage.simulation import SMALL_LIMITS
from tests.storage.test_rows import Row, cases

LIMITS = {**SMALL_LIMITS, "sealed.sealer.MAX_SEGMENT_ROWS": 64}


def bits(value: Any) -> Any:
    """A double as its bits, so that NaN payloads and -0.0 count."""
    return struct.pack("<d", value) if isinstance(value, float) else value


def all_rows(store: Store, log: Any) -> list[tuple[Any, ...]]:
    with store.snapshot() as snapshot:
        start, stop = snapshot.offsets(log)
        return [
            (offset, time, tuple(map(bits, values)))
            for chunk in snapshot.rows(log, start, stop)
            for offset, time, values in chunk
        ]


def all_columns(store: Store, log: Any) -> list[tuple[Any, ...]]:
    with store.snapshot() as snapshot:
        start, stop = snapshot.offsets(log)
        found: list[tuple[Any, ...]] = []
        for part in snapshot.slices(log, start, stop):
            columns = [part.column(i) for i in range(len(log.schema))]
            lists = []
            for column in columns:
                stored = column.decoded().tolist() if column.dictionary is not None else column.values.tolist()
                gone = column.is_null().tolist()
                lists.append([None if null else bits(v) for v, null in zip(stored, gone, strict=True)])
            offsets = range(part.first_offset, part.first_offset + part.row_count)
            found += zip(offsets, part.append_times().tolist(), zip(*lists, strict=True), strict=True)
        return found


def sealed_parts(store: Store, log: Any) -> int:
    with store.snapshot() as snapshot:
        start, stop = snapshot.offsets(log)
        return sum(isinstance(part[0], SealedSegment) for part in snapshot._parts(log, start, stop))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_raw_and_sealed_rows_are_the_same(case: tuple[Schema, list[list[Row]], int | None]) -> None:
    schema, batches, event_time = case
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as root:
        for name, value in LIMITS.items():
            patch.setattr(f"eventdb.storage.{name}", value)
        path = os.path.join(root, "db")
        store = Store.open(path, durability="os", live_topics=lambda: {1: schema}, maintenance=False)
        log = store.log(1, schema, event_time)
        for rows in batches:
            with store.write() as transaction:
                transaction.append_rows(log, rows)
        by_row, by_column = all_rows(store, log), all_columns(store, log)
        assert by_row == by_column
        old = store.snapshot()
        assert store.sealer().compact(full=True)["rows"] == len(by_row)
        assert sealed_parts(store, log) >= 1
        assert all_rows(store, log) == by_row
        assert all_columns(store, log) == by_column
        # A snapshot of before finds its rows where they are now, though it had mapped nothing.
        again = store.log(1, schema, event_time)
        again.drop()
        start, stop = old.offsets(again)
        assert [(o, t, tuple(map(bits, v))) for c in old.rows(again, start, stop) for o, t, v in c] == by_row
        old.close()
        with store.write() as transaction:
            transaction.append_rows(log, batches[0])
        grown = all_rows(store, log)
        assert grown[: len(by_row)] == by_row
        store.sealer().compact(full=True)
        assert all_rows(store, log) == grown
        assert store.check(deep=True) == []
        store.close()
        store = Store.open(path, durability="os", live_topics=lambda: {1: schema}, maintenance=False)
        assert all_rows(store, store.log(1, schema, event_time)) == grown
        assert store.check(deep=True) == []
        store.close()


# -- one filled database for the rest ----------------------------------------------------------------

COLUMNS = {
    "ts": "TIMESTAMP NOT NULL", "device": "VARCHAR", "url": "VARCHAR", "temp": "DOUBLE", "price": "DECIMAL(10,2)",
    "n": "BIGINT", "small": "SMALLINT", "ok": "BOOLEAN", "day": "DATE", "raw": "BLOB", "single": "FLOAT",
}  # fmt: skip
ROWS = 5_000
QUERIES = (
    "SELECT count(*), count(temp), sum(n), min(url), max(url), round(avg(temp), 6), min(price), max(day) FROM t",
    "SELECT device, ok, count(*), sum(n), min(single), max(small) FROM t GROUP BY device, ok ORDER BY device, ok",
    "SELECT * FROM t WHERE _offset BETWEEN 2990 AND 3010 ORDER BY _offset",
    "SELECT count(*), min(_offset) FROM t WHERE ts >= TIMESTAMP '2024-01-01 00:40:00' AND n > 2500",
    "SELECT count(*) FROM t WHERE temp > 35.5", "SELECT count(*) FROM t WHERE url = '/u/4000'",
    "SELECT count(*) FROM t WHERE device = 'device-3' AND price < 5", "SELECT count(*) FROM t WHERE n IS NULL",
    "SELECT _offset, raw, url FROM t WHERE raw = 'b17' ORDER BY _offset",
)  # fmt: skip


def fill(path: Path, rows: int = ROWS) -> eventdb.Database:
    import datetime as dt
    from decimal import Decimal

    draw = random.Random(7)
    db = eventdb.open(path, durability="os")
    topic = db.create_topic("t", COLUMNS, event_time="ts")
    start = dt.datetime(2024, 1, 1)
    events = [
        {
            "ts": start + dt.timedelta(seconds=i),
            "device": None if i % 11 == 0 else f"device-{draw.randint(0, 9)}",
            "url": None if i % 50 == 1 else f"/u/{i}" * (1 + i % 3),
            "temp": draw.choice([None, round(draw.gauss(20, 5), 1), -0.0, draw.random()]),
            "price": Decimal(draw.randint(0, 100_000)).scaleb(-2),
            "n": None if 1000 < i < 1500 else i,
            "small": draw.randint(-5, 5),
            "ok": draw.choice([None, True, False]),
            "day": (start + dt.timedelta(days=i // 100)).date(),
            "raw": draw.choice([None, b"", b"b%d" % (i % 40)]),
            "single": draw.choice([1.5, 2.25, float(i)]),
        }
        for i in range(rows)
    ]
    topic.append_many(events[:1_000])
    topic.append_many(events[1_000:])
    return db


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 512)
    monkeypatch.setattr("eventdb.storage.segment.cells.DICTIONARY_LIMIT", 300)


@pytest.mark.usefixtures("small_blocks")
def test_sql_over_sealed_rows_gives_what_raw_rows_give(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb") as db:
        expected = [db.sql(query).fetchall() for query in QUERIES]
        assert db.compact(full=True)["rows"] == ROWS
        for mode in ("interpreted", "compiled", "auto"):
            db.sql(f"SET execution = '{mode}'")
            assert [db.sql(query).fetchall() for query in QUERIES] == expected
        assert len(list(db.topic("t").read())) == ROWS


def test_compacting_without_full_leaves_the_segment_rows_go_to(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb") as db:
        sealed = db.compact()
        assert 0 < sealed["rows"] < ROWS
        assert db.compact()["rows"] == 0
        names = os.listdir(tmp_path / "a.eventdb" / "topics" / "1" / "0")
        assert sorted(name.rpartition(".")[2] for name in names) == ["col", "seg"]
        assert sealed["bytes_after"] < sealed["bytes_before"]


def test_sealed_segments_are_trimmed_like_raw_ones_and_empty_partitions_sealed(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb") as db:
        topic = db.create_topic("t", {"n": "BIGINT"}, max_rows=1_000)
        topic.append_many({"n": n} for n in range(5_000))
        db.compact(full=True)
        db._store.retention.run()
        assert [event["n"] for event in topic.read()] == list(range(4_000, 5_000))
        log, store = db._log_by_id(1), db._store
        store.retention.trim(log, 5_000)
        assert not list((tmp_path / "a.eventdb" / "topics").rglob("*.col"))
        assert db.compact(full=True)["rows"] == 0
        topic.append({"n": 7})
        assert [event["n"] for event in topic.read()] == [7]
        assert db.check(deep=True) == []


def test_a_sealed_column_of_strings_that_are_all_null_is_read(tmp_path: Path) -> None:
    """The code under a NULL is 0, which an empty dictionary does not have: it was taken for damage."""
    with eventdb.open(tmp_path / "a.eventdb") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "s": "VARCHAR", "b": "BLOB"})
        topic.append_many([{"n": n, "s": None, "b": None} for n in range(3)])
        db.compact(full=True)
        assert [(event["n"], event["s"], event["b"]) for event in topic.read()] == [(n, None, None) for n in range(3)]
        assert db.sql("SELECT n, s, b FROM t").fetchall() == [(n, None, None) for n in range(3)]


def test_small_sealed_segments_are_merged_with_what_follows(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        for first in range(0, 600, 100):
            topic.append_many({"n": n} for n in range(first, first + 100))
            db.compact(full=True)
        folder = tmp_path / "a.eventdb" / "topics" / "1" / "0"
        assert len(list(folder.iterdir())) < 5
        assert [event["n"] for event in topic.read()] == list(range(600))
        assert db.check(deep=True) == []


def test_replaced_files_wait_for_readers_that_began_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fill(tmp_path / "a.eventdb") as db:
        folder = tmp_path / "a.eventdb" / "topics" / "1" / "0"
        raw = set(folder.glob("*.seg"))
        log, store = db._log_by_id(1), db._store
        with store.snapshot() as old, store.snapshot() as late:
            db.compact(full=True)
            assert raw <= set(folder.iterdir())
            db.retain()
            assert raw <= set(folder.iterdir())
            assert store.retention.stats()["files_waiting"] == len(raw)
            assert store.retention.stats()["held_by"]
            assert sum(len(chunk) for chunk in old.rows(log, 0, ROWS)) == ROWS
            monkeypatch.setattr("eventdb.storage.care.retention.READER_GRACE_MS", -1)  # it has had its time
            db.retain()
            assert not raw & set(folder.iterdir())
            log.drop()
            assert sum(len(chunk) for chunk in late.rows(log, 0, ROWS)) == ROWS, "in the segments that replaced them"
        assert store.retention.stats()["files_waiting"] == 0


def test_dropping_a_topic_removes_its_sealed_files(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb", 500) as db:
        db.compact(full=True)
        assert list((tmp_path / "a.eventdb" / "topics").rglob("*.col"))
        db.drop_topic("t")
        assert list((tmp_path / "a.eventdb" / "topics").rglob("*")) == []


@pytest.mark.usefixtures("small_blocks")
def test_readers_of_old_mappings_go_on(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb") as db, db.snapshot() as snapshot:
        expected = snapshot.sql(QUERIES[1]).fetchall()  # mapped now
        log, store = db._log_by_id(1), db._store
        with store.snapshot() as old:
            held = [part.column(3) for part in old.slices(log, 0, ROWS)]
            before = [column.to_pylist() for column in held]
            db.compact(full=True)
            assert [column.to_pylist() for column in held] == before
        assert snapshot.sql(QUERIES[1]).fetchall() == expected


@pytest.mark.usefixtures("small_blocks")
def test_every_flipped_bit_of_a_sealed_file_is_found_or_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.eventdb"
    with fill(path, 1_200) as db:
        db.compact(full=True)
        expected = [db.sql(query).fetchall() for query in QUERIES]
        rows = all_rows(db._store, db._log_by_id(1))
    (file,) = (path / "topics").rglob("*.col")
    whole = file.read_bytes()
    draw = random.Random(3)
    found = 0
    for at in [*range(0, 200, 9), *draw.sample(range(len(whole)), 120), *range(len(whole) - 120, len(whole), 7)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randint(0, 7)
        file.write_bytes(bytes(damaged))
        blocks.CACHE.clear()
        with eventdb.open(path, read_only=True) as db:
            problems = db.check(deep=True)
            try:
                assert all_rows(db._store, db._log_by_id(1)) == rows
                assert all_columns(db._store, db._log_by_id(1)) == rows
                assert db.sql(QUERIES[1]).fetchall() == expected[1]
                assert problems == []  # padding between blocks
            except CorruptionError as error:
                message = str(error)
            else:
                continue
            assert str(file) in message
            assert problems
            found += 1
    assert found > 100
    file.write_bytes(whole[: len(whole) // 2])
    blocks.CACHE.clear()
    with eventdb.open(path, read_only=True) as db, pytest.raises(CorruptionError, match="bytes, expected"):
        list(db.topic("t").read())


@pytest.mark.usefixtures("small_blocks")
def test_statistics_never_skip_a_row_that_matches(tmp_path: Path) -> None:
    operators: dict[str, Any] = {
        "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
    }  # fmt: skip
    skipped = 0
    with fill(tmp_path / "a.eventdb") as db:
        db.compact(full=True)
        log, store = db._log_by_id(1), db._store
        draw = random.Random(5)
        with store.snapshot() as snapshot:
            parts = snapshot.slices(log, 0, ROWS)
            assert len(parts) == -(-ROWS // 512)
            for index in range(len(log.schema)):
                lists = []
                for part in parts:
                    column = part.column(index)
                    stored = column.decoded().tolist() if column.dictionary is not None else column.values.tolist()
                    lists.append([v for v, gone in zip(stored, column.is_null().tolist(), strict=True) if not gone])
                values = [v for one in lists for v in one]
                for constant in [draw.choice(values) for _ in range(8)]:
                    for name, holds in operators.items():
                        for part, held in zip(parts, lists, strict=True):
                            may = part.may_match(index, name, constant)
                            skipped += not may
                            assert may or not any(holds(v, constant) for v in held), (index, name, constant)
    assert skipped > 100


@pytest.mark.usefixtures("small_blocks")
def test_explain_analyze_says_how_many_blocks_were_skipped(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb") as db:
        db.compact(full=True)
        db.sql("SET execution = 'interpreted'")
        plan = "\n".join(str(row[0]) for row in db.sql("EXPLAIN ANALYZE SELECT * FROM t WHERE n > 4900").fetchall())
        assert "9 blocks skipped by statistics" in plan
        assert db.sql("SELECT count(*) FROM t WHERE n > 4900").fetchall() == [(99,)]


def test_nan_hides_behind_no_statistics(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"x": "DOUBLE", "f": "FLOAT"})
        topic.append_many({"x": x, "f": x} for x in (1.0, math.nan, -0.0, math.inf, None))
        query = "SELECT count(*) FROM t WHERE x > 5 UNION ALL SELECT count(*) FROM t WHERE f = 'nan'::DOUBLE"
        expected = db.sql(query).fetchall()
        db.compact(full=True)
        assert db.sql(query).fetchall() == expected


def test_a_few_sealed_rows_are_read_without_numba(tmp_path: Path) -> None:
    with fill(tmp_path / "a.eventdb", 500) as db:
        db.compact(full=True)
    code = (
        "import sys, eventdb\n"
        "with eventdb.open(sys.argv[1]) as db:\n"
        "    assert len(list(db.topic('t').read())) == 500\n"
        "    assert db.sql('SELECT count(n) FROM t').fetchall()[0][0] == 500\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.eventdb")], check=True, timeout=120)


def test_both_decoders_read_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventdb.storage.sealed.nodes import Kernels

    with fill(tmp_path / "a.eventdb") as db:
        rows = all_rows(db._store, db._log_by_id(1))
        db.compact(full=True)
        for compiled in (None, Kernels()):
            monkeypatch.setattr(blocks.ENGINE, "kernels", compiled)
            blocks.CACHE.clear()
            assert all_rows(db._store, db._log_by_id(1)) == rows
            assert all_columns(db._store, db._log_by_id(1)) == rows


def test_a_full_disk_while_sealing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventdb.storage.device.files import Files

    with fill(tmp_path / "a.eventdb") as db:
        rows = all_rows(db._store, db._log_by_id(1))
        whole = Files.pwrite
        written = 0

        def full(fd: int, data: bytes, position: int) -> int:
            nonlocal written
            written += len(data)
            if written > 5_000:
                raise OSError(28, "No space left on device")
            return whole(fd, data, position)

        with monkeypatch.context() as patch:
            patch.setattr(db._store._sealer._files, "pwrite", full, raising=False)
            with pytest.raises(StorageError, match="no space"):
                db.compact()
        assert all_rows(db._store, db._log_by_id(1)) == rows
        assert not list((tmp_path / "a.eventdb" / "topics").rglob("*.tmp"))
        assert db.compact(full=True)["rows"] == ROWS
        assert all_rows(db._store, db._log_by_id(1)) == rows


def test_plain_and_coded_strings_of_one_column_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.segment.columns.DICTIONARY_LIMIT", 50)
    schema = Schema([Field("s", DataType("VARCHAR"))])
    store = Store.open(str(tmp_path / "db"), durability="os", live_topics=lambda: {1: schema}, maintenance=False)
    log = store.log(1, schema, None)
    for count in (40, 200, 3_000):
        words = [f"w{i}" for i in range(count)]
        column = Column(DataType("VARCHAR"), np.arange(count, dtype=np.int32), None, Dictionary(words))
        with store.write() as transaction:
            transaction.append_columns(log, [column])
    rows = all_rows(store, log)
    store.sealer().compact(full=True)
    assert sealed_parts(store, log) == 2
    assert all_rows(store, log) == rows
    store.close()


@pytest.mark.usefixtures("small_blocks")
@given(parts=st.lists(st.integers(1, 700), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_blocks_of_a_segment_have_about_as_many_rows_each(parts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, eventdb.open(Path(folder) / "a.eventdb") as db:
        topic = db.create_topic("t", {"n": "BIGINT NOT NULL", "s": "VARCHAR"})
        numbers: list[int] = []
        for count in parts:  # the second compaction merges what the first one made
            more = range(len(numbers), len(numbers) + count)
            topic.append_many([{"n": n, "s": f"{n}-{'x' * (n % 7)}"} for n in more])
            numbers += more
            db.compact(full=True)
        (log,) = db._logs_of(db._catalog.topic("t"))
        assert [row for (row,) in db.sql("SELECT n FROM t").fetchall()] == numbers
        for segment in log._mapped.values():
            if isinstance(segment, SealedSegment) and segment.block_count > 1:
                rows = [segment.block_rows_of(i) for i in range(segment.block_count)]
                assert max(rows) <= 512
                assert min(rows) > max(rows) - 64 * segment.block_count
                assert len(rows) == -(-segment.layout.rows // 512)
