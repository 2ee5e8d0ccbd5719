"""Decoded blocks: what is kept of them, what their memory does next, and strings that nobody asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import eventdb
from eventdb.batch import SpelledDictionary
from eventdb.storage.sealed import blocks
from eventdb.storage.sealed.buffers import LEAST_BYTES, Buffers
from eventdb.storage.sealed.nodes import DamagedNode

INT64 = np.dtype("<i8")


def decoded() -> blocks.Decoded:
    return blocks.Decoded(np.zeros(40), None, None, 320)


def test_the_cache_of_blocks_stays_within_its_bytes() -> None:
    cache = blocks.BlockCache(1_000)
    for number in range(50):
        cache.put((1, 2, number), decoded(), at_once=True)
        assert cache.held_bytes <= 1_000
    assert cache.get((1, 2, 49)) is not None
    assert cache.get((1, 2, 0)) is None


def test_a_block_is_kept_when_it_is_decoded_again() -> None:
    cache = blocks.BlockCache(1_000)
    cache.put((1, 2, 3), decoded())
    assert cache.get((1, 2, 3)) is None
    assert cache.held_bytes == 0
    cache.put((1, 2, 3), decoded())
    assert cache.get((1, 2, 3)) is not None
    cache.clear()
    cache.put((1, 2, 3), decoded())
    assert cache.get((1, 2, 3)) is None


def test_who_comes_round_to_more_blocks_than_there_is_room_for_finds_most_of_what_fits() -> None:
    cache = blocks.BlockCache(20 * 320)

    def turn() -> int:
        found = 0
        for number in range(25):
            if cache.get((1, 2, number)) is None:
                cache.put((1, 2, number), decoded())
            else:
                found += 1
        assert cache.held_bytes <= 20 * 320
        return found

    assert sum(turn() for _ in range(40)) >= 30 * 14
    for _ in range(30):  # others take the place of those in the end
        for number in range(10):
            if cache.get((3, 2, number)) is None:
                cache.put((3, 2, number), decoded())
    assert all(cache.get((3, 2, number)) is not None for number in range(10))


def test_a_block_used_again_is_worth_keeping_while_there_is_room() -> None:
    cache = blocks.BlockCache(1_000)
    for number in range(5):
        assert not cache.is_worth_keeping((1, 2, number), 320)
    for number in range(5):
        kept = cache.is_worth_keeping((1, 2, number), 320)
        assert kept == (number < 3)  # of the others none has to go for it
        if kept:
            cache.put((1, 2, number), decoded())
            assert cache.get((1, 2, number)) is not None


def test_memory_is_used_again_only_when_the_last_view_is_gone() -> None:
    buffers = Buffers(lambda: 1 << 20)
    first = buffers.empty(LEAST_BYTES // 4, INT64)
    first[:] = 7
    view = first.view(np.uint64)[5:100]
    address = first.ctypes.data
    del first
    others = [buffers.empty(LEAST_BYTES // 4, INT64) for _ in range(3)]
    for other in others:
        other[:] = 9
        assert not np.shares_memory(other, view)
    assert (view == 7).all()
    del view
    assert buffers.idle_bytes == 2 * LEAST_BYTES
    assert buffers.empty(LEAST_BYTES // 4 - 3, INT64).ctypes.data == address


def test_no_more_memory_waits_than_there_is_room_for() -> None:
    room = 3 * LEAST_BYTES
    buffers = Buffers(lambda: room)
    arrays = [buffers.empty(LEAST_BYTES // 4, INT64) for _ in range(5)]  # of two LEAST_BYTES each
    del arrays
    assert buffers.idle_bytes == 2 * LEAST_BYTES
    small = buffers.empty(3, INT64)
    assert len(small) == 3
    del small
    assert buffers.idle_bytes == 2 * LEAST_BYTES


def test_threads_that_take_and_give_back_never_share_an_array() -> None:
    import threading

    buffers = Buffers(lambda: 8 * LEAST_BYTES)
    failures: list[int] = []

    def work(mark: int) -> None:
        for _ in range(300):
            array = buffers.empty(LEAST_BYTES // 8, INT64)
            array[:] = mark
            if not (array == mark).all():
                failures.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert buffers.idle_bytes == sum(LEAST_BYTES for arrays in buffers._idle.values() for _ in arrays)


# -- strings ---------------------------------------------------------------------------------------

WORDS = ["", "a", "ä", "日本", "x" * 300, "\U0001f980", "\x00", "a\nb"]


def bounds_of(values: list[bytes]) -> Any:
    return np.cumsum([0, *map(len, values)])


def heap_of(values: list[bytes]) -> Any:
    return np.frombuffer(b"".join(values), np.uint8).copy()


def test_spelled_values_are_the_values() -> None:
    for words in (WORDS, ["plain", "ascii", ""], [""]):
        data = [word.encode() for word in words]
        spelled = blocks._dictionary(heap_of(data), bounds_of(data), True)
        assert isinstance(spelled, SpelledDictionary)
        assert spelled.distinct
        assert spelled.values == words
        raw = blocks._dictionary(heap_of(data), bounds_of(data), False)
        assert isinstance(raw, SpelledDictionary)
        assert raw.values == data


def test_lone_surrogates_are_kept_as_python_strings() -> None:
    words = ["a", "\ud800", "b"]
    data = [word.encode("utf-8", "surrogatepass") for word in words]
    found = blocks._dictionary(heap_of(data), bounds_of(data), True)
    assert not isinstance(found, SpelledDictionary)
    assert found.values == words


@pytest.mark.parametrize("data", [[b"\xff"], ["ä".encode()[:1], "ä".encode()[1:]], [b"ok", b"\xc3"]])
def test_values_that_are_no_text_are_damage(data: list[bytes]) -> None:
    with pytest.raises(DamagedNode):
        blocks._dictionary(heap_of(data), bounds_of(data), True)


@pytest.mark.parametrize("nulls", [False, True])
def test_sealed_strings_reach_arrow_as_raw_ones_do(
    tmp_path: Path, nulls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("eventdb.storage.segment.columns.DICTIONARY_LIMIT", 8)
    monkeypatch.setattr("eventdb.storage.segment.cells.DICTIONARY_LIMIT", 8)
    rows = 600
    table = pa.table(
        {
            "own": [f"{WORDS[i % 8]}{i}" for i in range(rows)],  # every row its own value: no code is looked up
            "some": [None if nulls and i % 7 == 0 else f"{WORDS[i % 8]}{i % 40}" for i in range(rows)],
            "raw": [None if nulls and i % 5 == 0 else b"\xff%d" % (i % 90) for i in range(rows)],
        }
    )
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        db.create_topic("t", like=table).append_batch(table)
        queries = ("SELECT * FROM t", "SELECT * FROM t WHERE _offset BETWEEN 100 AND 140", "SELECT own FROM t LIMIT 3")
        expected = [db.sql(query).arrow() for query in queries]
        assert expected[0].to_pydict() == table.to_pydict()
        assert db.compact(full=True)["rows"] == rows
        for _ in range(3):  # decoded, decoded and kept, kept
            for query, wanted in zip(queries, expected, strict=True):
                found = db.sql(query).arrow()
                found.validate(full=True)
                assert found == wanted
        assert db.sql("SELECT count(*) FROM t WHERE own = 'ä2' OR some LIKE '日本3%'").fetchall() == [
            (sum(own == "ä2" or str(some).startswith("日本3") for own, some in
                 zip(table["own"].to_pylist(), table["some"].to_pylist(), strict=True)),)
        ]  # fmt: skip


def test_threads_read_ahead_of_a_scan_in_offset_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 256)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "s": "VARCHAR"})
        topic.append_many({"n": n * n, "s": f"s{n}"} for n in range(5_000))
        db.compact(full=True)
        topic.append_many({"n": n * n, "s": f"s{n}"} for n in range(5_000, 5_100))
        for threads in (1, 2, 5):
            db.sql(f"SET threads = {threads}")
            found = db.sql("SELECT n, s, _offset FROM t").fetchall()
            assert found == [(n * n, f"s{n}", n) for n in range(5_100)]
            assert db.sql("SELECT n FROM t LIMIT 300").fetchall() == [(n * n,) for n in range(300)]
