"""Which rows of a segment may hold a key, without a look at the others.

A table from a key's hash to rows: `buckets` ranges of 4-byte entries, in the order of the hashes. An entry is the row
of a rare key, or a block of BLOCK_ROWS rows in which the key is frequent, together with 11 bits of the hash. So a
look-up reads one bucket, about 8 entries and those of the key itself, however many rows there are. What it finds are
candidates, among them a row of another key now and then: who reads them compares the key anyhow.

It is derived from the rows. The sealer puts it into the sealed file, where it takes 4.5 bytes for each row of a rare
key and next to nothing for frequent ones; of raw segments it is made in memory, by a thread, when a key was looked for
(segment/indexer.py). An append knows nothing of it.
"""

from __future__ import annotations

from bisect import bisect_left
from zlib import crc32

from eventdb.storage.format import HASH_INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.batch import Array, Column
    from eventdb.schema import DataType

BLOCK_ROWS = 1 << 16
FREQUENT_ROWS = 32  # of a key in a block: with more, the block is read as a whole
MAX_ROWS = 1 << 20
_BUCKET_ENTRIES = 8
_PLACE_BITS = 21  # the highest one: a block, not a row
_PLACE = (1 << _PLACE_BITS) - 1
_BLOCK = 1 << 20
_AT_ONCE = 2_048  # values that are hashed before another thread may have the interpreter
_MIX = 0x9E3779B97F4A7C15  # Fibonacci hashing (Knuth, TAOCP 6.4)


def is_indexed(type: DataType) -> bool:
    """Whether equal keys of the type have equal hashes: not so for floats, where 0.0 equals -0.0."""
    return not type.is_float and type.name != "BOOLEAN"


def hash_of(value: Any) -> int:
    """32 bits of a physical value that is not None."""
    if isinstance(value, int):
        return ((value & 0xFFFFFFFFFFFFFFFF) * _MIX & 0xFFFFFFFFFFFFFFFF) >> 32
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return (crc32(data) * _MIX & 0xFFFFFFFFFFFFFFFF) >> 32


class HashIndex:
    """The index of one segment. The memory given stays in use."""

    __slots__ = ("_buckets", "_entries", "_starts")

    def __init__(self, starts: memoryview, entries: memoryview) -> None:
        self._starts = starts.cast("B").cast("I")
        self._entries = entries.cast("B").cast("I")
        self._buckets = len(self._starts) - 1

    @staticmethod
    def read(data: memoryview) -> HashIndex | None:
        """From the bytes `pack` gave; None if their lengths do not fit."""
        if len(data) < HASH_INDEX.size:
            return None
        buckets, entries = HASH_INDEX.unpack_from(data)
        middle = HASH_INDEX.size + 4 * (buckets + 1)
        if not buckets or len(data) != middle + 4 * entries:
            return None
        return HashIndex(data[HASH_INDEX.size : middle], data[middle:])

    def pack(self) -> bytes:
        head = HASH_INDEX.pack(self._buckets, len(self._entries))
        return head + self._starts.tobytes() + self._entries.tobytes()

    def find(self, hash: int) -> tuple[list[int], list[int]]:
        """(rows, blocks), each in order: every row that holds a key of this hash is one of the rows or lies in one of
        the blocks."""
        bucket = hash * self._buckets >> 32
        mark = hash & 0x7FF
        held = self._entries[self._starts[bucket] : self._starts[bucket + 1]].tolist()
        places = [entry & _PLACE for entry in held if entry >> _PLACE_BITS == mark]
        places.sort()
        if not places or places[-1] < _BLOCK:
            return places, []
        first = bisect_left(places, _BLOCK)
        return places[:first], [place - _BLOCK for place in places[first:]]


def build(hashes: Array, rows: Array) -> HashIndex:
    """The index of `rows` (int64, below MAX_ROWS, in order), which have the `hashes` (uint32)."""
    import numpy as np

    order = _by_hash(hashes)
    found, places = hashes[order], rows[order].astype(np.uint32)
    del order
    # Rows of a key in a block follow each other.
    blocks = places // np.uint32(BLOCK_ROWS)
    again = (found[1:] == found[:-1]) & (blocks[1:] == blocks[:-1])
    if _longest_run(again) >= FREQUENT_ROWS:
        first = np.flatnonzero(np.concatenate(([True], ~again)))
        lengths = np.diff(np.append(first, len(found)))
        frequent = np.repeat(lengths > FREQUENT_ROWS, lengths)
        kept = ~frequent
        kept[first] = True
        places = np.where(frequent, blocks | np.uint32(_BLOCK), places)[kept]
        found = found[kept]
    entries = (found & np.uint32(0x7FF)) << np.uint32(_PLACE_BITS) | places
    buckets = max(1, len(entries) // _BUCKET_ENTRIES)
    of = (found.astype(np.uint64) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)
    starts = np.zeros(buckets + 1, np.uint32)
    np.cumsum(np.bincount(of, minlength=buckets), out=starts[1:])
    return HashIndex(starts.data, entries.data)


def _by_hash(hashes: Array) -> Array:
    """The order that sorts the hashes, and keeps equal ones as they are: two passes of NumPy's radix sort, which is for
    16 bits, in half the time of a sort of 64-bit numbers."""
    import numpy as np

    order = np.argsort(hashes.astype(np.uint16), kind="stable")
    return order[np.argsort((hashes >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]


def _longest_run(flags: Array) -> int:
    """How many flags follow each other at most, if those are FREQUENT_ROWS or more."""
    import numpy as np

    if len(flags) < FREQUENT_ROWS or not len(flags):
        return 0
    ends = np.flatnonzero(~flags)
    if not len(ends):
        return len(flags)
    return int(max(ends[0], len(flags) - 1 - ends[-1], np.diff(ends).max(initial=1) - 1))


def hashes_of(column: Column, rest: Callable[[], object] = bool) -> Array:
    """uint32: `hash_of` each row; what is under a NULL has any. `rest` is called every few milliseconds."""
    import numpy as np

    mix, half = np.uint64(_MIX), np.uint64(32)
    dictionary = column.dictionary
    if dictionary is None:
        return (column.values.astype(np.int64).view(np.uint64) * mix >> half).astype(np.uint32)
    known = dictionary.hashes
    count = len(dictionary)
    if known is None or len(known) < count:
        parts = [np.zeros(0, np.uint32) if known is None else known]
        values = dictionary.values
        for start in range(len(parts[0]), count, _AT_ONCE):
            stop = min(count, start + _AT_ONCE)
            parts.append(np.array([hash_of(value) for value in values[start:stop]], np.uint32))
            rest()
        known = dictionary.hashes = np.concatenate(parts)
    hashes: Array = known[column.values]
    return hashes
