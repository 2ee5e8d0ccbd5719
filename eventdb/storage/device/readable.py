"""Reading a mapped file without dying of a bad sector.

The first touch of a page that the device cannot give kills the process (SIGBUS). Asked for beforehand, by madvise with
MADV_POPULATE_READ, the same page is an error. Each piece is asked for once, when it is first read: the kernel fills the
page table it would have had to fill anyway, so it costs no measurable time. Not asked for: what was committed a moment
ago, what a writer goes on with, the offsets of a compacted table (a search touches few of them). What a device loses
after it was asked, once the page has left the cache, still kills; so does a kernel older than 5.14, which does not know
it.
"""

from __future__ import annotations

import errno

from eventdb.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

PIECE_BITS = 16
_POPULATE_READ = 22  # MADV_POPULATE_READ, for which the mmap module has no name


class Unreadable(CorruptionError):
    """The device does not give the bytes: what they are, nobody knows."""


class Readable:
    """Which pieces of a mapped file have been read."""

    __slots__ = ("_mapping", "_path", "_seen")

    def __init__(self, mapping: mmap.mmap, path: str) -> None:
        self._mapping = mapping
        self._path = path
        self._seen = bytearray((len(mapping) >> PIECE_BITS) + 1)

    def require(self, position_bytes: int, length_bytes: int) -> None:
        """The bytes can be read. Unreadable if the device cannot give them."""
        stop = ((position_bytes + length_bytes - 1) >> PIECE_BITS) + 1
        piece = self._seen.find(0, position_bytes >> PIECE_BITS, stop)
        while piece >= 0:
            self._look(piece)
            piece = self._seen.find(0, piece + 1, stop)

    def _look(self, piece: int) -> None:
        start = piece << PIECE_BITS
        length = min(1 << PIECE_BITS, len(self._mapping) - start)
        try:
            if length > 0:
                self._mapping.madvise(_POPULATE_READ, start, length)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise Unreadable(
                    f"{self._path}: bytes {start} to {start + length} cannot be read, the device is damaged or the "
                    "file was cut short; save what can be read, run repair, or restore a backup",
                    path=self._path,
                ) from error
        self._seen[piece] = 1
