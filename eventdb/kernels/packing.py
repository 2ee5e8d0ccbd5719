"""Bit-packed integers, back at full width.

Values lie across lanes: lane l of `lanes` holds the values l, lanes + l, 2 * lanes + l, ... of a block one after the
other, and word k of every lane lies next to word k of the others. So one step unpacks one value of every lane with the
same shifts, which is what vector instructions do.
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def unpack(words, lanes, width, base, out):  # type: ignore[no-untyped-def]
    """out = base + the first len(out) values of `width` bits, fewer than a lane has, modulo 2**(bits of a lane).

    words, base and out are all uint64 or all uint32. Numba computes with 32-bit numbers as with 64-bit ones: the casts
    keep them narrow.
    """
    number = out.dtype.type
    bits = 8 * out.itemsize
    mask = number((1 << width) - 1)
    for step in range(bits):
        first = step * lanes
        count = min(lanes, len(out) - first)
        if count <= 0:
            return
        target = out[first : first + count]
        at = (step * width) // bits
        shift = number(step * width - at * bits)
        low = words[at * lanes : at * lanes + count]
        if step * width - at * bits + width > bits:
            rest = number(bits - (step * width - at * bits))
            high = words[(at + 1) * lanes : (at + 1) * lanes + count]
            for lane in range(count):
                target[lane] = number((number(number(low[lane] >> shift) | number(high[lane] << rest)) & mask) + base)
        else:
            for lane in range(count):
                target[lane] = number((number(low[lane] >> shift) & mask) + base)


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    for dtype in (np.uint64, np.uint32):
        words = np.zeros(1, dtype)
        words.flags.writeable = False
        unpack(words, 1, 1, dtype(0), np.zeros(2, dtype))
