"""What an index says about stored rows: each segment with its file and how many rows it holds, raw or sealed."""

from __future__ import annotations

from bisect import bisect_right

from eventdb.errors import CorruptionError
from eventdb.storage.format import PARTITION_KEY, SEGMENT_KEY, segment_key, topic_directory
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedLayout, SealedSegment, file_name, is_sealed, open_sealed
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import open_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.segment.sums import Place


class Entry:
    """A segment the index names: its place, its SEGMENT value, its rows; `active` if rows are appended to it."""

    __slots__ = ("active", "place", "rows", "value")

    def __init__(self, place: Place, value: bytes, rows: int, active: bool) -> None:
        self.place = place
        self.value = value
        self.rows = rows
        self.active = active

    @property
    def sealed(self) -> bool:
        return is_sealed(self.value)

    @property
    def table(self) -> bool:
        """Whether the rows are versions of a table's rows: their marks change."""
        return not self.sealed and SegmentLayout.unpack(self.value).marks >= 0

    @property
    def compacted(self) -> bool:
        """Whether the rows' offsets have gaps, and the file has room for them alone."""
        return not self.sealed and SegmentLayout.unpack(self.value).offsets >= 0

    @property
    def description(self) -> bytes:
        """What never changes as long as the file is the same one."""
        if self.sealed:
            layout = SealedLayout.unpack(self.value)
            return layout.pack()
        return SegmentLayout.unpack(self.value).descriptor

    @property
    def path(self) -> str:
        """Of the file, in the database's directory."""
        topic_id, partition, base = self.place
        return f"{topic_directory(topic_id, partition)}/{file_name(base, self.value)}"

    def open(self, files: Files, directory: str, uuid: bytes) -> Segment | SealedSegment:
        """The segment, mapped for reading. MissingFile, CorruptionError."""
        if self.sealed:
            return open_sealed(files, directory, uuid, *self.place, SealedLayout.unpack(self.value))
        return open_segment(files, directory, uuid, *self.place, SegmentLayout.unpack(self.value), write=False)


def entries_of(txn: Any, topic_id: int, partition: int, state: PartitionState) -> list[Entry]:
    """The segments of a partition, in offset order, without gaps. CorruptionError for an entry that describes none."""
    found = [(SEGMENT_KEY.unpack(key)[3], value) for key, value in scan(txn, segment_key(topic_id, partition, 0)[:-8])]
    stops = [base for base, _ in found[1:]] + [state.log_end]
    entries = []
    for (base, value), stop in zip(found, stops, strict=False):
        if value == GAP:
            continue
        rows = stop - base
        if not is_sealed(value):
            layout = SegmentLayout.unpack(value)
            if layout.offsets >= 0:
                rows = layout.capacity
            elif layout.marks >= 0 and base != state.base:
                rows = min(rows, layout.capacity)  # what follows it may have been compacted away
        entries.append(Entry((topic_id, partition, base), value, rows, base == state.base))
    return entries


def segments_of(txn: Any) -> list[Entry]:
    """Every segment the index names."""
    found: list[Entry] = []
    for key, value in list(scan(txn, b"p")):
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        found += entries_of(txn, topic_id, partition, PartitionState().unpack(value))
    return found


def append_time(segment: Segment | SealedSegment, row: int) -> int:
    """When the row was appended, us."""
    if isinstance(segment, SealedSegment):
        from eventdb.storage.sealed.blocks import block

        number, at = divmod(row, segment.layout.block_rows)
        return int(block(segment, len(segment.layout.columns), number).values.view("<i8")[at])
    return segment.append_times(row, row + 1)[0]


def rows_until(segment: Segment | SealedSegment, first: int, stop: int, time_us: int) -> int:
    """The end of those of the rows [first, stop) that were appended up to the time: append times never fall."""
    return bisect_right(range(stop), time_us, first, stop, key=lambda row: append_time(segment, row))


def damaged_blocks(segment: SealedSegment) -> list[str]:
    """What of a sealed segment does not verify, one sentence a block. Reads all of it."""
    problems = []
    for column in range(len(segment.layout.columns) + 1):
        for number in range(segment.layout.block_count):
            try:
                segment.block_bytes(column, number)
            except CorruptionError as error:
                problems.append(str(error))
    try:
        segment.hash_index()
    except CorruptionError as error:
        problems.append(str(error))
    return problems
