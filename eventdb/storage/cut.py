"""Cut: a restored log ends earlier than the one it comes from."""

from __future__ import annotations

from bisect import bisect_right

from eventdb.errors import OffsetOutOfRange
from eventdb.storage.format import (
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    PARTITION_KEY,
    SEGMENT,
    SEGMENT_KEY,
    segment_key,
    sum_key,
)
from eventdb.storage.kv import scan
from eventdb.storage.log import PartitionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.storage.segment import Segment


class Cut:
    """Where logs end: `offsets` maps (topic, partition) to an end, `time_us` drops rows appended after it.

    `also(txn, ends)` then brings everything that was computed from the rows in line; it gets the new ends.
    """

    def __init__(
        self, offsets: dict[tuple[int, int], int], time_us: int | None,
        also: Callable[[Any, dict[tuple[int, int], int]], None],
    ) -> None:  # fmt: skip
        self._offsets = offsets
        self._time_us = time_us
        self._also = also

    def apply(self, txn: Any, open_segment: Callable[[tuple[int, int, int], bytes], Segment]) -> None:
        """The index ends where the cut says. OffsetOutOfRange if a log does not hold an offset."""
        ends: dict[tuple[int, int], int] = {}
        for key, value in list(scan(txn, b"p")):
            _, topic_id, partition = PARTITION_KEY.unpack(key)
            state = PartitionState().unpack(value)
            end = self._offsets.get((topic_id, partition), state.log_end)
            if not state.log_start <= end <= state.log_end:
                raise OffsetOutOfRange(
                    f"cannot restore topic {topic_id} to offset {end}: "
                    f"the backup holds {state.log_start}..{state.log_end}",
                    offset=end, earliest=state.log_start, latest=state.log_end,
                )  # fmt: skip
            entries = [(SEGMENT_KEY.unpack(k)[3], v) for k, v in scan(txn, segment_key(topic_id, partition, 0)[:-8])]
            if self._time_us is not None:
                end = min(end, self._end_at(state, entries, (topic_id, partition), open_segment))
            if end < state.log_end:
                cut_log(txn, key, state, end, entries, (topic_id, partition), open_segment)
            ends[topic_id, partition] = end
        self._also(txn, ends)

    def _end_at(
        self, state: PartitionState, entries: list[tuple[int, bytes]], log: tuple[int, int],
        open_segment: Callable[[tuple[int, int, int], bytes], Segment],
    ) -> int:  # fmt: skip
        """The end of the rows appended up to the time: append times never fall within a log."""
        assert self._time_us is not None
        stop = state.log_end
        for base, value in reversed(entries):
            times = open_segment((*log, base), value).value_views[-1]
            first = max(state.log_start, base) - base
            if first < stop - base and times[first] <= self._time_us:
                return base + bisect_right(times, self._time_us, first, stop - base)
            stop = base
        return state.log_start


def cut_log(
    txn: Any, key: bytes, state: PartitionState, end: int, entries: list[tuple[int, bytes]],
    log: tuple[int, int], open_segment: Callable[[tuple[int, int, int], bytes], Segment],
) -> None:  # fmt: skip
    """The partition ends at `end`; entries behind it go."""
    active, value = None, b""
    for base, entry in entries:
        txn.delete(sum_key(*log, base))  # it may cover rows that go
        if base >= end:
            txn.delete(segment_key(*log, base))
        else:
            active, value = base, entry
    state.log_end = end
    if active is None:
        state.log_start = end
        state.base, state.min_time, state.max_time, state.append_us = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME, 0
    else:
        if active != state.base:  # a rolled segment's range is in its entry; cut, it may hold less: still true
            _, state.min_time, state.max_time, _ = SEGMENT.unpack_from(value)
            state.base = active
        state.append_us = open_segment((*log, active), value).value_views[-1][end - 1 - active]
    txn.put(key, state.pack())
