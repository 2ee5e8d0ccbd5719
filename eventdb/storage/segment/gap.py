"""Gaps: offsets of a topic whose events are lost for good, named in the index as if a segment held them.

An offset is never given twice. Where repair gives up a segment, the events around it keep their offsets and the next
event gets the next one; readers, scans, views and subscriptions go on behind a gap as if it had no rows, as they go on
behind offsets that compaction has taken from a table. A partition that has any says so in its flags, so that nobody
else looks for them. Tables and the headers beside a topic have none: the first have offsets in their segments, the
others' are seen by nobody.
"""

from __future__ import annotations

from eventdb.storage.format import NO_MAX_TIME, NO_MIN_TIME, PARTITION_GAPS, SEGMENT, SEGMENT_KEY, segment_key
from eventdb.storage.index.kv import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from eventdb.storage.segment.log import PartitionState

GAP = SEGMENT.pack(0, NO_MIN_TIME, NO_MAX_TIME, 0)  # the index entry: it ends where the next one, or the log, does


def gaps(txn: Any, topic_id: int, partition: int, state: PartitionState) -> list[tuple[int, int]]:
    """(first offset, end) of each gap, in order, without what lies before the log's start."""
    if not state.flags & PARTITION_GAPS:
        return []
    found = [
        (SEGMENT_KEY.unpack(key)[3], value == GAP) for key, value in scan(txn, segment_key(topic_id, partition, 0)[:-8])
    ]
    ends = [base for base, _ in found[1:]] + [state.log_end]
    start = state.log_start
    return [(max(base, start), end) for (base, lost), end in zip(found, ends, strict=False) if lost and end > start]


def past_gaps(txn: Any, topic_id: int, partition: int, state: PartitionState, offset: int) -> int:
    """The offset, or the end of the gap it lies in."""
    for first, end in gaps(txn, topic_id, partition, state):
        if first <= offset < end:
            return end
    return offset


def held_rows(txn: Any, topic_id: int, partition: int, state: PartitionState) -> int:
    """How many events the log holds."""
    lost = sum(end - first for first, end in gaps(txn, topic_id, partition, state))
    return state.log_end - state.log_start - lost


def leave_gaps(
    txn: Any, topic_id: int, partition: int, state: PartitionState, held: Iterable[tuple[int, int]]
) -> None:  # fmt: skip
    """Between the stretches of offsets that segments hold, and behind them to the log's end, lie gaps; the log begins
    with the first stretch, or is empty at its end. The caller stores the state."""
    for key, value in list(scan(txn, segment_key(topic_id, partition, 0)[:-8])):
        if value == GAP:
            txn.delete(key)
    state.flags &= ~PARTITION_GAPS
    at = -1
    for first, end in [*held, (state.log_end, state.log_end)]:
        if at < 0:
            state.log_start = max(state.log_start, first)
        elif first > at:
            txn.put(segment_key(topic_id, partition, at), GAP)
            state.flags |= PARTITION_GAPS
        at = end
