"""Dictionary codes of short strings, straight from Arrow's offsets and bytes: four times as fast as Arrow's own, which
must take strings of any length.

A string of up to 15 bytes is two words: its bytes, zeros, and in the last byte its length. Words are what the hash
table holds and compares. The kernel is used when it is in memory; until then `short_string_codes` declines.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import numpy as np

from eventdb.kernels.service import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

MAX_VALUES = 8_192  # distinct ones; the table stays in the processor's cache
PAYING_STRINGS = 4_000_000  # what a process has stored in batches before Numba, 0.3 s beside it, is worth having
_TABLE_PLACES = 4 * MAX_VALUES


def pipeline(offsets, data, words, codes, keys, table, firsts, row, count):  # type: ignore[no-untyped-def]
    """codes[i] = the code of string i, codes being given as values appear. Returns how many there are by now, -1 if a
    string is too long or there are too many.

    `words` are the int64 words of `data`. `count` codes are known already: keys, table (-1: free) and firsts, the row
    where each appeared first, hold them. String 0 is row `row`.
    """
    mask = np.uint64(len(table) - 1)
    zero, one, full = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
    limit = len(words) - 2
    last_low, last_high, last = zero, zero, np.int64(-1)
    end = np.int64(offsets[0])
    for i in range(len(codes)):
        start, end = end, np.int64(offsets[i + 1])
        length = end - start
        if length > 15 or length < 0:
            return -1
        if (start >> 3) < limit:  # without branches on the length: those cost more than the third word
            word, shift = np.uint64(start) >> np.uint64(3), np.uint64((start & 7) << 3)
            rest = np.uint64(63) - shift
            second = np.uint64(words[word + one])
            low = (np.uint64(words[word]) >> shift) | ((second << rest) << one)
            high = (second >> shift) | ((np.uint64(words[word + one + one]) << rest) << one)
            bits = np.uint64(length << 3)
            low &= (one << bits) - one if length < 8 else full
            high &= (one << (bits - np.uint64(64))) - one if length > 8 else zero
        else:
            low, high = zero, zero
            for k in range(length):
                byte = np.uint64(data[start + k])
                if k < 8:
                    low |= byte << np.uint64(k << 3)
                else:
                    high |= byte << np.uint64((k - 8) << 3)
        high |= np.uint64(length) << np.uint64(56)
        if last >= 0 and low == last_low and high == last_high:
            codes[i] = last
            continue
        hashed = (low ^ (high * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
        place = (hashed ^ (hashed >> np.uint64(32))) & mask
        while True:
            code = np.int64(table[place])
            if code < 0:
                if count >= len(firsts):
                    return -1
                code = count
                table[place] = code
                keys[2 * code] = np.int64(low)
                keys[2 * code + 1] = np.int64(high)
                firsts[code] = row + i
                count += 1
                break
            at = np.uint64(code) << one
            if np.uint64(keys[at]) == low and np.uint64(keys[at + one]) == high:
                break
            place = (place + one) & mask
        codes[i] = code
        last_low, last_high, last = low, high, code
    return count


_SOURCE = inspect.getsource(pipeline)
_TOKENS = {
    np.dtype(kind): (f"{kind}[]", "u1[]", "i8[]", "i4[w]", "i8[w]", "i4[w]", "i8[w]", "i8", "i8")
    for kind in ("i4", "i8")
}


class _Demand:
    """How many strings this process has given to Arrow's encoder; a hint: threads may lose some of the count."""

    strings = 0

    def pays(self, count: int) -> bool:
        """Whether the kernel is worth fetching, `count` strings more being there."""
        self.strings += count
        return self.strings > PAYING_STRINGS or "eventdb.kernels.jit" in sys.modules


_DEMAND = _Demand()


def short_string_codes(parts: Iterable[tuple[NDArray[Any], NDArray[Any]]], rows: int) -> tuple[Any, Any] | None:
    """(int32 codes, int64 row where each code appears first) of `rows` strings, given as parts: int32 or int64 offsets,
    one more than strings, and the read-only uint8 data they point into, 8-byte aligned.

    None if a string is longer than 15 bytes, if more than MAX_VALUES differ, or if the kernel is not in memory. It is
    fetched then, for the next time, if queries made the process load Numba or it has stored PAYING_STRINGS this way:
    one batch is no reason to.
    """
    if not _DEMAND.pays(rows):
        return None
    codes = np.empty(rows, dtype=np.int32)
    keys, firsts = np.empty(2 * MAX_VALUES, dtype=np.int64), np.empty(MAX_VALUES, dtype=np.int64)
    table = np.full(_TABLE_PLACES, -1, dtype=np.int32)
    row = count = 0
    for offsets, data in parts:
        kernel = SERVICE.find(_SOURCE, _TOKENS[offsets.dtype]).kernel
        if kernel is None:
            return None
        words = data[: len(data) & -8].view(np.int64)
        stop = row + len(offsets) - 1
        count = kernel(offsets, data, words, codes[row:stop], keys, table, firsts, row, count)
        if count < 0:
            return None
        row = stop
    return codes, firsts[:count]
