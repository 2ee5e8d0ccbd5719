"""Storage: one directory, one commit, two kinds of file. `Store` is the way in; format.py says what every byte means.

An append: transaction.py puts the rows into the mapped segment past its end -> commit/commit.py writes one journal
record (commit/journal.py), flushes it if the mode says so, commits one LMDB transaction (index/kv.py) that moves the
end -> notify.py wakes who waits. A query: snapshot.py reads the end offsets from an LMDB read transaction ->
segment/log.py maps segments -> segment/columns.py slices them. A crash: care/recovery.py, from the last checkpoint
(commit/checkpoint.py) and the journal.

device: the file system and its rights | index: LMDB and the head | commit: the section that changes the database |
segment: raw rows | sealed: encoded history | tables: rows with a key | care: opening, repair, backup, retention.
"""

from __future__ import annotations

from eventdb.storage.segment.log import PartitionLog
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.store import Store
from eventdb.storage.transaction import WriteTransaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.sealed.blocks import SealedSlice as SealedSlice  # NumPy comes with them
    from eventdb.storage.segment.columns import SegmentSlice as SegmentSlice

__all__ = ["PartitionLog", "Store", "StoreSnapshot", "WriteTransaction"]
