"""Marks: which rows of a table were superseded, and by which offset.

A table is a log whose rows have one more, hidden column: 0 while the row is current, else 1 + the offset of the row
that took its place. So a row exists in a snapshot that ends at offset E if its mark is 0 or exceeds E, and a snapshot
stays what it was while others write: no copy, no lock. A deletion is a row too (a tombstone, which holds what it
deleted), so that it has an offset; it supersedes itself, and is seen by no snapshot.

Marks are stores into rows that were committed long ago, so they follow rules of their own:

- they are named by the commit's journal record (OP_MARKS) and stored only after it is written (and flushed, in `commit`
  mode), before the commit is visible; replaying a record stores them again;
- their segments count as written, so that the next checkpoint flushes them;
- they are no part of what OP_CHUNK and OP_BULK hold and verify: replaying an old row makes it current first, and later
  records mark it again;
- a power cut can leave the mark of a commit that was lost (in the modes that do not flush): it names an offset beyond
  the end of the log, where another row will be one day. Recovery clears such marks before anything is accepted.
"""

from __future__ import annotations

from eventdb.errors import CorruptionError
from eventdb.storage.format import (
    MARK,
    OP_MARKS,
    OP_PLACE,
    PARTITION,
    SEGMENT_KEY,
    U32,
    dirty_key,
    partition_key,
)
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import is_sealed
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.segment import Segment, open_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.log import PartitionLog


class Marks:
    """The marks one transaction makes. `store` and `undo` belong to the commit section."""

    __slots__ = ("_found", "_logs", "_old")

    def __init__(self) -> None:
        self._found: dict[tuple[int, int, int], tuple[Segment, list[tuple[int, int]]]] = {}
        self._logs: list[tuple[PartitionLog, tuple[int, int, int]]] = []
        self._old: list[tuple[Any, int, int]] = []

    def of(self, log: PartitionLog, segment: Segment) -> list[tuple[int, int]]:
        """The (row, mark) of a segment; whoever adds many appends them here."""
        place = (log.topic_id, log.partition, segment.base)
        found = self._found.get(place)
        if found is None:
            found = self._found[place] = (segment, [])
            self._logs.append((log, place))
        return found[1]

    def places(self) -> list[bytes]:
        """The dirty keys of the segments."""
        return [dirty_key(*place) for place in self._found]

    def note(self, sequence: int) -> None:
        """The segments have dirty marks since the checkpoint of the sequence."""
        for log, place in self._logs:
            log.marked[place[2]] = sequence

    def describe(self) -> list[bytes]:
        """The operations for the journal."""
        parts: list[bytes] = []
        for place, (_, marks) in self._found.items():
            data = b"".join([MARK.pack(row, mark) for row, mark in marks])
            parts += (OP_PLACE.pack(OP_MARKS, *place), U32.pack(len(data)), data)
        return parts

    def store(self) -> None:
        """The marks are in the segments."""
        for segment, marks in self._found.values():
            view = segment.value_views[segment.layout.marks]
            for row, mark in marks:
                self._old.append((view, row, view[row]))
                view[row] = mark

    def undo(self) -> None:
        """The marks are what they were before `store`: the commit did not happen."""
        for view, row, mark in reversed(self._old):
            view[row] = mark
        self._old.clear()


def restore_marks(segment: Segment, data: memoryview) -> None:
    """The marks of an OP_MARKS operation are in the segment. CorruptionError if they do not fit it."""
    path = segment.path
    if segment.layout.marks < 0 or len(data) % MARK.size:
        raise CorruptionError(f"{path}: a journal record marks rows of a log that is no table", path=path)
    view = segment.value_views[segment.layout.marks]
    for row, mark in MARK.iter_unpack(data):
        if row >= segment.layout.capacity:
            raise CorruptionError(f"{path}: a journal record marks row {row}, which is not there", path=path)
        view[row] = mark


def clear_stale_marks(files: Files, path: str, uuid: bytes, txn: Any) -> int:
    """No mark of any table names an offset beyond its log's end: what lost commits left is gone. Returns how many.

    Reads 8 bytes a row of every table, so it runs after a power loss only.
    """
    cleared = 0
    for key, value in list(scan(txn, b"s")):
        if is_sealed(value):
            continue  # no table's
        layout = SegmentLayout.unpack(value)
        if layout.marks < 0:
            continue
        import numpy as np

        _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
        state = txn.get(partition_key(topic_id, partition))
        end = 0 if state is None else PARTITION.unpack(state)[1]
        try:
            segment = open_segment(files, path, uuid, topic_id, partition, base, layout, write=True)
        except CorruptionError:
            continue  # nothing to clear: whoever reads the table, and check(), says what is wrong
        position = layout.columns[layout.marks].value_position
        marks = np.frombuffer(segment.mapping, dtype="<i8", count=layout.capacity, offset=position)
        stale = np.flatnonzero((marks > end) | (marks < 0))
        if len(stale):
            marks[stale] = 0
            cleared += len(stale)
            if txn.get(dirty_key(topic_id, partition, base)) is None:
                txn.put(dirty_key(topic_id, partition, base), b"\0")
    return cleared
