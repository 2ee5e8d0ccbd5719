"""Wake-ups: a reader that waits for the next commit is woken in microseconds, by any process.

A waiting thread sleeps in one call until either of two comes. A commit of its own process writes its eventfd, which
wakes it sooner than a datagram would. A commit of another process finds the process's slot in the mapped `shared` page,
a byte that says whether anybody waits there, and sends a datagram to the process's socket; the thread that takes it
wakes the others. A process claims a slot by binding an abstract Unix socket named after the database and the slot: the
kernel frees it when the process dies, so nothing stale needs cleaning. All 64 slots zero = no other process waits.

No wake-up is lost: a waiter arms and then looks for a commit, a committer moves the commit id and then looks who is
armed. So one of the two sees the other. For other processors a lock orders the two steps of each: the waiter's is
`_lock`, the committer's the writer's mutex, which it has let go by then. Were one lost, it would cost WAIT_POLL_MS.

When commits come every few us, a wake-up for each would cost more than all the rest: the committer pays for it, and in
one process the two threads pass the interpreter to and fro. So a thread that waits then naps first, unarmed: it finds
several commits at once, and the committer pays nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from eventdb.config import WAIT_POLL_MS
from eventdb.storage.format import SHARED_SLOTS, SLOT_COUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import Callable

    from eventdb.storage.device.files import Clock

_NOBODY = bytes(SLOT_COUNT)
_SLOTS_END = SHARED_SLOTS + SLOT_COUNT
_ARMED = b"\1"
_BUSY_NS = 80_000  # commits closer than this are let gather
_NAP_S = 10e-6  # and the 50 us by which the kernel likes to be late
_IDLE_NS = 1_000_000
_KEPT = 4  # waiters that wait for the next thread; each has two descriptors
_LINUX = sys.platform.startswith("linux")


class _Waiter:
    """What one thread waits with. Its descriptors go with the last reference to it: whoever is about to write the
    eventfd has one, so the number cannot have become another file's."""

    __slots__ = ("_commit_id", "_epoll", "_gap_ns", "_looked_ns", "_receiver", "fd")

    def __init__(self, receiver: socket.socket | None) -> None:
        import select

        self.fd = -1
        self._commit_id = self._looked_ns = 0
        self._gap_ns = _IDLE_NS
        self._receiver = receiver
        self._epoll = select.epoll()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Edge-triggered: each write wakes once though nobody reads it. A datagram wakes until it is read.
        self._epoll.register(self.fd, select.EPOLLIN | select.EPOLLET)
        if receiver is not None:
            self._epoll.register(receiver, select.EPOLLIN)

    def sleep(self, pause_s: float) -> bool:
        """Until a wake-up, also one since the last sleep; `pause_s` at most. Whether it took the process's datagram,
        which others may have been about to see: the kernel lets who finds none sleep on."""
        took = False
        for fd, _ in self._epoll.poll(pause_s):
            if fd != self.fd and self._receiver is not None:
                try:
                    self._receiver.recv(16)
                    took = True
                except OSError:  # another thread was faster, and wakes this one
                    pass
        return took

    def gap_ns(self, now_ns: int, commit_id: int) -> int:
        """How far apart commits were of late: a moving mean that one pause lifts and a dozen looks lower."""
        commits = commit_id - self._commit_id
        if commits > 0:
            gap = min((now_ns - self._looked_ns) // commits, _IDLE_NS)
            self._gap_ns += (gap - self._gap_ns) >> 2
            self._commit_id, self._looked_ns = commit_id, now_ns
        return self._gap_ns

    def wake(self) -> None:
        os.eventfd_write(self.fd, 1)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Notifier:
    """Waiting for, and announcing, commits. `shared` is None when the page cannot be mapped for writing: then waiting
    polls, as it does where no descriptor is to be had."""

    def __init__(self, uuid: bytes, shared: mmap.mmap | None, clock: Clock) -> None:
        self._name = b"\0eventdb-" + uuid.hex().encode() + b"-"
        self._page = shared
        self._clock = clock
        self._lock = threading.Lock()
        self._armed: set[_Waiter] = set()  # those of this process's threads that sleep, or are about to
        self._free: list[_Waiter] = []
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._slot = -1
        self._only_own = _NOBODY  # the slots when nobody else waits
        self._closed = False
        self.napped = False
        """Whether commits have ever come so fast that a waiting thread let them gather."""

    def announce(self) -> None:
        """Every waiter of every process looks again. 0.1 us when nobody waits."""
        page = self._page
        if page is not None:
            slots = page[SHARED_SLOTS:_SLOTS_END]
            if slots != _NOBODY and slots != self._only_own:
                self._send(page, slots)
        if self._armed:
            self._wake()

    def _wake(self) -> None:
        """The waiting threads of this process look again."""
        armed = self._armed
        while armed:
            try:
                armed.pop().wake()
            except KeyError:  # another thread has taken the last one
                return

    def _send(self, page: mmap.mmap, slots: bytes) -> None:
        """The processes that wait look again."""
        if not _LINUX:
            return
        if self._sender is None:
            import socket  # 5 ms that a process without waiters does not pay

            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        slot = -1
        while (slot := slots.find(_ARMED, slot + 1)) >= 0:
            if slot == self._slot:
                continue
            page[SHARED_SLOTS + slot] = 0
            try:
                self._sender.sendto(b"1", self._name + b"%d" % slot)
            except OSError:  # its process died, or its queue is full: then it is awake already
                continue

    def _claim(self) -> None:
        """The process has a slot, if one is free. Lock held."""
        if self._receiver is not None or self._page is None:
            return
        import socket

        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        for slot in range(SLOT_COUNT):
            try:
                receiver.bind(self._name + b"%d" % slot)
            except OSError:
                continue
            self._receiver, self._slot = receiver, slot
            self._only_own = bytes(slot) + _ARMED + bytes(SLOT_COUNT - slot - 1)
            return
        receiver.close()

    def _take(self) -> _Waiter | None:
        """A waiter for this thread alone, until it is given back. None: poll."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        if not _LINUX:
            return None
        try:
            with self._lock:
                if self._closed:
                    return None
                self._claim()
                return _Waiter(self._receiver)
        except OSError:
            return None

    def _give_back(self, waiter: _Waiter) -> None:
        self._armed.discard(waiter)
        if not self._closed and len(self._free) < _KEPT:
            self._free.append(waiter)

    def wait(self, current: Callable[[], int], commit_id: int, timeout_s: float | None) -> int:
        """The current commit id as soon as it exceeds `commit_id`, or whatever it is at the timeout."""
        found = current()
        if found > commit_id or timeout_s == 0:
            return found
        clock = self._clock.monotonic_ns
        started = clock()
        deadline = None if timeout_s is None else started + int(timeout_s * 1e9)
        waiter = self._take()
        try:
            if waiter is not None and waiter.gap_ns(started, commit_id) < _BUSY_NS:
                self.napped = True
                time.sleep(_NAP_S)
                found = current()
                if found > commit_id:
                    return found
            while True:
                pause = WAIT_POLL_MS / 1000
                if deadline is not None:
                    pause = min(pause, (deadline - clock()) / 1e9)
                    if pause <= 0:
                        return current()
                if waiter is None:
                    time.sleep(min(pause, WAIT_POLL_MS / 1000))
                else:
                    self._arm(waiter)
                    found = current()  # a commit between the last look and the arming
                    if found > commit_id:
                        return found
                    if waiter.sleep(pause):
                        self._armed.discard(waiter)
                        self._wake()
                found = current()
                if found > commit_id or self._closed:
                    return found
        finally:
            if waiter is not None:
                self._give_back(waiter)

    def _arm(self, waiter: _Waiter) -> None:
        """Whoever commits from here on wakes the waiter."""
        with self._lock:
            self._armed.add(waiter)
            if self._slot >= 0 and self._page is not None:
                self._page[SHARED_SLOTS + self._slot] = 1

    def close(self, *, forked: bool = False) -> None:
        """Who waits looks once more and ends. In a forked child only its copies of the descriptors go."""
        if forked:
            self._lock = threading.Lock()  # a thread that the child does not have may have held it
            self._armed.clear()
        with self._lock:
            if self._page is not None and self._slot >= 0 and not forked:
                self._page[SHARED_SLOTS + self._slot] = 0
            self._closed = True
            self._slot = -1
            self._page = None
        self._wake()
        self._free.clear()
        for end in (self._receiver, self._sender):
            if end is not None:
                end.close()
        self._receiver = self._sender = None
