"""StoreSnapshot: the database at one commit. Rows below its end offsets never change, so nothing is copied or
locked."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from itertools import accumulate

from eventdb.errors import ClosedError, OffsetOutOfRange
from eventdb.storage.commit.journal import Tail
from eventdb.storage.format import (
    META,
    META_KEY,
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    SEGMENT,
    SEGMENT_KEY,
    TABLE,
    U64,
    horizon_of,
    segment_key,
    table_key,
)
from eventdb.storage.index.head import ahead_of, head_lsn
from eventdb.storage.index.key_index import KeyIndex
from eventdb.storage.index.kv import reading, scan
from eventdb.storage.sealed.sealed import SealedSegment
from eventdb.storage.segment.gap import GAP, held_rows, past_gaps
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import MissingFile, Segment, as_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Lists

    Entry = tuple[int, bytes, int, int]  # base, index entry, least and greatest event time

_ROWS_PER_CHUNK = 4096


class StoreSnapshot:
    """Get it from Store.snapshot(). Any thread may use it, one at a time; close it soon: it keeps the index's old pages
    alive."""

    def __init__(self, txn: Any, commit_id: int, head: bytes) -> None:
        self._txn = txn
        self.commit_id = commit_id
        self._head = head
        self._ahead: dict[bytes, bytes] = {}
        self._lock = threading.RLock()  # a finalizer may run inside
        self._keepers = 1  # it itself, until `close`
        self._closed = False
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
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.let_go()

    def keep(self) -> None:
        """The snapshot stays open until `let_go`, whoever closes it meanwhile. ClosedError if it is closed."""
        with self._lock:
            if self._closed:
                raise ClosedError("the snapshot is closed")
            self._keepers += 1

    def let_go(self) -> None:
        """One who keeps it needs it no more; the last one ends it."""
        with self._lock:
            self._keepers -= 1
            if self._keepers:
                return
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

    def past_gaps(self, log: PartitionLog, offset: int) -> int:
        """The offset, or the end of the gap in the log that it lies in."""
        return past_gaps(self._open(), log.topic_id, log.partition, self._state(log), offset)

    def held_rows(self, log: PartitionLog) -> int:
        """How many events the log of a topic holds."""
        return held_rows(self._open(), log.topic_id, log.partition, self._state(log))

    def has_superseded(self, log: PartitionLog) -> bool:
        """Whether the log of a table holds rows that are not current in the snapshot. Every row that was ever appended
        is current, superseded (a tombstone is), or was removed by compaction."""
        value = self._open().get(table_key(log.topic_id, log.partition))
        rows, removed = (0, 0) if value is None else TABLE.unpack_from(value)
        end: int = self._state(log).log_end
        return bool(rows + removed != end)

    def _parts(
        self, log: PartitionLog, start: int, stop: int, times: tuple[int | None, int | None] = (None, None)
    ) -> Iterator[tuple[Segment | SealedSegment, int, int, tuple[int, int] | None]]:
        """(segment, first row, last row + 1, event time range) of the segments that hold [start, stop), without those
        whose events all lie outside the event times `times`: their files are not opened."""
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
        newest = log.newest  # once: other threads replace it
        if newest is not None and newest[:2] == (txn_id, state.base) and start >= state.base:
            # A reader at the log's end, the common case: nothing but the head has moved since it looked last.
            if _overlap(state.min_time, state.max_time, times):
                yield newest[2], start - state.base, stop - state.base, _time_range(state.min_time, state.max_time)
            return
        if log.met_at != txn_id:  # the strings of this state of the index
            for dictionary in log.dictionaries:
                if dictionary is not None:
                    dictionary.refresh(txn)
            log.met_at = txn_id
        for base, end, value, held in self._entries(txn, log, state, start, stop, times):
            for segment, row, row_end in self._opened(log, base, value, max(start, base), min(stop, end)):
                if base == state.base and isinstance(segment, Segment):
                    log.newest = (txn_id, base, segment)
                yield segment, row, row_end, held

    def _entries(
        self, txn: Any, log: PartitionLog, state: PartitionState, start: int, stop: int,
        times: tuple[int | None, int | None],
    ) -> Iterator[tuple[int, int, bytes, tuple[int, int] | None]]:  # fmt: skip
        """(base, end, index entry, event time range) of the segments that hold [start, stop), in order; without those
        outside the event times. Who asks for times gets them from a list of all, which is kept while the index stays as
        it is; so does who asks a second time for offsets."""
        kept, txn_id = log.entries, txn.id()
        if kept is not None and kept.txn_id != txn_id:
            kept = None
        if kept is None and times == (None, None) and log.asked_at != txn_id:
            log.asked_at = txn_id
            found = self._segments(txn, log, start, stop)
            chosen: Iterable[int] = range(len(found))
        else:
            if kept is None:
                kept = log.entries = SegmentList(txn_id, self._segments(txn, log, 0, NO_SEGMENT))
            found = kept.entries
            chosen = kept.between(start, times)
        for i in chosen:
            base, value, low, high = found[i]
            if base >= stop:
                return
            if base == state.base:
                low, high = state.min_time, state.max_time
            if _overlap(low, high, times):
                yield base, found[i + 1][0] if i + 1 < len(found) else stop, value, _time_range(low, high)

    def _opened(
        self, log: PartitionLog, base: int, value: bytes, start: int, stop: int
    ) -> Iterator[tuple[Segment | SealedSegment, int, int]]:
        """(segment, first row, last row + 1) of the offsets [start, stop) of an index entry. Its file may have been
        replaced since this snapshot: the same rows are then in the segments the index has now. Nothing of a gap."""
        if value == GAP:
            return
        try:
            segment = log.mapped(base, value)
        except MissingFile as error:
            found = self._replaced(log, base, value, start, stop, error)
            for i, (other, current, _, _) in enumerate(found):
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
    ) -> list[Entry]:
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
        if found and found[0][0] <= start and (base, value) not in [entry[:2] for entry in found]:
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

    def _segments(self, txn: Any, log: PartitionLog, start: int, stop: int) -> list[Entry]:
        """(base, index entry, least and greatest event time) of the segments that hold [start, stop)."""
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
            _, low, high, _ = SEGMENT.unpack_from(value)
            found.append((base, value, low, high))
        return found

    def rows(self, log: PartitionLog, start: int, stop: int) -> Iterator[list[tuple[int, int, tuple[Any, ...]]]]:
        """Chunks of (offset, append_time_us, physical values) of the rows [start, stop), in offset order."""
        return map(as_rows, self.lists(log, start, stop))

    def lists(self, log: PartitionLog, start: int, stop: int) -> Iterator[Lists]:
        """The same, column by column: see Segment.read_lists."""
        for segment, row, end, _ in list(self._parts(log, start, stop)):
            for at in range(row, end, _ROWS_PER_CHUNK):
                stop_row = min(end, at + _ROWS_PER_CHUNK)
                segment.require_rows(at, stop_row)
                yield segment.read_lists(at, stop_row, log.dictionaries)

    def horizon(self, log: PartitionLog) -> int:
        """Below which offset versions of a table's rows that were superseded, and deletions, may be gone."""
        value = self._open().get(table_key(log.topic_id, log.partition))
        return 0 if value is None else horizon_of(value)

    def find_time(self, log: PartitionLog, time_us: int, start: int, stop: int) -> int:
        """The offset of the first row of [start, stop) with an event time (in a log without, an append time) of
        `time_us` or more; `stop` if there is none. Looks only into segments and blocks whose range may hold one."""
        column = log.event_time
        since = None if column is None else time_us
        for segment, row, end, _ in self._parts(log, start, stop, (since, None)):
            found = segment.first_since(column, time_us, row, end)
            if found is not None:
                return found
        return stop

    def slices(
        self, log: PartitionLog, start: int, stop: int, times: tuple[int | None, int | None] = (None, None),
        key: Any = None,
    ) -> list[Any]:  # fmt: skip
        """The rows [start, stop), in offset order: one slice per raw segment, one per block of a sealed one. Those that
        cannot have an event time in the range `times` (None: open) or `key`, a physical value of the column that rows
        are looked up by, may be left out."""
        from eventdb.storage.segment.lookup import is_indexed, matching_slices

        index = log.schema.key
        if index is None or not is_indexed(log.schema.fields[index].type):
            key = None
        between = times if log.event_time is not None else (None, None)
        return matching_slices(log, self._parts(log, start, stop, between), between, key)

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


