"""Every file operation of a scenario fails once, in turn: only typed errors come out, and the database stays right."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from eventdb.batch import Column, Dictionary
from eventdb.errors import DiskFullError, OutcomeUnknown, PoisonedError, StorageError
from eventdb.schema import DataType
from eventdb.storage import Store
from eventdb.storage.index.kv import Index, IndexTransaction
from tests.faults import SimulatedDisk, SimulatedFiles, let_go
from tests.storage.simulation import SMALL_LIMITS, Row
from tests.storage.test_recovery import append, crash, log, rows, start

pytestmark = pytest.mark.usefixtures("small")

WRITES = frozenset({"pwrite", "create", "allocate", "mkdir"})


def one_row(store: Store) -> list[Row]:
    row: Row = ("a", 1)
    store.append_row(log(store), row)
    return [row]


def a_batch(store: Store) -> list[Row]:
    return append(store, 30)


def a_bulk(store: Store) -> list[Row]:
    """More than a journal record holds, in one segment."""
    return append(store, 60)


def a_roll(store: Store) -> list[Row]:
    """More than a segment and a journal file hold."""
    return append(store, 150)


def columns(store: Store) -> list[Row]:
    made: list[Row] = [(f"w{i % 40}", i) for i in range(100)]
    words = [f"w{i}" for i in range(40)]
    codes = Column(DataType("VARCHAR"), np.array([i % 40 for i in range(100)], np.int32), None, Dictionary(words))
    with store.write() as transaction:
        transaction.append_columns(log(store), [codes, Column(DataType("BIGINT"), np.arange(100, dtype=np.int64))])
    return made


def checkpoint(store: Store) -> list[Row]:
    store.checkpoint()
    return []


SCENARIOS = [one_row, a_batch, a_bulk, a_roll, columns, checkpoint]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("durability", ["commit", "os"])
def test_a_failed_operation_is_a_typed_error_and_loses_nothing(
    disk: SimulatedDisk, scenario: Callable[[Store], list[Row]], code: int, durability: str
) -> None:
    store = start(disk, durability)
    kept = append(store, 3) + one_row(store)
    fired = 0
    for count in range(1, 500):
        files = store._files
        assert isinstance(files, SimulatedFiles)
        files.fail_at(count, code)
        fired_before = files.fired
        unsure: list[Row] = []
        failed: BaseException | None = None
        try:
            kept += scenario(store)
        except OutcomeUnknown as error:
            failed = error
            unsure = [("?", 0)]
        except StorageError as error:
            failed = error
        files.heal()
        if files.fired == fired_before:
            break
        fired += 1
        if code == errno.ENOSPC and failed is not None and not unsure and files.log[-1] in WRITES:
            assert isinstance(failed, DiskFullError), (failed, files.log[-1])
        if unsure:
            with pytest.raises(PoisonedError):
                append(store, 1)
            crash(disk, store, power=False)  # every handle is closed
            store = start(disk, durability)
            assert store.recovery_report["kind"] == "failed flush"
            found = rows(store)
            assert found[: len(kept)] == kept
            kept = found
        assert rows(store) == kept, (count, files.log[-1])
        kept += append(store, 1, first=1000 + count)
        assert rows(store) == kept
    else:
        pytest.fail("the scenario never passed")
    assert fired >= (1 if scenario is one_row else 4)
    assert store.check(deep=True) == []
    store.close()
    store = start(disk, durability)
    assert rows(store) == kept
    store.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failure_while_creating_leaves_nothing_that_cannot_be_created_again(tmp_path: Path, code: int) -> None:
    fired = 0
    for count in range(1, 200):
        root = tmp_path / str(count)
        root.mkdir()
        disk = SimulatedDisk(str(root))
        files = disk.files()
        files.fail_at(count, code)
        try:
            store = start(disk, files=files)
        except StorageError:
            store = start(disk)
        files.heal()
        assert append(store, 2) == rows(store)
        store.close()
        fired += files.fired
        if not files.fired:
            break
    else:
        pytest.fail("creating never passed")
    assert fired > 15


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failure_while_recovering_is_typed_and_the_next_open_recovers(
    disk: SimulatedDisk, code: int, power: bool
) -> None:
    fired = 0
    kept: list[Row] = []
    for count in range(1, 400):
        store = start(disk)
        kept += append(store, 2, first=count)
        kept += one_row(store)
        crash(disk, store, power=power)
        files = disk.files()
        files.fail_at(count, code)
        try:
            store = start(disk, files=files)
        except StorageError:
            store = start(disk)
        files.heal()
        assert rows(store) == kept, (count, files.log)
        fired += files.fired
        store.close()
        if not files.fired:
            break
    else:
        pytest.fail("recovery never passed")
    assert fired > 15


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("is_new", [True, False])
def test_flushed_rows_that_cannot_be_looked_at_while_recovering_are_not_taken_for_lost(
    tmp_path: Path, code: int, is_new: bool
) -> None:
    refused = 0
    for count in range(1, 100):
        (tmp_path / f"{count}").mkdir()
        disk = SimulatedDisk(str(tmp_path / f"{count}"))
        store = start(disk)
        kept = append(store, 1 if is_new else 90)
        store.checkpoint()
        kept += append(store, 60)
        crash(disk, store, power=True)
        files = disk.files()
        files.fail_at(count, code, frozenset({"open", "mmap"}))
        try:
            store = start(disk, files=files)
        except StorageError:
            refused += 1
            store = start(disk)
        files.heal()
        assert rows(store) == kept, (count, files.log)
        store.close()
        if not files.fired:
            break
    assert refused > 5


@pytest.mark.parametrize("durability", ["commit", "os"])
def test_short_writes_are_continued(disk: SimulatedDisk, durability: str) -> None:
    files = disk.files()
    files.short_every = 3
    store = start(disk, durability, files)
    kept: list[Row] = []
    for count in range(1, 25):
        kept += append(store, 20, first=count)
        kept += one_row(store)
        assert rows(store) == kept
    assert files.fired > 10
    crash(disk, store, power=durability == "commit")
    store = start(disk, durability)
    assert rows(store) == kept
    store.close()


def test_a_failed_flush_stops_every_commit_until_the_database_is_reopened(disk: SimulatedDisk) -> None:
    store = start(disk)
    kept = append(store, 2)
    files = store._files
    assert isinstance(files, SimulatedFiles)
    files.fail_at(1, errno.EIO, frozenset({"fdatasync"}))
    with pytest.raises(OutcomeUnknown, match="may or may not survive"):
        store.append_row(log(store), ("a", 7))
    for _ in range(2):
        with pytest.raises(PoisonedError, match="reopen"):
            store.append_row(log(store), ("a", 8))
        with pytest.raises(PoisonedError):
            append(store, 1)
        with pytest.raises(PoisonedError):
            store.checkpoint()
    assert rows(store) == kept  # reading goes on
    store.close()
    store = start(disk)
    assert store.recovery_report["kind"] == "failed flush"
    assert rows(store)[:2] == kept
    assert len(rows(store)) <= 3
    append(store, 1)
    store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_refuses_appends_and_goes_on_when_there_is_room(disk: SimulatedDisk, code: int) -> None:
    store = start(disk)
    kept = append(store, 2)
    files = store._files
    assert isinstance(files, SimulatedFiles)
    files.fail_at(1, code, WRITES, lasting=True)
    for _ in range(3):
        with pytest.raises(DiskFullError, match="no space left"):
            append(store, 50)
        with pytest.raises(DiskFullError):
            store.append_row(log(store), ("a", 7))
        assert rows(store) == kept
    files.heal()
    files.names = frozenset()
    kept += append(store, 50, first=100)
    assert rows(store) == kept
    assert store.check(deep=True) == []
    let_go(store)


class FullIndex:
    """An index transaction whose commit finds no room."""

    code = errno.ENOSPC

    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def commit(self) -> None:
        self._txn.abort()
        raise lmdb.Error(f"mdb_txn_commit: {os.strerror(self.code)}")


@pytest.mark.parametrize(("durability", "power", "code"), [
    ("commit", False, errno.ENOSPC), ("commit", True, errno.EDQUOT), ("os", False, errno.EDQUOT),
    ("os", True, errno.ENOSPC),
])  # fmt: skip
def test_a_commit_the_index_cannot_take_did_not_happen(
    disk: SimulatedDisk, durability: str, power: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FullIndex, "code", code)
    store = start(disk, durability)
    kept = append(store, 2)
    store.checkpoint()
    whole = Index.begin_write
    monkeypatch.setattr(Index, "begin_write", lambda self: FullIndex(whole(self)))
    for _ in range(2):
        with pytest.raises(DiskFullError):
            append(store, 40, first=50)
        assert rows(store) == kept
    monkeypatch.undo()
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)
    kept += append(store, 1, first=100)
    assert rows(store) == kept
    crash(disk, store, power=power)
    store = start(disk, durability)
    found = rows(store)
    assert found == kept[: len(found)]
    assert len(found) == 3 or (power and durability == "os")
    assert store.check(deep=True) == []
    store.close()


# -- found by the sweep of system calls (tests/crash/sweep.py) -----------------------------------------------


def test_a_database_whose_format_file_cannot_be_looked_at_is_not_created_anew(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed lstat was taken for a missing file: an empty database took the place of the old one."""
    store = start(disk)
    kept = append(store, 5)
    store.close()
    whole, fired = os.lstat, []

    def lstat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/FORMAT"):
            fired.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", lstat)
        with pytest.raises(StorageError, match="Input/output error"):
            start(disk)
    assert fired
    store = start(disk)
    assert rows(store) == kept
    store.close()


