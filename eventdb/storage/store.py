"""Store: one open database directory in this process. The only class other layers hold; everything else hangs off
it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time

from eventdb.config import DEFAULT_FLUSH_INTERVAL_MS, LOCK_TIMEOUT_MS
from eventdb.errors import (
    ClosedError,
    CorruptionError,
    DatabaseLocked,
    ForkError,
    PoisonedError,
    ReadOnlyError,
    StorageError,
    UsageError,
)
from eventdb.storage.append import append_row
from eventdb.storage.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit import Writer
from eventdb.storage.dictionary import DictionaryCache
from eventdb.storage.directory import (
    check_rights,
    clear_spill,
    create_database,
    ensure_directory,
    ensure_reserve,
    flush_entries,
    read_format,
    refuse_strangers,
    require_writable,
)
from eventdb.storage.files import Clock, Files, storage_error
from eventdb.storage.format import (
    OP_FORGET,
    OP_PLACE,
    SHARED_BYTES,
    SHARED_HOLDER,
    SHARED_LOCK,
    SHARED_POISON,
    U32,
    U64,
)
from eventdb.storage.group import GroupCommit
from eventdb.storage.head import Head
from eventdb.storage.keyed import table_schema
from eventdb.storage.kv import Index
from eventdb.storage.lock import FORKED
from eventdb.storage.log import PartitionLog
from eventdb.storage.maintenance import Maintenance
from eventdb.storage.notify import Notifier
from eventdb.storage.recovery import (
    check_identity,
    forget_keys,
    needs_restore,
    recover,
    remove_topic_files,
    restore,
    verify_index,
)
from eventdb.storage.retention import Retention
from eventdb.storage.sealer import Sealer
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.tail import LogTail, read_tail
from eventdb.storage.transaction import WriteTransaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.cut import Cut
    from eventdb.storage.limits import Limits

_stores: dict[tuple[int, int], Store] = {}
_stores_lock = threading.RLock()
_forked: set[tuple[int, int]] = set()  # databases the parent had open: LMDB cannot open them here
_inherited: list[object] = []  # what a forked child must neither use nor destroy


def parse_durability(text: str) -> tuple[str, int | None]:
    """('commit' | 'interval' | 'os', flush interval in ms or None). UsageError names the choices."""
    name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name in ("commit", "os") and not colon:
        return name, None
    if name == "interval":
        if not colon:
            return name, DEFAULT_FLUSH_INTERVAL_MS
        number = rest.removesuffix("ms").strip()
        if number.isdecimal() and 1 <= int(number) <= 3_600_000:
            return name, int(number)
    raise UsageError(f"durability {text!r}: expected 'commit', 'interval:100ms' (any number of ms) or 'os'")


class Store:
    """Get it from Store.open(). Thread-safe; a forked child must open its own."""

    _identity: tuple[int, int]  # device and inode of the directory
    _durability: str

    def __init__(self) -> None:
        raise UsageError("use Store.open()")

    @staticmethod
    def open(
        path: str, *, durability: str = "commit", read_only: bool = False, create: bool = True,
        files: Files | None = None, clock: Clock | None = None, live_topics: Callable[[], dict[int, Schema]],
        maintenance: bool = True,
    ) -> Store:  # fmt: skip
        """The database at `path`, created if missing and `create`. A second open in the same process returns the same
        Store.

        `live_topics` names the topics the catalog has; recovery collects the rest. `maintenance=False` starts no thread
        (tests).
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
                store._open(
                    path, mode, interval_ms, read_only, create, files, clock or Clock(), live_topics, maintenance
                )
                _stores[identity] = store
            elif (store._durability, store.read_only) != (durability, read_only):
                raise UsageError(
                    f"{path} is open in this process with durability={store._durability!r}, "
                    f"read_only={store.read_only}: open it with the same options, or close it first"
                )
            store._references += 1
            return store

    def _open(
        self, path: str, mode: str, interval_ms: int | None, read_only: bool, create: bool, files: Files, clock: Clock,
        live_topics: Callable[[], dict[int, Schema]], maintenance: bool,
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
        self._group = GroupCommit(self.write)
        self.retention = Retention(self)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release)
            try:
                if read_only:
                    self._open_read_only()
                else:
                    self._open_for_writing(mode, interval_ms, create, live_topics, maintenance)
            except OSError as error:
                raise storage_error(error, "opening", path) from error
            undo.pop_all()
        self._notifier = Notifier(self.uuid, self._page, clock)

    # -- opening -------------------------------------------------------------------------------

    def _open_file(self, name: str, *, create: bool = False, write: bool = True) -> int:
        path = f"{self.path}/{name}"
        try:
            fd = self._files.create(path, exclusive=False) if create else self._files.open(path, write=write)
        except OSError as error:
            raise require_writable(error, path) from error
        self._fds.append(fd)
        return fd

    def _lock_opening(self, fd: int) -> None:
        deadline = self._clock.monotonic_ns() + LOCK_TIMEOUT_MS * 1_000_000
        while not self._try_lock(fd, "LOCK"):
            if self._clock.monotonic_ns() > deadline:
                pid = self._holder()
                raise DatabaseLocked(
                    f"{self.path}: process {pid} has held the writer lock for {LOCK_TIMEOUT_MS} ms; is it stopped? "
                    "The lock is never taken away from a live process",
                    path=self.path,
                    pid=pid,
                )
            time.sleep(0.001)

    def _holder(self) -> int:
        """The pid of the last process that locked LOCK, 0 if unknown."""
        with contextlib.suppress(OSError):
            data = self._files.read_all(f"{self.path}/shared", SHARED_HOLDER + 4)
            if len(data) == SHARED_HOLDER + 4:
                return U32.unpack_from(data, SHARED_HOLDER)[0]  # type: ignore[no-any-return]
        return 0

    def _map_shared(self, alone: bool) -> mmap.mmap:
        """The shared pages, made anew if they are gone: they say nothing that must survive."""
        fd = self._open_file("shared", create=alone)
        if alone and self._files.size(fd) < SHARED_BYTES:
            self._files.allocate(fd, SHARED_BYTES)
        return self._map(fd, write=True)

    def _map(self, fd: int, *, write: bool) -> mmap.mmap:
        if self._files.size(fd) < SHARED_BYTES:
            raise CorruptionError(
                f"{self.path}/shared is too short; open the database once for writing", path=self.path
            )
        return self._files.mmap(fd, SHARED_BYTES, write=write)

    def _try_alone(self) -> bool:
        return self._try_lock(self._alive_fd, "ALIVE")

    def _wait_until_alone(self) -> None:
        """ALIVE is ours. Nobody has recovered the database since the power failed, and LOCK keeps other writers out:
        who holds ALIVE is a read-only open that is about to find that out and let go. Going on beside it would skip
        recovery."""
        deadline = self._clock.monotonic_ns() + LOCK_TIMEOUT_MS * 1_000_000
        while not self._try_alone():
            if self._clock.monotonic_ns() > deadline:
                raise DatabaseLocked(
                    f"{self.path} must be recovered after a power loss, but another process has kept it open read-only "
                    f"for {LOCK_TIMEOUT_MS} ms; close it there, then open again",
                    path=self.path,
                    pid=self._holder(),
                )
            time.sleep(0.001)

    def _try_lock(self, fd: int, name: str) -> bool:
        try:
            self._files.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise storage_error(error, "locking", f"{self.path}/{name}") from error
        return True

    def _open_for_writing(
        self,
        mode: str,
        interval_ms: int | None,
        create: bool,
        live_topics: Callable[[], dict[int, Schema]],
        maintenance: bool,
    ) -> None:
        files, path = self._files, self.path
        refuse_strangers(files, path, create=create)
        check_rights(files, path, write=True)
        lock_fd = self._open_file("LOCK", create=True)
        self._lock_opening(lock_fd)
        try:
            self._alive_fd = self._open_file("ALIVE", create=True)
            alone = self._try_alone()
            if not files.exists(f"{path}/FORMAT"):
                refuse_strangers(files, path, create=create)
                self.uuid = create_database(files, self._clock, path)
            else:
                self.uuid = read_format(files, path)
            if not alone and needs_restore(self._newest_slot(write=True), self._clock.boot_id(), False):
                self._wait_until_alone()
                alone = True
            page = self._page = self._map_shared(alone)
            page[SHARED_HOLDER : SHARED_HOLDER + 4] = U32.pack(self._pid)
            self._check_lock_file(page, lock_fd, alone)
            poisoned = bool(page[SHARED_POISON])
            if poisoned and not alone:
                raise PoisonedError(
                    f"{path}: an earlier flush failed; close every handle in every process, then reopen", path=path
                )
            slot = self._newest_slot(write=True)
            if slot.sequence == 1:
                flush_entries(files, path)  # nothing was ever committed: its creator may have died before it did this
            restoring = alone and needs_restore(slot, self._clock.boot_id(), poisoned)
            if alone:
                clear_spill(files, path)
            if alone and not slot.clean:
                self._free_reserve()
            if restoring:
                restore(files, path, slot, poisoned)
            if alone:
                verify_index(files, path, slot)
            self._index = Index(files, f"{path}/index", alone=alone)
            self._index.reap_readers()  # slots of processes that died
            writer = Writer(files, self._clock, path, self.uuid, self._index, page, lock_fd, mode, live_topics)
            self._writer = writer
            self._sealer = Sealer(files, path, self.uuid, writer, self.snapshot, self._fds)
            self._head = writer.head
            if alone and (slot.clean or restoring):
                self._head.reset()  # left by a crash whose page cache is gone, or by an older life
            check_identity(writer, slot, restoring)
            if alone and not slot.clean:
                self.recovery_report = recover(writer, slot, restored=restoring, poisoned=poisoned)
                ensure_reserve(files, path)
            elif poisoned:
                page[SHARED_POISON] = 0  # before anything was written: there is nothing to replay
            files.flock(self._alive_fd, fcntl.LOCK_SH)
        finally:
            files.flock(lock_fd, fcntl.LOCK_UN)
        if maintenance:
            interval_ms = interval_ms if mode == "interval" else None
            self._maintenance = Maintenance(writer, interval_ms, self.retention, self._sealer)
            writer.on_first_commit = self._maintenance.start

    def _check_lock_file(self, page: mmap.mmap, lock_fd: int, alone: bool) -> None:
        """Everybody locks the same file: had LOCK been replaced, two processes could write at once."""
        inode = self._files.descriptor_identity(lock_fd)[1]
        seen = U64.unpack_from(page, SHARED_LOCK)[0]
        if alone or not seen:  # a power loss empties the page, and a read-only open does not fill it
            page[SHARED_LOCK : SHARED_LOCK + 8] = U64.pack(inode)
        elif seen != inode:
            raise PoisonedError(
                f"{self.path}/LOCK was removed or replaced while another process has the database open; "
                "close every handle in every process, then reopen",
                path=self.path,
            )

    def _newest_slot(self, *, write: bool) -> Slot:
        try:
            file = CheckpointFile(self._files, f"{self.path}/index", write=write)
        except OSError as error:
            raise storage_error(error, "opening", f"{self.path}/index/checkpoint") from error
        try:
            slot = file.newest()
        finally:
            file.close()
        if slot is None:
            raise StorageError(
                f"{self.path}/index/checkpoint: no checkpoint verifies; restore a backup", path=self.path
            )
        return slot

    def _free_reserve(self) -> None:
        """On a full disk recovery needs a little room. The reserve is a file of its own that nobody maps."""
        status = os.statvfs(self.path)
        if status.f_bavail * status.f_frsize < 4 << 20:
            with contextlib.suppress(OSError):
                self._files.unlink(f"{self.path}/reserve")

    def _open_read_only(self) -> None:
        files, path = self._files, self.path
        refuse_strangers(files, path, create=False)
        check_rights(files, path, write=False)
        self.uuid = read_format(files, path)
        lock = True
        try:
            self._alive_fd = self._open_file("ALIVE", write=False)
            files.flock(self._alive_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{path} is being opened or recovered by another process; try again", path=path
            ) from error
        slot = self._newest_slot(write=False)
        if needs_restore(slot, self._clock.boot_id(), False):
            raise StorageError(
                f"{path} was not closed cleanly before the machine stopped: "
                "open it once for writing, so that it recovers",
                path=path,
            )
        if slot.clean:
            try:
                verify_index(files, path, slot)
            except CorruptionError:
                if self._newest_slot(write=False).sequence == slot.sequence:  # else somebody has begun to write
                    raise
        if not os.access(f"{path}/index", os.W_OK) or not os.access(f"{path}/index/lock.mdb", os.W_OK):
            lock = False  # a medium nobody can write to needs no reader table
        self._index = Index(files, f"{path}/index", read_only=True, lock=lock)
        self._head = Head(self._map(self._open_file("shared", write=False), write=False))

    # -- closing -------------------------------------------------------------------------------

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
                slot = writer.slots.newest()
                if writer.prepared or (slot is not None and not slot.clean):
                    if writer.start is None and slot is not None:
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
        if writer is not None and not self._group.has_leader:
            offset = append_row(writer, log, row)
            if offset >= 0:
                self._notifier.announce()
                return offset
        if writer is not None and writer.owner == threading.get_ident() and writer.token is not None:
            raise UsageError("a write transaction of this thread is open: finish it before the next write")
        return self._group.append(log, row)

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
        return self._notifier.wait(self.commit_id, commit_id, timeout_s)

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
        from eventdb.storage.check import check_store

        with self.snapshot() as snapshot:
            return check_store(self._files, self.path, self.uuid, snapshot, deep=deep)

    def backup(
        self, target: str, copy_catalog: Callable[[str], set[int]], cut: Cut | None = None
    ) -> dict[str, object]:  # fmt: skip
        """The directory `target` is a backup of the newest commit (backup.py); returns what was done."""
        from eventdb.storage.backup import Backup

        self._check()
        target = os.path.abspath(target)
        return Backup(
            self._files, self._clock, self.path, self.uuid, target, self.snapshot, self._index, copy_catalog, cut
        ).run()

    def stats(self) -> dict[str, object]:
        """Counters of this process, sizes of the database, and who reads it (stats.py)."""
        from eventdb.storage.stats import file_bytes, reader_figures, written_bytes

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
