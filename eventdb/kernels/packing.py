"""Bit-packed integers, back at full width.

Values lie across lanes: lane l of `lanes` holds the values l, lanes + l, 2 * lanes + l, ... of a block one after the
other, and word k of every lane lies next to word k of the others. So one step unpacks one value of every lane with the
same shifts, which is what vector instructions do.
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def unpack64(words, lanes, width, base, out):  # type: ignore[no-untyped-def]
    """out = base + the first len(out) values of `width` bits (1 to 63), modulo 2**64."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for step in range(64):
        first = step * lanes
        count = min(lanes, len(out) - first)
        if count <= 0:
            return
        target = out[first : first + count]
        at = (step * width) // 64
        shift = np.uint64(step * width - at * 64)
        low = words[at * lanes : at * lanes + count]
        if shift + np.uint64(width) > np.uint64(64):
            rest = np.uint64(64) - shift
            high = words[(at + 1) * lanes : (at + 1) * lanes + count]
            for lane in range(count):
                target[lane] = (((low[lane] >> shift) | (high[lane] << rest)) & mask) + base
        else:
            for lane in range(count):
                target[lane] = ((low[lane] >> shift) & mask) + base


@njit
def unpack32(words, lanes, width, base, out):  # type: ignore[no-untyped-def]
    """out = base + the first len(out) values of `width` bits (1 to 31), modulo 2**32."""
    mask = np.uint32((np.uint32(1) << np.uint32(width)) - np.uint32(1))
    for step in range(32):
        first = step * lanes
        count = min(lanes, len(out) - first)
        if count <= 0:
            return
        target = out[first : first + count]
        at = (step * width) // 32
        shift = np.uint32(step * width - at * 32)
        low = words[at * lanes : at * lanes + count]
        if shift + np.uint32(width) > np.uint32(32):
            rest = np.uint32(np.uint32(32) - shift)
            high = words[(at + 1) * lanes : (at + 1) * lanes + count]
            for lane in range(count):
                target[lane] = np.uint32(
                    (np.uint32(np.uint32(low[lane] >> shift) | np.uint32(high[lane] << rest)) & mask) + base
                )
        else:
            for lane in range(count):
                target[lane] = np.uint32((np.uint32(low[lane] >> shift) & mask) + base)


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    for kernel, dtype in ((unpack64, np.uint64), (unpack32, np.uint32)):
        words = np.zeros(1, dtype)
        words.flags.writeable = False
        kernel(words, 1, 1, dtype(0), np.zeros(2, dtype))
