"""WriteTransaction: rows and keys that become visible together, or not at all."""

from __future__ import annotations

import threading
from functools import partial
from itertools import chain

from eventdb.config import HEAP_BYTES_PER_ROW, MAX_PAYLOAD_BYTES, MAX_SEGMENT_ROWS
from eventdb.errors import ClosedError, InternalError, SchemaMismatch, UsageError
from eventdb.storage.commit.checksum import Checksum
from eventdb.storage.commit.staging import Staged
from eventdb.storage.format import (
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    OP_BULK,
    OP_CHUNK,
    OP_DELETE,
    OP_KEY,
    OP_PLACE,
    OP_PUT,
    OP_ROWS,
    OP_SEGMENT,
    PARTITION_BESIDE,
    PARTITION_DERIVED,
    U32,
    dirty_key,
    segment_key,
)
from eventdb.storage.index.dictionary import stored_values
from eventdb.storage.index.kv import IndexFault, index_error, scan
from eventdb.storage.segment.cells import store_cells
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.limits import require_room
from eventdb.storage.segment.log import PartitionLog
from eventdb.storage.segment.segment import Segment, create_segment

_STORED_ROWS = 2_048  # at a time: their cells stay in the processor's cache from the first look to the last

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.batch import Column
    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.commit.durability import Bulk
    from eventdb.storage.commit.marks import Marks
    from eventdb.storage.device.files import Files
    from eventdb.storage.notify import Notifier

MAX_KEY_BYTES = 500


class _Guard:
    """Ends a commit section that Ctrl-C kept from ending: it can strike before the first line of __exit__."""

    __slots__ = ("mark", "txn", "writer")

    mark: object
    txn: Any
    writer: Writer

    def __del__(self) -> None:
        if self.writer.token is self.mark:
            self.writer.leave(self.txn)


class _Spent:
    """A guard before its section is entered and after it ended in order: without __del__, where Ctrl-C would go
    unheard."""

    __slots__ = ("mark", "txn", "writer")

    mark: object
    txn: Any
    writer: Writer


