"""Group commit: threads of one process that append at the same time share one journal record and one flush.

A row joins the queue, and one thread leads: it commits the whole queue while the others wait, and wakes them. They go
on, and come back with their next rows one after the other. A leader that did not wait for them would flush for one or
two rows, and they would wait for that: so, where a commit flushes, as many rows as threads were there last time are
gathered first. Whoever completes the group leads it, which saves waking somebody to do it. Who was expected may have
gone: the first row waits as long as a commit takes, no more, and after a group that was not complete so many commits
wait for nobody (twice as many each time) that the time lost is little.

A lone thread is no group: nobody is expected, and it takes the short way by itself (append.py). Rows that cannot be
committed the short way together (together.py) are committed by one transaction; a table's are given back to their
threads. A row that breaks that transaction fails alone: the rest is committed one by one.
"""

from __future__ import annotations

import threading
from time import monotonic

from eventdb.config import GATHER_LONGEST_S, GATHER_PAUSE_GROUPS
from eventdb.errors import EventDBError, OutcomeUnknown, PoisonedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.storage.commit.together import Row
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.transaction import WriteTransaction

DECLINED = -1


class _Ticket:
    __slots__ = ("done", "error", "following", "leads", "offset", "row", "wake")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.offset = DECLINED
        self.error: BaseException | None = None
        self.done = False
        self.following: _Ticket | None = None  # whom it made the leader
        self.leads = False  # set under the group's lock
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit:
    """`append` from any thread. `write` opens a transaction of the store, `together` is its append_together(), and
    `gathers` says that a commit takes long enough to wait for company.

    `takes_all` says that rows wait or are being committed, or that company is expected: then nobody may pass by taking
    the writer directly, or one busy thread would keep the group waiting and flush for every row of its own.
    """

    def __init__(
        self, write: Callable[[], WriteTransaction], together: Callable[[Callable[[], Sequence[Row]]], list[int]],
        *, gathers: bool
    ) -> None:  # fmt: skip
        self._write = write
        self._together = together
        self._gathers = gathers
        self._lock = threading.Lock()
        self._queue: list[_Ticket] = []
        self._has_leader = False
        self._gatherer: _Ticket | None = None  # the leader, while it waits for company
        self._expected = 1  # rows of the next group
        self._commit_s = 0.0  # what the last commit took
        self._pause = 0  # groups that do not gather any more, since one was not complete
        self._next_pause = 1
        self.takes_all = False

    def append(self, log: PartitionLog, row: tuple[Any, ...], key: bytes | None = None) -> int:
        """The offset of the row, committed; DECLINED, nothing done, if a table's row, which has a `key`, must go
        another way. Errors as WriteTransaction; OutcomeUnknown reaches every thread of the group."""
        ticket = _Ticket((log, row, key))
        try:
            self._enter(ticket)
            while not ticket.done:
                if not ticket.leads:
                    ticket.wake.acquire()  # until it is done, or it is its turn to lead
                elif self._gatherer is ticket:
                    self._gather(ticket)
                else:
                    self._lead(ticket)
        finally:
            # Ctrl-C may come at any call above. A row that a leader has taken already is stored all the same.
            try:
                self._exit(ticket)
            except BaseException:  # and once more here
                self._exit(ticket)
                raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.offset

    def _enter(self, ticket: _Ticket) -> None:
        """The row is in the queue. It leads if nobody does, or if it is the last one that was waited for."""
        with self._lock:
            self.takes_all = True
            self._queue.append(ticket)
            waiting = self._gatherer
            if not self._has_leader:
                self._has_leader = ticket.leads = True
                if len(self._queue) < self._expected:
                    self._gatherer = ticket
            elif waiting is not None and len(self._queue) >= self._expected:
                waiting.leads, ticket.leads, self._gatherer = False, True, None
                self._next_pause = 1

    def _gather(self, ticket: _Ticket) -> None:
        """Those who are expected have come and one of them leads, or this one does without the rest."""
        if ticket.wake.acquire(timeout=min(self._commit_s, GATHER_LONGEST_S)):
            return
        with self._lock:
            if self._gatherer is ticket:
                self._gatherer = None
                self._pause = self._next_pause
                self._next_pause = min(2 * self._next_pause, GATHER_PAUSE_GROUPS)

    def _exit(self, ticket: _Ticket) -> None:
        """The ticket does not wait; if it led, the next one does. May be called twice."""
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
            if ticket.leads:
                is_complete = len(self._queue) >= self._expected
                # No call from here to the last line: Ctrl-C finds either none of it done or all of it.
                self._gatherer = None
                if self._queue:
                    ticket.following = self._queue[0]
                    ticket.following.leads = True
                    if not is_complete:
                        self._gatherer = ticket.following
                else:
                    self._has_leader = False
                    self.takes_all = self._expected > 1
                ticket.leads = False
        if ticket.following is not None:
            _wake(ticket.following)

    def _lead(self, own: _Ticket) -> None:
        """Commits everything that waits once the writer is free: whoever came while it was not, rides along."""
        started = monotonic()
        taken: list[_Ticket] = []
        try:
            offsets = self._together(lambda: self._take(taken))
            for ticket, offset in zip(taken, offsets, strict=True):
                ticket.offset = offset
            rest = [ticket for ticket in taken if ticket.offset < 0 and ticket.row[2] is None]
            if rest:
                self._commit(rest)
        except BaseException as error:
            if not taken:  # the writer was not to be had: the others try for themselves
                with self._lock:
                    self._queue.remove(own)
                raise
            self._fail(taken, error)
            if not isinstance(error, EventDBError):
                raise
        finally:
            try:
                self._finish(taken, started)
            except BaseException:  # Ctrl-C in the middle of it
                self._finish(taken, started)
                raise

    def _take(self, taken: list[_Ticket]) -> list[Row]:
        with self._lock:
            taken += self._queue
            self._queue = []
        return [ticket.row for ticket in taken]

    def _commit(self, rest: list[_Ticket]) -> None:
        """A transaction commits the rows, no table's among them."""
        transaction = self._write()
        try:
            with transaction:
                offsets = [transaction.append_row(*ticket.row[:2]) for ticket in rest]
            for ticket, offset in zip(rest, offsets, strict=True):
                ticket.offset = offset
        except BaseException:
            transaction.abandon()
            raise

    def _finish(self, taken: list[_Ticket], started: float) -> None:
        """Those who were taken are told, and how many are expected next is known. May be called twice."""
        with self._lock:
            self._commit_s = monotonic() - started
            if self._pause:
                self._pause -= 1
            self._expected = len(taken) + len(self._queue) if self._gathers and not self._pause else 1
        for ticket in taken:
            ticket.done = True
        for ticket in taken:
            _wake(ticket)

    def _fail(self, taken: list[_Ticket], error: BaseException) -> None:
        """Nothing of what has no offset was stored, or nobody knows: then all are told; else each is tried alone."""
        left = [ticket for ticket in taken if ticket.offset < 0]
        alone = isinstance(error, EventDBError) and not isinstance(error, OutcomeUnknown | PoisonedError)
        if not isinstance(error, Exception):
            error = OutcomeUnknown(
                f"the commit was interrupted ({type(error).__name__}): it may or may not have happened"
            )
        for ticket in left:
            log, row, key = ticket.row
            if not alone or len(left) == 1:
                ticket.error = error
            elif key is None:  # a table's row goes another way
                try:
                    with self._write() as transaction:
                        offset = transaction.append_row(log, row)
                    ticket.offset = offset
                except EventDBError as own:
                    ticket.error = own


def _wake(ticket: _Ticket) -> None:
    """Whoever waits for the ticket, or will, looks at it again."""
    if ticket.wake.locked():
        ticket.wake.release()
