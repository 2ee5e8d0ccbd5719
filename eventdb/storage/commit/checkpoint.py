"""Checkpoints: the index's unsynced commits become a state that a power cut cannot take away.

LMDB without flushes is not safe by itself: the kernel may write pages in any order. A checkpoint T makes it safe:

1. under the writer lock, flush every segment written since the last one, then LMDB's file, then save LMDB's two meta
   pages with the journal's tail in the older of two slots and flush that;
2. the pin: keep a read transaction opened at T. LMDB never reuses a page that a live reader can reach, so whatever
   later commits write (and whichever of those writes survive), the pages of T stay whole. Writing the saved meta pages
   back brings T back.

Every process that commits holds a pin taken at or before the newest checkpoint.
"""

from __future__ import annotations

import os
from zlib import crc32

from eventdb.storage.commit.journal import Tail
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import CRC, SLOT, SLOT_CLEAN, SLOT_LIVE, SLOT_MAGIC, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.device.files import Files


class Slot:
    """One saved checkpoint."""

    __slots__ = ("boot_id", "clean", "index_crc", "pages", "position", "sequence", "tail")

    def __init__(
        self, position: int, sequence: int, clean: bool, boot_id: str, tail: Tail, pages: bytes, index_crc: int = 0
    ) -> None:  # fmt: skip
        self.position = position  # 0 or 1: which of the two
        self.sequence = sequence
        self.clean = clean
        self.boot_id = boot_id
        self.tail = tail
        self.pages = pages
        self.index_crc = index_crc  # of the index's live pages, which nobody changes after a clean close; 0 = not known

    def pack(self) -> bytes:
        tail = self.tail
        head = SLOT.pack(
            SLOT_MAGIC, self.sequence, SLOT_LIVE | (SLOT_CLEAN if self.clean else 0), len(self.pages) // 2,
            self.boot_id.encode("ascii")[:40], tail.lsn, tail.epoch, tail.number, tail.position, tail.chain,
            self.index_crc, tail.size,
        )  # fmt: skip
        body = head + self.pages
        return body + CRC.pack(crc32(body))

    @staticmethod
    def unpack(position: int, data: bytes) -> Slot | None:
        """None if the bytes are not a whole slot."""
        if len(data) < SLOT.size + CRC.size or not data.startswith(SLOT_MAGIC):
            return None
        fields = SLOT.unpack_from(data)
        (_, sequence, flags, page_bytes, boot_id, lsn, epoch, number, at, chain, index_crc, size) = fields
        end = SLOT.size + 2 * page_bytes
        if end + CRC.size > len(data) or CRC.unpack_from(data, end)[0] != crc32(data[:end]):
            return None
        tail = Tail()
        tail.lsn, tail.epoch, tail.number, tail.position, tail.chain, tail.size = lsn, epoch, number, at, chain, size
        tail.durable_lsn = lsn
        return Slot(
            position,
            sequence,
            bool(flags & SLOT_CLEAN),
            boot_id.rstrip(b"\0").decode("ascii"),
            tail,
            data[SLOT.size : end],
            index_crc if flags & SLOT_LIVE else 0,
        )


class CheckpointFile:
    """index/checkpoint: two slots, written in turn, so that one is whole at any moment."""

    def __init__(self, files: Files, directory: str, *, write: bool) -> None:
        self._files = files
        self.path = os.path.join(directory, "checkpoint")
        self._fd = files.open(self.path, write=write)

    @staticmethod
    def create(files: Files, directory: str, slot: Slot) -> None:
        """The file holds `slot` and an empty one, durably (its directory entry is the caller's)."""
        slot_bytes = align(len(slot.pack()), 4096)
        fd = files.create(os.path.join(directory, "checkpoint"))
        try:
            files.fill_zeros(fd, 2 * slot_bytes)
            files.write_fully(fd, slot.pack(), 0)
            files.fsync(fd)
        finally:
            files.close(fd)

    def newest(self) -> Slot | None:
        """The newest whole slot; None if neither verifies."""
        return next(iter(self.whole()), None)

    def whole(self) -> list[Slot]:
        """The slots that verify, the newest first."""
        slots = [Slot.unpack(i, data) for i, data in enumerate(self._parts())]
        return sorted((slot for slot in slots if slot is not None), key=lambda slot: -slot.sequence)

    def has_damage(self) -> bool:
        """Whether a slot that was written does not verify: also one that is being written at this moment."""
        return any(Slot.unpack(i, data) is None and any(data) for i, data in enumerate(self._parts()))

    def _parts(self) -> list[bytes]:
        size = self._files.size(self._fd)
        data = self._files.pread(self._fd, size, 0)
        return [data[: size // 2], data[size // 2 : size // 2 * 2]]

    def write(self, slot: Slot) -> None:
        """The slot is in its place, not yet flushed."""
        try:
            self._files.write_fully(self._fd, slot.pack(), slot.position * (self._files.size(self._fd) // 2))
        except OSError as error:
            raise storage_error(error, "writing", self.path) from error

    def flush(self) -> None:
        self._files.fdatasync(self._fd)

    def close(self) -> None:
        self._files.close(self._fd)
