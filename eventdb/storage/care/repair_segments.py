"""Repair of the segments: every partition holds only those that are there, and no offset is ever given again.

A topic's segments that are gone leave a gap where they lay (segment/gap.py); so do, at its end, the rows of journal
records that are gone. A table's leave nothing: its offsets are in its segments. What lies beside a topic, and the rows
of a view, end before the first missing segment or begin behind the last one, whichever keeps more: nobody has seen
their offsets, and a view that has lost rows says so when it is read.
"""

from __future__ import annotations

from eventdb.config import INDEX_VERIFY_BYTES
from eventdb.errors import CorruptionError, StorageError
from eventdb.storage.care.cut import cut_log
from eventdb.storage.care.rows import mended_nulls, row_problems
from eventdb.storage.commit.checkpoint import Slot
from eventdb.storage.format import (
    BACKUP_BOOT,
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    PARTITION_KEY,
    TABLE,
    U64,
    row_key_prefix,
    segment_key,
    sum_key,
    table_key,
)
from eventdb.storage.index.entries import damaged_blocks, entries_of
from eventdb.storage.index.key_index import current_places
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedLayout, SealedSegment, open_sealed
from eventdb.storage.segment.gap import leave_gaps
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.care.repair_index import IndexRepair
    from eventdb.storage.care.repair_site import RepairSite
    from eventdb.storage.device.files import Files
    from eventdb.storage.index.entries import Entry

    Missing = list[tuple[Entry, int]]  # with the offset behind its rows


