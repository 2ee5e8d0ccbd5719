"""Directly addressed groups: joining the arrays of two threads, and keeping the groups that occurred.

Cells are flat arrays of `slots * width` int64; float64 cells come as their bits. `counts` tells which of the two arrays
holds the row count of a group (0 the first, 1 the second) and `place` where in the group's row; its bits are 0 exactly
for a group without rows. NumPy needs a pass and an index array for each of these steps, 5 to 10 times as long.
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def adopt(first, first_width, second, second_width, from_first, from_second, counts, place, shared):  # type: ignore[no-untyped-def]
    """Copies groups only the other thread has; the slots both have go to `shared`. Returns how many those are."""
    found = 0
    for slot in range(len(first) // first_width):
        if counts == 0:
            theirs = from_first[slot * first_width + place]
            ours = first[slot * first_width + place]
        else:
            theirs = from_second[slot * second_width + place]
            ours = second[slot * second_width + place]
        if theirs == 0:
            continue
        if ours != 0:
            shared[found] = slot
            found += 1
            continue
        for j in range(slot * first_width, (slot + 1) * first_width):
            first[j] = from_first[j]
        for j in range(slot * second_width, (slot + 1) * second_width):
            second[j] = from_second[j]
    return found


@njit
def used(cells, width, place, slots):  # type: ignore[no-untyped-def]
    """The slots of groups that have rows, ascending. Returns how many."""
    found = 0
    for slot in range(len(cells) // width):
        slots[found] = slot
        found += cells[slot * width + place] != 0
    return found


@njit
def take(cells, width, slots, count, out):  # type: ignore[no-untyped-def]
    """The rows of the first `count` slots, one after the other."""
    for i in range(count):
        start = slots[i] * width
        for j in range(width):
            out[i * width + j] = cells[start + j]


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    cells, more, slots = np.ones(2, np.int64), np.ones(2, np.int64), np.zeros(3, np.int64)
    adopt(cells, 1, more, 1, cells.copy(), more.copy(), 0, 0, slots)
    take(cells, 1, slots, used(cells, 1, 0, slots), more)
