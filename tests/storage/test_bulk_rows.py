"""Rows stored by the column leave out zeros that a new file holds already; nobody who reads them can tell."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import SchemaMismatch
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import Store
from eventdb.storage.commit.checksum import Checksum, crc_zeros
from tests.storage.test_rows import Row, as_columns, assert_same, by_columns, by_rows

SCHEMA = Schema([Field("n", DataType("BIGINT")), Field("s", DataType("VARCHAR")), Field("d", DataType("DOUBLE"))])


@pytest.fixture
def store(tmp_path: Path, small: None) -> Iterator[Store]:
    store = Store.open(str(tmp_path / "db"), durability="commit", live_topics=lambda: {1: SCHEMA}, maintenance=False)
    yield store
    store.close()


def rows_of(count: int, *, nulls: bool = False, first: int = 1) -> list[Row]:
    return [(None if nulls and i % 3 else first + i, f"s{i % 4}", 0.5) for i in range(count)]


def assert_rows(store: Store, log: Any, expected: list[Row]) -> None:
    assert_same(by_rows(store, log, 0, len(expected)), expected)
    assert_same(by_columns(store, log, 0, len(expected)), expected)
    assert store.check(deep=True) == []


@given(st.binary(max_size=40), st.integers(0, 3000))
def test_the_crc_of_zeros_is_computed_without_them(before: bytes, count: int) -> None:
    assert crc_zeros(crc32(before), count) == crc32(before + bytes(count))


@pytest.mark.parametrize("threads", [True, False])
def test_a_checksum_is_that_of_its_parts_in_turn_with_a_thread_or_without(
    monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    def no_thread(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    if not threads:
        monkeypatch.setattr("_thread.start_new_thread", no_thread)
    checksum = Checksum(lambda: [b"abc", 5_000, b"d" * 10_000])
    checksum.begin()
    assert checksum.result() == checksum.result() == crc32(b"abc" + bytes(5_000) + b"d" * 10_000)


def test_every_row_has_the_append_time_of_its_commit_wherever_reading_begins(store: Store) -> None:
    log = store.log(1, SCHEMA, None)
    chance = random.Random(1)
    expected: list[Row] = []
    times: list[int] = []
    for i in range(40):
        rows = rows_of(chance.choice([1, 2, 7, 60, 100]), first=len(expected))
        with store.write() as transaction:
            if i % 4 == 3:
                transaction.append_rows(log, rows)
            else:
                transaction.append_columns(log, as_columns(SCHEMA, rows))
        expected += rows
        times += [log.state.append_us] * len(rows)
    assert_rows(store, log, expected)
    assert len(set(times)) > 20
    with store.snapshot() as snapshot:
        for start in range(len(times)):
            stop = min(len(times), start + chance.choice([1, 3, 50]))
            assert [t for chunk in snapshot.rows(log, start, stop) for _, t, _ in chunk] == times[start:stop]
            slices = snapshot.slices(log, start, stop)
            assert [t for part in slices for t in part.append_times().tolist()] == times[start:stop]


@pytest.mark.parametrize("by_column", [True, False])
def test_nothing_of_an_aborted_commit_shines_through_a_batch(store: Store, by_column: bool) -> None:
    log = store.log(1, SCHEMA, None)
    expected = rows_of(3)
    with store.write() as transaction:
        transaction.append_columns(log, as_columns(SCHEMA, expected))
    for aborted, kept in ((50, 40), (9, 30)):  # into room left of a segment, and on into segments of their own
        with pytest.raises(ZeroDivisionError), store.write() as transaction:  # noqa: PT012
            scrap = rows_of(aborted, nulls=True, first=900)
            if by_column:
                transaction.append_columns(log, as_columns(SCHEMA, scrap))
            else:
                transaction.append_rows(log, scrap)
            raise ZeroDivisionError
        with store.write() as transaction:
            transaction.append_columns(log, as_columns(SCHEMA, rows_of(kept)))
        expected += rows_of(kept)
        assert_rows(store, log, expected)


def test_a_refused_row_leaves_nothing_below_the_batch_that_follows_in_the_same_transaction(store: Store) -> None:
    log = store.log(1, SCHEMA, None)
    with store.write() as transaction:
        with pytest.raises(SchemaMismatch):
            transaction.append_rows(log, [(None, "s0", "not a number")] * 6)
        transaction.append_columns(log, as_columns(SCHEMA, rows_of(6)))
    assert_rows(store, log, rows_of(6))


def test_a_batch_without_nulls_writes_neither_nulls_nor_the_time_of_each_row(store: Store) -> None:
    log = store.log(1, SCHEMA, None)
    with store.write() as transaction:
        transaction.append_columns(log, as_columns(SCHEMA, rows_of(60)))
    segment = log.segment
    assert segment is not None
    assert segment.value_views[-1].tolist()[:60] == [log.state.append_us if i % 5 == 0 else 0 for i in range(60)]
    assert segment.rows_crc(0, 60) == crc32(b"".join(segment.rows_bytes(0, 60)))
