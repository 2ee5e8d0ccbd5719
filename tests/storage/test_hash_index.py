"""Looking for a key or a time finds the rows a plain filter finds, and looks at hardly any others."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import CorruptionError
from eventdb.storage.index import hash_index
from eventdb.storage.sealed import blocks, seal
from eventdb.storage.segment import indexer, lookup
from eventdb.storage.segment.indexer import INDEXER
from tests.storage.simulation import SMALL_LIMITS

SMALL = {
    **SMALL_LIMITS, "sealed.seal.SEALED_BLOCK_ROWS": 8, "segment.segment.STRIDE_ROWS": 4,
    "segment.lookup.STRIDE_ROWS": 4, "index.hash_index.BLOCK_ROWS": 16, "index.hash_index.FREQUENT_ROWS": 3,
}  # fmt: skip
assert lookup.STRIDE_ROWS == 1024  # both are imported before anything is made small
assert seal.SEALED_BLOCK_ROWS == 65_536
EPOCH = dt.datetime(1970, 1, 1)
KEYS: dict[str, list[Any]] = {
    "VARCHAR": ["", "a", "b", "ab", "aab", "\u00e4", *(f"key-{n}" for n in range(12))],
    "BLOB": [b"", b"\0", b"\0\0", b"ab", *(bytes([n]) for n in range(12))],
    "BIGINT": [0, -1, 1, 1 << 40, -(1 << 63), *range(5, 15)],
    "SMALLINT": [0, -1, 32_767, -32_768, *range(5, 15)],
}


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


steps = st.lists(
    st.lists(st.tuples(st.none() | st.integers(0, 13), st.none() | st.integers(-30, 30)), min_size=1, max_size=40)
    | st.sampled_from(["seal", "trim", "reopen", "crash", "look"]),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(list(KEYS)), work=steps, plain=st.booleans(), partitions=st.sampled_from([1, 3]))
def test_a_key_or_a_time_is_found_where_a_plain_filter_finds_it(
    kind: str, work: list[Any], plain: bool, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    if plain:
        monkeypatch.setattr("eventdb.storage.segment.cells.DICTIONARY_LIMIT", 6)
        monkeypatch.setattr("eventdb.storage.segment.columns.DICTIONARY_LIMIT", 6)
    keys = KEYS[kind]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.eventdb"
        db = eventdb.open(path, durability="os")
        topic = db.create_topic(
            "t", {"k": kind, "ts": "TIMESTAMP", "x": "DOUBLE"}, key="k", event_time="ts", partitions=partitions
        )
        n = 0
        for step in [*work, "look"]:
            if isinstance(step, list):
                rows = [
                    {"k": None if k is None else keys[k % len(keys)], "ts": t, "x": n + i / 8}
                    for i, (k, t) in enumerate(step)
                ]
                n += 1
                topic.append_many(rows)
            elif step == "seal":
                db.compact(full=True)
            elif step == "trim":
                for number in range(partitions):
                    start, end = topic.offsets(number)
                    topic.delete_before((start + end) // 2, partition=number)
            elif step in ("reopen", "crash"):
                if step == "crash":  # the files as a killed process leaves them
                    path, old = path.with_name(f"{path.name}.{n}"), path
                    shutil.copytree(old, path, dirs_exist_ok=True)
                db.close()
                db = eventdb.open(path, durability="os")
                topic = db.topic("t")
            else:
                look(db, topic, keys)
        db.close()


def look(db: eventdb.Database, topic: eventdb.Topic, keys: list[Any]) -> None:
    """Through the rows while their indexes are made, and through the indexes."""
    look_once(db, topic, keys)
    INDEXER.wait()
    look_once(db, topic, keys)


def look_once(db: eventdb.Database, topic: eventdb.Topic, keys: list[Any]) -> None:
    events = [(e.partition, e.offset, e["k"], e["ts"], e["x"]) for e in topic.read()]
    for execution in ("auto", "interpreted"):
        db.sql(f"SET execution = '{execution}'")
        for key in keys:
            found = db.sql("SELECT _partition, _offset, k, ts, x FROM t WHERE k = $key", key=key).fetchall()
            assert sorted(found) == sorted(e for e in events if e[2] == key), key
    for low in range(-31, 32, 7):
        since, until = EPOCH + dt.timedelta(microseconds=low), EPOCH + dt.timedelta(microseconds=low + 9)
        found = db.sql("SELECT _partition, _offset, k, ts, x FROM t WHERE ts BETWEEN $a AND $b", a=since, b=until)
        expected = [e for e in events if e[3] is not None and since <= e[3] <= until]
        assert sorted(found.fetchall(), key=str) == sorted(expected, key=str)
        one = db.sql("SELECT x FROM t WHERE k = $key AND ts >= $a", key=keys[5], a=since).fetchall()
        assert sorted(one) == sorted((e[4],) for e in events if e[2] == keys[5] and e[3] is not None and e[3] >= since)


@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 5))
def test_an_index_names_every_row_of_a_key(keys: list[int], frequent: int) -> None:
    """Rows or whole blocks, and hardly any row of other keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "BLOCK_ROWS", 32)
        patch.setattr(hash_index, "FREQUENT_ROWS", frequent)
        hashes = np.array([hash_index.hash_of(key) for key in keys], np.uint32)
        made = hash_index.build(hashes, np.arange(len(keys)))
        index = hash_index.HashIndex.read(memoryview(made.pack()))
        assert index is not None
        for key in range(-1, 42):
            held = [row for row, other in enumerate(keys) if other == key]
            rows, whole = index.find(hash_index.hash_of(key))
            counts = {number: sum(row // 32 == number for row in held) for number in range(10)}
            assert whole == [number for number, count in counts.items() if count > frequent]
            assert rows == [row for row in held if counts[row // 32] <= frequent]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_look_up_reads_as_many_rows_from_a_long_history_as_from_a_short_one(tmp_path: Path, sealed: bool) -> None:
    seen = []
    for rows in (70_000, 280_000):
        with eventdb.open(tmp_path / str(rows), durability="os") as db:
            topic = db.create_topic("t", {"k": "BIGINT", "ts": "TIMESTAMP"}, key="k", event_time="ts")
            n = np.arange(rows)
            topic.append_batch({"k": n % (rows // 20), "ts": (n * 1000).astype("M8[us]")})
            if sealed:
                db.compact(full=True)
            log = db._log_by_id(topic._info.id)
            with db._store.snapshot() as snapshot:
                snapshot.slices(log, 0, rows, (None, None), 17)
                INDEXER.wait()
                by_key = snapshot.slices(log, 0, rows, (None, None), 17)
                seen.append(sum(part.row_count for part in by_key))
                minute = snapshot.slices(log, 0, rows, (30_000_000, 30_999_000))
                held = [part for part in minute if part.time_range[1] >= 30_000_000 and part.time_range[0] < 31_000_000]
                assert sum(part.row_count for part in held) <= (65_536 if sealed else 3 * 1024)
    assert seen[0] == seen[1] == 20


def test_an_index_grows_with_the_segment_that_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.index.hash_index.BLOCK_ROWS", 64)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT"}, key="k")
        for n in range(600):
            topic.append({"k": f"key-{n % 7}", "n": n})
            if n % 10 == 0:
                found = db.sql("SELECT n FROM t WHERE k = $key", key=f"key-{n % 7}").fetchall()
                assert found == [(i,) for i in range(n % 7, n + 1, 7)]
                INDEXER.wait()
        ((_, covered, _),) = db._log_by_id(topic._info.id).hash_indexes.values()
        assert covered >= 400


def test_a_damaged_hash_index_is_named_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.eventdb"
    with eventdb.open(path, durability="os") as db:
        topic = db.create_topic("t", {"k": "BIGINT", "x": "DOUBLE"}, key="k")
        topic.append_batch({"k": np.arange(5000) % 700, "x": np.arange(5000.0)})
        db.compact(full=True)
        with db._store.snapshot() as snapshot:
            (part, *_) = snapshot.slices(db._log_by_id(topic._info.id), 0, 1)
            place, length, _ = part._segment._index_place
            file = Path(part._segment.path)
    data = bytearray(file.read_bytes())
    data[place + length // 2] ^= 0x10
    file.write_bytes(data)
    blocks.CACHE.clear()
    with eventdb.open(path) as db:
        assert len(list(db.topic("t").read())) == 5000
        with pytest.raises(CorruptionError, match="key index does not verify"):
            db.sql("SELECT x FROM t WHERE k = 5")
        assert any("key index" in problem for problem in db.check(deep=True))


def test_the_first_look_up_does_not_wait_for_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks through the rows; once the index is there, nobody does."""
    gate, looked = threading.Event(), []
    made, found_in = indexer._made, lookup._found_in

    def slow(*arguments: Any) -> Any:
        assert gate.wait(20)
        return made(*arguments)

    def found(log: Any, segment: Any, row: int, end: int, key: Any) -> list[int]:
        looked.append(end - row)
        return found_in(log, segment, row, end, key)

    monkeypatch.setattr(indexer, "_made", slow)
    monkeypatch.setattr(lookup, "_found_in", found)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT"}, key="k")
        n = np.arange(200_000)
        topic.append_batch({"k": [f"key-{i % 30_000}" for i in n], "n": n})
        query = "SELECT n FROM t WHERE k = 'key-7' ORDER BY n"
        for _ in range(2):
            assert db.sql(query).fetchall() == [(i,) for i in range(7, 200_000, 30_000)]
        assert sum(looked) == 400_000
        gate.set()
        INDEXER.wait()
        looked.clear()
        assert db.sql(query).fetchall() == [(i,) for i in range(7, 200_000, 30_000)]
        assert sum(looked) == 0


def test_an_index_of_a_database_that_was_closed_meanwhile_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, made = threading.Event(), indexer._made

    def slow(*arguments: Any) -> Any:
        assert gate.wait(20)
        return made(*arguments)

    monkeypatch.setattr(indexer, "_made", slow)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"k": "BIGINT"}, key="k")
        topic.append_batch({"k": np.arange(70_000)})
        log = db._log_by_id(topic._info.id)
        assert db.sql("SELECT count(*) FROM t WHERE k = 5").fetchall() == [(1,)]
    gate.set()
    INDEXER.wait()
    assert log.hash_indexes == {}


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3) | st.integers(0, 3).map(lambda n: n << 16), max_size=200))
def test_equal_hashes_stay_in_the_order_of_their_rows(hashes: list[int]) -> None:
    order = hash_index._by_hash(np.array(hashes, np.uint32)).tolist()
    assert order == sorted(range(len(hashes)), key=lambda row: (hashes[row], row))


def test_a_child_that_is_forked_while_a_look_up_asks_for_an_index_makes_its_own() -> None:
    """It inherited a lock that nobody would ever let go."""
    with INDEXER._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)
            with INDEXER._lock:
                os._exit(7 if INDEXER._thread is None and not INDEXER._waiting else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
