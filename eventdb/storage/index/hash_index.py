"""Which rows of a segment may hold a key, without a look at the others.

A table from a key's hash to rows: `buckets` ranges of 4-byte entries, in the order of the hashes. An entry is the row
of a rare key, or a block of BLOCK_ROWS rows in which the key is frequent, together with 11 bits of the hash. So a
look-up reads one bucket, about 8 entries and those of the key itself, however many rows there are. What it finds are
candidates, among them a row of another key now and then: who reads them compares the key anyhow.

It is derived from the rows. The sealer puts it into the sealed file, where it takes 4.5 bytes for each row of a rare
key and next to nothing for frequent ones; of raw segments it is made in memory when a key is first looked for. An
append knows nothing of it.
"""

from __future__ import annotations

from zlib import crc32

from eventdb.storage.format import HASH_INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.batch import Array, Column
    from eventdb.schema import DataType

BLOCK_ROWS = 1 << 16
FREQUENT_ROWS = 32  # of a key in a block: with more, the block is read as a whole
MAX_ROWS = 1 << 20
_BUCKET_ENTRIES = 8
_PLACE_BITS = 21  # the highest one: a block, not a row
_BLOCK = 1 << 20
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
        places = sorted(entry & (1 << _PLACE_BITS) - 1 for entry in held if entry >> _PLACE_BITS == mark)
        return [p for p in places if p < _BLOCK], [p - _BLOCK for p in places if p >= _BLOCK]


def build(hashes: Array, rows: Array) -> HashIndex:
    """The index of `rows` (int64, below MAX_ROWS, in order), which have the `hashes` (uint32)."""
    import numpy as np

    order = hashes.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)
    order.sort()
    # Rows of a key in a block follow each other.
    groups = order // np.uint64(BLOCK_ROWS)
    first = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1]))) if len(order) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(first, len(order)))
    frequent = np.repeat(lengths > FREQUENT_ROWS, lengths)
    leads = np.zeros(len(order), bool)
    leads[first] = True
    kept = ~frequent | leads
    order, frequent = order[kept], frequent[kept]
    found = order >> np.uint64(32)
    places = order & np.uint64(MAX_ROWS - 1)
    places = np.where(frequent, places // np.uint64(BLOCK_ROWS) | np.uint64(_BLOCK), places)
    entries = ((found & np.uint64(0x7FF)) << np.uint64(_PLACE_BITS) | places).astype(np.uint32)
    buckets = max(1, len(entries) // _BUCKET_ENTRIES)
    starts = np.searchsorted(found * np.uint64(buckets) >> np.uint64(32), np.arange(buckets + 1, dtype=np.uint64))
    return HashIndex(starts.astype(np.uint32).data, entries.data)


def hashes_of(column: Column) -> Array:
    """uint32: `hash_of` each row; what is under a NULL has any."""
    import numpy as np

    mix, half = np.uint64(_MIX), np.uint64(32)
    if column.dictionary is None:
        return (column.values.astype(np.int64).view(np.uint64) * mix >> half).astype(np.uint32)
    table = np.array([hash_of(value) for value in column.dictionary.values[:]], np.uint32)
    return table[column.values]
