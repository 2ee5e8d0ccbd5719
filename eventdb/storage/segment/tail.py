"""LogTail: the newest rows of one log as the head alone tells them, for a reader that waits at the log's end.

Such a reader has looked at the index before and only wants the rows since. If the head names the log, its active
segment is the one the reader has mapped, and every code in the new rows is known, no index transaction is needed. What
the head says is true even if an index transaction replaces it at this moment: rows below a committed end never change.
"""

from __future__ import annotations

from eventdb.storage.format import PARTITION, PARTITION_BESIDE
from eventdb.storage.index.head import entry_of
from eventdb.storage.segment.segment import as_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.storage.index.head import Head
    from eventdb.storage.segment.columns import FreshSlice
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Lists, Segment

MAX_ROWS = 64  # a reader further behind takes a snapshot: it costs little for many rows


class LogTail:
    """Rows [start, end) of a log, all committed. Stays valid as long as it is referenced; nothing to close."""

    __slots__ = ("_bounds", "_segment", "commit_id", "has_beside", "start")

    def __init__(self, commit_id: int, start: int, bounds: tuple[int, int], has_beside: bool, segment: Segment) -> None:
        self.commit_id = commit_id
        self.start = start
        self.has_beside = has_beside
        """Whether some rows of the log carry something that lies beside it."""
        self._bounds = bounds
        self._segment = segment

    def offsets(self, log: PartitionLog) -> tuple[int, int]:
        """(log_start_offset, log_end_offset)."""
        return self._bounds

    def rows(self, log: PartitionLog) -> list[tuple[int, int, tuple[Any, ...]]]:
        """(offset, append_time_us, physical values) of every row, in offset order."""
        return as_rows(self.lists(log))

    def lists(self, log: PartitionLog) -> Lists:
        """The same, column by column: see Segment.read_lists."""
        segment = self._segment
        row, stop = self.start - segment.base, self._bounds[1] - segment.base
        if stop - row == 1 and not segment.layout.plain:
            return self._row(row, log.dictionaries)
        return segment.read_lists(row, stop, log.dictionaries)

    def _row(self, row: int, dictionaries: Sequence[Any]) -> Lists:
        """Segment.read_lists() of one row: what a reader that keeps up takes each time. Half the time without lists."""
        segment = self._segment
        lists: list[list[Any]] = []
        for view, nulls, dictionary in zip(segment.value_views, segment.null_views, dictionaries, strict=False):
            value: Any = view[row]
            if nulls is not None and nulls[row]:
                value = None
            elif dictionary is not None:
                value = dictionary.values[value]
            lists.append([value])
        time_us = segment.value_views[-1][row]
        return (self.start,), [time_us] if time_us else segment.append_times(row, row + 1), lists

    def slices(self, log: PartitionLog, start: int, stop: int) -> list[FreshSlice]:
        """The rows [start, stop) within the tail, as StoreSnapshot.slices gives them."""
        from eventdb.storage.segment.columns import FreshSlice

        segment = self._segment
        return [FreshSlice(log, segment, start - segment.base, stop - segment.base, None)]


def read_tail(head: Head, log: PartitionLog, start: int) -> LogTail | None:
    """The rows of the log from `start` on, at least one; None when the head alone does not tell: take a snapshot."""
    newest = log.newest
    if newest is None:
        return None
    sequence, data = head.read()
    value = entry_of(data, log.key)
    if value is None:
        return None
    log_start, end, state_base, _, _, _, flags = PARTITION.unpack(value)
    segment = newest[2]
    base = segment.base
    if base != state_base or not max(base, log_start) <= start < end or end - start > MAX_ROWS:
        return None
    row, stop = start - base, end - base
    for i in segment.layout.coded:
        dictionary = log.dictionaries[i]
        if dictionary is None:
            return None
        known = len(dictionary.values)
        codes = segment.value_views[i]
        # A string first heard of in another process: its code is in the index. (Under NULL the code is 0.)
        if (codes[row] if stop - row == 1 else max(codes[row:stop])) >= known:
            return None
    return LogTail(sequence, start, (log_start, end), bool(flags & PARTITION_BESIDE), segment)
