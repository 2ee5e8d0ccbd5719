"""Subscriber: the changes of a view, a topic or a query, pushed as commits happen.

It runs a query of its own: woken by a commit it reads the new rows, advances, and hands out what changed. So it waits
for no other thread or process than the one that appended, and several subscribers do not disturb each other.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError, OffsetOutOfRange, UsageError, ViewFailed
from eventdb.storage.segment.tail import LogTail
from eventdb.stream.continuous_query import ContinuousQuery, breaking_position
from eventdb.stream.emission import Changes, LatestRows
from eventdb.stream.feed import Feed
from eventdb.stream.program import APPEND, UPDATE
from eventdb.stream.source import InputRows
from eventdb.stream.view import ViewSpec, load_query, new_query, view_failure
from eventdb.values import datetime_to_us

if TYPE_CHECKING:
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.store import Store

WORDS = ("snapshot", "earliest", "latest")


class Subscriber(Feed):
    """Changes from a starting point on, in order, without a gap or a repetition.

    `start` 'snapshot': the content at the first read as +I, then changes. 'earliest': every change since the first row,
    revisions of one group folded together where many rows are taken in at once. 'latest': changes after the first read.
    An offset (negative: counted from the end) or a datetime (the first row at or after it): every change by that row
    and later ones; OffsetOutOfRange at the first read if the topic does not hold the offset. Added up, the changes of
    'snapshot' and 'earliest' are the content. One thread reads; any thread may close.
    """

    def __init__(self, store: Store, spec: ViewSpec, start: str | int | dt.datetime = "snapshot") -> None:
        if start not in WORDS and (isinstance(start, bool) or not isinstance(start, int | dt.datetime)):
            raise UsageError(f"start is {', '.join(map(repr, WORDS))}, an offset or a datetime, not {start!r}")
        super().__init__(store)
        self._spec = spec
        self._start = start
        self._query: ContinuousQuery | None = None
        self._seen_end = 0
        self._goal = 0  # the end of the topic when a `read` first looked
        self._catch_up_to = -1  # rows below it are taken in without handing out changes
        self._everything = False  # the next revisions are against nothing: the content itself
        self._latest: LatestRows | None = None
        self._types = [field.type for field in spec.program.fields]

    @property
    def names(self) -> tuple[str, ...]:
        return self._spec.program.names

    @property
    def offset(self) -> int:
        """The next row of the topic it will take in; 0 before the first read."""
        return 0 if self._query is None else self._query.input_offset

    def _look(self, first: bool) -> bool:
        query = self._query
        tail = None if query is None else self._store.tail(self._spec.input_log, query.input_offset)
        if tail is not None and query is not None:
            moved = self._step_in(query, tail)
        else:
            with self._store.snapshot() as snapshot:
                moved = self._step(snapshot)
        if first:
            self._goal = self._seen_end
        return moved

    def _is_done(self) -> bool:
        return self.offset >= self._goal

    def _step(self, snapshot: StoreSnapshot) -> bool:
        """Takes in some rows and queues their changes; False when there are no new rows."""
        query = self._query
        if query is None:
            query = self._query = self._begin(snapshot, *snapshot.offsets(self._spec.input_log))
        return self._step_in(query, snapshot)

    def _step_in(self, query: ContinuousQuery, snapshot: StoreSnapshot | LogTail) -> bool:
        spec = self._spec
        end = self._seen_end = snapshot.offsets(spec.input_log)[1]
        start = query.input_offset
        stop = min(end, start + MORSEL_ROWS)
        silent = start < self._catch_up_to
        if silent:
            stop = min(stop, self._catch_up_to)
        if isinstance(snapshot, LogTail) and spec.program.picked is not None and not silent:
            self._hand_on(query, snapshot, spec.program.picked)
        elif stop > start:
            for rows in spec.read(snapshot, start, stop):
                self._take_in(query, rows, silent)
            query.skip_to(stop)  # the rows may end before a gap
        if self._latest is not None:
            self._queue_revisions(query, self._latest)
        return stop > start

    def _begin(self, snapshot: StoreSnapshot, first: int, end: int) -> ContinuousQuery:
        """The query at the starting point; queues the stored output rows where they are asked for."""
        spec, start = self._spec, self._start
        emission = spec.program.emission
        stored = spec.id >= 0
        point = end if start == "snapshot" else self._point(snapshot, first, end)
        query = load_query(spec, snapshot, first) if stored and start != "earliest" else None
        if query is None or query.input_offset > point:
            query = new_query(spec, spec.keys.start(snapshot) if stored else 0)
            query.skip_to(first)
        if emission == UPDATE:
            self._latest = LatestRows(spec.program.names, [field.type for field in spec.program.fields])
            if start != "earliest":
                self._catch_up_to = point
                self._everything = True
                self._queue_revisions(query, self._latest)  # of a query that is at the point already
        elif start == "snapshot":
            if spec.output_log is not None:
                self._queue_stored(snapshot, query, spec.output_log)
        elif start != "earliest":
            self._catch_up_to = point
            if emission == APPEND:
                query.skip_to(point)
        return query

    def _point(self, snapshot: StoreSnapshot, first: int, end: int) -> int:
        """The offset of the first row whose changes are handed out."""
        start, log = self._start, self._spec.input_log
        if isinstance(start, dt.datetime):
            return snapshot.find_time(log, datetime_to_us(start), first, end)
        if not isinstance(start, int):
            return first if start == "earliest" else end
        point = start if start >= 0 else max(first, end + start)
        if not first <= point <= end:
            raise OffsetOutOfRange(
                f"topic {self._spec.topic_name!r} holds offsets {first} to {end} (exclusive): start {start} is outside",
                offset=start, earliest=first, latest=end,
            )  # fmt: skip
        return point

    def _queue_stored(self, snapshot: StoreSnapshot, query: ContinuousQuery, log: PartitionLog) -> None:
        names = self._spec.program.names
        for part in snapshot.slices(log, 0, query.output_end):
            batch = RecordBatch(names, [part.column(i) for i in range(len(names))], part.row_count)
            self._ready.append(Changes.inserted(batch, [query.input_offset - 1] * part.row_count))

    def _hand_on(self, query: ContinuousQuery, tail: LogTail, picked: tuple[int, ...]) -> None:
        """A few rows of a query that only picks columns: no column is made of them."""
        found = tail.rows(self._spec.input_log)
        rows = [tuple([values[i] for i in picked]) for _, _, values in found]
        offsets = [offset for offset, _, _ in found]
        self._ready.append(Changes.of_rows(self.names, self._types, rows, bytes(len(rows)), offsets))
        query.skip_to(tail.start + len(rows))

    def _take_in(self, query: ContinuousQuery, rows: InputRows, silent: bool) -> None:
        try:
            output = query.advance(rows)
        except EvaluationError as error:
            position = breaking_position(query.program, rows)
            raise view_failure(self._spec, rows, position, error) from error
        if output is not None and not silent:
            self._ready.append(Changes.inserted(output.batch, output.offsets))

    def _queue_revisions(self, query: ContinuousQuery, latest: LatestRows) -> None:
        """Queues how the touched groups' rows changed; at the end of catching up, the rows of all groups."""
        groups = query.groups
        assert groups is not None
        touched = groups.take_touched()
        if query.input_offset < self._catch_up_to:
            return
        if self._everything:
            touched = groups.ids()
        if not len(touched):
            self._everything = False
            return
        try:
            batch, ids = query.rows_of_groups(touched)
        except EvaluationError as error:
            raise ViewFailed(
                f"{self._spec.name or 'the query'} has no rows at offset {query.input_offset - 1} of "
                f"{self._spec.topic_name}: {error.message}",
                view=self._spec.name,
                topic=self._spec.topic_name,
                offset=query.input_offset - 1,
            ) from error
        changes = latest.move(touched, batch, ids, query.input_offset - 1)
        if len(changes) and not (self._everything and self._start != "snapshot"):
            self._ready.append(changes)
        self._everything = False
