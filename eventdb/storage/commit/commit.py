"""The commit section: the one place in a process where the database changes.

Legal call order: enter() -> stores past the end, puts into the transaction -> commit() -> leave(). enter() takes the
writer lock (lock.py) and then LMDB's write transaction. commit() is: journal record -> flush (in `commit` mode) of it
and of the rows it names -> LMDB commit. Until the record is written nothing has happened; from then on the commit is
completed by this process or by the next writer. A commit of partitions' ends only goes to the head instead of LMDB:
commit_head().
"""

from __future__ import annotations

import contextlib

from eventdb.config import JOURNAL_PIECE_BYTES, SPARE_AFTER_MS
from eventdb.errors import OutcomeUnknown
from eventdb.storage.care.stats import written_bytes
from eventdb.storage.commit.durability import Durability
from eventdb.storage.commit.journal import usual_bytes
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    BULK_UNSYNCED,
    COMMIT_RECORD,
    META_KEY,
    PAGE_BYTES,
    RECORD_BYTES,
    ROLL_BYTES,
    SHARED_POISON,
    align,
)
from eventdb.storage.index.head import MAX_AHEAD, pack_head
from eventdb.storage.index.kv import IndexFault, index_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.durability import Bulk
    from eventdb.storage.commit.journal import JournalFile, Tail
    from eventdb.storage.commit.marks import Marks
    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.index.kv import Index


