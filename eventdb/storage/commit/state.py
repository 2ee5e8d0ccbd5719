"""What the newest commit says, as this process knows it: the index, the head in front of it, the tail of the journal.

`generation` changes whenever cached partition state may be stale. A commit that changes no index key but partitions'
ends goes to the head (head.py); every index transaction begins by folding the head in, so whoever reads the index
inside one sees everything.

A writer that is killed between its journal record and the moment its commit is seen leaves a record behind the tail.
Whoever takes the writer lock next completes that commit before anything else, be it to commit, to checkpoint or to
close: a table's rows are marked by then, and the marks name an offset that no other row may get.
"""

from __future__ import annotations

from eventdb.storage.care.recovery import RecordApplier
from eventdb.storage.commit.journal import Journal, Tail
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.lock import WriterLock
from eventdb.storage.format import BULK_UNSYNCED, META, META_KEY
from eventdb.storage.index.head import Head, ahead_of, head_lsn
from eventdb.storage.index.kv import IndexFault, aborting, index_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.journal import JournalFile
    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.index.kv import Index

ZERO = bytes(8)


class CommittedState(WriterLock):
    """Its attributes are current inside the commit section only."""

    def __init__(
        self, files: Files, clock: Clock, path: str, uuid: bytes, index: Index, shared: mmap.mmap, lock_fd: int,
        live_topics: Callable[[], dict[int, Schema]],
    ) -> None:  # fmt: skip
        super().__init__(files, clock, path, shared, lock_fd)
        self.live_topics = live_topics
        self.uuid = uuid
        self.index = index
        self.head = Head(shared)
        self.sequence = -1  # of the head, as this process's caches reflect it; -1 = none
        self.ahead: dict[bytes, bytes] = {}  # partition key -> PARTITION of the head's content
        self.journal = Journal(files, f"{path}/journal", uuid)
        self.tail = Tail()
        self.start: Tail | None = None  # of the epoch this process began, until a commit is in it
        self.generation = 0
        self.last_txn = -1  # id of the last commit this process's caches reflect; -1 = none
        self.own_lsn = 0  # last record this process wrote
        self.flushed_lsn = 0  # last record known durable to this process
        self.replayed = 0  # records this process applied

    def distrust(self) -> None:
        self.last_txn = self.sequence = -1

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

    def fold_into(self, txn: Any) -> None:
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

    def catch_up(self, txn: Any) -> Any:
        """Every commit is in the write transaction that is returned, a dead writer's too, and `tail` is current."""
        if txn.id() != self.last_txn + 1 or self.head.sequence() != self.sequence:
            self.reload(txn)
        self.fold_into(txn)
        return self._complete_dead_writer(txn) if self._record_follows() else txn

    def _record_follows(self) -> bool:
        """Whether the journal goes on behind the tail: a writer died before its commit was seen, or left scrap."""
        tail = self.tail
        file: JournalFile | None = self.journal.file
        if file is None or file.number != tail.number or file.epoch != tail.epoch:
            self.journal.close()
            try:
                file = self.journal.file = self.journal.open(tail.epoch, tail.number)
            except OSError as error:
                raise storage_error(error, "opening", self.journal.path(tail.epoch, tail.number)) from error
            tail.size = file.size
        return file.mapping[tail.position : tail.position + 8] != ZERO

    def _complete_dead_writer(self, txn: Any) -> Any:
        """A writer died between its journal record and its LMDB commit: its commit happens now. Scrap loses
        its first bytes."""
        applier = RecordApplier(
            self.files, self.path, self.uuid, txn, self.live_topics(), self.tail.checkpoint_sequence
        )
        count = 0
        for record in self.journal.walk(self.tail):
            applier.apply(record)
            count += 1
            if record.flags & BULK_UNSYNCED and not self.tail.bulk_lsn:
                self.tail.bulk_lsn = record.lsn
        if not count:
            file = self.journal.file
            assert file is not None
            try:
                self.files.write_fully(file.fd, bytes(len(ZERO)), self.tail.position)  # looked at once is enough
            except OSError as error:
                raise storage_error(error, "writing", file.path) from error
            return txn
        self.replayed += count
        self.generation += 1
        txn.put(META_KEY, self.tail.pack())
        self.commit_txn(txn)
        txn = self.index.begin_write()
        self.last_txn = txn.id() - 1
        return txn

    def is_behind(self) -> bool:
        """Whether the index lacks a commit: one in the head, or a dead writer's. Lock held."""
        if not self.head.is_empty():
            return True
        with self.index.begin_read() as txn:
            self.reload(txn)
        self.distrust()
        return self._record_follows()

    def fold(self) -> None:
        """The index holds every commit; the head is empty. Lock held, no write transaction open."""
        self.distrust()
        txn = self.index.begin_write()
        with aborting(txn):
            txn = self.catch_up(txn)
        with aborting(txn):
            self.commit_txn(txn)
