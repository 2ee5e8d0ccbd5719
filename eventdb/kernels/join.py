"""The held side of a join by its keys: numbering the keys, finding them again, and the rows of each.

A key is one int64 a row. Keys are numbered from 0 as they first occur. `table` holds the number of a key or -1: at
`key - low` where the range of keys is small (direct), else in the first free place from the key's hash on, `places - 1`
a mask (open addressing with a power of two places, at most half of them used). A generated pipeline probes the same
tables with text of its own (physical/codegen_join.py).
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.hash_spread import SPREAD
from eventdb.kernels.jit import njit


@njit
def number_direct(keys, table, numbers):  # type: ignore[no-untyped-def]
    """numbers[i] = the number of keys[i], entered if it is new. Returns how many there are."""
    count = 0
    for i in range(len(keys)):
        number = table[keys[i]]
        if number < 0:
            number = count
            table[keys[i]] = count
            count += 1
        numbers[i] = number
    return count


@njit
def number_hashed(keys, spread, shift, table, held, numbers):  # type: ignore[no-untyped-def]
    """The same with a hash table; held[n] = the key of number n."""
    count = 0
    mask = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        key = keys[i]
        place = (np.uint64(key) * spread) >> shift
        while True:
            number = table[place]
            if number < 0:
                number = count
                table[place] = count
                held[count] = key
                count += 1
                break
            if held[number] == key:
                break
            place = (place + np.uint64(1)) & mask
        numbers[i] = number
    return count


@njit
def find_direct(keys, table, numbers):  # type: ignore[no-untyped-def]
    """numbers[i] = the number of keys[i], -1 where it has none."""
    limit = np.uint64(len(table))
    for i in range(len(keys)):
        place = np.uint64(keys[i])
        numbers[i] = table[place] if place < limit else -1


@njit
def find_hashed(keys, spread, shift, table, held, numbers):  # type: ignore[no-untyped-def]
    """The same with a hash table."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        key = keys[i]
        place = (np.uint64(key) * spread) >> shift
        number = table[place]
        while number >= 0 and held[number] != key:
            place = (place + np.uint64(1)) & mask
            number = table[place]
        numbers[i] = number


@njit
def list_rows(numbers, starts, order):  # type: ignore[no-untyped-def]
    """order[starts[n]:] = the rows of number n in input order. `starts` is moved on to where the next number begins."""
    for i in range(len(numbers)):
        number = numbers[i]
        order[starts[number]] = i
        starts[number] += 1


@njit
def list_pairs(found, counts, starts, order, row, skipped, left, right):  # type: ignore[no-untyped-def]
    """Pairs of rows and their partners from row `row`, partner `skipped` of it on, until `left` is full or rows end.

    Returns (pairs written, the row to go on with, its partners done)."""
    filled = 0
    room = len(left)
    while row < len(found):
        number = found[row]
        if number >= 0:
            first, end = starts[number], starts[number] + counts[number]
            for place in range(first + skipped, end):
                if filled == room:
                    return filled, row, place - first
                left[filled] = row
                right[filled] = order[place]
                filled += 1
        skipped = 0
        row += 1
    return filled, row, 0


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    keys = np.zeros(1, np.int64)
    keys.flags.writeable = False
    table, numbers, held = np.full(2, -1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64)
    number_direct(keys, table, numbers)
    find_direct(keys, table, numbers)
    table[:] = -1
    spread, shift = np.uint64(SPREAD), np.uint64(63)
    number_hashed(keys, spread, shift, table, held, numbers)
    find_hashed(keys, spread, shift, table, held, numbers)
    starts, order = np.zeros(1, np.int64), np.zeros(1, np.int64)
    list_rows(numbers, starts, order)
    list_pairs(numbers, np.ones(1, np.int64), np.zeros(1, np.int64), order, 0, 0, np.zeros(1, np.int64), held)
