"""Work in another thread, so that its caller need not wait for its end: a query that is cancelled, or too late, gives
control back within milliseconds, whatever long call it is in. The thread then stops at its next look at the token.

Threads are kept for a few seconds for the next query.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from eventdb.physical.context import CancelToken

T = TypeVar("T")
IDLE_S = 5.0
IDLE_THREADS = 4
SIGNAL_S = 0.05

_idle: list[_Worker] = []
_lock = threading.Lock()


class _Job:
    """Work that is done once, by whoever begins it first, or never: then its caller knows."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = [work]
        self.replies: SimpleQueue[tuple[bool, Any] | None] = SimpleQueue()

    def take(self) -> Callable[[], Any] | None:
        """The work; None for all but the first who asks."""
        try:
            return self._work.pop()
        except IndexError:
            return None


class _Worker(threading.Thread):
    """A thread that waits for work. Whoever takes it out of `_idle` gives it work before it lets go of `_lock`, unless
    a signal handler raises in between: then it ends at its next look."""

    def __init__(self) -> None:
        super().__init__(name="eventdb-query", daemon=True)
        self.jobs: SimpleQueue[_Job] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_S)
            except Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                    elif not self.jobs.empty():
                        continue
                return
            reply: tuple[bool, Any] | None = None
            work = job.take()
            if work is not None:
                try:
                    reply = True, work()
                except BaseException as error:
                    reply = False, error
            del work
            with _lock:
                stays = len(_idle) < IDLE_THREADS
                if stays:
                    _idle.append(self)
            job.replies.put(reply)
            del reply, job
            if not stays:
                return


def run_aside(work: Callable[[], T], token: CancelToken, undone: Callable[[], object] | None = None) -> T:
    """What `work` returns or raises. QueryCancelled or QueryTimeout as soon as the token says so, and whatever a signal
    handler raises here (Ctrl-C), which cancels the work; then it goes on until it looks at the token, by itself.
    `undone` is called if that comes before the work has begun, which it then never does."""
    job = _Job(work)
    try:
        token.wake = lambda: job.replies.put(None)
        given = False
        with _lock:
            if _idle:
                _idle.pop().jobs.put(job)
                given = True
        if not given:
            worker = _Worker()
            worker.jobs.put(job)
            try:
                worker.start()
            except RuntimeError:  # no more threads, or no memory for one: then here, as long as it takes
                job.take()
                return work()
        done, value = _reply(job, token)
    except BaseException:
        token.cancel()
        if job.take() is not None and undone is not None:
            undone()
        raise
    finally:
        token.wake = None
    if done:
        return value  # type: ignore[no-any-return]
    try:
        raise value
    finally:
        del value  # no cycle through this frame


def _reply(job: _Job, token: CancelToken) -> tuple[bool, Any]:
    """(whether the work has returned, what it returned or raised)."""
    # A signal that comes in the instant before the wait does not end it: its handler runs after the next one.
    most = SIGNAL_S if threading.current_thread() is threading.main_thread() else None
    while True:
        left = most
        if token.deadline_s is not None:
            rest = max(0.0, token.deadline_s - time.monotonic())
            left = rest if most is None else min(rest, most)
        try:
            reply = job.replies.get(timeout=left)
        except Empty:
            reply = None
        if reply is not None:
            return reply
        token.check()


def _after_fork_in_child() -> None:
    """No other thread is there; one may have held the lock."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
