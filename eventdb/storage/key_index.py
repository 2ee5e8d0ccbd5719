"""Looking up the rows of a table by their keys, in a snapshot.

The index names a version of the key's row. It need not be the newest: an update of one row leaves the index alone
(put.py), and the mark of each version names the one that took its place, up to the row that is current in the snapshot.
"""

from __future__ import annotations

from eventdb.errors import CorruptionError
from eventdb.storage.format import SEGMENT_KEY, TABLE, U64, row_key_prefix, segment_key, table_key
from eventdb.storage.keys import index_key, is_digest, key_encoder
from eventdb.storage.kv import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.storage.log import PartitionLog
    from eventdb.storage.segment import Segment
    from eventdb.storage.snapshot import StoreSnapshot

    Row = tuple[Any, ...]


class KeyIndex:
    """The rows a table has in one snapshot, by key."""

    def __init__(self, snapshot: StoreSnapshot, log: PartitionLog) -> None:
        self._txn = snapshot.transaction()
        self._log = log
        self._end = snapshot.offsets(log)[1]
        self._prefix = row_key_prefix(log.topic_id, log.partition)
        self._encode = key_encoder(log.schema, log.primary_key)
        self._segment: Segment | None = None  # the last one looked into
        self._segment_end = 0

    def find(self, key: Sequence[Any]) -> tuple[Segment, int] | None:
        """The segment and the row in it that hold what the key (physical values) has now; None if it has no row."""
        wanted = self._encode(key)
        place = index_key(self._prefix, wanted)
        value = self._txn.get(place)
        if value is None:
            return None
        for (offset,) in U64.iter_unpack(value):
            found = self._newest(offset)
            if found is not None and (
                not is_digest(place, self._prefix)
                or self._encode([self.row(*found)[2][i] for i in self._log.primary_key]) == wanted
            ):
                return found
        return None

    def offsets(self, keys: Sequence[Sequence[Any]]) -> list[int]:
        """The offsets of the rows that have the keys, ascending."""
        found = {offset_of(*place) for place in map(self.find, keys) if place is not None}
        return sorted(found)

    def row(self, segment: Segment, row: int) -> tuple[int, int, Row]:
        """(offset, append_time_us, values)."""
        log = self._log
        try:
            offset, append_us, values = segment.read_rows(row, row + 1, log.dictionaries)[0]
        except CorruptionError:  # or a string this process has not met
            for dictionary in log.dictionaries:
                if dictionary is not None:
                    dictionary.refresh(self._txn)
            offset, append_us, values = segment.read_rows(row, row + 1, log.dictionaries)[0]
        return offset, append_us, values[:-1]

    def _newest(self, offset: int) -> tuple[Segment, int] | None:
        """Where the version is that took the place of the one at the offset, or of one that did, as of the snapshot."""
        end = self._end
        while offset < end:
            segment = self._segment_at(offset)
            row = row_of(segment, offset)
            mark = segment.value_views[segment.layout.marks][row]
            if not mark or mark > end:
                return segment, row
            if mark <= offset + 1:
                return None  # a tombstone
            offset = mark - 1
        return None

    def _segment_at(self, offset: int) -> Segment:
        """The segment that holds the offset."""
        segment = self._segment
        if segment is not None and segment.base <= offset < self._segment_end:
            return segment
        log, txn = self._log, self._txn
        target = segment_key(log.topic_id, log.partition, offset)
        with reading(txn.path):
            cursor = txn.cursor()
            found = cursor.set_range(target) and cursor.key() == target
            if not found:
                found = cursor.prev() if cursor.key() else cursor.last()
            key = cursor.key() if found else b""
            if not key.startswith(target[:-8]):
                raise CorruptionError(
                    f"topic {log.topic_id}: the index of keys names offset {offset}, which no segment holds"
                )
            following = cursor.key() if cursor.next() else b""
        segment = self._segment = log.mapped_raw(SEGMENT_KEY.unpack(key)[3], txn.get(key))
        self._segment_end = SEGMENT_KEY.unpack(following)[3] if following.startswith(target[:-8]) else self._end
        return segment


def row_of(segment: Segment, offset: int) -> int:
    """The row that has the offset. CorruptionError if none has."""
    row = segment.row_at(offset)
    if row >= segment.layout.capacity or offset_of(segment, row) != offset:
        raise CorruptionError(
            f"{segment.path}: the index of keys leads to offset {offset}, which is not there; run check(deep=True)",
            path=segment.path,
        )
    return row


def offset_of(segment: Segment, row: int) -> int:
    """The offset of a row of a segment."""
    layout = segment.layout
    return segment.base + row if layout.offsets < 0 else int(segment.value_views[layout.offsets][row])


def current_row(snapshot: StoreSnapshot, log: PartitionLog, key: Sequence[Any]) -> tuple[int, int, Row] | None:
    """(offset, append_time_us, values) of the row that has the key in the snapshot, None if none has. No scan."""
    index = KeyIndex(snapshot, log)
    place = index.find(key)
    return None if place is None else index.row(*place)


def row_count(snapshot: StoreSnapshot, log: PartitionLog) -> int:
    """The rows a table has in the snapshot."""
    value = snapshot.transaction().get(table_key(log.topic_id, log.partition))
    return 0 if value is None else TABLE.unpack(value)[0]
