"""Recovery: from whatever a crash left to a state that is a prefix of the commits and holds every acknowledged one.

Who does it: the first process to open the database (it gets ALIVE exclusively). What it does depends on the newest
checkpoint:

- clean: nothing;
- made in this boot: the page cache survived, so the index is whole; the journal record of a writer that died half-way
  is applied;
- made in another boot, or after a failed flush: the saved meta pages are written back, which brings the index to the
  checkpoint, and the journal is replayed from there.

Replaying is idempotent and can be interrupted anywhere. It ends with a checkpoint and a new epoch before anything is
accepted.
"""

from __future__ import annotations

import contextlib
from struct import error as StructError

from eventdb.config import INDEX_VERIFY_BYTES
from eventdb.errors import CorruptionError, StorageError
from eventdb.storage.commit.journal import Record, Tail
from eventdb.storage.commit.marks import clear_stale_marks, restore_marks
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.readable import Unreadable
from eventdb.storage.format import (
    BULK_UNSYNCED,
    GONE,
    META_KEY,
    OP_BULK,
    OP_CHUNK,
    OP_DELETE,
    OP_FORGET,
    OP_KEY,
    OP_MARKS,
    OP_PLACE,
    OP_PUT,
    OP_ROWS,
    OP_SEGMENT,
    PARTITION,
    SEGMENT_KEY,
    SHARED_POISON,
    TOPIC_PREFIX,
    U32,
    dirty_key,
    partition_key,
    segment_key,
)
from eventdb.storage.index.kv import (
    DATA_NAME,
    IndexFault,
    index_error,
    restore_meta_pages,
    scan,
    structure_problems,
)
from eventdb.storage.index.live_pages import live_crc
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.segment import Segment, create_segment, open_segment, segment_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Any

    from eventdb.storage.commit.checkpoint import Slot
    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.device.files import Files

_RECORDS_PER_TRANSACTION = 4096
Place = tuple[int, int, int]  # of a segment: topic, partition, base
KINDS = (b"p", b"s", b"d", b"D", b"w", b"k", b"n", b"g", b"c")  # of index keys that begin with a topic id


class UnsyncedRows(CorruptionError):
    """A record names rows that were not flushed before it, and they are not there: the log ends before it."""


class Operation:
    """One operation of a record. Which fields count depends on `op` (format.py)."""

    __slots__ = ("base", "count", "crc", "data", "key", "op", "partition", "row", "state", "topic_id")

    def __init__(self, op: int) -> None:
        self.op = op
        self.key = self.state = b""
        self.topic_id = self.partition = self.base = self.row = self.count = self.crc = 0
        self.data = memoryview(b"")


def parse(record: Record) -> Iterator[Operation]:
    """The operations of a record. CorruptionError if one is unknown; IndexError, ValueError, struct.error if cut."""
    payload = record.payload
    at = 0
    while at < len(payload):
        found = Operation(payload[at])
        length = 0
        if found.op in (OP_PUT, OP_DELETE):
            _, key_bytes, length = OP_KEY.unpack_from(payload, at)
            at += OP_KEY.size
            found.key = bytes(payload[at : at + key_bytes])
            at += key_bytes
        elif found.op in (OP_SEGMENT, OP_CHUNK, OP_BULK, OP_FORGET, OP_MARKS):
            _, found.topic_id, found.partition, found.base = OP_PLACE.unpack_from(payload, at)
            at += OP_PLACE.size
            if found.op in (OP_CHUNK, OP_BULK):
                found.row, found.count = OP_ROWS.unpack_from(payload, at)
                at += OP_ROWS.size
                found.state = bytes(payload[at : at + PARTITION.size])
                at += PARTITION.size
            if found.op != OP_FORGET:
                (length,) = U32.unpack_from(payload, at)
                at += U32.size
            if found.op == OP_BULK:
                found.crc, length = length, 0
        else:
            raise CorruptionError(f"journal record {record.lsn} holds an unknown operation {found.op}")
        if at + length > len(payload):
            raise ValueError(f"an operation of {length} bytes begins {len(payload) - at} bytes before the end")
        found.data = payload[at : at + length]
        at += length
        yield found


