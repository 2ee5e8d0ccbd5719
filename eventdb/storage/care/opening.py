"""Opening a database directory: who else has it open, whether it must recover, and its parts, ready for the Store.

Legal order for writing: LOCK, then ALIVE (exclusively: nobody else is here), FORMAT (a new one is made after the
catalog), the shared page, the newest checkpoint slot, the index, recovery; then ALIVE shared, and LOCK is free again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from eventdb.config import LOCK_TIMEOUT_MS
from eventdb.errors import CorruptionError, DatabaseLocked, PoisonedError, StorageError
from eventdb.storage.care.maintenance import Maintenance
from eventdb.storage.care.recovery import check_identity, needs_restore, recover, restore, verify_index
from eventdb.storage.care.retention import Retention
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit.commit import Writer
from eventdb.storage.device.directory import (
    check_rights,
    clear_spill,
    create_database,
    ensure_reserve,
    flush_entries,
    read_format,
    refuse_strangers,
    require_writable,
)
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import (
    LOCK_SEEN,
    PARTITION,
    SHARED_BYTES,
    SHARED_HOLDER,
    SHARED_LOCK,
    SHARED_POISON,
    U32,
)
from eventdb.storage.index.head import Head
from eventdb.storage.index.kv import Index, scan
from eventdb.storage.sealed.sealer import Sealer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from eventdb.schema import Schema
    from eventdb.storage.device.files import Clock, Files
    from eventdb.storage.snapshot import StoreSnapshot


class Opening:
    """The parts of an open directory, and how they come about. Store is the only user."""

    path: str
    read_only: bool
    uuid: bytes
    recovery_report: dict[str, object]
    retention: Retention
    _files: Files
    _clock: Clock
    _pid: int
    _fds: list[int]
    _alive_fd: int
    _page: mmap.mmap | None
    _head: Head | None
    _index: Index
    _writer: Writer | None
    _maintenance: Maintenance | None
    _sealer: Sealer | None

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
        seal_after: Callable[[int], int | None],
        maintenance: bool,
        snapshot: Callable[[], StoreSnapshot],
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
                self.uuid = create_database(files, self._clock, path, live_topics)
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
            self._sealer = Sealer(files, path, self.uuid, writer, snapshot, seal_after, self._fds)
            self._head = writer.head
            if alone and (slot.clean or restoring):
                self._head.reset()  # left by a crash whose page cache is gone, or by an older life
            check_identity(writer, slot, restoring)
            if alone and not slot.clean:
                self.recovery_report = recover(writer, slot, restored=restoring, poisoned=poisoned)
                ensure_reserve(files, path)
            elif poisoned:
                page[SHARED_POISON] = 0  # before anything was written: there is nothing to replay
            if alone:
                self._find_newest(writer)
            files.flock(self._alive_fd, fcntl.LOCK_SH)
        finally:
            files.flock(lock_fd, fcntl.LOCK_UN)
        if maintenance:
            interval_ms = interval_ms if mode == "interval" else None
            self._maintenance = Maintenance(writer, interval_ms, self.retention, self._sealer)
            writer.on_first_commit = self._maintenance.start

    def _find_newest(self, writer: Writer) -> None:
        """Append times go on from the newest there is: after a power loss, or in a copy, the page does not know it."""
        with self._index.begin_read() as txn:
            for _, value in scan(txn, b"p"):
                *_, append_us, _ = PARTITION.unpack(value)
                writer.newest_us[0] = max(writer.newest_us[0], append_us)

    def _check_lock_file(self, page: mmap.mmap, lock_fd: int, alone: bool) -> None:
        """Everybody locks the same file: had LOCK been replaced, two processes could write at once."""
        lock, own = self._files.descriptor_identity(lock_fd)[1], self._files.identity(f"{self.path}/shared")[1]
        seen, noted_in = LOCK_SEEN.unpack_from(page, SHARED_LOCK)
        # A power loss empties the page, a copy of the database has that of the original, and a read-only open, which
        # may have come before, changes neither.
        if alone or noted_in != own:
            LOCK_SEEN.pack_into(page, SHARED_LOCK, lock, own)
        elif seen != lock:
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
