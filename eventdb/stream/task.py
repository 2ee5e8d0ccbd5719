"""Task: one view in the memory of its maintainer, between what is stored of it and the rows it takes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError, InternalError, ViewFailed
from eventdb.stream.broken_rows import BrokenRow, row_json, store_letters
from eventdb.stream.circuit import stored
from eventdb.stream.circuit.broken import lasting_failure
from eventdb.stream.circuit.closed_rows import NO_OUTPUT, Output
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import difference
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec, is_stored
from eventdb.stream.continuous_query import ContinuousQuery, OutputRows
from eventdb.stream.figures import Meter
from eventdb.stream.sink import require_state
from eventdb.stream.source import InputRows
from eventdb.stream.state import Progress, StateKeys
from eventdb.stream.view import ViewSpec, load_query, require_rows, save_query, view_failure

if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.transaction import WriteTransaction

STEP_ROWS = 2 * MORSEL_ROWS  # rows a view takes in between two commits while it catches up

Shared = dict[tuple[int, tuple[str, ...], int, int], list[InputRows]]
"""Rows that were read for one view and may serve another: by topic, columns and offsets."""


class Task(ABC):
    """`failure` is set when the view has stopped on a row; it is told once. The others are tried again. `is_current`
    says whether the last `advance` has come to the end of its snapshot."""

    def __init__(self, of: ViewSpec | CircuitSpec) -> None:
        self.of, self.id, self.name = of, of.id, of.name
        self.is_current = False
        self.retry_at_s = 0.0
        self.failure: ViewFailed | None = None
        self.reported = False
        self.meter = Meter(of.id)
        self.moved_rows = 0  # since the last commit
        self.broken: list[BrokenRow] = []  # rows it goes on without, to be noted before it is saved

    @property
    def has_sink(self) -> bool:
        """Whether its commit must be journaled, and is its own."""
        return False

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether it goes on from memory, or need not."""

    @abstractmethod
    def reload(self) -> None:
        """Forgets what is not stored; the next pass loads what is."""

    @abstractmethod
    def advance(self, snapshot: StoreSnapshot, shared: Shared) -> bool:
        """Takes in a bounded number of rows; whether there is something to commit."""

    @abstractmethod
    def save(self, transaction: WriteTransaction) -> bool:
        """Writes what has changed; False, and nothing written, when the view was dropped or another process has moved
        it on."""

    @property
    @abstractmethod
    def state_rows(self) -> int:
        """How many groups or rows its state has."""

    def note_broken(self, transaction: WriteTransaction) -> None:
        """Stores the broken rows in the dead-letter topic, in a journaled transaction."""
        log = self.of.dead_letter
        if self.broken and log is not None:
            store_letters(transaction, self.id, self.name, log, self.broken)

    @abstractmethod
    def saved(self, was_saved: bool) -> None:
        """The commit has been made."""


