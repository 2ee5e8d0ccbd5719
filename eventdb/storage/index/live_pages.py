"""The CRC of what LMDB may read of an index file: the pages up to the last used one that are not free.

A history that was sealed leaves an index of free pages: thousands of segments took them, a few sealed ones use them no
more. LMDB writes a free page before it reads it, so what it holds does not matter. Nothing here trusts the file.
"""

from __future__ import annotations

from array import array
from struct import Struct
from struct import error as StructError
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.device.files import Files

_READ_BYTES = 1 << 20
_LEAST_PAGE_BYTES, _MOST_PAGE_BYTES = 256, 1 << 16
_META_PAGES = 2
_META = Struct("=40xI36xQ48xQQ")  # of a meta page: page bytes, root of the free tree, last page, transaction; 0.9
_PAGE_HEAD = Struct("=QHHHH")  # number, pad, flags, lower, upper
_NODE_HEAD = Struct("=HHHH")  # low and high half of the value's size, flags, key bytes; a branch's page in the first 3
_NUMBER = Struct("=Q")
_PLACE = Struct("=H")
_BRANCH, _LEAF, _BIG_DATA = 1, 2, 1
_NO_PAGE = (1 << 64) - 1


class _Damaged(Exception):
    """The file is not one that LMDB wrote."""


def live_crc(files: Files, fd: int, limit_bytes: int) -> int:
    """Never 0; 0 if there are more live pages than the limit allows, or none can be told. Nobody commits meanwhile.
    OSError."""
    try:
        runs, live_bytes = _Pages(files, fd).live_runs()
    except (_Damaged, StructError, IndexError, ValueError):
        return 0
    if live_bytes > limit_bytes:
        return 0
    crc = 0
    for start, stop in runs:
        for position in range(start, stop, _READ_BYTES):
            crc = crc32(files.pread(fd, min(_READ_BYTES, stop - position), position), crc)
    return crc or 1


class _Pages:
    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._size_bytes = files.size(fd)
        page_bytes, *first = _META.unpack(files.pread(fd, _META.size, 0))
        if not _LEAST_PAGE_BYTES <= page_bytes <= _MOST_PAGE_BYTES:
            raise _Damaged
        _, *second = _META.unpack(files.pread(fd, _META.size, page_bytes))
        self._bytes = page_bytes
        self._free_root, last, _ = max(first, second, key=lambda meta: meta[2])
        self._stop = last + 1
        if self._stop * page_bytes > self._size_bytes:
            raise _Damaged

    def live_runs(self) -> tuple[list[tuple[int, int]], int]:
        """(first byte, end) of each run of live pages, in order, and their bytes together."""
        runs, at, live = [], 0, 0
        for page in [*sorted(self._free()), self._stop]:
            if not at <= page <= self._stop or page < _META_PAGES:
                raise _Damaged
            if page > at:
                runs.append((at * self._bytes, page * self._bytes))
                live += page - at
            at = page + 1
        return runs, live * self._bytes

    def _free(self) -> list[int]:
        """The pages that the free tree lists. Each of its values is how many, and their numbers."""
        found: list[int] = []
        waiting = [] if self._free_root == _NO_PAGE else [self._free_root]
        seen = 0
        while waiting:
            seen += 1
            if seen > self._stop:
                raise _Damaged  # a circle
            page = self._read(waiting.pop(), self._bytes)
            _, _, flags, lower, _ = _PAGE_HEAD.unpack_from(page)
            for place in range(_PAGE_HEAD.size, lower - 1, _PLACE.size):
                (node,) = _PLACE.unpack_from(page, place)
                low, high, more, key_bytes = _NODE_HEAD.unpack_from(page, node)
                if flags & _BRANCH:
                    waiting.append(low | high << 16 | more << 32)
                elif flags & _LEAF:
                    value = node + _NODE_HEAD.size + key_bytes
                    found += self._listed(page, value, low | high << 16, big=bool(more & _BIG_DATA))
                else:
                    raise _Damaged
        return found

    def _listed(self, page: bytes, at: int, size: int, *, big: bool) -> array[int]:
        if size > self._stop * _NUMBER.size or size % _NUMBER.size:
            raise _Damaged
        if big:
            (number,) = _NUMBER.unpack_from(page, at)
            page, at = self._read(number, _PAGE_HEAD.size + size), _PAGE_HEAD.size
        numbers = array("Q")
        numbers.frombytes(page[at : at + size])
        if len(numbers) != size // _NUMBER.size or not numbers or numbers[0] != len(numbers) - 1:
            raise _Damaged
        return numbers[1:]

    def _read(self, number: int, size_bytes: int) -> bytes:
        if number * self._bytes + size_bytes > self._size_bytes:
            raise _Damaged
        return self._files.pread(self._fd, size_bytes, number * self._bytes)
