"""The writer lock: one thread of one process changes the database at a time, and a failed flush stops everybody.

The process's mutex comes first, then the flock of LOCK (with a timeout and the holder's pid in the error). LMDB's own
lock, which cannot time out, is only taken by who holds these two, so it never blocks for long.

A flock goes to whoever asks first after its release, and that is the process that just released it: without more, two
processes that commit without a pause kept each other waiting for half a second. So a process that has waited for
_PATIENCE_NS leaves its pid in the shared page, and whoever finds one there lets it go first, for _YIELD_US at most: the
pid may be a dead one's. Handing over at every commit instead cost three quarters of the commits that do not flush.

Ctrl-C may strike between any two calls. The mutex is an RLock because it knows whether this thread holds it: what an
interrupt left locked is noticed and released (unlock() in a handler, or the next lock() of the thread).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading

from eventdb.config import LOCK_TIMEOUT_MS
from eventdb.errors import ClosedError, DatabaseLocked, ForkError, OutcomeUnknown, PoisonedError, UsageError
from eventdb.storage.device.files import keeping_flock, storage_error
from eventdb.storage.format import SHARED_HOLDER, SHARED_NEWEST, SHARED_POISON, SHARED_WAITING, U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Any

    from eventdb.storage.device.files import Clock, Files

_BUSY = (errno.EAGAIN, errno.EACCES)
FORKED = (
    "this database was opened before fork(), so the child process can neither use nor open it: start processes with "
    "multiprocessing's spawn, or fork before opening"
)
_PATIENCE_NS = 2_000_000
_YIELD_US = 2_000
_FREE = bytes(4)
_LOOK_US = 1_000_000  # how often the writer looks whether LOCK is still the file it locked


class WriterLock:
    """Mutex, flock and poison of one process."""

    def __init__(self, files: Files, clock: Clock, path: str, shared: mmap.mmap, lock_fd: int) -> None:
        self.files = files
        self.flock = files.flock  # for the shortest way of a commit
        self.clock = clock
        self.path = path
        self.shared = shared
        self.newest_us = memoryview(shared)[SHARED_NEWEST : SHARED_NEWEST + 8].cast("q")  # one item
        self.lock_fd = lock_fd
        self.lock_path = f"{path}/LOCK"
        self.pid = os.getpid()
        self.pid_bytes = U32.pack(self.pid)
        self.mutex: Any = threading.RLock()
        self.busy = False  # whether anybody holds it
        self.owner = 0  # the thread that holds it by lock(), 0 = none
        self.token: object = None  # of the transaction it is held for
        self.look_us = 0
        self.closed = False
        self.poison_reason = ""
        self.flushes = 0

    def keep_interpreter(self) -> None:
        """The shortest way of a commit never lets another thread of this process in from now on: for where one reads
        along, and would be woken for nothing at each lock."""
        if self.flock is fcntl.flock:
            self.flock = keeping_flock()

    def commit_time_us(self) -> int:
        """The append time of all rows of the next commit: the clock's, but later than that of every commit before it,
        of any process and whatever the clock does. Lock held; a commit of rows puts it into `newest_us` first."""
        return max(self.clock.time_us(), self.newest_us[0] + 1)

    def check_usable(self) -> None:
        if os.getpid() != self.pid:
            raise ForkError(FORKED)
        if self.closed:
            raise ClosedError("the database is closed")

    def lock(self) -> None:
        """The mutex and the flock are held. Typed errors; nothing is held then."""
        self.check_usable()
        me = threading.get_ident()
        if self.owner == me:
            if self.token is not None:
                raise UsageError("a write transaction of this thread is open: finish it before the next write")
            self.distrust()  # Ctrl-C struck while this thread was leaving its last section
            self.unlock()
        try:
            if not self.mutex.acquire(timeout=LOCK_TIMEOUT_MS / 1000):
                raise DatabaseLocked(
                    f"{self.path}: another thread of this process has been writing for {LOCK_TIMEOUT_MS} ms",
                    path=self.path,
                    pid=self.pid,
                )
            self.busy = True
            self.owner = me
            if self.closed:
                raise ClosedError("the database is closed")
            if self.shared[SHARED_WAITING : SHARED_WAITING + 4] != _FREE:
                self._let_waiting_go()
            try:
                self.files.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _BUSY:
                    raise storage_error(error, "locking", self.lock_path) from error
                self._wait_for_lock()
            self.shared[SHARED_HOLDER : SHARED_HOLDER + 4] = self.pid_bytes
            if self.poison_reason or self.shared[SHARED_POISON]:
                raise PoisonedError(
                    f"{self.path}: an earlier flush failed{': ' + self.poison_reason if self.poison_reason else ''}; "
                    "nothing more is accepted until every handle is closed and the database reopened",
                    path=self.path,
                )
            now = self.clock.time_us()
            if not self.look_us - _LOOK_US <= now < self.look_us:
                self._check_inode()
                self.look_us = now + _LOOK_US
        except BaseException:
            self.unlock()
            raise

    def _let_waiting_go(self) -> None:
        """Whoever waits for the lock has had a chance to take it."""
        import time

        place = slice(SHARED_WAITING, SHARED_WAITING + 4)
        waiting = self.shared[place]
        deadline = self.clock.monotonic_ns() + _YIELD_US * 1000
        while self.shared[place] == waiting:
            if self.clock.monotonic_ns() > deadline:
                self.shared[place] = _FREE
                return
            time.sleep(20e-6)

    def _wait_for_lock(self) -> None:
        import time

        place = slice(SHARED_WAITING, SHARED_WAITING + 4)
        started = self.clock.monotonic_ns()
        pause_s = 20e-6
        try:
            while True:
                time.sleep(pause_s)
                waited_ns = self.clock.monotonic_ns() - started
                if waited_ns > _PATIENCE_NS and self.shared[place] == _FREE:
                    self.shared[place] = self.pid_bytes
                pause_s = 50e-6 if waited_ns < 50_000_000 else 1e-3
                try:
                    self.files.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except OSError as error:
                    if error.errno not in _BUSY:
                        raise storage_error(error, "locking", self.lock_path) from error
                if waited_ns > LOCK_TIMEOUT_MS * 1_000_000:
                    pid = U32.unpack_from(self.shared, SHARED_HOLDER)[0]
                    raise DatabaseLocked(
                        f"{self.path}: process {pid} has held the writer lock for {LOCK_TIMEOUT_MS} ms; is it stopped? "
                        "The lock is never taken away from a live process",
                        path=self.path,
                        pid=pid,
                    )
        finally:
            if self.shared[place] == self.pid_bytes:
                self.shared[place] = _FREE

    def _check_inode(self) -> None:
        try:
            same = self.files.identity(self.lock_path) == self.files.descriptor_identity(self.lock_fd)
        except OSError:
            same = False
        if not same:
            self.poison("the file LOCK was removed or replaced while the database was open")
            raise PoisonedError(
                f"{self.lock_path} was removed or replaced: close every handle and reopen", path=self.path
            )

    def unlock(self) -> None:
        """Nothing is held by this thread any more."""
        if not self.mutex._is_owned():
            return
        try:
            self.files.flock(self.lock_fd, fcntl.LOCK_UN)
        finally:
            self.token = None
            self.owner = 0
            self.busy = False
            self.mutex.release()

    def distrust(self) -> None:
        """A section ended without saying how: nothing cached is believed."""

    def flush(self, fd: int, path: str) -> None:
        """fdatasync. A failure poisons the database: the kernel may have dropped the data and would call a second try a
        success."""
        self.flushes += 1
        try:
            self.files.fdatasync(fd)
        except OSError as error:
            raise self.failed_flush(path, error) from error

    def failed_flush(self, path: str, error: OSError) -> OutcomeUnknown:
        """The database is poisoned; what to raise."""
        reason = f"flushing {path} failed: {error.strerror or error}"
        self.poison(reason)
        return OutcomeUnknown(
            f"{reason}. The commit may or may not survive; close every handle, reopen the database and look", path=path
        )

    def poison(self, reason: str) -> None:
        self.poison_reason = self.poison_reason or reason
        self.shared[SHARED_POISON] = 1
