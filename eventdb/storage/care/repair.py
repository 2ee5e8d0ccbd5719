"""Repair: a damaged directory opens again. What can be rebuilt is; what is lost is named, and only lost when accepted.

Two passes. The first, on files nobody has open, makes the index one that LMDB may open (repair_index.py) and the
journal one that replays (repair_journal.py). Then the database is opened and closed once, which replays the journal.
The second pass goes through the segments the index names (repair_segments.py). Every file that is replaced lies in
`quarantine/` afterwards. Nothing is changed while a loss is not accepted.
"""

from __future__ import annotations

import contextlib
import fcntl
from struct import error as StructError
from zlib import crc32

from eventdb.config import RESERVE_BYTES
from eventdb.errors import CorruptionError, DatabaseLocked, EventDBError, NotADatabase
from eventdb.storage.care.repair_index import IndexRepair
from eventdb.storage.care.repair_journal import JournalRepair
from eventdb.storage.care.repair_segments import SegmentsRepair
from eventdb.storage.care.repair_site import RepairSite
from eventdb.storage.commit.journal import Tail
from eventdb.storage.device.directory import create_plain, read_format, write_format
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    COLUMN,
    CRC,
    META_KEY,
    SEALED_HEAD,
    SEALED_MAGIC,
    SEGMENT_HEAD,
    SEGMENT_MAGIC,
    SHARED_BYTES,
)
from eventdb.storage.index.kv import IndexFault, index_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from eventdb.schema import Schema
    from eventdb.storage.device.files import Clock, Files


class Repair:
    """One run on `path`. `reopen()` opens and closes the database, so that it recovers; `table_of` gives the columns
    and the positions of the key of a table; `beside` is the bit of partitions that lie beside another one."""

    def __init__(
        self, files: Files, clock: Clock, path: str, accept_loss: bool, reopen: Callable[[], None],
        table_of: Callable[[int], tuple[Schema, tuple[int, ...]]], beside: int,
    ) -> None:  # fmt: skip
        self._files = files
        self._clock = clock
        self._path = path
        self._reopen = reopen
        self._table_of = table_of
        self._beside = beside
        self._site = RepairSite(files, path, accept=accept_loss)
        self._index = IndexRepair(self._site)
        self._lost_ends: dict[tuple[int, int], int] = {}
        self._uuid = b""

    def run(self) -> dict[str, list[str]]:
        """{"repaired": [...], "lost": [...]}, one sentence each; CorruptionError naming the losses not accepted."""
        try:
            self._locked(self._first_pass)
            self._reopen()
            self._locked(self._second_pass)
        except OSError as error:
            raise storage_error(error, "repairing", self._path) from error
        except IndexFault as error:
            raise index_error(error, self._path) from error
        return self._site.report()

    def _locked(self, work: Callable[[], None]) -> None:
        fds = [self._files.create(f"{self._path}/{name}", exclusive=False) for name in ("LOCK", "ALIVE")]
        try:
            for fd in fds:
                try:
                    self._files.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise DatabaseLocked(f"{self._path} is open: close it everywhere first", path=self._path) from error
            work()
        finally:
            for fd in fds:
                self._files.close(fd)

    def _refuse_losses(self) -> None:
        if self._site.lost and not self._site.accept:
            self._index.clear()
            raise CorruptionError(
                f"{self._path} cannot be repaired without loss: {'; '.join(self._site.report()['lost'])}. "
                "Restore a backup, or repair with accept_loss=True",
                path=self._path,
            )

    def _first_pass(self) -> None:
        files, path = self._files, self._path
        self._uuid = self._find_uuid()
        for name in ("index", "journal", "topics", "spill"):
            if not files.is_directory(f"{path}/{name}"):
                files.mkdir(f"{path}/{name}")
        slots = self._index.slots()
        whole = bool(slots) and self._index.verifies(f"{path}/index", slots[0])
        tail = slots[0].tail.copy() if slots else None
        if not whole:
            self._index.build(slots)
            with self._site.opened(self._index.stage) as index, index.begin_read() as txn:
                tail = Tail()
                tail.unpack(txn.get(META_KEY) or Tail().pack())
        assert tail is not None
        closed = not files.listdir(f"{path}/journal") and (
            not slots or (slots[0].clean and slots[0].tail.lsn == tail.lsn)
        )  # fmt: skip
        journal = JournalRepair(self._site, self._uuid)
        cut = None if closed else journal.look(tail)
        self._refuse_losses()
        if cut is not None:
            journal.cut(*cut)
            self._lost_ends = journal.lost_ends
            if whole:
                self._index.restart_from(slots[0])
        if not whole:
            self._index.install(tail, closed)
        for name, size in (("shared", SHARED_BYTES), ("reserve", RESERVE_BYTES)):
            if not files.exists(f"{path}/{name}"):
                create_plain(files, f"{path}/{name}", size)

    def _find_uuid(self) -> bytes:
        try:
            return read_format(self._files, self._path)
        except (NotADatabase, CorruptionError) as error:  # a newer format, or one that cannot be read, is not damage
            for file in self._segment_files():
                with contextlib.suppress(OSError, EventDBError, StructError):
                    head = self._files.read_all(file, 4096)
                    struct = SEALED_HEAD if head.startswith(SEALED_MAGIC) else SEGMENT_HEAD
                    magic, uuid, *_ = fields = struct.unpack_from(head)
                    end = struct.size + fields[8 if struct is SEALED_HEAD else 7] * COLUMN.size
                    if magic in (SEGMENT_MAGIC, SEALED_MAGIC) and CRC.unpack_from(head, end)[0] == crc32(head[:end]):
                        self._site.put_aside("FORMAT")
                        write_format(self._files, self._path, uuid, self._clock.time_us())
                        self._site.done.append("FORMAT was written anew, with the uuid that the segments name")
                        return bytes(uuid)
            raise error

    def _segment_files(self) -> list[str]:
        files, found = self._files, []
        root = f"{self._path}/topics"
        for topic in files.listdir(root) if files.is_directory(root) else ():
            for partition in files.listdir(f"{root}/{topic}"):
                folder = f"{root}/{topic}/{partition}"
                found += [f"{folder}/{name}" for name in files.listdir(folder) if name.endswith((".seg", ".col"))]
        return found

    def _second_pass(self) -> None:
        segments = SegmentsRepair(self._site, self._uuid, self._table_of, self._lost_ends, self._beside)
        segments.run(self._index, self._refuse_losses)
