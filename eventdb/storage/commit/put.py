"""A row that takes the place of another one by the shortest way (append.py): the row and one mark, no index key.

The index goes on naming an older version of the key's row; the marks lead from it to the newest one (key_index.py). So
a put of a key that is there is a commit to the head, like an append to a topic, and costs no LMDB transaction. What the
index names stays near the end of that way: after MAX_HOPS versions a put goes the long way, which names the newest.
Compaction names the newest version before it removes those that lead to it (compact.py).

A row with a new key is a commit to the index, like any other that WriteTransaction makes, without its detours.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import error as StructError

from eventdb.config import DICTIONARY_LIMIT
from eventdb.storage.format import (
    MARK,
    OP_KEY,
    OP_MARKS,
    OP_PLACE,
    OP_PUT,
    SEGMENT_KEY,
    TABLE,
    U32,
    U64,
    dictionary_key,
    row_key_prefix,
    segment_key,
    table_key,
)
from eventdb.storage.index.dictionary import is_short
from eventdb.storage.index.keys import index_key, is_digest
from eventdb.storage.index.kv import IndexFault, index_error, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment

    Mark = tuple[memoryview, int, int, int]  # the marks of a segment, row, mark, base of the segment

MAX_HOPS = 8
NO_ROW: Mark = (memoryview(b""), -1, 0, 0)  # the key has no row
DECLINED = -1


class MarkedSegments:
    """The segments of a table as the index of one generation names them, mapped for writing when they are needed."""

    __slots__ = ("bases", "found", "log", "state")

    def __init__(self, log: PartitionLog, txn: Any) -> None:
        prefix = segment_key(log.topic_id, log.partition, 0)[:-8]
        self.log = log
        self.bases = [SEGMENT_KEY.unpack(key)[3] for key, _ in scan(txn, prefix)]
        self.found: dict[int, Segment] = {}
        self.state = (log.generation, log.state.base)

    def at(self, txn: Any, offset: int) -> Segment:
        """The segment that holds the offset."""
        base = self.bases[bisect_right(self.bases, offset) - 1]
        segment = self.found.get(base)
        if segment is None:
            segment = self.found[base] = self.log.markable(txn, base)
        return segment


def segments_of(log: PartitionLog, txn: Any) -> MarkedSegments:
    """The log's segments; its state is current."""
    found = log.marked_segments
    if found is None or found.state != (log.generation, log.state.base):
        found = log.marked_segments = MarkedSegments(log, txn)
    return found


def superseded(writer: Writer, log: PartitionLog, key: bytes) -> Mark | None:
    """The mark that a row with the key, at the log's end, makes (NO_ROW if none has it); None if the long way must be
    taken. Lock held, the log's state current."""
    place = index_key(row_key_prefix(log.topic_id, log.partition), key)
    txn = writer.index.begin_read()
    try:
        value = txn.get(place)
        if is_digest(place, place[:7]):
            return None
        if value is None:
            return NO_ROW
        (offset,) = U64.unpack(value)
        segments = segments_of(log, txn)
        for _ in range(MAX_HOPS):
            segment = segments.at(txn, offset)
            row = segment.row_of(offset)
            mark = segment.mark_of(row)
            if not mark:
                if segment.base != log.state.base and log.marked.get(segment.base) != writer.tail.checkpoint_sequence:
                    return None  # the next checkpoint does not know yet that it must flush the segment
                return segment.value_views[segment.layout.marks], row, log.state.log_end + 1, segment.base
            offset = mark - 1
        return None
    finally:
        txn.abort()


def describe_mark(log: PartitionLog, mark: Mark) -> bytes:
    """The operation for the journal."""
    _, row, by, base = mark
    return OP_PLACE.pack(OP_MARKS, log.topic_id, log.partition, base) + U32.pack(MARK.size) + MARK.pack(row, by)


def insert_row(writer: Writer, log: PartitionLog, row: tuple[Any, ...], key: bytes, now: int) -> int:
    """The offset of a row whose key has none, committed; DECLINED, nothing done, if it must take the long way. Lock
    held, the log's state current, and nothing in the journal behind its tail. Errors: Writer.commit."""
    strings = _new_strings(log, row)
    if strings is None:
        return DECLINED
    dictionaries = [(log.dictionaries[i], value) for i, value in strings]
    for dictionary, value in dictionaries:
        assert dictionary is not None
        dictionary.codes[value] = len(dictionary.values)  # known to writers only, and so to nobody but us
    done = False
    txn: Any = None
    try:
        state = log.state
        offset = state.log_end
        try:
            data, low, high = log.encoder(
                row, offset - state.base, state.log_start, state.min_time, state.max_time, now, state.flags
            )
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, StructError):
            return DECLINED
        txn = writer.index.begin_write()
        if txn.id() != writer.last_txn + 1:
            return DECLINED
        writer.fold_into(txn)
        after = state.copy()
        after.log_end, after.min_time, after.max_time, after.append_us = offset + 1, low, high, now
        count = table_key(log.topic_id, log.partition)
        table = txn.get(count) or bytes(TABLE.size)
        rows, removed = TABLE.unpack_from(table)
        entries = [
            *((dictionary_key(log.topic_id, i, log.dictionaries[i].codes[value]),  # type: ignore[union-attr]
               value.encode("utf-8", "surrogatepass")) for i, value in strings),
            (index_key(row_key_prefix(log.topic_id, log.partition), key), U64.pack(offset)),
            (count, TABLE.pack(rows + 1, removed) + table[TABLE.size :]),
        ]  # fmt: skip
        try:
            for name, held in entries:
                txn.put(name, held)
            txn.put(log.key, after.pack())
        except IndexFault as error:
            if writer.index.is_full:
                return DECLINED  # the long way begins with a larger map
            raise index_error(error, writer.index.path) from error
        writer.newest_us[0] = now
        operations = [OP_KEY.pack(OP_PUT, len(name), len(held)) + name + held for name, held in entries]
        writer.commit(txn, b"".join((data, *operations)))
        done = True
        log.state = after
        return offset
    finally:
        for dictionary, value in dictionaries:
            assert dictionary is not None
            if done:
                dictionary.publish({value: dictionary.codes[value]})
            elif dictionary.codes.get(value) == len(dictionary.values):
                del dictionary.codes[value]
        if not done and txn is not None:
            writer.last_txn = -1
            txn.abort()


def _new_strings(log: PartitionLog, row: tuple[Any, ...]) -> list[tuple[int, str]] | None:
    """(column, value) of the row's strings that have no code yet; None if one cannot get one."""
    assert log.segment is not None
    found = []
    for i in log.segment.layout.coded:
        dictionary, value = log.dictionaries[i], row[i]
        assert dictionary is not None
        if value not in dictionary.codes:
            if not isinstance(value, str) or not is_short(value) or dictionary.is_full(DICTIONARY_LIMIT, 1, len(value)):
                return None
            found.append((i, value))
    return found
