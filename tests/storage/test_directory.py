"""What is and what is not a database directory, who may read it, and how each refusal is called."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from eventdb.errors import (
    ClosedError,
    CorruptionError,
    FormatTooNew,
    NotADatabase,
    ReadOnlyError,
    StorageError,
    UsageError,
)
from eventdb.storage import Store
from eventdb.storage import store as store_module
from eventdb.storage.format import CRC, FORMAT
from tests.storage.simulation import SCHEMAS
from tests.storage.test_recovery import append, log, rows


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "db"
    for store in list(store_module._stores.values()):
        store.close()


def open_store(path: Path, **options: object) -> Store:
    return Store.open(str(path), live_topics=lambda: SCHEMAS, **options)  # type: ignore[arg-type]


def whole(path: Path) -> Path:
    store = open_store(path)
    append(store, 3)
    store.close()
    return path


def test_only_the_owner_may_read_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(path)
        append(store, 2000)
        modes = {str(found.relative_to(path)): stat.S_IMODE(found.stat().st_mode) for found in [path, *path.rglob("*")]}
        directories = {name for name in modes if (path / name).is_dir()}
        assert {modes[name] for name in directories} == {0o700}
        assert {mode for name, mode in modes.items() if name not in directories} == {0o600}
        assert len(modes) > 12
        store.close()
    finally:
        os.umask(before)


def test_a_newer_format_is_refused_by_its_number(path: Path) -> None:
    name = whole(path) / "FORMAT"
    fields = list(FORMAT.unpack_from(name.read_bytes()))
    fields[1] = 99
    head = FORMAT.pack(*fields)
    name.write_bytes(head + CRC.pack(crc32(head)))
    for read_only in (False, True):
        with pytest.raises(FormatTooNew, match="version 99"):
            open_store(path, read_only=read_only)


def test_a_damaged_format_file_is_corruption(path: Path) -> None:
    name = whole(path) / "FORMAT"
    data = bytearray(name.read_bytes())
    data[20] ^= 1
    name.write_bytes(data)
    with pytest.raises(CorruptionError, match="FORMAT"):
        open_store(path)


def test_what_is_not_a_database_is_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    with pytest.raises(NotADatabase, match=r"letter\.txt"):
        open_store(path)
    assert [found.name for found in path.iterdir()] == ["letter.txt"]
    with pytest.raises(NotADatabase, match="is a file"):
        open_store(path / "letter.txt")
    with pytest.raises(NotADatabase, match="does not exist"):
        open_store(path.parent / "nothing", create=False)
    with pytest.raises(NotADatabase, match="does not exist"):
        open_store(path.parent / "nothing", read_only=True)
    with pytest.raises(StorageError, match="parent directory"):
        open_store(path.parent / "a" / "b")
    (path / "letter.txt").unlink()
    with pytest.raises(NotADatabase, match="no file FORMAT"):
        open_store(path, create=False)


def test_topics_without_format_are_never_written_over(path: Path) -> None:
    (whole(path) / "FORMAT").unlink()
    (path / "letter.txt").touch()
    with pytest.raises(NotADatabase):
        open_store(path)
    (path / "letter.txt").unlink()
    with pytest.raises(NotADatabase, match="restore FORMAT"):
        open_store(path)


@pytest.mark.parametrize("name", ["LOCK", "ALIVE", "shared", "FORMAT", "index/checkpoint", "index/data.mdb"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_links_and_pipes_in_the_place_of_a_file_are_refused(path: Path, name: str, kind: str) -> None:
    whole(path)
    file = path / name
    moved = path.parent / "elsewhere"
    file.rename(moved)
    if kind == "link":
        file.symlink_to(moved)
    else:
        os.mkfifo(file)
    before = moved.read_bytes()
    with pytest.raises(StorageError, match=name.split("/")[-1]):
        open_store(path)
    assert moved.read_bytes() == before


def test_a_link_in_the_place_of_a_segment_is_refused(path: Path) -> None:
    whole(path)
    segment = next((path / "topics" / "1").rglob("*.seg"))
    segment.rename(path.parent / "elsewhere")
    segment.symlink_to(path.parent / "elsewhere")
    store = open_store(path)
    with pytest.raises(StorageError, match="symbolic link"):
        append(store, 1)
    assert store.check() != []
    with pytest.raises(StorageError):
        store.close()


@pytest.mark.parametrize("name", ["index/data.mdb", "index/checkpoint", "index", "topics/1/0"])
def test_a_missing_file_is_a_typed_error(path: Path, name: str) -> None:
    target = whole(path) / name
    target.rename(path.parent / "elsewhere")
    with pytest.raises(StorageError):
        append(open_store(path), 1)


@pytest.mark.parametrize("name", ["index/checkpoint", "index/data.mdb", "shared", "FORMAT"])
@pytest.mark.parametrize("size", [0, 30])
def test_a_file_cut_short_is_a_typed_error_or_mended(path: Path, name: str, size: int) -> None:
    os.truncate(whole(path) / name, size)
    if name == "shared":
        assert len(rows(open_store(path))) == 3
    else:
        with pytest.raises(StorageError):
            open_store(path)


def test_an_index_of_another_copy_is_recognised(path: Path) -> None:
    whole(path)
    old = (path / "index" / "data.mdb").read_bytes()
    store = open_store(path)
    append(store, 3)
    store.close()
    (path / "index" / "data.mdb").write_bytes(old)
    with pytest.raises(CorruptionError, match="different copies"):
        open_store(path)


def test_reading_only_needs_no_writer_and_refuses_to_write(path: Path) -> None:
    whole(path)
    store = open_store(path, read_only=True)
    assert len(rows(store)) == 3
    assert store.check(deep=True) == []
    for use in (lambda: append(store, 1), store.checkpoint, lambda: store.append_row(log(store), ("a", 1))):
        with pytest.raises(ReadOnlyError):
            use()
    with pytest.raises(UsageError, match="read_only=True"):
        open_store(path)
    store.close()
    with pytest.raises(ClosedError):
        store.snapshot()


def test_a_removed_lock_file_stops_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.device.lock._LOOK_US", 0)
    store = open_store(path)
    append(store, 1)
    (path / "LOCK").unlink()
    with pytest.raises(StorageError, match="LOCK was removed or replaced"):
        append(store, 1)
    with pytest.raises(StorageError):
        append(store, 1)
    assert len(rows(store)) == 1


@pytest.mark.parametrize("text", ["", "full", "interval:", "interval:0ms", "interval:-5ms", "interval:1e3ms", "os:1"])
def test_an_unknown_durability_names_the_choices(path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="expected 'commit'"):
        open_store(path, durability=text)


def test_a_changed_byte_of_a_segment_header_is_found(path: Path) -> None:
    whole(path)
    segment = next((path / "topics" / "1").rglob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[30] ^= 0xFF
    segment.write_bytes(data)
    store = open_store(path)
    assert store.check() != []
    with pytest.raises(CorruptionError, match="header"):
        rows(store)
