"""Subscriber: the changes of a view, a topic or a query, pushed as commits happen.

It runs a query of its own: woken by a commit it reads the new rows, advances, and hands out what changed. So it waits
for no other thread or process than the one that appended, and several subscribers do not disturb each other.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError, InvalidToken, OffsetOutOfRange, TokenExpired, UsageError, ViewFailed
from eventdb.storage.segment.tail import LogTail
from eventdb.stream.continuous_query import ContinuousQuery, breaking_position
from eventdb.stream.emission import Changes, LatestRows
from eventdb.stream.feed import Feed, FeedOptions
from eventdb.stream.program import APPEND, UPDATE
from eventdb.stream.source import InputRows
from eventdb.stream.token import Place
from eventdb.stream.view import ViewSpec, load_query, new_query, view_failure
from eventdb.stream.watermark import LOWEST_US
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
    'snapshot' and 'earliest' are the content. `options.after` goes on from a token instead; TokenExpired at the first
    read if rows are gone that it takes. One thread reads; any thread may close.
    """

    def __init__(
        self, store: Store, spec: ViewSpec, start: str | int | dt.datetime = "snapshot",
        options: FeedOptions = FeedOptions(),  # noqa: B008
    ) -> None:  # fmt: skip
        if start not in WORDS and (isinstance(start, bool) or not isinstance(start, int | dt.datetime)):
            raise UsageError(f"start is {', '.join(map(repr, WORDS))}, an offset or a datetime, not {start!r}")
        super().__init__(store, [field.type for field in spec.program.fields], options)
        self._spec = spec
        self._start = start
        self._query: ContinuousQuery | None = None
        self._seen_end = 0
        self._first = False
        self._goal = 0  # the end of the topic when a `read` first looked
        self._catch_up_to = -1  # rows below it are taken in without handing out changes
        self._hold_until = -1  # no revisions are handed out before this offset
        self._everything = False  # the next revisions are against nothing: the content itself
        self._shows_content = start == "snapshot" and options.after is None  # which is handed out
        self._latest: LatestRows | None = None
        self._origin = -1  # the first row that counts; -1: where the stored view began
        self._stored: tuple[int, int] | None = None  # rows of the output topic that are still to be handed out
        self._output = -1  # how many rows of the output topic were handed out or passed over; -1: not known
        self._skip = 0  # so many changes that come next were handed out before
        self._handed = 0  # the offset up to which revisions were handed out

    @property
    def names(self) -> tuple[str, ...]:
        return self._spec.program.names

    @property
    def offset(self) -> int:
        """The next row of the topic it will take in; 0 before the first read."""
        return 0 if self._query is None else self._query.input_offset

    @property
    def _watermark_us(self) -> int:
        return LOWEST_US if self._query is None else self._query.watermark_us

    def in_order(self, changes: Changes) -> Changes:
        return changes.ordered() if self._spec.program.emission == UPDATE else changes

    def _look(self, first: bool) -> bool:
        self._first = first
        query = self._query
        ready = query is not None and self._stored is None
        tail = self._store.tail(self._spec.input_log, query.input_offset) if ready and query is not None else None
        if tail is not None and query is not None:
            return self._step_in(query, tail)
        with self._store.snapshot() as snapshot:
            return self._step(snapshot)

    def _is_done(self) -> bool:
        return self._stored is None and self.offset >= self._goal

    def _reached(self) -> Place | None:
        query = self._query
        if query is None:
            return None
        offset = self._handed if self._latest is not None else query.input_offset
        return self._place_at(offset, offset, self._output)

    def _place_at(self, before: int | None, after: int, output: int = -1) -> Place:
        return Place(((self._origin,),), None if before is None else ((before,),), ((after,),), output)

    def _step(self, snapshot: StoreSnapshot) -> bool:
        """Takes in some rows and queues their changes; False when there are no new rows."""
        query = self._query
        if query is None:
            query = self._query = self._begin(snapshot, *snapshot.offsets(self._spec.input_log))
        if self._stored is not None and self._spec.output_log is not None:
            self._note_end(snapshot)
            self._queue_stored(snapshot, query, self._spec.output_log, *self._stored)
            return True
        return self._step_in(query, snapshot)

    def _note_end(self, snapshot: StoreSnapshot | LogTail) -> int:
        end = self._seen_end = snapshot.offsets(self._spec.input_log)[1]
        if self._first:
            self._goal = end
        return end

    def _step_in(self, query: ContinuousQuery, snapshot: StoreSnapshot | LogTail) -> bool:
        spec = self._spec
        end = self._note_end(snapshot)
        start = query.input_offset
        stop = min(end, start + MORSEL_ROWS)
        silent = start < self._catch_up_to
        if silent:
            stop = min(stop, self._catch_up_to)
        elif start < self._hold_until:
            stop = min(stop, self._hold_until)
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
        """The query at the starting point; notes the stored output rows that are asked for."""
        spec, start = self._spec, self._start
        if self._options.after is not None:
            return self._resume(self._options.after, snapshot, first, end)
        emission = spec.program.emission
        stored = spec.id >= 0
        point = end if start == "snapshot" else self._point(snapshot, first, end)
        query = load_query(spec, snapshot, first) if stored and start != "earliest" else None
        if query is None or query.input_offset > point:
            origin = spec.keys.start(snapshot) if stored else -1
            query = new_query(spec, max(origin, 0))
            query.skip_to(first)
            if first > origin:
                self._origin = first
        counts = spec.output_log is not None and self._origin < 0
        if emission == UPDATE:
            self._latest = LatestRows(self.names, self._types)
            if start != "earliest":
                self._catch_up_to = point
                self._everything = True
                self._queue_revisions(query, self._latest)  # of a query that is at the point already
        elif start == "snapshot":
            if query.output_end and spec.output_log is not None:
                self._stored = (0, query.output_end)
        elif start != "earliest":
            self._catch_up_to = point
            if emission == APPEND:
                counts = counts and query.input_offset >= point
                query.skip_to(point)
        if counts:
            self._output = 0 if self._stored is not None else query.output_end
        return query

    def _resume(self, place: Place, snapshot: StoreSnapshot, first: int, end: int) -> ContinuousQuery:
        """The query at a token's place: what is stored is used where it can be, else the rows are taken in again."""
        spec = self._spec
        try:
            [[self._origin]], [[after]], [[before]] = place.begin, place.after, place.before or ((None,),)
        except ValueError:
            raise InvalidToken(f"the token is of a query over other inputs than {spec.topic_name}") from None
        if after > end:
            raise TokenExpired(
                f"the token has seen {spec.topic_name} up to offset {after}, which ends at {end}: what was not yet on "
                "the disk when the power failed is gone; subscribe again with SNAPSHOT",
                topic=spec.topic_name, offset=after,
            )  # fmt: skip
        if place.output >= 0:
            query = load_query(spec, snapshot, first)
            self._output = place.output
            self._skip = max(place.output - query.output_end, 0)
            if place.output < query.output_end:
                self._stored = (place.output, query.output_end)
            return query
        point = after if before is None else before
        self._skip = place.taken
        if spec.program.emission == APPEND:
            self._require(first, point)
            return new_query(spec, point)
        loaded = load_query(spec, snapshot, first) if self._origin < 0 else None
        if loaded is None or loaded.input_offset > point:
            origin = spec.keys.start(snapshot) if self._origin < 0 else self._origin
            self._require(first, origin)
            loaded = new_query(spec, origin)
        self._catch_up_to = point
        if spec.program.emission == UPDATE:
            self._latest = LatestRows(self.names, self._types)
            self._everything, self._shows_content = True, before is None
            self._hold_until = after if place.taken else -1
            self._queue_revisions(loaded, self._latest)
        return loaded

    def _require(self, first: int, offset: int) -> None:
        """TokenExpired if rows from `offset` on are gone."""
        if offset < first:
            raise TokenExpired(
                f"offsets {offset} to {first} (exclusive) of {self._spec.topic_name} were removed, and the changes "
                "after the token follow from them: subscribe again with SNAPSHOT, and keep events longer than a "
                "subscriber may be away",
                topic=self._spec.topic_name, offset=first,
            )  # fmt: skip

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

    def _queue_stored(
        self, snapshot: StoreSnapshot, query: ContinuousQuery, log: PartitionLog, start: int, end: int
    ) -> None:
        """Queues some of the rows [start, end) of the output topic."""
        names = self._spec.program.names
        stop = min(end, start + MORSEL_ROWS)
        offset = query.input_offset
        for part in snapshot.slices(log, start, stop):
            batch = RecordBatch(names, [part.column(i) for i in range(len(names))], part.row_count)
            self._queue(Changes.inserted(batch, [offset - 1] * part.row_count), offset, offset)
        self._stored = (stop, end) if stop < end else None

    def _queue(self, changes: Changes, before: int | None, after: int) -> None:
        """Queues changes by the rows from `before` to `after`, but for those that were handed out before."""
        passed = 0
        if self._skip:
            passed = min(self._skip, len(changes))
            self._skip -= passed
            changes = self.in_order(changes).rest(passed)
        place = self._place_at(before, after, self._output)
        if self._output >= 0:
            self._output += len(changes)  # those passed over are counted
        elif passed:
            place = place.partly(passed)
        if len(changes):
            self._ready.append((changes, place))

    def _hand_on(self, query: ContinuousQuery, tail: LogTail, picked: tuple[int, ...]) -> None:
        """A few rows of a query that only picks columns: no column is made of them."""
        found = tail.rows(self._spec.input_log)
        rows = [tuple([values[i] for i in picked]) for _, _, values in found]
        offsets = [offset for offset, _, _ in found]
        before = query.input_offset
        query.skip_to(tail.start + len(rows))
        self._queue(Changes.of_rows(self.names, self._types, rows, bytes(len(rows)), offsets), before, self.offset)

    def _take_in(self, query: ContinuousQuery, rows: InputRows, silent: bool) -> None:
        before = query.input_offset
        try:
            output = query.advance(rows)
        except EvaluationError as error:
            position = breaking_position(query.program, rows)
            raise view_failure(self._spec, rows, position, error) from error
        if output is None:
            return
        if not silent:
            self._queue(Changes.inserted(output.batch, output.offsets), before, query.input_offset)
        elif self._output >= 0:
            self._output += output.batch.row_count

    def _queue_revisions(self, query: ContinuousQuery, latest: LatestRows) -> None:
        """Queues how the touched groups' rows changed; at the end of catching up, the rows of all groups."""
        groups = query.groups
        assert groups is not None
        offset = query.input_offset
        if offset < self._catch_up_to:
            groups.take_touched()
            return
        if not self._everything and offset < self._hold():
            return  # they gather
        touched = groups.ids() if self._everything else groups.take_touched()
        if self._everything:
            groups.take_touched()
        before = None if self._everything else self._handed
        shown = self._shows_content or not self._everything
        self._handed, self._everything = offset, False
        if not len(touched):
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
        if len(changes) and self._options.repeat:
            content = query.content()
            changes, before = Changes.inserted(content, [offset - 1] * content.row_count), None
        if len(changes) and shown:
            self._queue(changes, before, offset)

    def _hold(self) -> int:
        """Where the next revisions are handed out."""
        return max(self._hold_until, self._goal) if self._options.every_us else self._hold_until
