"""Looking up the rows of a table by their keys, in a snapshot.

The index names a version of the key's row. It need not be the newest: an update of one row leaves the index alone
(put.py), and the mark of each version names the one that took its place, up to the row that is current in the snapshot.
"""

from __future__ import annotations

from bisect import bisect_right

from eventdb.errors import CorruptionError
from eventdb.storage.format import PARTITION, SEGMENT_KEY, TABLE, U64, row_key_prefix, segment_key, table_key
from eventdb.storage.index.dictionary import DictionaryCache
from eventdb.storage.index.head import entry_of
from eventdb.storage.index.keys import index_key, is_digest, key_encoder
from eventdb.storage.index.kv import reading, scan

_ROWS_AT_ONCE = 4_096
_MOST_MAPPED = 64  # segments of one state of the index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.snapshot import StoreSnapshot

    Row = tuple[Any, ...]


class KeyIndex:
    """The rows a table has in one snapshot, by key (as keys.py encodes it)."""

    def __init__(self, snapshot: StoreSnapshot, log: PartitionLog) -> None:
        self._txn = snapshot.transaction()
        self._log = log
        self._end = snapshot.offsets(log)[1]
        self._prefix = row_key_prefix(log.topic_id, log.partition)

    def find(self, key: bytes) -> tuple[Segment, int] | None:
        """The segment and the row in it that hold what the key has now; None if it has no row."""
        place = index_key(self._prefix, key)
        value = self._txn.get(place)
        if value is None:
            return None
        for (offset,) in U64.iter_unpack(value):
            found = newest(self._txn, self._log, offset, self._end)
            if found is not None and (not is_digest(place, self._prefix) or self._log.key_of(self.row(*found)) == key):
                return found
        return None

    def offsets(self, keys: Sequence[Sequence[Any]]) -> list[int]:
        """The offsets of the rows that have the keys, given as physical values; ascending."""
        encode = key_encoder(self._log.schema, self._log.primary_key)
        found = [place for place in (self.find(encode(key)) for key in keys) if place is not None]
        return sorted({segment.offset_at(row) for segment, row in found})

    def row(self, segment: Segment, row: int) -> Row:
        """The values of a row."""
        return read_row(self._txn, self._log, segment, row)


def newest(txn: Any, log: PartitionLog, offset: int, end: int) -> tuple[Segment, int] | None:
    """Where the version is that took the place of the one at the offset, or of one that did, in a table that ends at
    `end`; None if that is a tombstone."""
    while offset < end:
        segment = segment_at(txn, log, offset)
        row = segment.row_of(offset)
        mark = segment.mark_of(row)
        if not mark or mark > end:
            return segment, row
        if mark <= offset + 1:
            return None
        offset = mark - 1
    return None


def read_row(txn: Any, log: PartitionLog, segment: Segment, row: int) -> Row:
    """The values of a row of a table."""
    try:
        return segment.read_row(row, log.dictionaries)
    except CorruptionError:  # or a string this process has not met
        for dictionary in log.dictionaries:
            if dictionary is not None:
                dictionary.refresh(txn)
        return segment.read_row(row, log.dictionaries)


def segment_at(txn: Any, log: PartitionLog, offset: int) -> Segment:
    """The segment that holds the offset."""
    number, bases, values, mapped = log.looked_into
    if number != txn.id():
        log.looked_into = (txn.id(), [], [], {})
        base, value = _seek(txn, log, offset)
        return log.mapped_raw(base, value)
    if not bases:  # the second look at one state of the index: more will follow
        found = list(scan(txn, segment_key(log.topic_id, log.partition, 0)[:-8]))
        bases, values = [SEGMENT_KEY.unpack(key)[3] for key, _ in found], [value for _, value in found]
        log.keep_only(bases)
        log.looked_into = (number, bases, values, mapped)
    at = bisect_right(bases, offset) - 1
    segment = mapped.get(at)
    if segment is None:
        if at < 0:
            raise _lost(log, offset)
        if len(mapped) >= _MOST_MAPPED:
            mapped.clear()
        segment = mapped[at] = log.mapped_raw(bases[at], values[at])
    return segment


def _seek(txn: Any, log: PartitionLog, offset: int) -> tuple[int, bytes]:
    """(base, index value) of the segment that holds the offset."""
    target = segment_key(log.topic_id, log.partition, offset)
    with reading(txn.path):
        cursor = txn.cursor()
        found = cursor.set_range(target) and cursor.key() == target
        if not found:
            found = cursor.prev() if cursor.key() else cursor.last()
        key = cursor.key() if found else b""
    if not key.startswith(target[:-8]):
        raise _lost(log, offset)
    return SEGMENT_KEY.unpack(key)[3], txn.get(key)


def _lost(log: PartitionLog, offset: int) -> CorruptionError:
    return CorruptionError(f"topic {log.topic_id}: the index of keys names offset {offset}, which no segment holds")


def newest_row(head: bytes, txn: Any, log: PartitionLog, key: bytes) -> tuple[bool, Row | None]:
    """(True, values of the row that has the key now, None if none has); (False, None) if that takes a snapshot to tell.

    `head` is what the head held before the read transaction was opened. What the index names has been committed: if
    nothing has taken its place, it is the row.
    """
    prefix = row_key_prefix(log.topic_id, log.partition)
    place = index_key(prefix, key)
    value = txn.get(place)
    if value is None:
        return True, None
    if is_digest(place, prefix):
        return False, None
    (offset,) = U64.unpack(value)
    segment = segment_at(txn, log, offset)
    row = segment.row_of(offset)
    mark = segment.mark_of(row)
    if mark:
        # The later end of the two: the head may have been folded into the index in between.
        states = (entry_of(head, log.key), txn.get(log.key))
        end = max(PARTITION.unpack(state)[1] for state in states if state is not None)
        if mark <= end:
            found = newest(txn, log, mark - 1, end) if mark > offset + 1 else None
            if found is None:
                return True, None
            segment, row = found
    return True, read_row(txn, log, segment, row)


def current_row(snapshot: StoreSnapshot, log: PartitionLog, key: bytes) -> tuple[int, Row] | None:
    """(offset, values) of the row that has the key in the snapshot, None if none has. No scan."""
    index = KeyIndex(snapshot, log)
    place = index.find(key)
    return None if place is None else (place[0].offset_at(place[1]), index.row(*place))


def row_count(snapshot: StoreSnapshot, log: PartitionLog) -> int:
    """The rows a table has in the snapshot."""
    value = snapshot.transaction().get(table_key(log.topic_id, log.partition))
    return 0 if value is None else TABLE.unpack_from(value)[0]


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
