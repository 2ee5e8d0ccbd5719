"""The database directory: recognising, creating and refusing one."""

from __future__ import annotations

import contextlib
import os
from zlib import crc32

from eventdb.config import RESERVE_BYTES
from eventdb.errors import CorruptionError, FormatTooNew, NotADatabase, ReadOnlyError, StorageError
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.commit.journal import Tail
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.rights import check_directory, check_folder, network_type
from eventdb.storage.format import (
    CRC,
    DATABASE_MAGIC,
    FORMAT,
    FORMAT_VERSION,
    INCOMPLETE_NAME,
    META_KEY,
    SHARED_BYTES,
)
from eventdb.storage.index.kv import Index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from eventdb.storage.device.files import Clock, Files

_DIRECTORIES = ("index", "journal", "topics", "spill")
# What an interrupted creation can leave; anything else in a directory without FORMAT belongs to somebody else.
_CREATION_NAMES = {
    *_DIRECTORIES,
    "LOCK",
    "ALIVE",
    "shared",
    "reserve",
    "FORMAT.new",
    "catalog.sqlite",
    "catalog.sqlite-journal",
    "catalog.sqlite-wal",
    "catalog.sqlite-shm",
}


def read_format(files: Files, path: str) -> bytes:
    """The database's uuid. NotADatabase, FormatTooNew, CorruptionError."""
    name = f"{path}/FORMAT"
    try:
        data = files.read_all(name, 4096)
    except FileNotFoundError:
        raise NotADatabase(f"{path} is not an EventDB database: it has no file FORMAT", path=path) from None
    except OSError as error:
        raise storage_error(error, "reading", name) from error
    if len(data) < FORMAT.size + CRC.size or not data.startswith(DATABASE_MAGIC):
        raise NotADatabase(f"{name} does not begin with EventDB's mark: {path} is not an EventDB database", path=path)
    _, version, _, _, uuid, _ = FORMAT.unpack_from(data)
    if CRC.unpack_from(data, FORMAT.size)[0] != crc32(data[: FORMAT.size]):
        raise CorruptionError(f"{name} does not verify: restore it from a backup of this database", path=name)
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"{path} has format version {version}, this EventDB reads up to {FORMAT_VERSION}: upgrade EventDB",
            path=path,
        )
    return uuid  # type: ignore[no-any-return]


def ensure_directory(files: Files, path: str, *, create: bool) -> None:
    """The path is a directory that may hold a database. Typed errors name what it is instead."""
    if not os.path.isdir(path):
        if os.path.lexists(path) and not os.path.isdir(path):  # else another process has just made it
            raise NotADatabase(f"{path} is a file; a database is a directory", path=path)
        if not create:
            raise NotADatabase(f"{path} does not exist", path=path)
        parent = os.path.dirname(path) or "."
        try:
            files.mkdir(path)
            files.fsync_dir(parent)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise StorageError(
                f"cannot create {path}: its parent directory {parent} does not exist", path=path
            ) from None
        except NotADirectoryError:
            raise StorageError(f"cannot create {path}: {parent} is not a directory", path=path) from None
        except OSError as error:
            raise storage_error(error, "creating", path) from error
    network = network_type(files.file_system(path))
    if network is not None:
        raise StorageError(
            f"{path} lies on a {network} file system, where locks and memory maps are not shared reliably; "
            "use a local disk",
            path=path,
        )


def check_rights(files: Files, path: str, *, write: bool) -> None:
    """Every folder is one, and if `write`, ours alone. A directory that is still empty is made so. StorageError."""
    try:
        if write:
            if not files.listdir(path) and files.is_own(path):
                files.restrict(path)
            check_directory(files.status(path), path)
            _check_format_owner(files, f"{path}/FORMAT")
        for name in _DIRECTORIES:
            if files.exists(f"{path}/{name}"):
                check_folder(f"{path}/{name}", write=write)
    except OSError as error:
        raise storage_error(error, "opening", path) from error


def _check_format_owner(files: Files, name: str) -> None:
    try:
        if files.exists(name):
            files.close(files.open(name, write=True))
    except OSError as error:
        raise require_writable(error, name) from error


