"""Task: one view in the memory of its maintainer, between what is stored of it and the rows it takes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError, InternalError, ViewFailed
from eventdb.stream.circuit import stored
from eventdb.stream.circuit.closed_rows import NO_OUTPUT, Output
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec
from eventdb.stream.continuous_query import ContinuousQuery, OutputRows
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
    """`failure` is set when the view has stopped on a row; it is told once. The others are tried again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.retry_at_s = 0.0
        self.failure: ViewFailed | None = None
        self.reported = False

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether it goes on from memory."""

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

    @abstractmethod
    def saved(self, was_saved: bool) -> None:
        """The commit has been made."""


class ViewTask(Task):
    """A view of one topic. `base` is the stored progress that `query` goes on from."""

    def __init__(self, spec: ViewSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self.base = Progress(0)
        self.query: ContinuousQuery | None = None
        self.outputs: list[OutputRows] = []
        self.row_limit = STEP_ROWS
        self.careful_until = -1

    @property
    def is_loaded(self) -> bool:
        return self.query is not None

    def reload(self) -> None:
        self.query = None
        self.outputs = []

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
        spec = self.spec
        first, end = snapshot.offsets(spec.input_log)
        try:
            if self.query is None:
                self.base = spec.keys.progress(snapshot)
                self.query = load_query(spec, snapshot, first)
            require_rows(spec, self.query, first)
        except ViewFailed as error:
            self.failure = error
            return False
        query = self.query
        start = query.input_offset
        stop = min(end, start + self.limit(start))
        if start >= stop:
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
        query.skip_to(stop)  # the rows may end before a gap
        return True

    def save(self, transaction: WriteTransaction) -> bool:
        assert self.query is not None
        return save_query(transaction, self.spec, self.base, self.query, self.outputs)

    def saved(self, was_saved: bool) -> None:
        self.outputs = []
        if was_saved and self.query is not None:
            self.base = self.query.progress
        else:
            self.reload()


class CircuitTask(Task):
    """A view of any other shape. `base` is the stored progress that `query` goes on from, None for none."""

    def __init__(self, spec: CircuitSpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self.base: stored.Progress | None = None
        self.query: CircuitQuery | None = None
        self._next: stored.Progress | None = None
        self._outputs: list[RecordBatch] = []  # rows of closed windows that are to be stored
        self._anew = False  # `query` does not go on from what is stored

    @property
    def is_loaded(self) -> bool:
        return self.query is not None

    def reload(self) -> None:
        self.query = None
        self._outputs = []

    def advance(self, snapshot: StoreSnapshot, shared: Shared) -> bool:
        query, self.query = self.query, None  # if it fails it is gone
        self._outputs = []
        query = query or self._loaded(snapshot)
        moved = query.is_behind(snapshot)
        if moved:
            try:
                self._take(query.advance(snapshot, STEP_ROWS))
            except ViewFailed:
                self._outputs = []
                query = self._loaded(snapshot)
                self._take(query.advance(snapshot, at_once=True))
        self.query = query
        return moved

    def _take(self, made: Iterator[RecordBatch]) -> None:
        if self.spec.closing is None:
            deque(made, 0)
        else:
            self._outputs += made

    def _loaded(self, snapshot: StoreSnapshot) -> CircuitQuery:
        self.base = self.spec.keys.progress(snapshot)
        query = CircuitQuery.load(self.spec, snapshot)
        if self.spec.closing is not None:
            query.drop_content()
        self._anew = not query.has_begun
        return _noting(query)

    def save(self, transaction: WriteTransaction) -> bool:
        assert self.query is not None
        keys = self.spec.keys
        if StateKeys(self.spec.id).is_dropped(transaction) or keys.progress(transaction) != self.base:
            return False
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
        for batch in self._outputs:
            transaction.append_columns(closing.output_log, batch.columns)
        return query.output(base, sum(batch.row_count for batch in self._outputs))

    def saved(self, was_saved: bool) -> None:
        self._outputs = []
        if was_saved and self.query is not None:
            self.base, self._anew = self._next, False
            self.query = _noting(self.query.without_lost_strings())
        else:
            self.reload()


def _noting(query: CircuitQuery) -> CircuitQuery:
    """The query, which notes what changes of it from here on."""
    for part in query.parts:
        part.record()
    return query
