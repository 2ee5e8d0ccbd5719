"""Event time as a pure state machine: rows in, watermark out. No clock is read here or anywhere below.

The watermark of a topic is the largest event time seen so far minus the declared delay. It never falls. A row further
ahead of its own append time than MAX FUTURE is kept but does not move the watermark: one wrong clock must not close
every window. Append times are stored with the rows, so running the same rows again decides the same.
"""

from __future__ import annotations

import numpy as np

from eventdb.batch import Array

LOWEST_US = -(1 << 63)  # the watermark before any row: nothing is late, nothing is closed


class Watermark:
    """The watermark in microseconds after the rows given to `advance`; LOWEST_US before the first.

    `delay_us` None means the topic declares none: the watermark stays at LOWEST_US for ever.
    """

    __slots__ = ("delay_us", "max_future_us", "value_us")

    def __init__(self, delay_us: int | None, max_future_us: int | None = None, value_us: int = LOWEST_US) -> None:
        self.delay_us = delay_us
        self.max_future_us = max_future_us
        self.value_us = value_us

    def advance(self, times: Array, present: Array | None, append_times: Array | None) -> Array:
        """Moves over n rows in offset order; returns n + 1 ascending marks in us: [i] before row i, [i + 1] after it.

        `times` and `append_times` (used with MAX FUTURE only) are int64 us of equal length; `present` is False where
        the time is NULL (None: nowhere). Cutting the rows into several calls gives the same values. Linear time.
        """
        row_count = len(times)
        if row_count == 1:
            return self._advance_one(times, present, append_times)
        marks = np.empty(row_count + 1, dtype=np.int64)
        marks[0] = self.value_us
        if self.delay_us is None:
            marks[1:] = self.value_us
            return marks
        # A time so early that subtracting the delay would wrap around counts as the earliest one.
        np.subtract(np.maximum(times, LOWEST_US + self.delay_us), self.delay_us, out=marks[1:])
        if present is not None:
            marks[1:][~present] = LOWEST_US
        if self.max_future_us is not None and append_times is not None:
            ahead = np.maximum(times, LOWEST_US + self.max_future_us) - self.max_future_us > append_times
            marks[1:][ahead] = LOWEST_US
        np.maximum.accumulate(marks, out=marks)
        self.value_us = int(marks[-1])
        return marks

    def _advance_one(self, times: Array, present: Array | None, append_times: Array | None) -> Array:
        """`advance` of one row, the common case of a live query, without NumPy's cost per operation."""
        before = self.value_us
        if self.delay_us is not None and (present is None or present[0]):
            time_us = int(times[0])
            future_us = self.max_future_us
            if future_us is None or append_times is None or time_us - future_us <= int(append_times[0]):
                self.value_us = max(before, time_us - self.delay_us)
        return np.array((before, self.value_us), dtype=np.int64)