class WriteTransaction:
    """Get it from Store.write() and use it as a context manager, in one thread. Leaving it normally commits; an
    exception aborts.

    The writer lock of the whole database is held inside: keep it short.
    """

    def __init__(self, writer: Writer, notifier: Notifier, *, journaled: bool) -> None:
        self._writer = writer
        self._notifier = notifier
        self._journaled = journaled
        self._txn: Any = None
        self._guard: Any = None
        self._staged: dict[PartitionLog, Staged] = {}
        self._pending: dict[int, dict[int, dict[str, int]]] = {}  # by topic and column: strings that get codes
        self._key_ops: list[bytes] = []
        self._thread = 0
        self._now_us = 0
        self._changed = False
        self._index_changed = False  # by more than partitions' ends: those may go to the head
        self._ahead: dict[bytes, bytes] = {}
        self._checksums: list[tuple[int, Checksum]] = []  # position among the parts of the record
        self._marks: Marks | None = None
        self._committing = False

    def __enter__(self) -> WriteTransaction:
        writer = self._writer
        if writer.owner == threading.get_ident() and writer.token is not None:
            raise UsageError("a write transaction of this thread is open: finish it before the next write")
        try:
            self._txn = writer.enter()
            mark, guard = object(), _Spent()
            guard.mark, guard.txn, guard.writer = mark, self._txn, writer
            guard.__class__ = _Guard  # type: ignore[assignment]
            writer.token, self._guard = mark, guard
            self._thread = threading.get_ident()
            self._now_us = writer.commit_time_us()
        except BaseException:  # Ctrl-C, too, leaves nothing locked
            writer.leave(self._txn)
            self._txn = None
            raise
        return self

    def abandon(self) -> None:
        """Ends the section if __exit__ was kept from it; for those who keep a transaction alive beyond its block."""
        guard, self._guard, self._txn = self._guard, None, None
        del guard

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        txn = self._txn
        if txn is None:
            return
        committed = False
        try:
            if kind is None and self._changed:
                self._commit()
                self._guard.txn = None
                committed = True
        finally:
            self._txn = None
            staged, self._staged = self._staged, {}
            try:
                if not committed:
                    self._discard(staged)
            finally:
                try:
                    self._writer.leave(None if committed else txn)
                except BaseException:  # Ctrl-C in the middle of it
                    self._writer.leave(None if committed else txn)
                    raise
                finally:
                    self._guard.__class__ = _Spent
        if committed:
            self._notifier.announce()

    # -- rows ----------------------------------------------------------------------------------

    @property
    def files(self) -> Files:
        """Where file operations of this database go."""
        return self._writer.files

    def append_row(self, log: PartitionLog, row: tuple[Any, ...]) -> int:
        """The offset the row gets."""
        return self.append_rows(log, (row,))

    def append_rows(self, log: PartitionLog, rows: Sequence[tuple[Any, ...]]) -> int:
        """The offset of the first row; the others follow. Rows are tuples of physical values in schema order."""
        width = len(log.schema)
        for found in set(map(len, rows)):
            if found != width:
                raise SchemaMismatch(f"a row of {found} values does not fit the {width} columns of the topic")
        first = self.end_offset(log)
        for start in range(0, len(rows), _STORED_ROWS):
            cells = list(chain.from_iterable(rows[start : start + _STORED_ROWS]))
            # Every width-th of them is a column: half the time of zip(*rows).
            self._store_all(log, [cells[i::width] for i in range(width)], len(rows) - start)
        return first

    def append_cells(self, log: PartitionLog, columns: Sequence[list[Any]]) -> int:
        """append_rows() for rows given as lists of physical values, equally long, one for each column."""
        if len(columns) != len(log.schema):
            raise SchemaMismatch(f"{len(columns)} columns do not fit the {len(log.schema)} columns of the topic")
        first = self.end_offset(log)
        count = len(columns[0])
        for start in range(0, count, _STORED_ROWS):
            self._store_all(log, [column[start : start + _STORED_ROWS] for column in columns], count - start)
        return first

    def _store_all(self, log: PartitionLog, columns: list[list[Any]], want_rows: int) -> None:
        """All rows of the columns stored; `want_rows` more are waiting, they included."""
        staged = self._stage(log)
        done, count = 0, len(columns[0])
        while done < count:
            rest = [column[done:] for column in columns] if done else columns
            done += store_cells(self, staged, rest, want_rows - done)

    def append_columns(self, log: PartitionLog, columns: Sequence[Column]) -> int:
        """The offset of the first row. Columns in schema order with the schema's types; dictionaries may be any."""
        from eventdb.storage.segment.columns import store_columns

        if len(columns) != len(log.schema):
            raise SchemaMismatch(f"{len(columns)} columns do not fit the {len(log.schema)} columns of the topic")
        staged = self._stage(log)
        first = staged.state.log_end
        store_columns(self, staged, columns)
        return first

    def append_beside(self, log: PartitionLog, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows (offset in `log`, ...) that rows of this transaction carry, to the log beside it."""
        if log.beside is None:
            raise InternalError(f"topic {log.topic_id} has no log beside it")
        self._stage(log).state.flags |= PARTITION_BESIDE
        self.append_rows(log.beside, rows)

    def end_offset(self, log: PartitionLog) -> int:
        """The offset the next row of the log gets."""
        staged = self._staged.get(log)
        if staged is None:
            self._check()
            self._refresh(log)
            return log.state.log_end
        return staged.state.log_end

    def _check(self) -> None:
        if self._txn is None:
            raise ClosedError("the transaction is over")
        if threading.get_ident() != self._thread:
            raise UsageError("a write transaction belongs to the thread that opened it")

    def _refresh(self, log: PartitionLog) -> None:
        if log.generation != self._writer.generation:
            log.load(self._txn)
            log.generation = self._writer.generation

    def _stage(self, log: PartitionLog) -> Staged:
        self._check()
        staged = self._staged.get(log)
        if staged is None:
            self._refresh(log)
            coded = any(dictionary is not None for dictionary in log.dictionaries)
            staged = Staged(log, self._pending.setdefault(log.topic_id, {}) if coded else {})
            state = staged.state
            if not self._journaled:
                if state.log_end and not state.derived:
                    raise UsageError(f"topic {log.topic_id} holds journaled rows: it cannot take unjournaled ones")
                state.flags |= PARTITION_DERIVED
            elif state.derived:
                raise UsageError(f"topic {log.topic_id} holds unjournaled rows: it cannot take journaled ones")
            state.append_us = self._writer.newest_us[0] = self._now_us
            self._staged[log] = staged
        self._changed = True
        return staged

    def roll(self, staged: Staged, want_rows: int, plain: set[int], heap_bytes: dict[int, int]) -> Segment:
        """A new segment for the log, at its end. `plain` columns are added to those stored plainly already."""
        log, state, old = staged.log, staged.state, staged.segment
        kept = {i for i, field in enumerate(log.schema.fields) if field.type.stored_name == "BLOB"}
        if old is not None:
            kept |= set(old.layout.plain)
        per_row = HEAP_BYTES_PER_ROW
        most_rows = MAX_SEGMENT_ROWS if log.limits is None else log.limits.segment_rows(log.schema)
        layout = SegmentLayout.plan(
            log.schema,
            None if old is None else old.layout,
            want_rows,
            sorted(kept | plain),
            heap_bytes,
            per_row,
            most_rows,
            grows=log.limits is None or log.limits.max_bytes is None,
        )
        writer = self._writer
        segment = create_segment(
            writer.files, writer.path, writer.uuid, log.topic_id, log.partition, state.log_end, layout
        )
        if old is not None and old.base == state.base:  # else it was rolled already and its successor replaced
            value = old.layout.pack(state.min_time, state.max_time)
            if old.base in staged.created:
                staged.created[old.base] = (old, value)
            else:
                self._put(segment_key(log.topic_id, log.partition, old.base), value)
        staged.created[segment.base] = (segment, layout.pack())
        log.durable_base = NO_SEGMENT
        staged.segment = staged.zeroed = segment
        state.base, state.min_time, state.max_time = segment.base, NO_MIN_TIME, NO_MAX_TIME
        return segment

    def replace_empty(self, staged: Staged) -> None:
        """The segment this very transaction created is still empty: its file is dropped and made anew."""
        segment = staged.segment
        assert segment is not None
        if staged.created.pop(segment.base, None) is None:
            raise InternalError(f"{segment.path} is committed but empty")
        others = [other for other, _ in staged.created.values()]
        staged.segment = others[-1] if others else staged.log.segment

    # -- keys ----------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value of a user key, this transaction's own writes included."""
        self._check()
        return self._txn.get(b"u" + key)  # type: ignore[no-any-return]

    def put(self, key: bytes, value: bytes) -> None:
        self._check()
        self._check_key(key)
        self._changed = True
        self._put(b"u" + key, value)

    def delete(self, key: bytes) -> None:
        self._check()
        self._check_key(key)
        self._changed = True
        self._delete(b"u" + key)

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of the user keys with the prefix, in key order."""
        self._check()
        for key, value in scan(self._txn, b"u" + prefix):
            yield key[1:], value

    def _check_key(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) > MAX_KEY_BYTES:
            raise UsageError(f"a key is at most {MAX_KEY_BYTES} bytes, not {len(key)}")

    def _put(self, key: bytes, value: bytes) -> None:
        self._run(self._txn.put, key, value)
        if self._journaled:
            self._key_ops.append(OP_KEY.pack(OP_PUT, len(key), len(value)) + key + value)

    def _delete(self, key: bytes) -> None:
        self._run(self._txn.delete, key)
        if self._journaled:
            self._key_ops.append(OP_KEY.pack(OP_DELETE, len(key), 0) + key)

    def _run(self, operation: Any, *arguments: bytes) -> None:
        self._index_changed = True
        try:
            operation(*arguments)
        except IndexFault as error:
            raise index_error(error, self._writer.index.path) from error

    # -- the end -------------------------------------------------------------------------------

    def _commit(self) -> None:
        writer = self._writer
        parts: list[bytes | memoryview] = []
        bulk: list[tuple[Staged, Segment]] = []
        for topic_id, columns in self._pending.items():
            for i, pending in columns.items():
                for key, stored in stored_values(topic_id, i, pending):
                    self._put(key, stored)
        for staged in self._staged.values():
            if staged.log.limits is not None:
                require_room(self, staged)
            self._describe(staged, parts, bulk)
        for position, checksum in self._checksums:
            parts[position] = bytes(parts[position]) + U32.pack(checksum.result())
        parts.extend(self._key_ops)
        if self._marks is not None:
            for key in self._marks.places():
                self._mark_dirty(key, False)
            self._marks.note(writer.tail.checkpoint_sequence)
            parts.extend(self._marks.describe())
        segments = self._segments_of(bulk)
        self._committing = True
        payload = b"".join(parts) if self._journaled else None
        if payload is None or self._index_changed or not self._commit_head(payload, segments):
            for key, state in self._ahead.items():
                self._run(self._txn.put, key, state)
            writer.commit(self._txn, payload, bulk=segments, marks=self._marks)
        if writer.synced:
            for staged, segment in bulk:
                staged.log.durable_base = segment.base
        for staged in self._staged.values():
            log = staged.log
            log.adopt(staged.state, staged.segment)
            for i, pending in staged.pending.items():
                dictionary = log.dictionaries[i]
                assert dictionary is not None
                dictionary.publish(pending)

    def _segments_of(self, bulk: list[tuple[Staged, Segment]]) -> Bulk:
        found = []
        for staged, segment in bulk:
            log = staged.log
            # A file that is new since the checkpoint, made by this commit or an earlier one, may have no durable entry.
            mark = self._txn.get(dirty_key(log.topic_id, log.partition, segment.base))
            found.append((log, segment, mark == b"\1" and log.durable_base != segment.base))
        return found

    def _commit_head(self, payload: bytes, bulk: Bulk) -> bool:
        """The commit goes to the head, if it fits; the index transaction ends without a trace."""
        if not self._writer.commit_head(payload, self._ahead, bulk=bulk):
            return False
        self._txn.abort()
        return True

    def _describe(self, staged: Staged, parts: list[bytes | memoryview], bulk: list[tuple[Staged, Segment]]) -> None:
        """The index entries of one log, and its operations for the journal."""
        log, writer = staged.log, self._writer
        topic_id, partition = log.topic_id, log.partition
        sequence = writer.tail.checkpoint_sequence
        for segment, value in staged.created.values():
            self._run(self._txn.put, segment_key(topic_id, partition, segment.base), value)
            parts.append(OP_PLACE.pack(OP_SEGMENT, topic_id, partition, segment.base) + U32.pack(len(value)) + value)
        state = staged.state.pack()
        for segment, row, count in staged.chunks:
            if log.touched != (sequence, segment.base):
                self._mark_dirty(dirty_key(topic_id, partition, segment.base), segment.base in staged.created)
                log.touched = (sequence, segment.base)
            if not self._journaled:
                continue
            regions = segment.regions(row, count)
            length = sum(size for _, size in regions)
            place = OP_ROWS.pack(row, count) + state
            if length > MAX_PAYLOAD_BYTES:
                checksum = staged.checksums.get((segment.base, row, count))
                if checksum is None:
                    checksum = Checksum(partial(segment.rows_bytes, row, count))
                    checksum.begin()
                self._checksums.append((len(parts), checksum))
                parts.append(OP_PLACE.pack(OP_BULK, topic_id, partition, segment.base) + place)
                bulk.append((staged, segment))
                writer.bytes_appended += length
            else:
                parts.append(OP_PLACE.pack(OP_CHUNK, topic_id, partition, segment.base) + place + U32.pack(length))
                parts.extend(segment.memory[position : position + size] for position, size in regions)
        if staged.moved and not staged.chunks:
            parts.append(OP_KEY.pack(OP_PUT, len(log.key), len(state)) + log.key + state)
        self._ahead[log.key] = state

    def _mark_dirty(self, key: bytes, created: bool) -> None:
        """The next checkpoint flushes the segment, and its directory if its file is new since the last one."""
        if created:
            self._run(self._txn.put, key, b"\1")
        elif self._txn.get(key) is None:  # else the mark may say that the file is new: that stays
            self._run(self._txn.put, key, b"\0")

    def _discard(self, staged: dict[PartitionLog, Staged]) -> None:
        """The transaction did not happen: files it made go, handles it changed are reloaded."""
        for log, changes in staged.items():
            log.drop_writer_state()
            if not self._committing:  # else the journal may name them: the next writer completes the commit
                for segment, _ in changes.created.values():
                    self._writer.discard_file(segment.path)
