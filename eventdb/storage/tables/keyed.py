"""Tables in storage: a log whose rows have a key, an index of the newest row of each key, and marks on the others.

KeyedWriter changes a table inside a write transaction, so under the writer lock: what it reads is what it replaces, and
rows, marks and keys become visible in one commit. key_index.py reads.
"""

from __future__ import annotations

from bisect import bisect_right

from eventdb.errors import ConstraintError, UsageError
from eventdb.schema import BIGINT, Field, Schema
from eventdb.storage.commit.marks import Marks
from eventdb.storage.commit.put import segments_of
from eventdb.storage.format import (
    KEY_LIMIT_BYTES,
    KEY_WHOLE,
    OP_KEY,
    OP_PUT,
    SUPERSEDED_BY,
    TABLE,
    U64,
    row_key_prefix,
    table_key,
)
from eventdb.storage.index.keys import index_key, is_digest, key_encoder
from eventdb.storage.index.kv import IndexFault, index_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.transaction import WriteTransaction

    Row = tuple[Any, ...]

_CURRENT = (0,)


def table_schema(schema: Schema) -> Schema:
    """The columns of a table's log: those of the table and the hidden one of marks."""
    return Schema([*schema.fields, Field(SUPERSEDED_BY, BIGINT, nullable=False)])


