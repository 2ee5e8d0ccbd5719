"""Lease: one process at a time does something, such as maintaining the views of a database; or several share it.

A flock on a file of the database directory. The kernel drops it when the holder dies, however it dies, so
the next process that asks gets it. A forked child must not keep the parent's lock alive: it closes its copy.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress

from eventdb.errors import StorageError

_LEASES: weakref.WeakSet[Lease] = weakref.WeakSet()


class Lease:
    """`acquire` tries once and never waits. Not thread-safe: one thread uses it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._held = False

    @property
    def held(self) -> bool:
        return self._held

    def acquire(self) -> bool:
        """Whether this process now holds the lease alone. StorageError when the file cannot be opened."""
        if not self._held:
            try:
                self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._sign()
        return True

    def share(self) -> None:
        """This process holds the lease with others that share it; waits while one holds it alone. StorageError as in
        `acquire`."""
        self._lock(fcntl.LOCK_SH)

    def _lock(self, how: int) -> None:
        try:
            if self._descriptor < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags, 0o600)
                os.fchmod(self._descriptor, 0o600)  # whatever the umask
                _LEASES.add(self)
            fcntl.flock(self._descriptor, how)
        except BlockingIOError:
            raise
        except OSError as error:
            raise StorageError(f"cannot take the lease {self._path}: {error.strerror}", path=self._path) from error
        self._held = True

    def _sign(self) -> None:
        """Writes into the file who holds it. What cannot be written is left out: the lease holds all the same."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Gives the lease back; allowed at any time."""
        self._held = False
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holder(path: str) -> int | None:
    """The process id, in its own namespace, of who holds a lease alone; None if nobody does, or it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0)
        return int(text) if text.isdigit() else None
    except OSError:
        return None
    else:
        return None
    finally:
        os.close(descriptor)


def _close_in_child() -> None:
    # Closing the copy leaves the parent's lock alone; unlocking it would not.
    for lease in list(_LEASES):
        lease.release()


os.register_at_fork(after_in_child=_close_in_child)