class SegmentsRepair:
    """The database is closed cleanly, its index whole. `ends` are offsets behind rows that the journal has lost,
    `beside` is the bit of partitions that lie beside another one."""

    def __init__(
        self, site: RepairSite, uuid: bytes, table_of: Callable[[int], tuple[Schema, tuple[int, ...]]],
        ends: dict[tuple[int, int], int], beside: int,
    ) -> None:  # fmt: skip
        self._site = site
        self._uuid = uuid
        self._table_of = table_of
        self._ends = ends
        self._beside = beside
        self._writes: list[tuple[str, int, bytes]] = []  # (file in the directory, position, content), at the end

    def run(self, index_repair: IndexRepair, refuse_losses: Callable[[], None]) -> None:
        """Everything the index names is there; `refuse_losses` is called before anything is changed."""
        slot = index_repair.slots()[0]
        with self._site.opened(f"{self._site.path}/index") as index:
            txn = index.begin_write()
            try:
                changed = False
                for key, value in list(scan(txn, b"p")):
                    changed |= self._check_partition(txn, key, PartitionState().unpack(value))
                refuse_losses()
                if changed:
                    txn.commit()
                else:
                    txn.abort()
            except BaseException:
                txn.abort()
                raise
            for name, position, content in self._writes:
                self._write(f"{self._site.path}/{name}", position, content)
            index.sync()
            after = Slot(
                slot.position ^ 1, slot.sequence + 1, True, slot.boot_id if slot.boot_id != BACKUP_BOOT else "",
                slot.tail, index.meta_pages(), index.crc(INDEX_VERIFY_BYTES),
            )  # fmt: skip
            index_repair.write_slot(after)

    def _write(self, file: str, position: int, content: bytes) -> None:
        files = self._site.files
        fd = files.open(file, write=True)
        try:
            files.write_fully(fd, content, position)
            files.fsync(fd)
        finally:
            files.close(fd)

    # -- looking -------------------------------------------------------------------------------

    def _check_partition(self, txn: Any, key: bytes, state: PartitionState) -> bool:
        """Whether the index had to be changed."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        beside = bool(partition & self._beside)
        name = f"topic {topic_id}/{partition & ~self._beside}"
        name = f"the headers of {name}" if beside else name
        table = txn.get(table_key(topic_id, partition)) is not None
        entries = entries_of(txn, topic_id, partition, state)
        stops = [entry.place[2] + entry.rows for entry in entries]
        if table:
            stops = [*[entry.place[2] for entry in entries[1:]], state.log_end]
        missing = []
        changed = False
        for entry, stop in zip(entries, stops, strict=False):
            try:
                segment = self._open(entry)
            except (StorageError, OSError):
                missing.append((entry, stop))
                continue
            changed |= self._check_rows(txn, f"{name}: offsets {entry.place[2]}..{stop}", segment, entry)
        end = self._ends.get((topic_id, partition), 0)
        if missing and table:
            self._drop_from_table(txn, name, key, state, entries, missing)
        elif missing and (beside or state.derived):
            self._keep_longer(txn, name, key, state, entries, missing)
        elif (missing or end > state.log_end) and not (table or beside or state.derived):
            self._leave_gaps(txn, name, key, state, entries, missing, end)
            changed = True
        return changed or bool(missing)

    def _check_rows(self, txn: Any, where: str, segment: Any, entry: Entry) -> bool:
        """Whether rows are damaged; they are kept, and named."""
        if isinstance(segment, SealedSegment):
            problems = damaged_blocks(segment)
            self._site.lost += [
                f"{where}: {text}; the rows are kept, those of the block cannot be read" for text in problems
            ]
            return bool(problems)
        try:
            problems = row_problems(txn, entry.place, segment, entry.rows, deep=True)
        except CorruptionError as error:
            problems = [str(error)]
        self._site.lost += [f"{where}: {text}; the rows are kept" for text in problems]
        if problems:
            txn.delete(sum_key(*entry.place))
            self._writes += [(entry.path, *mended) for mended in mended_nulls(segment, entry.rows)]
        return bool(problems)

    def _open(self, entry: Entry) -> Any:
        """The segment; if only its header is damaged, that is noted for writing."""
        try:
            return entry.open(self._site.files, self._site.path, self._uuid)
        except CorruptionError:
            if entry.sealed:
                sealed = SealedLayout.unpack(entry.value)
                header = sealed.header(self._uuid, *entry.place)
                segment: Any = open_sealed(
                    self._site.files, self._site.path, self._uuid, *entry.place, sealed, check_header=False
                )
            else:
                layout = SegmentLayout.unpack(entry.value)
                header = layout.header(self._uuid, *entry.place)
                file = f"{self._site.path}/{entry.path}"
                segment = open_headless(self._site.files, file, entry.place[2], layout)
            self._writes.append((entry.path, 0, header))
            self._site.done.append(f"{entry.path}: its header was written anew")
            return segment

    # -- giving up -----------------------------------------------------------------------------

    def _leave_gaps(
        self, txn: Any, name: str, key: bytes, state: PartitionState, entries: list[Entry], missing: Missing, end: int
    ) -> None:
        """The topic has no events of the missing segments, nor up to the offset `end` of lost records: all others stay
        at their offsets, and the next event follows whatever was there."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        away = [entry for entry, _ in missing]
        for entry in away:
            txn.delete(segment_key(*entry.place))
            txn.delete(sum_key(*entry.place))
        held = [(entry.place[2], entry.place[2] + entry.rows) for entry in entries if entry not in away]
        named = ", ".join(f"{max(entry.place[2], state.log_start)}..{stop}" for entry, stop in missing)
        if state.base != NO_SEGMENT and (end > state.log_end or not held or held[-1][0] != state.base):
            for entry in entries:
                if entry.active and entry not in away:  # it takes no more rows
                    layout = SegmentLayout.unpack(entry.value)
                    txn.put(segment_key(*entry.place), layout.pack(state.min_time, state.max_time))
            state.base, state.min_time, state.max_time = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME
        state.log_end = max(state.log_end, end)
        leave_gaps(txn, topic_id, partition, state, held)
        txn.put(key, state.pack())
        if missing:
            self._name_missing(f"{name}: offsets {named}", missing, away)

    def _keep_longer(
        self, txn: Any, name: str, key: bytes, state: PartitionState, entries: list[Entry], missing: Missing
    ) -> None:
        """The log keeps the longer of what lies before the first missing segment and behind the last one."""
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
        self._name_missing(f"{name}: rows {lost[0]}..{lost[1]}", missing, gone)

    def _open_for_cut(self, entry: Entry) -> Any:
        return entry.open(self._site.files, self._site.path, self._uuid)

    def _drop_from_table(
        self, txn: Any, name: str, key: bytes, state: PartitionState, entries: list[Entry], missing: Missing
    ) -> None:
        """The table has no rows of the missing segments any more; all others stay, and the index of keys names them."""
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        ranges = [(entry.place[2], stop) for entry, stop in missing]
        away = [entry for entry, _ in missing]
        kept = [entry for entry in entries if entry not in away]
        segments = [(self._open(entry), entry.rows) for entry in kept]
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
        self._name_missing(f"{name}: offsets {named} (a table, {lost} of its {rows} rows)", missing, away)

    def _name_missing(self, what: str, missing: Missing, gone: list[Entry]) -> None:
        files = ", ".join(entry.path for entry, _ in missing)
        self._site.lost.append(f"{what}, because {files} is missing or unreadable")
        if self._site.accept:
            for entry in gone:
                self._site.put_aside(entry.path)


def open_headless(files: Files, file: str, base: int, layout: SegmentLayout) -> Segment:
    """The segment of a file whose header is not looked at. OSError, StorageError."""
    fd = files.open(file)
    try:
        if files.size(fd) < layout.size_bytes:
            raise CorruptionError(f"{file} is too short", path=file)
        return Segment(file, base, layout, files.mmap(fd, layout.size_bytes), writable=False)
    finally:
        files.close(fd)