def refuse_strangers(files: Files, path: str, *, create: bool) -> None:
    """Without FORMAT, the directory holds nothing but what an interrupted creation leaves. NotADatabase otherwise."""
    try:
        names = set(files.listdir(path))
    except OSError as error:
        raise storage_error(error, "reading", path) from error
    if INCOMPLETE_NAME in names:
        raise StorageError(
            f"{path} is a backup that was interrupted: run the backup into it again, or remove the directory", path=path
        )
    if "FORMAT" in names:
        return
    strangers = sorted(names - _CREATION_NAMES)
    if strangers:
        raise NotADatabase(
            f"{path} is not an EventDB database: it holds {strangers[0]!r} and no file FORMAT", path=path
        )
    if not create:
        raise NotADatabase(f"{path} is not an EventDB database: it has no file FORMAT", path=path)
    if files.is_directory(f"{path}/topics") and files.listdir(f"{path}/topics"):
        raise NotADatabase(
            f"{path} holds topics but no file FORMAT: restore FORMAT from a backup of this database", path=path
        )


def create_database(files: Files, clock: Clock, path: str, make_catalog: Callable[[], object]) -> bytes:
    """An empty database whose every file is durable; FORMAT comes last, so that a database that has it has a catalog
    too. The lock is held. Returns the uuid."""
    uuid = os.urandom(16)
    try:
        for name in _DIRECTORIES:
            if not files.is_directory(f"{path}/{name}"):
                files.mkdir(f"{path}/{name}")
        for folder in ("index", "journal"):
            for name in files.listdir(f"{path}/{folder}"):
                files.unlink(f"{path}/{folder}/{name}")
        create_plain(files, f"{path}/shared", SHARED_BYTES)
        create_plain(files, f"{path}/reserve", RESERVE_BYTES)
        _create_index(files, clock, path)
        for name in _DIRECTORIES:
            files.fsync_dir(f"{path}/{name}")
        make_catalog()
        write_format(files, path, uuid, clock.time_us())
    except OSError as error:
        raise storage_error(error, "creating", path) from error
    return uuid


def flush_entries(files: Files, path: str) -> None:
    """The database is found again after a power loss: its directory, and FORMAT in it, have durable entries."""
    try:
        files.fsync_dir(path)
        with contextlib.suppress(PermissionError):  # who may not read the parent has not made an entry in it
            files.fsync_dir(os.path.dirname(path) or ".")
    except OSError as error:
        raise storage_error(error, "flushing", path) from error


def write_format(files: Files, path: str, uuid: bytes, created_us: int) -> None:
    """The directory is a database from now on, durably. OSError."""
    head = FORMAT.pack(DATABASE_MAGIC, FORMAT_VERSION, 0, 0, uuid, created_us)
    fd = files.create(f"{path}/FORMAT.new", exclusive=False)
    try:
        files.write_fully(fd, head + CRC.pack(crc32(head)), 0)
        files.fsync(fd)
    finally:
        files.close(fd)
    files.fsync_dir(path)
    files.rename(f"{path}/FORMAT.new", f"{path}/FORMAT")
    files.fsync_dir(path)


def create_plain(files: Files, path: str, size_bytes: int) -> None:
    """A durable file of zeros, every block allocated (its directory entry is the caller's). OSError."""
    fd = files.create(path, exclusive=False)
    try:
        if size_bytes:
            files.allocate(fd, size_bytes)
            files.fill_zeros(fd, size_bytes)
        files.fsync(fd)
    finally:
        files.close(fd)


def _create_index(files: Files, clock: Clock, path: str) -> None:
    index = Index(files, f"{path}/index")
    try:
        with index.begin_write() as txn:
            txn.put(META_KEY, Tail().pack())
        index.sync()
        CheckpointFile.create(files, f"{path}/index", Slot(0, 1, True, clock.boot_id(), Tail(), index.meta_pages()))
    finally:
        index.close()


def ensure_reserve(files: Files, path: str) -> bool:
    """The reserve has its blocks again, if there is room: whether there was."""
    try:
        fd = files.create(f"{path}/reserve", exclusive=False)
    except OSError:
        return False
    try:
        if files.size(fd) < RESERVE_BYTES:
            files.allocate(fd, RESERVE_BYTES)
    except OSError:
        return False
    finally:
        files.close(fd)
    return True


def clear_spill(files: Files, path: str) -> None:
    """Temporary files of queries that died are gone. Nobody else has the database open."""
    try:
        for name in files.listdir(f"{path}/spill"):
            if not files.is_directory(f"{path}/spill/{name}"):
                files.unlink(f"{path}/spill/{name}")
    except OSError:
        return


def require_writable(error: OSError, path: str) -> StorageError:
    found = storage_error(error, "opening", path)
    if isinstance(found, ReadOnlyError):
        return found
    return StorageError(f"{found}; to look at it only, open it with read_only=True", path=path)
