"""CircuitSubscriber: the changes of a query of any shape, pushed as commits happen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import TokenExpired, UnsupportedError, UsageError, ViewFailed
from eventdb.logical.expressions import ColumnRef
from eventdb.logical.plan import Aggregate, Distinct, Filter, Plan, Project, Scan
from eventdb.stream.circuit.arrangement import LaneTable
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import difference, merged, weights_of
from eventdb.stream.circuit.past import begin_of, past_snapshot, query_at
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec, caught_up
from eventdb.stream.emission import DELETE, INSERT, UPDATE_AFTER, UPDATE_BEFORE, Changes
from eventdb.stream.feed import Feed, FeedOptions
from eventdb.stream.token import Place, Positions

if TYPE_CHECKING:
    from eventdb.storage.store import Store

WORDS = ("snapshot", "earliest", "latest")
AT_ONCE_ROWS = 4 * MORSEL_ROWS  # are taken in together
_FEW_STRINGS = 1 << 16  # are kept from one change to the next


class CircuitSubscriber(Feed):
    """`start` 'snapshot' and 'earliest': the content at the first read as +I, then changes. 'latest': the changes after
    the first read. All rows of one commit are taken in together. The offset of a change is the id of the commit it was
    seen at: the inputs have no common offset. `options.after` goes on from a token instead; TokenExpired at the first
    read if rows are gone that it takes."""

    def __init__(
        self, store: Store, spec: CircuitSpec, start: str | int | dt.datetime = "snapshot",
        options: FeedOptions = FeedOptions(),  # noqa: B008
    ) -> None:  # fmt: skip
        if start not in WORDS:
            if isinstance(start, bool) or not isinstance(start, int | dt.datetime):
                raise UsageError(f"start is {', '.join(map(repr, WORDS))}, an offset or a datetime, not {start!r}")
            raise UnsupportedError(
                f"a subscription to a query over {', '.join(spec.inputs.values())} from {start!r} on: its rows have no "
                "common offset or time; begin with 'snapshot' or 'latest'",
                construct="start",
            )
        super().__init__(store, [field.type for field in spec.fields], options)
        self._spec = spec
        self._begin: Positions = ()
        self._start = start
        self._query: CircuitQuery | None = None
        self._given = 0  # rows of closed windows
        self._key = unique_columns(spec.plan, spec.primary_key)
        self._make_codecs()

    def _make_codecs(self) -> None:
        """New ones, which know no strings: numbers of rows are of use within one change only."""
        self._interner = Interner()
        self._codec = RowCodec(self._types, self._interner)
        self._key_codec = RowCodec([self._types[i] for i in self._key or ()], Interner())

    @property
    def names(self) -> tuple[str, ...]:
        return self._spec.names

    def _is_done(self) -> bool:
        return True  # each look takes in all there is

    def _reached(self) -> Place | None:
        if self._query is not None and self._spec.closing is not None:
            return Place(self._begin, None, self._query.positions, output=self._given)
        return None if self._query is None else Place(self._begin, self._query.positions, self._query.positions)

    def in_order(self, changes: Changes) -> Changes:
        return changes.ordered()

    def _look(self, first: bool) -> bool:
        with self._store.snapshot() as snapshot:
            if self._query is None:
                self._query = self._first_query(snapshot)
            elif not self._query.is_behind(snapshot):
                return False
            if self._query.is_behind(snapshot):
                before = self._query.positions
                made = self._advanced(self._query, snapshot)
                self._query = query = self._query.without_lost_strings()
                if self._options.repeat and self._summed(made):
                    self._queue(query.content(snapshot), None, query.positions, snapshot.commit_id)
                else:
                    self._queue(made, before, query.positions, snapshot.commit_id)
        return True

    def _advanced(self, query: CircuitQuery, snapshot: Any) -> list[RecordBatch]:
        """The changes up to the snapshot. Many rows are taken in a morsel at a time, and what they change is summed up
        meanwhile: whoever comes late needs no more memory. `_query` takes in the rest."""
        if self._spec.closing is not None or query.lag_rows(snapshot) <= AT_ONCE_ROWS:
            return list(query.advance(snapshot, at_once=True))
        before = query.positions
        made: list[RecordBatch] = []
        held = 0
        try:
            for change in query.advance(snapshot):
                made.append(change)
                held += change.row_count
                if held > AT_ONCE_ROWS:
                    made = self._summed(made)
                    held = max(sum(change.row_count for change in made) // 2, 1)
        except ViewFailed as error:  # on a state on the way, perhaps, that no snapshot has
            try:
                query = query_at(self._spec, snapshot, self._begin, before, content=self._options.repeat)
            except TokenExpired:
                raise error from None
            made = list(query.advance(snapshot, at_once=True))
            self._query = query
        return made

    def _let_go_of_content(self, query: CircuitQuery) -> None:
        if not self._options.repeat:
            query.drop_content()

    def _summed(self, made: list[RecordBatch]) -> list[RecordBatch]:
        change = difference(self.names, self._codec, [], made)
        return [] if change is None else [change]

    def _first_query(self, snapshot: Any) -> CircuitQuery:
        """The query at the starting point; queues its content where that is asked for."""
        if self._options.after is not None:
            return self._resumed(self._options.after, snapshot)
        loaded = CircuitQuery.load(self._spec, snapshot)
        self._begin = begin_of(loaded, snapshot)
        query = caught_up(self._spec, loaded, snapshot)
        content = list(query.content(snapshot))
        self._let_go_of_content(query)
        if self._spec.closing is not None and self._start == "latest":
            self._given = sum(batch.row_count for batch in content)
        elif self._start != "latest":
            self._queue(content, None, query.positions, snapshot.commit_id)
        return query

    def _resumed(self, place: Place, snapshot: Any) -> CircuitQuery:
        """The query at a token's place; queues what is left of the changes the token lies in."""
        self._begin, spec = place.begin, self._spec
        if spec.closing is not None:
            return self._resumed_windows(place, snapshot)
        if place.before is None:
            query = query_at(spec, snapshot, place.begin, place.after, content=True)
            made = list(query.content(snapshot))
            self._let_go_of_content(query)
        else:
            query = query_at(spec, snapshot, place.begin, place.before, content=self._options.repeat)
            made = []
            if place.taken:
                made = list(query.advance(past_snapshot(spec, snapshot, place.after), at_once=True))
        self._queue(made, place.before, query.positions, snapshot.commit_id, place.taken)
        return query

    def _resumed_windows(self, place: Place, snapshot: Any) -> CircuitQuery:
        """Rows of closed windows have one order, in which the token counts them."""
        loaded = CircuitQuery.load(self._spec, snapshot)
        if begin_of(loaded, snapshot) != place.begin and self._spec.id < 0:
            raise TokenExpired(
                "rows of the topics were removed that the changes before the token followed from: subscribe again with "
                "SNAPSHOT"
            )
        query = caught_up(self._spec, loaded, snapshot)
        content = list(query.content(snapshot))
        self._let_go_of_content(query)
        count = sum(batch.row_count for batch in content)
        if count < place.output:
            raise TokenExpired(
                f"the token has seen {place.output} rows, and there are {count}: what was not yet on the disk when the "
                "power failed is gone; subscribe again with SNAPSHOT"
            )
        self._queue(content, None, query.positions, snapshot.commit_id, place.output)
        return query

    def _queue(
        self, made: Sequence[RecordBatch], before: Positions | None, after: Positions, commit_id: int, taken: int = 0
    ) -> None:
        """Queues the sum of some changes, but for those that were handed out before."""
        if self._spec.closing is not None:
            closed = merged(self.names, made)  # in the order of their windows' ends
            self._given += taken
            if closed is not None and closed.row_count > taken:
                rows = closed.slice(taken, closed.row_count)
                changes = Changes.inserted(rows, [commit_id] * rows.row_count)
                self._ready.append((changes, Place(self._begin, None, after, output=self._given)))
                self._given += rows.row_count
            return
        change = difference(self.names, self._codec, [], made)
        if change is None:
            return
        changes = self._changes(change, commit_id)
        if len(self._interner) > _FEW_STRINGS:
            self._make_codecs()
        if taken:
            changes = changes.ordered().rest(taken)
        if len(changes):
            self._ready.append((changes, Place(self._begin, before, after, taken=taken)))

    def _changes(self, change: RecordBatch, commit_id: int) -> Changes:
        """A change, each row of which is there once, as rows that came, went or took another's place."""
        weights = weights_of(change)
        rows = np.arange(change.row_count)
        ops = np.where(weights > 0, INSERT, DELETE).astype(np.uint8)
        if self._key is not None:
            columns = [change.columns[i] for i in self._key]
            table = LaneTable(self._key_codec.lane_count)
            lanes = self._key_codec.encode(columns, change.row_count)
            numbers = table.enter(lanes, np.ones(change.row_count, dtype=bool))
            both = np.bincount(numbers, minlength=len(table))[numbers] == 2  # an old row and a new one
            ops[both] = np.where(weights[both] > 0, UPDATE_AFTER, UPDATE_BEFORE)
            rows = np.lexsort((weights, numbers))
        else:
            rows = np.argsort(weights > 0, kind="stable")  # those that go first
        rows = np.repeat(rows, np.abs(weights[rows]))
        picked = change.take(rows)
        picked = RecordBatch(self.names, picked.columns, len(rows), np.sign(weights[rows]))
        return Changes(picked, ops[rows], [commit_id] * len(rows))


def unique_columns(plan: Plan, primary_key: Callable[[int], Sequence[str]]) -> tuple[int, ...] | None:
    """Positions of columns no two rows of a plan have in common, where that is plain to see; None elsewhere.
    `primary_key` gives the names of a table's key columns by its id, none for a topic."""
    if isinstance(plan, Aggregate):
        return tuple(range(len(plan.keys)))
    if isinstance(plan, Distinct):
        return tuple(range(len(plan.fields)))
    if isinstance(plan, Filter):
        return unique_columns(plan.input, primary_key)
    if isinstance(plan, Scan):
        names = primary_key(plan.topic_id)
        return tuple(map(plan.columns.index, names)) if names and set(names) <= set(plan.columns) else None
    if isinstance(plan, Project):
        below = unique_columns(plan.input, primary_key)
        places = {e.index: i for i, e in reversed(list(enumerate(plan.expressions))) if isinstance(e, ColumnRef)}
        return None if below is None or any(i not in places for i in below) else tuple(places[i] for i in below)
    return None
