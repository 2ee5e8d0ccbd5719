"""The deterministic events of the log benchmarks: a number, one of 1,000 devices and bytes nobody can compress."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

COLUMNS = {"n": "BIGINT NOT NULL", "device": "VARCHAR NOT NULL", "body": "BLOB NOT NULL"}
SQL_COLUMNS = "n BIGINT, device VARCHAR, body BLOB"
DEVICES = 1_000
HEAD = struct.Struct("<q12s")
_NOISE = random.Random(42).randbytes(1 << 20)

Row = tuple[int, str, bytes]


def row(n: int, size_bytes: int = 100) -> Row:
    """The n-th event, of `size_bytes` in all."""
    length = size_bytes - HEAD.size
    at = n * 7919 % (len(_NOISE) - length)
    return n, f"device-{n * 7919 % DEVICES:05d}", _NOISE[at : at + length]


def event(n: int, size_bytes: int = 100) -> dict[str, Any]:
    return dict(zip(COLUMNS, row(n, size_bytes), strict=True))


def packed(one: Row) -> bytes:
    """The event as a message of those databases that know bytes only; `size_bytes` long."""
    return HEAD.pack(one[0], one[1].encode()) + one[2]


def unpacked(message: bytes) -> Row:
    n, device = HEAD.unpack_from(message)
    return n, device.decode(), message[HEAD.size :]


def digest(rows: Iterable[Row]) -> tuple[int, int, int]:
    """(count, sum of n, a checksum of every value), whatever the order."""
    count = total = check = 0
    for n, device, body in rows:
        count += 1
        total += n
        check = (check + crc32(body, crc32(device.encode(), n & 0xFFFFFFFF))) & 0xFFFFFFFFFFFF
    return count, total, check


class Numbers:
    """Hands out blocks of new events, each number once."""

    def __init__(self, size_bytes: int = 100) -> None:
        self.given = 0
        self._size = size_bytes

    def block(self, count: int) -> list[Row]:
        first, self.given = self.given, self.given + count
        return [row(n, self._size) for n in range(first, self.given)]

    def all(self) -> Iterator[Row]:
        """Every event handed out so far: what a database that got them must hold."""
        return (row(n, self._size) for n in range(self.given))
