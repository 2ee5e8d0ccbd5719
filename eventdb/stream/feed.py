"""Feed: changes handed out as commits happen. What they are is said by the subclass that takes the commits in."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from eventdb.errors import ClosedError
from eventdb.stream.emission import Changes

if TYPE_CHECKING:
    from eventdb.storage.store import Store

_POLL_S = 0.05  # how often a waiting reader looks whether it was closed


class Feed(ABC):
    """Changes from a starting point on, in order, without a gap or a repetition. One thread reads; any may close."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ready: deque[Changes] = deque()
        self._closed = threading.Event()
        self.is_held: Callable[[], bool] = lambda: False  # nothing is taken in then

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the columns."""

    @abstractmethod
    def _look(self, first: bool) -> bool:
        """Takes in some of what is there and queues its changes; False when there was nothing new. `first`: of a
        `read`. An error, Ctrl-C too, closes the feed."""

    @abstractmethod
    def _is_done(self) -> bool:
        """Whether everything was taken in that was there at the first look of this `read`."""

    def read(self, timeout_s: float | None = None) -> Changes | None:
        """The next changes, waiting for them up to `timeout_s` (None: for ever); None when there were none in time.

        Rows that are there already are always taken in first, however long that takes: 0 means what is there now.
        ClosedError once it or its database is closed. ViewFailed when a row breaks an expression; it is closed then.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        first = True
        while True:
            if self._closed.is_set():
                raise ClosedError("the subscription is closed")
            if self._ready:
                return self._ready.popleft()
            commit_id = self._store.commit_id()
            try:
                if self.is_held():
                    moved = False
                else:
                    moved = self._look(first)
                    first = False
            except BaseException:  # Ctrl-C too: some of the changes may be lost
                self.close()
                raise
            if self._ready or (moved and not self._is_done()):
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            if not moved:
                self._store.wait(commit_id, _POLL_S if left is None else min(left, _POLL_S))

    def __iter__(self) -> Iterator[Changes]:
        """Changes until it is closed."""
        while True:
            try:
                changes = self.read()
            except ClosedError:
                return
            if changes is not None:
                yield changes

    def close(self) -> None:
        """A read that waits ends with ClosedError soon (50 ms at most)."""
        self._closed.set()
