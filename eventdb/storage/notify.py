"""Wake-ups: a reader that waits for the next commit is woken in microseconds, by any process.

The mapped `shared` page has a byte per waiter slot. A process claims a slot by binding an abstract Unix datagram socket
named after the database and the slot: the kernel frees it when the process dies, so nothing stale needs cleaning. A
committer looks at the 64 bytes (all zero = nobody waits) and sends a datagram to each armed slot. A lost wake-up costs
WAIT_POLL_MS.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from struct import Struct

from eventdb.config import WAIT_POLL_MS
from eventdb.storage.format import SHARED_SLOTS, SLOT_COUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import Callable

    from eventdb.storage.device.files import Clock

_NOBODY = bytes(SLOT_COUNT)
_TIMEVAL = Struct("@ll")  # seconds, microseconds
_LINUX = sys.platform.startswith("linux")


class Notifier:
    """Waiting for, and announcing, commits. `shared` is None when the page cannot be mapped for writing: then waiting
    polls."""

    def __init__(self, uuid: bytes, shared: mmap.mmap | None, clock: Clock) -> None:
        self._name = b"\0eventdb-" + uuid.hex().encode() + b"-"
        self._page = shared
        self._clock = clock
        self._condition = threading.Condition()
        self._sleepers = 0
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._slot = -1
        self._pause_ms = -1  # the receiver's timeout, as the kernel knows it
        self._has_listener = False

    def announce(self) -> None:
        """Every waiter of every process looks again. 0.1 us when nobody waits."""
        page = self._page
        if page is not None and page[SHARED_SLOTS : SHARED_SLOTS + SLOT_COUNT] != _NOBODY:
            self._send()
        if self._sleepers:
            with self._condition:
                self._condition.notify_all()

    def _send(self) -> None:
        page = self._page
        if page is None or not _LINUX:
            return
        if self._sender is None:
            import socket  # 5 ms that a process without waiters does not pay

            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        for slot in range(SLOT_COUNT):
            if page[SHARED_SLOTS + slot]:
                page[SHARED_SLOTS + slot] = 0
                try:
                    self._sender.sendto(b"1", self._name + b"%d" % slot)
                except OSError:  # its process died, or its queue is full: then it is awake already
                    continue

    def _claim(self) -> bool:
        if self._receiver is not None:
            return True
        if self._page is None or not _LINUX:
            return False
        import socket

        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        receiver.settimeout(None)  # the kernel times out: Python's own timeout costs a poll for each wait
        for slot in range(SLOT_COUNT):
            try:
                receiver.bind(self._name + b"%d" % slot)
            except OSError:
                continue
            self._receiver, self._slot = receiver, slot
            return True
        receiver.close()
        return False

    def wait(self, current: Callable[[], int], commit_id: int, timeout_s: float | None) -> int:
        """The current commit id as soon as it exceeds `commit_id`, or whatever it is at the timeout."""
        found = current()
        if found > commit_id or timeout_s == 0:
            return found
        clock = self._clock.monotonic_ns
        deadline = None if timeout_s is None else clock() + int(timeout_s * 1e9)
        while True:
            pause = WAIT_POLL_MS / 1000
            if deadline is not None:
                pause = min(pause, (deadline - clock()) / 1e9)
                if pause <= 0:
                    return current()
            self._sleep(current, commit_id, pause)
            found = current()
            if found > commit_id:
                return found

    def _sleep(self, current: Callable[[], int], commit_id: int, pause_s: float) -> None:
        with self._condition:
            listen = not self._has_listener and self._claim()
            if listen:
                self._has_listener = True
        if listen:
            try:
                self._listen(current, commit_id, pause_s)
            finally:
                with self._condition:
                    self._has_listener = False
                    if self._sleepers:
                        self._condition.notify_all()
            return
        with self._condition:
            self._sleepers += 1
            try:
                if current() <= commit_id:
                    self._condition.wait(pause_s)
            finally:
                self._sleepers -= 1

    def _listen(self, current: Callable[[], int], commit_id: int, pause_s: float) -> None:
        page, receiver = self._page, self._receiver
        if page is None or receiver is None:
            return
        page[SHARED_SLOTS + self._slot] = 1
        if current() > commit_id:  # committed between the caller's look and the arming
            page[SHARED_SLOTS + self._slot] = 0
            return
        pause_ms = int(pause_s * 1000) + 1
        if pause_ms != self._pause_ms:
            import socket

            timeout = _TIMEVAL.pack(pause_ms // 1000, pause_ms % 1000 * 1000)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            self._pause_ms = pause_ms
        # A datagram left over from an earlier wait wakes for nothing, once: the caller looks and comes back.
        with contextlib.suppress(OSError):  # a timeout is one
            receiver.recv(16)

    def close(self, *, forked: bool = False) -> None:
        if self._page is not None and self._slot >= 0 and not forked:
            self._page[SHARED_SLOTS + self._slot] = 0
        for end in (self._receiver, self._sender):
            if end is not None:
                end.close()
        self._receiver = self._sender = None
        self._slot = -1
        self._page = None
        with self._condition:
            self._condition.notify_all()
