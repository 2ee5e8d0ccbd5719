"""LMDB's only door: one environment per open database, opened so that no commit flushes.

Commits are made durable by checkpoints (checkpoint.py), never by LMDB itself. Transactions are LMDB's own objects (get,
put, delete, cursor, id, commit, abort); `IndexFault` is the exception they raise and `index_error` makes it a typed
one.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

import lmdb

from eventdb.config import INDEX_MAP_BYTES, INDEX_MAX_READERS
from eventdb.errors import CorruptionError, DiskFullError, PoisonedError, ReadOnlyError, StorageError
from eventdb.storage.files import storage_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from eventdb.storage.files import Files

IndexFault = lmdb.Error
DATA_NAME = "data.mdb"


def index_error(error: Exception, path: str) -> StorageError:
    """The typed error of an IndexFault."""
    if isinstance(error, lmdb.MapFullError):
        return DiskFullError(
            f"the index {path} reached its limit of {INDEX_MAP_BYTES >> 30} GiB; nothing was stored", path=path
        )
    if (
        isinstance(error, lmdb.DiskError)
        or getattr(error, "code", 0) in (errno.ENOSPC, errno.EDQUOT)
        or "No space" in str(error)
    ):
        return DiskFullError(f"no space left while writing the index {path}; nothing was stored", path=path)
    if isinstance(error, lmdb.PanicError):
        return PoisonedError(
            f"the index {path} stopped after an error; close every handle and reopen: {error}", path=path
        )
    if isinstance(error, (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        return CorruptionError(f"the index {path} does not verify: {error}", path=path)
    if isinstance(error, lmdb.ReadonlyError):
        return ReadOnlyError(f"the index {path} cannot be written: {error}", path=path)
    return StorageError(f"the index {path} failed: {error}", path=path)


class IndexTransaction:
    """An LMDB transaction. Reads raise typed errors (a damaged index is a CorruptionError); `put`, `delete` and
    `commit`
    are LMDB's own and raise IndexFault, which the commit section judges."""

    __slots__ = ("_get", "_txn", "abort", "commit", "cursor", "delete", "id", "path", "put")

    def __init__(self, txn: Any, path: str) -> None:
        self._txn = txn
        self._get = txn.get
        self.path = path
        self.put: Callable[[bytes, bytes], bool] = txn.put
        self.delete: Callable[[bytes], bool] = txn.delete
        self.commit: Callable[[], None] = txn.commit
        self.abort: Callable[[], None] = txn.abort
        self.id: Callable[[], int] = txn.id
        self.cursor: Callable[[], Any] = txn.cursor  # its errors are IndexFault: see `reading`

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._get(key)  # type: ignore[no-any-return]
        except lmdb.Error as error:
            raise index_error(error, self.path) from error

    def __enter__(self) -> IndexTransaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits (a read transaction just ends), or aborts after an exception."""
        if kind is None:
            self.commit()
        else:
            self.abort()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Around a cursor's use: its faults become typed errors."""
    try:
        yield
    except lmdb.Error as error:
        raise index_error(error, path) from error


class Index:
    """One LMDB environment. `begin_write()` and `begin_read()` return transactions; `begin_write` blocks on other
    processes."""

    def __init__(self, files: Files, directory: str, *, read_only: bool = False, lock: bool = True) -> None:
        self.path = os.path.join(directory, DATA_NAME)
        self._files = files
        # Our own descriptor comes before the environment and goes after it: closing any descriptor of the file drops
        # LMDB's locks.
        fresh = not read_only and not files.exists(self.path)
        try:
            self._fd = files.create(self.path) if fresh else files.open(self.path, write=not read_only)
        except OSError as error:
            raise storage_error(error, "opening", self.path) from error
        try:
            self._env = lmdb.open(
                directory,
                map_size=INDEX_MAP_BYTES,
                subdir=True,
                readonly=read_only,
                create=not read_only,
                mode=0o600,
                metasync=False,
                sync=False,
                writemap=False,
                readahead=False,
                max_dbs=0,
                max_readers=INDEX_MAX_READERS,
                max_spare_txns=2,
                lock=lock,
            )
        except lmdb.Error as error:
            files.close(self._fd)
            raise index_error(error, self.path) from error
        if lock and not read_only:
            os.chmod(os.path.join(directory, "lock.mdb"), 0o600)  # by name: opening it would drop LMDB's locks
        self.page_bytes: int = self._env.stat()["psize"]
        self._begin: Any = self._env.begin
        self._info: Any = self._env.info

    def begin_write(self) -> IndexTransaction:
        return IndexTransaction(self._begin(write=True), self.path)

    def begin_read(self) -> IndexTransaction:
        try:
            return IndexTransaction(self._begin(), self.path)
        except lmdb.ReadersFullError:
            self._env.reader_check()  # slots of killed processes
            try:
                return IndexTransaction(self._begin(), self.path)
            except lmdb.Error as error:
                raise index_error(error, self.path) from error
        except lmdb.Error as error:
            raise index_error(error, self.path) from error

    def last_txn_id(self) -> int:
        return self._info()["last_txnid"]  # type: ignore[no-any-return]

    def sync(self) -> None:
        """Everything committed is on the device. OSError if the flush failed."""
        try:
            self._files.sync_index(self._env.sync, self.path)
        except lmdb.Error as error:
            raise OSError(errno.EIO, f"flushing the index failed: {error}") from error

    def meta_pages(self) -> bytes:
        """Pages 0 and 1 as they are; call it with the writer lock held."""
        return self._files.pread(self._fd, 2 * self.page_bytes, 0)

    def readers(self) -> list[tuple[int, int, int]]:
        """(pid, thread, transaction id) of every open read transaction of any process, checkpoints' pins included."""
        found = []
        for line in self._env.readers().splitlines()[1:]:
            pid, thread, number = line.split()
            if number != "-":
                found.append((int(pid), int(thread, 16), int(number)))
        return found

    def reap_readers(self) -> int:
        return self._env.reader_check()

    def size_bytes(self) -> int:
        return self._files.size(self._fd)

    def close(self) -> None:
        self._env.close()
        self._files.close(self._fd)


def scan(txn: IndexTransaction, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every key with the prefix, in order, from `start` on."""
    with reading(txn.path):
        cursor = txn.cursor()
        if cursor.set_range(prefix if start is None else start):
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value


def restore_meta_pages(files: Files, directory: str, pages: bytes, *, drop_cache: bool) -> None:
    """The database file is at the state of the saved meta pages, durably. Nobody may have it open."""
    fd = files.open(os.path.join(directory, DATA_NAME), write=True)
    try:
        if drop_cache:
            files.drop_cache(fd)
        files.write_fully(fd, pages, 0)
        files.fsync(fd)
    finally:
        files.close(fd)
