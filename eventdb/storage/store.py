"""Store: one open database directory in this process. The only class other layers hold; everything else hangs off
it."""

from __future__ import annotations

import contextlib
import os
import threading

from eventdb.config import DEFAULT_FLUSH_INTERVAL_MS, SEAL_AFTER_US
from eventdb.errors import (
    ClosedError,
    ForkError,
    PoisonedError,
    ReadOnlyError,
    UsageError,
)
from eventdb.storage.care.maintenance import Maintenance
from eventdb.storage.care.opening import Opening
from eventdb.storage.care.recovery import (
    forget_keys,
    remove_topic_files,
)
from eventdb.storage.care.retention import Retention
from eventdb.storage.commit.append import append_row
from eventdb.storage.commit.commit import Writer
from eventdb.storage.commit.group import GroupCommit
from eventdb.storage.commit.together import append_together
from eventdb.storage.device.directory import (
    ensure_directory,
)
from eventdb.storage.device.files import Clock, Files, storage_error
from eventdb.storage.device.lock import FORKED
from eventdb.storage.format import (
    OP_FORGET,
    OP_PLACE,
)
from eventdb.storage.index.dictionary import DictionaryCache
from eventdb.storage.index.head import Head
from eventdb.storage.index.key_index import current_row, newest_row
from eventdb.storage.notify import Notifier
from eventdb.storage.sealed.sealer import Sealer
from eventdb.storage.segment.log import PartitionLog
from eventdb.storage.segment.tail import LogTail, read_tail
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.tables.keyed import table_schema
from eventdb.storage.transaction import WriteTransaction
from eventdb.values import parse_duration_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.care.cut import Cut
    from eventdb.storage.commit.together import Row
    from eventdb.storage.segment.limits import Limits

_stores: dict[tuple[int, int], Store] = {}
_stores_lock = threading.RLock()
_forked: set[tuple[int, int]] = set()  # databases the parent had open: LMDB cannot open them here
_inherited: list[object] = []  # what a forked child must neither use nor destroy


def parse_durability(text: str) -> tuple[str, int | None]:
    """('commit' | 'interval' | 'os', flush interval in ms or None). UsageError names the choices. The interval is a
    duration, 1 ms to 1 hour."""
    name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name in ("commit", "os") and not colon:
        return name, None
    if name == "interval":
        if not colon:
            return name, DEFAULT_FLUSH_INTERVAL_MS
        number = rest.strip()
        interval_us = 0
        with contextlib.suppress(UsageError):  # ours names the choices
            interval_us = int(number) * 1_000 if number.isdecimal() else parse_duration_us(rest, "durability")
        if 1_000 <= interval_us <= 3_600_000_000 and interval_us % 1_000 == 0:
            return name, interval_us // 1_000
    raise UsageError(
        f"durability {text!r}: expected 'commit', 'interval:100ms' ('interval:1s': whole ms, at most 1 hour) or 'os'"
    )


