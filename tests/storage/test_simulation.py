"""Crashes by the hundred: whatever a power cut or a killed process leaves, the database comes back as it promised."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventdb.errors import StorageError
from eventdb.storage import Store, StoreSnapshot
from eventdb.storage.care.gone import gone_files
from eventdb.storage.care.recovery import RecordApplier, UnsyncedRows, parse
from eventdb.storage.commit.commit import Writer
from eventdb.storage.commit.journal import Journal
from eventdb.storage.commit.state import CommittedState
from eventdb.storage.format import META_KEY, OP_BULK
from eventdb.storage.index.dictionary import DictionaryCache
from eventdb.storage.index.head import Head, pack_head
from eventdb.storage.sealed.sealer import Sealer
from eventdb.storage.transaction import WriteTransaction
from tests.faults import SimulatedFiles
from tests.storage.shared_index import SharedEnvironments
from tests.storage.simulation import Simulation

MODES = ("commit", "interval:50ms", "os")
SEEDS = int(os.environ.get("EVENTDB_SEEDS", "60"))


@pytest.fixture(autouse=True)
def several(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", SharedEnvironments().open)
    monkeypatch.setattr("eventdb.storage.index.kv.open_indexes", set())  # what one process must not do, several may


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Simulation]]:
    """The head's moves are places to crash at, too: the simulation in the list is told of them."""
    current: list[Simulation] = []
    whole = Head.move

    def move(self: Head, sequence: int) -> None:
        if current:
            current[0].running.files.tick("head")
        whole(self, sequence)
        if current:
            current[0].running.files.tick("head")

    monkeypatch.setattr(Head, "move", move)
    yield current
    current.clear()


def simulate(
    root: Path, watch: list[Simulation], seed: int, durability: str, lives: int, processes: int = 1
) -> Simulation:
    directory = root / f"{seed}"
    directory.mkdir()
    simulation = Simulation(str(directory), seed, durability, processes)
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
        recovering += done.crashes_in_opening
        lost += done.disk.bytes_lost
        sealed += done.sealed_rows
    # A fault that never fired proves nothing.
    assert power > 20
    assert process > 15
    assert recovering > 3
    assert lost > 10_000
    assert sealed > 500


@pytest.mark.parametrize("durability", [*MODES, "mixed"])
def test_several_processes_see_one_history_and_crashes_leave_what_was_promised(
    tmp_path: Path, watch: list[Simulation], durability: str
) -> None:
    power = kills = between = 0
    for seed in range(3):
        done = simulate(tmp_path, watch, seed, durability, 6, processes=3)
        power += done.disk.power_cuts
        kills += done.kills
        between += done.preemptions
    assert power > 3
    assert kills > 3
    assert between > 20


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("durability", [*MODES, "mixed"])
def test_many_crashes_leave_what_was_promised(
    tmp_path: Path, watch: list[Simulation], durability: str, processes: int
) -> None:
    for seed in range(1000, 1000 + SEEDS):
        simulate(tmp_path, watch, seed, durability, 40 if processes == 1 else 12, processes)


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


def bulk_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "flush_bulk", lambda self, bulk, descriptors: None)


def bulk_trusted(patch: pytest.MonkeyPatch) -> None:
    """The record says that its rows were flushed before it, though both flushes run side by side."""
    whole = Journal.encode

    def encode(self: Journal, type: int, flags: int, *rest: Any) -> tuple[bytes, int]:
        return whole(self, type, 0, *rest)

    patch.setattr(Journal, "encode", encode)


def unsynced_rows_trusted(patch: pytest.MonkeyPatch) -> None:
    """Whatever is in the segment counts as the rows a record names."""
    whole = RecordApplier._apply

    def apply(self: RecordApplier, operation: Any) -> None:
        if operation.op == OP_BULK and operation.topic_id in self._live:
            segment = self._segment((operation.topic_id, operation.partition, operation.base))
            operation.crc = segment.rows_crc(operation.row, operation.count)
        whole(self, operation)

    patch.setattr(RecordApplier, "_require_rows", lambda self, record: None)
    patch.setattr(RecordApplier, "_apply", apply)


def record_applied_in_part(patch: pytest.MonkeyPatch) -> None:
    """A record whose rows are partly gone is applied up to the first that is."""

    def apply(self: RecordApplier, record: Any) -> None:
        for operation in parse(record):
            try:
                self._apply(operation)
            except StorageError:
                raise UnsyncedRows("partly gone") from None

    patch.setattr(RecordApplier, "apply", apply)


def dirty_mark_overwritten(patch: pytest.MonkeyPatch) -> None:
    """That a segment's file is new is forgotten by the next process that writes to it: its directory is not flushed."""

    def mark(self: WriteTransaction, key: bytes, created: bool) -> None:
        self._run(self._txn.put, key, b"\1" if created else b"\0")

    patch.setattr(WriteTransaction, "_mark_dirty", mark)


