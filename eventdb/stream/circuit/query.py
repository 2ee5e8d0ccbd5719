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
from eventdb.stream.broken_rows import BrokenRow
from eventdb.stream.circuit.broken import SkippingInput, tests_of
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.closed_rows import NO_OUTPUT, ClosedTail, Closing, Output, in_order, stored_rows
from eventdb.stream.circuit.content import Content
from eventdb.stream.circuit.inputs import Input, TableInput, TopicInput
from eventdb.stream.circuit.marked_inputs import MarkedInput, MarkedInputs
from eventdb.stream.circuit.node import Change, merged
from eventdb.stream.circuit.part import Part
from eventdb.stream.circuit.stored import CircuitKeys, Progress, fingerprint, scans
from eventdb.stream.watermark import LOWEST_US

_FEW_STRINGS = 1 << 16  # are kept, whether a row has them or not

_CHECK_ROWS = 512  # looking at the size of the state takes longer than taking in a row


@dataclass(frozen=True, slots=True, eq=False)
class CircuitSpec:
    """`id` is the view's, -1 for a query nobody stores. `logs` gives the logs of a topic's partitions, `topic_key` the
    name of its key column. The state may hold `limit_bytes`. `dead_letter` is the log of the topic where rows are noted
    that it goes on without, `sink` where changes of its rows go, too. With `closing` the plan is one of
    close_windows."""

    id: int
    name: str
    plan: Plan
    logs: Callable[[int], Sequence[Any]]
    topic_key: Callable[[int], str | None]
    limit_bytes: int
    dead_letter: Any = None
    sink: Any = None
    closing: Closing | None = None

    @property
    def fields(self) -> Fields:
        return self.plan.fields if self.closing is None else self.plan.fields[:-1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def keys(self) -> CircuitKeys:
        if self.id < 0:
            raise InternalError(f"{self.name} is not a stored view")
        settings = () if self.closing is None else (self.closing.settings,)
        return CircuitKeys(self.id, fingerprint(self.plan, *settings))

    def output(self, snapshot: Any) -> Output:
        """What a snapshot has stored of the rows of closed windows."""
        progress = self.keys.progress(snapshot) if self.id >= 0 else None
        return NO_OUTPUT if progress is None else progress.output

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
        self._content: Content | None = None  # where the circuit cannot tell it
        self._told: RecordBatch | None = None
        self._marked: MarkedInputs | None = None
        self._tail: ClosedTail | None = None
        if spec.closing is None:
            if not self.circuit.tells_content:
                self._content = Content(self.circuit.names, self.circuit.codec)
        else:
            marked = [one for one in self.inputs if isinstance(one, MarkedInput)]
            self._marked = MarkedInputs(marked, spec.closing.event_times)
            self._tail = ClosedTail()
        self._begun = False
        self._unchecked = 0  # rows taken in since the size of the state was looked at

    def _input(self, scan: object) -> Input:
        if not isinstance(scan, Scan):
            raise InternalError(f"{scan} cannot be an input")
        logs = self._spec.logs(scan.topic_id)
        if self._spec.closing is not None:
            return MarkedInput(scan, logs, self._context)
        if self._spec.primary_key(scan.topic_id):
            return TableInput(scan, logs[0], self._context, self.circuit.interner)
        if self._spec.dead_letter is not None:
            return SkippingInput(scan, logs, self._context, tests_of(self._spec.plan, scan))
        return TopicInput(scan, logs, self._context)

    def note_broken(self) -> None:
        """From here on rows that are left out are noted, for `take_broken`."""
        for one in self.inputs:
            if isinstance(one, SkippingInput):
                one.is_noting = True

    def take_broken(self) -> list[BrokenRow]:
        """The rows that were left out since the last call."""
        found: list[BrokenRow] = []
        for one in self.inputs:
            if isinstance(one, SkippingInput):
                found += one.broken
                one.broken = []
        return found

    @property
    def nbytes(self) -> int:
        own = self.circuit.nbytes + sum(one.nbytes for one in self.inputs)
        own += sum(part.nbytes for part in (self._content, self._tail) if part is not None)
        return own

    def sizes(self) -> list[tuple[str, int, int]]:
        """What keeps state, how many rows, and how many bytes that takes in memory."""
        found = self.circuit.sizes()
        for one in self.inputs:
            if one.parts:
                found.append((f"table {one.name}", sum(getattr(p, "row_count", 0) for p in one.parts), one.nbytes))
        if self._content is not None:
            found.append(("content", self._content.rows.row_count, self._content.nbytes))
        return [*found, ("strings", len(self.circuit.interner), self.circuit.interner.nbytes)]

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
        own: Sequence[Part] = [] if self._content is None else [self._content.rows]
        own = own if self._marked is None else self._marked.parts
        return [*self.circuit.parts, *(part for one in self.inputs for part in one.parts), *own]

    @property
    def mark_us(self) -> int:
        """How far event time has come, for windows that close."""
        return LOWEST_US if self._marked is None else self._marked.timeline.mark_us

    def watermarks(self) -> list[tuple[int, int, int, bool]]:
        """(topic, partition, watermark, whether it is idle) of the partitions of a query whose windows close."""
        return [] if self._marked is None else self._marked.watermarks()

    @staticmethod
    def load(spec: CircuitSpec, snapshot: Any) -> CircuitQuery:
        """The query as stored in a snapshot, content and all; before anything was taken in if it is not."""
        query = CircuitQuery(spec)
        progress = spec.keys.progress(snapshot) if spec.id >= 0 else None
        if progress is None or list(map(len, progress.positions)) != list(map(len, query.positions)):
            return query
        spec.keys.load(snapshot, query.parts)
        query.go_on(progress.positions)
        if query._tail is not None:
            query._tail = ClosedTail(progress.output.closed_us)
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
        if self._marked is not None:
            yield from self._advance_marked(self._marked, snapshot, row_limit, at_once=at_once)
            return
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

    def _advance_marked(
        self, marked: MarkedInputs, snapshot: Any, row_limit: int | None, *, at_once: bool
    ) -> Iterator[RecordBatch]:
        """`advance` where windows close: the inputs are read together, in the order of their rows."""
        self._begun = True
        taken = 0
        with self._failing(self.inputs):
            held: dict[int, list[RecordBatch]] = {}
            for changes in marked.rounds(snapshot):
                if at_once:
                    for i, rows in changes.items():
                        held.setdefault(i, []).append(rows)
                    continue
                yield from self._step(changes)
                taken += sum(rows.row_count for rows in changes.values())
                if row_limit is not None and taken >= row_limit:
                    return
            if held:
                whole = {i: merged(self.inputs[i].names, parts) for i, parts in held.items()}
                yield from self._step({i: change for i, change in whole.items() if change is not None})

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
        closing = self._spec.closing
        closed_us = None if closing is None else closing.closed_us(self.mark_us)
        change: Change = self.circuit.step(changes, closed_us)
        if change is not None and closing is not None:
            batch, ends = in_order(change)
            if self._tail is not None:
                self._tail.add(batch, ends)
            yield batch
        elif change is not None:
            self._told = None
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
        query._tail = self._tail
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
        self._content = self._tail = None

    def can_serve(self, snapshot: Any) -> bool:
        """Whether it has the rows of closed windows that are not stored in a snapshot."""
        return self._tail is None or self._tail.after_us <= self._spec.output(snapshot).closed_us

    def content(self, snapshot: Any) -> Sequence[RecordBatch]:
        """All rows of the result, at a snapshot that was taken in."""
        spec = self._spec
        if spec.closing is None or self._tail is None:
            if self._told is None:
                self._told = self.circuit.content() if self._content is None else self._content.batch()
            return [self._told]
        output = spec.output(snapshot)
        self._tail.trim(output.closed_us)
        stored = stored_rows(spec.closing, output, snapshot, spec.names)
        return [*stored, *self._tail.batches(output.closed_us)]

    def output(self, base: Output, added_rows: int) -> Output:
        """What is stored of the result once `added_rows` are added to `base`."""
        closed_us = None if self._spec.closing is None else self._spec.closing.closed_us(self.mark_us)
        return Output(
            base.start, base.end + added_rows, LOWEST_US if closed_us is None else closed_us, self.mark_us,
            self.circuit.late_row_count,
        )  # fmt: skip


def is_stored(spec: CircuitSpec, snapshot: Any) -> bool:
    """Whether the stored state has taken in all that the snapshot has, and no more."""
    progress = spec.keys.progress(snapshot)
    query = CircuitQuery(spec)
    if progress is None or list(map(len, progress.positions)) != list(map(len, query.positions)):
        return False
    for one, reached in zip(query.inputs, progress.positions, strict=True):
        one.positions = list(reached)
    return not any(one.is_behind(snapshot) or one.is_past(snapshot) for one in query.inputs)


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
        return self._batches(spec, kept.content(snapshot), columns)

    def stored(self, spec: CircuitSpec, snapshot: Any, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The rows that are stored, without what nobody has maintained yet. ViewFailed if nothing is."""
        query = CircuitQuery.load(spec, snapshot)
        if not query.has_begun:
            raise ViewFailed(f"nothing is stored of view {spec.name!r}: REFRESH VIEW {spec.name}", view=spec.name)
        return self._batches(spec, query.content(snapshot), columns)

    @staticmethod
    def _batches(spec: CircuitSpec, content: Sequence[RecordBatch], columns: Sequence[str]) -> Iterator[RecordBatch]:
        names = [name.lower() for name in spec.names]
        positions = [names.index(column.lower()) for column in columns]
        for whole in content:
            batch = whole.select(positions, columns)
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

    def content(self, snapshot: Any) -> Sequence[RecordBatch]:
        with self._lock:
            query = self._query
            if query is not None and (query.is_past(snapshot) or not query.can_serve(snapshot)):
                # An older snapshot than what is kept: it is answered from its own state, what there is stays.
                return caught_up(self.spec, None, snapshot).content(snapshot)
            self._query = None  # if it fails it is gone
            if query is not None and query.is_cut_off(snapshot):
                query = None  # what is stored may be further on
            query = self._query = caught_up(self.spec, query, snapshot).without_lost_strings()
            return query.content(snapshot)


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
