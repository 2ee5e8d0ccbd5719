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


class _Worker(threading.Thread):
    """A thread that waits for work."""

    def __init__(self) -> None:
        super().__init__(name="eventdb-query", daemon=True)
        self.jobs: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]]] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                work, replies = self.jobs.get(timeout=IDLE_S)
            except Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # a job is on its way
            reply: tuple[bool, Any]
            try:
                reply = True, work()
            except BaseException as error:
                reply = False, error
            del work
            with _lock:
                stays = len(_idle) < IDLE_THREADS
                if stays:
                    _idle.append(self)
            replies.put(reply)
            del reply, replies
            if not stays:
                return


def run_aside(work: Callable[[], T], token: CancelToken) -> T:
    """What `work` returns or raises. QueryCancelled or QueryTimeout as soon as the token says so, and whatever a signal
    handler raises here (Ctrl-C), which cancels the work; then it goes on until it looks at the token, by itself."""
    replies: SimpleQueue[tuple[bool, Any] | None] = SimpleQueue()
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None:
        worker = _Worker()
        try:
            worker.start()
        except RuntimeError:  # no more threads, or no memory for one: then here, as long as it takes
            return work()
    token.wake = lambda: replies.put(None)
    worker.jobs.put((work, replies))
    # A signal that comes in the instant before the wait does not end it: its handler runs after the next one.
    most = SIGNAL_S if threading.current_thread() is threading.main_thread() else None
    try:
        while True:
            left = most
            if token.deadline_s is not None:
                rest = max(0.0, token.deadline_s - time.monotonic())
                left = rest if most is None else min(rest, most)
            try:
                reply = replies.get(timeout=left)
            except Empty:
                reply = None
            if reply is not None:
                break
            token.check()
    except BaseException:
        token.cancel()
        raise
    finally:
        token.wake = None
    done, value = reply
    if done:
        return value  # type: ignore[no-any-return]
    try:
        raise value
    finally:
        del reply, value  # no cycle through this frame


def _after_fork_in_child() -> None:
    """No other thread is there; one may have held the lock."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
