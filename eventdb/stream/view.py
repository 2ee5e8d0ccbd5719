"""A materialized view in the store: what it is, how its state is loaded and saved, where it starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from eventdb.config import MORSEL_ROWS
from eventdb.errors import BindError, EvaluationError, InternalError, UnsupportedSQL, ViewFailed
from eventdb.logical.plan import Plan
from eventdb.schema import Field, Schema
from eventdb.stream.continuous_query import ContinuousQuery, OutputRows
from eventdb.stream.program import UPDATE, Program, TopicFacts, analyse
from eventdb.stream.source import InputRows, RowReader
from eventdb.stream.state import Progress, Reading, StateKeys

if TYPE_CHECKING:
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.tail import LogTail
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.store import Store
    from eventdb.storage.transaction import WriteTransaction
    from eventdb.stream.sink import Sink


@dataclass(frozen=True, slots=True, eq=False)
class ViewSpec:
    """A continuous query over one topic. `id` is the view's, -1 for a query nobody stores (a subscription's own).

    `output_log` is the log of the hidden output topic: set for a stored view exactly when its rows are append-only.
    `sink` is where such rows go, too. `dead_letter` is the log of the topic where rows are noted that it goes on
    without.
    """

    id: int
    name: str
    program: Program
    input_log: PartitionLog
    output_log: PartitionLog | None = None
    dead_letter: PartitionLog | None = None
    sink: Sink | None = None
    reader: RowReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", RowReader(self.program))

    def read(self, snapshot: StoreSnapshot | LogTail, start: int, stop: int) -> Iterator[InputRows]:
        """Rows [start, stop) of the input topic in offset order, a morsel at a time."""
        return self.reader.read(snapshot, self.input_log, start, stop, MORSEL_ROWS)

    @property
    def keys(self) -> StateKeys:
        if self.id < 0:
            raise InternalError(f"{self.name} is not a stored view")
        return StateKeys(self.id)

    @property
    def topic_name(self) -> str:
        return self.program.facts.name

    @property
    def inputs(self) -> dict[int, str]:
        """The topics it reads: names by id."""
        return {self.program.facts.id: self.program.facts.name}


def view_spec(
    id: int,
    name: str,
    plan: Plan,
    facts: TopicFacts,
    logs: Callable[[int], PartitionLog],
    *,
    emit: str | None = None,
    grace_us: int = 0,
    output_topic_id: int | None = None,
    dead_letter: PartitionLog | None = None,
    sink: Sink | None = None,
) -> ViewSpec:
    """The spec of a bound plan. `logs` gives the log of a topic id. UnsupportedSQL as `analyse`."""
    program = analyse(plan, facts, emit, grace_us)
    if dead_letter is not None:
        program = replace(program, skips_broken_rows=True)
    output_log = None if output_topic_id is None else logs(output_topic_id)
    if id >= 0 and (output_log is None) != (program.emission == UPDATE):
        raise InternalError(f"view {name} emits {program.emission!r} and its output topic is {output_topic_id}")
    return ViewSpec(id, name, program, logs(facts.id), output_log, dead_letter, sink)


def output_schema(program: Program) -> Schema | None:
    """The schema of the view's hidden output topic; None for a view that revises its rows and so has none.

    BindError for two columns of one name, UnsupportedSQL for a column of a type that cannot be stored.
    """
    seen: set[str] = set()
    for column in program.fields:
        if column.name.lower() in seen:
            raise BindError(f"two columns of the view are called {column.name!r}: name one of them with AS")
        seen.add(column.name.lower())
        if not column.type.is_storable:
            raise UnsupportedSQL(
                f"column {column.name!r} of the view is of type {column.type}, which cannot be stored: cast it",
                construct=str(column.type),
            )
    if program.emission == UPDATE:
        return None
    return Schema(Field(column.name, column.type, True) for column in program.fields)


def resolve_start(snapshot: StoreSnapshot, log: PartitionLog, facts: TopicFacts, start: str | int) -> int:
    """The first offset of a view created now with START FROM `start`: 'beginning', 'now' or a time in microseconds.

    For a time: the first row whose event time (append time in a topic without) is not before it, else the end.
    """
    first, end = snapshot.offsets(log)
    if start == "beginning":
        return first
    if start == "now":
        return end
    if not isinstance(start, int):
        raise InternalError(f"unknown start {start!r}")
    position = None if facts.event_time is None else facts.schema.index_of(facts.event_time)
    for part in snapshot.slices(log, first, end):
        if position is None:
            reached = part.append_times() >= start
        else:
            column = part.column(position)
            reached = column.values >= start
            if column.validity is not None:
                reached &= column.validity
        found = np.flatnonzero(reached)
        if len(found):
            return int(part.first_offset + found[0])
    return end


def start_view(transaction: WriteTransaction, view_id: int, offset: int) -> None:
    """Records, in a journaled transaction, that a view begins at `offset`; not needed for 0."""
    StateKeys(view_id).set_start(transaction, offset)


def drop_view_state(transaction: WriteTransaction, view_id: int) -> None:
    """Deletes the state of a view in a journaled transaction, for good: a late maintainer cannot bring it back."""
    StateKeys(view_id).drop(transaction)


def load_query(spec: ViewSpec, store: Reading, first_offset: int = 0) -> ContinuousQuery:
    """The view's query as last saved in that snapshot or transaction. Cost: one record a group.

    ViewFailed if rows it has not read are gone: they lay below `first_offset`, where the topic begins now.
    """
    keys = spec.keys
    query = ContinuousQuery(spec.program, keys.progress(store))
    if query.groups is not None:
        query.groups.restore(keys.groups(store))
    if not keys.has_begun(store):
        query.skip_to(first_offset)  # it is being created at this moment, or has always begun with the topic
    require_rows(spec, query, first_offset)
    return query


def require_rows(spec: ViewSpec, query: ContinuousQuery, first_offset: int) -> None:
    """ViewFailed if the topic begins, at `first_offset`, behind what the query has read: it would miss rows."""
    if query.input_offset < first_offset:
        raise ViewFailed(
            f"{spec.name} has read {spec.topic_name} up to offset {query.input_offset}, but offsets "
            f"{query.input_offset} to {first_offset} (exclusive) were removed before it read them; drop it and create "
            "it again over what is left, and keep events longer than a view may lag",
            view=spec.name,
            topic=spec.topic_name,
            offset=query.input_offset,
        )


def new_query(spec: ViewSpec, start: int) -> ContinuousQuery:
    """The query before any row, reading from `start`."""
    return ContinuousQuery(spec.program, Progress(start))


def save_query(
    transaction: WriteTransaction, spec: ViewSpec, base: Progress, query: ContinuousQuery, outputs: Sequence[OutputRows]
) -> bool:
    """Writes what changed since `base` was stored: groups, progress and output rows, all or nothing.

    False, and nothing written, when the view was dropped or another process has moved it on from `base`.
    """
    keys = spec.keys
    if keys.is_dropped(transaction) or keys.progress(transaction) != base:
        return False
    if spec.output_log is not None:
        end = transaction.end_offset(spec.output_log)
        if end != base.output_end:
            raise InternalError(f"view {spec.name} has {end} output rows, its state accounts for {base.output_end}")
        for rows in outputs:
            transaction.append_columns(spec.output_log, rows.batch.columns)
    if spec.sink is not None and outputs:
        keys.note_written(transaction)
        spec.sink.write(transaction, [rows.batch for rows in outputs])
    if query.groups is not None:
        query.groups.save(transaction, keys)
    keys.set_progress(transaction, query.progress)
    return True


def view_failure(spec: ViewSpec, rows: InputRows, position: int, error: EvaluationError) -> ViewFailed:
    """The error of a view that stopped at row `position` of `rows`."""
    offset = rows.first_offset + position
    batch = rows.batch.slice(position, position + 1)
    values = ", ".join(
        f"{name} = {_shorten(repr(value))}" for name, value in zip(batch.names, batch.to_pylist()[0], strict=True)
    )
    return ViewFailed(
        f"{spec.name or 'the query'} stopped at offset {offset} of {spec.topic_name} ({values}): {error.message}; "
        "drop it and create it again with a query that handles the row, for example with TRY_CAST or CASE",
        view=spec.name,
        topic=spec.topic_name,
        offset=offset,
    )


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def wait_for_view(
    store: Store, spec: ViewSpec, offset: int, timeout_s: float | None, failure: Callable[[], str | None]
) -> bool:
    """Whether the view's stored state includes row `offset`, waiting for it up to `timeout_s` (None: for ever).

    `failure` gives the text of the view's failure, None while it runs; ViewFailed when it has one.
    """
    import time

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        commit_id = store.commit_id()
        with store.snapshot() as snapshot:
            if spec.keys.progress(snapshot).input_offset > offset:
                return True
        text = failure()
        if text is not None:
            raise ViewFailed(text, view=spec.name, topic=spec.topic_name)
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        store.wait(commit_id, 0.1 if left is None else min(left, 0.1))
