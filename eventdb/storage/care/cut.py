"""Cut: a restored log ends earlier than the one it comes from."""

from __future__ import annotations

from bisect import bisect_left

from eventdb.errors import OffsetOutOfRange, UnsupportedError
from eventdb.storage.format import (
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    PARTITION_KEY,
    SEGMENT,
    TABLE,
    U64,
    horizon_of,
    row_key_prefix,
    segment_key,
    sum_key,
    table_key,
)
from eventdb.storage.index.entries import append_time, entries_of, rows_until
from eventdb.storage.index.key_index import current_places
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedSegment
from eventdb.storage.segment.gap import gaps
from eventdb.storage.segment.log import PartitionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.index.entries import Entry
    from eventdb.storage.segment.segment import Segment


class Cut:
    """Where logs end: `offsets` maps (topic, partition) to an end, `time_us` drops rows appended after it.

    `tables` are their names, columns and positions of the key, by id: the index of keys of one that ends earlier is
    made anew. What an earlier end would need may have been compacted away: then it is refused. A log whose partition
    has the bit `beside` ends with the log it lies beside: its rows begin with offsets of that. `also(txn, ends)` then
    brings everything that was computed from the rows in line; it gets the new ends.
    """

    def __init__(
        self, offsets: dict[tuple[int, int], int], time_us: int | None,
        tables: dict[int, tuple[str, Schema, tuple[int, ...]]], beside: int,
        also: Callable[[Any, dict[tuple[int, int], int]], None],
    ) -> None:  # fmt: skip
        self._offsets = offsets
        self._time_us = time_us
        self._tables = tables
        self._beside = beside
        self._also = also

    def apply(self, txn: Any, open_entry: Callable[[Entry], Segment | SealedSegment]) -> None:
        """The index ends where the cut says. OffsetOutOfRange if a log does not hold an offset."""
        ends: dict[tuple[int, int], int] = {}
        for key, value in list(scan(txn, b"p")):  # a log comes before the one beside it
            _, topic_id, partition = PARTITION_KEY.unpack(key)
            state = PartitionState().unpack(value)
            entries = entries_of(txn, topic_id, partition, state)
            if partition & self._beside:
                limit = ends.get((topic_id, partition & ~self._beside), 0)
                end = _end_beside(state, entries, limit, open_entry)
            else:
                end = self._end_of(state, entries, (topic_id, partition), open_entry)
            if end < state.log_end:
                table = self._tables.get(topic_id)
                if table is not None:
                    _require_versions(txn, topic_id, partition, table[0], end)
                cut_log(txn, key, state, end, entries, open_entry)
                if table is not None:
                    _name_keys(txn, topic_id, partition, state, open_entry, table)
            ends[topic_id, partition] = end
        self._also(txn, ends)

    def _end_of(
        self, state: PartitionState, entries: list[Entry], log: tuple[int, int],
        open_entry: Callable[[Entry], Segment | SealedSegment],
    ) -> int:  # fmt: skip
        end = self._offsets.get(log, state.log_end)
        if not state.log_start <= end <= state.log_end:
            raise OffsetOutOfRange(
                f"cannot restore topic {log[0]}/{log[1]} to offset {end}: "
                f"the backup holds {state.log_start}..{state.log_end}",
                offset=end, earliest=state.log_start, latest=state.log_end,
            )  # fmt: skip
        if self._time_us is None or state.append_us <= self._time_us:
            return end
        at = end
        stop = state.log_end
        for entry in reversed(entries):
            base = entry.place[2]
            first = max(state.log_start, base) - base
            if entry.compacted:  # all below the horizon: it must stay whole
                return min(at, stop) if append_time(open_entry(entry), entry.rows - 1) <= self._time_us else base
            if first < stop - base:
                segment = open_entry(entry)
                if append_time(segment, first) <= self._time_us:
                    return min(at, base + rows_until(segment, first, min(entry.rows, stop - base), self._time_us))
            stop = base
        return state.log_start


def _require_versions(txn: Any, topic_id: int, partition: int, name: str, end: int) -> None:
    """UnsupportedError if compaction may have removed rows that a table that ends at `end` has."""
    horizon = horizon_of(txn.get(table_key(topic_id, partition)) or b"")
    if end < horizon:
        raise UnsupportedError(
            f"cannot restore table {name!r} to its state at offset {end}: what was superseded before offset {horizon} "
            "may have been compacted away; restore to a later state, or an earlier backup"
        )


def _name_keys(
    txn: Any, topic_id: int, partition: int, state: PartitionState,
    open_entry: Callable[[Entry], Segment | SealedSegment], table: tuple[str, Schema, tuple[int, ...]],
) -> None:  # fmt: skip
    """The index of keys and the count of a table are those of the end it has now."""
    segments: list[Any] = [(open_entry(entry), entry.rows) for entry in entries_of(txn, topic_id, partition, state)]
    places = current_places(txn, topic_id, partition, state.log_end, segments, *table[1:])
    for place, _ in list(scan(txn, row_key_prefix(topic_id, partition))):
        if place not in places:
            txn.delete(place)
    for place, offsets in places.items():
        txn.put(place, b"".join(map(U64.pack, offsets)))
    value = txn.get(table_key(topic_id, partition)) or bytes(TABLE.size)
    rows = sum(map(len, places.values()))
    txn.put(table_key(topic_id, partition), TABLE.pack(rows, TABLE.unpack_from(value)[1]) + value[TABLE.size :])


def _end_beside(
    state: PartitionState, entries: list[Entry], limit: int, open_entry: Callable[[Entry], Segment | SealedSegment]
) -> int:
    """The end of the rows of a log whose first column, an offset of the log it lies beside, is below the limit."""
    stop = state.log_end
    for entry in reversed(entries):
        base = entry.place[2]
        first = max(state.log_start, base) - base
        if first < stop - base:
            segment = open_entry(entry)
            assert not isinstance(segment, SealedSegment)  # headers are not sealed
            offsets = segment.value_views[0]
            if offsets[first] < limit:
                return base + bisect_left(offsets, limit, first, stop - base)
        stop = base
    return state.log_start


def cut_log(
    txn: Any, key: bytes, state: PartitionState, end: int, entries: list[Entry],
    open_entry: Callable[[Entry], Segment | SealedSegment],
) -> None:  # fmt: skip
    """The partition ends at `end`; entries behind it go. A sealed segment stays as it is: what it holds behind the end
    is in no log any more, and the next row begins a segment of its own."""
    last: Entry | None = None
    _, topic_id, partition = PARTITION_KEY.unpack(key)
    for first, _ in gaps(txn, topic_id, partition, state):
        if first >= end:
            txn.delete(segment_key(topic_id, partition, first))
    for entry in entries:
        base = entry.place[2]
        txn.delete(sum_key(*entry.place))  # it may cover rows that go
        if base >= end:
            txn.delete(segment_key(*entry.place))
        else:
            last = entry
    state.log_end = end
    if last is None:
        state.log_start = end
        state.base, state.min_time, state.max_time, state.append_us = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME, 0
    else:
        base = last.place[2]
        if last.sealed or last.compacted or base + last.rows < end:
            state.base, state.min_time, state.max_time = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME
        elif base != state.base:  # a rolled segment's range is in its entry; cut, it may hold less: still true
            _, state.min_time, state.max_time, _ = SEGMENT.unpack_from(last.value)
            state.base = base
        state.append_us = append_time(open_entry(last), min(last.rows, end - base) - 1)
    txn.put(key, state.pack())