class RecordApplier:
    """Applies journal records to a write transaction and segment files. Each may have been applied before,
    fully or not. `fresh`: a flush has failed, so what the cache holds of a segment says nothing of the device."""

    def __init__(
        self, files: Files, path: str, uuid: bytes, txn: Any, live: Container[int], sequence: int, *,
        fresh: bool = False,
    ) -> None:  # fmt: skip
        self._fresh = fresh
        self._files = files
        self._path = path
        self._uuid = uuid
        self.txn = txn
        self._live = live
        self._sequence = sequence
        self._segments: dict[Place, Segment] = {}

    def apply(self, record: Record) -> None:
        """UnsyncedRows, nothing changed, if the record names unflushed rows that are gone."""
        try:
            if record.flags & BULK_UNSYNCED:
                self._require_rows(record)
            for operation in parse(record):
                self._apply(operation)
        except (IndexError, ValueError, StructError) as error:
            raise CorruptionError(f"journal record {record.lsn} cannot be read: {error}") from error
        except IndexFault as error:
            raise index_error(error, self._path) from error

    def _apply(self, operation: Operation) -> None:
        op, topic_id = operation.op, operation.topic_id
        if op in (OP_PUT, OP_DELETE):
            key = operation.key
            if key[:1] in KINDS and TOPIC_PREFIX.unpack_from(key)[1] not in self._live:
                return
            if key[:1] == b"s":  # another file, or none: compaction
                self._segments.pop(SEGMENT_KEY.unpack(key)[1:], None)
            if op == OP_DELETE:
                self.txn.delete(key)
            elif key[:1] == b"g":  # counted from now on: transactions are numbered anew after a power loss
                self.txn.put(key, GONE.pack(self._sequence, self.txn.id()))
            else:
                self.txn.put(key, bytes(operation.data))
            return
        if op == OP_FORGET:
            forget_keys(self.txn, topic_id)
            return
        if topic_id not in self._live:
            return
        place = (topic_id, operation.partition, operation.base)
        if op == OP_SEGMENT:
            self._create(*place, bytes(operation.data))
            return
        row, count = operation.row, operation.count
        segment = self._segment(place)
        if op == OP_MARKS:
            restore_marks(segment, operation.data)
            self.txn.put(dirty_key(*place), b"\1")
            return
        if op == OP_CHUNK:
            segment.restore_rows(row, count, operation.data)
        elif (found := segment.rows_crc(row, count)) != operation.crc:
            raise CorruptionError(
                f"{segment.path}: rows {row}..{row + count} do not verify "
                f"(crc {found:08x}, journal {operation.crc:08x})",
                path=segment.path,
            )
        segment.clear_marks(row, count)
        self.txn.put(partition_key(topic_id, operation.partition), operation.state)
        self.txn.put(dirty_key(*place), b"\1")

    def _require_rows(self, record: Record) -> None:
        """All rows the record names without holding them are in their segments, or UnsyncedRows. Changes nothing."""
        made: dict[Place, SegmentLayout] = {}
        for operation in parse(record):
            place = (operation.topic_id, operation.partition, operation.base)
            if operation.op == OP_SEGMENT:
                made[place] = SegmentLayout.unpack(bytes(operation.data))
            elif operation.op == OP_BULK and operation.topic_id in self._live:
                layout = made.get(place) or self._layout(place)
                if self._found_crc(place, layout, operation) != operation.crc:
                    path = segment_path(self._path, *place, layout.generation)
                    raise UnsyncedRows(f"{path} lacks the rows that journal record {record.lsn} names", path=path)

    def _found_crc(self, place: Place, layout: SegmentLayout, operation: Operation) -> int | None:
        """Of the rows an OP_BULK names; None if their file is not there, not whole, or not as any rows left it.
        StorageError if they cannot be read now: they may be there, and acknowledged."""
        try:
            segment = self._segments.get(place) or self._open(place, layout, write=False)
            if self._fresh:
                self._drop_cache(segment.path)
            return segment.rows_crc(operation.row, operation.count)
        except Unreadable:
            raise
        except CorruptionError:
            return None

    def _drop_cache(self, path: str) -> None:
        try:
            fd = self._files.open(path)
            try:
                self._files.drop_cache(fd)
            finally:
                self._files.close(fd)
        except OSError as error:
            raise storage_error(error, "opening", path) from error

    def _create(self, topic_id: int, partition: int, base: int, value: bytes) -> None:
        """The file exists, whole, and the index knows it. Bulk rows that are in it already stay."""
        layout = SegmentLayout.unpack(value)
        place = (topic_id, partition, base)
        try:
            self._segments[place] = self._open(place, layout, write=True)
        except CorruptionError:  # it is not there, or not whole; any other error may pass, and rows of bulk are in it
            self._segments[place] = create_segment(self._files, self._path, self._uuid, *place, layout)
        self.txn.put(segment_key(*place), value)
        self.txn.put(dirty_key(*place), b"\1")

    def _segment(self, place: Place) -> Segment:
        segment = self._segments.get(place)
        if segment is None:
            segment = self._segments[place] = self._open(place, self._layout(place), write=True)
        return segment

    def _open(self, place: Place, layout: SegmentLayout, *, write: bool) -> Segment:
        return open_segment(self._files, self._path, self._uuid, *place, layout, write=write)

    def _layout(self, place: Place) -> SegmentLayout:
        value = self.txn.get(segment_key(*place))
        if value is None:
            topic_id, _, base = place
            raise CorruptionError(
                f"{self._path}: the journal names segment {base} of topic {topic_id}, which the index does not know"
            )
        return SegmentLayout.unpack(value)


