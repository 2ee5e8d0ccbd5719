"""Subscription: changes as they happen, as an iterator, an async iterator or batches."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from eventdb.batch import Column, RecordBatch
from eventdb.errors import ClosedError, InternalError, TopicNotFound, UnsupportedSQL, UsageError
from eventdb.logical.plan import OutputField, explain_lines
from eventdb.schema import BIGINT, VARCHAR
from eventdb.sql import statements as st
from eventdb.stream.circuit.query import CircuitSpec
from eventdb.stream.circuit.subscribe import CircuitSubscriber
from eventdb.stream.emission import OPS, Change, Changes, ProgressMessage
from eventdb.stream.feed import Feed, FeedOptions
from eventdb.stream.program import UPDATE, TopicFacts, whole_topic
from eventdb.stream.subscribe import Subscriber
from eventdb.stream.token import decode_token
from eventdb.stream.view import ViewSpec, view_spec
from eventdb.views import Spec, continuous_plan

if TYPE_CHECKING:
    import datetime as dt
    from types import TracebackType

    import pyarrow

    from eventdb.database import Database

__all__ = ["Change", "ProgressMessage", "Subscription", "open_subscription"]


class Subscription:
    """See Database.subscribe. `for change in subscription` waits for changes until it is closed.

    A change has `op` ("+I" a row appeared, "-U" and "+U" it was and is now, "-D" it disappeared), `row` (a tuple in the
    order of `columns`) and `offset` (of the event that caused it). One thread reads; any thread may close. Nothing is
    read ahead of who asks for it, so a slow reader costs no memory and holds up nobody.
    """

    def __init__(self, database: Database, subscriber: Feed, columns: tuple[str, ...], limit: int | None) -> None:
        self._database = database
        self._subscriber = subscriber
        self._left = limit
        self._batch: Changes | None = None  # what is handed out one by one, in order
        self._ready: Iterator[Change] = iter(())
        self._given = 0  # of the changes that were read last
        self._read = 0  # how many there were, before LIMIT cut them
        self.columns = list(columns)
        database._subscriptions.add(self)

    @property
    def token(self) -> str | None:
        """A short text that says which changes were handed out: `db.subscribe(..., after=token)` goes on behind them,
        in another process, too. None before the first read. Valid as long as the events are there that it takes. Sums
        of DOUBLE are computed again: the row that a change takes back may differ in their last digits."""
        return self._subscriber.token(self._given if self._given < self._read else None)

    def read(self, timeout: float | None = None) -> Changes | None:
        """The next batch of changes; None after `timeout` seconds without one. ClosedError once closed."""
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0):
            raise UsageError(f"timeout is a number of seconds of 0 or more, not {timeout!r}")
        rest, self._batch = self._batch, None
        if rest is not None and self._given < self._read and self._given < len(rest):
            changes, self._given = rest.rest(self._given), len(rest)
            return changes
        if self._left == 0:
            self.close()
            raise ClosedError("the subscription has reached its LIMIT")
        self._database._check_open()
        found = self._subscriber.read(timeout)
        self._read = self._given = 0 if found is None else len(found)
        if found is None or self._left is None:
            return found
        if len(found) > self._left:
            found = self._subscriber.in_order(found).head(self._left)
            self._given = self._left
        self._left -= len(found)
        return found

    def _advance(self, timeout: float | None) -> bool:
        """Makes the next changes ready to be handed out one by one; False when there were none in time."""
        changes = self.read(timeout)
        if changes is None:
            return False
        self._batch = self._subscriber.in_order(changes)
        self._ready = iter(self._batch)
        self._given = 0
        return True

    def _take(self) -> Change | None:
        """The next of the changes that are ready."""
        if self._batch is None:
            return None
        change = next(self._ready, None)
        if change is None:
            self._batch = None
        else:
            self._given += 1
        return change

    def poll(self, timeout: float | None = 0.0) -> list[Change]:
        """The changes that are there, waiting for the first up to `timeout` seconds; [] when none came."""
        changes = self.read(timeout)
        return [] if changes is None else list(changes)

    def poll_arrow(self, timeout: float | None = 0.0) -> pyarrow.RecordBatch | None:
        """The next changes as an Arrow batch, `_op` and `_offset` before the columns; None when none came in time. With
        progress=True, a batch without rows may be a progress message: its schema's metadata has its `token`,
        `commit_id` and `watermark`."""
        changes = self.read(timeout)
        if changes is None:
            return None
        from eventdb.arrow import batch_to_arrow

        ops = Column.encode(VARCHAR, [OPS[op] for op in changes.ops.tolist()])
        columns = [ops, Column(BIGINT, changes.offsets), *changes.batch.columns]
        batch = batch_to_arrow(RecordBatch(["_op", "_offset", *changes.batch.names], columns, len(changes)))
        message = changes.progress
        if message is None:
            return batch
        watermark = "" if message.watermark is None else message.watermark.isoformat()
        facts = {"token": message.token, "commit_id": str(message.offset), "watermark": watermark}
        return batch.replace_schema_metadata(facts)

    def on_change(self, function: Callable[[list[Change]], object]) -> threading.Thread:
        """Calls `function` with each batch of changes, in order, on a thread of its own, which is returned, until the
        subscription is closed. The next batch is read when it has returned. What it raises closes the subscription and
        goes to threading.excepthook. Nobody else may read from then on."""

        def run() -> None:
            try:
                while True:
                    function(self.poll(None))
            except ClosedError:
                return
            finally:
                self.close()

        thread = threading.Thread(target=run, name="eventdb-subscription", daemon=True)
        thread.start()
        return thread

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while True:
            change = self._take()
            if change is not None:
                return change
            try:
                self._advance(None)
            except ClosedError:
                raise StopIteration from None

    async def __aiter__(self) -> AsyncIterator[Change]:
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            change = self._take()
            if change is not None:
                yield change
                continue
            try:
                await loop.run_in_executor(None, self._advance, 0.2)
            except ClosedError:
                return

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
    database: Database, statement: st.Subscribe, start: str | int | dt.datetime | None, after: str | None,
    progress: bool,
) -> Subscription:  # fmt: skip
    """The subscription a bound SUBSCRIBE asks for; `start`, if given, is where it begins instead (Subscriber), `after`
    a token it goes on from. InvalidToken."""
    if start is not None and after is not None:
        raise UsageError("a subscription begins at `start` or goes on `after` a token: give one of them")
    if after is None and start is None:
        after = statement.after
    if start is None or start == "now":
        word: str = statement.mode if start is None else "now"
        start = _WORDS_OF_SQL.get(word, word)
    spec = _spec(database, statement)
    mark = _mark(database, statement, spec)
    every = statement.every if statement.every.interval_us else _every(database, spec)
    if every.repeat and isinstance(spec, ViewSpec) and spec.program.emission != UPDATE:
        raise UnsupportedSQL(
            "EMIT EVERY ... REPEAT of rows that only come would give more and more of them each time: leave REPEAT out",
            construct="REPEAT",
        )
    options = FeedOptions(
        mark,
        None if after is None else decode_token(after, mark),
        every.interval_us,
        every.repeat,
        progress or statement.progress,
    )
    feed: Feed
    if isinstance(spec, CircuitSpec):
        feed = CircuitSubscriber(database._store, spec, start, options)
    else:
        feed = Subscriber(database._store, spec, start, options)
    if spec.id >= 0:
        feed.is_held = lambda: database._views_of().is_paused(spec.name)
    return Subscription(database, feed, feed.names, statement.limit)


def _every(database: Database, spec: Spec) -> st.Every:
    """EMIT EVERY of a view."""
    view = None if spec.id < 0 else database._catalog.view_by_id(spec.id)
    if view is None or "EVERY" not in view.sql.upper():
        return st.Every()
    return database._views_of().statement(view).every


def _mark(database: Database, statement: st.Subscribe, spec: Spec) -> bytes:
    """A fingerprint of what is subscribed to."""
    facts = [database._store.uuid.hex(), type(spec).__name__, str(statement.emit), str(statement.grace_us)]
    facts += [f"{id} {name}" for id, name in sorted(spec.inputs.items())]
    view = None if spec.id < 0 else database._catalog.view_by_id(spec.id)
    facts += explain_lines(statement.query) if view is None else [str(view.id), view.sql]
    return sha256("\n".join(facts).encode()).digest()[:8]


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
