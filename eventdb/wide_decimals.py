"""DECIMAL of more than 18 digits: the scaled integer as bytes that sort like the number.

A byte that is 128 plus the number of bytes of the magnitude, then these, big-endian; of a negative number 127 minus
that number, and every byte of the magnitude inverted. 0 is one byte, 128. No bytes at all, which lie under NULLs, are
read as 0. Storage keeps the values as it keeps a BLOB's.

This module is on the append path: it imports nothing.
"""

from __future__ import annotations


def pack(number: int) -> bytes:
    """The bytes of a scaled integer of at most 127 bytes."""
    if number >= 0:
        size = (number.bit_length() + 7) >> 3
        return bytes((128 + size,)) + number.to_bytes(size, "big")
    size = ((-number).bit_length() + 7) >> 3
    return bytes((127 - size,)) + ((1 << 8 * size) - 1 + number).to_bytes(size, "big")


def unpack(data: bytes) -> int:
    """The scaled integer of some bytes."""
    if not data:
        return 0
    size = len(data) - 1
    number = int.from_bytes(data[1:], "big")
    return number if data[0] >= 128 else number + 1 - (1 << 8 * size)
