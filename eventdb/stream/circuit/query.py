"""A continuous query of any shape over topics and tables: its circuit, its inputs and how far they were taken in.

Its state is in memory. What a maintainer has stored of it is where others begin.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eventdb.batch import RecordBatch
from eventdb.config import MIB, MORSEL_ROWS
from eventdb.errors import EvaluationError, InternalError, MemoryLimitExceeded, OffsetOutOfRange, ViewFailed
from eventdb.logical.plan import Fields, Plan, Scan
from eventdb.physical.context import QueryContext
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.content import Content
from eventdb.stream.circuit.inputs import Input, TableInput, TopicInput
from eventdb.stream.circuit.node import Change, merged
from eventdb.stream.circuit.part import Part
from eventdb.stream.circuit.stored import CircuitKeys, Progress, fingerprint, scans

_FEW_STRINGS = 1 << 16  # are kept, whether a row has them or not

_CHECK_ROWS = 512  # looking at the size of the state takes longer than taking in a row


@dataclass(frozen=True, slots=True, eq=False)
class CircuitSpec:
    """`id` is the view's, -1 for a query nobody stores. `logs` gives the logs of a topic's partitions, `topic_key` the
    name of its key column. The state may hold `limit_bytes`. `sink`: where changes of the rows go, too."""

    id: int
    name: str
    plan: Plan
    logs: Callable[[int], Sequence[Any]]
    topic_key: Callable[[int], str | None]
    limit_bytes: int
    sink: Any = None

    @property
    def fields(self) -> Fields:
        return self.plan.fields

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.plan.fields)

    @property
    def keys(self) -> CircuitKeys:
        if self.id < 0:
            raise InternalError(f"{self.name} is not a stored view")
        return CircuitKeys(self.id, fingerprint(self.plan))

    @property
    def inputs(self) -> dict[int, str]:
        """The topics and tables it reads: names by id."""
        return {scan.topic_id: scan.name for scan in scans(self.plan)}

    def lag_rows(self, snapshot: Any, progress: Progress | None) -> int:
        """How many rows the inputs have that are not in the stored state."""
        query = CircuitQuery(self)
        for one, reached in zip(
            query.inputs, () if progress is None else progress.positions, strict=progress is not None
        ):
            one.positions = list(reached)
        return query.lag_rows(snapshot)

    def primary_key(self, topic_id: int) -> tuple[str, ...]:
        """The names of a table's key columns; none for a topic."""
        log = self.logs(topic_id)[0]
        return tuple(log.schema.fields[i].name for i in getattr(log, "primary_key", ()))


