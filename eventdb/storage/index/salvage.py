"""Salvage: what is left in an index file that LMDB must not open.

Each value carries a CRC seeded with its key, so whatever pair verifies was stored once, wherever in the file it lies.
Free pages hold older versions; nothing says which is the newest, but offsets only grow.
"""

from __future__ import annotations

from struct import Struct

from eventdb.errors import CorruptionError
from eventdb.storage.format import META_KEY, PARTITION, SEGMENT, SEGMENT_KEY, U32, U64, generation_of
from eventdb.storage.index.kv import verified
from eventdb.storage.sealed.sealed import SealedLayout, is_sealed

_PAGE_HEAD = Struct("<QHHHH")  # number, pad, flags, lower, upper
_NODE_HEAD = Struct("<HHHH")  # low and high half of the value's size, flags, key bytes
_LEAF = 2
_BIG_DATA = 1
Versions = dict[bytes, list[bytes]]


def find_pairs(data: bytes, page_bytes: int) -> Versions:
    """Every version of every key in the file that verifies."""
    found: dict[bytes, set[bytes]] = {}
    for page in range(2 * page_bytes, len(data) - page_bytes + 1, page_bytes):
        _, _, flags, lower, _ = _PAGE_HEAD.unpack_from(data, page)
        if flags & 0x7F == _LEAF and _PAGE_HEAD.size <= lower <= page_bytes:
            for key, value in _nodes(data, page, page_bytes, lower):
                try:
                    found.setdefault(key, set()).add(verified(key, value, "salvage"))
                except CorruptionError:
                    continue
    return {key: sorted(values) for key, values in found.items() if values}


def _nodes(data: bytes, page: int, page_bytes: int, lower: int) -> list[tuple[bytes, bytes]]:
    found = []
    for at in range(_PAGE_HEAD.size, lower - 1, 2):
        position = page + int.from_bytes(data[page + at : page + at + 2], "little")
        if position + _NODE_HEAD.size > page + page_bytes:
            continue
        low, high, flags, key_bytes = _NODE_HEAD.unpack_from(data, position)
        size, start = low | high << 16, position + _NODE_HEAD.size
        key, place = data[start : start + key_bytes], start + key_bytes
        if flags == _BIG_DATA:
            place = int.from_bytes(data[place : place + 8], "little") * page_bytes + _PAGE_HEAD.size
        elif flags:
            continue
        if place + size <= len(data):
            found.append((key, data[place : place + size]))
    return found


def newest(key: bytes, values: list[bytes]) -> bytes | None:
    """The version that was stored last; None if that cannot be told."""
    if len(values) == 1:
        return values[0]
    kind = key[:1]
    if key == META_KEY:
        return max(values, key=lambda value: U64.unpack_from(value)[0])
    if kind == b"p":
        return max(values, key=lambda value: PARTITION.unpack(value)[1])
    if kind == b"s":  # sealed after raw, compacted anew after before, and with the time range known once it was rolled
        return max(values, key=_segment_age)
    if kind == b"c":
        return max(values, key=lambda value: U32.unpack_from(value)[0])
    if kind == b"w":
        return max(values)
    return None


def _segment_age(value: bytes) -> tuple[bool, int, int]:
    sealed = is_sealed(value)
    generation = SealedLayout.unpack(value).generation if sealed else generation_of(value)
    return sealed, generation, SEGMENT.unpack_from(value)[2]


def replaced(segments: dict[bytes, bytes]) -> list[bytes]:
    """Of chosen segment entries those whose rows lie in a sealed segment before them: it may have replaced them."""
    found, end, log = [], 0, b""
    for key, value in sorted(segments.items()):
        base = SEGMENT_KEY.unpack(key)[3]
        if key[:-8] == log and base < end:
            found.append(key)
        elif is_sealed(value):
            log, end = key[:-8], base + SealedLayout.unpack(value).rows
    return found
