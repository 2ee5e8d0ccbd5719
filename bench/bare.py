"""What the device alone takes for a durable record, whoever writes it: the floor of a commit."""

from __future__ import annotations

import os
from pathlib import Path

RECORD_BYTES = 192  # about what a six-column event takes in a journal


class BareWrite:
    """pwrite + fdatasync, one record at a time, into a file filled with zeros."""

    def __init__(self, path: Path, records: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(self._fd, bytes(RECORD_BYTES * records))
        os.fsync(self._fd)
        self._position = 0
        self._record = bytes(range(RECORD_BYTES))

    def write(self, _: object) -> None:
        os.pwrite(self._fd, self._record, self._position)
        os.fdatasync(self._fd)
        self._position += RECORD_BYTES
