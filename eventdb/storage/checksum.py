"""The CRC of a large batch's rows, computed in a thread while they are written and flushed."""

from __future__ import annotations

import threading
from zlib import crc32

from eventdb.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Checksum(threading.Thread):
    """`parts` gives the bytes of the rows in the order of Segment.regions; they must not change before `result`."""

    def __init__(self, parts: Callable[[], Iterable[bytes | memoryview]]) -> None:
        super().__init__(daemon=True)
        self._parts = parts
        self._crc: int | None = None
        self.start()

    def run(self) -> None:
        crc = 0
        for part in self._parts():
            crc = crc32(part, crc)
        self._crc = crc

    def result(self) -> int:
        """The CRC, once it is there."""
        self.join()
        if self._crc is None:
            raise InternalError("the rows of a batch could not be read back for their checksum")
        return self._crc
