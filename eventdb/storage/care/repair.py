"""Repair: a damaged directory opens again. What can be rebuilt is; what is lost is named, and only lost when accepted.

Two passes. The first, on files nobody has open, makes the index one that LMDB may open and the journal one that
replays: from a checkpoint's meta pages, or from whatever pairs of the index file verify. Then the database is opened
and closed once, which replays the journal. The second pass goes through the segments the index names. Every file that
is replaced lies in `quarantine/` afterwards. Nothing is changed while a loss is not accepted.
"""

from __future__ import annotations

import contextlib
import fcntl
from struct import error as StructError

from eventdb.config import INDEX_VERIFY_BYTES, RESERVE_BYTES
from eventdb.errors import CorruptionError, DatabaseLocked, EventDBError, NotADatabase, StorageError
from eventdb.storage.care.cut import cut_log
from eventdb.storage.care.recovery import parse
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit.journal import Journal, Tail
from eventdb.storage.device.directory import create_plain, read_format, write_format
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    BACKUP_BOOT,
    COLUMN,
    CRC,
    META_KEY,
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    OP_BULK,
    OP_CHUNK,
    PARTITION_KEY,
    SEALED_HEAD,
    SEALED_MAGIC,
    SEGMENT_HEAD,
    SEGMENT_KEY,
    SEGMENT_MAGIC,
    SHARED_BYTES,
    TABLE,
    U64,
    journal_name,
    row_key_prefix,
    segment_key,
    sum_key,
    table_key,
    topic_directory,
)
from eventdb.storage.index.entries import damaged_blocks, entries_of
from eventdb.storage.index.key_index import current_places
from eventdb.storage.index.kv import DATA_NAME, Index, IndexFault, index_error, scan, structure_problems
from eventdb.storage.index.live_pages import live_crc
from eventdb.storage.index.salvage import find_pairs, newest, replaced
from eventdb.storage.sealed.sealed import SealedLayout, SealedSegment, file_name, open_sealed
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import SegmentLayout
from eventdb.storage.segment.sums import read_sum, verify_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.journal import Record
    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.index.entries import Entry


