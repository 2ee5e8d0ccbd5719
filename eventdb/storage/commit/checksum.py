"""The CRC of a large batch's rows, computed while they are written and flushed.

Runs of zeros are not looked at: appending n zero bytes multiplies the CRC's register, a polynomial over GF(2), by
x**(8n) modulo the CRC's polynomial.
"""

from __future__ import annotations

import _thread
from functools import lru_cache
from zlib import crc32

from eventdb.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


_POLYNOMIAL = 0xEDB88320  # of zlib's CRC, as it is everywhere here with the coefficient of x**0 in the highest bit


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials, modulo the CRC's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=64)
def _zeros_factor(length_bytes: int) -> int:
    """x**(8 * length_bytes), modulo the CRC's polynomial."""
    factor, square, exponent = 1 << 31, 1 << 30, 8 * length_bytes
    while exponent:
        if exponent & 1:
            factor = _multiply(factor, square)
        square = _multiply(square, square)
        exponent >>= 1
    return factor


def crc_zeros(crc: int, length_bytes: int) -> int:
    """crc32(bytes(length_bytes), crc), in microseconds."""
    return _multiply(_zeros_factor(length_bytes), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


class Checksum:
    """`parts` gives the bytes of the rows in the order of Segment.regions, a number for as many zeros; they must not
    change before `result`. It takes a thread to be computed beside, if begun, and otherwise whoever asks."""

    def __init__(self, parts: Callable[[], Iterable[bytes | memoryview | int]]) -> None:
        self._parts = parts
        self._crc: int | None = None
        self._running: Any = None  # a lock that is held until a begun computation has ended

    def begin(self) -> None:
        """Does not wait for the thread to run, as threading.Thread does: a millisecond on a busy machine."""
        self._running = _thread.allocate_lock()
        self._running.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no more threads: then when it is asked for
            self._running = None

    def _run(self) -> None:
        try:
            self._compute()
        finally:
            self._running.release()

    def _compute(self) -> None:
        crc = 0
        for part in self._parts():
            crc = crc_zeros(crc, part) if isinstance(part, int) else crc32(part, crc)
        self._crc = crc

    def result(self) -> int:
        if self._running is not None:
            with self._running:
                pass
        elif self._crc is None:
            self._compute()
        if self._crc is None:
            raise InternalError("the rows of a batch could not be read back for their checksum")
        return self._crc
