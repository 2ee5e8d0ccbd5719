"""The index's map grows while the database is open, in every process, and a snapshot stays what it was meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.errors import DiskFullError, StorageError
from eventdb.storage import Store
from eventdb.storage import store as store_module
from eventdb.storage.commit.commit import Writer
from tests.storage.test_processes import open_store, said, spawn
from tests.storage.test_recovery import append, rows

MAP_BYTES = 1 << 20
VALUE = bytes(range(256)) * 12  # a page each
KEYS = 120  # of one step: a good half of the first map

OTHER = f"""
import eventdb.storage.index.kv as kv
from eventdb.errors import DiskFullError
kv.INDEX_MAP_BYTES = {MAP_BYTES}
VALUE = bytes(range(256)) * 12
store = start(durability="os", read_only=len(sys.argv) > 2)
say("open")
for line in sys.stdin:
    what, first, count = line.split()
    if what == "write":
        for wait in (0.1,) * 50:  # the map grows a moment later if a snapshot is open just now
            try:
                with store.write() as transaction:
                    for n in range(int(first), int(first) + int(count)):
                        transaction.put(b"%08d" % n, VALUE)
                break
            except DiskFullError:
                time.sleep(wait)
    with store.snapshot() as snapshot:
        found = dict(snapshot.range(b""))
    say(f"{{len(found)}} {{all(value == VALUE for value in found.values())}} {{store._index._info()['map_size']}}")
store.close()
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("eventdb.storage.index.kv.INDEX_MAP_BYTES", MAP_BYTES)
    yield tmp_path / "db"
    for store in list(store_module._stores.values()):
        store.close()


def put(store: Store, first: int, count: int) -> None:
    with store.write() as transaction:
        for n in range(first, first + count):
            transaction.put(b"%08d" % n, VALUE)


def put_when_there_is_room(store: Store, first: int, count: int) -> None:
    """As DiskFullError says: the map grows a moment later if a snapshot, such as maintenance's, is open just now."""
    for _ in range(50):
        try:
            return put(store, first, count)
        except DiskFullError:
            time.sleep(0.1)
    raise AssertionError("the map did not grow for five seconds")


def fill(store: Store, first: int) -> int:
    """The first key that found no room."""
    for n in range(first, 2000, 10):
        try:
            put(store, n, 10)
        except DiskFullError:
            return n
    raise AssertionError("the map was never full")


def map_bytes(store: Store) -> int:
    return store._index._info()["map_size"]  # type: ignore[no-any-return]


def fill_from_two_processes(path: Path) -> None:
    """They take turns, each with a pin; a third only reads."""
    store = open_store(path, durability="os")
    append(store, 1)
    writer, reader = spawn(path, OTHER), spawn(path, OTHER, "read-only")
    assert said(writer) == said(reader) == "open"
    count = 0
    try:
        for turn in range(12):
            if turn % 3 == 2:
                put_when_there_is_room(store, count, KEYS)
            for process in (writer, reader):
                assert process.stdin is not None
                process.stdin.write(f"{'write' if process is writer and turn % 3 < 2 else 'read'} {count} {KEYS}\n")
                process.stdin.flush()
                if process is writer:
                    count += KEYS
                found, whole, size = said(process).split()
                assert (found, whole) == (str(count), "True")
                assert int(size) > store._index.size_bytes() or turn == 0
            with store.snapshot() as snapshot:
                assert sum(value == VALUE for _, value in snapshot.range(b"")) == count
    finally:
        writer.communicate()
        reader.communicate()
    assert map_bytes(store) > 4 * MAP_BYTES
    assert rows(store) == [("a", 0)]
    assert store.check(deep=True) == []
    store.close()
    store = open_store(path, durability="os")
    with store.snapshot() as snapshot:
        assert sum(value == VALUE for _, value in snapshot.range(b"")) == count


def test_the_map_grows_in_every_process(path: Path) -> None:
    fill_from_two_processes(path)


def test_a_map_that_does_not_grow_would_be_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "make_room", lambda self, *, at_once=True: None)
    with pytest.raises((StorageError, AssertionError, ValueError)):
        fill_from_two_processes(path)


def test_growth_waits_for_a_snapshot_which_stays_what_it_was(path: Path) -> None:
    store = open_store(path, durability="os", maintenance=False)
    put(store, 0, 10)
    with store.snapshot() as snapshot:
        count = fill(store, 10)
        assert len(dict(snapshot.range(b""))) == 10
        assert map_bytes(store) == MAP_BYTES
    store._writer._room_again_ns = 0  # type: ignore[union-attr] # now, not in a tenth of a second
    put(store, count, 10)
    assert map_bytes(store) > MAP_BYTES
    with store.snapshot() as snapshot:
        assert len(dict(snapshot.range(b""))) == count + 10


def test_a_transaction_larger_than_the_map_is_refused_once(path: Path) -> None:
    store = open_store(path, durability="os", maintenance=False)
    with pytest.raises(DiskFullError, match="try again"):
        put(store, 0, 400)
    put(store, 0, 400)
    with store.snapshot() as snapshot:
        assert len(dict(snapshot.range(b""))) == 400
