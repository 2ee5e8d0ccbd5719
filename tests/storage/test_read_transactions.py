"""A read transaction of the index holds the commit that its id names: what is remembered by id depends on it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.storage.format import U64
from eventdb.storage.index.kv import Index
from tests.storage.test_processes import open_store, said, spawn

WRITER = """
store = start(durability="os")
index = store._index
say("writing")
while True:
    with index.begin_write() as txn:
        txn.put(b"id", txn.id().to_bytes(8, "little"))
"""


def stale_reads(index: Index, seconds: float) -> tuple[int, int]:
    """(ids seen, read transactions that held another commit than the one their id names)."""
    until, ids, stale = time.monotonic() + seconds, set(), 0
    while time.monotonic() < until:
        for _ in range(1_000):
            txn = index.begin_read()
            value = txn.get(b"id")
            ids.add(txn.id())
            stale += value is not None and U64.unpack(value)[0] != txn.id()
            txn.abort()
    return len(ids), stale


def test_a_read_transaction_holds_the_commit_its_id_names_however_fast_others_commit(tmp_path: Path) -> None:
    """LMDB alone gives some of another commit every second here."""
    path = tmp_path / "db"
    store = open_store(path, durability="os", maintenance=False)
    writers = [spawn(path, WRITER) for _ in range(2)]
    try:
        for writer in writers:
            assert said(writer) == "writing"
        seen, stale = stale_reads(store._index, 4)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(20)
    assert seen > 1_000
    assert stale == 0
    store.close()


def test_a_snapshot_of_one_thread_outlives_a_fork_of_another(tmp_path: Path) -> None:
    """The child lets go of the thread's objects, and with them let go of the slot that the parent reads with: its pages
    were overwritten, and the thread read other rows."""
    with eventdb.open(tmp_path / "db", durability="os") as db:
        db.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR)")
        db.sql("INSERT INTO t VALUES (1, 'x')")
        begun, go = threading.Event(), threading.Event()
        found: list[list[tuple[object, ...]]] = []

        def read() -> None:
            db.sql("BEGIN")
            found.append(db.sql("SELECT * FROM t").fetchall())
            begun.set()
            go.wait(60)
            found.append(db.sql("SELECT * FROM t").fetchall())
            db.sql("COMMIT")

        reader = threading.Thread(target=read)
        reader.start()
        begun.wait(60)
        open_before = len(db._store._index.open_reads)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        for i in range(200):
            db.sql("INSERT INTO t VALUES (?, ?)", [i + 10, f"y{i}"])
            if i % 10 == 0:
                db.checkpoint()
        go.set()
        reader.join(60)
        assert found == [[(1, "x")]] * 2
        assert open_before >= 1


def test_a_snapshot_that_nobody_closed_is_let_go_with_its_last_reference(tmp_path: Path) -> None:
    store = open_store(tmp_path / "db", durability="os", maintenance=False)
    snapshot = store.snapshot()
    assert len(store._index.open_reads) == 1
    del snapshot
    assert not store._index.open_reads
    store.close()


class Interrupted(set[Any]):
    """A signal handler raises as soon as something is in it."""

    def add(self, item: Any) -> None:
        super().add(item)
        raise KeyboardInterrupt


def test_a_read_transaction_that_ctrl_c_kept_from_its_caller_ends(tmp_path: Path) -> None:
    """It kept the old pages of the index for as long as the process lived."""
    store = open_store(tmp_path / "db", durability="os", maintenance=False)
    index = store._index
    index.open_reads = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        store.snapshot()
    assert not index.open_reads
    assert not index.open_here()
    store.close()
