"""Trimming: offsets below a partition's log start are gone for good.

One journaled commit moves `log_start`, drops the index entries of segments that hold nothing above it, and notes each
of their files as gone (gone.py).
"""

from __future__ import annotations

from eventdb.storage.care.gone import note_of
from eventdb.storage.format import (
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    OP_DELETE,
    OP_KEY,
    dirty_key,
    segment_key,
    sum_key,
)
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.limits import segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.commit.staging import Staged
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.transaction import WriteTransaction


def trim(transaction: WriteTransaction, log: PartitionLog, start: int) -> int:
    """The log begins at `start`, or at its end if that comes first; an earlier start changes nothing.

    Returns how many segments are dropped.
    """
    start = min(start, transaction.end_offset(log))
    if start <= log.state.log_start:
        return 0
    staged = _stage(transaction, log)
    state = staged.state
    state.log_start = start
    staged.moved = True
    dropped = []
    before, held = -1, b""
    for base, value in [*segments(transaction._txn, log), (state.log_end, b"")]:
        if before >= 0 and base <= start:
            dropped.append((before, held))
        before, held = base, value
    for base, value in dropped:
        _drop(transaction, staged, base, value)
    return len(dropped)


def close_active(transaction: WriteTransaction, log: PartitionLog) -> None:
    """The active segment takes no more rows: the next ones begin another, so that it can be removed when it is old."""
    if transaction.end_offset(log) <= log.state.base:
        return
    staged = _stage(transaction, log)
    state, segment = staged.state, staged.segment
    if segment is None or state.base == NO_SEGMENT or state.log_end == state.base:
        return
    value = segment.layout.pack(state.min_time, state.max_time)
    transaction._put(segment_key(log.topic_id, log.partition, state.base), value)
    _leave_segment(staged)


def _stage(transaction: WriteTransaction, log: PartitionLog) -> Staged:
    staged = transaction._stage(log)
    if not staged.chunks:
        staged.state.append_us = log.state.append_us  # nothing is appended
    return staged


def _leave_segment(staged: Staged) -> None:
    state = staged.state
    state.base, state.min_time, state.max_time = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME
    staged.segment = None
    staged.moved = True


def _drop(transaction: WriteTransaction, staged: Staged, base: int, value: bytes) -> None:
    log, writer = staged.log, transaction._writer
    place = (log.topic_id, log.partition, base)
    for key in (segment_key(*place), dirty_key(*place), sum_key(*place)):
        transaction._run(transaction._txn.delete, key)
        transaction._key_ops.append(OP_KEY.pack(OP_DELETE, len(key), 0) + key)
    if value != GAP:
        transaction._put(*note_of(writer, transaction._txn, *place, value))
    if base == staged.state.base:
        _leave_segment(staged)
