"""Storage: one directory, one commit, two kinds of file. `Store` is the way in; format.py says what every byte means.

An append: transaction.py puts the rows into the mapped segment past its end -> commit.py writes one journal record
(journal.py), flushes it if the mode says so, commits one LMDB transaction (kv.py) that moves the end -> notify.py wakes
who waits. A query: snapshot.py reads the end offsets from an LMDB read transaction -> log.py maps segments ->
columns.py slices them. A crash: recovery.py, from the last checkpoint (checkpoint.py) and the journal.
"""

from __future__ import annotations

from eventdb.storage.log import PartitionLog
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.store import Store
from eventdb.storage.transaction import WriteTransaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.blocks import SealedSlice as SealedSlice  # NumPy comes with them
    from eventdb.storage.columns import SegmentSlice as SegmentSlice

__all__ = ["PartitionLog", "Store", "StoreSnapshot", "WriteTransaction"]