class ViewTask(Task):
    """A view of one topic. `base` is the stored progress that `query` goes on from."""

    def __init__(self, spec: ViewSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        self.base = Progress(0)
        self.query: ContinuousQuery | None = None
        self.outputs: list[OutputRows] = []
        self.row_limit = STEP_ROWS
        self.careful_until = -1
        self._rests = False  # all is stored: nothing need be loaded

    @property
    def has_sink(self) -> bool:
        return self.spec.sink is not None

    @property
    def is_loaded(self) -> bool:
        return self.query is not None or self._rests

    def reload(self) -> None:
        self.query, self._rests = None, False
        self.outputs, self.broken = [], []
        self.moved_rows = 0

    @property
    def state_rows(self) -> int:
        return 0 if self.query is None or self.query.groups is None else self.query.groups.group_count

    def limit(self, offset: int) -> int:
        if offset >= self.careful_until:
            self.row_limit = STEP_ROWS
        return self.row_limit

    def narrow(self, start: int, stop: int) -> None:
        """Rows [start, stop) broke an expression: take half as many from here on, until past them."""
        self.row_limit = max((stop - start) // 2, 1)
        self.careful_until = stop
        self.reload()

    def advance(self, snapshot: StoreSnapshot, shared: Shared) -> bool:
        spec, self.is_current = self.spec, False
        first, end = snapshot.offsets(spec.input_log)
        try:
            if self.query is None:
                keys = spec.keys
                require_state(spec.sink, spec.id, spec.name, snapshot, has_state=keys.has_progress(snapshot))
                self.base = keys.progress(snapshot)
                self._rests = keys.has_progress(snapshot) and first <= end == self.base.input_offset
                if self._rests:
                    self.is_current = True
                    return False
                self.query = load_query(spec, snapshot, first)
                self.query.notes_broken = True
            require_rows(spec, self.query, first)
        except ViewFailed as error:
            self.failure = error
            return False
        query = self.query
        start = query.input_offset
        stop = min(end, start + self.limit(start))
        if start >= stop:
            self.is_current = True
            return False
        key = (spec.program.facts.id, spec.program.scan.columns, start, stop)
        if key not in shared:
            shared[key] = list(spec.read(snapshot, start, stop))
        for rows in shared[key]:
            try:
                output = query.advance(rows)
            except EvaluationError as error:
                if rows.end_offset - start == 1:
                    self.failure = view_failure(spec, rows, 0, error)
                else:
                    self.narrow(start, rows.end_offset)
                return False
            if output is not None:
                self.outputs.append(output)
        facts, found = spec.program.facts, query.take_broken()
        self.broken += [
            BrokenRow(facts.id, facts.name, 0, offset, text, row_json(snapshot, spec.input_log, offset))
            for offset, text in found
        ]
        query.skip_to(stop)  # the rows may end before a gap
        self.moved_rows += stop - start
        self.is_current = stop == end
        return True

    def save(self, transaction: WriteTransaction) -> bool:
        assert self.query is not None
        return save_query(transaction, self.spec, self.base, self.query, self.outputs)

    def saved(self, was_saved: bool) -> None:
        given = sum(rows.batch.row_count for rows in self.outputs)
        self.outputs, self.broken = [], []
        if was_saved and self.query is not None:
            self._count(given)
            self.base = self.query.progress
        else:
            self.reload()

    def _count(self, given: int) -> None:
        self.meter.taken += self.moved_rows
        self.moved_rows = 0
        groups = self.query.groups if self.query is not None and self.spec.output_log is None else None
        if groups is not None:
            given, groups.changed_count = groups.changed_count, 0
        self.meter.given += given


class CircuitTask(Task):
    """A view of any other shape. `base` is the stored progress that `query` goes on from, None for none."""

    def __init__(self, spec: CircuitSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        self.base: stored.Progress | None = None
        self.query: CircuitQuery | None = None
        self._given = 0  # rows of changes since the last commit
        self._stuck: list[int] | None = None  # the ends of the inputs that it cannot take in
        self._rested: list[int] | None = None  # those that all is stored of: nothing need be loaded
        self._next: stored.Progress | None = None
        self._anew = False  # `query` does not go on from what is stored
        self._made: list[RecordBatch] = []  # changes that are to be stored: for a sink, or of windows that close

    @property
    def has_sink(self) -> bool:
        return self.spec.sink is not None

    @property
    def is_loaded(self) -> bool:
        return self.query is not None or self._stuck is not None or self._rested is not None

    def reload(self) -> None:
        self.query = self._rested = None
        self.broken, self._made = [], []
        self.moved_rows = self._given = 0

    @property
    def state_rows(self) -> int:
        return 0 if self.query is None else sum(getattr(part, "row_count", 0) for part in self.query.parts)

    def advance(self, snapshot: StoreSnapshot, shared: Shared) -> bool:
        self.is_current = False
        if self._stuck is not None:
            if self._stuck == self._ends(snapshot):
                return False
            self._stuck = None
        if self.query is None:
            ends = self._ends(snapshot)
            if ends == self._rested or is_stored(self.spec, snapshot):
                self._rested, self.is_current = ends, True
                return False
            self._rested = None
        query, self.query = self.query, None  # if it fails it is gone
        try:
            query = query or self._loaded(snapshot)
        except ViewFailed as error:  # of its sink
            self.failure = error
            return False
        before, given = _reached(query), 0
        moved = query.is_behind(snapshot)
        if moved:
            try:
                given = self._keep(query.advance(snapshot, STEP_ROWS))
            except ViewFailed:
                query = self._loaded(snapshot)
                try:
                    given = self._keep(query.advance(snapshot, at_once=True))
                except ViewFailed as error:
                    self.failure = lasting_failure(self.spec, query.circuit, snapshot, error)
                    if self.failure is not None:
                        return False
                    self._stuck = self._ends(snapshot)
                    raise
        for row in query.take_broken():
            log = next(log for log in self.spec.logs(row.topic_id) if log.partition == row.partition)
            self.broken.append(replace(row, content=row_json(snapshot, log, row.offset)))
        self.moved_rows += _reached(query) - before
        self._given += given
        self.query, self.is_current = query, not query.is_behind(snapshot)
        return moved

    def _keep(self, changes: Iterator[RecordBatch]) -> int:
        """Takes all in, and counts the rows; those to be stored are kept."""
        if not self.has_sink and self.spec.closing is None:
            return sum(change.row_count for change in changes)
        made = list(changes)
        self._made += made
        return sum(change.row_count for change in made)

    def _ends(self, snapshot: StoreSnapshot) -> list[int]:
        return [snapshot.offsets(log)[1] for topic_id in self.spec.inputs for log in self.spec.logs(topic_id)]

    def _loaded(self, snapshot: StoreSnapshot) -> CircuitQuery:
        spec = self.spec
        self.base = spec.keys.progress(snapshot)
        query = CircuitQuery.load(spec, snapshot)
        require_state(spec.sink, spec.id, spec.name, snapshot, has_state=query.has_begun)
        self._anew, self._made = not query.has_begun, []
        if spec.closing is not None:
            query.drop_content()
        return _noting(query)

    def save(self, transaction: WriteTransaction) -> bool:
        assert self.query is not None
        keys = self.spec.keys
        if StateKeys(self.spec.id).is_dropped(transaction) or keys.progress(transaction) != self.base:
            return False
        if self.has_sink:
            self._write_out(transaction)
        output = self._store_output(transaction, self.query)
        self._next = keys.save(transaction, self.base, self.query.parts, self.query.positions, output, anew=self._anew)
        return True

    def _store_output(self, transaction: WriteTransaction, query: CircuitQuery) -> Output:
        """Adds the rows of windows that have closed to those that are stored; the first ones begin anew."""
        closing = self.spec.closing
        if closing is None:
            return NO_OUTPUT
        end = transaction.end_offset(closing.output_log)
        base = Output(end, end) if self.base is None or self._anew else self.base.output
        if end != base.end:
            raise InternalError(f"view {self.name} has {end} output rows, its state accounts for {base.end}")
        for batch in self._made:
            transaction.append_columns(closing.output_log, batch.columns)
        return query.output(base, sum(batch.row_count for batch in self._made))

    def _write_out(self, transaction: WriteTransaction) -> None:
        """The sum of the changes goes to the sink."""
        if self.spec.closing is not None:
            if self._made:
                StateKeys(self.spec.id).note_written(transaction)
                self.spec.sink.write(transaction, self._made)
            return
        codec = RowCodec([field.type for field in self.spec.fields], Interner())
        change = difference(self.spec.names, codec, [], self._made)
        if change is not None:
            StateKeys(self.spec.id).note_written(transaction)
            self.spec.sink.write(transaction, [change])

    def saved(self, was_saved: bool) -> None:
        self.broken, self._made = [], []
        if was_saved:
            self.meter.taken += self.moved_rows
            self.meter.given += self._given
        self.moved_rows = self._given = 0
        if was_saved and self.query is not None:
            self.base, self._anew = self._next, False
            self.query = _noting(self.query.without_lost_strings())
        else:
            self.reload()


def _reached(query: CircuitQuery) -> int:
    """How many rows it has taken in, if no topic was cut off before."""
    return sum(max(position, 0) for positions in query.positions for position in positions)


def _noting(query: CircuitQuery) -> CircuitQuery:
    """The query, which notes what changes of it from here on."""
    for part in query.parts:
        part.record()
    query.note_broken()
    return query
