"""The one seam to the file system and to time. Tests replace both classes; nothing else in storage calls `os` on a
file.

Every open refuses symbolic links and whatever else rights.py names, and marks the descriptor close-on-exec.
Modes are explicit (0600, directories 0700), whatever the umask.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import mmap
import os
import stat
import time

from eventdb.errors import DiskFullError, ReadOnlyError, StorageError
from eventdb.storage.device.rights import check_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SAFE = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ZEROS = bytes(1 << 20)


def storage_error(error: OSError, action: str, path: str) -> StorageError:
    """The typed error of an OSError met while doing `action` on `path`."""
    if error.errno in _FULL:
        return DiskFullError(
            f"no space left while {action} {path}; nothing was stored, free some space and retry", path=path
        )
    if error.errno == errno.EROFS:
        return ReadOnlyError(
            f"{path} lies on a read-only file system; open the database with read_only=True", path=path
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(f"no permission while {action} {path}: {error.strerror}", path=path)
    if error.errno == errno.ELOOP:
        return StorageError(f"{path} is a symbolic link; EventDB does not follow links inside a database", path=path)
    return StorageError(f"{action} {path} failed: {error.strerror or error}", path=path)


class Clock:
    """Time. `monotonic_ns` for intervals, `time_us` for data, `boot_id` names this run of the kernel ('' if
    unknown)."""

    monotonic_ns: Callable[[], int] = staticmethod(time.monotonic_ns)

    def time_us(self) -> int:
        return time.time_ns() // 1000

    def boot_id(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""


class Files:
    """File operations. They raise OSError; `storage_error` turns it into a typed one."""

    # Bound directly: these two run in every commit.
    _sync_file_range: Callable[[int, int, int, int], int] | None = None
    _looked_up = False
    pwrite: Callable[[int, bytes | memoryview, int], int] = staticmethod(os.pwrite)
    fdatasync: Callable[[int], None] = staticmethod(getattr(os, "fdatasync", os.fsync))
    flock: Callable[[int, int], None] = staticmethod(fcntl.flock)

    def open(self, path: str, *, write: bool = False) -> int:
        """A descriptor of an existing regular file."""
        _refuse_open_index(path)
        fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | _SAFE)
        return _checked(fd, path, write)

    def create(self, path: str, *, exclusive: bool = True) -> int:
        """A descriptor of a new (or with exclusive=False possibly existing) regular file, mode 0600."""
        _refuse_open_index(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0) | _SAFE, 0o600)
        _checked(fd, path, True)
        os.fchmod(fd, 0o600)
        return fd

    def create_unnamed(self, directory: str) -> int:
        """A descriptor of a new regular file, mode 0600, without a name: unless `give_name` gives it one, it is gone
        with the descriptor. OSError where there are no such files."""
        if not hasattr(os, "O_TMPFILE"):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        return fd

    def give_name(self, fd: int, path: str) -> None:
        """A file that `create_unnamed` made has the path. FileExistsError."""
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)  # without src_dir_fd: not followed

    def free_bytes(self, path: str) -> int:
        """What this user may still store on the file system of the path."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def close(self, fd: int) -> None:
        os.close(fd)

    def duplicate(self, fd: int) -> int:
        """Another descriptor of the same open file."""
        return os.dup(fd)

    def pread(self, fd: int, length_bytes: int, position_bytes: int) -> bytes:
        return os.pread(fd, length_bytes, position_bytes)

    def begin_fdatasync(self, fd: int) -> Callable[[], None]:
        """fdatasync beside whatever the caller does next. The function waits for its end, whatever interrupts it, and
        raises OSError if anything went wrong, else the interrupt."""
        errors: list[BaseException] = []
        running = _thread.allocate_lock()

        def work() -> None:
            try:
                self.fdatasync(fd)
            except BaseException as error:  # whatever it is, nothing may count as flushed
                errors.append(error)
            finally:
                running.release()

        def finish() -> None:
            interrupt: BaseException | None = None
            while running.locked():
                try:
                    with running:
                        pass
                except BaseException as error:  # Ctrl-C
                    interrupt = error
            if errors:
                raise errors[0] if isinstance(errors[0], OSError) else OSError(errno.EIO, repr(errors[0]))
            if interrupt is not None:
                raise interrupt

        running.acquire()
        try:
            _thread.start_new_thread(work, ())
        except RuntimeError:  # no more threads: then one after the other
            work()
        return finish

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, length_bytes: int) -> None:
        """Blocks for [0, length_bytes), so that a store into a mapping cannot meet a full disk."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, length_bytes)
        else:
            self.fill_zeros(fd, length_bytes)

    def fill_zeros(
        self, fd: int, length_bytes: int, piece_bytes: int = len(_ZEROS), position_bytes: int = 0
    ) -> None:  # fmt: skip
        """Written zeros in [position_bytes, length_bytes): a later overwrite needs no file system metadata to become
        durable.

        The kernel caches each piece as a whole, and a store into a mapping of it makes the whole piece dirty.
        """
        position = position_bytes
        while position < length_bytes:
            position += self.pwrite(fd, _ZEROS[: min(piece_bytes, length_bytes - position)], position)

    def mmap(self, fd: int, length_bytes: int, *, write: bool = False) -> mmap.mmap:
        return mmap.mmap(fd, length_bytes, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)

    def overwrites_in_place(self, path: str) -> bool:
        """Whether overwriting written bytes below `path` needs no new space, ever: then a store into a mapping of them
        cannot meet a full disk. Copy-on-write file systems (btrfs, zfs, f2fs, bcachefs) do need it."""
        return self.file_system(path) in _IN_PLACE_TYPES

    def file_system(self, path: str) -> str:
        """The type of the file system a path lies on, '' if not known."""
        return file_system(path)

    def drop_cache(self, fd: int) -> None:
        """Clean cached pages of the file are forgotten, so that the next read shows what the medium holds."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return _status_of(path) is not None

    def is_directory(self, path: str) -> bool:
        """Whether the path is a directory and not a link to one."""
        status = _status_of(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def close_on_exec(self, identities: set[tuple[int, int]]) -> None:
        """No descriptor of these files, whoever opened it, goes to a child process. Linux only."""
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return
        for name in names:
            try:
                status = os.fstat(int(name))
                if (status.st_dev, status.st_ino) in identities:
                    os.set_inheritable(int(name), False)
            except OSError:
                continue  # the listing's own descriptor, or one another thread has closed

    def status(self, path: str) -> os.stat_result:
        return os.stat(path)

    def restrict(self, path: str) -> None:
        """Only the owner may use the directory."""
        os.chmod(path, 0o700)

    def is_own(self, path: str) -> bool:
        return os.stat(path).st_uid == os.geteuid()

    def identity(self, path: str) -> tuple[int, int]:
        status = os.stat(path)
        return status.st_dev, status.st_ino

    def descriptor_identity(self, fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def sync_index(self, sync: Callable[[bool], None], path: str) -> None:
        """LMDB's own flush of the file at `path`, through the seam so that tests can lose or fail it."""
        sync(True)

    def read_all(self, path: str, limit_bytes: int = 1 << 20) -> bytes:
        fd = self.open(path)
        try:
            return self.pread(fd, limit_bytes, 0)
        finally:
            self.close(fd)

    def start_writing(self, fd: int, position_bytes: int, length_bytes: int) -> None:
        """A hint: the device may begin with these bytes, so that the flush that follows has less to wait for.

        It promises nothing, and an error of the device is still the flush's to report.
        """
        if not self._looked_up:
            self._sync_file_range = _find_sync_file_range()
            self._looked_up = True
        if self._sync_file_range is not None:
            self._sync_file_range(fd, position_bytes, length_bytes, _START_WRITING)

    def write_fully(self, fd: int, data: bytes | memoryview, position_bytes: int) -> None:
        """All of `data` at the position; a short write is continued so that its cause shows up as an OSError."""
        done = 0
        while done < len(data):
            count = self.pwrite(fd, data[done:] if done else data, position_bytes + done)
            if count <= 0:
                raise OSError(errno.EIO, "the write made no progress")
            done += count


def _status_of(path: str) -> os.stat_result | None:
    """None if nothing has that name. OSError if it cannot be looked at: then it may well be there."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _checked(fd: int, path: str, write: bool) -> int:
    """The descriptor, if what it is open on may be used."""
    try:
        check_file(os.fstat(fd), path, write=write)
    except BaseException:
        os.close(fd)
        raise
    return fd


# (device, inode) of every LMDB file this process has open: closing another descriptor of one drops LMDB's locks.
open_indexes: set[tuple[int, int]] = set()


def _refuse_open_index(path: str) -> None:
    if path.endswith(".mdb") and open_indexes:
        try:
            status = os.stat(path)
        except OSError:
            return
        if (status.st_dev, status.st_ino) in open_indexes:
            raise StorageError(f"{path} is open in this process: opening it again would drop LMDB's locks", path=path)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes  # loaded by NumPy already when columns are written

    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found: Callable[[int, int, int, int], int] = function
    return found


def has_room(directory: str, length_bytes: int) -> bool:
    """Whether this user may store so many more bytes there. Nothing is left behind. True if it cannot be told."""
    if not hasattr(os, "O_TMPFILE"):
        return True
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, length_bytes)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno not in _FULL
    return True


def keeping_flock() -> Callable[[int, int], None]:
    """flock for LOCK_NB and LOCK_UN, which never wait: it keeps the interpreter, where fcntl's lets it go.

    To let it go and take it again costs nothing but where another thread waits for it: that one is woken each time,
    finds it taken and sleeps again. OSError as fcntl.flock.
    """
    import ctypes

    library = ctypes.PyDLL(None, use_errno=True)
    try:
        call, get_errno = library.flock, ctypes.get_errno
    except AttributeError:
        return fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if call(fd, operation):
            error = get_errno()
            raise OSError(error, os.strerror(error))

    return flock


_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE
_IN_PLACE_TYPES = ("ext2", "ext3", "ext4", "xfs", "tmpfs")


def file_system(path: str) -> str:
    """The type of the file system a path lies on, '' if not known. Linux only.

    The mount table is read, not statfs: loading ctypes for that call costs more than opening the database.
    """
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", "rb") as table:
            number = b" %d:%d " % (os.major(device), os.minor(device))
            for line in table:
                if number in line:
                    return line.partition(b" - ")[2].split()[0].decode("ascii", "replace")
    except (OSError, IndexError):
        return ""
    return ""
