"""The next journal file, made ahead of its turn: 16 MB of zeros take 30 ms to write and to flush, which nobody should
spend while holding the writer lock.

It has no name until its turn comes (O_TMPFILE), so whatever kills the process leaves nothing of it, and recovery cannot
take it for a file of the journal. Then it gets what a file that is made on the spot gets: name, first record, flush,
flush of the directory. Where the file system has no such files, they are made on the spot.
"""

from __future__ import annotations

import errno

from eventdb.config import SPARE_PIECE_BYTES
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.device.files import Files

_ROOM = 8  # of its size is left on the disk, or there is none
_NOT_THERE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


class SpareFile:
    """`prepare` is for one thread, without the lock; `take` for the holder of the writer lock."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self.piece_bytes = PAGE_BYTES  # what zeros are written in
        self._directory = directory
        self._ready: list[tuple[int, int]] = []  # descriptor and size; whoever pops it has it
        self._exists = True  # the file system has files without a name
        self._closed = False

    def prepare(self, size_bytes: int) -> None:
        """A zero-filled, flushed file of the size waits, unless the disk is nearly full. StorageError."""
        if not self._wants(size_bytes):
            return
        self._drop()
        try:
            if self._files.free_bytes(self._directory) < _ROOM * size_bytes:
                return
            fd = self._files.create_unnamed(self._directory)
        except OSError as error:
            self._exists = error.errno not in _NOT_THERE
            if self._exists:
                raise storage_error(error, "preparing a file in", self._directory) from error
            return
        try:
            self._fill(fd, size_bytes)
        except BaseException as error:
            self._files.close(fd)
            if isinstance(error, OSError):
                raise storage_error(error, "preparing a file in", self._directory) from error
            raise
        self._ready.append((fd, size_bytes))
        if self._closed:  # meanwhile: whoever sees the other's step last drops it
            self._drop()

    def _wants(self, size_bytes: int) -> bool:
        held = self._ready[0][1] if self._ready else 0
        return self._exists and not self._closed and held != size_bytes

    def _fill(self, fd: int, size_bytes: int) -> None:
        """Flushed piece by piece: a commit's own flush does not find itself behind all of it."""
        files = self._files
        files.allocate(fd, size_bytes)
        for start in range(0, size_bytes, SPARE_PIECE_BYTES):
            files.fill_zeros(fd, min(size_bytes, start + SPARE_PIECE_BYTES), self.piece_bytes, start)
            files.fdatasync(fd)
        files.fsync(fd)

    def take(self, size_bytes: int, path: str) -> int | None:
        """A descriptor of the prepared file, which has the path now; None without one of the size, or where it gets no
        name. Who takes it closes it. FileExistsError leaves it prepared."""
        try:
            fd, held = self._ready.pop()
        except IndexError:
            return None
        taken = False
        try:
            if held == size_bytes:
                self._files.give_name(fd, path)
                taken = True
        except FileExistsError:
            self._ready.append((fd, held))
            taken = True
            raise
        except OSError:  # no /proc, or no right: then all are made on the spot
            self._exists = False
        finally:
            if not taken:
                self._files.close(fd)
        return fd if taken else None

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        while self._ready:
            try:
                fd, _ = self._ready.pop()
            except IndexError:
                return
            self._files.close(fd)
