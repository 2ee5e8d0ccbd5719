"""Integers put together from their bytes, which lie apart: first the lowest byte of all of them, then the next."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit

_ROWS = 1_024  # at a time: they stay in the processor's nearest cache while byte after byte is added


@njit
def join_planes(planes, size, base, out):  # type: ignore[no-untyped-def]
    """out[i] = base + the `size` bytes planes[i], planes[len(out) + i], ..., modulo 2**(bits of out)."""
    number = out.dtype.type
    count = len(out)
    for first in range(0, count, _ROWS):
        stop = min(first + _ROWS, count)
        target = out[first:stop]
        target[:] = base
        for k in range(size):
            shift = number(8 * k)
            plane = planes[k * count + first : k * count + stop]
            for i in range(len(target)):
                target[i] = number(target[i] + number(number(plane[i]) << shift))


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    planes = np.zeros(1, np.uint8)
    planes.flags.writeable = False
    for dtype in (np.uint64, np.uint32):
        join_planes(planes, 1, dtype(0), np.zeros(1, dtype))
