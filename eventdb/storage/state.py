"""What the newest commit says, as this process knows it: the index, the head in front of it, the tail of the journal.

`generation` changes whenever cached partition state may be stale. A commit that changes no index key but partitions'
ends goes to the head (head.py); every index transaction begins by folding the head in, so whoever reads the index
inside one sees everything.
"""

from __future__ import annotations

from eventdb.storage.format import META, META_KEY
from eventdb.storage.head import Head, ahead_of, head_lsn
from eventdb.storage.journal import Journal, Tail
from eventdb.storage.kv import IndexFault, aborting, index_error
from eventdb.storage.lock import WriterLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Any

    from eventdb.storage.files import Clock, Files
    from eventdb.storage.kv import Index


class CommittedState(WriterLock):
    """Its attributes are current inside the commit section only."""

    def __init__(
        self, files: Files, clock: Clock, path: str, uuid: bytes, index: Index, shared: mmap.mmap, lock_fd: int
    ) -> None:
        super().__init__(files, clock, path, shared, lock_fd)
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
        with aborting(txn):
            self.reload(txn)
            self._fold(txn)
            number = txn.id()
            self.commit_txn(txn)
        self.last_txn = number
