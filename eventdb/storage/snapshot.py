"""StoreSnapshot: the database at one commit. Rows below its end offsets never change, so nothing is copied or
locked."""

from __future__ import annotations

from eventdb.errors import ClosedError, OffsetOutOfRange
from eventdb.storage.format import META, META_KEY, NO_MAX_TIME, NO_MIN_TIME, SEGMENT, SEGMENT_KEY, U64, segment_key
from eventdb.storage.head import ahead_of, head_lsn
from eventdb.storage.journal import Tail
from eventdb.storage.key_index import KeyIndex
from eventdb.storage.kv import reading, scan
from eventdb.storage.log import PartitionState
from eventdb.storage.sealed import SealedSegment
from eventdb.storage.segment import MissingFile, Segment, as_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.storage.blocks import SealedSlice
    from eventdb.storage.columns import SegmentSlice
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.segment import Lists

_ROWS_PER_CHUNK = 4096


class StoreSnapshot:
    """Get it from Store.snapshot(). Any thread may use it, one at a time; close it soon: it keeps the index's old pages
    alive."""

    def __init__(self, txn: Any, commit_id: int, head: bytes) -> None:
        self._txn = txn
        self.commit_id = commit_id
        self._head = head
        self._ahead: dict[bytes, bytes] = {}
        if head:
            meta = txn.get(META_KEY)
            if meta is None or head_lsn(head) > U64.unpack_from(meta)[0]:
                self._ahead = ahead_of(head)

    def __enter__(self) -> StoreSnapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Slices and rows already handed out stay valid."""
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()

    def transaction(self) -> Any:
        """The index's read transaction, for this layer's own use."""
        return self._open()

    def _open(self) -> Any:
        if self._txn is None:
            raise ClosedError("the snapshot is closed")
        return self._txn

    def _state(self, log: PartitionLog) -> PartitionState:
        state = PartitionState()
        value = self.partition(log.key)
        return state if value is None else state.unpack(value)

    def partition(self, key: bytes) -> bytes | None:
        """The PARTITION value of a partition key."""
        value = self._ahead.get(key)
        return self._open().get(key) if value is None else value

    def ahead(self) -> dict[bytes, bytes]:
        """Partition key -> PARTITION of what the snapshot knows ahead of the index."""
        return dict(self._ahead)

    def tail(self) -> Tail:
        """The tail of the journal as of the snapshot."""
        tail = Tail()
        value = self._head[: META.size] if self._ahead else self._open().get(META_KEY)
        if value is not None:
            tail.unpack(value)
        return tail

    def offsets(self, log: PartitionLog) -> tuple[int, int]:
        """(log_start_offset, log_end_offset)."""
        state = self._state(log)
        return state.log_start, state.log_end

    def _parts(
        self, log: PartitionLog, start: int, stop: int, since: int | None = None
    ) -> Iterator[tuple[Segment | SealedSegment, int, int, tuple[int, int] | None]]:
        """(segment, first row, last row + 1, event time range) of the segments that hold [start, stop), without those
        whose events all lie before the event time `since`: their files are not opened."""
        txn = self._open()
        state = self._state(log)
        if not state.log_start <= start or stop > state.log_end:
            raise OffsetOutOfRange(
                f"offsets {start}..{stop} are outside the log ({state.log_start}..{state.log_end})",
                offset=start, earliest=state.log_start, latest=state.log_end,
            )  # fmt: skip
        if start >= stop:
            return
        txn_id = txn.id()
        if log.newest is not None and log.newest[:2] == (txn_id, state.base) and start >= state.base:
            # A reader at the log's end, the common case: nothing but the head has moved since it looked last.
            if since is None or not NO_MAX_TIME < state.max_time < since:
                yield log.newest[2], start - state.base, stop - state.base, _time_range(state.min_time, state.max_time)
            return
        for dictionary in log.dictionaries:
            if dictionary is not None:
                dictionary.refresh(txn)
        found = self._segments(txn, log, start, stop)
        for i, (base, value) in enumerate(found):
            end = found[i + 1][0] if i + 1 < len(found) else stop
            _, low, high, _ = SEGMENT.unpack_from(value)
            if base == state.base:
                low, high = state.min_time, state.max_time
            if since is not None and NO_MAX_TIME < high < since:
                continue
            for segment, row, row_end in self._opened(log, base, value, max(start, base), min(stop, end)):
                if base == state.base and isinstance(segment, Segment):
                    log.newest = (txn_id, base, segment)
                yield segment, row, row_end, _time_range(low, high)

    def _opened(
        self, log: PartitionLog, base: int, value: bytes, start: int, stop: int
    ) -> Iterator[tuple[Segment | SealedSegment, int, int]]:
        """(segment, first row, last row + 1) of the offsets [start, stop) of an index entry. Its file may have been
        replaced since this snapshot: the same rows are then in the segments the index has now."""
        try:
            segment = log.mapped(base, value)
        except MissingFile as error:
            found = self._replaced(log, base, value, start, stop, error)
            for i, (other, current) in enumerate(found):
                end = found[i + 1][0] if i + 1 < len(found) else stop
                yield from self._opened(log, other, current, max(start, other), min(stop, end))
            return
        if isinstance(segment, SealedSegment):
            row, last = start - segment.base, stop - segment.base
        elif segment.layout.offsets < 0:
            row, last = start - base, min(stop - base, segment.layout.capacity)
        else:
            row, last = segment.row_at(start), segment.row_at(stop)
        if row < last:
            yield segment, row, last

    def _replaced(
        self, log: PartitionLog, base: int, value: bytes, start: int, stop: int, error: MissingFile
    ) -> list[tuple[int, bytes]]:
        """The index entries that hold [start, stop) now, if others than this one do. OffsetOutOfRange if retention
        removed the rows under this snapshot; else `error`."""
        if log.fresh is None:
            raise error
        with log.fresh() as now:
            earliest, latest = now.offsets(log)
            found = self._segments(now._open(), log, start, stop) if latest > base else []
            live = self._segments(now._open(), log, earliest, latest)
            for dictionary in log.dictionaries:
                if dictionary is not None:
                    dictionary.refresh(now._open())
        if found and found[0][0] <= start and (base, value) not in found:
            return found
        if latest <= base or (live and live[0][0] <= base):
            raise error
        raise OffsetOutOfRange(
            f"the events from offset {base} on were removed by retention after this snapshot was opened; the "
            f"earliest offset now is {earliest}. Close snapshots sooner",
            offset=base, earliest=earliest, latest=latest,
        ) from None  # fmt: skip

    def search(self, log: PartitionLog, value: int) -> int:
        """The offset of the first row whose first column, which only grows along the log, is not below `value`."""
        low, high = self.offsets(log)
        while low < high:
            middle = (low + high) // 2
            if next(iter(self.rows(log, middle, middle + 1)))[0][2][0] < value:
                low = middle + 1
            else:
                high = middle
        return low

    def first_base(self, log: PartitionLog) -> int:
        """The base offset of the first segment; the end of an empty log."""
        start, end = self.offsets(log)
        found = self._segments(self._open(), log, start, start + 1)
        return found[0][0] if found else end

    def _segments(self, txn: Any, log: PartitionLog, start: int, stop: int) -> list[tuple[int, bytes]]:
        prefix = segment_key(log.topic_id, log.partition, 0)[:-8]
        target = segment_key(log.topic_id, log.partition, start)
        first = target
        with reading(txn.path):
            cursor = txn.cursor()
            if not cursor.set_range(target) or cursor.key() != target:
                # The segment that holds `start` begins before it.
                before = cursor.prev() if cursor.key() else cursor.last()
                if before and cursor.key().startswith(prefix):
                    first = cursor.key()
        found = []
        for key, value in scan(txn, prefix, first):
            base = SEGMENT_KEY.unpack(key)[3]
            if base >= stop:
                break
            found.append((base, value))
        return found

    def rows(self, log: PartitionLog, start: int, stop: int) -> Iterator[list[tuple[int, int, tuple[Any, ...]]]]:
        """Chunks of (offset, append_time_us, physical values) of the rows [start, stop), in offset order."""
        return map(as_rows, self.lists(log, start, stop))

    def lists(self, log: PartitionLog, start: int, stop: int) -> Iterator[Lists]:
        """The same, column by column: see Segment.read_lists."""
        for segment, row, end, _ in list(self._parts(log, start, stop)):
            for at in range(row, end, _ROWS_PER_CHUNK):
                yield segment.read_lists(at, min(end, at + _ROWS_PER_CHUNK), log.dictionaries)

    def find_time(self, log: PartitionLog, time_us: int, start: int, stop: int) -> int:
        """The offset of the first row of [start, stop) with an event time (in a log without, an append time) of
        `time_us` or more; `stop` if there is none. Looks only into segments and blocks whose range may hold one."""
        column = log.event_time
        since = None if column is None else time_us
        for segment, row, end, _ in self._parts(log, start, stop, since):
            found = segment.first_since(column, time_us, row, end)
            if found is not None:
                return found
        return stop

    def slices(self, log: PartitionLog, start: int, stop: int) -> list[SegmentSlice | SealedSlice]:
        """The rows [start, stop), in offset order: one slice per raw segment, one per block of a sealed one."""
        from eventdb.storage.columns import SegmentSlice

        found: list[SegmentSlice | SealedSlice] = []
        for segment, row, end, times in self._parts(log, start, stop):
            if isinstance(segment, SealedSegment):
                from eventdb.storage import blocks

                found += blocks.slices(log, segment, row, end, times)
            else:
                found.append(SegmentSlice(log, segment, row, end, times))
        return found

    def key_offsets(self, log: PartitionLog, keys: Sequence[tuple[Any, ...]]) -> list[int]:
        """The offsets of the rows of a table that have the keys (physical values), ascending."""
        return KeyIndex(self, log).offsets(keys)

    def get(self, key: bytes) -> bytes | None:
        """The value of a user key."""
        return self._open().get(b"u" + key)  # type: ignore[no-any-return]

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of the user keys with the prefix, in key order."""
        for key, value in scan(self._open(), b"u" + prefix):
            yield key[1:], value


def _time_range(low: int, high: int) -> tuple[int, int] | None:
    """(min, max) event time; None where no row has one."""
    return None if low == NO_MIN_TIME and high == NO_MAX_TIME else (low, high)
