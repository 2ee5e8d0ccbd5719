"""Compaction of a table: versions that no snapshot can see any more give their space back. No offset ever changes.

A full segment (or several neighbours) is rewritten with the rows that some snapshot may still see and one more column,
their offsets; a segment without such rows goes. The steps, and what a crash leaves:

1. the horizon: a checkpoint is made, and it is made sure that nobody reads anything older. A row is dead if the row
   that superseded it lies before the end of the table in that checkpoint;
2. the index of keys names no row that is to go, and none that leads over one to the newest version (put.py);
3. without the lock, the new file is written under a temporary name and flushed. A crash leaves the old segments, and
   the temporary file, which the next compaction removes;
4. with the lock, and only if the old segments are what they were: marks made meanwhile are copied and flushed, the file
   gets its name (base and generation, which nothing referred to before), the directory is flushed, and one commit
   replaces the segments in the index and notes the old files as gone (gone.py). Replaying it is replaying keys.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import Array
from eventdb.config import MAX_SEGMENT_ROWS
from eventdb.storage.care.gone import collect, note_of
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    COLUMN_OFFSETS,
    NO_SEGMENT,
    PARTITION,
    SEGMENT_KEY,
    TABLE,
    TYPE_CODES,
    U64,
    dirty_key,
    generation_of,
    horizon_of,
    row_key_prefix,
    segment_key,
    segment_name,
    sum_key,
    table_key,
    topic_directory,
)
from eventdb.storage.index.keys import index_key, is_digest
from eventdb.storage.index.kv import scan
from eventdb.storage.segment.layout import ColumnLayout, SegmentLayout
from eventdb.storage.segment.segment import Segment, segment_path
from eventdb.storage.tables.keyed import KeyedWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.store import Store

DEAD_SHARE = 4  # a segment is rewritten when a quarter of its rows are dead
SMALL_ROWS = 4_096  # compacted segments smaller than this join their neighbours
_INT64 = np.dtype("<i8")
_CHUNK_ROWS = 4_096


class Source:
    """A segment to compact: its index entry, its rows, and which of them stay."""

    def __init__(self, base: int, value: bytes, segment: Segment, rows: int, horizon: int) -> None:
        self.base = base
        self.value = value
        self.segment = segment
        self.rows = rows
        self.horizon = horizon
        marks = self.marks()
        self.keep: Array = np.flatnonzero((marks == 0) | (marks > horizon))

    def marks(self) -> Array:
        return self.column(self.segment.layout.marks)

    def column(self, index: int) -> Array:
        """The stored int64 values of a column."""
        position = self.segment.layout.columns[index].value_position
        return np.frombuffer(self.segment.mapping, _INT64, self.rows, position)

    def offsets(self) -> Array:
        layout = self.segment.layout
        if layout.offsets >= 0:
            return self.column(layout.offsets)
        return np.arange(self.base, self.base + self.rows, dtype=_INT64)

    @property
    def dead(self) -> int:
        return self.rows - len(self.keep)

    @property
    def wants(self) -> bool:
        return self.short or (self.dead > 0 and self.dead * DEAD_SHARE >= self.rows)

    @property
    def short(self) -> bool:
        """Whether the segment was left before it was full: where its rows end, only the base of the next segment says.
        It is rewritten, with as much room as it has rows, before that one may go."""
        return self.segment.layout.offsets < 0 and self.rows < self.segment.layout.capacity

    @property
    def joins(self) -> bool:
        return self.wants or (self.segment.layout.offsets >= 0 and self.rows < SMALL_ROWS)

    def shape(self) -> list[tuple[int, bool, bool, bool, int]]:
        """What columns must have in common to be written into one file."""
        return [
            (c.type_code, c.nullable, c.coded, c.plain, c.width) for c in self.segment.layout.columns if not c.offsets
        ]


def compact_table(store: Store, log: PartitionLog, *, full: bool = False, patience_ms: int = 0) -> dict[str, int]:
    """Dead versions of a table's full segments are gone; with `full` also those of the segment that is written. Returns
    {'removed': versions, 'segments': rewritten or dropped, 'held': 1 if an older reader kept everything as it is}.

    Waits up to `patience_ms` for older readers. Who has the sealer's lease may call it; others only waste work.
    """
    writer = store._require_writer()
    report = {"removed": 0, "segments": 0, "held": 0}
    if full:
        store.sealer().retire_table(log.topic_id, log.partition)
    horizon = _checkpoint(writer, log, patience_ms)
    if horizon is None:
        report["held"] = 1
        return report
    _remove_temporary(writer, log)
    collect(writer)
    for run in _runs(store, log, horizon):
        _name_newest(store, log, run)
        removed = _replace(store, log, run)
        if removed >= 0:
            report["removed"] += removed
            report["segments"] += len(run)
    if report["segments"]:
        collect(writer)
    return report


def _checkpoint(writer: Writer, log: PartitionLog, patience_ms: int = 0) -> int | None:
    """The end of the table in a checkpoint that nobody reads behind; None if somebody does after the patience, too."""
    writer.lock()
    try:
        if not writer.prepared:
            writer.prepare()
        elif not writer.is_checkpointed():
            writer.sync_point()
    finally:
        writer.unlock()
    deadline = time.monotonic() + patience_ms / 1000
    while True:
        writer.lock()
        try:
            pin = writer.pin
            if pin is not None and writer.index.oldest_reader() >= pin.id():
                state = pin.get(log.key)
                return 0 if state is None else PARTITION.unpack(state)[1]
        finally:
            writer.unlock()
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.1)  # other processes make their next checkpoint within seconds


def _runs(store: Store, log: PartitionLog, horizon: int) -> Iterator[list[Source]]:
    """Neighbouring segments that are worth rewriting into one."""
    sources: list[Source] = []
    with store.snapshot() as snapshot:
        txn = snapshot.transaction()
        value = snapshot.partition(log.key)
        _, end, active, *_ = (0, 0, NO_SEGMENT) if value is None else PARTITION.unpack(value)
        entries = list(scan(txn, segment_key(log.topic_id, log.partition, 0)[:-8]))
        for i, (key, entry) in enumerate(entries):
            base = SEGMENT_KEY.unpack(key)[3]
            if base == active:
                break
            segment = log.mapped_raw(base, entry)
            rows = segment.layout.capacity
            if segment.layout.offsets < 0:
                rows = min(rows, (SEGMENT_KEY.unpack(entries[i + 1][0])[3] if i + 1 < len(entries) else end) - base)
            sources.append(Source(base, entry, segment, rows, horizon))
    run: list[Source] = []
    for source in [*sources, None]:
        fits = source is not None and source.joins and (
            not run or (run[-1].shape() == source.shape()
                        and sum(len(s.keep) for s in run) + len(source.keep) <= MAX_SEGMENT_ROWS)
        )  # fmt: skip
        if not fits:
            if any(s.wants for s in run) or len(run) > 1:
                yield run
            run = []
        if source is not None and source.joins:
            run.append(source)


def _name_newest(store: Store, log: PartitionLog, run: Sequence[Source]) -> None:
    """Step 2. What the index names only moves forward, so nobody undoes it."""
    prefix = row_key_prefix(log.topic_id, log.partition)
    behind: list[bytes] = []
    with store.snapshot() as snapshot:
        txn = snapshot.transaction()
        for dictionary in log.dictionaries:
            if dictionary is not None:
                dictionary.refresh(txn)
        for source in run:
            gone = np.ones(source.rows, np.bool_)
            gone[source.keep] = False
            for at in range(0, source.rows, _CHUNK_ROWS):
                rows = source.segment.read_rows(at, min(source.rows, at + _CHUNK_ROWS), log.dictionaries)
                for (offset, _, row), dead in zip(rows, gone[at : at + _CHUNK_ROWS].tolist(), strict=True):
                    if dead:
                        key = log.key_of(row)
                        place = index_key(prefix, key)
                        value = None if is_digest(place, prefix) else txn.get(place)
                        if value is not None and U64.unpack(value)[0] <= offset:
                            behind.append(key)
    behind = list(dict.fromkeys(behind))
    for at in range(0, len(behind), _CHUNK_ROWS):
        with store.write() as transaction:
            KeyedWriter(transaction, log, "").name_newest(behind[at : at + _CHUNK_ROWS])


# --- writing ----------------------------------------------------------------------------------------------------------


def _replace(store: Store, log: PartitionLog, run: Sequence[Source]) -> int:
    """The run is one compacted segment, or none if nothing stays. Returns the versions removed, -1 if another process
    was faster."""
    writer = store._require_writer()
    files, first = writer.files, run[0]
    kept = sum(len(source.keep) for source in run)
    layout = _layout(run, kept, generation_of(first.value) + 1) if kept else None
    directory = f"{writer.path}/{topic_directory(log.topic_id, log.partition)}"
    temporary = f"{directory}/{segment_name(first.base, generation_of(first.value) + 1)}.{os.getpid()}.tmp"
    fd = -1
    try:
        if layout is not None:
            fd = files.create(temporary, exclusive=False)
            files.allocate(fd, layout.size_bytes)
            files.write_fully(fd, layout.header(writer.uuid, log.topic_id, log.partition, first.base), 0)
            for position, data in _pieces(run, layout):
                files.write_fully(fd, data, position)
            files.fsync(fd)
        return _swap(store, log, run, layout, fd, temporary)
    except OSError as error:
        raise storage_error(error, "writing", temporary) from error
    finally:
        if fd >= 0:
            files.close(fd)
            with contextlib.suppress(OSError):
                if files.exists(temporary):
                    files.unlink(temporary)


def _swap(
    store: Store, log: PartitionLog, run: Sequence[Source], layout: SegmentLayout | None, fd: int, temporary: str
) -> int:
    """Step 4: the index names the new file instead of the old ones."""
    writer = store._require_writer()
    topic_id, partition, base = log.topic_id, log.partition, run[0].base
    with store.write() as transaction:
        txn = transaction._txn
        if any(txn.get(segment_key(topic_id, partition, source.base)) != source.value for source in run):
            return -1
        if layout is not None:
            files = writer.files
            marks = np.concatenate([source.marks()[source.keep] for source in run])
            files.write_fully(fd, marks.data.cast("B"), layout.columns[layout.marks].value_position)
            writer.flush(fd, temporary)
            files.rename(temporary, segment_path(writer.path, topic_id, partition, base, layout.generation))
            writer.flush_directories({(topic_id, partition)})
        removed = sum(source.dead for source in run)
        table = txn.get(table_key(topic_id, partition))
        rows, before = TABLE.unpack_from(table)
        horizon = max(horizon_of(table), run[0].horizon)
        transaction._changed = True
        transaction._put(table_key(topic_id, partition), TABLE.pack(rows, before + removed) + U64.pack(horizon))
        for source in run:
            transaction._put(*note_of(writer, txn, topic_id, partition, source.base, source.value))
            transaction._delete(sum_key(topic_id, partition, source.base))
            if source is not run[0] or layout is None:
                transaction._delete(segment_key(topic_id, partition, source.base))
        if layout is not None:
            transaction._put(segment_key(topic_id, partition, base), layout.pack())
            transaction._mark_dirty(dirty_key(topic_id, partition, base), True)  # the next checkpoint sums its rows
        writer.generation += 1  # whoever has mapped the old files for marking finds the new one
    return removed


def _layout(run: Sequence[Source], rows: int, generation: int) -> SegmentLayout:
    columns = []
    for i, column in enumerate(run[0].segment.layout.columns):
        if column.offsets:
            continue
        heap = sum(_heap_bytes(source, i) for source in run) if column.plain else 0
        columns.append(ColumnLayout(column.type_code, column.flags, column.width, heap))
    columns.append(ColumnLayout(TYPE_CODES["BIGINT"], COLUMN_OFFSETS, 8, generation))
    return SegmentLayout(rows, columns)


def _bounds(source: Source, index: int) -> tuple[Array, Array]:
    """Where the heap bytes of the rows that stay begin and end."""
    ends = source.column(index)
    starts = np.concatenate([np.zeros(1, _INT64), ends[:-1]])
    return starts[source.keep], ends[source.keep]


def _heap_bytes(source: Source, index: int) -> int:
    starts, ends = _bounds(source, index)
    return int((ends - starts).sum())


def _pieces(run: Sequence[Source], layout: SegmentLayout) -> Iterator[tuple[int, memoryview]]:
    """(position, bytes) of everything the new file holds but the marks."""
    for i, column in enumerate(layout.columns):
        if column.marks:
            continue
        if column.offsets:
            data = np.concatenate([source.offsets()[source.keep] for source in run])
            yield column.value_position, data.data.cast("B")
            continue
        if column.nullable:
            yield column.null_position, _gather(run, i, 1, nulls=True)
        if column.plain:
            yield from _plain_pieces(run, i, column)
        else:
            yield column.value_position, _gather(run, i, column.width, nulls=False)
    times = [np.array(source.segment.append_times(0, source.rows), _INT64)[source.keep] for source in run]
    yield layout.append_position, np.concatenate(times).data.cast("B")


def _gather(run: Sequence[Source], index: int, width: int, *, nulls: bool) -> memoryview:
    parts = []
    for source in run:
        column = source.segment.layout.columns[index]
        position = column.null_position if nulls else column.value_position
        parts.append(np.frombuffer(source.segment.mapping, f"V{width}", source.rows, position)[source.keep])
    return memoryview(np.concatenate(parts).tobytes())


def _plain_pieces(run: Sequence[Source], index: int, column: ColumnLayout) -> Iterator[tuple[int, memoryview]]:
    lengths, heap = [], []
    for source in run:
        starts, ends = _bounds(source, index)
        lengths.append(ends - starts)
        at, memory = source.segment.layout.columns[index].heap_position, source.segment.memory
        heap += [memory[at + a : at + b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    yield column.value_position, np.concatenate(lengths).cumsum().astype(_INT64).data.cast("B")
    if column.heap_bytes:
        yield column.heap_position, memoryview(b"".join(heap))


def _remove_temporary(writer: Writer, log: PartitionLog) -> None:
    """Temporary files of processes that died go."""
    directory = f"{writer.path}/{topic_directory(log.topic_id, log.partition)}"
    try:
        names = writer.files.listdir(directory)
        for name in names:
            pid = name.removesuffix(".tmp").rpartition(".")[2]
            if name.endswith(".tmp") and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                writer.files.unlink(f"{directory}/{name}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, "reading", directory) from error
