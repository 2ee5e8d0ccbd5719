"""Reading a view: its stored part plus the rows nobody has maintained yet, up to the end of the reader's snapshot.

So a SELECT over a view includes every event committed before its snapshot, whether or not any process maintains the
view. The reader keeps one query per view in memory and advances it from read to read, so that a fresh read costs the
new rows only; a snapshot the kept query cannot serve (older than it, or far ahead of it) loads the stored state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eventdb.batch import RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.stream.continuous_query import ContinuousQuery, OutputRows, breaking_position
from eventdb.stream.program import UPDATE
from eventdb.stream.state import Progress
from eventdb.stream.view import ViewSpec, load_query, view_failure

if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot

_RELOAD_ROWS = 32_768  # a kept query further behind the stored state than this is loaded again


class ViewReader:
    """The views of one database as this process reads them. Thread-safe; reads of one view take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[int, _KeptView] = {}

    def content(self, spec: ViewSpec, snapshot: StoreSnapshot, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The view's rows at the snapshot, its `columns` only. The snapshot stays open while the batches are read.

        ViewFailed when a row not yet maintained breaks an expression of the view.
        """
        with self._lock:
            kept = self._views.get(spec.id)
            if kept is None or kept.spec is not spec:
                kept = self._views[spec.id] = _KeptView(spec)
        names = [name.lower() for name in spec.program.names]
        positions = [names.index(column.lower()) for column in columns]
        stored_end, batches = kept.content(snapshot)
        return self._batches(spec, snapshot, stored_end, batches, positions, columns)

    def stored(self, spec: ViewSpec, snapshot: StoreSnapshot, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The rows that are stored, without those nobody has maintained yet."""
        progress = spec.keys.progress(snapshot)
        query = ContinuousQuery(spec.program, progress)
        if query.groups is not None:
            query.groups.restore(spec.keys.groups(snapshot))
        names = [name.lower() for name in spec.program.names]
        positions = [names.index(column.lower()) for column in columns]
        return self._batches(spec, snapshot, progress.output_end, _finish(query, []), positions, columns)

    def forget(self, view_id: int) -> None:
        """Frees what is kept of a dropped view."""
        with self._lock:
            self._views.pop(view_id, None)

    def _batches(
        self,
        spec: ViewSpec,
        snapshot: StoreSnapshot,
        stored_end: int,
        batches: Sequence[RecordBatch],
        positions: Sequence[int],
        columns: Sequence[str],
    ) -> Iterator[RecordBatch]:
        if spec.output_log is not None and stored_end:
            for part in snapshot.slices(spec.output_log, 0, stored_end):
                picked = [part.column(position) for position in positions]
                batch = RecordBatch(columns, picked, part.row_count)
                for start in range(0, batch.row_count, MORSEL_ROWS):
                    yield batch.slice(start, start + MORSEL_ROWS)
        for batch in batches:
            for start in range(0, batch.row_count, MORSEL_ROWS):
                yield batch.select(positions, columns).slice(start, start + MORSEL_ROWS)


class _KeptView:
    """One view's query in memory, and the output rows it has produced that the store may not have yet."""

    def __init__(self, spec: ViewSpec) -> None:
        self._lock = threading.Lock()
        self._query: ContinuousQuery | None = None
        self._tail: list[OutputRows] = []
        self._tail_start = 0
        self._content: tuple[int, RecordBatch] | None = None
        self.spec = spec

    def content(self, snapshot: StoreSnapshot) -> tuple[int, list[RecordBatch]]:
        """(output rows of the store that count, batches that follow them)."""
        spec = self.spec
        stored = spec.keys.progress(snapshot)
        first, end = snapshot.offsets(spec.input_log)
        with self._lock:
            query = self._query
            if query is not None and (query.input_offset > end or self._tail_start > stored.output_end):
                # The snapshot is older than what is kept: answer it from its own state, keep what there is.
                other = load_query(spec, snapshot, first)
                tail = _advance(spec, other, snapshot, end)
                return stored.output_end, _finish(other, [rows.batch for rows in tail])
            if query is None or query.input_offset < first or self._is_behind(query, stored):
                query = self._query = load_query(spec, snapshot, first)
                self._tail, self._tail_start, self._content = [], stored.output_end, None
            try:
                self._tail += _advance(spec, query, snapshot, end)
            except BaseException:
                self._query = None
                raise
            if spec.program.emission == UPDATE:
                if self._content is None or self._content[0] != query.input_offset:
                    self._content = (query.input_offset, query.content())
                return 0, [self._content[1]]
            return stored.output_end, self._tail_from(stored.output_end)

    def _is_behind(self, query: ContinuousQuery, stored: Progress) -> bool:
        groups = 0 if query.groups is None else query.groups.group_count
        return stored.input_offset - query.input_offset > _RELOAD_ROWS + groups

    def _tail_from(self, output_end: int) -> list[RecordBatch]:
        """The kept output rows from that position on; whole batches before it are freed."""
        while self._tail and self._tail_start + self._tail[0].batch.row_count <= output_end:
            self._tail_start += self._tail.pop(0).batch.row_count
        batches = [rows.batch for rows in self._tail]
        if batches and self._tail_start < output_end:
            batches[0] = batches[0].slice(output_end - self._tail_start, batches[0].row_count)
        return batches


def brought_up(spec: ViewSpec, snapshot: StoreSnapshot) -> ContinuousQuery:
    """The view's stored state with all that the snapshot has. ViewFailed as `content`."""
    first, end = snapshot.offsets(spec.input_log)
    query = load_query(spec, snapshot, first)
    _advance(spec, query, snapshot, end)
    return query


def _advance(spec: ViewSpec, query: ContinuousQuery, snapshot: StoreSnapshot, end: int) -> list[OutputRows]:
    outputs = []
    for rows in spec.read(snapshot, query.input_offset, end):
        try:
            output = query.advance(rows)
        except EvaluationError as error:
            raise view_failure(spec, rows, breaking_position(query.program, rows), error) from error
        if output is not None:
            outputs.append(output)
    query.skip_to(end)  # the rows may end before a gap
    return outputs


def _finish(query: ContinuousQuery, tail: list[RecordBatch]) -> list[RecordBatch]:
    return [query.content()] if query.program.emission == UPDATE else tail
