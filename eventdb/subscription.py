"""Subscription: changes as they happen, as an iterator, an async iterator or batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from eventdb.batch import Column, RecordBatch
from eventdb.errors import ClosedError, InternalError, TopicNotFound, UsageError
from eventdb.logical.plan import OutputField
from eventdb.schema import BIGINT, VARCHAR
from eventdb.sql import statements as st
from eventdb.stream.circuit.query import CircuitSpec
from eventdb.stream.circuit.subscribe import CircuitSubscriber
from eventdb.stream.emission import OPS, Change, Changes
from eventdb.stream.feed import Feed
from eventdb.stream.program import TopicFacts, whole_topic
from eventdb.stream.subscribe import Subscriber
from eventdb.stream.view import ViewSpec, view_spec
from eventdb.views import Spec, continuous_plan

if TYPE_CHECKING:
    import datetime as dt
    from types import TracebackType

    import pyarrow

    from eventdb.database import Database

__all__ = ["Change", "Subscription", "open_subscription"]


class Subscription:
    """See Database.subscribe. `for change in subscription` waits for changes until it is closed.

    A change has `op` ("+I" a row appeared, "-U" and "+U" it was and is now, "-D" it disappeared), `row` (a tuple in the
    order of `columns`) and `offset` (of the event that caused it). One thread reads; any thread may close.
    """

    def __init__(self, database: Database, subscriber: Feed, columns: tuple[str, ...], limit: int | None) -> None:
        self._database = database
        self._subscriber = subscriber
        self._left = limit
        self._ready: Iterator[Change] = iter(())
        self.columns = list(columns)
        database._subscriptions.add(self)

    def read(self, timeout: float | None = None) -> Changes | None:
        """The next batch of changes; None after `timeout` seconds without one. ClosedError once closed."""
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0):
            raise UsageError(f"timeout is a number of seconds of 0 or more, not {timeout!r}")
        if self._left == 0:
            self.close()
            raise ClosedError("the subscription has reached its LIMIT")
        self._database._check_open()
        changes = self._subscriber.read(timeout)
        if changes is None or self._left is None:
            return changes
        if len(changes) > self._left:
            keep = self._left
            changes = Changes(changes.batch.slice(0, keep), changes.ops[:keep], changes.offsets[:keep])
        self._left -= len(changes)
        return changes

    def poll(self, timeout: float | None = 0.0) -> list[Change]:
        """The changes that are there, waiting for the first up to `timeout` seconds; [] when none came."""
        found = list(self._ready)
        if found:
            return found
        changes = self.read(timeout)
        return [] if changes is None else list(changes)

    def poll_arrow(self, timeout: float | None = 0.0) -> pyarrow.RecordBatch | None:
        """The next changes as an Arrow batch, `_op` and `_offset` before the columns; None when none came in time."""
        changes = self.read(timeout)
        if changes is None:
            return None
        from eventdb.arrow import batch_to_arrow

        ops = Column.encode(VARCHAR, [OPS[op] for op in changes.ops.tolist()])
        columns = [ops, Column(BIGINT, changes.offsets), *changes.batch.columns]
        return batch_to_arrow(RecordBatch(["_op", "_offset", *changes.batch.names], columns, len(changes)))

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while True:
            change = next(self._ready, None)
            if change is not None:
                return change
            try:
                changes = self.read()
            except ClosedError:
                raise StopIteration from None
            if changes is not None:
                self._ready = iter(changes)

    async def __aiter__(self) -> AsyncIterator[Change]:
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.run_in_executor(None, self.poll, 0.2)
            except ClosedError:
                return
            for change in found:
                yield change

    def close(self) -> None:
        """Ends it; an iterator that waits ends within 50 ms."""
        self._subscriber.close()
        self._database._subscriptions.discard(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_WORDS_OF_SQL = {"beginning": "earliest", "now": "latest"}


def open_subscription(
    database: Database, statement: st.Subscribe, start: str | int | dt.datetime | None
) -> Subscription:  # fmt: skip
    """The subscription a bound SUBSCRIBE asks for; `start`, if given, is where it begins instead (Subscriber)."""
    if start is None or start == "now":
        word: str = statement.mode if start is None else "now"
        start = _WORDS_OF_SQL.get(word, word)
    spec = _spec(database, statement)
    feed: Feed
    if isinstance(spec, CircuitSpec):
        feed = CircuitSubscriber(database._store, spec, start)
    else:
        feed = Subscriber(database._store, spec, start)
    return Subscription(database, feed, feed.names, statement.limit)


def _spec(database: Database, statement: st.Subscribe) -> Spec:
    table = statement.table
    catalog = database._catalog
    if table is not None and table.kind == "view":
        view = catalog.view_by_id(table.id)
        if view is None:
            raise TopicNotFound(f"view {table.name!r} was dropped", name=table.name)
        return database._views_of().spec(view)
    topic = statement.topic
    if topic is None:
        return database._views_of().circuit(statement.query, emit=statement.emit, grace_us=statement.grace_us)
    info = catalog.topic_by_id(topic.id)
    if info is None:
        raise TopicNotFound(f"topic {topic.name!r} was dropped", name=topic.name)
    if table is None and info.partitions > 1 and statement.emit == "window_close" and statement.query is not None:
        return database._views_of().circuit(statement.query, emit=statement.emit, grace_us=statement.grace_us)
    facts = TopicFacts.of(info)
    if table is not None:
        fields = tuple(OutputField(field.name, field.type, field.nullable) for field in info.schema)
        return ViewSpec(-1, info.name, whole_topic(facts, fields), database._log_by_id(info.id))
    if statement.query is None:
        raise InternalError("a subscription without a query and without a table")
    return view_spec(
        -1,
        "",
        continuous_plan(statement.query),
        facts,
        database._log_by_id,
        emit=statement.emit,
        grace_us=statement.grace_us,
    )
