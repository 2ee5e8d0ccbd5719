"""Open-addressing tables of int64 keys: growing one, and finding the groups of another one in it.

A table has a power of two places holding a group number or -1; a group has `width` key words and its 64-bit hash.
Places are probed one after the other from `hash & (size - 1)`.
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def place_all(table, hashes, count):  # type: ignore[no-untyped-def]
    """Enters groups 0 to count - 1 into an empty table with room for them."""
    mask = np.uint64(len(table) - 1)
    for group in range(count):
        place = np.uint64(hashes[group]) & mask
        while table[place] >= 0:
            place = (place + np.uint64(1)) & mask
        table[place] = group


@njit
def absorb(table, keys, hashes, count, width, other_keys, other_hashes, other_count, groups):  # type: ignore[no-untyped-def]
    """groups[j] = the group of key j of another table, entered if it is new. Returns the new number of groups.

    `keys` and `hashes` need room for count + other_count groups, `table` for twice that.
    """
    mask = np.uint64(len(table) - 1)
    for j in range(other_count):
        place = np.uint64(other_hashes[j]) & mask
        while True:
            group = table[place]
            if group < 0:
                table[place] = count
                hashes[count] = other_hashes[j]
                for word in range(width):
                    keys[count * width + word] = other_keys[j * width + word]
                groups[j] = count
                count += 1
                break
            same = True
            for word in range(width):
                same &= keys[group * width + word] == other_keys[j * width + word]
            if same:
                groups[j] = group
                break
            place = (place + np.uint64(1)) & mask
    return count


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    table = np.full(4, -1, dtype=np.int32)
    words, hashes, groups = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    place_all(table, hashes, 1)
    absorb(table, words, hashes, 1, 1, words.copy(), hashes.copy(), 1, groups)
