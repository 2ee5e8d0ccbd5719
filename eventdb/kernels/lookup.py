"""Values by their codes, and values put together from two parts."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def gather(values, codes, out):  # type: ignore[no-untyped-def]
    """out[i] = values[codes[i]]; -1 if a code is not below len(values), else 0."""
    wrong = False
    limit = len(values)
    for i in range(len(out)):
        code = np.int64(codes[i])
        inside = 0 <= code < limit
        wrong |= not inside
        out[i] = values[code if inside else 0]
    return -1 if wrong else 0


@njit
def join64(high, low, width):  # type: ignore[no-untyped-def]
    """high[i] = high[i] shifted left by `width`, or-ed with low[i]."""
    shift = np.uint64(width)
    for i in range(len(high)):
        high[i] = (high[i] << shift) | low[i]


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    codes = np.zeros(1, np.int32)
    codes.flags.writeable = False
    for dtype in (np.int64, np.int32):
        values = np.zeros(1, dtype)
        values.flags.writeable = False
        gather(values, codes, np.zeros(1, dtype))
    low = np.zeros(1, np.uint64)
    low.flags.writeable = False
    join64(np.zeros(1, np.uint64), low, 1)