class SegmentList:
    """The index entries of all segments of a log, found by event time in a few steps if times mostly grow."""

    __slots__ = ("_bases", "_ceilings", "_floors", "entries", "txn_id")

    def __init__(self, txn_id: int, entries: list[Entry]) -> None:
        self.txn_id = txn_id
        self.entries = entries
        self._bases = [base for base, _, _, _ in entries]
        unknown = [high == NO_MAX_TIME for _, _, _, high in entries]
        # The greatest time so far and the least from there on, but of the last one, whose times are not final.
        highs = [NO_MIN_TIME if no else entry[3] for entry, no in zip(entries, unknown, strict=True)][:-1]
        lows = [NO_MAX_TIME if no else entry[2] for entry, no in zip(entries, unknown, strict=True)][:-1]
        self._ceilings = list(accumulate(highs, max))
        self._floors = list(accumulate(reversed(lows), min))[::-1]

    def between(self, start: int, times: tuple[int | None, int | None]) -> Iterator[int]:
        """The numbers of those entries from the one that holds the offset `start` on that may hold such times, and
        perhaps others."""
        low, high = times
        first = max(0, bisect_right(self._bases, start) - 1)
        last = len(self._floors) if high is None else bisect_right(self._floors, high)
        if low is not None:
            first = max(first, bisect_left(self._ceilings, low))
        yield from range(first, last)
        yield from range(max(first, last, len(self._floors)), len(self.entries))


def _overlap(least: int, greatest: int, times: tuple[int | None, int | None]) -> bool:
    """Whether a segment with these event times may hold one of the range; yes if it has none at all."""
    low, high = times
    if greatest == NO_MAX_TIME:
        return True
    return (low is None or greatest >= low) and (high is None or least <= high)


def _time_range(low: int, high: int) -> tuple[int, int] | None:
    """(min, max) event time; None where no row has one."""
    return None if low == NO_MIN_TIME and high == NO_MAX_TIME else (low, high)
