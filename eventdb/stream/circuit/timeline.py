"""Timeline: event time of a query over several partitions. No clock is read: replaying the rows decides the same.

The rows of all partitions have one order: that of their commits, which their append times tell (no two commits have the
same), then by topic, partition and offset. After each row

* the watermark of its partition is the largest event time in it, less the declared delay. A row further ahead of its
  own append time than MAX FUTURE does not count, nor does one without a time;
* the mark is the least watermark of the partitions that are not idle, if that is more than it was.

A partition is idle while the row's append time is more than IDLE AFTER behind it: behind the last row of the
partition, or the first one of all if it has none yet. So a partition that never gets a row holds the mark back, until
it is idle. A row is late by the mark before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array
from eventdb.errors import CorruptionError
from eventdb.kernels import marks
from eventdb.stream.watermark import LOWEST_US


@dataclass(frozen=True, slots=True)
class EventTime:
    """What the topic of a partition declares, in microseconds; None for what it does not."""

    delay_us: int
    idle_after_us: int | None = None
    max_future_us: int | None = None


class Timeline:
    """The mark after the rows given to `advance`; LOWEST_US before it moves first. A Part of a query's state."""

    def __init__(self, partitions: Sequence[EventTime]) -> None:
        self._delays = np.array([each.delay_us for each in partitions], dtype=np.int64)
        self._idles = _declared([each.idle_after_us for each in partitions])
        self._futures = _declared([each.max_future_us for each in partitions])
        self._watermarks = np.full(len(partitions), LOWEST_US, dtype=np.int64)
        self._seen = np.full(len(partitions), LOWEST_US, dtype=np.int64)
        self._state = np.full(2, LOWEST_US, dtype=np.int64)
        self._has_moved = False

    @property
    def mark_us(self) -> int:
        return int(self._state[marks.MARK])

    def advance(self, sources: Array, times: Array, present: Array, append_times: Array) -> Array:
        """The mark before each of the next rows, in their order. `sources` are positions among the partitions,
        `present` is False where a row has no event time. Any cut into calls gives the same."""
        found = np.empty(len(sources), dtype=np.int64)
        marks.advance(
            sources, times, present, append_times, self._delays, self._idles, self._futures, self._watermarks,
            self._seen, self._state, found,
        )  # fmt: skip
        self._has_moved = self._has_moved or len(found) > 0
        return found

    # --- as a Part ------------------------------------------------------------------------------------------------

    def record(self) -> None:
        self._has_moved = False

    def delta(self) -> bytes | None:
        moved, self._has_moved = self._has_moved, False
        return self.whole() if moved else None

    def whole(self) -> bytes | None:
        return np.concatenate((self._state, self._watermarks, self._seen)).tobytes()

    def restore(self, data: bytes) -> None:
        count = len(self._watermarks)
        if len(data) != 8 * (2 + 2 * count):
            raise CorruptionError("the stored watermarks of a view are of other partitions")
        self._state, self._watermarks, self._seen = (
            part.copy() for part in np.split(np.frombuffer(data, dtype=np.int64), (2, 2 + count))
        )


def _declared(values: Sequence[int | None]) -> Array:
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)
