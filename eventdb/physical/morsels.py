"""Morsels: ranges of rows handed to threads. Kernels release the GIL, so threads run them side by side.

Each thread starts with its own contiguous share (rows near in time touch the same groups) and takes from the end of
another's share when its own is done. The calling thread works too, so Ctrl-C arrives between its morsels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from eventdb.physical.context import CancelToken

LEAST_ROWS = 65_536
GREATEST_ROWS = 1 << 19


@dataclass(frozen=True, slots=True)
class Morsel:
    """Rows [start, stop) of slice number `slice`; `number` counts morsels in offset order; `state` is the thread's."""

    number: int
    slice: int
    start: int
    stop: int
    state: Any = None


def cut(row_counts: Sequence[int], threads: int, greatest: int = GREATEST_ROWS) -> list[Morsel]:
    """The morsels of slices of so many rows, in offset order."""
    size = max(LEAST_ROWS, min(greatest, sum(row_counts) // (threads * 4)))
    morsels: list[Morsel] = []
    for number, count in enumerate(row_counts):
        parts = max(1, round(count / size)) if count else 0
        for part in range(parts):
            morsels.append(Morsel(len(morsels), number, count * part // parts, count * (part + 1) // parts))
    return morsels


class _Shares:
    """Who works on what next. A list's pop is atomic under the GIL; the lock keeps the choice of a victim simple."""

    def __init__(self, items: Sequence[Any], threads: int) -> None:
        count = len(items)
        bounds = [count * t // threads for t in range(threads + 1)]
        self._left = [list(range(bounds[t], bounds[t + 1])) for t in range(threads)]
        self._items = items
        self._lock = threading.Lock()

    def take(self, thread: int) -> Any | None:
        with self._lock:
            own = self._left[thread]
            if own:
                return self._items[own.pop(0)]
            victim = max(self._left, key=len)
            return self._items[victim.pop()] if victim else None


_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_owner = 0
_pool_size = 0


def _workers(count: int) -> ThreadPoolExecutor:
    """The process's pool with at least `count` threads. A forked child makes its own."""
    global _pool, _pool_owner, _pool_size
    with _lock:
        if _pool is None or _pool_owner != os.getpid() or _pool_size < count:
            if _pool is not None and _pool_owner == os.getpid():
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(count, thread_name_prefix="eventdb-morsel")
            _pool_owner, _pool_size = os.getpid(), count
        return _pool


def submit(count: int, work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Runs one piece of work on a pool of at least `count` threads."""
    return _workers(count).submit(work, *args)


def run(items: Sequence[Any], threads: int, work: Callable[[int, Any], bool], cancel: CancelToken) -> None:
    """work(thread, item) for every item, on `threads` threads; False stops early. Raises what work raises, and
    QueryCancelled or QueryTimeout between two items; no work runs any more when this returns or raises."""
    threads = max(1, min(threads, len(items)))
    shares = _Shares(items, threads)
    stopped = threading.Event()

    def loop(thread: int) -> None:
        try:
            while not stopped.is_set():
                item = shares.take(thread)
                if item is None:
                    return
                cancel.check()
                if not work(thread, item):
                    stopped.set()
        except BaseException:
            stopped.set()
            raise

    futures = [submit(threads - 1, loop, thread) for thread in range(1, threads)]
    try:
        loop(0)
    finally:
        failures = [future.exception() for future in futures]
    for failure in failures:
        if failure is not None:
            raise failure