class CircuitQuery:
    """The state of one query, at first before anything was taken in. Not thread-safe. After `advance` has raised, throw
    it away."""

    def __init__(self, spec: CircuitSpec) -> None:
        self._spec = spec
        self.circuit = Circuit(spec.plan, lambda topic_id: not spec.primary_key(topic_id))
        self._context = QueryContext(topic_key=spec.topic_key)
        self.inputs = [self._input(scan) for scan in self.circuit.inputs]
        self._string_limit = self._least_strings = min(_FEW_STRINGS, spec.limit_bytes // 400)
        self._content: Content | None = Content(self.circuit.names, self.circuit.codec)
        self._begun = False
        self._unchecked = 0  # rows taken in since the size of the state was looked at

    def _input(self, scan: object) -> Input:
        if not isinstance(scan, Scan):
            raise InternalError(f"{scan} cannot be an input")
        logs = self._spec.logs(scan.topic_id)
        if self._spec.primary_key(scan.topic_id):
            return TableInput(scan, logs[0], self._context, self.circuit.interner)
        return TopicInput(scan, logs, self._context)

    @property
    def nbytes(self) -> int:
        own = self.circuit.nbytes + sum(one.nbytes for one in self.inputs)
        return own if self._content is None else own + self._content.nbytes

    @property
    def has_begun(self) -> bool:
        """Whether anything was taken in, here or by who stored it."""
        return self._begun

    @property
    def positions(self) -> tuple[tuple[int, ...], ...]:
        """Per input, per partition, the offset of the next row to take in; -1 before the first."""
        return tuple(tuple(one.positions) for one in self.inputs)

    @property
    def parts(self) -> list[Part]:
        """Its state, to be stored, beside the positions."""
        own = [] if self._content is None else [self._content.rows]
        return [*self.circuit.parts, *(part for one in self.inputs for part in one.parts), *own]

    @staticmethod
    def load(spec: CircuitSpec, snapshot: Any) -> CircuitQuery:
        """The query as stored in a snapshot, content and all; before anything was taken in if it is not."""
        query = CircuitQuery(spec)
        progress = spec.keys.progress(snapshot) if spec.id >= 0 else None
        if progress is None or list(map(len, progress.positions)) != list(map(len, query.positions)):
            return query
        spec.keys.load(snapshot, query.parts)
        query.go_on(progress.positions)
        return CircuitQuery(spec) if query.is_past(snapshot) else query

    def is_past(self, snapshot: Any) -> bool:
        """Whether it has taken in what the snapshot does not have."""
        return any(one.is_past(snapshot) for one in self.inputs)

    def is_behind(self, snapshot: Any) -> bool:
        """Whether the snapshot has what it has not taken in."""
        return not self._begun or any(one.is_behind(snapshot) for one in self.inputs)

    def lag_rows(self, snapshot: Any) -> int:
        """How many rows the snapshot has that it has not taken in."""
        return sum(one.lag_rows(snapshot) for one in self.inputs)

    def is_cut_off(self, snapshot: Any) -> bool:
        """Whether it cannot go on: rows it has not taken in are gone."""
        return any(one.is_cut_off(snapshot) for one in self.inputs)

    def advance(self, snapshot: Any, row_limit: int | None = None, *, at_once: bool = False) -> Iterator[RecordBatch]:
        """Takes in what the snapshot has more; the changes of the result that it makes. Many rows are taken in a morsel
        at a time, unless `at_once`; then it stops early after `row_limit` rows, where it can go on from there.

        ViewFailed when a value breaks an expression or rows of an input are gone, MemoryLimitExceeded when the state
        would be larger than it may be. A state on the way may break what that of the snapshot does not, such as a
        division by a count; it is not passed if all is taken in at once.
        """
        behind = [(i, one) for i, one in enumerate(self.inputs) if one.is_behind(snapshot)]
        if at_once or sum(one.lag_rows(snapshot) for _, one in behind) <= MORSEL_ROWS:
            with self._failing([one for _, one in behind]):
                made = {i: merged(one.names, list(one.changes(snapshot))) for i, one in behind}
                self._begun = True
                yield from self._step({i: change for i, change in made.items() if change is not None})
            return
        if not self._begun:
            self._begun = True
            with self._failing([]):
                yield from self._step({})
        taken = 0
        for i, one in behind:
            with self._failing([one]):
                for change in one.changes(snapshot):
                    yield from self._step({i: change})
                    taken += change.row_count
                    if row_limit is not None and taken >= row_limit and one.can_stop:
                        return

    @contextmanager
    def _failing(self, inputs: Sequence[Input]) -> Iterator[None]:
        """Turns errors while the inputs are taken in into ViewFailed."""
        what = ", ".join(f"{one.name} from offset {max(one.positions[0], 0)} on" for one in inputs)
        try:
            yield
        except OffsetOutOfRange as error:
            raise ViewFailed(f"{self._label} cannot go on: {error}", view=self._spec.name) from error
        except EvaluationError as error:
            raise ViewFailed(
                f"{self._label} cannot take in {what or 'that there are no rows'}: {error.message}",
                view=self._spec.name, topic=inputs[0].name if len(inputs) == 1 else "",
            ) from error  # fmt: skip

    def _step(self, changes: dict[int, RecordBatch]) -> Iterator[RecordBatch]:
        change: Change = self.circuit.step(changes)
        if change is not None:
            if self._content is not None:
                self._content.apply(change)
            yield change
        self._unchecked += sum(rows.row_count for rows in changes.values())
        if self._unchecked >= _CHECK_ROWS:
            self._unchecked = 0
            self._check_size()

    def _check_size(self) -> None:
        if self.nbytes > self._spec.limit_bytes:
            raise MemoryLimitExceeded(
                f"{self._label} keeps {self.nbytes / MIB:.1f} MB of state, more than it may "
                f"({self._spec.limit_bytes / MIB:.1f} MB): give it a larger STATE LIMIT, open the database with a "
                "larger memory_limit, or let it keep less (a WHERE clause, fewer columns)"
            )

    @property
    def _label(self) -> str:
        return f"view {self._spec.name!r}" if self._spec.name else "the query"

    def without_lost_strings(self) -> CircuitQuery:
        """The same query, but for strings that no row has any more, when there may be many. It notes no changes."""
        if len(self.circuit.interner) <= self._string_limit:
            return self
        query = CircuitQuery(self._spec)
        if self._content is None:
            query.drop_content()
        for own, part in zip(self.parts, query.parts, strict=True):
            data = own.whole()
            if data is not None:
                part.restore(data)
        query.go_on(self.positions)
        query._string_limit = max(self._least_strings, 2 * len(query.circuit.interner))
        return query

    def go_on(self, positions: Sequence[Sequence[int]]) -> None:
        """All parts were restored, as they were at some positions."""
        for one, reached in zip(self.inputs, positions, strict=True):
            one.positions = list(reached)
        self.circuit.settle()
        self._begun = True

    def drop_content(self) -> None:
        """Nobody will ask for it any more."""
        self._content = None

    def content(self) -> RecordBatch:
        """All rows of the result."""
        assert self._content is not None
        return self._content.batch()


class CircuitReader:
    """The circuits of one database as this process reads them. Thread-safe; reads of one view take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[int, _Kept] = {}

    def content(self, spec: CircuitSpec, snapshot: Any, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The view's rows at the snapshot, its `columns` only. Errors as `CircuitQuery.advance`."""
        with self._lock:
            kept = self._views.get(spec.id)
            if kept is None or kept.spec is not spec:
                kept = self._views[spec.id] = _Kept(spec)
        names = [name.lower() for name in spec.names]
        positions = [names.index(column.lower()) for column in columns]
        batch = kept.content(snapshot).select(positions, columns)
        for start in range(0, batch.row_count, MORSEL_ROWS):
            yield batch.slice(start, start + MORSEL_ROWS)

    def state_bytes(self, view_id: int) -> int:
        """What is kept of a view in this process."""
        with self._lock:
            kept = self._views.get(view_id)
        return 0 if kept is None else kept.nbytes

    def forget(self, view_id: int) -> None:
        """Frees what is kept of a view."""
        with self._lock:
            self._views.pop(view_id, None)


class _Kept:
    """One view's query in memory."""

    def __init__(self, spec: CircuitSpec) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._query: CircuitQuery | None = None

    @property
    def nbytes(self) -> int:
        query = self._query
        return 0 if query is None else query.nbytes

    def content(self, snapshot: Any) -> RecordBatch:
        with self._lock:
            query = self._query
            if query is not None and query.is_past(snapshot):
                # An older snapshot than what is kept: it is answered from its own state, what there is stays.
                return caught_up(self.spec, None, snapshot).content()
            self._query = None  # if it fails it is gone
            if query is not None and query.is_cut_off(snapshot):
                query = None  # what is stored may be further on
            query = self._query = caught_up(self.spec, query, snapshot).without_lost_strings()
            return query.content()


def caught_up(spec: CircuitSpec, query: CircuitQuery | None, snapshot: Any) -> CircuitQuery:
    """The query, which is lost, or what is stored of it, with all that the snapshot has. Errors as `advance`."""
    query = query or CircuitQuery.load(spec, snapshot)
    if query.is_behind(snapshot):
        try:
            deque(query.advance(snapshot), 0)
        except ViewFailed:
            query = CircuitQuery.load(spec, snapshot)
            deque(query.advance(snapshot, at_once=True), 0)
    return query


def wait_for_circuit(store: Any, spec: CircuitSpec, timeout_s: float | None, failure: Callable[[], str | None]) -> bool:
    """Whether the stored state includes all that was committed before the call, waiting for it up to `timeout_s` (None:
    for ever). `failure` as in wait_for_view."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with store.snapshot() as snapshot:
        ends = [snapshot.offsets(log)[1] for one in CircuitQuery(spec).inputs for log in one.logs]
    while True:
        commit_id = store.commit_id()
        with store.snapshot() as snapshot:
            progress = spec.keys.progress(snapshot)
        if progress is not None and all(
            position >= end
            for position, end in zip((at for one in progress.positions for at in one), ends, strict=True)
        ):
            return True
        text = failure()
        if text is not None:
            raise ViewFailed(text, view=spec.name)
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        store.wait(commit_id, 0.1 if left is None else min(left, 0.1))
