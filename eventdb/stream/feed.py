"""Feed: changes handed out as commits happen. What they are is said by the subclass that takes the commits in.

Nothing is read ahead: rows are taken in when somebody asks for changes and none are ready, a bounded number at a time.
So a reader that is slow, or stops, holds up nobody and costs no memory: what it has not read stays in the log.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventdb.errors import ClosedError
from eventdb.stream.emission import Changes, ProgressMessage
from eventdb.stream.token import Place, encode_token
from eventdb.stream.watermark import LOWEST_US
from eventdb.values import us_to_datetime

if TYPE_CHECKING:
    from eventdb.schema import DataType
    from eventdb.storage.store import Store

_POLL_S = 0.05  # how often a waiting reader looks whether it was closed


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """`mark`: a fingerprint of the query, for tokens. `after`: where to go on, instead of a start. `every_us`: changes
    are handed out at most once in that time, those that cancel out not at all; 0 at once. `repeat`: all rows are, as
    +I, instead of what changed. `progress`: how far everything was handed out is told in between."""

    mark: bytes = b""
    after: Place | None = None
    every_us: int = 0
    repeat: bool = False
    progress: bool = False


class Feed(ABC):
    """Changes from a starting point on, in order, without a gap or a repetition. One thread reads; any may close."""

    def __init__(self, store: Store, types: Sequence[DataType], options: FeedOptions) -> None:
        """`types` of the columns."""
        self._store = store
        self._types = types
        self._options = options
        self._ready: deque[tuple[Changes, Place]] = deque()
        self._closed = threading.Event()
        self.is_held: Callable[[], bool] = lambda: False  # nothing is taken in then
        self._place: Place | None = options.after  # before the batch handed out last; None: `_reached` says it
        self._count: int | None = None  # of that batch
        self._told: Place | None = None
        self._due_s = 0.0  # by the monotonic clock: nothing is taken in before
        self._has_handed_out = False  # since `_due_s`

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

    @abstractmethod
    def _reached(self) -> Place | None:
        """Behind all changes that were made; None before the first look."""

    def in_order(self, changes: Changes) -> Changes:
        """Changes in the order in which a part of them may be handed out: a token of a part must mean the same part
        whoever computes them again."""
        return changes

    @property
    def _watermark_us(self) -> int:
        return LOWEST_US

    def token(self, taken: int | None = None) -> str | None:
        """Says that all changes that `read` gave were handed out; of the last batch, in order, only `taken`. None
        before the first read."""
        place = self._place
        if place is None:
            place = self._reached()
        elif self._count is not None:
            place = place.whole(self._count) if taken is None else place.partly(taken)
        return None if place is None else encode_token(self._options.mark, place)

    def read(self, timeout_s: float | None = None) -> Changes | None:
        """The next changes, waiting for them up to `timeout_s` (None: for ever); None when there were none in time.

        Rows that are there already are always taken in first, however long that takes: 0 means what is there now,
        unless changes are handed out once in a while only.
        ClosedError once it or its database is closed. ViewFailed when a row breaks an expression; it is closed then.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        first = True
        while True:
            if self._closed.is_set():
                raise ClosedError("the subscription is closed")
            if self._ready:
                changes, self._place = self._ready.popleft()
                self._count = len(changes)
                return changes
            if self._due_s and self._is_early(deadline):
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                continue
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
            done = not moved or self._is_done()
            if self._options.every_us:
                self._pace(done)
            if done and self._options.progress:
                self._tell(commit_id)
            if self._ready or not done:
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._place = None
                return None
            if not moved:
                self._store.wait(commit_id, _POLL_S if left is None else min(left, _POLL_S))

    def _is_early(self, deadline: float | None) -> bool:
        """Whether nothing is to be taken in yet; waits a moment, up to the deadline, if so."""
        now = time.monotonic()
        if now >= self._due_s:
            return False
        self._closed.wait(min(_POLL_S, self._due_s - now, _POLL_S if deadline is None else max(deadline - now, 0)))
        return True

    def _pace(self, done: bool) -> None:
        self._has_handed_out = self._has_handed_out or bool(self._ready)
        if done and self._has_handed_out:
            self._due_s = time.monotonic() + self._options.every_us / 1e6
            self._has_handed_out = False

    def _tell(self, commit_id: int) -> None:
        """Queues a progress message if there is progress."""
        place = self._reached()
        if place is None or place == self._told:
            return
        self._told = place
        low = self._watermark_us
        token = encode_token(self._options.mark, place)
        message = Changes.of_rows(self.names, self._types, [], (), ())
        message.progress = ProgressMessage.at(commit_id, token, None if low == LOWEST_US else us_to_datetime(low))
        self._ready.append((message, place))

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