def commits_of_others_ignored(patch: pytest.MonkeyPatch) -> None:
    """A process that committed goes on from there, whatever others did since."""
    whole = Writer.reload
    patch.setattr(Writer, "reload", lambda self, txn: None if self.last_txn >= 0 else whole(self, txn))


def dictionary_not_refreshed(patch: pytest.MonkeyPatch) -> None:
    """Codes that another process gave after the first look are not known."""
    whole = DictionaryCache.refresh
    patch.setattr(DictionaryCache, "refresh", lambda self, txn: None if self.values else whole(self, txn))


def prepared_without_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """A process joins those that write without a pin of its own: it relies on theirs."""

    def prepare(self: Writer) -> None:
        slot = self.newest_slot()
        if slot.clean or slot.boot_id != self.boot_id:
            self._begin_epoch(slot)
        else:
            self.start = slot.tail
        self.prepared = True

    patch.setattr(Writer, "prepare", prepare)


def pins_of_others_dropped(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint takes away the reader slot that keeps it whole as soon as anybody else is done with his."""
    writers: weakref.WeakSet[Writer] = weakref.WeakSet()
    whole = Writer._set_pin

    def set_pin(self: Writer, pin: Any) -> None:
        writers.add(self)
        whole(self, pin)
        for other in writers:
            if other is not self and other.pin is not None and not isinstance(other.pin, Released):
                other.pin.abort()
                other.pin = Released(0)

    patch.setattr(Writer, "_set_pin", set_pin)


def readers_know_their_own_head_only(patch: pytest.MonkeyPatch) -> None:
    """A snapshot takes the head's content from what this process wrote."""

    def snapshot(self: Store) -> StoreSnapshot:
        assert self._head is not None
        if self._writer is None or not self._writer.prepared:
            return StoreSnapshot(self._index.begin_read(), *self._head.read())
        data = pack_head(self._writer.tail.pack(), self._writer.ahead) if self._writer.ahead else b""
        return StoreSnapshot(self._index.begin_read(), self._head.sequence(), data)

    patch.setattr(Store, "snapshot", snapshot)


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
        for file in gone_files(self._writer):
            with contextlib.suppress(FileNotFoundError):
                self._files.unlink(f"{self._path}/{file.path}")
        return done

    patch.setattr(Sealer, "_commit", commit)


def journal_not_reopened(patch: pytest.MonkeyPatch) -> None:
    """A process goes on in the journal file it has, when another one has begun the next."""
    whole = CommittedState._record_follows

    def record_follows(self: CommittedState) -> bool:
        file, at = self.journal.file, self.tail.position
        return whole(self) if file is None else file.mapping[at : at + 8] != bytes(8)

    patch.setattr(CommittedState, "_record_follows", record_follows)


def index_commit_not_announced(patch: pytest.MonkeyPatch) -> None:
    """A commit of the index leaves the head as it is: whoever looks at the head alone misses it."""

    def commit_txn(self: Writer, txn: Any) -> None:
        txn.commit()
        self.ahead = {}
        self.sequence = self.head.sequence()

    patch.setattr(CommittedState, "commit_txn", commit_txn)


PLANTS = [
    (journal_not_reopened, "os", 3),
    (index_commit_not_announced, "os", 3),
    (seal_unflushed, "commit", 1),
    (old_segments_unlinked_at_once, "commit", 1),
    (ack_before_flush, "commit", 1),
    (checkpoint_without_pin, "commit", 1),
    (head_not_folded, "os", 1),
    (directories_not_flushed, "commit", 1),
    (bulk_not_flushed, "commit", 1),
    (bulk_trusted, "commit", 1),
    (unsynced_rows_trusted, "commit", 1),
    (record_applied_in_part, "os", 1),
    (dirty_mark_overwritten, "os", 3),
    (commits_of_others_ignored, "os", 3),
    (dictionary_not_refreshed, "os", 3),
    (prepared_without_checkpoint, "os", 3),
    pytest.param(pins_of_others_dropped, "os", 3, marks=pytest.mark.campaign),  # needs a hundred seeds
    (readers_know_their_own_head_only, "os", 3),
]


@pytest.mark.parametrize(
    ("plant", "durability", "processes"), PLANTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_bug_is_caught(
    tmp_path: Path, watch: list[Simulation], monkeypatch: pytest.MonkeyPatch, plant: Any, durability: str,
    processes: int,
) -> None:  # fmt: skip
    plant(monkeypatch)
    for seed in range(40 if plant is not pins_of_others_dropped else 400):
        try:
            simulate(tmp_path, watch, seed, durability, 14 if processes == 1 else 8, processes)
        except (AssertionError, StorageError, IndexError, ValueError, lmdb.Error) as error:
            print(f"seed {seed}: {error!r}"[:300])
            return
        finally:
            for simulation in watch:
                simulation.let_go()
            watch.clear()
    pytest.fail(f"nothing noticed {plant.__name__}")
