"""A read transaction of the index holds the commit that its id names: what is remembered by id depends on it."""

from __future__ import annotations

import time
from pathlib import Path

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
