"""Event-time windows: which windows hold a time, and whether a window is closed.

Windows are [start, start + size), starting at multiples of the slide since 1970-01-01. A window is closed once the
watermark has reached its end plus the grace; a row is late for exactly the windows that were closed before it came.
"""

from __future__ import annotations

import numpy as np

from eventdb.batch import Array
from eventdb.errors import EvaluationError

HIGHEST_US = (1 << 63) - 1


def assign_windows(times: Array, size_us: int, slide_us: int) -> tuple[Array, Array]:
    """For int64 `times`: (row, start) of every window that holds them, rows ascending, starts ascending within a row.

    `row` is the int64 position in `times`. A slide longer than the size leaves gaps: such rows have no window.
    EvaluationError when a window would end after the largest timestamp or start before the smallest.
    """
    if len(times) and (int(times.max()) > HIGHEST_US - size_us or int(times.min()) < size_us + slide_us - HIGHEST_US):
        raise EvaluationError("a timestamp is too far from 1970 for the window that should hold it")
    into = np.mod(times, slide_us)
    last = times - into
    if size_us == slide_us:
        return np.arange(len(times), dtype=np.int64), last
    counts = np.maximum((size_us - into + slide_us - 1) // slide_us, 0)
    rows = np.repeat(np.arange(len(times), dtype=np.int64), counts)
    stops = np.cumsum(counts)
    back = np.repeat(stops, counts) - 1 - np.arange(len(rows), dtype=np.int64)
    return rows, last[rows] - back * slide_us


def is_closed(ends: Array, watermarks: Array | int, grace_us: int) -> Array:
    """For int64 window ends: True where the watermark has reached the end plus the grace."""
    # Compared as watermark - grace: an end near the largest timestamp plus a grace would wrap around.
    if isinstance(watermarks, int):
        return np.asarray(ends <= max(watermarks - grace_us, -HIGHEST_US - 1))
    lowest = -HIGHEST_US - 1
    return np.asarray(ends <= np.maximum(watermarks, lowest + grace_us) - grace_us)
