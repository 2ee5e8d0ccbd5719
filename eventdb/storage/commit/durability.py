"""What makes commits outlive a power cut: flushes, checkpoints and the pin (checkpoint.py says why they are enough).

A checkpoint flushes segments and index, saves the index's meta pages, and lets the journal before it go. prepare()
makes the first one of a process, before it commits anything.
"""

from __future__ import annotations

import threading
import time

from eventdb.config import INDEX_ROOM_WAIT_S, INDEX_VERIFY_BYTES
from eventdb.errors import ClosedError, OutcomeUnknown, StorageError
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit.journal import Tail
from eventdb.storage.commit.state import ZERO, CommittedState
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import META_KEY, SEGMENT_KEY, generation_of, segment_key, topic_directory
from eventdb.storage.index.kv import aborting, scan
from eventdb.storage.segment.segment import segment_path
from eventdb.storage.segment.sums import Sums

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.journal import JournalFile
    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.index.kv import Index
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment

    Bulk = list[tuple[PartitionLog, Segment, bool]]  # rows too many for the journal; whether their file is new


_ROOM_POLL_S = 0.001
_ROOM_AGAIN_NS = 100_000_000  # how long to leave a map as it is that could not be replaced


class Durability(CommittedState):
    """Checkpoints of this process, and its pin."""

    def __init__(
        self, files: Files, clock: Clock, path: str, uuid: bytes, index: Index, shared: mmap.mmap, lock_fd: int,
        live_topics: Callable[[], dict[int, Schema]],
    ) -> None:  # fmt: skip
        super().__init__(files, clock, path, uuid, index, shared, lock_fd, live_topics)
        self.slots = CheckpointFile(files, f"{path}/index", write=True)
        self.sums = Sums(files, path, uuid)
        self.boot_id = clock.boot_id()
        self.pin: Any = None
        self.prepared = False
        self.commits = self.checkpoints = 0
        self.checkpoint_txn = -1
        self.checkpoint_ns = clock.monotonic_ns()
        self.journal_bytes = 0  # written by this process since its last checkpoint
        self.index_bytes = 0  # size of the index at the last checkpoint
        self.on_first_commit: Callable[[], None] | None = None
        index.on_outgrown = self.make_room
        self._room_again_ns = 0
        self._waited_bytes = 0  # of the map that no snapshot's end let grow

    def prepare(self) -> None:
        """Before this process's first commit: a checkpoint and a pin of its own, and a journal file of this boot. Lock
        held."""
        slot = self.newest_slot()
        if slot.clean or slot.boot_id != self.boot_id:
            self._begin_epoch(slot)
        else:
            self.start = slot.tail
            self.sync_point()
        self.prepared = True
        if self.on_first_commit is not None:
            self.on_first_commit()

    def newest_slot(self) -> Slot:
        """The newest checkpoint. StorageError if none verifies."""
        try:
            slot = self.slots.newest()
        except OSError as error:
            raise storage_error(error, "reading", self.slots.path) from error
        if slot is None:
            raise StorageError(f"{self.slots.path}: no checkpoint verifies; run check()", path=self.path)
        return slot

    def _meta_pages(self) -> bytes:
        try:
            return self.index.meta_pages()
        except OSError as error:
            raise storage_error(error, "reading", self.index.path) from error

    def _index_crc(self) -> int:
        try:
            return self.index.crc(INDEX_VERIFY_BYTES)
        except OSError as error:
            raise storage_error(error, "reading", self.index.path) from error

    def _begin_epoch(self, slot: Slot) -> None:
        """The database was closed cleanly: its state is the checkpoint. Only the slot and a journal file are needed."""
        pin = self.index.begin_read()
        value = pin.get(META_KEY)
        tail = Tail()
        if value is not None:
            tail.unpack(value)
        epoch = max([slot.tail.epoch, tail.epoch, *(e for e, _ in self.journal.names())]) + 1
        self.journal.close()
        self.journal.file, start = self.journal.create(tail, epoch, 0)
        self.flushes += 2
        start.durable_lsn = tail.lsn
        start.bulk_lsn = 0
        self._write_slot(slot, start, self._meta_pages(), clean=False)
        self._set_pin(pin)
        self.start = start
        self.last_txn = -1
        self.checkpoint_txn = pin.id()
        self._reset_counters()

    def _write_slot(self, previous: Slot | None, tail: Tail, pages: bytes, *, clean: bool) -> None:
        position, sequence = (0, 1) if previous is None else (previous.position ^ 1, previous.sequence + 1)
        crc = self._index_crc() if clean else 0
        self.slots.write(Slot(position, sequence, clean, self.boot_id, tail, pages, crc))
        self.flushes += 1
        try:
            self.slots.flush()
        except OSError as error:
            reason = f"flushing {self.slots.path} failed: {error.strerror or error}"
            self.poison(reason)
            raise OutcomeUnknown(reason, path=self.path) from error

    def _set_pin(self, pin: Any) -> None:
        old, self.pin = self.pin, pin
        if old is not None:
            old.abort()

    def drop_pin(self) -> None:
        """The process goes idle: it takes a new checkpoint and pin before its next commit. Lock held, nothing of its
        own unsaved."""
        self.prepared = False
        self._set_pin(None)

    def make_room(self, *, at_once: bool = True) -> None:
        """The index's map is large enough, if no snapshot of this process is open; without `at_once`, the next look is
        a while away then. The pin is one: it goes, and a checkpoint takes a new one."""
        mine = self.owner == threading.get_ident()
        if not mine:
            self.lock()
        try:
            now = self.clock.monotonic_ns()
            if now < self._room_again_ns and not at_once:
                return
            self._room_again_ns = now + _ROOM_AGAIN_NS
            if self.index.open_here() == (self.pin is not None):
                self.drop_pin()
                self.index.enlarge()
        finally:
            if not mine:
                self.unlock()

    def wait_for_room(self) -> None:
        """The index's map is large enough, or snapshots of this process have been open for INDEX_ROOM_WAIT_S. Call it
        without the lock: who holds a snapshot may wait for it.

        Those of maintenance and of queries end soon. For one that does not end, a writer waits once, and again for each
        transaction that finds the map full.
        """
        index = self.index
        patient = index.is_full or self._waited_bytes != index.map_bytes()
        self.make_room(at_once=patient)
        if not patient:
            return
        for _ in range(int(INDEX_ROOM_WAIT_S / _ROOM_POLL_S)):
            if not index.is_tight():
                return
            time.sleep(_ROOM_POLL_S)
            self.make_room()
        self._waited_bytes = index.map_bytes()

    def _reset_counters(self) -> None:
        self.checkpoint_ns = self.clock.monotonic_ns()
        self.journal_bytes = 0
        self.index_bytes = self.index.size_bytes()
        self.checkpoints += 1

    def pre_flush(self) -> None:
        """Most of a checkpoint's flushing, without the lock, so that the locked part is short."""
        with self.index.begin_read() as txn:
            dirty = [(key, b"\0") for key, _ in scan(txn, b"w")]
            self.sums.advance(txn, dirty)
            self._flush_segments(txn, dirty)
        self._sync_index()

    def _sync_index(self) -> None:
        self.flushes += 1
        try:
            self.index.sync()
        except OSError as error:
            reason = f"flushing {self.index.path} failed: {error.strerror or error}"
            self.poison(reason)
            raise OutcomeUnknown(reason, path=self.path) from error

    def _flush_segments(self, txn: Any, dirty: list[tuple[bytes, bytes]]) -> None:
        directories = set()
        for key, value in dirty:
            _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
            entry = txn.get(segment_key(topic_id, partition, base))
            generation = 0 if entry is None else generation_of(entry)
            path = segment_path(self.path, topic_id, partition, base, generation)
            try:
                fd = self.files.open(path)
            except FileNotFoundError:
                continue  # the topic was dropped
            except OSError as error:
                raise storage_error(error, "opening", path) from error
            try:
                self.flush(fd, path)
            finally:
                self.files.close(fd)
            if value == b"\1":
                directories.add((topic_id, partition))
        self.flush_directories(directories)

    def flush_directories(self, partitions: set[tuple[int, int]]) -> None:
        """The directory entries of new segments, and of their directories, are durable."""
        paths = {f"{self.path}/{topic_directory(topic, partition)}" for topic, partition in partitions}
        paths |= {f"{self.path}/topics/{topic}" for topic, _ in partitions}
        if paths:
            paths.add(f"{self.path}/topics")
        for path in sorted(paths, reverse=True):
            self.flushes += 1
            try:
                self.files.fsync_dir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = f"flushing {path} failed: {error.strerror or error}"
                self.poison(reason)
                raise OutcomeUnknown(reason, path=path) from error

    def sync_point(self, *, clean: bool = False) -> None:
        """The current state, a dead writer's commit included, is the newest checkpoint and this process's pin. Lock
        held, no write transaction open.

        With `clean` it is also marked as complete: nothing needs replaying; the caller closes.
        """
        if self.is_behind():
            if self.pin is None:
                # Folding commits, and nothing may keep the newest checkpoint's pages: this state becomes one first.
                self.save_checkpoint(clean=False)
            self.fold()
        if clean:
            self._note_sums()
        tail, dirty = self.save_checkpoint(clean=clean)
        if not clean:
            self._unmark(dirty)
        self._delete_journals(tail, everything=clean)
        self._reset_counters()

    def save_checkpoint(self, *, clean: bool) -> tuple[Tail, list[tuple[bytes, bytes]]]:
        """What the index holds is the newest checkpoint and this process's pin. Returns its tail and dirty marks."""
        pin = self.index.begin_read()
        try:
            dirty = list(scan(pin, b"w"))
            self._flush_segments(pin, dirty)
            self._sync_index()
            tail = Tail()
            value = pin.get(META_KEY)
            if value is not None:
                tail.unpack(value)
            if self.start is not None and self.start.epoch > tail.epoch:
                tail = self.start.copy()
            previous = self.newest_slot()
            self._write_slot(previous, tail, self._meta_pages(), clean=clean)
        except BaseException:
            pin.abort()
            raise
        self._set_pin(pin)
        self.flushed_lsn = max(self.flushed_lsn, tail.lsn)
        return tail, dirty

    def _unmark(self, dirty: list[tuple[bytes, bytes]]) -> None:
        """The dirty marks the checkpoint covers go, in a commit of their own (unsynced like any other)."""
        self.last_txn = -1
        txn = self.index.begin_write()
        with aborting(txn):
            self.reload(txn)
            tail = self.tail
            self.sums.put(txn, dirty)
            for key, _ in dirty:
                txn.delete(key)
            tail.checkpoint_sequence += 1
            tail.bulk_lsn = 0
            tail.durable_lsn = tail.lsn
            txn.put(META_KEY, tail.pack())
            number = txn.id()
            self.commit_txn(txn)
        self.last_txn = self.checkpoint_txn = number

    def _note_sums(self) -> None:
        """The last checkpoint covers every row with its checksum: nobody comes after it."""
        with self.index.begin_read() as txn:
            dirty = list(scan(txn, b"w"))
        if not dirty:
            return
        self.last_txn = -1
        txn = self.index.begin_write()
        with aborting(txn):
            self.reload(txn)
            self.sums.put(txn, dirty)
            self.commit_txn(txn)

    def _delete_journals(self, tail: Tail, *, everything: bool) -> None:
        """Files that no recovery can need any more go. Late is safe: a failure is left to the next checkpoint."""
        try:
            for epoch, number in self.journal.names():
                if everything or (epoch, number) < (tail.epoch, tail.number):
                    self.files.unlink(self.journal.path(epoch, number))
        except (OSError, StorageError):
            return

    def checkpoint(self) -> None:
        """Everything committed so far is durable and the journal before it gone."""
        self.check_usable()
        if self.closed:
            raise ClosedError("the database is closed")
        if self.is_checkpointed():
            return
        if not self.poison_reason:
            self.pre_flush()
        self.lock()
        try:
            if self.index.is_tight():
                self.make_room(at_once=False)
            if not self.prepared:
                slot = self.newest_slot()
                if slot.clean:
                    return
                self.start = slot.tail
            self.sync_point()
            self.prepared = True
        finally:
            self.unlock()

    def is_checkpointed(self) -> bool:
        """Whether the newest commit of any process, a dead writer's too, is this process's own last checkpoint."""
        if not self.prepared or self.checkpoint_txn != self.index.last_txn_id() or not self.head.is_empty():
            return False
        file, position = self.journal.file, self.tail.position
        return file is not None and file.mapping[position : position + 8] == ZERO

    def release_idle_pin(self, commits: int) -> None:
        """Called when this process has not committed for long: its pin stops holding old index pages."""
        self.lock()
        try:
            if self.prepared and commits == self.commits:
                self.drop_pin()
        finally:
            self.unlock()

    def flush_journal(self) -> None:
        """Interval mode: everything acknowledged so far is on the device."""
        if self.flushed_lsn >= self.own_lsn:
            return
        self.lock()
        try:
            target = self.own_lsn
            if self.tail.bulk_lsn:
                self.sync_point()
                return
            file = self.journal.file
            fd = self._duplicate(file) if file is not None else -1
        finally:
            self.unlock()
        if fd < 0:
            return
        try:
            self.flush(fd, f"{self.path}/journal")
        finally:
            self.files.close(fd)
        self.flushed_lsn = max(self.flushed_lsn, target)

    def _duplicate(self, file: JournalFile) -> int:
        try:
            return self.files.duplicate(file.fd)
        except OSError as error:
            raise storage_error(error, "opening", file.path) from error

    def open_bulk(self, bulk: Bulk) -> list[int]:
        """A descriptor for each segment of rows that a record names without holding them."""
        found: list[int] = []
        try:
            for _, segment, _ in bulk:
                found.append(self.files.open(segment.path))
        except OSError as error:
            self.close_all(found)
            raise storage_error(error, "opening", segment.path) from error
        return found

    def close_all(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            self.files.close(fd)

    def flush_bulk(self, bulk: Bulk, descriptors: list[int]) -> None:
        """The rows are on the device, and their files can be found there."""
        for (_, segment, _), fd in zip(bulk, descriptors, strict=True):
            self.flush(fd, segment.path)
        self.flush_directories({(log.topic_id, log.partition) for log, _, created in bulk if created})

    def drop(self) -> None:
        """Descriptors and mappings go; LMDB is not touched (the index closes itself)."""
        self.token = None  # a forgotten transaction must not unlock what the descriptor's number means by then
        self.journal.close()
        self.journal.spare.close()
        self.slots.close()