def test_an_index_that_gave_up_says_so_in_every_call_until_it_is_reopened(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB refuses every transaction after an error of its meta page; its own exception came out."""
    store = start(disk)
    kept = append(store, 2) + one_row(store)  # the head holds something that closing folds in

    def begin(**options: Any) -> Any:
        raise lmdb.PanicError("mdb_txn_begin", -30795)

    monkeypatch.setattr(store._index, "_begin", begin)
    for call in (lambda: append(store, 40), store.checkpoint, store.snapshot, store.close):
        with pytest.raises(PoisonedError, match="reopen"):
            call()
    store = start(disk)
    assert rows(store) == kept
    store.close()


def test_a_close_that_cannot_read_the_checkpoint_raises_a_typed_error(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = start(disk)
    kept = append(store, 2)

    def pread(self: Any, fd: int, length_bytes: int, position_bytes: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert store._writer is not None
    store._writer.prepared = False  # as in a process that committed nothing
    with monkeypatch.context() as patch:
        patch.setattr(SimulatedFiles, "pread", pread)
        with pytest.raises(StorageError, match="checkpoint failed"):
            store.close()
    store = start(disk)
    assert rows(store) == kept
    store.close()


def test_creating_a_database_whose_index_finds_no_room_is_a_full_disk(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of its first transaction is the end of a `with` block: LMDB's exception came out."""

    def commit(self: IndexTransaction) -> None:
        self.abort()
        raise lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as patch:
        patch.setattr(IndexTransaction, "commit", commit)
        with pytest.raises(DiskFullError):
            start(disk)
    store = start(disk)
    assert append(store, 2) == rows(store)
    store.close()