def forget_keys(txn: Any, topic_id: int) -> int:
    """Every key of the topic is gone; returns how many."""
    keys = [key for kind in KINDS for key, _ in scan(txn, TOPIC_PREFIX.pack(kind, topic_id))]
    for key in keys:
        txn.delete(key)
    return len(keys)


def stored_topics(txn: Any) -> set[int]:
    """Topic ids that have any key, found by one seek per topic and kind."""
    found = set()
    cursor = txn.cursor()
    for kind in KINDS:
        topic_id = 0
        while cursor.set_range(TOPIC_PREFIX.pack(kind, topic_id)) and cursor.key()[:1] == kind:
            topic_id = TOPIC_PREFIX.unpack_from(cursor.key())[1]
            found.add(topic_id)
            topic_id += 1
            if topic_id > 0xFFFFFFFF:
                break
    return found


def remove_topic_files(files: Files, directory: str, topic_id: int) -> None:
    """The files of a dropped topic are unlinked; mappings in use stay valid."""
    root = f"{directory}/topics/{topic_id}"
    try:
        if not files.is_directory(root):
            return
        for partition in files.listdir(root):
            for name in files.listdir(f"{root}/{partition}"):
                files.unlink(f"{root}/{partition}/{name}")
            files.rmdir(f"{root}/{partition}")
        files.rmdir(root)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, "removing", root) from error


def needs_restore(slot: Slot, boot_id: str, poisoned: bool) -> bool:
    return not slot.clean and (poisoned or not boot_id or slot.boot_id != boot_id)


def restore(files: Files, directory: str, slot: Slot, poisoned: bool) -> None:
    """The index file is at the checkpoint. Nobody has it open."""
    try:
        restore_meta_pages(files, f"{directory}/index", slot.pages, drop_cache=poisoned)
    except OSError as error:
        raise storage_error(error, "restoring", f"{directory}/index/data.mdb") from error


def verify_index(files: Files, directory: str, slot: Slot) -> None:
    """LMDB may open the index: a damaged one can kill the process. CorruptionError. Nobody has it open.

    After a clean close its live pages are those the slot says; after a crash its structure is walked. An index with
    more than INDEX_VERIFY_BYTES is trusted: check() looks at it.
    """
    path = f"{directory}/index/{DATA_NAME}"
    try:
        fd = files.open(path)
        try:
            size = files.size(fd)
            found = live_crc(files, fd, INDEX_VERIFY_BYTES) if slot.clean and slot.index_crc else slot.index_crc
        finally:
            files.close(fd)
    except OSError as error:
        raise storage_error(error, "reading", path) from error
    problems = [] if slot.clean or size > INDEX_VERIFY_BYTES else structure_problems(f"{directory}/index")
    if found != slot.index_crc:
        problems.append(
            f"it is damaged, or from different copies of the database (crc {found:08x}, expected {slot.index_crc:08x})"
        )
    if problems:
        raise CorruptionError(f"{path} does not verify: {problems[0]}; run repair, or restore a backup", path=path)


def check_identity(writer: Writer, slot: Slot, restored: bool) -> None:
    """The index and the checkpoint belong together."""
    with writer.index.begin_read() as txn:
        tail = _read_tail(txn)
    wrong = tail.lsn != slot.tail.lsn if (restored or slot.clean) else tail.lsn < slot.tail.lsn
    if wrong:
        raise CorruptionError(
            f"{writer.index.path} is at record {tail.lsn}, but its checkpoint at {slot.tail.lsn}: "
            "the files come from different copies of the database; restore a whole backup",
            path=writer.index.path,
        )


def _read_tail(txn: Any) -> Tail:
    tail = Tail()
    value = txn.get(META_KEY)
    if value is not None:
        tail.unpack(value)
    return tail


