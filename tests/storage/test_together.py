"""Rows of several threads in one record: what is stored is what each would have stored alone, also after a crash."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import OutcomeUnknown
from eventdb.schema import Schema
from eventdb.storage import PartitionLog, Store
from eventdb.storage import store as store_module
from eventdb.storage.commit import together as module
from eventdb.storage.device.files import Files
from eventdb.storage.format import ROLL_BYTES

SCHEMAS = {
    1: Schema.from_mapping({"n": "BIGINT", "name": "VARCHAR", "body": "BLOB"}),
    2: Schema.from_mapping({"x": "DOUBLE", "n": "INTEGER"}),
}


class Disk(Files):
    """Flushes nothing; counts, and fails when told to."""

    fails = False

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        if self.fails:
            raise OSError(5, "planted")


def open_store(path: Path, files: Files | None = None) -> Store:
    return Store.open(str(path), files=files or Disk(), live_topics=lambda: SCHEMAS, maintenance=False)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("eventdb.storage.commit.journal.JOURNAL_FIRST_BYTES", 4096)  # many a group meets its end
    monkeypatch.setattr("eventdb.storage.commit.journal.JOURNAL_MAX_BYTES", 16384)
    yield tmp_path / "db"
    for store in list(store_module._stores.values()):
        store.close()


def logs_of(store: Store) -> dict[int, PartitionLog]:
    return {topic_id: store.log(topic_id, schema, None) for topic_id, schema in SCHEMAS.items()}


def contents(store: Store) -> dict[int, list[tuple[Any, ...]]]:
    with store.snapshot() as snapshot:
        return {
            topic_id: [row for chunk in snapshot.rows(log, *snapshot.offsets(log)) for _, _, row in chunk]
            for topic_id, log in logs_of(store).items()
        }


def some_row(chance: random.Random, topic_id: int) -> tuple[Any, ...]:
    if topic_id == 1:
        body = chance.choice([None, b"", chance.randbytes(chance.randrange(300))])
        return chance.randrange(-(2**63), 2**63), chance.choice(["a", "b", None]), body
    return chance.choice([None, chance.random()]), chance.choice([None, chance.randrange(-(2**31), 2**31)])


def store_groups(store: Store, rounds: int) -> dict[int, list[tuple[Any, ...]]]:
    """Random groups, one record each; what the logs must hold."""
    chance = random.Random(7)
    logs = logs_of(store)
    model: dict[int, list[tuple[Any, ...]]] = {topic_id: [] for topic_id in SCHEMAS}
    with store.write() as transaction:
        for topic_id, row in ((1, (0, "a", b"")), (1, (0, "b", b"")), (2, (0.0, 0))):
            transaction.append_row(logs[topic_id], row)
            model[topic_id].append(row)
    together = 0
    for _ in range(rounds):
        topics = [chance.choice([1, 1, 2]) for _ in range(chance.randrange(1, 9))]
        rows = [(logs[topic_id], some_row(chance, topic_id), None) for topic_id in topics]
        unfit = chance.randrange(3 * len(rows))
        if unfit < len(rows):
            rows[unfit] = (rows[unfit][0], ("no such value",) * len(rows[unfit][1]), None)
        lsn = store._writer.tail.lsn  # type: ignore[union-attr]
        offsets = store._append_together(lambda found=rows: found)  # type: ignore[misc]
        assert store._writer.tail.lsn - lsn == (max(offsets) >= 0)  # type: ignore[union-attr]
        together += max(offsets) >= 0
        assert store._writer.tail.position + ROLL_BYTES <= store._writer.tail.size  # type: ignore[union-attr]
        for topic_id, (_, row, _), offset in zip(topics, rows, offsets, strict=True):
            if offset >= 0:
                assert offset == len(model[topic_id])
                model[topic_id].append(row)
        for i, (topic_id, (log, row, _), offset) in enumerate(zip(topics, rows, offsets, strict=True)):
            if offset < 0 and i != unfit:  # a new segment is needed: the long way makes it
                assert store.append_row(log, row) == len(model[topic_id])
                model[topic_id].append(row)
    assert together > rounds // 2
    return model


def test_a_group_of_any_rows_is_one_record_and_holds_what_each_row_says(path: Path) -> None:
    store = open_store(path)
    model = store_groups(store, 300)
    assert contents(store) == model
    assert store.check(deep=True) == []


def test_a_group_is_replayed_after_a_crash(path: Path, tmp_path: Path) -> None:
    store = open_store(path)
    model = store_groups(store, 100)
    shutil.copytree(path, tmp_path / "copy")
    (tmp_path / "copy" / "shared").unlink()  # the head is lost: the journal alone says what was committed
    copy = open_store(tmp_path / "copy")
    assert copy.recovery_report["kind"] != "clean"
    assert contents(copy) == model
    assert copy.check(deep=True) == []


def test_a_row_that_is_not_stored_behind_the_one_before_it_would_be_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = module._Batch.add

    def overwrite(self: Any, log: PartitionLog, row: tuple[Any, ...], key: bytes | None) -> int:
        offset = add(self, log, row, key)
        if len(self._parts) == 3:
            log.state.log_end -= 1
        return offset

    monkeypatch.setattr(module._Batch, "add", overwrite)
    store = open_store(path)
    with pytest.raises(AssertionError):
        assert store_groups(store, 100) == contents(store)


def test_a_failed_flush_of_a_group_reaches_each_of_its_threads_once(path: Path) -> None:
    disk = Disk()
    store = open_store(path, disk)
    log = logs_of(store)[2]
    assert [store.append_row(log, (0.0, n)) for n in range(3)] == [0, 1, 2]
    found: list[object] = []
    disk.fails = True
    barrier = threading.Barrier(4)

    def run(n: int) -> None:
        barrier.wait()
        try:
            found.append(store.append_row(log, (1.0, n)))
        except Exception as error:
            found.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {OutcomeUnknown.__name__, "PoisonedError"}
    assert OutcomeUnknown.__name__ in found


def put_from_threads(path: Path, threads: int, puts: int) -> tuple[dict[str, int], dict[str, int]]:
    """(what the table holds, what it must hold). Each thread has keys of its own and one with all others."""
    with eventdb.open(path) as db:
        table = db.create_table("t", {"id": "VARCHAR", "n": "INTEGER"}, primary_key="id")
        keys = [f"{thread}/{k}" for thread in range(threads) for k in range(3)]
        table.put_many([{"id": key, "n": -1} for key in [*keys, "all"]])
        db.checkpoint()
        table.put({"id": "all", "n": -1})
        newest: dict[str, tuple[int, int]] = {}
        lock = threading.Lock()

        def run(thread: int) -> None:
            for n in range(puts):
                key = "all" if n % 10 == 9 else f"{thread}/{n % 3}"
                offset = table.put({"id": key, "n": thread * puts + n}).offset
                with lock:
                    newest[key] = max(newest.get(key, (-1, -1)), (offset, thread * puts + n))

        workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found = dict(db.sql("SELECT id, n FROM t").fetchall())
        assert db.check(deep=True) == []
    return found, {key: n for key, (_, n) in newest.items()}


def test_the_newest_put_of_each_key_stays(tmp_path: Path) -> None:
    found, model = put_from_threads(tmp_path / "db", threads=8, puts=60)
    assert found == model


def test_puts_that_wait_together_share_one_flush(tmp_path: Path) -> None:
    """Whoever leads is held until all have queued, so that no scheduler decides."""
    with eventdb.open(tmp_path / "db") as db:
        table = db.create_table("t", {"id": "INTEGER", "n": "INTEGER"}, primary_key="id")
        table.put_many([{"id": key, "n": 0} for key in range(8)])
        db.checkpoint()
        table.put({"id": 0, "n": 1})
        group, before = table._store._group, int(str(db.stats()["flushes"]))
        with group._lock:
            group._has_leader = group.takes_all = True  # the test leads: everybody queues
        workers = [threading.Thread(target=table.put, args=({"id": key, "n": 2},)) for key in range(8)]
        for worker in workers:
            worker.start()
        while len(group._queue) < len(workers):
            time.sleep(0.001)
        with group._lock:
            group._queue[0].leads = True
            group._queue[0].wake.release()
        for worker in workers:
            worker.join()
        assert int(str(db.stats()["flushes"])) - before == 1
        assert dict(db.sql("SELECT id, n FROM t").fetchall()) == dict.fromkeys(range(8), 2)


def test_a_group_takes_one_put_of_a_key_and_leaves_the_others_to_the_next(path: Path) -> None:
    with eventdb.open(path) as db:
        table = db.create_table("t", {"id": "VARCHAR", "n": "INTEGER"}, primary_key="id")
        table.put_many([{"id": "a", "n": 0}, {"id": "b", "n": 0}])
        table.put({"id": "a", "n": 1})
        log = table._log
        rows = []
        for key, n in (("a", 2), ("b", 2), ("a", 3), ("c", 4)):
            values = table._codec.encode({"id": key, "n": n})
            rows.append((log, values, log.key_of(values)))
        offsets = table._store._append_together(lambda: rows)
        assert offsets == [3, 4, -1, -1]  # the second row of "a", and the first of "c", go alone
        assert dict(db.sql("SELECT id, n FROM t").fetchall()) == {"a": 2, "b": 2}
        assert db.check(deep=True) == []
