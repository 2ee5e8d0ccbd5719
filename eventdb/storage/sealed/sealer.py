"""The sealer: which segments become sealed ones, and how one takes the place of the others.

1. Rows of segments that nobody appends to any more are encoded into a file of another name, which is flushed and
   renamed (seal.py). No lock is held.
2. One commit names the new segment in the index, removes those it replaces, and notes their files as gone (gone.py): a
   recovery that returns to an older checkpoint and replays journal records of rows finds the segments they name. It
   changes no row: whoever sees the index before or after it reads the same.

A reader whose snapshot is older than the swap goes on with what it has mapped, and finds anything else in the segment
that the index names now (snapshot.py). Files that a crash left between the steps go at the next sealing.

One process seals at a time: the holder of the flock of SEAL, which the kernel lets go when it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import sys
import threading
import time

from eventdb.config import (
    LOCK_TIMEOUT_MS,
    MAX_SEGMENT_ROWS,
    SEAL_AT_CLOSE_MS,
    SEAL_AT_CLOSE_ROWS,
    SEAL_LEAST_ROWS,
    SEAL_OLD_LEAST_ROWS,
)
from eventdb.errors import (
    DatabaseLocked,
    DiskFullError,
    EventDBError,
    OutcomeUnknown,
    PoisonedError,
    ReadOnlyError,
    StorageError,
)
from eventdb.storage.care.gone import collect, note_of
from eventdb.storage.care.recovery import remove_topic_files
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    COLUMN,
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    OP_DELETE,
    OP_KEY,
    OP_PUT,
    PARTITION_KEY,
    SEALED_TAIL,
    SEGMENT,
    SEGMENT_KEY,
    SEGMENT_SEALED,
    TYPE_CODES,
    gone_key,
    segment_key,
    sum_key,
    topic_directory,
)
from eventdb.storage.index.dictionary import DictionaryCache
from eventdb.storage.index.kv import IndexFault, index_error, scan
from eventdb.storage.sealed.sealed import SealedLayout, file_name, is_sealed, sealed_path
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.log import PartitionLog, PartitionState
from eventdb.storage.tables.superseded import waiting_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.device.files import Files
    from eventdb.storage.snapshot import StoreSnapshot

_SMALL_SEALED_ROWS = MAX_SEGMENT_ROWS // 4  # a sealed segment below it may be merged with what follows
_GROWTH = 4  # but only if it has at most so many times the rows it is merged with


class Entry:
    """A segment of a partition: its index entry and how many rows it holds."""

    __slots__ = ("base", "rows", "value")

    def __init__(self, base: int, rows: int, value: bytes) -> None:
        self.base = base
        self.rows = rows
        self.value = value

    @property
    def sealed(self) -> bool:
        return is_sealed(self.value)

    @property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        """Of its columns: type, flags, width. Only segments with equal ones can become one."""
        count = SEGMENT.unpack_from(self.value)[3] & ~SEGMENT_SEALED
        return tuple(COLUMN.unpack_from(self.value, SEGMENT.size + i * COLUMN.size)[:3] for i in range(count))


class Sealer:
    """Get it from a Store that is open for writing. Thread-safe."""

    def __init__(
        self, files: Files, path: str, uuid: bytes, writer: Writer, snapshot: Callable[[], StoreSnapshot],
        seal_after: Callable[[int], int | None], descriptors: list[int],
    ) -> None:  # fmt: skip
        self._files = files
        self._path = path
        self._uuid = uuid
        self._writer = writer
        self._snapshot = snapshot
        self._descriptors = descriptors  # closed with the store, also in a forked child
        self._fd = -1
        self._mutex = threading.Lock()
        self._seal_after = seal_after  # topic id -> us, None = never
        self._first_us: dict[tuple[int, int], tuple[int, int]] = {}  # partition -> segment base, time of its first row
        self.segments = self.rows = self.bytes_before = self.bytes_after = 0  # sealed by this process so far
        self.failed: dict[tuple[int, int], str] = {}  # partitions that could not be sealed when last tried, and why
        self.helper_failed: list[str] = []  # what the helper process said of its own, a sentence each

    # -- the lease -----------------------------------------------------------------------------

    def _acquire(self, timeout_ms: int) -> bool:
        """Whether this thread may seal. The holder's death gives the lease away, nothing else does."""
        if not self._mutex.acquire(timeout=timeout_ms / 1000):
            return False
        path = f"{self._path}/SEAL"
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            if self._fd < 0:
                self._fd = self._files.create(path, exclusive=False)
                self._descriptors.append(self._fd)
            while True:
                try:
                    self._files.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                if time.monotonic() >= deadline:
                    self._mutex.release()
                    return False
                time.sleep(0.01)
        except OSError as error:
            self._mutex.release()
            raise storage_error(error, "locking", path) from error
        except BaseException:
            if self._mutex.locked():
                self._mutex.release()
            raise

    def _release(self) -> None:
        try:
            self._files.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    @contextlib.contextmanager
    def lease(self, timeout_ms: int) -> Iterator[bool]:
        """Whether this thread may rewrite segments, inside the block. Compaction of tables takes it too."""
        held = self._acquire(timeout_ms)
        try:
            yield held
        finally:
            if held:
                self._release()

    # -- what callers ask for --------------------------------------------------------------------

    def compact(self, *, full: bool) -> dict[str, int]:
        """Everything that can be is sealed; `failed` names the partitions that cannot. DatabaseLocked if another
        process seals for too long."""
        if not self._acquire(LOCK_TIMEOUT_MS):
            raise DatabaseLocked(
                f"{self._path}: another process has been sealing segments for {LOCK_TIMEOUT_MS} ms; try again",
                path=self._path,
            )
        before = self.counters()
        try:
            live = self._writer.live_topics()
            for topic_id, partition in self._partitions():
                if topic_id not in live:
                    continue
                with self._apart(topic_id, partition):
                    if full:
                        self._retire(live[topic_id], topic_id, partition)
                    while self._seal_next(live[topic_id], topic_id, partition):
                        pass
                    self.sweep(topic_id, partition)
            collect(self._writer)
        finally:
            self._release()
        return {name: count - before[name] for name, count in self.counters().items()}

    @contextlib.contextmanager
    def _apart(self, topic_id: int, partition: int) -> Iterator[None]:
        """Files of this partition that are damaged or cannot be read are noted in `failed`: the others go on. What
        concerns them all is raised."""
        self.failed.pop((topic_id, partition), None)
        try:
            yield
        except (DatabaseLocked, DiskFullError, OutcomeUnknown, PoisonedError, ReadOnlyError):
            raise
        except StorageError as error:
            self.failed[topic_id, partition] = f"topic {topic_id}/{partition} cannot be sealed: {error}"

    def failures(self) -> list[str]:
        """Why partitions are not sealed, as far as this process and its helper know, a sentence each."""
        return list(dict.fromkeys([*self.failed.values(), *self.helper_failed]))

    def counters(self) -> dict[str, int]:
        """What this process has sealed so far."""
        return {
            "segments": self.segments, "rows": self.rows, "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }  # fmt: skip

    def step(self, until: Callable[[], bool], most_rows: int = MAX_SEGMENT_ROWS) -> bool:
        """In the background: partitions with SEAL_LEAST_ROWS rows in full segments, or with old ones, are sealed, at
        most `most_rows` into one segment, as long as `until` is false and nobody else does it. Whether anything was;
        `failed` names the partitions that cannot be sealed."""
        waiting = self._waiting()
        if not waiting or not self._acquire(0):
            return False
        done = False
        try:
            live = self._writer.live_topics()
            for topic_id, partition in waiting:
                if topic_id not in live or until():
                    continue
                with self._apart(topic_id, partition):
                    touched = False
                    if self._is_old(live[topic_id], topic_id, partition):
                        self._retire(live[topic_id], topic_id, partition)
                    while not until() and self._seal_next(live[topic_id], topic_id, partition, most_rows):
                        touched = done = True
                    if touched:
                        self.sweep(topic_id, partition)
            if done:
                collect(self._writer)
        finally:
            self._release()
        return done

    def step_at_close(self) -> None:
        """What a moment is enough for, in a process that has NumPy loaded anyhow; the rest waits. Raises nothing: the
        rows are safe as they are."""
        if "numpy" not in sys.modules or self._writer.poison_reason:
            return
        deadline = time.monotonic() + SEAL_AT_CLOSE_MS / 1000
        with contextlib.suppress(EventDBError):
            self.step(lambda: time.monotonic() > deadline, SEAL_AT_CLOSE_ROWS)

    def has_work(self) -> bool:
        """Whether a helper process would find something to do. A walk over the index, microseconds per segment."""
        if self._waiting():
            return True
        with self._snapshot() as snapshot:
            return bool(waiting_tables(snapshot))

    def _waiting(self) -> list[tuple[int, int]]:
        live = self._writer.live_topics()
        return [
            (topic_id, partition)
            for topic_id, partition in self._partitions()
            if topic_id in live
            and (
                self._full_rows(live[topic_id], topic_id, partition) >= SEAL_LEAST_ROWS
                or self._is_old(live[topic_id], topic_id, partition)
            )
        ]

    def _full_rows(self, schema: Schema, topic_id: int, partition: int) -> int:
        with self._snapshot() as snapshot:
            _, entries = self._entries(snapshot, topic_id, partition)
        return sum(entry.rows for entry in entries if not entry.sealed and _has_columns_of(entry, schema))

    def _is_old(self, schema: Schema, topic_id: int, partition: int) -> bool:
        """Whether the first row that is not sealed is older than the topic's `seal_after`, and enough rows follow."""
        after_us = self._seal_after(topic_id)
        if after_us is None:
            return False
        with self._snapshot() as snapshot:
            _, entries = self._entries(snapshot, topic_id, partition, active=True)
        raw = [entry for entry in entries if not entry.sealed and _has_columns_of(entry, schema)]
        if sum(entry.rows for entry in raw) < SEAL_OLD_LEAST_ROWS:
            return False
        first = raw[0]
        base, first_us = self._first_us.get((topic_id, partition), (-1, 0))
        if base != first.base:
            log = PartitionLog(self._files, self._path, self._uuid, topic_id, schema, None, partition, [])
            try:
                segment = log.mapped_raw(first.base, first.value)
                segment.require_rows(0, 1)
                first_us = segment.append_times(0, 1)[0]
            except StorageError:
                return False  # retention was faster, or the device is damaged: then a reader or check says so
            self._first_us[topic_id, partition] = first.base, first_us
        return self._writer.clock.time_us() - first_us >= after_us

    # -- choosing ------------------------------------------------------------------------------

    def _partitions(self) -> list[tuple[int, int]]:
        with self._snapshot() as snapshot:
            return [PARTITION_KEY.unpack(key)[1:] for key, _ in scan(snapshot.transaction(), b"p")]

    def _entries(
        self, snapshot: StoreSnapshot, topic_id: int, partition: int, *, active: bool = False
    ) -> tuple[PartitionState, list[Entry]]:  # fmt: skip
        """The segments that have rows; `active`: also the one that new rows go to."""
        state = PartitionState()
        value = snapshot.partition(PARTITION_KEY.pack(b"p", topic_id, partition))
        if value is not None:
            state.unpack(value)
        prefix = segment_key(topic_id, partition, 0)[:-8]
        found = [(SEGMENT_KEY.unpack(key)[3], held) for key, held in scan(snapshot.transaction(), prefix)]
        if not found:  # retention removed them all
            return state, []
        ends = [base for base, _ in found[1:]] + [state.log_end]
        entries = [Entry(base, end - base, held) for (base, held), end in zip(found, ends, strict=True)]
        entries = [entry for entry in entries if entry.rows > 0 and entry.value != GAP]
        return state, [entry for entry in entries if active or entry.base != state.base]

    @staticmethod
    def choose(entries: list[Entry]) -> list[Entry]:
        """The first neighbouring segments that should become one sealed segment; [] if all is sealed well."""
        for i, entry in enumerate(entries):
            if entry.sealed:
                continue
            group = [entry]
            rows = entry.rows
            for following in entries[i + 1 :]:
                if following.sealed or following.kinds != entry.kinds or rows + following.rows > MAX_SEGMENT_ROWS:
                    break
                if following.base != group[-1].base + group[-1].rows:
                    break  # a gap
                group.append(following)
                rows += following.rows
            for before in reversed(entries[:i]):
                small = before.rows <= min(_SMALL_SEALED_ROWS, _GROWTH * rows)
                if not small or before.kinds != entry.kinds or rows + before.rows > MAX_SEGMENT_ROWS:
                    break
                if before.base + before.rows != group[0].base:
                    break  # a gap
                group.insert(0, before)
                rows += before.rows
            return group
        return []

    # -- doing ---------------------------------------------------------------------------------

    def _seal_next(
        self, schema: Schema, topic_id: int, partition: int, most_rows: int = MAX_SEGMENT_ROWS
    ) -> bool:  # fmt: skip
        """One group of segments is sealed. False if there is none, it has more rows, or they changed meanwhile."""
        group = self._next_group(topic_id, partition)
        if group:
            # A sealer killed between its journal record and its index commit has named its file: that commit happens
            # first. Found at the swap only, its file would have been overwritten by ours, and be dropped with it.
            self._writer.leave(self._writer.enter())
            group = self._next_group(topic_id, partition)
        if group and not _has_columns_of(group[0], schema):
            return False
        if not group or sum(entry.rows for entry in group) > most_rows:
            return False
        from eventdb.storage.sealed.seal import write_sealed

        log = PartitionLog(
            self._files, self._path, self._uuid, topic_id, schema, None, partition,
            [DictionaryCache(topic_id, i) if field.type.name == "VARCHAR" else None
             for i, field in enumerate(schema.fields)],
        )  # fmt: skip
        with self._snapshot() as snapshot:
            for dictionary in log.dictionaries:
                if dictionary is not None:
                    dictionary.refresh(snapshot.transaction())
        parts = [(log.mapped(entry.base, entry.value), entry.rows) for entry in group]
        first = group[0]
        generation = SEALED_TAIL.unpack(first.value[-SEALED_TAIL.size :])[2] + 1 if first.sealed else 0
        layout = write_sealed(self._files, self._path, self._uuid, log, parts, generation)
        if not self._swap(topic_id, partition, group, layout):
            self._drop(sealed_path(self._path, topic_id, partition, first.base, generation))
            if topic_id not in self._writer.live_topics():
                remove_topic_files(self._files, self._path, topic_id)
            return False
        self.segments += len(group)
        self.rows += layout.rows
        self.bytes_before += sum(len(part.memory) for part, _ in parts)
        self.bytes_after += layout.size_bytes
        return True

    def _next_group(self, topic_id: int, partition: int) -> list[Entry]:
        with self._snapshot() as snapshot:
            _, entries = self._entries(snapshot, topic_id, partition)
        return self.choose(entries)

    def _swap(self, topic_id: int, partition: int, group: list[Entry], layout: SealedLayout) -> bool:
        """The index names the sealed segment instead of the group, if that is still what it names."""
        keys = [segment_key(topic_id, partition, entry.base) for entry in group]
        ranges = [SEGMENT.unpack_from(entry.value)[1:3] for entry in group]
        known = (NO_MIN_TIME, NO_MAX_TIME) not in ranges
        low = min(low for low, _ in ranges) if known else NO_MIN_TIME
        high = max(high for _, high in ranges) if known else NO_MAX_TIME
        value = layout.pack(low, high)

        def change(txn: Any, state: PartitionState) -> list[tuple[bytes, bytes | None]] | None:
            if any(txn.get(key) != entry.value for key, entry in zip(keys, group, strict=True)):
                return None
            if state.base in [entry.base for entry in group]:
                return None
            sums = [sum_key(topic_id, partition, entry.base) for entry in group]  # a sealed file has its own
            notes = [note_of(self._writer, txn, topic_id, partition, entry.base, entry.value) for entry in group]
            return [(keys[0], value), *((key, None) for key in [*keys[1:], *sums]), *notes]

        return self._commit(topic_id, partition, change)

    def retire_table(self, topic_id: int, partition: int) -> None:
        """The next row of a table begins a new segment, so that the one before it can be compacted."""
        self._retire(None, topic_id, partition)

    def _retire(self, schema: Schema | None, topic_id: int, partition: int) -> None:
        """The next row of the partition begins a new segment. None stands for a table's schema."""

        def change(txn: Any, state: PartitionState) -> list[tuple[bytes, bytes | None]] | None:
            if state.base in (NO_SEGMENT, state.log_end):
                return None
            key = segment_key(topic_id, partition, state.base)
            value = txn.get(key)
            if value is None or (schema is not None and not _has_columns_of(Entry(state.base, 0, value), schema)):
                return None
            capacity, _, _, count = SEGMENT.unpack_from(value)
            value = SEGMENT.pack(capacity, state.min_time, state.max_time, count) + value[SEGMENT.size :]
            state.base, state.min_time, state.max_time = NO_SEGMENT, NO_MIN_TIME, NO_MAX_TIME
            return [(key, value), (PARTITION_KEY.pack(b"p", topic_id, partition), state.pack())]

        self._commit(topic_id, partition, change)

    def _commit(
        self, topic_id: int, partition: int,
        change: Callable[[Any, PartitionState], list[tuple[bytes, bytes | None]] | None],
    ) -> bool:  # fmt: skip
        """One commit of index keys (None = deleted), journaled unless the partition's rows are not. False if there is
        nothing to change."""
        writer = self._writer
        txn: Any = writer.enter()
        try:
            value = txn.get(PARTITION_KEY.pack(b"p", topic_id, partition))
            if value is None:
                return False
            state = PartitionState().unpack(value)
            changes = change(txn, state)
            if changes is None:
                return False
            operations = []
            try:
                for key, new in changes:
                    if new is None:
                        txn.delete(key)
                        operations.append(OP_KEY.pack(OP_DELETE, len(key), 0) + key)
                    else:
                        txn.put(key, new)
                        operations.append(OP_KEY.pack(OP_PUT, len(key), len(new)) + key + new)
            except IndexFault as error:
                raise index_error(error, writer.index.path) from error
            pending, txn = txn, None
            writer.commit(pending, None if state.derived else b"".join(operations))
            return True
        finally:
            writer.generation += 1
            writer.leave(txn)

    # -- cleaning ------------------------------------------------------------------------------

    def sweep(self, topic_id: int, partition: int) -> int:
        """Files of the partition that the index neither names nor has noted as gone go: crashes left them, and no state
        of the index ever led to them. Returns how many. Holds the lease."""
        folder = f"{self._path}/{topic_directory(topic_id, partition)}"
        try:
            names = self._files.listdir(folder)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise storage_error(error, "reading", folder) from error
        with self._snapshot() as snapshot:
            state, _ = self._entries(snapshot, topic_id, partition)
            txn = snapshot.transaction()
            prefix, gone = segment_key(topic_id, partition, 0)[:-8], gone_key(topic_id, partition, "")
            known = {file_name(SEGMENT_KEY.unpack(key)[3], value) for key, value in scan(txn, prefix)}
            known |= {key[len(gone) :].decode("ascii", "replace") for key, _ in scan(txn, gone)}
        # A writer may be making a segment behind these rows that the index does not know yet.
        limit = min(state.base, state.log_end)
        strays = [name for name in names if name not in known and _is_below(name, limit)]
        for name in strays:
            self._drop(f"{folder}/{name}")
        return len(strays)

    def _drop(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self._files.unlink(path)


def _has_columns_of(entry: Entry, schema: Schema) -> bool:
    """Not so for headers and tables: their logs have columns of their own, and stay raw."""
    return [kind[0] for kind in entry.kinds] == [TYPE_CODES[field.type.stored_name] for field in schema.fields]


def _is_below(name: str, limit: int) -> bool:
    """Whether a file name belongs to a segment below the limit, or is one nobody but the sealer makes."""
    number, _, kind = name.partition(".")
    if not number.isdecimal():
        return False
    return (kind == "seg" and int(number) < limit) or kind.endswith("col") or kind.endswith(".tmp")
