"""Dictionaries come back in code order, whether their values were stored one by one or in chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import CorruptionError
from eventdb.storage.device.files import Files
from eventdb.storage.format import CHUNK, CHUNK_BZ2, CHUNK_ZLIB, chunk_key, dictionary_key
from eventdb.storage.index.dictionary import DictionaryCache, has_code, stored_values
from eventdb.storage.index.kv import Index


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([1, 3, 70, 200]), max_size=8), st.data())
def test_values_stored_singly_and_in_chunks_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    index = Index(Files(), str(tmp_path_factory.mktemp("index")))
    early = DictionaryCache(7, 2)
    words: list[str] = []
    for size in sizes:
        fresh = [("" if len(words) + i == 5 else f"wörd\udc80 {len(words) + i} " * (1 + i % 3)) for i in range(size)]
        with index.begin_write() as txn:
            pending = {word: len(words) + i for i, word in enumerate(fresh)}
            for key, value in stored_values(7, 2, pending):
                txn.put(key, value)
        words += fresh
        if data.draw(st.booleans()):
            with index.begin_read() as txn:
                early.refresh(txn)
                assert early.values == words
    late = DictionaryCache(7, 2)
    with index.begin_read() as txn:
        for cache in (early, late):
            cache.refresh(txn)
            assert cache.values == words
            assert cache.codes == {None: 0, **{word: code for code, word in enumerate(words)}}
        assert all(has_code(txn, 7, 2, code) for code in range(len(words)))
        assert not has_code(txn, 7, 2, len(words))
    index.close()


def test_a_missing_code_and_a_damaged_chunk_are_corruption(tmp_path: Path) -> None:
    index = Index(Files(), str(tmp_path))
    with index.begin_write() as txn:
        txn.put(dictionary_key(1, 0, 1), b"one")
        for key, value in stored_values(2, 0, {f"w{i}": i for i in range(100)}):
            txn.put(key, value[:-3])
        txn.put(chunk_key(3, 0, 69), CHUNK.pack(70, 10, CHUNK_ZLIB) + b"nonsense")
        txn.put(chunk_key(4, 0, 69), CHUNK.pack(70, 10, CHUNK_BZ2) + b"nonsense")
    with index.begin_read() as txn:
        for topic, reason in ((1, "code 0 is missing"), (2, "damaged"), (3, "damaged"), (4, "damaged")):
            with pytest.raises(CorruptionError, match=reason):
                DictionaryCache(topic, 0).refresh(txn)
    index.close()


def test_the_first_values_of_a_column_are_compressed_harder() -> None:
    def codecs(first: int, words: list[str]) -> list[int]:
        found = stored_values(1, 0, {word: first + i for i, word in enumerate(words)})
        return [CHUNK.unpack_from(value)[2] for _, value in found]

    few = [f"word {i}" for i in range(100)]
    assert codecs(0, few) == [CHUNK_BZ2]
    assert codecs(9_000, few) == [CHUNK_ZLIB]
    assert codecs(0, [word * 200 for word in few]) == [CHUNK_ZLIB]  # 140 kB


def test_many_new_strings_take_little_room_in_the_index(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"s": "VARCHAR"})
        topic.append_many({"s": f"https://example.org/a/long/path/{i}"} for i in range(20_000))
        assert int(str(db.stats()["index_bytes"])) < 400_000
        topic.append({"s": "one more"})
    with eventdb.open(tmp_path / "a.eventdb") as db:
        assert [e["s"] for e in db.topic("t").read()][-2:] == ["https://example.org/a/long/path/19999", "one more"]
        assert db.check(deep=True) == []
