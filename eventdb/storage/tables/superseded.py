"""Which tables are worth compacting: where superseded rows take much of the space."""

from __future__ import annotations

from eventdb.config import COMPACT_LEAST_ROWS, COMPACT_SHARE
from eventdb.storage.format import NO_SEGMENT, PARTITION_KEY, TABLE, partition_key
from eventdb.storage.index.kv import scan
from eventdb.storage.segment.log import PartitionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot


def superseded_rows(snapshot: StoreSnapshot, topic_id: int, partition: int, table: bytes) -> tuple[int, int]:
    """(superseded rows at least, all rows) in the segments that nobody appends to; `table` is the TABLE value."""
    state = PartitionState()
    value = snapshot.partition(partition_key(topic_id, partition))
    if value is not None:
        state.unpack(value)
    rows, removed = TABLE.unpack_from(table)
    stored = (state.log_end if state.base == NO_SEGMENT else state.base) - removed
    return max(0, stored - rows), stored


def waiting_tables(snapshot: StoreSnapshot) -> list[int]:
    """The ids of the tables with work for compaction. A walk over the tables, microseconds each."""
    found = set()
    for key, value in scan(snapshot.transaction(), b"n"):
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        superseded, stored = superseded_rows(snapshot, topic_id, partition, value)
        if superseded >= COMPACT_LEAST_ROWS and superseded * COMPACT_SHARE >= stored:
            found.add(topic_id)
    return sorted(found)
