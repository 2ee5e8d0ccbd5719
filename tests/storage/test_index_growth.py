"""The index's map grows while the database is open, in every process, and a snapshot stays what it was meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import DiskFullError, StorageError
from eventdb.storage import Store
from eventdb.storage import store as store_module
from eventdb.storage.commit.commit import Writer
from tests.storage.test_processes import open_store, said, spawn
from tests.storage.test_recovery import append, rows

MAP_BYTES = 1 << 20
VALUE = bytes(range(256)) * 12  # a page each
KEYS = 120  # of one step: nearly half of the first map
MORE = 140  # tight: a writer enlarges the map when it can

OTHER = f"""
import eventdb.storage.index.kv as kv
kv.INDEX_MAP_BYTES = {MAP_BYTES}
VALUE = bytes(range(256)) * 12
store = start(durability="os", read_only=len(sys.argv) > 2)
say("open")
for line in sys.stdin:
    what, first, count = line.split()
    if what == "write":
        with store.write() as transaction:
            for n in range(int(first), int(first) + int(count)):
                transaction.put(b"%08d" % n, VALUE)
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
                put(store, count, KEYS)
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
    monkeypatch.setattr("eventdb.storage.commit.durability.INDEX_ROOM_WAIT_S", 0.01)
    with pytest.raises((StorageError, AssertionError, ValueError)):
        fill_from_two_processes(path)


def test_growth_waits_for_a_snapshot_which_stays_what_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.commit.durability.INDEX_ROOM_WAIT_S", 0.01)
    store = open_store(path, durability="os", maintenance=False)
    put(store, 0, 10)
    with store.snapshot() as snapshot:
        count = fill(store, 10)
        assert len(dict(snapshot.range(b""))) == 10
        assert map_bytes(store) == MAP_BYTES
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


def write_beside_a_snapshot(path: Path) -> None:
    """A map filled beyond its half, then a transaction that needs the rest, while another thread's snapshot is open; it
    ends when the writer has looked at it a few times."""
    store = open_store(path, durability="os", maintenance=False)
    put(store, 0, MORE)
    assert store._index.is_tight()
    opened = threading.Event()
    looks: list[int] = []
    look = store._index.open_here

    def counted() -> int:
        looks.append(1)
        return look()

    def read() -> None:
        with store.snapshot():
            opened.set()
            while len(looks) < 5 and not ended.wait(0.001):
                pass

    ended = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    opened.wait()
    store._index.open_here = counted  # type: ignore[method-assign]
    try:
        put(store, MORE, KEYS)
    finally:
        ended.set()
        reader.join()
    assert map_bytes(store) > MAP_BYTES
    with store.snapshot() as snapshot:
        assert len(dict(snapshot.range(b""))) == MORE + KEYS


def test_a_writer_waits_for_a_snapshot_that_ends_soon_and_then_has_room(path: Path) -> None:
    write_beside_a_snapshot(path)


def test_a_writer_that_does_not_wait_would_be_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "wait_for_room", lambda self: self.make_room(at_once=False))
    with pytest.raises(DiskFullError, match="snapshot"):
        write_beside_a_snapshot(path)


def test_a_snapshot_that_is_held_open_is_waited_for_once_and_named_by_the_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventdb.storage.commit.durability.INDEX_ROOM_WAIT_S", 0.01)
    pauses: list[float] = []
    store = open_store(path, durability="os", maintenance=False)
    put(store, 0, MORE)
    with store.snapshot():
        monkeypatch.setattr("time.sleep", pauses.append)
        put(store, MORE, 1)
        waited = len(pauses)
        put(store, MORE + 1, 1)
        assert 0 < waited == len(pauses)
        with pytest.raises(DiskFullError, match="close those that were held open"):
            put(store, MORE + 2, KEYS)
    put(store, MORE + 2, KEYS)
    assert map_bytes(store) > MAP_BYTES


def test_the_first_row_of_a_key_that_finds_the_map_full_is_stored(path: Path) -> None:
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"id": "VARCHAR", "n": "INTEGER"}, primary_key="id")
        for n in range(3_000):
            table.put({"id": f"{n:08d}" + 200 * "x", "n": n})
        assert db.sql("SELECT count(*), max(n) FROM t").fetchall() == [(3_000, 2_999)]
        assert table._store._index.map_bytes() > MAP_BYTES