class KeyedWriter:
    """Changes of one table in one transaction, in the order they are asked for. Rows are tuples of physical values in
    the order of the table's columns; keys are what `key_of` gives."""

    def __init__(self, transaction: WriteTransaction, log: PartitionLog, name: str) -> None:
        transaction.end_offset(log)  # the log's state is current
        self.transaction = transaction
        self.log = log
        self.name = name
        self._txn = transaction._txn
        self._prefix = row_key_prefix(log.topic_id, log.partition)
        self._count_key = table_key(log.topic_id, log.partition)
        self._encode = key_encoder(log.schema, log.primary_key)
        self.key_of = log.key_of
        self._segments = segments_of(log, self._txn)

    # -- reading -------------------------------------------------------------------------------

    def encode_key(self, values: Sequence[Any]) -> bytes:
        """The bytes of the physical values of the key columns."""
        return self._encode(values)

    def find(self, key: bytes) -> int:
        """The offset of the row that has the key now, this transaction's changes included; -1 if none has."""
        place = index_key(self._prefix, key)
        value = self._txn.get(place)
        if value is None:
            return -1
        if not is_digest(place, self._prefix):
            return self._newest(U64.unpack(value)[0])
        for (offset,) in U64.iter_unpack(value):
            if self.key_of(self.row(offset)) == key:
                return offset  # type: ignore[no-any-return]
        return -1

    def _newest(self, offset: int) -> int:
        """The last version of the row at the offset: the marks lead to it."""
        while True:
            segment = self._segment(offset)
            mark = segment.value_views[segment.layout.marks][segment.row_of(offset)]
            if not mark:
                return offset
            offset = mark - 1

    def row(self, offset: int) -> Row:
        """The values of a row, this transaction's own included."""
        return self.rows([offset])[0]

    def rows(self, offsets: Sequence[int]) -> list[Row]:
        """The values of the rows, this transaction's own included."""
        staged = self.transaction._staged.get(self.log)
        dictionaries: list[Any] = list(self.log.dictionaries)
        for i, pending in () if staged is None else staged.pending.items():
            dictionary = self.log.dictionaries[i]
            assert dictionary is not None
            if pending:
                dictionaries[i] = _Values([*dictionary.values, *pending])
        found: list[Row] = []
        at, count = 0, len(offsets)
        while at < count:
            segment = self._segment(offsets[at])
            first = row = segment.row_of(offsets[at])
            at += 1
            stop = self._stop(segment, offsets[at - 1])
            while at < count and offsets[at - 1] + 1 == offsets[at] < stop:  # neighbours: read together
                if segment.layout.offsets >= 0 and segment.offset_at(row + 1) != offsets[at]:
                    break
                row, at = row + 1, at + 1
            if row == first:
                found.append(segment.read_row(row, dictionaries))
            else:
                found += [values[:-1] for _, _, values in segment.read_rows(first, row + 1, dictionaries)]
        return found

    def find_all(self, keys: Sequence[bytes]) -> list[int]:
        """`find` of each key."""
        whole, unpack, get, digest = self._prefix + KEY_WHOLE, U64.unpack, self._txn.get, KEY_LIMIT_BYTES
        found = []
        low = high = 0
        for key in keys:
            value = None if len(key) > digest else get(whole + key)
            if value is None:
                found.append(-1 if len(key) <= digest else self.find(key))
                continue
            (offset,) = unpack(value)
            if not low <= offset < high:
                segment = self._segment(offset)
                low, high, dense = segment.base, self._stop(segment, offset), segment.layout.offsets < 0
                view = segment.value_views[segment.layout.marks]
            found.append(self._newest(offset) if view[offset - low if dense else segment.row_of(offset)] else offset)
        return found

    def count(self) -> int:
        """The rows the table has."""
        return self.counters()[0]

    def counters(self) -> tuple[int, int]:
        """(rows, versions that compaction removed)."""
        value = self._txn.get(self._count_key)
        return (0, 0) if value is None else TABLE.unpack_from(value)

    def _segment(self, offset: int) -> Segment:
        staged = self.transaction._staged.get(self.log)
        if staged is not None:
            for base in reversed(staged.created):
                if offset >= base:
                    return staged.created[base][0]
        return self._segments.at(self._txn, offset)

    # -- changing ------------------------------------------------------------------------------

    def row_ids(self, count: int) -> range:
        """Numbers that no row of a table without a primary key has had, for rows that are inserted next."""
        first = self.transaction.end_offset(self.log)
        return range(first, first + count)

    def put(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int:
        """Each row takes the place of the row with its key, if there is one. Returns the offset of the first."""
        first = self._append(rows)
        self._grow(self._replace_all(keys, first))
        return first

    def _replace_all(self, keys: Sequence[bytes], first: int, fresh_rows: Sequence[Row] = ()) -> int:
        """The rows that were appended from `first` on have the keys; returns how many keys had no row before.
        ConstraintError if one of `fresh_rows` is not the first with its key."""
        whole, pack, unpack = self._prefix + KEY_WHOLE, U64.pack, U64.unpack
        replace, note, head = self._txn.replace, self.transaction._key_ops.append, OP_KEY.pack
        self.transaction._index_changed = True
        fresh = low = high = 0
        try:
            for offset, key in enumerate(keys, first):
                if len(key) > KEY_LIMIT_BYTES:
                    new = self._replace_long(key, offset)
                else:
                    place, value = whole + key, pack(offset)
                    before = replace(place, value)
                    note(head(OP_PUT, len(place), 8) + place + value)
                    new = before is None
                if new:
                    fresh += 1
                    continue
                if fresh_rows:
                    raise self.taken(fresh_rows[offset - first])
                if len(key) > KEY_LIMIT_BYTES:
                    continue
                (old,) = unpack(before)
                if not low <= old < high:
                    segment = self._segment(old)
                    low, high, dense = segment.base, self._stop(segment, old), segment.layout.offsets < 0
                    view, marks = segment.value_views[segment.layout.marks], self._marks_of(segment)
                row = old - low if dense else segment.row_of(old)
                if view[row]:  # not the newest version
                    self._supersede(self._newest(old), offset)
                else:
                    marks.append((row, offset + 1))
        except IndexFault as error:
            raise index_error(error, self._txn.path) from error
        return fresh

    def _replace_long(self, key: bytes, offset: int) -> bool:
        """The same for a key that the index holds by its digest. Whether it had no row."""
        old = self.find(key)
        if old >= 0:
            self._supersede(old, offset)
        self._point(key, offset, old)
        return old < 0

    def _stop(self, segment: Segment, offset: int) -> int:
        """Offsets from that of the segment's base up to this one lie in the segment, if it has them."""
        bases = self._segments.bases
        following = bisect_right(bases, segment.base)
        if offset >= self.log.state.log_end:  # of this transaction, which may have made more segments
            return offset + 1
        return bases[following] if following < len(bases) else self.log.state.log_end

    def insert(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int:
        """The offset of the first row. ConstraintError if a key is taken, also by an earlier row of this call: the
        transaction must end then."""
        first = self._append(rows)
        self._replace_all(keys, first, rows)
        self._grow(len(keys))
        return first

    def delete(self, keys: Sequence[bytes]) -> int:
        """How many of the keys had a row; none has one now."""
        found = {key: offset for key in keys if (offset := self.find(key)) >= 0}
        if found:
            self._bury(list(found), list(found.values()), self.rows(list(found.values())))
        return len(found)

    def remove(self, offsets: Sequence[int], rows: Sequence[Row]) -> int:
        """The current rows, at the offsets, are deleted. Returns the offset of the first tombstone."""
        return self._bury([self.key_of(row) for row in rows], offsets, rows)

    def replace(self, offsets: Sequence[int], old: Sequence[Row], new: Sequence[Row]) -> list[int]:
        """The current rows `old`, at the offsets, become `new`; returns their new offsets. A row whose key changes is
        deleted and inserted: its new key must be free once all are done, or ConstraintError as in `insert`."""
        places = [-1] * len(new)
        before, after = [self.key_of(row) for row in old], [self.key_of(row) for row in new]
        moved = [i for i, key in enumerate(before) if key != after[i]]
        kept = [i for i, key in enumerate(before) if key == after[i]]
        if moved:
            self._bury([before[i] for i in moved], [offsets[i] for i in moved], [old[i] for i in moved])
        if kept:
            first = self._append([new[i] for i in kept])
            self._replace_all([after[i] for i in kept], first)
            for offset, i in enumerate(kept, first):
                places[i] = offset
        if moved:
            first = self.insert([new[i] for i in moved], [after[i] for i in moved])
            for offset, i in enumerate(moved, first):
                places[i] = offset
        return places

    def name_newest(self, keys: Sequence[bytes]) -> None:
        """The index names the newest version of the keys' rows."""
        for key in keys:
            newest = self.find(key)
            if newest >= 0:
                self.transaction._changed = True
                self._point(key, newest, newest)

    def taken(self, row: Row) -> ConstraintError:
        """The error of a key that a row has already."""
        return key_taken(self.log, self.name, row)

    def _append(self, rows: Sequence[Row]) -> int:
        if not self.transaction._journaled:
            raise UsageError(f"table {self.name!r} cannot be changed by an unjournaled transaction")
        return self.transaction.append_rows(self.log, [row + _CURRENT for row in rows])

    def _bury(self, keys: Sequence[bytes], offsets: Sequence[int], rows: Sequence[Row]) -> int:
        """Tombstones for the rows at the offsets; returns the offset of the first."""
        first = self._append(rows)
        for grave, key, offset in zip(range(first, first + len(keys)), keys, offsets, strict=True):
            self._supersede(offset, grave)
            self._supersede(grave, grave)
            self._forget(key, offset)
        self._grow(-len(keys))
        return first

    def _supersede(self, offset: int, by: int) -> None:
        segment = self._segment(offset)
        self._marks_of(segment).append((segment.row_at(offset), by + 1))

    def _marks_of(self, segment: Segment) -> list[tuple[int, int]]:
        """The (row, mark) this transaction makes in a segment."""
        marks = self.transaction._marks
        if marks is None:
            marks = self.transaction._marks = Marks()
        return marks.of(self.log, segment)

    def _grow(self, rows: int) -> None:
        if rows:
            value = self._txn.get(self._count_key) or bytes(TABLE.size)
            before, removed = TABLE.unpack_from(value)
            self.transaction._put(self._count_key, TABLE.pack(before + rows, removed) + value[TABLE.size :])

    def _point(self, key: bytes, offset: int, old: int) -> None:
        """The index says that the key's row is at the offset, and no more at `old`."""
        place = index_key(self._prefix, key)
        value = U64.pack(offset)
        if is_digest(place, self._prefix):
            value = b"".join(U64.pack(other) for other in self._others(place, old)) + value
        self.transaction._put(place, value)

    def _forget(self, key: bytes, old: int) -> None:
        place = index_key(self._prefix, key)
        others = list(self._others(place, old)) if is_digest(place, self._prefix) else []
        if others:
            self.transaction._put(place, b"".join(map(U64.pack, others)))
        else:
            self.transaction._delete(place)

    def _others(self, place: bytes, offset: int) -> Iterator[int]:
        """The rows with other keys of the same digest."""
        for (other,) in U64.iter_unpack(self._txn.get(place) or b""):
            if other != offset:
                yield other


def key_taken(log: PartitionLog, name: str, row: Row) -> ConstraintError:
    """The error of a row whose key another row of the table has."""
    columns = ", ".join(log.schema.names[i] for i in log.primary_key)
    key, shown = key_shown(log, row)
    return ConstraintError(
        f"table {name!r} has a row with the primary key {shown} already; to replace it use put(row) or "
        f"INSERT ... ON CONFLICT ({columns}) DO UPDATE, to keep it ON CONFLICT DO NOTHING",
        table=name,
        key=key,
    )


def key_shown(log: PartitionLog, row: Row) -> tuple[Any, str]:
    """The key of a row as Python has it, a tuple if there are several columns; and as a message shows it."""
    from eventdb.values import decode_value

    fields = [log.schema.fields[i] for i in log.primary_key]
    values = [decode_value(field.type, row[i]) for field, i in zip(fields, log.primary_key, strict=True)]
    shown = ", ".join(f"{field.name} = {value!r:.80}" for field, value in zip(fields, values, strict=True))
    return values[0] if len(values) == 1 else tuple(values), shown


class _Values:
    """A dictionary that has the values of an unfinished transaction too."""

    __slots__ = ("values",)

    def __init__(self, values: list[str]) -> None:
        self.values = values
