"""The shortest way (append.py) for the rows of several threads: one journal record, one flush, one move of the head.

Each row is checked, packed and stored as it would be alone, behind the one before it. Those that do not fit are left
out, and the others are committed without them.
"""

from __future__ import annotations

from eventdb.storage.commit.append import DECLINED, STATE, UNFIT, commit_record
from eventdb.storage.commit.put import NO_ROW, describe_mark, superseded
from eventdb.storage.format import RECORD_BYTES, ROLL_BYTES
from eventdb.storage.index.head import MAX_AHEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.commit.put import Mark
    from eventdb.storage.segment.log import PartitionLog

    Row = tuple[PartitionLog, tuple[Any, ...], bytes | None]  # the last is append_row()'s key

_ZERO = bytes(8)


def append_together(writer: Writer, take: Callable[[], Sequence[Row]]) -> list[int]:
    """The offsets of the rows that take() returns once the writer is free, all of them committed by one record;
    DECLINED, nothing done, for each that must take the long way, or whose key has no row, or is that of an earlier one.

    Errors: as WriterLock.lock, and take() was not called; Writer.commit, for all.
    """
    writer.lock()
    try:
        rows = take()
        if not writer.prepared:
            return [DECLINED] * len(rows)
        return _store(writer, rows)
    finally:
        try:
            writer.unlock()
        except BaseException:  # Ctrl-C in the middle of it
            writer.unlock()
            raise


def _store(writer: Writer, rows: Sequence[Row]) -> list[int]:
    batch = _Batch(writer)
    try:
        if not _is_current(writer):
            return [DECLINED] * len(rows)
        offsets = [batch.add(*row) for row in rows]
        batch.commit()
    except BaseException:
        for log in batch.logs:
            log.drop_writer_state()
        raise
    return offsets


def _is_current(writer: Writer) -> bool:
    """Whether the newest commit is one this process knows, and nothing has to be done before the next."""
    tail, file = writer.tail, writer.journal.file
    return not (
        writer.head.sequence() != writer.sequence
        or file is None
        or file.mapping[tail.position : tail.position + 8] != _ZERO
        or (tail.bulk_lsn and writer.synced)
    )


class _Batch:
    """Rows that are stored past the committed ends of their logs, and become visible by one commit."""

    __slots__ = ("_keys", "_marks", "_now_us", "_parts", "_room_bytes", "_states", "_writer", "logs")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._room_bytes = writer.tail.size - writer.tail.position - RECORD_BYTES - ROLL_BYTES - len(_ZERO)
        self._parts: list[bytes] = []
        self._states: dict[bytes, bytes] = {}
        self._marks: list[Mark] = []
        self._keys: set[tuple[PartitionLog, bytes]] = set()
        self.logs: set[PartitionLog] = set()  # those whose state is ahead of what is committed
        self._now_us = writer.commit_time_us()

    def add(self, log: PartitionLog, row: tuple[Any, ...], key: bytes | None) -> int:
        """The offset of the row, in its segment; DECLINED, nothing done, if it does not fit."""
        writer, state = self._writer, log.state
        i = state.log_end - state.base
        if (
            log.encoder is None
            or log.generation != writer.generation
            or log.touched != (writer.tail.checkpoint_sequence, state.base)
            or i >= log.capacity
            or (log.key not in writer.ahead and len(writer.ahead.keys() | self._states.keys()) >= MAX_AHEAD)
        ):
            return DECLINED
        mark: Mark | None = None
        if key is not None:
            if (log, key) in self._keys:
                return DECLINED  # the mark of the earlier one is stored by the commit only
            mark = superseded(writer, log, key)
            if mark is None or mark is NO_ROW:
                return DECLINED
        now = self._now_us
        try:
            data, low, high = log.encoder(row, i, state.log_start, state.min_time, state.max_time, now, state.flags)
        except UNFIT:
            return DECLINED
        packed = data if mark is None else data + describe_mark(log, mark)
        if len(packed) > self._room_bytes:
            return DECLINED
        self.logs.add(log)
        self._room_bytes -= len(packed)
        self._parts.append(packed)
        self._states[log.key] = data[STATE]
        if mark is not None and key is not None:
            self._marks.append(mark)
            self._keys.add((log, key))
        state.log_end += 1
        state.min_time, state.max_time, state.append_us = low, high, now
        return state.log_end - 1

    def commit(self) -> None:
        if not self._parts:
            return
        self._writer.newest_us[0] = self._now_us
        tail, data = self._writer.tail, b"".join(self._parts)
        after = tail.position + ((RECORD_BYTES + len(data) + 7) & -8)
        self._writer.sequence = -1
        self._writer.ahead.update(self._states)
        commit_record(self._writer, tail, data, after, self._marks)
