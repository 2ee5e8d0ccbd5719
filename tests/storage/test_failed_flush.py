"""A flush that fails once: Linux calls the next one a success and has dropped the data. Whatever a caller was told, and
whatever a reader saw after the database was opened again, stays when the power fails."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventdb.errors import OutcomeUnknown, PoisonedError, StorageError
from eventdb.storage import Store
from eventdb.storage.commit.commit import Writer
from eventdb.storage.device.files import Files
from eventdb.storage.device.lock import WriterLock
from eventdb.storage.format import SHARED_POISON
from tests.faults import SimulatedDisk, SimulatedFiles
from tests.storage.simulation import SMALL_LIMITS, Row
from tests.storage.test_io_errors import a_batch, a_bulk, a_roll, checkpoint, one_row
from tests.storage.test_recovery import append, crash, rows, start

FLUSHES = frozenset({"fdatasync", "fsync", "sync_index"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[SimulatedDisk]:
    """New ones, on which a power cut leaves nothing that was not flushed."""

    def make() -> Iterator[SimulatedDisk]:
        for number in range(1000):
            (tmp_path / f"{number}").mkdir()
            disk = SimulatedDisk(str(tmp_path / f"{number}"))
            disk.odds = lambda path: 0.0
            yield disk

    return make()  # type: ignore[return-value]


def fail_each_flush(disks: Iterator[SimulatedDisk], scenario: Callable[[Store], list[Row]]) -> int:
    """Every flush of a scenario fails, in turn; then the machine loses its power. How many there were."""
    for count, disk in enumerate(disks, 1):
        store = start(disk)
        kept = append(store, 3) + one_row(store)
        files = store._files
        assert isinstance(files, SimulatedFiles)
        files.fail_at(count, errno.EIO, FLUSHES)
        try:
            kept += scenario(store)
            kept += one_row(store)
        except (OutcomeUnknown, PoisonedError):
            files.heal()
            store.close()
        else:
            crash(disk, store, power=True)
        fired = files.fired
        store = start(disk)
        seen = rows(store)
        assert seen[: len(kept)] == kept, f"flush {count}: acknowledged rows are gone"
        seen += append(store, 2, first=500)
        crash(disk, store, power=True)
        store = start(disk)
        assert rows(store) == seen, f"flush {count}: rows are gone that were acknowledged, or read after it was opened"
        assert store.check(deep=True) == []
        store.close()
        if not fired:
            return count - 1
    raise AssertionError


SCENARIOS = [one_row, a_batch, a_bulk, a_roll, checkpoint]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_flush_that_failed_loses_nothing_that_anybody_was_told(
    disks: Iterator[SimulatedDisk], scenario: Callable[[Store], list[Row]]
) -> None:
    assert fail_each_flush(disks, scenario) >= (1 if scenario is one_row else 2)


# -- planted bugs ------------------------------------------------------------------------------------------------------


def retried_flush(patch: pytest.MonkeyPatch) -> None:
    """A flush that failed is tried again, and its success believed."""

    def flush(self: WriterLock, fd: int, path: str) -> None:
        self.flushes += 1
        try:
            self.files.fdatasync(fd)
        except OSError:
            self.files.fdatasync(fd)

    patch.setattr(WriterLock, "flush", flush)


def not_poisoned(patch: pytest.MonkeyPatch) -> None:
    """A failed flush fails its own commit only."""
    patch.setattr(WriterLock, "poison", lambda self, reason: None)


@pytest.mark.parametrize("plant", [retried_flush, not_poisoned])
def test_a_planted_bug_is_caught(
    disks: Iterator[SimulatedDisk], monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    for scenario in SCENARIOS:
        try:
            fail_each_flush(disks, scenario)
        except (AssertionError, StorageError) as error:
            print(f"{scenario.__name__}: {error!r}"[:300])
            return
    pytest.fail(f"nothing noticed {plant.__name__}")


def test_a_batch_is_not_acknowledged_whose_segment_another_flushed_in_vain(
    disks: Iterator[SimulatedDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's flush that runs at the same time may be the one that the kernel tells of the error."""
    disk = next(disks)
    store = start(disk)
    kept = append(store, 3)
    whole = Writer.flush_bulk

    def flush_bulk(self: Writer, *arguments: Any) -> None:
        self.shared[SHARED_POISON] = 1
        whole(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "flush_bulk", flush_bulk)
        with pytest.raises(OutcomeUnknown, match="another thread or process"):
            append(store, 60)
    with pytest.raises(PoisonedError):
        append(store, 1)
    store.close()
    store = start(disk)
    assert rows(store)[: len(kept)] == kept
    store.close()


@pytest.mark.parametrize("threads", [True, False])
def test_a_flush_beside_reports_every_error_to_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    def no_thread(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    if not threads:
        monkeypatch.setattr("_thread.start_new_thread", no_thread)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    Files().begin_fdatasync(fd)()
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Files().begin_fdatasync(fd)()

    class Scarce(Files):
        def fdatasync(self, fd: int) -> None:  # type: ignore[override]
            raise MemoryError

    with pytest.raises(OSError, match="MemoryError"):
        Scarce().begin_fdatasync(fd)()


@pytest.mark.parametrize("fails", [True, False])
def test_an_interrupted_wait_for_a_flush_goes_on_to_its_end(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Ctrl-C hid that the flush had failed, and later commits were acknowledged."""
    files, ended = Files(), threading.Event()

    def slow(fd: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        ended.set()
        if fails:
            raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(files, "fdatasync", slow)
    with pytest.raises(OSError if fails else KeyboardInterrupt):
        files.begin_fdatasync(-1)()
    assert ended.is_set()
