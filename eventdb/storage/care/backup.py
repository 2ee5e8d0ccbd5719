"""A backup: the database at one commit, in a directory of its own that opens like any database.

Writers go on meanwhile. The order of the work makes it consistent without holding anybody up:

1. one snapshot: the index is copied as the snapshot sees it, then the snapshot is closed;
2. the copied index says which segments there are, and their rows below its ends never change: they are copied at
   leisure. A segment that vanishes meanwhile (dropped topic, retention) starts the work again from 1;
3. the catalog, copied in between, decides which topics the backup has.

A second backup into the same directory copies only rows it does not have. Rows behind the old backup's ends are scrap
to it, so it stays whole until its index is exchanged for the new one; INCOMPLETE_NAME lies in the directory around the
exchange and from the beginning of a first backup, and a directory that holds it does not open.

A restore is a backup of the backup, optionally cut (`Cut`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from eventdb.config import INDEX_VERIFY_BYTES, RESERVE_BYTES
from eventdb.errors import CorruptionError, StorageError, UsageError
from eventdb.storage.care.cut import Cut
from eventdb.storage.care.recovery import forget_keys, remove_topic_files, stored_topics
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit.journal import Tail
from eventdb.storage.device.directory import create_plain, ensure_directory, read_format, write_format
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    BACKUP_BOOT,
    HISTORY_KEY,
    INCOMPLETE_NAME,
    META_KEY,
    PAGE_BYTES,
    PARTITION_KEY,
    SHARED_BYTES,
    sum_key,
)
from eventdb.storage.index.entries import damaged_blocks, segments_of
from eventdb.storage.index.kv import DATA_NAME, Index, IndexFault, index_error, scan
from eventdb.storage.sealed.sealed import SealedSegment
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import MissingFile, make_directories
from eventdb.storage.segment.sums import NOTHING, extend, pack, read_sum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.index.entries import Entry
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.segment.sums import Sum
    from eventdb.storage.snapshot import StoreSnapshot

_COPY_BYTES = 1 << 20
_ATTEMPTS = 10
_FOLDERS = ("journal", "topics", "spill")


class _Vanished(Exception):
    """A segment of the snapshot was removed before it could be copied."""


class Backup:
    """One run into `target`. `copy_catalog(path)` writes the catalog and returns the ids of its topics."""

    def __init__(
        self, files: Files, clock: Clock, source: str, uuid: bytes, target: str,
        snapshot: Callable[[], StoreSnapshot], index: Index, copy_catalog: Callable[[str], set[int]], cut: Cut | None,
    ) -> None:  # fmt: skip
        self._files = files
        self._clock = clock
        self._source = source
        self._uuid = uuid
        self._target = target
        self._snapshot = snapshot
        self._index = index
        self._copy_catalog = copy_catalog
        self._cut = cut
        self._old: dict[str, tuple[Entry, Sum]] = {}  # what the target has: path -> segment, sum
        self._marks: list[tuple[Entry, Segment]] = []  # tables' segments the target has, whose marks may be older
        self._end: dict[tuple[int, int], int] = {}  # of each log of the new index
        self._bytes = self._segments = 0

    def run(self) -> dict[str, object]:
        """The target is a backup; returns what was done. Typed errors; the old backup, if any, is untouched then, or
        the directory says that it is incomplete."""
        try:
            fresh = self._claim()
            lock = self._files.create(f"{self._target}/ALIVE", exclusive=False)
            try:
                self._lock(lock)
                if not fresh:
                    self._read_old()
                rows, lsn = self._copy()
                self._exchange(fresh)
            finally:
                self._files.close(lock)
        except OSError as error:
            raise storage_error(error, "backing up to", self._target) from error
        return {
            "path": self._target, "incremental": not fresh, "last_record": lsn, "rows": rows,
            "segments_copied": self._segments, "bytes_copied": self._bytes,
        }  # fmt: skip

    # -- the target ----------------------------------------------------------------------------

    def _claim(self) -> bool:
        """Whether a first backup begins; otherwise the target holds one of this database. StorageError."""
        files, target = self._files, self._target
        inside = os.path.realpath(target) + "/"
        if inside.startswith(os.path.realpath(self._source) + "/"):
            raise UsageError(f"{target} lies inside the database {self._source}: choose a directory elsewhere")
        ensure_directory(files, target, create=True)
        names = set(files.listdir(target))
        if "FORMAT" in names:
            if read_format(files, target) != self._uuid:
                raise StorageError(f"{target} is a backup of another database: choose another directory", path=target)
            return False
        if names and INCOMPLETE_NAME not in names:
            raise StorageError(
                f"{target} holds {sorted(names)[0]!r} and is no backup: choose a new or empty directory", path=target
            )
        self._mark()
        for name in _FOLDERS:
            if not files.is_directory(f"{target}/{name}"):
                files.mkdir(f"{target}/{name}")
        for name, size in (("shared", SHARED_BYTES), ("reserve", RESERVE_BYTES), ("LOCK", 0)):
            create_plain(files, f"{target}/{name}", size)
        return True

    def _mark(self) -> None:
        create_plain(self._files, f"{self._target}/{INCOMPLETE_NAME}", 0)
        self._files.fsync_dir(self._target)

    def _lock(self, fd: int) -> None:
        try:
            self._files.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{self._target} is open, or another backup into it runs: close it first", path=self._target
            ) from error

    def _read_old(self) -> None:
        """What the target has. StorageError if it is no backup of this history any more."""
        files, target = self._files, self._target
        if not files.exists(f"{target}/index") and files.exists(f"{target}/index.old"):
            files.rename(f"{target}/index.old", f"{target}/index")  # an exchange was interrupted
        self._remove(f"{target}/index.old")
        slots = CheckpointFile(files, f"{target}/index", write=False)
        try:
            slot = slots.newest()
        finally:
            slots.close()
        if slot is None or not slot.clean or slot.boot_id != BACKUP_BOOT:
            raise StorageError(
                f"{target} was opened for writing after it was made: it is a database of its own now; "
                "back up to a new directory",
                path=target,
            )
        old = Index(files, f"{target}/index", read_only=True, lock=False)
        try:
            with old.begin_read() as txn, self._index.begin_read() as mine:
                if txn.get(HISTORY_KEY) != mine.get(HISTORY_KEY) or slot.tail.lsn > self._lsn():
                    raise StorageError(
                        f"{target} is a backup of another history of this database (it was restored to an earlier "
                        "state since): back up to a new directory",
                        path=target,
                    )
                self._old = {entry.path: (entry, read_sum(txn, entry.place)) for entry in segments_of(txn)}
        finally:
            old.close()

    def _lsn(self) -> int:
        """Of the newest commit of the source."""
        with self._snapshot() as snapshot:
            return snapshot.tail().lsn

    # -- copying -------------------------------------------------------------------------------

    def _copy(self) -> tuple[int, int]:
        """The new index, the new catalog and every segment are in the target, durably. (rows, lsn)."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._copy_once()
            except _Vanished as gone:
                if attempt == _ATTEMPTS - 1:
                    raise CorruptionError(f"{gone} is missing: run check()", path=str(gone)) from None
        raise AssertionError("unreachable")

    def _copy_once(self) -> tuple[int, int]:
        files, folder = self._files, f"{self._target}/index.new"
        self._marks, self._end = [], {}
        self._remove(folder)
        files.mkdir(folder)
        fd = files.create(f"{folder}/{DATA_NAME}")
        try:
            with self._snapshot() as snapshot:
                self._index.copy_to(fd, snapshot.transaction())
                ahead, tail = snapshot.ahead(), snapshot.tail()
        finally:
            files.close(fd)
        live = self._copy_catalog(f"{self._target}/catalog.new")
        copy = Index(files, folder)
        try:
            with copy.begin_write() as txn:
                for key, value in ahead.items():
                    txn.put(key, value)
                self._settle(txn, tail, live)
                wanted = segments_of(txn)
                noted = {entry.place: read_sum(txn, entry.place) for entry in wanted}
                for key, value in scan(txn, b"p"):
                    self._end[PARTITION_KEY.unpack(key)[1:]] = PartitionState().unpack(value).log_end
            sums = [(entry.place, self._copy_segment(entry, noted[entry.place])) for entry in wanted]
            with copy.begin_write() as txn:
                for key in [key for key, _ in scan(txn, b"c")]:
                    txn.delete(key)
                for place, found in sums:
                    if found[0]:
                        txn.put(sum_key(*place), pack(found))
            self._flush_directories({entry.place[:2] for entry in wanted})
            copy.sync()
            slot = Slot(0, 1, True, BACKUP_BOOT, tail, copy.meta_pages(), copy.crc(INDEX_VERIFY_BYTES))
            CheckpointFile.create(files, folder, slot)
        except IndexFault as error:
            raise index_error(error, copy.path) from error
        finally:
            copy.close()
        files.unlink(f"{folder}/lock.mdb")
        files.fsync_dir(folder)
        return sum(entry.rows for entry in wanted), tail.lsn

    def _settle(self, txn: Any, tail: Tail, live: set[int]) -> None:
        """The copied index is that of a database closed cleanly, with the topics of the copied catalog."""
        for topic_id in stored_topics(txn) - live:
            forget_keys(txn, topic_id)
        for kind in (b"w", b"g"):  # the target has no file that waits to be removed
            for key in [key for key, _ in scan(txn, kind)]:
                txn.delete(key)
        if self._cut is not None:
            self._cut.apply(txn, self._open_source)
            txn.put(HISTORY_KEY, os.urandom(16))
        tail.bulk_lsn, tail.durable_lsn = 0, tail.lsn
        txn.put(META_KEY, tail.pack())

    def _open_source(self, entry: Entry) -> Segment | SealedSegment:
        try:
            return entry.open(self._files, self._source, self._uuid)
        except MissingFile:
            raise _Vanished(f"{self._source}/{entry.path}") from None

    def _open_raw(self, entry: Entry) -> Segment:
        segment = self._open_source(entry)
        assert not isinstance(segment, SealedSegment)  # tables are not sealed
        return segment

    def _copy_segment(self, entry: Entry, noted: Sum) -> Sum:
        """The target's file holds the entry's rows, durably; returns their sum, NOTHING of a sealed one.

        CorruptionError if they are not those the source noted: damage does not spread to backups.
        """
        old, before = self._old.get(entry.path, (None, NOTHING))
        if old is not None and old.description != entry.description:
            raise StorageError(
                f"{self._source}/{entry.path} was rewritten since the last backup into {self._target}: "
                "use a new directory",
                path=self._target,
            )
        done = 0 if old is None else old.rows
        table = entry.table
        if old is not None and done >= entry.rows and (entry.sealed or before[0] == entry.rows):
            if table:
                self._marks.append((entry, self._open_raw(entry)))
            return before
        segment = self._open_source(entry)
        if isinstance(segment, SealedSegment):
            for problem in damaged_blocks(segment):
                raise CorruptionError(f"{problem}: nothing was backed up", path=segment.path)
            self._write(entry, segment, [(0, segment.layout.size_bytes)], None)
            return NOTHING
        if before[0] != done or done > entry.rows:
            before = NOTHING
        found = self._sum(segment, before, noted, entry.rows)
        if table:
            self._copy_table_segment(entry, segment, old)
            return found
        self._write(entry, segment, segment.regions(done, entry.rows - done), old)
        return found

    def _copy_table_segment(self, entry: Entry, segment: Segment, old: Entry | None) -> None:
        """All but the marks, where the target has the file already: those are stored when it is marked as incomplete
        (`_store_marks`), as they say something else to the old index."""
        layout = segment.layout
        done = 0 if old is None else old.rows
        if old is not None:
            self._marks.append((entry, segment))
            if done == entry.rows:
                return
        if entry.active:
            regions = segment.regions(done, entry.rows - done)
        else:  # rows that the index cannot count exactly may follow others: everything but the marks
            start = layout.columns[layout.marks].value_position
            stop = start + layout.capacity * 8
            regions = [(PAGE_BYTES, start - PAGE_BYTES), (stop, layout.size_bytes - stop)]
        self._write(entry, segment, regions, old)
        if old is None:
            self._store_marks(entry, segment)

    def _store_marks(self, entry: Entry, segment: Segment) -> None:
        """The target's marks are those of the new index: marks of later commits are not part of it."""
        import numpy as np

        files, layout = self._files, segment.layout
        position = layout.columns[layout.marks].value_position
        rows = min(entry.rows, layout.capacity)
        marks = np.frombuffer(segment.memory, np.dtype("<i8"), rows, position).copy()
        marks[marks > self._end[entry.place[:2]]] = 0
        data = marks.tobytes()
        fd = files.open(f"{self._target}/{entry.path}", write=True)
        try:
            if files.pread(fd, len(data), position) != data:
                files.write_fully(fd, data, position)
                files.fsync(fd)
                self._bytes += len(data)
        finally:
            files.close(fd)

    def _write(
        self, entry: Entry, segment: Segment | SealedSegment, regions: list[tuple[int, int]], old: Entry | None
    ) -> None:
        """The regions of the source's file are in the target's, which is made unless `old` is there, durably."""
        files, path = self._files, f"{self._target}/{entry.path}"
        make_directories(files, self._target, *entry.place[:2])
        try:
            source = files.open(segment.path)
        except FileNotFoundError:
            raise _Vanished(segment.path) from None
        try:
            if old is None and files.exists(path):
                files.unlink(path)  # left by an interrupted backup
            target = files.create(path, exclusive=False)
            try:
                if old is None and not isinstance(segment, SealedSegment):
                    files.allocate(target, segment.layout.size_bytes)
                    files.write_fully(target, segment.layout.header(self._uuid, *entry.place), 0)
                for position, length in regions:
                    self._copy_bytes(source, target, position, length, segment.path)
                files.fsync(target)
            finally:
                files.close(target)
        finally:
            files.close(source)
        self._segments += 1

    @staticmethod
    def _sum(segment: Segment, before: Sum, noted: Sum, rows: int) -> Sum:
        if before[0] < noted[0] <= rows:
            before = extend(segment, before, noted[0])
            if before != noted:
                raise CorruptionError(
                    f"{segment.path}: rows below {noted[0]} are damaged: nothing was backed up, run check(deep=True)",
                    path=segment.path,
                )
        return extend(segment, before, rows) if rows > before[0] else before

    def _copy_bytes(self, source: int, target: int, position: int, length: int, path: str) -> None:
        while length:
            data = self._files.pread(source, min(length, _COPY_BYTES), position)
            if not data:
                raise CorruptionError(f"{path} ends at byte {position}: it was cut short", path=path)
            self._files.write_fully(target, data, position)
            position += len(data)
            length -= len(data)
            self._bytes += len(data)

    def _flush_directories(self, partitions: set[tuple[int, ...]]) -> None:
        for topic_id, partition in sorted(partitions):
            self._files.fsync_dir(f"{self._target}/topics/{topic_id}/{partition}")
            self._files.fsync_dir(f"{self._target}/topics/{topic_id}")
        self._files.fsync_dir(f"{self._target}/topics")

    # -- the exchange --------------------------------------------------------------------------

    def _exchange(self, fresh: bool) -> None:
        """The new index and catalog are the target's."""
        files, target = self._files, self._target
        if not fresh:
            self._mark()
        for entry, segment in self._marks:
            self._store_marks(entry, segment)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                files.unlink(f"{target}/catalog.sqlite{suffix}")
        files.rename(f"{target}/catalog.new", f"{target}/catalog.sqlite")
        if files.exists(f"{target}/index"):
            self._remove(f"{target}/index.old")
            files.rename(f"{target}/index", f"{target}/index.old")
        files.rename(f"{target}/index.new", f"{target}/index")
        for name in _FOLDERS:
            files.fsync_dir(f"{target}/{name}")
        files.fsync_dir(target)
        if fresh:
            write_format(files, target, self._uuid, self._clock.time_us())
        files.unlink(f"{target}/{INCOMPLETE_NAME}")
        files.fsync_dir(target)
        self._remove(f"{target}/index.old")
        self._collect()

    def _collect(self) -> None:
        """Files that the new backup does not name go, whichever run left them."""
        files, root = self._files, f"{self._target}/topics"
        index = Index(files, f"{self._target}/index", read_only=True, lock=False)
        try:
            with index.begin_read() as txn:
                kept = {f"{self._target}/{entry.path}" for entry in segments_of(txn)}
        finally:
            index.close()
        for topic in files.listdir(root):
            paths = [
                f"{root}/{topic}/{partition}/{name}" for partition in files.listdir(f"{root}/{topic}")
                for name in files.listdir(f"{root}/{topic}/{partition}")
            ]  # fmt: skip
            if not any(path in kept for path in paths):
                remove_topic_files(files, self._target, int(topic))
                continue
            for path in paths:
                if path not in kept:
                    files.unlink(path)

    def _remove(self, folder: str) -> None:
        files = self._files
        if not files.is_directory(folder):
            return
        for name in files.listdir(folder):
            files.unlink(f"{folder}/{name}")
        files.rmdir(folder)


__all__ = ["Backup", "Cut"]
