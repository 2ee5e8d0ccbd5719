"""A column of a sealed block, a few rows at a time: unpacked inside the generated pipeline that reads it, where the
rows stay in the processor's nearest cache and are never written to memory.

A tile column is a tuple (values, words, shape, rows): what `load_tile` reads and, last, where it puts the rows, one
place more than a tile has, for the sum so far. `shape` is kind (0: `values` are the rows; 1: `words` are packed, see
packing.py; 2: they are packed differences), lanes, width, base, the place of the first row among the packed ones, and
what differences are added to.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["load_tile"]


def _load_tile(column: Any, first: Any, stop: Any) -> None:
    """Rows [first, stop) are in column[3], from its beginning on; of packed differences only if all rows before them
    were loaded, in order."""
    values, words, shape, rows = column
    count = stop - first
    if shape[0] == 0:
        source, target = values[first:stop], rows[:count]
        for i in range(count):  # a third of the time of NumPy's `target[:] = source`
            target[i] = source[i]
        return
    number = words.dtype.type
    bits = 8 * words.itemsize
    lanes, width, base = shape[1], shape[2], number(shape[3])
    mask = number((np.uint64(1) << np.uint64(width)) - np.uint64(1))
    done = 0
    while done < count:
        place = first + shape[4] + done
        step = place // lanes
        lane = place - step * lanes
        part = min(lanes - lane, count - done)
        word = step * width // bits
        shift = step * width - word * bits
        down = number(shift)
        low = words[word * lanes + lane : word * lanes + lane + part]
        target = rows[done : done + part]
        if shift + width > bits:
            up = number(bits - shift)
            high = words[(word + 1) * lanes + lane : (word + 1) * lanes + lane + part]
            for i in range(part):
                target[i] = number((number(number(low[i] >> down) | number(high[i] << up)) & mask) + base)
        else:
            for i in range(part):
                target[i] = number((number(low[i] >> down) & mask) + base)
        done += part
    if shape[0] == 2:
        total = shape[5] if first == 0 else rows[len(rows) - 1]
        for i in range(count):
            total += rows[i]
            rows[i] = total
        rows[len(rows) - 1] = total


load_tile: Any = numba.njit(nogil=True, error_model="numpy")(_load_tile)
