"""The journal: physical redo records of the commits since the last checkpoint, in files shared by every process.

`Tail` says where the next record goes; it lives in the index, so whoever holds the writer lock knows it. A file is
zero-filled ahead (an overwrite is flushed in half the time of a growing append), rolled when full, never recycled.
"""

from __future__ import annotations

from zlib import crc32

from eventdb.config import JOURNAL_FIRST_BYTES, JOURNAL_MAX_BYTES
from eventdb.errors import CorruptionError
from eventdb.storage.commit.spare import SpareFile
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.readable import Readable
from eventdb.storage.format import (
    COMMIT_RECORD,
    META,
    OPEN_RECORD,
    PAGE_BYTES,
    RECORD_BYTES,
    RECORD_HEAD,
    RECORD_MAGIC,
    RECORD_MAGIC_BYTES,
    ROLL_BYTES,
    ROLL_PAYLOAD,
    ROLL_RECORD,
    U32,
    align,
    journal_name,
    parse_journal_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    from eventdb.storage.device.files import Files

_ZERO = bytes(8)


class Tail:
    """The META value: where the journal ends, what is applied, what is known to be durable."""

    __slots__ = (
        "bulk_lsn",
        "chain",
        "checkpoint_sequence",
        "durable_lsn",
        "epoch",
        "lsn",
        "number",
        "position",
        "size",
    )

    def __init__(self) -> None:
        self.lsn = self.epoch = self.number = self.position = self.chain = self.size = 0
        self.durable_lsn = 0
        self.checkpoint_sequence = 0
        self.bulk_lsn = 0  # first record since the checkpoint whose rows were not flushed before it; 0 = none

    def pack(self) -> bytes:
        return META.pack(
            self.lsn, self.epoch, self.number, self.position, self.chain, 0, self.size, self.durable_lsn,
            self.checkpoint_sequence, self.bulk_lsn,
        )  # fmt: skip

    def unpack(self, value: bytes) -> None:
        (
            self.lsn, self.epoch, self.number, self.position, self.chain, _, self.size, self.durable_lsn,
            self.checkpoint_sequence, self.bulk_lsn,
        ) = META.unpack(value)  # fmt: skip

    def copy(self) -> Tail:
        other = Tail()
        other.unpack(self.pack())
        return other

    def flushed(self) -> int:
        """The lsn that is durable once the journal has been flushed up to `lsn`."""
        return self.lsn if not self.bulk_lsn else min(self.lsn, self.bulk_lsn - 1)


class Record:
    """A verified record. `payload` is a view of the mapped journal file: valid while the file object lives."""

    __slots__ = (
        "crc",
        "durable_lsn",
        "epoch",
        "flags",
        "length",
        "lsn",
        "number",
        "payload",
        "position",
        "previous",
        "type",
    )

    def __init__(self, head: tuple[int, ...], crc: int, payload: memoryview) -> None:
        (
            _,
            self.type,
            self.flags,
            _,
            self.epoch,
            self.number,
            self.position,
            self.lsn,
            self.durable_lsn,
            self.previous,
            size,
            _,
        ) = head
        self.crc = crc
        self.payload = payload
        self.length = align(RECORD_BYTES + size, 8)


def usual_bytes(number: int) -> int:
    """The size of the file of that number, if no record needs a larger one."""
    return min(JOURNAL_FIRST_BYTES << (2 * min(number, 20)), JOURNAL_MAX_BYTES)


class JournalFile:
    """One open journal file, mapped for reading."""

    __slots__ = ("epoch", "fd", "mapping", "memory", "number", "path", "size")

    def __init__(self, path: str, fd: int, mapping: mmap.mmap, epoch: int, number: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.mapping = mapping
        self.memory = memoryview(mapping)
        self.epoch = epoch
        self.number = number
        self.size = size


class Journal:
    """Opens, creates, reads and extends journal files. The caller holds the writer lock."""

    def __init__(self, files: Files, directory: str, uuid: bytes) -> None:
        self._files = files
        self.directory = directory
        self.seed = crc32(uuid)
        self.file: JournalFile | None = None
        self.spare = SpareFile(files, directory)

    def path(self, epoch: int, number: int) -> str:
        return f"{self.directory}/{journal_name(epoch, number)}"

    def names(self) -> list[tuple[int, int]]:
        try:
            names = self._files.listdir(self.directory)
        except OSError as error:
            raise storage_error(error, "reading", self.directory) from error
        return sorted(found for name in names if (found := parse_journal_name(name)))

    def encode(self, type: int, flags: int, at: Tail, lsn: int, payload: bytes) -> tuple[bytes, int]:
        """The bytes of a record at the tail and its header CRC."""
        size = len(payload)
        head = RECORD_HEAD.pack(
            RECORD_MAGIC,
            type,
            flags,
            0,
            at.epoch,
            at.number,
            at.position,
            lsn,
            at.durable_lsn,
            at.chain,
            size,
            crc32(payload, self.seed),
        )
        crc = crc32(head, self.seed)
        return b"".join((head, U32.pack(crc), payload, _ZERO[: -(RECORD_BYTES + size) % 8])), crc

    def read(self, file: JournalFile, position: int) -> Record | None:
        """The record at the position if it verifies, else None."""
        if position + RECORD_BYTES > file.size:
            return None
        raw = file.memory[position : position + RECORD_HEAD.size]
        head = RECORD_HEAD.unpack(raw)
        if head[0] != RECORD_MAGIC or (head[4], head[5], head[6]) != (file.epoch, file.number, position):
            return None
        (crc,) = U32.unpack_from(file.memory, position + RECORD_HEAD.size)
        start = position + RECORD_BYTES
        if crc32(raw, self.seed) != crc or start + head[10] > file.size:
            return None
        payload = file.memory[start : start + head[10]]
        if crc32(payload, self.seed) != head[11]:
            return None
        return Record(head, crc, payload)

    def open(self, epoch: int, number: int, *, write: bool = True, fresh: bool = False) -> JournalFile:
        """The file, mapped. `fresh` forgets cached pages first. FileNotFoundError and CorruptionError (not a journal
        file)."""
        path = self.path(epoch, number)
        files = self._files
        try:
            fd = files.open(path, write=write)
            try:
                if fresh:
                    files.drop_cache(fd)
                size = files.size(fd)
                if size < RECORD_BYTES:
                    raise CorruptionError(f"{path} has {size} bytes: too short for a journal file", path=path)
                return JournalFile(path, fd, files.mmap(fd, size, write=write), epoch, number, size)
            except BaseException:
                files.close(fd)
                raise
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(error, "opening", path) from error

    def close_file(self, file: JournalFile) -> None:
        """The descriptor goes; the mapping goes with its last view."""
        self._files.close(file.fd)

    def create(self, at: Tail, epoch: int, number: int, need_bytes: int = 0) -> tuple[JournalFile, Tail]:
        """A new, zero-filled, durable file that follows `at`, and the tail in it. A leftover of that name is
        replaced."""
        files = self._files
        path = self.path(epoch, number)
        tail = at.copy()
        tail.epoch, tail.number, tail.position = epoch, number, 0
        first, crc = self.encode(OPEN_RECORD, 0, tail, at.lsn, b"")
        size = align(max(usual_bytes(number), len(first) + need_bytes + align(ROLL_BYTES, 8)), PAGE_BYTES)
        try:
            try:
                fd = self._zeros(path, size)
            except FileExistsError:
                files.unlink(path)
                fd = self._zeros(path, size)
            try:
                files.write_fully(fd, first, 0)
                files.fsync(fd)
                files.fsync_dir(self.directory)
                file = JournalFile(path, fd, files.mmap(fd, size, write=True), epoch, number, size)
            except BaseException:
                files.close(fd)
                files.unlink(path)
                raise
        except OSError as error:
            raise storage_error(error, "creating", path) from error
        tail.position, tail.chain, tail.size = len(first), crc, size
        return file, tail

    def _zeros(self, path: str, size: int) -> int:
        """A descriptor of a new file of zeros, prepared or made now. OSError."""
        files = self._files
        fd = self.spare.take(size, path)
        if fd is not None:
            return fd
        fd = files.create(path)
        try:
            files.allocate(fd, size)
            files.fill_zeros(fd, size, self.spare.piece_bytes)
        except BaseException:
            files.close(fd)
            files.unlink(path)
            raise
        return fd

    def roll_record(self, at: Tail, following: Tail) -> bytes:
        return self.encode(
            ROLL_RECORD, 0, at, at.lsn, ROLL_PAYLOAD.pack(following.number, following.chain, following.size)
        )[0]

    def walk(self, tail: Tail, *, fresh: bool = False, write: bool = True) -> Iterator[Record]:
        """The records from the tail on, across files; `tail` is moved past each record after the caller had it.

        Ends at the first record that does not verify or does not follow. `self.file` is left at the tail's file.
        """
        while True:
            file = self.file
            if file is None or (file.epoch, file.number) != (tail.epoch, tail.number):
                if file is not None:
                    self.close_file(file)
                    self.file = None
                file = self.file = self.open(tail.epoch, tail.number, fresh=fresh, write=write)
                Readable(file.mapping, file.path).require(0, file.size)
                self._check_start(file, tail)
            tail.size = file.size
            record = self.read(file, tail.position)
            if record is None or record.previous != tail.chain:
                return
            if record.type == ROLL_RECORD and record.lsn == tail.lsn:
                self._follow(record, tail, fresh, write)
                continue
            if record.type != COMMIT_RECORD or record.lsn != tail.lsn + 1:
                return
            yield record
            tail.lsn = record.lsn
            tail.position += record.length
            tail.chain = record.crc

    def _check_start(self, file: JournalFile, tail: Tail) -> None:
        """The file, which was durable before anything named it, has its size and its first record."""
        first = self.read(file, 0)
        if file.size < tail.size or first is None or first.type != OPEN_RECORD:
            raise CorruptionError(
                f"{file.path} is damaged before record {tail.lsn + 1}: it was cut short or overwritten; restore a "
                "backup, or run repair",
                path=file.path,
            )

    def _follow(self, roll: Record, tail: Tail, fresh: bool, write: bool) -> None:
        number, crc, _size = ROLL_PAYLOAD.unpack(roll.payload)
        path = self.path(tail.epoch, number)
        try:
            file = self.open(tail.epoch, number, fresh=fresh, write=write)
        except FileNotFoundError:
            # The next file is durable before the record that names it: this is not an interrupted roll.
            raise CorruptionError(
                f"{path} is missing: the journal goes on in it after record {tail.lsn}", path=path
            ) from None
        Readable(file.mapping, file.path).require(0, file.size)
        first = self.read(file, 0)
        if first is None or first.crc != crc or first.type != OPEN_RECORD:
            self.close_file(file)
            raise CorruptionError(f"{path} does not begin as the journal before it says: restore a backup", path=path)
        if self.file is not None:
            self.close_file(self.file)
        self.file = file
        tail.number, tail.position, tail.chain, tail.size = number, first.length, crc, file.size
        tail.durable_lsn = max(tail.durable_lsn, tail.flushed())

    def valid_after(self, tail: Tail) -> Iterator[Record]:
        """Every verifying record behind the tail, in its file and in later files of the epoch, whatever it follows."""
        for epoch, number in self.names():
            if epoch != tail.epoch or number < tail.number:
                continue
            try:
                file = self.open(epoch, number, write=False)
            except (FileNotFoundError, CorruptionError):
                continue  # too short: a roll was interrupted before anything was in it
            try:
                Readable(file.mapping, file.path).require(0, file.size)
                at = tail.position if number == tail.number else 0
                data = file.mapping
                while (at := data.find(RECORD_MAGIC_BYTES, at)) >= 0:
                    record = self.read(file, at) if at % 8 == 0 else None
                    if record is not None:
                        yield record
                    at += 4
            finally:
                self.close_file(file)

    def close(self) -> None:
        if self.file is not None:
            self.close_file(self.file)
            self.file = None