class Store(Opening):
    """Get it from Store.open(). Thread-safe; a forked child must open its own."""

    _identity: tuple[int, int]  # device and inode of the directory
    # What each handle knows of the catalog: topics that live, and the age at which one's segments are sealed.
    _sources: list[tuple[Callable[[], dict[int, Schema]], Callable[[int], int | None]]]
    _durability: str

    def __init__(self) -> None:
        raise UsageError("use Store.open()")

    @staticmethod
    def open(
        path: str, *, durability: str = "commit", read_only: bool = False, create: bool = True,
        files: Files | None = None, clock: Clock | None = None, live_topics: Callable[[], dict[int, Schema]],
        maintenance: bool = True, seal_after: Callable[[int], int | None] | None = None,
    ) -> Store:  # fmt: skip
        """The database at `path`, created if missing and `create`. A second open in the same process returns the same
        Store.

        `live_topics` names the topics the catalog has; recovery collects the rest. `seal_after` says at what age (us)
        a topic's segments are sealed though they are not full, None = never. Both are asked as long as the Store is
        open, or until `leave`. `maintenance=False` starts no thread (tests).
        """
        mode, interval_ms = parse_durability(durability)
        files = files or Files()
        path = os.path.abspath(os.fspath(path))
        with _stores_lock:
            ensure_directory(files, path, create=create and not read_only)
            try:
                identity = files.identity(path)
            except OSError as error:
                raise storage_error(error, "opening", path) from error
            if identity in _forked:
                raise ForkError(FORKED)
            store = _stores.get(identity)
            if store is None:
                store = object.__new__(Store)
                store._identity = identity
                store._durability = durability
                store._sources = [(live_topics, seal_after or (lambda topic_id: SEAL_AFTER_US))]
                store._open(path, mode, interval_ms, read_only, create, files, clock or Clock(), maintenance)
                _stores[identity] = store
            elif (store._durability, store.read_only) != (durability, read_only):
                raise UsageError(
                    f"{path} is open in this process with durability={store._durability!r}, "
                    f"read_only={store.read_only}: open it with the same options, or close it first"
                )
            else:
                store._sources.append((live_topics, seal_after or (lambda topic_id: SEAL_AFTER_US)))
            store._references += 1
            return store

    def _open(
        self, path: str, mode: str, interval_ms: int | None, read_only: bool, create: bool, files: Files, clock: Clock,
        maintenance: bool,
    ) -> None:  # fmt: skip
        self.path = path
        self.read_only = read_only
        self.recovery_report: dict[str, object] = {"kind": "clean"}
        self._references = 0
        self._files = files
        self._clock = clock
        self._pid = os.getpid()
        self._closed = False
        self._logs: dict[tuple[int, int], PartitionLog] = {}
        self._dictionaries: dict[tuple[int, int], DictionaryCache] = {}
        self._fds: list[int] = []
        self._alive_fd = -1
        self._page: mmap.mmap | None = None
        self._head: Head | None = None
        self._writer: Writer | None = None
        self._maintenance: Maintenance | None = None
        self._sealer: Sealer | None = None
        self._group = GroupCommit(self.write, self._append_together, gathers=mode == "commit")
        self.retention = Retention(self)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release)
            try:
                if read_only:
                    self._open_read_only()
                else:
                    self._open_for_writing(
                        mode, interval_ms, create, self._live_topics, self._seal_after, maintenance, self.snapshot
                    )
            except OSError as error:
                raise storage_error(error, "opening", path) from error
            undo.pop_all()
        self._notifier = Notifier(self.uuid, self._page, clock)

    def _live_topics(self) -> dict[int, Schema]:
        return self._sources[0][0]()

    def _seal_after(self, topic_id: int) -> int | None:
        return self._sources[0][1](topic_id)

    # -- closing -------------------------------------------------------------------------------

    def leave(self, live_topics: Callable[[], dict[int, Schema]]) -> None:
        """What this handle gave to `open` is asked no more if another handle gave the same. Call it before `close`."""
        with _stores_lock:
            if len(self._sources) > 1:
                self._sources.remove(next(source for source in self._sources if source[0] is live_topics))

    def close(self) -> None:
        """This handle is closed; the last one checkpoints (the last in the last process also marks the database
        clean)."""
        with _stores_lock:
            if self._closed or self._references == 0:
                return
            self._references -= 1
            if self._references:
                return
            if os.getpid() == self._pid and self._maintenance is not None:
                self._maintenance.stop()
                self.sealer().step_at_close()
            self._closed = True
            _stores.pop(self._identity, None)
            if os.getpid() != self._pid:
                self._abandon()
                return
            try:
                if self._writer is not None:
                    self._finish(self._writer)
            finally:
                self._notifier.close()
                self._release()

    def _finish(self, writer: Writer) -> None:
        try:
            writer.lock()
        except PoisonedError:
            writer.closed = True
            return
        try:
            alone = self._try_alone()
            if alone:
                slot = writer.newest_slot()
                if writer.prepared or not slot.clean:
                    if writer.start is None:
                        writer.start = slot.tail
                    writer.sync_point(clean=True)
            elif writer.prepared and not writer.is_checkpointed():
                writer.sync_point()
        finally:
            writer.closed = True
            writer.unlock()

    def _release(self) -> None:
        """Every descriptor and mapping of this process goes, without a word to the disk."""
        self._closed = True
        for log in self._logs.values():
            log.drop()
        self._logs = {}
        writer = self._writer
        if writer is not None:
            writer.closed = True
            writer.drop_pin()
            writer.drop()
        index = getattr(self, "_index", None)
        if index is not None:
            index.close()
        self._page = self._head = None
        fds, self._fds = self._fds, []
        for fd in fds:
            with contextlib.suppress(OSError):
                self._files.close(fd)

    def _abandon(self) -> None:
        """In a forked child: our copies of descriptors go, LMDB's objects are neither used nor destroyed."""
        _inherited.extend((self._index, self._writer, self._logs))
        self._closed = True
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []
        self._notifier.close(forked=True)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError(FORKED)
        if self._closed:
            raise ClosedError("the database is closed")

    def _require_writer(self) -> Writer:
        writer = self._writer
        if writer is None:
            self._check()
            raise ReadOnlyError(f"{self.path} was opened read-only", path=self.path)
        return writer

    # -- writing -------------------------------------------------------------------------------

    def append_row(self, log: PartitionLog, row: tuple[Any, ...]) -> int:
        """One committed row; returns its offset."""
        writer = self._writer
        if writer is not None and not self._group.takes_all:
            offset = append_row(writer, log, row)
            if offset >= 0:
                self._notifier.announce()
                return offset
        if writer is not None and writer.owner == threading.get_ident() and writer.token is not None:
            raise UsageError("a write transaction of this thread is open: finish it before the next write")
        return self._group.append(log, row)

    def put_row(self, log: PartitionLog, row: tuple[Any, ...], key: bytes) -> int:
        """The offset of a table's row that took the place of the one with its key, committed; -1, nothing done, if it
        must go through a transaction."""
        writer = self._writer
        if writer is None:
            return -1
        if not self._group.takes_all:
            offset = append_row(writer, log, row, key)
            if offset >= 0 or not writer.busy:
                self._notifier.announce()
                return offset
        if writer.owner == threading.get_ident() and writer.token is not None:
            return -1  # a transaction of this thread is open: whoever begins the next one says so
        offset = self._group.append(log, row, key)
        if offset < 0:  # the first row of a key
            offset = append_row(writer, log, row, key)
            self._notifier.announce()
        return offset

    def _append_together(self, take: Callable[[], Sequence[Row]]) -> list[int]:
        offsets = append_together(self._require_writer(), take)
        self._notifier.announce()
        return offsets

    def write(self, *, journaled: bool = True) -> WriteTransaction:
        """A transaction; a context manager. `journaled=False` is for derived rows, which a power cut may set back to a
        checkpoint."""
        return WriteTransaction(self._require_writer(), self._notifier, journaled=journaled)

    def forget(self, topic_id: int) -> None:
        """A dropped topic: its keys go in one commit, then its files. Snapshots opened before keep what they have
        mapped."""
        writer = self._require_writer()
        txn: Any = writer.enter()
        try:
            forget_keys(txn, topic_id)
            pending, txn = txn, None
            writer.commit(pending, OP_PLACE.pack(OP_FORGET, topic_id, 0, 0))
            remove_topic_files(self._files, self.path, topic_id)
        finally:
            writer.generation += 1
            writer.leave(txn)
        for key in [key for key in self._logs if key[0] == topic_id]:
            self._logs.pop(key).drop()
        for key in [key for key in self._dictionaries if key[0] == topic_id]:
            del self._dictionaries[key]
        self._notifier.announce()

    def checkpoint(self) -> None:
        """Everything committed is durable, and the journal before it is gone."""
        self._check()
        self._require_writer().checkpoint()

    def sealer(self) -> Sealer:
        """Seals segments of this database; see sealer.py."""
        self._check()
        self._require_writer()
        assert self._sealer is not None
        return self._sealer

    # -- reading -------------------------------------------------------------------------------

    def snapshot(self) -> StoreSnapshot:
        self._check()
        head = self._head
        if head is None:
            txn = self._index.begin_read()
            return StoreSnapshot(txn, txn.id(), b"")
        # The head first: if the index is folded in between, its lsn is no longer behind and the head does not count.
        sequence, data = head.read()
        return StoreSnapshot(self._index.begin_read(), sequence, data)

    def current_row(self, log: PartitionLog, key: bytes) -> tuple[Any, ...] | None:
        """The values of the row of a table that has the key (keys.py) now, None if none has. No scan."""
        self._check()
        head = b"" if self._head is None else self._head.read()[1]
        txn = self._index.begin_read()
        try:
            known, found = newest_row(head, txn, log, key)
        finally:
            txn.abort()
        if known:
            return found
        with self.snapshot() as snapshot:
            place = current_row(snapshot, log, key)
        return None if place is None else place[1]

    def tail(self, log: PartitionLog, start: int) -> LogTail | None:
        """The committed rows of the log from `start` on when they can be had without a snapshot, and there are some;
        None says nothing: take a snapshot."""
        self._check()
        head = self._head
        return None if head is None else read_tail(head, log, start)

    def commit_id(self) -> int:
        """The id of the newest commit of any process; only grows."""
        self._check()
        head = self._head
        return self._index.last_txn_id() if head is None else head.sequence()

    def wait(self, commit_id: int, timeout_s: float | None = None) -> int:
        """The current commit id as soon as it exceeds `commit_id`, or at the timeout whatever it is."""
        notifier = self._notifier
        found = notifier.wait(self.commit_id, commit_id, timeout_s)
        if notifier.napped and self._writer is not None and self._writer.prepared:
            self._writer.keep_interpreter()
        return found

    def log(
        self, topic_id: int, schema: Schema, event_time: int | None, partition: int = 0, *,
        limits: Limits | None = None, primary_key: tuple[int, ...] = (),
    ) -> PartitionLog:  # fmt: skip
        """The handle of a partition, the same at each call. `event_time` is a column's position; `limits` are those of
        its first call, until Retention.limit changes them.

        `primary_key`, positions too, makes it a table's: its schema then ends in the hidden column of marks (marks.py),
        and it is written through KeyedWriter only.
        """
        key = (topic_id, partition)
        log = self._logs.get(key)
        if log is None:
            self._check()
            if primary_key:
                schema = table_schema(schema)
            dictionaries: list[DictionaryCache | None] = [
                self._dictionaries.setdefault((topic_id, i), DictionaryCache(topic_id, i))
                if field.type.name == "VARCHAR"
                else None
                for i, field in enumerate(schema.fields)
            ]
            made = PartitionLog(
                self._files, self.path, self.uuid, topic_id, schema, event_time, partition, dictionaries, primary_key
            )
            made.limits = limits
            made.fresh = self.snapshot
            log = self._logs.setdefault(key, made)
        return log

    # -- looking -------------------------------------------------------------------------------

    def check(self, deep: bool = False) -> list[str]:
        """Problems found, [] when whole. `deep` also reads every row."""
        from eventdb.storage.care.check import check_store

        with self.snapshot() as snapshot:
            return check_store(self._files, self.path, self.uuid, snapshot, deep=deep)

    def backup(
        self, target: str, copy_catalog: Callable[[str], set[int]], cut: Cut | None = None
    ) -> dict[str, object]:  # fmt: skip
        """The directory `target` is a backup of the newest commit (backup.py); returns what was done."""
        from eventdb.storage.care.backup import Backup

        self._check()
        target = os.path.abspath(target)
        return Backup(
            self._files, self._clock, self.path, self.uuid, target, self.snapshot, self._index, copy_catalog, cut
        ).run()

    def stats(self) -> dict[str, object]:
        """Counters of this process, sizes of the database, and who reads it (stats.py)."""
        from eventdb.storage.care.stats import file_bytes, reader_figures, written_bytes

        self._check()
        found: dict[str, object] = {
            "commit_id": self.commit_id(),
            "index_bytes": self._index.size_bytes(),
            "file_bytes": file_bytes(self.path),
            "recovery": dict(self.recovery_report),
        } | reader_figures(self._index)
        writer = self._writer
        if writer is not None:
            found |= {
                "commits": writer.commits,
                "flushes": writer.flushes,
                "checkpoints": writer.checkpoints,
                "bytes_appended": writer.bytes_appended,
                "journal_bytes": writer.journal_bytes,
                "records_replayed": writer.replayed,
                "checkpoint_age_ms": (self._clock.monotonic_ns() - writer.checkpoint_ns) // 1_000_000,
                "poisoned": writer.poison_reason,
                "retention": self.retention.stats(),
                "sealing": self.sealer().counters() | {"failed": self.sealer().failures()},
            }
            written = written_bytes() - writer.written_before
            found["bytes_written"] = written  # by this process since it opened, whatever it wrote
            found["write_amplification"] = round(written / writer.bytes_appended, 2) if writer.bytes_appended else 0.0
        return found


def _after_fork_in_child() -> None:
    global _stores_lock
    _stores_lock = threading.RLock()
    stores = list(_stores.values())
    _forked.update(_stores)
    _stores.clear()
    for store in stores:
        store._abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