class Writer(Durability):
    """Commits of this process."""

    def __init__(
        self, files: Files, clock: Clock, path: str, uuid: bytes, index: Index, shared: mmap.mmap, lock_fd: int,
        durability: str, live_topics: Callable[[], dict[int, Schema]],
    ) -> None:  # fmt: skip
        super().__init__(files, clock, path, uuid, index, shared, lock_fd, live_topics)
        self.synced = durability == "commit"
        # A store into the mapped journal costs 0.2 us where pwrite costs 3, a quarter of an append that does not flush.
        # Before a flush the system call is nothing, and it reports errors.
        self.stores_records = not self.synced and files.overwrites_in_place(path)
        self.rolled_ns = 0
        self.fills_fast = False  # the journal file before this one was full within SPARE_AFTER_MS
        self.on_roll: Callable[[], None] | None = None
        self.bytes_appended = 0
        self.written_before = written_bytes()

    # -- the section ---------------------------------------------------------------------------

    def enter(self) -> Any:
        """The lock is held, caches are current, and the returned LMDB write transaction is open."""
        if self.index.is_tight():
            self.wait_for_room()
        self.lock()
        try:
            if not self.prepared:
                self.prepare()
                self.rolled_ns = self.clock.monotonic_ns()
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
        txn = self.index.begin_write()
        try:
            txn = self.catch_up(txn)
            if self.synced and self.tail.bulk_lsn:
                txn.abort()
                self.sync_point()
                txn = self.index.begin_write()
                self.last_txn = txn.id() - 1
        except IndexFault as error:
            txn.abort()
            raise index_error(error, self.index.path) from error
        except BaseException:
            txn.abort()
            raise
        return txn

    # -- commit --------------------------------------------------------------------------------

    def commit(self, txn: Any, payload: bytes | None, *, bulk: Bulk | None = None, marks: Marks | None = None) -> None:
        """Everything put into `txn` and described by `payload` (None = not journaled) has happened, as durably as the
        mode says.

        `marks` are stored between the record and the index. `bulk` is where rows are that the payload names without
        holding them; they are flushed with the record. Errors: DiskFullError and StorageError = nothing happened;
        OutcomeUnknown = a flush failed. The section is left open; the transaction is over.
        """
        last = self.last_txn
        self.last_txn = -1
        if payload is None:
            self._commit_index(txn)
        else:
            record, after = self._next_record(payload, bulk=bool(bulk))
            try:
                txn.put(META_KEY, after.pack())
            except IndexFault as error:
                raise index_error(error, self.index.path) from error
            position = self.tail.position
            self.write_record(record, position, bulk)
            if marks is not None:
                marks.store()
            self._commit_index(txn, position, marks)
            self._account(record, after)
        self.commits += 1
        self.last_txn = last + 1

    def commit_head(self, payload: bytes, ahead: dict[bytes, bytes], *, bulk: Bulk | None = None) -> bool:
        """Like commit(), for rows that change no index key but the PARTITION values in `ahead`. False, and nothing
        done, when the head has no room for them. The caller aborts its index transaction first."""
        together = {**self.ahead, **ahead}
        if len(together) > MAX_AHEAD:
            return False
        self.sequence = -1
        record, after = self._next_record(payload, bulk=bool(bulk))
        self.write_record(record, self.tail.position, bulk)
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
        if bulk and not self.synced and not after.bulk_lsn:
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

    def write_record(self, record: bytes, position: int, bulk: Bulk | None = None) -> None:
        """The record is in the journal and, in `commit` mode, flushed with the rows it names.

        Both flushes run side by side. If only the record survives a power loss, its checksums say that the rows did
        not: then the journal ends before it.
        """
        file = self.journal.file
        assert file is not None
        if self.stores_records:
            file.mapping[position : position + len(record)] = record
            return
        segments = self.open_bulk(bulk) if bulk and self.synced else []
        try:
            try:
                done = self.files.pwrite(file.fd, record, position)
                if done != len(record):
                    self.files.write_fully(file.fd, record[done:], position + done)
            except OSError as error:
                self._wipe(position)
                raise storage_error(error, "writing", file.path) from error
            if bulk and self.synced:
                self._flush_together(file, bulk, segments)
            elif self.synced:
                self.flush(file.fd, file.path)
        finally:
            self.close_all(segments)

    def _flush_together(self, file: JournalFile, bulk: Bulk, segments: list[int]) -> None:
        self.flushes += 1
        finish = self.files.begin_fdatasync(file.fd)
        try:
            self.flush_bulk(bulk, segments)
        finally:
            try:
                finish()
            except OSError as error:
                raise self.failed_flush(file.path, error) from error
        if self.shared[SHARED_POISON]:  # the kernel tells one who flushes a segment of its error: it was another one
            raise OutcomeUnknown(
                "a flush of another thread or process failed meanwhile. The commit may or may not survive; close every "
                "handle, reopen the database and look",
                path=self.path,
            )

    def _wipe(self, position: int) -> None:
        """A record that must not count is made unreadable: its first bytes become zero."""
        file = self.journal.file
        assert file is not None
        if file.mapping[position : position + RECORD_BYTES] == bytes(RECORD_BYTES):
            return  # the write failed before its first byte
        try:
            self.files.write_fully(file.fd, bytes(RECORD_BYTES), position)
        except OSError as error:
            self.poison(f"the journal {file.path} could not be written: {error.strerror or error}")

    def withdraw(self, position: int) -> None:
        """The record just written does not count, now or after a crash: the index could not follow it."""
        assert self.journal.file is not None
        self._wipe(position)
        self.flush(self.journal.file.fd, self.journal.file.path)

    def _commit_index(self, txn: Any, position: int = -1, marks: Marks | None = None) -> None:
        """Commits; on failure the journal record at `position`, if any, is withdrawn."""
        try:
            self.commit_txn(txn)
        except IndexFault as error:
            if marks is not None:
                marks.undo()  # first: while the record is there, whoever completes it marks again
            if position >= 0:
                self.withdraw(position)
            raise index_error(error, self.index.path) from error

    def _roll(self, need_bytes: int) -> Tail:
        """The tail lies in a new journal file. Everything before is flushed first, so a later file never outlives an
        earlier one."""
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
        now = self.clock.monotonic_ns()
        self.fills_fast = now - self.rolled_ns < SPARE_AFTER_MS * 1_000_000
        # What was filled in larger pieces is flushed in larger pieces: 1 MB for an event of 100 bytes. Where a file is
        # full in moments that costs nothing, and who writes 4,096 pieces gets the interpreter back 4,096 times.
        self.journal.spare.piece_bytes = JOURNAL_PIECE_BYTES if self.fills_fast and not self.synced else PAGE_BYTES
        self.rolled_ns = now
        if self.on_roll is not None:
            self.on_roll()
        return following

    def prepare_spare(self) -> None:
        """The journal file after this process's present one is made, if its turn may come soon. No lock is needed: a
        spare of the wrong size is not taken. StorageError."""
        tail = self.tail
        if self.prepared and (self.fills_fast or 2 * tail.position > tail.size):
            self.journal.spare.prepare(align(usual_bytes(tail.number + 1), PAGE_BYTES))

    def discard_file(self, path: str) -> None:
        """A file that an aborted transaction made goes, if it can; otherwise the next one replaces it."""
        with contextlib.suppress(OSError):
            self.files.unlink(path)