def recover(writer: Writer, slot: Slot, *, restored: bool, poisoned: bool) -> dict[str, object]:
    """The database is at the end of its valid journal, checkpointed, and in a new epoch. Lock held, alone. Returns the
    report.

    CorruptionError, changing nothing durable, if a record is damaged that was acknowledged as durable or has such ones
    behind it.
    """
    index = writer.index
    writer.start = slot.tail
    if restored:
        pin = index.begin_read()  # this state is the checkpoint: commits of the replay must not reuse its pages
        writer._set_pin(pin)
    else:
        writer.save_checkpoint(clean=False)
    live = writer.live_topics()
    txn = index.begin_write()
    try:
        writer.reload(txn)
        writer.fold_into(txn)
        tail = writer.tail
        applier = RecordApplier(
            writer.files, writer.path, writer.uuid, txn, live, tail.checkpoint_sequence, fresh=poisoned
        )
        count, cut = 0, None
        try:
            for record in writer.journal.walk(tail, fresh=poisoned):
                try:
                    applier.apply(record)
                except UnsyncedRows:
                    cut = record
                    break
                count += 1
                if count % _RECORDS_PER_TRANSACTION == 0:
                    txn = _commit_replayed(writer, txn, record)
                    applier.txn = txn
        except FileNotFoundError as error:
            raise CorruptionError(
                f"{writer.journal.path(tail.epoch, tail.number)} is missing: "
                f"it holds the commits after record {tail.lsn}",
                path=writer.journal.directory,
            ) from error
        lost_bytes = _check_tail(writer, tail, cut)
        dropped = [topic for topic in stored_topics(txn) if topic not in live]
        for topic_id in dropped:
            forget_keys(txn, topic_id)
        if restored:
            clear_stale_marks(writer.files, writer.path, writer.uuid, txn)
        txn.put(META_KEY, tail.pack())
        txn.commit()
    except IndexFault as error:
        txn.abort()
        raise index_error(error, index.path) from error
    except CorruptionError:
        txn.abort()
        if restored:
            _allow_reading(writer, slot)
        raise
    except BaseException:
        txn.abort()
        raise
    for topic_id in dropped:
        remove_topic_files(writer.files, writer.path, topic_id)
    writer.replayed += count
    _start_epoch(writer)
    return {
        "kind": "failed flush" if poisoned else "power loss" if restored else "process crash",
        "records_replayed": count,
        "bytes_cut": lost_bytes,
        "last_record": tail.lsn,
        "topics_collected": len(dropped),
    }


def _allow_reading(writer: Writer, slot: Slot) -> None:
    """The index is whole, at the checkpoint, though the journal after it is not: read-only handles may look at that."""
    with contextlib.suppress(StorageError):
        writer._write_slot(slot, slot.tail, slot.pages, clean=False)


def _commit_replayed(writer: Writer, txn: Any, record: Record) -> Any:
    """A long replay in several transactions; the tail names the record just applied."""
    after = writer.tail.copy()
    after.lsn, after.position, after.chain = record.lsn, record.position + record.length, record.crc
    txn.put(META_KEY, after.pack())
    txn.commit()
    return writer.index.begin_write()


def _check_tail(writer: Writer, tail: Tail, cut: Record | None) -> int:
    """Bytes cut from the end. CorruptionError if the damage lies below a durable mark, that is, if it is not a torn
    tail."""
    file = writer.journal.file
    assert file is not None
    lost = 0 if cut is None else cut.length
    for record in writer.journal.valid_after(tail):
        if record.durable_lsn > tail.lsn and record.lsn > tail.lsn:
            raise CorruptionError(
                f"{file.path}: the record at byte {tail.position} (number {tail.lsn + 1}) does not verify, but "
                f"record {record.lsn} behind it does and says it was durable: this is damage, not an interrupted "
                "write. The database opens with read_only=True, as of its last checkpoint; restore a backup, or run "
                "repair, to write",
                path=file.path,
            )
    if cut is None and tail.position + 8 <= file.size:
        rest = bytes(file.memory[tail.position : file.size]).rstrip(b"\0")
        lost = len(rest)
    return lost


def _start_epoch(writer: Writer) -> None:
    """A new journal file that this and every later commit goes to, and a checkpoint that names it."""
    tail = writer.tail
    epoch = max([tail.epoch, *(e for e, _ in writer.journal.names())]) + 1
    writer.journal.close()
    writer.journal.file, start = writer.journal.create(tail, epoch, 0)
    writer.flushes += 2
    start.durable_lsn, start.bulk_lsn = start.lsn, 0
    writer.start = start
    writer.last_txn = -1
    writer.tail = start
    with writer.index.begin_write() as txn:
        txn.put(META_KEY, start.pack())
    writer.sync_point()
    writer.prepared = True
    writer.shared[SHARED_POISON] = 0


__all__ = ["RecordApplier", "check_identity", "needs_restore", "recover", "restore"]
