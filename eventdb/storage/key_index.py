"""Looking up the rows of a table by their keys, in a snapshot.

The index names a version of the key's row. It need not be the newest: an update of one row leaves the index alone
(put.py), and the mark of each version names the one that took its place, up to the row that is current in the snapshot.
"""

from __future__ import annotations

from eventdb.errors import CorruptionError
from eventdb.storage.dictionary import DictionaryCache
from eventdb.storage.format import SEGMENT_KEY, TABLE, U64, row_key_prefix, segment_key, table_key
from eventdb.storage.keys import index_key, is_digest, key_encoder
from eventdb.storage.kv import reading

_ROWS_AT_ONCE = 4_096

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.schema import Schema
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
        found = [place for place in map(self.find, keys) if place is not None]
        return sorted({segment.offset_at(row) for segment, row in found})

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
            row = segment.row_of(offset)
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


def current_row(snapshot: StoreSnapshot, log: PartitionLog, key: Sequence[Any]) -> tuple[int, int, Row] | None:
    """(offset, append_time_us, values) of the row that has the key in the snapshot, None if none has. No scan."""
    index = KeyIndex(snapshot, log)
    place = index.find(key)
    return None if place is None else index.row(*place)


def row_count(snapshot: StoreSnapshot, log: PartitionLog) -> int:
    """The rows a table has in the snapshot."""
    value = snapshot.transaction().get(table_key(log.topic_id, log.partition))
    return 0 if value is None else TABLE.unpack(value)[0]


def current_places(
    txn: Any, topic_id: int, partition: int, end: int, segments: Sequence[tuple[Segment, int]], schema: Schema,
    primary_key: tuple[int, ...],
) -> dict[bytes, list[int]]:  # fmt: skip
    """What the index of keys must say: index key -> offsets of the current rows in the segments (and their rows) of a
    table that ends at `end`. Reads them all."""
    encode, prefix = key_encoder(schema, primary_key), row_key_prefix(topic_id, partition)
    dictionaries = [DictionaryCache(topic_id, i) if field.type.name == "VARCHAR" else None
                    for i, field in enumerate(schema)]  # fmt: skip
    for dictionary in dictionaries:
        if dictionary is not None:
            dictionary.refresh(txn)
    found: dict[bytes, list[int]] = {}
    for segment, rows in segments:
        for at in range(0, rows, _ROWS_AT_ONCE):
            for offset, _, row in segment.read_rows(at, min(rows, at + _ROWS_AT_ONCE), [*dictionaries, None]):
                if not row[-1] or row[-1] > end:
                    found.setdefault(index_key(prefix, encode([row[i] for i in primary_key])), []).append(offset)
    return found
