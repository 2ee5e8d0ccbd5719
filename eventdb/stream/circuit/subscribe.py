"""CircuitSubscriber: the changes of a query of any shape, pushed as commits happen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import UnsupportedError, UsageError
from eventdb.logical.expressions import ColumnRef
from eventdb.logical.plan import Aggregate, Distinct, Filter, Plan, Project, Scan
from eventdb.stream.circuit.arrangement import LaneTable
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import difference, merged, weights_of
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec, caught_up
from eventdb.stream.emission import DELETE, INSERT, UPDATE_AFTER, UPDATE_BEFORE, Changes
from eventdb.stream.feed import Feed

if TYPE_CHECKING:
    from eventdb.storage.store import Store

WORDS = ("snapshot", "earliest", "latest")


class CircuitSubscriber(Feed):
    """`start` 'snapshot' and 'earliest': the content at the first read as +I, then changes. 'latest': the changes after
    the first read. All rows of one commit are taken in together. The offset of a change is the id of the commit it was
    seen at: the inputs have no common offset."""

    def __init__(self, store: Store, spec: CircuitSpec, start: str | int | dt.datetime = "snapshot") -> None:
        if start not in WORDS:
            if isinstance(start, bool) or not isinstance(start, int | dt.datetime):
                raise UsageError(f"start is {', '.join(map(repr, WORDS))}, an offset or a datetime, not {start!r}")
            raise UnsupportedError(
                f"a subscription to a query over {', '.join(spec.inputs.values())} from {start!r} on: its rows have no "
                "common offset or time; begin with 'snapshot' or 'latest'",
                construct="start",
            )
        super().__init__(store)
        self._spec = spec
        self._start = start
        self._query: CircuitQuery | None = None
        self._codec = RowCodec([field.type for field in spec.fields], Interner())
        self._key = unique_columns(spec.plan, spec.primary_key)
        self._key_codec = RowCodec([spec.fields[i].type for i in self._key or ()], Interner())

    @property
    def names(self) -> tuple[str, ...]:
        return self._spec.names

    def _is_done(self) -> bool:
        return True  # each look takes in all there is

    def _look(self, first: bool) -> bool:
        with self._store.snapshot() as snapshot:
            is_first = self._query is None
            if self._query is None:
                query = caught_up(self._spec, None, snapshot)
                made = list(query.content(snapshot))
                query.drop_content()
                self._query = query
            elif self._query.is_behind(snapshot):
                made = list(self._query.advance(snapshot, at_once=True))
                self._query = self._query.without_lost_strings()
            else:
                return False
            if self._spec.closing is not None:
                closed = merged(self.names, made)  # in the order of their windows' ends
                if closed is not None and not (is_first and self._start == "latest"):
                    self._ready.append(Changes.inserted(closed, [snapshot.commit_id] * closed.row_count))
                return True
            change = difference(self.names, self._codec, [], made)
            if change is not None and not (is_first and self._start == "latest"):
                self._ready.append(self._changes(change, snapshot.commit_id))
        return True

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
