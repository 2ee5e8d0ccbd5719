"""Trimming: offsets below a partition's log start are gone for good.

What the order is, so that a crash at any point leaves the old log or the new one and never brings anything back:

1. one journaled commit moves `log_start`, drops the index entries of segments that hold nothing above it, and notes
   each of their files as gone (GONE);
2. a checkpoint makes that durable: from then on no replay can ask for the files;
3. once no reader is left that may still look for them, the files are unlinked (never cut: they may be mapped), the
   directory is flushed, and only then the notes go. A note that outlives its file is harmless.
"""

from __future__ import annotations

from eventdb.errors import OutcomeUnknown
from eventdb.storage.files import storage_error
from eventdb.storage.format import (
    GONE,
    META_KEY,
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    OP_DELETE,
    OP_KEY,
    SEGMENT_KEY,
    dirty_key,
    gone_key,
    segment_key,
    sum_key,
    topic_directory,
)
from eventdb.storage.journal import Tail
from eventdb.storage.kv import scan
from eventdb.storage.limits import segments
from eventdb.storage.sealed import file_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from eventdb.storage.commit import Writer
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.staging import Staged
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
            dropped.append((before, file_name(before, held)))
        before, held = base, value
    for base, name in dropped:
        _drop(transaction, staged, base, name)
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


def _drop(transaction: WriteTransaction, staged: Staged, base: int, name: str) -> None:
    log, writer = staged.log, transaction._writer
    place = (log.topic_id, log.partition, base)
    for key in (segment_key(*place), dirty_key(*place), sum_key(*place)):
        transaction._run(transaction._txn.delete, key)
        transaction._key_ops.append(OP_KEY.pack(OP_DELETE, len(key), 0) + key)
    note = GONE.pack(writer.tail.checkpoint_sequence, transaction._txn.id()) + name.encode()
    transaction._put(gone_key(*place), note)
    if base == staged.state.base:
        _leave_segment(staged)


def waiting_files(writer: Writer) -> list[tuple[bytes, int, int, str]]:
    """(key, checkpoint sequence, transaction, path) of the files whose segments were dropped."""
    found = []
    with writer.index.begin_read() as txn:
        for key, value in scan(txn, b"t"):
            _, topic_id, partition, _ = SEGMENT_KEY.unpack(key)
            sequence, number = GONE.unpack_from(value)
            name = value[GONE.size :].decode("ascii", "replace")
            found.append((key, sequence, number, f"{topic_directory(topic_id, partition)}/{name}"))
    return found


def unlink_files(writer: Writer, may_go: Callable[[int], bool]) -> int:
    """Files that no replay can need go, and their notes, where `may_go(transaction of the removal)`. Returns how many.

    Several processes may do it at the same time.
    """
    waiting = waiting_files(writer)
    if not waiting:
        return 0
    with writer.index.begin_read() as txn:
        tail = Tail()
        tail.unpack(txn.get(META_KEY) or tail.pack())
    ready = [(key, path) for key, at, number, path in waiting if at < tail.checkpoint_sequence and may_go(number)]
    directories = set()
    for _, path in ready:
        whole = f"{writer.path}/{path}"
        try:
            writer.files.unlink(whole)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error(error, "removing", whole) from error
        directories.add(whole.rpartition("/")[0])
    _flush_directories(writer, directories)
    if ready:
        _forget(writer, [key for key, _ in ready])
    return len(ready)


def _flush_directories(writer: Writer, paths: set[str]) -> None:
    for path in sorted(paths):
        writer.flushes += 1
        try:
            writer.files.fsync_dir(path)
        except FileNotFoundError:
            continue  # the topic was dropped meanwhile
        except OSError as error:
            reason = f"flushing {path} failed: {error.strerror or error}"
            writer.poison(reason)
            raise OutcomeUnknown(reason, path=path) from error


def _forget(writer: Writer, keys: list[bytes]) -> None:
    """The notes go. Not journaled: after a power loss they are there again, and find nothing to unlink."""
    txn = writer.enter()
    try:
        for key in keys:
            txn.delete(key)
        pending, txn = txn, None
        writer.commit(pending, None)
    finally:
        writer.leave(txn)
