"""Processes take turns at the writer lock: who waits is let go first, and a waiting process that died costs little."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from eventdb.schema import Schema
from eventdb.storage import Store
from eventdb.storage.format import SHARED_WAITING, U32

SCHEMA = Schema.from_mapping({"n": "BIGINT"})
WAITING = slice(SHARED_WAITING, SHARED_WAITING + 4)
DEAD = U32.pack(4_000_000)


def open_store(path: Path) -> Store:
    return Store.open(str(path), live_topics=lambda: {1: SCHEMA}, maintenance=False)


def append(store: Store, n: int) -> int:
    return store.append_row(store.log(1, SCHEMA, None), (n,))


def test_who_waited_and_died_is_forgotten(tmp_path: Path) -> None:
    store = open_store(tmp_path / "db")
    append(store, 0)
    page = store._page
    assert page is not None
    page[WAITING] = DEAD
    assert append(store, 1) == 1
    assert page[WAITING] == bytes(4)
    store.close()


def test_who_waits_says_so_and_is_let_go_first(tmp_path: Path) -> None:
    store = open_store(tmp_path / "db")
    append(store, 0)
    page = store._page
    assert page is not None
    other = os.open(tmp_path / "db" / "LOCK", os.O_RDWR)  # as another process holds it
    fcntl.flock(other, fcntl.LOCK_EX)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(append(store, 1)))
    thread.start()
    while page[WAITING] == bytes(4):
        assert thread.is_alive()
    assert U32.unpack(page[WAITING])[0] == os.getpid()
    os.close(other)
    thread.join()
    assert found == [1]
    assert page[WAITING] == bytes(4)
    store.close()
