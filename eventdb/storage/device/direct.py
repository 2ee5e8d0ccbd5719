"""Large writes past the page cache.

A copy into the cache first takes a page for every 4 KB; where memory is scarce, or a virtual machine has to ask for it,
that costs several times what the device needs for the bytes. Written past the cache, they go through a buffer that is
there already. The rows of a batch that is flushed at once lose nothing by it: whoever reads them soon reads the device,
in pieces of 64 KB and more.

The kernel keeps cache and device the same on the file systems named here: cached pages of the range are written before
and forgotten after. Nobody else may store into those pages meanwhile: they hold rows past the end, and the writer lock
is held. What lies on a page only in part goes through the cache, for its neighbours may be there.
"""

from __future__ import annotations

import mmap

from eventdb.storage.format import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.device.files import Files

# One write of 4 MB takes two thirds of the time of four of 1 MB; two threads that take turns gain nothing over it.
BUFFER_BYTES = 4 << 20
_COHERENT_TYPES = ("ext4", "xfs")


class PastCache:
    """Writes of one process to one database; one thread at a time. Its buffer stays with it once used."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory
        self._usable: bool | None = None
        self._buffer: memoryview | None = None  # page-aligned, as the kernel wants it

    def usable(self) -> bool:
        """Whether the file system of the database is known to keep mapped files and such writes the same."""
        if self._usable is None:
            self._usable = self._files.file_system(self._directory) in _COHERENT_TYPES
        return self._usable

    def write(self, fd: int, path: str, data: memoryview, position_bytes: int) -> None:
        """All of `data` (bytes) is in the file at the position, read the same by everybody; durable after the next
        flush. `fd` writes through the cache. OSError: some of it may be there."""
        first = -position_bytes % PAGE_BYTES
        stop = len(data) - (position_bytes + len(data)) % PAGE_BYTES
        if stop - first < PAGE_BYTES:
            self._files.write_fully(fd, data, position_bytes)
            return
        direct = self._files.open_direct(path)
        try:
            self._write_pages(direct, data[first:stop], position_bytes + first)
        finally:
            self._files.close(direct)
        for start, end in ((0, first), (stop, len(data))):
            if start < end:
                self._files.write_fully(fd, data[start:end], position_bytes + start)

    def _write_pages(self, fd: int, data: memoryview, position_bytes: int) -> None:
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        for start in range(0, len(data), BUFFER_BYTES):
            piece = data[start : start + BUFFER_BYTES]
            buffer = self._buffer[: len(piece)]
            buffer[:] = piece
            self._files.write_fully(fd, buffer, position_bytes + start)
