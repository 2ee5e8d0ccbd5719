"""LMDB's only door: one environment per open database, opened so that no commit flushes.

Commits are made durable by checkpoints (checkpoint.py), never by LMDB itself. Transactions are LMDB's own objects (get,
put, delete, cursor, id, commit, abort); `IndexFault` is the exception they raise and `index_error` makes it a typed
one.

The file is mapped, by each process for itself, in an address space of a fixed size. LMDB lets it be replaced by a
larger one only while no transaction of the process is open, and looks at nothing itself. So a writer replaces it early,
when the index fills half of it, and a reader that meets an index larger than the map does then: `is_tight`, `enlarge`.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from zlib import crc32

import lmdb

from eventdb.config import INDEX_MAP_BYTES, INDEX_MAX_READERS
from eventdb.errors import CorruptionError, DiskFullError, PoisonedError, ReadOnlyError, StorageError
from eventdb.storage.device.files import has_room, open_indexes, storage_error
from eventdb.storage.format import CRC
from eventdb.storage.index.live_pages import live_crc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from eventdb.storage.device.files import Files

IndexFault = lmdb.Error
DATA_NAME = "data.mdb"
_ROOM_BYTES = 1 << 20  # a disk with less left is called full


def index_error(error: Exception, path: str) -> StorageError:
    """The typed error of an IndexFault."""
    if isinstance(error, lmdb.MapFullError):
        return DiskFullError(
            f"the index {path} filled its address space; nothing was stored. It gets a larger one when no snapshot of "
            "this process is open: close those that were held open (results not read to their end, too), and try again",
            path=path,
        )
    if isinstance(error, lmdb.DiskError) or _is_full(str(error), path):
        return DiskFullError(f"no space left while writing the index {path}; nothing was stored", path=path)
    if isinstance(error, lmdb.PanicError):
        return PoisonedError(
            f"the index {path} stopped after an error; close every handle and reopen: {error}", path=path
        )
    if isinstance(error, (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        return CorruptionError(f"the index {path} does not verify: {error}", path=path)
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(
            f"the reader table of the index {path} is full ({INDEX_MAX_READERS} readers); those of dead processes are "
            "freed by whoever writes within seconds: try again",
            path=path,
        )
    if isinstance(error, lmdb.MapResizedError):
        return StorageError(
            f"the index {path} outgrew the address space of this process, which gets a larger one as soon as no "
            "snapshot of it is open: close them and try again",
            path=path,
        )
    if isinstance(error, lmdb.ReadonlyError):
        return ReadOnlyError(f"the index {path} cannot be written: {error}", path=path)
    return StorageError(f"the index {path} failed: {error}", path=path)


def _is_full(text: str, path: str) -> bool:
    """Whether LMDB's message comes of a full disk. A write that the last free bytes cut short is an I/O error to it."""
    if any(os.strerror(code) in text for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    return os.strerror(errno.EIO) in text and not has_room(os.path.dirname(path), _ROOM_BYTES)


def verified(key: bytes, stored: bytes, path: str) -> bytes:
    """The value of a stored key, without its CRC. CorruptionError if it does not verify."""
    value = stored[:-4]
    if len(stored) < 4 or CRC.unpack_from(stored, len(value))[0] != crc32(value, crc32(key)):
        raise CorruptionError(
            f"the index {path} does not verify: the value of key {key[:40]!r} is damaged; run repair", path=path
        )
    return value


class IndexTransaction:
    """An LMDB transaction. Every value is stored with its CRC, seeded with its key's: LMDB has none of its own. Reads
    raise typed errors (a damaged index is a CorruptionError); `put`, `delete` and `commit` raise IndexFault, which the
    commit section judges."""

    __slots__ = ("_get", "_index", "_put", "_replace", "cursor", "delete", "id", "path", "raw")

    def __init__(self, txn: Any, index: Index) -> None:
        self.raw = txn  # LMDB's own
        self._get = txn.get
        self._index = index
        self.path = index.path
        self._put = txn.put
        self._replace = txn.replace
        self.delete: Callable[[bytes], bool] = txn.delete
        self.id: Callable[[], int] = txn.id
        self.cursor: Callable[[], Any] = txn.cursor  # its errors are IndexFault (see `reading`), its values have a CRC

    def get(self, key: bytes) -> bytes | None:
        try:
            value = self._get(key)
        except lmdb.Error as error:
            raise index_error(error, self.path) from error
        return None if value is None else verified(key, value, self.path)

    def put(self, key: bytes, value: bytes) -> None:
        try:
            self._put(key, value + CRC.pack(crc32(value, crc32(key))))
        except lmdb.MapFullError:
            self._index.is_full = True
            raise

    def abort(self) -> None:
        self.raw.abort()

    def commit(self) -> None:
        try:
            self.raw.commit()
        except lmdb.MapFullError:
            self._index.is_full = True
            raise

    def replace(self, key: bytes, value: bytes) -> bytes | None:
        """Like `put`; returns the value before it, None if there was none. CorruptionError if that is damaged."""
        try:
            old = self._replace(key, value + CRC.pack(crc32(value, crc32(key))))
        except lmdb.MapFullError:
            self._index.is_full = True
            raise
        return None if old is None else verified(key, old, self.path)

    def __enter__(self) -> IndexTransaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits (a read transaction just ends), or aborts after an exception. Faults become typed errors."""
        try:
            if error is None:
                self.commit()
                return
        except lmdb.Error as fault:
            raise index_error(fault, self.path) from fault
        self.abort()
        if isinstance(error, lmdb.Error):
            raise index_error(error, self.path) from error


class ReadTransaction(IndexTransaction):
    """One that only reads. The index holds LMDB's transaction until it has ended here: in a forked child, which has a
    copy of it, nothing may end it, for its slot in the table of readers is the parent's."""

    __slots__ = ()

    def abort(self) -> None:
        index = self._index
        if self.raw in index.open_reads and os.getpid() == index.pid:
            index.open_reads.discard(self.raw)
            self.raw.abort()

    def commit(self) -> None:
        self.abort()

    def __del__(self) -> None:
        self.abort()


@contextmanager
def aborting(txn: IndexTransaction) -> Iterator[None]:
    """Around what changes and commits: if it fails, the transaction is aborted. Faults become typed errors."""
    try:
        yield
    except lmdb.Error as error:
        txn.abort()
        raise index_error(error, txn.path) from error
    except BaseException:
        txn.abort()
        raise


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Around a cursor's use: its faults become typed errors."""
    try:
        yield
    except lmdb.Error as error:
        raise index_error(error, path) from error


def _open_environment(directory: str, map_bytes: int, read_only: bool, lock: bool) -> Any:
    return lmdb.open(
        directory, map_size=map_bytes, subdir=True, readonly=read_only, create=not read_only, mode=0o600,
        metasync=False, sync=False, writemap=False, readahead=False, max_dbs=0, max_readers=INDEX_MAX_READERS,
        max_spare_txns=2, lock=lock,
    )  # fmt: skip


class Index:
    """One LMDB environment. `begin_write()` and `begin_read()` return transactions; `begin_write` blocks on other
    processes."""

    def __init__(
        self, files: Files, directory: str, *, read_only: bool = False, lock: bool = True, alone: bool = False
    ) -> None:  # fmt: skip
        """`alone` says that no other process has the index open, nor can open it meanwhile."""
        self.path = os.path.join(directory, DATA_NAME)
        self.pid = os.getpid()
        self.open_reads: set[Any] = set()  # LMDB's read transactions that are open
        self._files = files
        # Our own descriptor comes before the environment and goes after it: closing any descriptor of the file drops
        # LMDB's locks.
        fresh = not read_only and not files.exists(self.path)
        try:
            self._fd = files.create(self.path) if fresh else files.open(self.path, write=not read_only)
        except OSError as error:
            raise storage_error(error, "opening", self.path) from error
        try:
            map_bytes = max(INDEX_MAP_BYTES, 4 * files.size(self._fd))  # of address space: it grows with the file
            try:
                self._env = _open_environment(directory, map_bytes, read_only, lock)
            except lmdb.ReadersFullError:
                if not alone:
                    raise
                # Killed processes left the table full, which not even opening gets past; LMDB makes the file anew.
                files.unlink(os.path.join(directory, "lock.mdb"))
                self._env = _open_environment(directory, map_bytes, read_only, lock)
        except lmdb.Error as error:
            files.close(self._fd)
            raise index_error(error, self.path) from error
        if lock and not read_only:
            os.chmod(os.path.join(directory, "lock.mdb"), 0o600)  # by name: opening it would drop LMDB's locks
        self._identities = {files.descriptor_identity(self._fd)}
        if lock:
            self._identities.add(files.identity(os.path.join(directory, "lock.mdb")))
        open_indexes.update(self._identities)
        files.close_on_exec(self._identities)  # LMDB leaves its data file open to child processes
        self.page_bytes: int = self._env.stat()["psize"]
        self.is_full = False  # a transaction found no more room
        self.on_outgrown: Callable[[], object] = self.enlarge  # a reader met an index that is larger than the map
        self._gate = threading.Lock()  # held while a read transaction begins, and while the map is replaced
        self._begin: Any = self._env.begin
        self._info: Any = self._env.info

    def begin_write(self) -> IndexTransaction:
        try:
            return IndexTransaction(self._begin(write=True), self)
        except lmdb.Error as error:
            raise index_error(error, self.path) from error

    def begin_read(self) -> IndexTransaction:
        try:
            return self._begin_read()
        except lmdb.ReadersFullError:
            self._env.reader_check()  # slots of killed processes
        except lmdb.MapResizedError:
            self.on_outgrown()
        except lmdb.Error as error:
            raise index_error(error, self.path) from error
        try:
            return self._begin_read()
        except lmdb.Error as error:
            raise index_error(error, self.path) from error

    def _begin_read(self) -> IndexTransaction:
        with self._gate:
            txn = ReadTransaction(self._begin_exact(), self)
            self.open_reads.add(txn.raw)  # last: if Ctrl-C comes now, `txn` ends it
            return txn

    def _begin_exact(self) -> Any:
        """LMDB's read transaction, of the commit that its id names.

        LMDB reads the newest id first and copies the root of that commit after: it may get another one's, of a later
        commit, if two were made in between. What is remembered by id (the strings that are known, the list of segments)
        would then be missing for it. Two commits cannot have been made if the newest id is the same afterwards.
        """
        txn = self._begin()
        while True:
            try:
                after = self._begin()
            except lmdb.Error:
                txn.abort()
                raise
            if after.id() == txn.id():
                after.abort()
                return txn
            txn.abort()
            txn = after

    def is_tight(self) -> bool:
        """Whether the map should be replaced by a larger one."""
        info = self._info()
        return self.is_full or 2 * info["last_pgno"] * self.page_bytes > info["map_size"]

    def map_bytes(self) -> int:
        """The size of the map."""
        return self._info()["map_size"]  # type: ignore[no-any-return]

    def open_here(self) -> int:
        """How many read transactions of this process are open."""
        pid = os.getpid()
        return sum(owner == pid for owner, _, _ in self.readers())

    def enlarge(self) -> bool:
        """The map has four times the size of the index; False, and nothing done, while a read transaction of this
        process is open. No write transaction is."""
        with self._gate:
            if self.open_here():
                return False
            info = self._info()
            used = info["map_size"] if self.is_full else info["last_pgno"] * self.page_bytes
            self._env.set_mapsize(max(info["map_size"], 4 * used))
            self.is_full = False
            return True

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

    def oldest_reader(self) -> int:
        """The transaction id of the oldest read transaction of any process; the newest commit's if nobody reads."""
        self._env.reader_check()
        return min([self.last_txn_id(), *(number for _, _, number in self.readers())])

    def copy_to(self, fd: int, txn: IndexTransaction) -> None:
        """The file is written to the descriptor as the read transaction sees it, without free pages. Not flushed."""
        try:
            self._env.copyfd(fd, compact=True, txn=txn.raw)
        except lmdb.Error as error:
            raise index_error(error, self.path) from error

    def crc(self, limit_bytes: int) -> int:
        """See live_pages.live_crc."""
        return live_crc(self._files, self._fd, limit_bytes)

    def reap_readers(self) -> int:
        freed: int = self._env.reader_check()
        return freed

    def size_bytes(self) -> int:
        return self._files.size(self._fd)

    def close(self) -> None:
        self._env.close()
        self.open_reads.clear()  # LMDB has ended them
        open_indexes.difference_update(self._identities)
        self._files.close(self._fd)


def scan(txn: IndexTransaction, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every key with the prefix, in order, from `start` on."""
    with reading(txn.path):
        cursor = txn.cursor()
        if cursor.set_range(prefix if start is None else start):
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, verified(key, value, txn.path)


def structure_problems(directory: str) -> list[str]:
    """What is wrong with the structure of the index file, found without LMDB's engine, which a damaged file can kill.

    Nobody may commit meanwhile, and this process must not have it open.
    """
    from eventdb.storage.index.walk import problems_of

    return problems_of(os.path.join(directory, DATA_NAME))


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
