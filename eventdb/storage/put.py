"""A row that takes the place of another one by the shortest way (append.py): the row and one mark, no index key.

The index goes on naming an older version of the key's row; the marks lead from it to the newest one (key_index.py). So
a put of a key that is there is a commit to the head, like an append to a topic, and costs no LMDB transaction. What the
index names stays near the end of that way: after MAX_HOPS versions a put goes the long way, which names the newest.
Compaction names the newest version before it removes those that lead to it (compact.py).
"""

from __future__ import annotations

from bisect import bisect_right

from eventdb.storage.format import MARK, OP_MARKS, OP_PLACE, SEGMENT_KEY, U32, U64, row_key_prefix, segment_key
from eventdb.storage.keys import index_key, is_digest
from eventdb.storage.kv import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.commit import Writer
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.segment import Segment

    Mark = tuple[memoryview, int, int, int]  # the marks of a segment, row, mark, base of the segment

MAX_HOPS = 8


class MarkedSegments:
    """The segments of a table as the index of one generation names them, mapped for writing when they are needed."""

    __slots__ = ("bases", "found", "log", "state")

    def __init__(self, log: PartitionLog, txn: Any) -> None:
        prefix = segment_key(log.topic_id, log.partition, 0)[:-8]
        self.log = log
        self.bases = [SEGMENT_KEY.unpack(key)[3] for key, _ in scan(txn, prefix)]
        self.found: dict[int, Segment] = {}
        self.state = (log.generation, log.state.base)

    def at(self, txn: Any, offset: int) -> Segment:
        """The segment that holds the offset."""
        base = self.bases[bisect_right(self.bases, offset) - 1]
        segment = self.found.get(base)
        if segment is None:
            segment = self.found[base] = self.log.markable(txn, base)
        return segment


def segments_of(log: PartitionLog, txn: Any) -> MarkedSegments:
    """The log's segments; its state is current."""
    found = log.marked_segments
    if found is None or found.state != (log.generation, log.state.base):
        found = log.marked_segments = MarkedSegments(log, txn)
    return found


def superseded(writer: Writer, log: PartitionLog, key: bytes) -> Mark | None:
    """The mark that a row with the key, at the log's end, makes; None if the long way must be taken. Lock held, the
    log's state current."""
    place = index_key(row_key_prefix(log.topic_id, log.partition), key)
    txn = writer.index.begin_read()
    try:
        value = txn.get(place)
        if value is None or is_digest(place, place[:7]):
            return None
        (offset,) = U64.unpack(value)
        segments = segments_of(log, txn)
        for _ in range(MAX_HOPS):
            segment = segments.at(txn, offset)
            row = segment.row_of(offset)
            view = segment.value_views[segment.layout.marks]
            mark = view[row]
            if not mark:
                if segment.base != log.state.base and log.marked.get(segment.base) != writer.tail.checkpoint_sequence:
                    return None  # the next checkpoint does not know yet that it must flush the segment
                return view, row, log.state.log_end + 1, segment.base
            offset = mark - 1
        return None
    finally:
        txn.abort()


def describe_mark(log: PartitionLog, mark: Mark) -> bytes:
    """The operation for the journal."""
    _, row, by, base = mark
    return OP_PLACE.pack(OP_MARKS, log.topic_id, log.partition, base) + U32.pack(MARK.size) + MARK.pack(row, by)
