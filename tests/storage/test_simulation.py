"""Crashes by the hundred: whatever a power cut or a killed process leaves, the database comes back as it promised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventdb.errors import StorageError
from eventdb.storage.commit import Writer
from eventdb.storage.format import META_KEY
from eventdb.storage.head import Head
from eventdb.storage.recovery import RecordApplier, UnsyncedRows, parse
from eventdb.storage.sealer import Sealer
from eventdb.storage.transaction import WriteTransaction
from tests.faults import SimulatedFiles, let_go
from tests.storage.simulation import SMALL_LIMITS, Simulation

MODES = ("commit", "interval:50ms", "os")
SEEDS = int(os.environ.get("EVENTDB_SEEDS", "60"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments, journal files and dictionaries are so small that everything rolls all the time."""
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Simulation]]:
    """The head's moves are places to crash at, too: the simulation in the list is told of them."""
    current: list[Simulation] = []
    whole = Head.write

    def write(self: Head, data: bytes) -> int:
        if current:
            current[0].files.tick("head")
        sequence = whole(self, data)
        if current:
            current[0].files.tick("head")
        return sequence

    monkeypatch.setattr(Head, "write", write)
    yield current
    current.clear()


def simulate(root: Path, watch: list[Simulation], seed: int, durability: str, lives: int) -> Simulation:
    directory = root / f"{seed}"
    directory.mkdir()
    simulation = Simulation(str(directory), seed, durability)
    watch[:] = [simulation]
    simulation.run(lives)
    watch.clear()
    return simulation


@pytest.mark.parametrize("durability", MODES)
def test_every_crash_leaves_what_was_promised(tmp_path: Path, watch: list[Simulation], durability: str) -> None:
    power = process = recovering = lost = sealed = 0
    for seed in range(6):
        done = simulate(tmp_path, watch, seed, durability, 14)
        power += done.disk.power_cuts
        process += done.disk.process_crashes
        recovering += done.crashes_in_recovery
        lost += done.disk.bytes_lost
        sealed += done.sealed_rows
    # A fault that never fired proves nothing.
    assert power > 20
    assert process > 15
    assert recovering > 3
    assert lost > 10_000
    assert sealed > 500


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("durability", MODES)
def test_many_crashes_leave_what_was_promised(tmp_path: Path, watch: list[Simulation], durability: str) -> None:
    for seed in range(1000, 1000 + SEEDS):
        simulate(tmp_path, watch, seed, durability, 40)


# -- planted bugs: a harness that does not notice them proves nothing ----------------------------------------


def ack_before_flush(patch: pytest.MonkeyPatch) -> None:
    whole = Writer.flush
    patch.setattr(Writer, "flush", lambda self, fd, path: None if "/journal/" in path else whole(self, fd, path))


class Released:
    """Stands in for a pin that was let go."""

    def __init__(self, number: int) -> None:
        self.number = number

    def id(self) -> int:
        return self.number

    def abort(self) -> None:
        pass


def checkpoint_without_pin(patch: pytest.MonkeyPatch) -> None:
    whole = Writer.commit_txn

    def unpinned(self: Writer, txn: Any) -> None:
        if self.pin is not None and not isinstance(self.pin, Released):
            number = self.pin.id()
            self.pin.abort()
            self.pin = Released(number)
        whole(self, txn)

    patch.setattr(Writer, "commit_txn", unpinned)


def head_not_folded(patch: pytest.MonkeyPatch) -> None:
    """The checkpoint says that the head's commits are in the index, and lets their journal go."""

    def fold(self: Writer) -> None:
        if not self.head.is_empty():
            txn = self.index.begin_write()
            self.reload(txn)
            txn.put(META_KEY, self.tail.pack())
            self.commit_txn(txn)

    patch.setattr(Writer, "fold", fold)


def directories_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "flush_directories", lambda self, partitions: None)


def record_before_bulk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WriteTransaction, "_flush_bulk", lambda self, bulk: None)


def record_applied_in_part(patch: pytest.MonkeyPatch) -> None:
    """A record whose rows are partly gone is applied up to the first that is."""

    def apply(self: RecordApplier, record: Any) -> None:
        for operation in parse(record):
            try:
                self._apply(operation)
            except StorageError:
                raise UnsyncedRows from None

    patch.setattr(RecordApplier, "apply", apply)


def seal_unflushed(patch: pytest.MonkeyPatch) -> None:
    """The sealed file takes the place of the raw ones before its bytes are on the device."""
    whole = SimulatedFiles.fsync

    def fsync(self: SimulatedFiles, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(".col.tmp"):
            whole(self, fd)

    patch.setattr(SimulatedFiles, "fsync", fsync)


def old_segments_unlinked_at_once(patch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the checkpoint that makes recovery forget the raw segments."""
    whole = Sealer._commit

    def commit(self: Sealer, topic_id: int, partition: int, change: Any) -> bool:
        done = whole(self, topic_id, partition, change)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Writer, "checkpoint", lambda writer: None)
            self.sweep(topic_id, partition)
        return done

    patch.setattr(Sealer, "_commit", commit)


PLANTS = [
    (seal_unflushed, "commit"),
    (old_segments_unlinked_at_once, "commit"),
    (ack_before_flush, "commit"),
    (checkpoint_without_pin, "commit"),
    (head_not_folded, "os"),
    (directories_not_flushed, "commit"),
    (record_before_bulk, "commit"),
    (record_applied_in_part, "os"),
]


@pytest.mark.parametrize(("plant", "durability"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_planted_bug_is_caught(
    tmp_path: Path, watch: list[Simulation], monkeypatch: pytest.MonkeyPatch, plant: Any, durability: str
) -> None:
    plant(monkeypatch)
    for seed in range(40):
        try:
            simulate(tmp_path, watch, seed, durability, 14)
        except (AssertionError, StorageError):
            return
        finally:
            if watch and watch[0].store is not None:
                let_go(watch[0].store)
            watch.clear()
    pytest.fail(f"nothing noticed {plant.__name__}")
