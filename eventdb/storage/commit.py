"""The commit section: the one place in a process where the database changes.

Legal call order: enter() -> stores past the end, puts into the transaction -> commit() -> leave(). enter() takes, in this
order, the process's mutex, the flock of LOCK (with a timeout), and LMDB's write transaction, so LMDB's own lock, which
cannot time out, never blocks for long. commit() is: journal record -> flush (in `commit` mode) -> LMDB commit. Until the
record is written nothing has happened; from then on the commit is completed by this process or by the next writer.

A commit that changes no index key but partitions' ends goes to the head (head.py) instead of LMDB: commit_head(). Every
index transaction begins by folding the head in, so whoever reads the index inside one sees everything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading

from eventdb.config import LOCK_TIMEOUT_MS
from eventdb.errors import (
    ClosedError,
    DatabaseLocked,
    ForkError,
    OutcomeUnknown,
    PoisonedError,
    StorageError,
    UsageError,
)
from eventdb.storage.checkpoint import CheckpointFile, Slot
from eventdb.storage.files import storage_error
from eventdb.storage.format import (
    BULK_UNSYNCED,
    COMMIT_RECORD,
    META,
    META_KEY,
    RECORD_BYTES,
    ROLL_BYTES,
    SEGMENT_KEY,
    SHARED_HOLDER,
    SHARED_POISON,
    U32,
    align,
    topic_directory,
)
from eventdb.storage.head import MAX_AHEAD, Head, ahead_of, head_lsn, pack_head
from eventdb.storage.journal import Journal, Tail
from eventdb.storage.kv import IndexFault, index_error, scan
from eventdb.storage.recovery import RecordApplier
from eventdb.storage.segment import segment_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.files import Clock, Files
    from eventdb.storage.kv import Index
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.segment import Segment

_ZERO = bytes(8)
_BUSY = (errno.EAGAIN, errno.EACCES)
_LOOK_US = 1_000_000  # how often the writer looks whether LOCK is still the file it locked


class Writer:
    """Commits of this process. `generation` changes whenever cached partition state may be stale."""

    def __init__(
        self, files: Files, clock: Clock, path: str, uuid: bytes, index: Index, shared: mmap.mmap, lock_fd: int, durability: str,
        live_topics: Callable[[], dict[int, Schema]],
    ) -> None:  # fmt: skip
        self.files = files
        self.clock = clock
        self.path = path
        self.uuid = uuid
        self.index = index
        self.shared = shared
        self.head = Head(shared)
        self.sequence = -1  # of the head, as this process's caches reflect it; -1 = none
        self.ahead: dict[bytes, bytes] = {}  # partition key -> PARTITION of the head's content
        self.lock_fd = lock_fd
        self.lock_path = f"{path}/LOCK"
        self.synced = durability == "commit"
        self.live_topics = live_topics
        self.journal = Journal(files, f"{path}/journal", uuid)
        self.slots = CheckpointFile(files, f"{path}/index", write=True)
        self.boot_id = clock.boot_id()
        self.pid = os.getpid()
        self.pid_bytes = U32.pack(self.pid)
        self.mutex = threading.Lock()
        self.owner = 0
        self.tail = Tail()
        self.start: Tail | None = None
        self.generation = 0
        self.last_txn = -1  # id of the last commit this process's caches reflect; -1 = none
        self.pin: Any = None
        self.prepared = False
        self.closed = False
        self.poison_reason = ""
        self.commits = self.flushes = self.bytes_appended = self.replayed = self.checkpoints = 0
        self.own_lsn = 0  # last record this process wrote
        self.flushed_lsn = 0  # last record known durable to this process
        self.checkpoint_txn = -1
        self.checkpoint_ns = clock.monotonic_ns()
        self.journal_start = 0
        self.journal_bytes = 0  # written by this process since its last checkpoint
        self.index_bytes = 0  # size of the index at the last checkpoint
        self.look_us = 0
        self.fresh_epoch = False
        self.on_first_commit: Callable[[], None] | None = None

    # -- the section ---------------------------------------------------------------------------

    def check_usable(self) -> None:
        if os.getpid() != self.pid:
            raise ForkError("this database was opened before fork(): open it again in the child process")
        if self.closed:
            raise ClosedError("the database is closed")

    def lock(self) -> None:
        """The mutex and the flock are held. Typed errors; nothing is held then."""
        self.check_usable()
        me = threading.get_ident()
        if self.owner == me:
            raise UsageError("a write transaction of this thread is open: finish it before the next write")
        if not self.mutex.acquire(timeout=LOCK_TIMEOUT_MS / 1000):
            raise DatabaseLocked(
                f"{self.path}: another thread of this process has been writing for {LOCK_TIMEOUT_MS} ms", path=self.path, pid=self.pid
            )
        try:
            self.owner = me
            if self.closed:
                raise ClosedError("the database is closed")
            try:
                self.files.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _BUSY:
                    raise storage_error(error, "locking", self.lock_path) from error
                self._wait_for_lock()
            self.shared[SHARED_HOLDER : SHARED_HOLDER + 4] = self.pid_bytes
            if self.poison_reason or self.shared[SHARED_POISON]:
                raise PoisonedError(
                    f"{self.path}: an earlier flush failed{': ' + self.poison_reason if self.poison_reason else ''}; "
                    "nothing more is accepted until every handle is closed and the database reopened",
                    path=self.path,
                )
            now = self.clock.time_us()
            if not self.look_us - _LOOK_US <= now < self.look_us:
                self._check_inode()
                self.look_us = now + _LOOK_US
        except BaseException:
            self.unlock()
            raise

    def _wait_for_lock(self) -> None:
        import time

        deadline = self.clock.monotonic_ns() + LOCK_TIMEOUT_MS * 1_000_000
        pause_s = 20e-6
        while True:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.002)
            try:
                self.files.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in _BUSY:
                    raise storage_error(error, "locking", self.lock_path) from error
            if self.clock.monotonic_ns() > deadline:
                pid = U32.unpack_from(self.shared, SHARED_HOLDER)[0]
                raise DatabaseLocked(
                    f"{self.path}: process {pid} has held the writer lock for {LOCK_TIMEOUT_MS} ms; is it stopped? "
                    "The lock is never taken away from a live process",
                    path=self.path,
                    pid=pid,
                )

    def _check_inode(self) -> None:
        try:
            same = self.files.identity(self.lock_path) == self.files.descriptor_identity(self.lock_fd)
        except OSError:
            same = False
        if not same:
            self.poison("the file LOCK was removed or replaced while the database was open")
            raise PoisonedError(f"{self.lock_path} was removed or replaced: close every handle and reopen", path=self.path)

    def unlock(self) -> None:
        try:
            self.files.flock(self.lock_fd, fcntl.LOCK_UN)
        finally:
            self.owner = 0
            self.mutex.release()

    def enter(self) -> Any:
        """The lock is held, caches are current, and the returned LMDB write transaction is open."""
        self.lock()
        try:
            if not self.prepared:
                self.prepare()
            return self.begin()
        except BaseException:
            self.last_txn = -1
            self.unlock()
            raise

    def leave(self, txn: Any | None) -> None:
        """Ends the section; a transaction that was not committed is aborted and every cache is reloaded next time."""
        try:
            if txn is not None:
                self.last_txn = -1
                txn.abort()
        finally:
            self.unlock()

    def begin(self) -> Any:
        """A write transaction with `tail` current. The lock is held and the process prepared."""
        try:
            txn = self.index.begin_write()
        except IndexFault as error:
            raise index_error(error, self.index.path) from error
        try:
            if txn.id() != self.last_txn + 1 or self.head.sequence() != self.sequence:
                self.reload(txn)
            self._fold(txn)
            file = self.journal.file
            tail = self.tail
            if file is None or file.number != tail.number or file.epoch != tail.epoch:
                file = self._open_tail()
            if file.mapping[tail.position : tail.position + 8] != _ZERO:
                txn = self._complete_dead_writer(txn)
            if self.synced and tail.bulk_lsn:
                txn.abort()
                self.sync_point()
                txn = self.index.begin_write()
                self.last_txn = txn.id() - 1
        except BaseException:
            txn.abort()
            raise
        return txn

    def reload(self, txn: Any) -> None:
        """`tail` and `ahead` are what the index and the head say."""
        value = txn.get(META_KEY)
        if value is not None:
            self.tail.unpack(value)
        self.sequence, data = self.head.read()
        self.ahead = {}
        if head_lsn(data) > self.tail.lsn:
            self.tail.unpack(data[: META.size])
            self.ahead = ahead_of(data)
        start = self.start
        if start is not None and start.epoch > self.tail.epoch:
            sequence = self.tail.checkpoint_sequence
            self.tail = start.copy()
            self.tail.checkpoint_sequence = sequence
        if self.flushed_lsn > self.tail.durable_lsn:
            self.tail.durable_lsn = min(self.flushed_lsn, self.tail.flushed())
        self.generation += 1
        self.last_txn = txn.id() - 1

    def _fold(self, txn: Any) -> None:
        """What the head holds is in the transaction too; it takes effect when that commits."""
        if self.ahead:
            try:
                for key, value in self.ahead.items():
                    txn.put(key, value)
                txn.put(META_KEY, self.tail.pack())
            except IndexFault as error:
                raise index_error(error, self.index.path) from error

    def commit_txn(self, txn: Any) -> None:
        """Commits an index transaction that the head was folded into. IndexFault as LMDB raises it.

        The sequence moves before and after: a process that dies in between has told the others to look at the index.
        """
        self.head.touch()
        txn.commit()
        self.ahead = {}
        self.sequence = self.head.write(b"")

    def fold(self) -> None:
        """The index holds everything; the head is empty. Lock held, no write transaction open."""
        if self.head.is_empty():
            return
        txn = self.index.begin_write()
        try:
            self.reload(txn)
            self._fold(txn)
            number = txn.id()
            self.commit_txn(txn)
        except IndexFault as error:
            txn.abort()
            raise index_error(error, self.index.path) from error
        except BaseException:
            txn.abort()
            raise
        self.last_txn = number

    def _open_tail(self) -> Any:
        self.journal.close()
        try:
            self.journal.file = self.journal.open(self.tail.epoch, self.tail.number)
        except OSError as error:
            raise storage_error(error, "opening", self.journal.path(self.tail.epoch, self.tail.number)) from error
        self.tail.size = self.journal.file.size
        return self.journal.file

    def _complete_dead_writer(self, txn: Any) -> Any:
        """A writer died between its journal record and its LMDB commit: its commit happens now. Scrap is left to be overwritten."""
        applier = RecordApplier(self.files, self.path, self.uuid, txn, self.live_topics(), self.tail.checkpoint_sequence)
        count = 0
        for record in self.journal.walk(self.tail):
            applier.apply(record)
            count += 1
            if record.flags & BULK_UNSYNCED and not self.tail.bulk_lsn:
                self.tail.bulk_lsn = record.lsn
        if not count:
            return txn
        self.replayed += count
        self.generation += 1
        txn.put(META_KEY, self.tail.pack())
        self.commit_txn(txn)
        txn = self.index.begin_write()
        self.last_txn = txn.id() - 1
        return txn

    # -- commit --------------------------------------------------------------------------------

    def commit(self, txn: Any, payload: bytes | None, *, bulk: bool = False) -> None:
        """Everything put into `txn` and described by `payload` (None = not journaled) has happened, as durably as the mode says.

        `bulk` says that rows named by the payload are in a segment that was not flushed. Errors: DiskFullError and StorageError =
        nothing happened; OutcomeUnknown = the flush failed. The section is left open; the transaction is over.
        """
        last = self.last_txn
        self.last_txn = -1
        if payload is None:
            self._commit_index(txn)
        else:
            record, after = self._next_record(payload, bulk=bulk)
            try:
                txn.put(META_KEY, after.pack())
            except IndexFault as error:
                raise index_error(error, self.index.path) from error
            position = self.tail.position
            self.write_record(record, position)
            self._commit_index(txn, position)
            self._account(record, after)
        self.commits += 1
        self.last_txn = last + 1

    def commit_head(self, payload: bytes, ahead: dict[bytes, bytes], *, bulk: bool = False) -> bool:
        """Like commit(), for rows that change no index key but the PARTITION values in `ahead`. False, and nothing done,
        when the head has no room for them. The caller aborts its index transaction first."""
        together = {**self.ahead, **ahead}
        if len(together) > MAX_AHEAD:
            return False
        self.sequence = -1
        record, after = self._next_record(payload, bulk=bulk)
        self.write_record(record, self.tail.position)
        self.sequence = self.head.write(pack_head(after.pack(), together))
        self.ahead = together
        self._account(record, after)
        self.commits += 1
        return True

    def _next_record(self, payload: bytes, *, bulk: bool) -> tuple[bytes, Tail]:
        """The record of a commit, and the tail after it."""
        tail = self.tail
        if tail.position + RECORD_BYTES + len(payload) + 8 + ROLL_BYTES > tail.size:
            tail = self._roll(len(payload))
        if self.flushed_lsn > tail.durable_lsn:
            tail.durable_lsn = min(self.flushed_lsn, tail.flushed())
        record, crc = self.journal.encode(COMMIT_RECORD, BULK_UNSYNCED if bulk else 0, tail, tail.lsn + 1, payload)
        after = tail.copy()
        after.lsn += 1
        after.position += len(record)
        after.chain = crc
        if bulk and not after.bulk_lsn:
            after.bulk_lsn = after.lsn
        if self.synced:
            after.durable_lsn = after.flushed()
        return record, after

    def _account(self, record: bytes, after: Tail) -> None:
        self.tail = after
        self.own_lsn = after.lsn
        if self.synced:
            self.flushed_lsn = after.lsn
        self.journal_bytes += len(record)
        self.bytes_appended += len(record)

    def write_record(self, record: bytes, position: int) -> None:
        """The record is in the journal and, in `commit` mode, flushed."""
        file = self.journal.file
        assert file is not None
        try:
            done = self.files.pwrite(file.fd, record, position)
            if done != len(record):
                self.files.write_fully(file.fd, record[done:], position + done)
        except OSError as error:
            self._wipe(position)
            raise storage_error(error, "writing", file.path) from error
        if self.synced:
            self.flush(file.fd, file.path)

    def flush(self, fd: int, path: str) -> None:
        """fdatasync. A failure poisons the database: the kernel may have dropped the data and would call a second try a success."""
        self.flushes += 1
        try:
            self.files.fdatasync(fd)
        except OSError as error:
            reason = f"flushing {path} failed: {error.strerror or error}"
            self.poison(reason)
            raise OutcomeUnknown(
                f"{reason}. The commit may or may not survive; close every handle, reopen the database and look", path=path
            ) from error

    def _wipe(self, position: int) -> None:
        """A record that must not count is made unreadable: its first bytes become zero."""
        file = self.journal.file
        assert file is not None
        try:
            self.files.write_fully(file.fd, bytes(RECORD_BYTES), position)
        except OSError as error:
            self.poison(f"the journal {file.path} could not be written: {error.strerror or error}")

    def withdraw(self, position: int) -> None:
        """The record just written does not count, now or after a crash: the index could not follow it."""
        assert self.journal.file is not None
        self._wipe(position)
        self.flush(self.journal.file.fd, self.journal.file.path)

    def _commit_index(self, txn: Any, position: int = -1) -> None:
        """Commits; on failure the journal record at `position`, if any, is withdrawn."""
        try:
            self.commit_txn(txn)
        except IndexFault as error:
            if position >= 0:
                self.withdraw(position)
            raise index_error(error, self.index.path) from error

    def _roll(self, need_bytes: int) -> Tail:
        """The tail lies in a new journal file. Everything before is flushed first, so a later file never outlives an earlier one."""
        old = self.tail
        assert self.journal.file is not None
        file, following = self.journal.create(old, old.epoch, old.number + 1, RECORD_BYTES + need_bytes + 16)
        self.flushes += 2
        try:
            self.files.write_fully(self.journal.file.fd, self.journal.roll_record(old, following), old.position)
        except OSError as error:
            self._wipe(old.position)
            self.journal.close_file(file)
            raise storage_error(error, "writing", self.journal.file.path) from error
        self.flush(self.journal.file.fd, self.journal.file.path)
        self.journal.close_file(self.journal.file)
        self.journal.file = file
        following.durable_lsn = following.flushed()
        self.flushed_lsn = max(self.flushed_lsn, following.durable_lsn)
        self.tail = following
        return following

    def flush_bulk(self, segments: list[tuple[PartitionLog, Segment, bool]]) -> None:
        """Rows too many for the journal are on the device before the record that names them. (log, segment, whether it is new)."""
        for _, segment, _ in segments:
            fd = self.files.open(segment.path)
            try:
                self.flush(fd, segment.path)
            finally:
                self.files.close(fd)
        self.flush_directories({(log.topic_id, log.partition) for log, _, created in segments if created})

    def discard_file(self, path: str) -> None:
        """A file that an aborted transaction made goes, if it can; otherwise the next one replaces it."""
        with contextlib.suppress(OSError):
            self.files.unlink(path)

    def poison(self, reason: str) -> None:
        self.poison_reason = self.poison_reason or reason
        self.shared[SHARED_POISON] = 1

    # -- checkpoints ---------------------------------------------------------------------------

    def prepare(self) -> None:
        """Before this process's first commit: a checkpoint and a pin of its own, and a journal file of this boot. Lock held."""
        slot = self.slots.newest()
        if slot is None:
            raise StorageError(f"{self.slots.path}: no checkpoint verifies; run check()", path=self.path)
        if slot.clean or slot.boot_id != self.boot_id:
            self._begin_epoch(slot)
        else:
            self.start = slot.tail
            self.sync_point()
        self.prepared = True
        if self.on_first_commit is not None:
            self.on_first_commit()

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
        self._write_slot(slot, start, self.index.meta_pages(), clean=False)
        self._set_pin(pin)
        self.start = start
        self.last_txn = -1
        self.checkpoint_txn = pin.id()
        self._reset_counters()

    def _write_slot(self, previous: Slot | None, tail: Tail, pages: bytes, *, clean: bool) -> None:
        position, sequence = (0, 1) if previous is None else (previous.position ^ 1, previous.sequence + 1)
        self.slots.write(Slot(position, sequence, clean, self.boot_id, tail, pages))
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
        """The process goes idle: it takes a new checkpoint and pin before its next commit. Lock held, nothing of its own unsaved."""
        self.prepared = False
        self._set_pin(None)

    def _reset_counters(self) -> None:
        self.checkpoint_ns = self.clock.monotonic_ns()
        self.journal_bytes = 0
        self.index_bytes = self.index.size_bytes()
        self.checkpoints += 1

    def pre_flush(self) -> None:
        """Most of a checkpoint's flushing, without the lock, so that the locked part is short."""
        with self.index.begin_read() as txn:
            dirty = [key for key, _ in scan(txn, b"w")]
        self._flush_segments([(key, b"\0") for key in dirty])
        self._sync_index()

    def _sync_index(self) -> None:
        self.flushes += 1
        try:
            self.index.sync()
        except OSError as error:
            reason = f"flushing {self.index.path} failed: {error.strerror or error}"
            self.poison(reason)
            raise OutcomeUnknown(reason, path=self.path) from error

    def _flush_segments(self, dirty: list[tuple[bytes, bytes]]) -> None:
        directories = set()
        for key, value in dirty:
            _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
            path = segment_path(self.path, topic_id, partition, base)
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
        """The current state is the newest checkpoint and this process's pin. Lock held, no write transaction open.

        With `clean` it is also marked as complete: nothing needs replaying; the caller closes.
        """
        self.fold()
        pin = self.index.begin_read()
        try:
            dirty = list(scan(pin, b"w"))
            self._flush_segments(dirty)
            self._sync_index()
            tail = Tail()
            value = pin.get(META_KEY)
            if value is not None:
                tail.unpack(value)
            if self.start is not None and self.start.epoch > tail.epoch:
                tail = self.start.copy()
            previous = self.slots.newest()
            self._write_slot(previous, tail, self.index.meta_pages(), clean=clean)
        except BaseException:
            pin.abort()
            raise
        self._set_pin(pin)
        self.flushed_lsn = max(self.flushed_lsn, tail.lsn)
        if not clean:
            self._unmark(dirty)
        self._delete_journals(tail, everything=clean)
        self._reset_counters()

    def _unmark(self, dirty: list[tuple[bytes, bytes]]) -> None:
        """The dirty marks the checkpoint covers go, in a commit of their own (unsynced like any other)."""
        self.last_txn = -1
        try:
            txn = self.index.begin_write()
        except IndexFault as error:
            raise index_error(error, self.index.path) from error
        try:
            self.reload(txn)
            tail = self.tail
            for key, _ in dirty:
                txn.delete(key)
            tail.checkpoint_sequence += 1
            tail.bulk_lsn = 0
            tail.durable_lsn = tail.lsn
            txn.put(META_KEY, tail.pack())
            number = txn.id()
            self.commit_txn(txn)
        except IndexFault as error:
            txn.abort()
            raise index_error(error, self.index.path) from error
        self.last_txn = self.checkpoint_txn = number

    def _delete_journals(self, tail: Tail, *, everything: bool) -> None:
        """Files that no recovery can need any more go. Late is safe: a failure is left to the next checkpoint."""
        try:
            for epoch, number in self.journal.names():
                if everything or (epoch, number) < (tail.epoch, tail.number):
                    self.files.unlink(self.journal.path(epoch, number))
        except OSError:
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
            if not self.prepared:
                slot = self.slots.newest()
                if slot is not None and slot.clean:
                    return
                self.start = None if slot is None else slot.tail
            self.sync_point()
            self.prepared = True
        finally:
            self.unlock()

    def is_checkpointed(self) -> bool:
        """Whether the newest commit of any process is this process's own last checkpoint."""
        return self.prepared and self.checkpoint_txn == self.index.last_txn_id() and self.head.is_empty()

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
            fd = os.dup(file.fd) if file is not None else -1
        finally:
            self.unlock()
        if fd < 0:
            return
        try:
            self.flush(fd, f"{self.path}/journal")
        finally:
            os.close(fd)
        self.flushed_lsn = max(self.flushed_lsn, target)

    def drop(self) -> None:
        """Descriptors and mappings go; LMDB is not touched (the index closes itself)."""
        self.journal.close()
        self.slots.close()