class Repair:
    """One run on `path`. `reopen()` opens and closes the database, so that it recovers; `table_of` gives the columns
    and the positions of the key of a table."""

    def __init__(
        self, files: Files, clock: Clock, path: str, accept_loss: bool, reopen: Callable[[], None],
        table_of: Callable[[int], tuple[Schema, tuple[int, ...]]],
    ) -> None:  # fmt: skip
        self._files = files
        self._clock = clock
        self._path = path
        self._accept = accept_loss
        self._reopen = reopen
        self._table_of = table_of
        self._done: list[str] = []
        self._lost: list[str] = []
        self._aside = f"{path}/quarantine"
        self._stage = f"{path}/index.repair"
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
        return {"repaired": self._done, "lost": self._lost}

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
        if self._lost and not self._accept:
            self._clear_stage()
            raise CorruptionError(
                f"{self._path} cannot be repaired without loss: {'; '.join(self._lost)}. "
                "Restore a backup, or repair with accept_loss=True",
                path=self._path,
            )

    # -- the first pass ------------------------------------------------------------------------

    def _first_pass(self) -> None:
        files, path = self._files, self._path
        self._uuid = self._find_uuid()
        for name in ("index", "journal", "topics", "spill"):
            if not files.is_directory(f"{path}/{name}"):
                files.mkdir(f"{path}/{name}")
        slots = self._slots()
        whole = bool(slots) and self._verifies(f"{path}/index", slots[0])
        tail = slots[0].tail.copy() if slots else None
        if not whole:
            self._build_index(slots)
            with self._opened(self._stage) as index, index.begin_read() as txn:
                tail = Tail()
                tail.unpack(txn.get(META_KEY) or Tail().pack())
        assert tail is not None
        closed = not files.listdir(f"{path}/journal") and (
            not slots or (slots[0].clean and slots[0].tail.lsn == tail.lsn)
        )  # fmt: skip
        cut = None if closed else self._read_journal(tail)
        self._refuse_losses()
        if cut is not None:
            self._cut_journal(*cut)
            if whole:
                self._restart_from(slots[0])
        if not whole:
            self._install_index(tail, closed)
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
                    if magic in (SEGMENT_MAGIC, SEALED_MAGIC) and CRC.unpack_from(head, end)[0] == file_sum(head[:end]):
                        self._put_aside("FORMAT")
                        write_format(self._files, self._path, uuid, self._clock.time_us())
                        self._done.append("FORMAT was written anew, with the uuid that the segments name")
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

    def _slots(self) -> list[Slot]:
        """Of the checkpoint file, the newest first."""
        try:
            file = CheckpointFile(self._files, f"{self._path}/index", write=False)
        except (OSError, EventDBError):
            return []
        try:
            found, damaged = file.whole(), file.has_damage()
        finally:
            file.close()
        if damaged and found:
            tail = found[0].tail
            if not self._files.exists(f"{self._path}/journal/{journal_name(tail.epoch, tail.number)}"):
                return []  # the damaged one was newer: what the other one goes on with is gone, as it should be
        return found

    def _verifies(self, folder: str, slot: Slot | None) -> bool:
        """Whether LMDB may open the folder's index and every value in it verifies."""
        try:
            fd = self._files.open(f"{folder}/{DATA_NAME}")
            try:
                found = live_crc(self._files, fd, INDEX_VERIFY_BYTES)
            finally:
                self._files.close(fd)
            if slot is not None and slot.clean and slot.index_crc not in (0, found):
                return False
            if structure_problems(folder):
                return False
            with self._opened(folder) as index, index.begin_read() as txn:
                for _ in scan(txn, b""):
                    pass
                return txn.get(META_KEY) is not None
        except (OSError, EventDBError, IndexFault):
            return False

    @contextlib.contextmanager
    def _opened(self, folder: str) -> Any:
        index = Index(self._files, folder)
        try:
            yield index
        finally:
            index.close()

    def _read(self, path: str) -> bytes:
        fd = self._files.open(path)
        try:
            return self._files.pread(fd, self._files.size(fd), 0)
        finally:
            self._files.close(fd)

    def _clear_stage(self) -> None:
        if self._files.is_directory(self._stage):
            for name in self._files.listdir(self._stage):
                self._files.unlink(f"{self._stage}/{name}")
            self._files.rmdir(self._stage)

    def _build_index(self, slots: list[Slot]) -> None:
        """The staged folder holds an index that verifies."""
        files = self._files
        try:
            data = self._read(f"{self._path}/index/{DATA_NAME}")
        except (OSError, EventDBError):
            data = b""
        tries: list[Slot | None] = [None, *slots]
        for slot in tries:
            pages = b"" if slot is None else slot.pages
            self._clear_stage()
            files.mkdir(self._stage)
            fd = files.create(f"{self._stage}/{DATA_NAME}")
            try:
                files.write_fully(fd, pages + data[len(pages) :], 0)
            finally:
                files.close(fd)
            if self._verifies(self._stage, None):
                what = "as it is" if slot is None else f"at the checkpoint of record {slot.tail.lsn}"
                self._done.append(f"index/{DATA_NAME} is whole {what}; its checkpoint was written anew")
                if slot is None and slots and slots[0].clean:
                    self._lost.append(
                        f"index/{DATA_NAME} is not the file that was closed last: values in it may be older ones"
                    )
                return
        self._salvage(data, slots[0].pages if slots else b"")

    def _salvage(self, data: bytes, pages: bytes) -> None:
        files = self._files
        found = find_pairs(data, len(pages) // 2 or 4096)
        if META_KEY not in found:
            raise CorruptionError(f"nothing of index/{DATA_NAME} is readable: restore a backup", path=self._path)
        self._clear_stage()
        files.mkdir(self._stage)
        chosen = {key: newest(key, values) for key, values in found.items()}
        unsure = sum(value is None for value in chosen.values())
        segments = {key: value for key, value in chosen.items() if key[:1] == b"s" and value is not None}
        for key in replaced(segments):  # entries of pages that are free: their files are gone
            _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
            name = f"{topic_directory(topic_id, partition)}/{file_name(base, segments[key])}"
            if not files.exists(f"{self._path}/{name}"):
                del chosen[key]
        with self._opened(self._stage) as index:
            with index.begin_write() as txn:
                for key, value in chosen.items():
                    if value is not None:
                        txn.put(key, value)
            index.sync()
        self._done.append(f"index/{DATA_NAME} was built anew from {len(found)} entries that verify")
        self._lost.append(
            f"index/{DATA_NAME}: entries on its damaged pages; {unsure} entries with several versions "
            "(progress of views and producers); what was deleted lately may be back"
        )

    def _install_index(self, tail: Tail, clean: bool) -> None:
        files, path = self._files, self._path
        with self._opened(self._stage) as index:
            index.sync()
            pages = index.meta_pages()
        files.unlink(f"{self._stage}/lock.mdb")
        CheckpointFile.create(files, self._stage, Slot(0, 1, clean, "repair", tail, pages))
        files.fsync_dir(self._stage)
        self._put_aside("index")
        files.rename(self._stage, f"{path}/index")
        files.fsync_dir(path)

    def _restart_from(self, slot: Slot) -> None:
        """The next open takes the checkpoint for the state and replays the journal after it."""
        again = Slot(slot.position ^ 1, slot.sequence + 1, False, "repair", slot.tail, slot.pages)
        self._write_slot(again)

    def _write_slot(self, slot: Slot) -> None:
        target = CheckpointFile(self._files, f"{self._path}/index", write=True)
        try:
            target.write(slot)
            target.flush()
        finally:
            target.close()

    def _put_aside(self, name: str) -> None:
        """The file or folder lies in quarantine/ under a name of its own."""
        files = self._files
        if not files.exists(f"{self._path}/{name}"):
            return
        if not files.is_directory(self._aside):
            files.mkdir(self._aside)
        target, number = f"{self._aside}/{name.replace('/', '-')}", 1
        while files.exists(f"{target}.{number}"):
            number += 1
        files.rename(f"{self._path}/{name}", f"{target}.{number}")
        files.fsync_dir(self._aside)

    # -- the journal ---------------------------------------------------------------------------

    def _read_journal(self, tail: Tail) -> tuple[Tail, bool] | None:
        """Where the journal must end to replay, and whether anything of it can; None if it replays as it is."""
        journal = Journal(self._files, f"{self._path}/journal", self._uuid)
        at = tail.copy()
        try:
            for _ in journal.walk(at, write=False):
                pass
        except (FileNotFoundError, EventDBError) as error:
            self._lost.append(f"journal: {error}: the commits after record {at.lsn}")
            return at, journal.file is not None
        finally:
            file, journal.file = journal.file, None
        later = [record for record in journal.valid_after(at) if record.lsn > at.lsn]
        if file is not None:
            journal.close_file(file)
        if not any(record.durable_lsn > at.lsn for record in later):
            return None
        self._lost.append(
            f"journal/{journal_name(at.epoch, at.number)}: record {at.lsn + 1} at byte {at.position} is damaged; lost "
            f"are the commits of records {at.lsn + 1}..{max(r.lsn for r in later)}{_rows_lost(later)}"
        )
        return at, True

    def _cut_journal(self, at: Tail, readable: bool) -> None:
        """The journal ends at the tail; its files lie in quarantine."""
        files, folder = self._files, f"{self._path}/journal"
        name = journal_name(at.epoch, at.number)
        kept = self._read(f"{folder}/{name}") if readable else b""
        for other in files.listdir(folder):
            number = other.split("-")
            if len(number) == 3 and (int(number[1]), int(number[2])) >= (at.epoch, at.number):
                self._put_aside(f"journal/{other}")
        fd = files.create(f"{folder}/{name}")
        try:
            size = max(len(kept), 4096)
            files.fill_zeros(fd, size)
            files.write_fully(fd, kept[: at.position], 0)
            files.fsync(fd)
        finally:
            files.close(fd)
        files.fsync_dir(folder)

    # -- the second pass -----------------------------------------------------------------------

    def _second_pass(self) -> None:
        """Every partition holds only segments that are there. The database is closed cleanly."""
        files, path = self._files, self._path
        headers: list[tuple[str, bytes]] = []
        slot = self._slots()[0]
        with self._opened(f"{path}/index") as index:
            txn = index.begin_write()
            try:
                changed = False
                for key, value in list(scan(txn, b"p")):
                    changed |= self._check_partition(txn, key, PartitionState().unpack(value), headers)
                self._refuse_losses()
                if changed:
                    txn.commit()
                else:
                    txn.abort()
            except BaseException:
                txn.abort()
                raise
            for file, header in headers:
                fd = files.open(file, write=True)
                try:
                    files.write_fully(fd, header, 0)
                    files.fsync(fd)
                finally:
                    files.close(fd)
            index.sync()
            after = Slot(
                slot.position ^ 1, slot.sequence + 1, True, slot.boot_id if slot.boot_id != BACKUP_BOOT else "",
                slot.tail, index.meta_pages(), index.crc(INDEX_VERIFY_BYTES),
            )  # fmt: skip
            self._write_slot(after)

    def _check_partition(self, txn: Any, key: bytes, state: PartitionState, headers: list[tuple[str, bytes]]) -> bool:
        """Whether the partition had to be cut."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        entries = entries_of(txn, topic_id, partition, state)
        stops = [*[entry.place[2] for entry in entries[1:]], state.log_end]
        missing = []
        for entry, stop in zip(entries, stops, strict=False):
            try:
                segment = self._open_entry(entry, headers)
            except (StorageError, OSError):
                missing.append((entry, stop))
                continue
            where = f"topic {topic_id}/{partition}: offsets {entry.place[2]}..{stop}"
            if isinstance(segment, SealedSegment):
                self._lost += [
                    f"{where}: {text}; the rows are kept, those of the block cannot be read"
                    for text in damaged_blocks(segment)
                ]
            else:
                for text in verify_rows(segment, read_sum(txn, entry.place), entry.rows):
                    self._lost.append(f"{where}: {text}; the rows are kept")
                    txn.delete(sum_key(*entry.place))
        if missing and txn.get(table_key(topic_id, partition)) is not None:
            self._drop_from_table(txn, key, state, entries, missing)
        elif missing:
            self._drop_missing(txn, key, state, entries, missing)
        return bool(missing) or any(f"topic {topic_id}/{partition}:" in text for text in self._lost)

    def _open_entry(self, entry: Entry, headers: list[tuple[str, bytes]]) -> Any:
        """The segment; if only its header is damaged, that is noted for writing."""
        try:
            return entry.open(self._files, self._path, self._uuid)
        except CorruptionError:
            file = f"{self._path}/{entry.path}"
            if entry.sealed:
                sealed = SealedLayout.unpack(entry.value)
                header = sealed.header(self._uuid, *entry.place)
                segment: Any = open_sealed(
                    self._files, self._path, self._uuid, *entry.place, sealed, check_header=False
                )
            else:
                layout = SegmentLayout.unpack(entry.value)
                header = layout.header(self._uuid, *entry.place)
                segment = open_headless(self._files, file, entry.place[2], layout)
            headers.append((file, header))
            self._done.append(f"{file}: its header was written anew")
            return segment

    def _drop_missing(
        self, txn: Any, key: bytes, state: PartitionState, entries: list[Entry], missing: list[tuple[Entry, int]]
    ) -> None:
        """The log keeps the longer of what lies before the first missing segment and behind the last one."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        first, last = missing[0][0].place[2], missing[-1][1]
        start, end = state.log_start, state.log_end
        if end - last >= first - start and last < end:
            gone = [entry for entry in entries if entry.place[2] < last]
            state.log_start = last
            for entry in gone:
                txn.delete(segment_key(*entry.place))
                txn.delete(sum_key(*entry.place))
            txn.put(key, state.pack())
            lost = (start, last)
        else:
            gone = [entry for entry in entries if entry.place[2] >= first]
            cut_log(txn, key, state, max(first, start), entries, self._open_for_cut)
            lost = (max(first, start), end)
        self._name_missing(f"topic {topic_id}/{partition}: offsets {lost[0]}..{lost[1]}", missing, gone)

    def _drop_from_table(
        self, txn: Any, key: bytes, state: PartitionState, entries: list[Entry], missing: list[tuple[Entry, int]]
    ) -> None:
        """The table has no rows of the missing segments any more; all others stay, and the index of keys names them."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        ranges = [(entry.place[2], stop) for entry, stop in missing]
        away = [entry for entry, _ in missing]
        kept = [entry for entry in entries if entry not in away]
        segments = [(self._open_entry(entry, []), entry.rows) for entry in kept]
        places = current_places(txn, topic_id, partition, state.log_end, segments, *self._table_of(topic_id))
        for place, _ in list(scan(txn, row_key_prefix(topic_id, partition))):
            if place not in places:
                txn.delete(place)
        for place, offsets in places.items():
            txn.put(place, b"".join(map(U64.pack, offsets)))
        for entry, _ in missing:
            txn.delete(segment_key(*entry.place))
            if entry.active:
                state.base, state.min_time, state.max_time = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME
        txn.put(key, state.pack())
        table = txn.get(table_key(topic_id, partition))
        rows, removed = TABLE.unpack_from(table)
        lost = rows - sum(map(len, places.values()))
        txn.put(table_key(topic_id, partition), TABLE.pack(rows - lost, removed) + table[TABLE.size :])
        named = ", ".join(f"{first}..{stop}" for first, stop in ranges)
        self._name_missing(
            f"topic {topic_id}/{partition}: offsets {named} (a table, {lost} of its {rows} rows)", missing,
            [entry for entry, _ in missing],
        )  # fmt: skip

    def _name_missing(self, what: str, missing: list[tuple[Entry, int]], gone: list[Entry]) -> None:
        files = ", ".join(f"/{entry.path}" for entry, _ in missing)
        self._lost.append(f"{what}, because {files} is missing or unreadable")
        if self._accept:
            for entry in gone:
                self._put_aside(entry.path)

    def _open_for_cut(self, entry: Entry) -> Any:
        return entry.open(self._files, self._path, self._uuid)


def file_sum(head: bytes) -> int:
    from zlib import crc32

    return crc32(head)


def open_headless(files: Files, file: str, base: int, layout: SegmentLayout) -> Any:
    """The segment of a file whose header is not looked at. OSError, StorageError."""
    from eventdb.storage.segment.segment import Segment

    fd = files.open(file)
    try:
        if files.size(fd) < layout.size_bytes:
            raise CorruptionError(f"{file} is too short", path=file)
        return Segment(file, base, layout, files.mmap(fd, layout.size_bytes), writable=False)
    finally:
        files.close(fd)


def _rows_lost(records: list[Record]) -> str:
    """Which offsets the records would have added, for a message."""
    ends: dict[tuple[int, int], list[int]] = {}
    for record in records:
        with contextlib.suppress(EventDBError, ValueError, IndexError, StructError):
            for one in parse(record):
                if one.op in (OP_CHUNK, OP_BULK):
                    first = one.base + one.row
                    ends.setdefault((one.topic_id, one.partition), []).extend((first, first + one.count))
    return "".join(
        f", of topic {topic}/{partition} offsets up to {max(found)} (of records that are readable: from {min(found)})"
        for (topic, partition), found in sorted(ends.items())
    )
