"""Database: one open directory. It holds the nouns together and has no mechanism of its own.

Statements run in `session.py`; views are kept by `views.py`; both load on first use, so that opening a database and
appending dicts load neither NumPy nor the SQL parser.
"""

from __future__ import annotations

import os
import threading
import time

from eventdb.catalog import Catalog
from eventdb.config import DDL_CHECK_NS, DEFAULT_MEMORY_BYTES
from eventdb.errors import ClosedError, EventDBError, ReadOnlyError, TopicExists, TopicNotFound, UsageError
from eventdb.extensions import Extensions
from eventdb.handles import Handles
from eventdb.headers import BESIDE, HEADERS
from eventdb.options import (
    add_table,
    checked_opening,
    checked_options,
    inferred_schema,
    key_positions,
    require_same,
    schema_of,
    seal_after_us,
)
from eventdb.schema import Schema
from eventdb.storage.segment.limits import Limits
from eventdb.storage.store import Store
from eventdb.topic import Topic
from eventdb.upkeep import Upkeep
from eventdb.values import parse_duration_us, parse_size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.definitions import TopicInfo
    from eventdb.event import Position
    from eventdb.producer import Producer
    from eventdb.result import Result
    from eventdb.session import Session
    from eventdb.snapshot import Snapshot
    from eventdb.sql_session import SqlSession
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.subscription import Subscription
    from eventdb.table import Table
    from eventdb.transaction import Transaction
    from eventdb.views import Views

MEMORY = ":memory:"


def open(
    path: str | os.PathLike[str],
    *,
    durability: str = "commit",
    read_only: bool = False,
    memory_limit: str | int = DEFAULT_MEMORY_BYTES,
    threads: int | None = None,
) -> Database:
    """Opens the database directory `path`, creating it if missing; ":memory:" is a private temporary one.

    `durability` says what the return of an append means: "commit" (on the device; the default), "interval:100ms"
    (visible to every process; at most that much is lost when the power fails) or "os" (flushed by the kernel).
    `memory_limit` bounds what queries hold, `threads` how many cores one uses (default: all).

    UsageError for a wrong option, NotADatabase, FormatTooNew, CorruptionError, ReadOnlyError or StorageError for the
    path.
    """
    return Database(path, durability=durability, read_only=read_only, memory_limit=memory_limit, threads=threads)


class Database(Upkeep, Extensions):
    """An open database. Safe to use from several threads; a child process after fork() must open its own."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = "commit",
        read_only: bool = False,
        memory_limit: str | int = DEFAULT_MEMORY_BYTES,
        threads: int | None = None,
    ) -> None:
        name = checked_opening(path, read_only, threads)
        self._temporary: str | None = None
        if name == MEMORY:
            import tempfile

            if read_only:
                raise UsageError('":memory:" is new and empty, so it cannot be opened read-only')
            self._temporary = tempfile.mkdtemp(prefix="eventdb-")
            name = os.path.join(self._temporary, "memory.eventdb")
            durability = "os" if durability == "commit" else durability
        self.path = name
        self.read_only = read_only
        self._memory_limit_bytes = parse_size_bytes(memory_limit, "memory_limit")
        self._threads = threads or os.cpu_count() or 1
        self._lock, self._closing = threading.RLock(), threading.RLock()
        self._topics: dict[int, Topic] = {}
        self._tables: dict[int, Table] = {}
        self._logs: dict[int, list[PartitionLog]] = {}  # by topic, one a partition
        self._producers: Handles[Producer] = Handles()
        self._subscriptions: Handles[Subscription] = Handles()
        self._start_extensions()
        self._transactions: list[int] = []  # threads inside the block of one (transaction.py)
        self._local = threading.local()  # the SQL session of each thread
        self._sessions: Handles[SqlSession] = Handles()  # those that may have a transaction open
        self._session: Session | None = None
        self._views: Views | None = None
        self._closed = False
        self._open_storage(durability)

    def _open_storage(self, durability: str) -> None:
        catalogs: list[Catalog] = []

        def live_topics() -> dict[int, Schema]:
            if not catalogs:
                new = not os.path.exists(os.path.join(self.path, "FORMAT"))  # it comes last, after the catalog
                catalogs.append(Catalog(os.path.join(self.path, "catalog.sqlite"), read_only=self.read_only, make=new))
            return {info.id: info.schema for info in catalogs[0].topics()}

        try:
            self._store = Store.open(
                self.path, durability=durability, read_only=self.read_only, create=not self.read_only,
                live_topics=live_topics, seal_after=lambda topic_id: seal_after_us(catalogs[0].topics(), topic_id),
            )  # fmt: skip
            try:
                live_topics()
            except BaseException:
                self._store.leave(live_topics)
                self._store.close()
                raise
        except BaseException:
            if catalogs:
                catalogs[0].close()
            self._remove_temporary()
            raise
        self._catalog = catalogs[0]
        self._live_topics = live_topics
        self._generation = self._catalog.generation()
        self._store.retention.add(self._limited_logs)
        if not self.read_only:
            self._sweep_unfinished()
            if self._catalog.views():
                self._views_of().start()

    # --- topics -------------------------------------------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        columns: Mapping[str, str] | Schema | None = None,
        *,
        like: Any = None,
        key: str | None = None,
        event_time: str | None = None,
        watermark: str | dt.timedelta | None = None,
        idle_after: str | dt.timedelta | None = None,
        max_future: str | dt.timedelta | None = None,
        partitions: int = 1,
        if_not_exists: bool = False,
        **options: Any,
    ) -> Topic:
        """Creates a topic and returns its handle.

        `columns` maps names to SQL types ("DOUBLE", "VARCHAR NOT NULL", "DECIMAL(10,2)"); `like` infers them from a
        dict or a table instead. `key` and `event_time` name columns; `watermark` is how far events may come out of
        order ("5 seconds"). An event's partition follows from its key as in Kafka (partitioner.py).

        Options, each for the topic as a whole and split evenly among its partitions: `retention` ("7 days": events go
        whose event time, or append time in a topic without one, is older), `max_bytes` ("2GB" of segment files) and
        `max_rows`, and `on_full`: "oldest" (the default: the oldest events go) or "reject" (appends raise TopicFull).
        `seal_after` ("1 hour" if not given, or "never"): events are compressed at that age, or earlier when a segment
        is full.
        TopicExists unless `if_not_exists`, SchemaMismatch if that one has other `columns`, key or event_time;
        UsageError naming what is wrong with a name, type or option.
        """
        self._check_writable()
        chosen = checked_options({**options, "partitions": partitions})
        if (columns is None) == (like is None):
            raise UsageError("create_topic needs either columns, a dict of name to type, or like, a sample")
        schema = schema_of(columns) if columns is not None else inferred_schema(like)
        delays = [
            None if v is None else parse_duration_us(v, n)
            for n, v in (("watermark", watermark), ("idle_after", idle_after), ("max_future", max_future))
        ]
        lateness = (delays[0], delays[1], delays[2])
        made = self._create_topic(name, schema, key, event_time, lateness, if_not_exists, chosen)
        if columns is not None:
            require_same(made._info, schema, key, event_time)
        return made

    def _create_topic(
        self, name: str, schema: Schema, key: str | None, event_time: str | None,
        delays: tuple[int | None, int | None, int | None], if_not_exists: bool, options: dict[str, str],
    ) -> Topic:  # fmt: skip
        self._check_writable()
        for option, column in (("key", key), ("event_time", event_time)):
            if column is not None and not isinstance(column, str):
                raise UsageError(f"{option} is the name of one column, not {column!r}")
        key = None if key is None else schema.fields[schema.index_of(key)].name
        if event_time is not None:
            field = schema.fields[schema.index_of(event_time)]
            if field.type.name != "TIMESTAMP":
                raise UsageError(f"event_time column {field.name!r} is {field.type}; it must be TIMESTAMP")
            event_time = field.name
        elif any(delay is not None for delay in delays):
            raise UsageError("a watermark needs an event_time column")
        with self._lock:
            try:
                info = self._catalog.create_topic(
                    name, schema, key=key, event_time=event_time, watermark_delay_us=delays[0],
                    idle_after_us=delays[1], max_future_us=delays[2], kind="topic", options=options,
                )  # fmt: skip
            except TopicExists:
                if not if_not_exists:
                    raise
                return self.topic(name)
            self._refresh_catalog()
            return self._handle(info)

    def topic(self, name: str) -> Topic:
        """The handle of a topic (found without case). TopicNotFound lists near names."""
        self._check_open()
        if not isinstance(name, str):
            raise UsageError(f"a topic name is a string, not {name!r}")
        self._refresh_catalog()
        info = self._catalog.topic(name)
        if info.kind == "table":
            raise UsageError(f"{info.name!r} is a table: db.table({info.name!r})")
        return self._handle(info)

    def alter_topic(self, name: str, **options: Any) -> None:
        """Changes options of a topic: `retention`, `max_bytes`, `max_rows`, `on_full`, `seal_after`; None takes one
        away.

        Every process follows within 50 ms. UsageError naming what is wrong, TopicNotFound.
        """
        self._check_writable()
        with self._lock:
            self._refresh_catalog()
            info = self._catalog.topic(name)
            if info.kind != "topic":
                raise UsageError(f"{info.name!r} is a {info.kind}: it has no options that can be changed")
            self._catalog.set_options(info.name, checked_options(options, info.options))
            self._refresh_catalog()

    def retain(self, *, trust_clock: bool = False) -> dict[str, object]:
        """Applies the limits of all topics now; it also happens by itself every few seconds.

        Nothing is removed by age while the wall clock is in doubt (it jumped, or is more than an hour ahead of the
        newest event), unless `trust_clock`. Returns what was done, and whether the clock was in doubt.
        """
        self._check_writable()
        self._refresh_catalog()
        report = self._store.retention.run(trust_clock=trust_clock)
        return {field: getattr(report, field) for field in report.__slots__}

    def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        self._check_open()
        self._refresh_catalog()
        return sorted(info.name for info in self._catalog.topics() if info.kind == "topic" and not info.is_hidden)

    def drop_topic(self, name: str, *, if_exists: bool = False) -> None:
        """Removes a topic and its events for ever. UsageError while a view reads it."""
        self._drop(name, "topic", if_exists)

    # --- tables -------------------------------------------------------------------------------------------------------

    def create_table(
        self, name: str, columns: Mapping[str, str] | Schema, *, primary_key: str | Sequence[str] | None = None,
        if_not_exists: bool = False,
    ) -> Table:  # fmt: skip
        """Creates a table, a topic that keeps one current row for each key, and returns its handle.

        `columns` maps names to SQL types; `primary_key` names the key's column or columns, which become NOT NULL.
        Without one every row that is inserted is a row of its own, and SQL alone changes it. TopicExists unless
        `if_not_exists`, SchemaMismatch if that one is another table; UsageError for a name or type.
        """
        self._check_writable()
        schema = schema_of(columns)
        positions = key_positions(schema, primary_key)
        made = self._create_table(name, schema, positions, if_not_exists=if_not_exists)
        require_same(made._info, schema, primary_key=positions)
        return made

    def _create_table(
        self, name: str, schema: Schema, key: tuple[int, ...], *, if_not_exists: bool,
        defaults: Mapping[int, Any] | None = None,
    ) -> Table:  # fmt: skip
        self._check_writable()
        with self._lock:
            try:
                info = add_table(self._catalog, name, schema, key, defaults or {})
            except TopicExists:
                if not if_not_exists:
                    raise
                return self.table(name)
            self._refresh_catalog()
            return self._table_handle(info)

    def table(self, name: str) -> Table:
        """The handle of a table (found without case). TopicNotFound lists near names."""
        self._check_open()
        if not isinstance(name, str):
            raise UsageError(f"a table name is a string, not {name!r}")
        self._refresh_catalog()
        info = self._catalog.topic(name)
        if info.kind != "table":
            raise UsageError(f"{info.name!r} is a topic: db.topic({info.name!r})")
        return self._table_handle(info)

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        self._check_open()
        self._refresh_catalog()
        return sorted(info.name for info in self._catalog.topics() if info.kind == "table" and not info.is_hidden)

    def drop_table(self, name: str, *, if_exists: bool = False) -> None:
        """Removes a table and its rows for ever."""
        self._drop(name, "table", if_exists)

    def _table_handle(self, info: TopicInfo) -> Table:
        from eventdb.table import Table

        with self._lock:
            table = self._tables.get(info.id)
            if table is None:
                table = self._tables[info.id] = Table(self, info)
            return table

    def _handle(self, info: TopicInfo) -> Topic:
        with self._lock:
            topic = self._topics.get(info.id)
            if topic is None:
                kind = Topic
                if info.partitions > 1:
                    from eventdb.partitioned import PartitionedTopic

                    kind = PartitionedTopic
                topic = self._topics[info.id] = kind(self, info)
                if self.read_only:
                    topic._retire(ReadOnlyError(f"{self.path!r} is open read-only", path=self.path))
            return topic

    def _logs_of(self, info: TopicInfo) -> list[PartitionLog]:
        """The logs of a topic's partitions; each has its headers' log beside it."""
        with self._lock:
            logs = self._logs.get(info.id)
            if logs is None:
                event_time = None if info.event_time is None else info.schema.index_of(info.event_time)
                limits = Limits.of(info.name, info.options)
                logs = [
                    self._store.log(
                        info.id, info.schema, event_time, number, limits=limits, primary_key=info.primary_key
                    )
                    for number in range(info.partitions)
                ]
                if info.kind == "topic":
                    for log in logs:
                        log.beside = self._store.log(info.id, HEADERS, None, log.partition | BESIDE)
                self._logs[info.id] = logs
            return logs

    def _log_of(self, info: TopicInfo) -> PartitionLog:
        return self._logs_of(info)[0]

    def _logs_by_id(self, topic_id: int) -> list[PartitionLog]:
        logs = self._logs.get(topic_id)
        if logs is None:
            info = self._catalog.topic_by_id(topic_id)
            if info is None:
                raise TopicNotFound(f"the topic with id {topic_id} was dropped")
            logs = self._logs_of(info)
        return logs

    def _log_by_id(self, topic_id: int) -> PartitionLog:
        return self._logs_by_id(topic_id)[0]

    def _limited_logs(self) -> Iterator[PartitionLog]:
        """What retention looks at."""
        for info in self._catalog.topics():
            if info.options and info.kind == "topic":
                yield from (log for log in self._logs_of(info) if log.limits is not None)

    def _looked_for_ddl(self, since_ns: int) -> int:
        """When this handle of a topic or table, which did at `since_ns`, has looked for DDL of other processes: now, if
        that was more than DDL_CHECK_NS ago."""
        now = time.monotonic_ns()
        if now - since_ns <= DDL_CHECK_NS:
            return since_ns
        self._refresh_catalog()
        return now

    def _refresh_catalog(self) -> None:
        """Follows DDL of other handles and processes: retires topics that are gone, notices new views."""
        self._check_open()
        generation = self._catalog.generation()
        if generation == self._generation:
            return
        with self._lock:
            self._generation = generation
            live = {info.id: info for info in self._catalog.topics()}
            for id, topic in list(self._topics.items()):
                if id not in live:
                    topic._retire(TopicNotFound(f"topic {topic.name!r} was dropped", name=topic.name))
                    del self._topics[id]
            for id, table in list(self._tables.items()):
                if id not in live:
                    table._retire(TopicNotFound(f"table {table.name!r} was dropped", name=table.name))
                    del self._tables[id]
            for id in list(self._logs):
                if id not in live:
                    del self._logs[id]
                    continue
                for log in self._logs[id]:
                    self._store.retention.limit(log, Limits.of(live[id].name, live[id].options))
            if not self.read_only and self._catalog.views():
                self._views_of().start()
            elif self._views is not None:
                self._views.refresh()

    # --- transactions, snapshots, SQL ---------------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """`with db.transaction() as tx:` appends to many topics in one commit; an exception leaves nothing behind."""
        from eventdb.transaction import Transaction

        self._check_writable()
        return Transaction(self)

    def snapshot(self) -> Snapshot:
        """`with db.snapshot() as snap:` runs many queries over one consistent cut of everything."""
        from eventdb.snapshot import Snapshot

        self._check_open()
        return Snapshot(self)

    def sql(
        self, text: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None, *, timeout: float | None = None,
        **named: Any,
    ) -> Result:  # fmt: skip
        """Runs one statement. `?` takes a list or tuple, `$name` a dict or keyword arguments.

        BEGIN opens a transaction of the calling thread, until its COMMIT or ROLLBACK; see `session` for one of its own.

        ParseError, BindError, UnsupportedSQL and EvaluationError carry line and column; QueryTimeout after `timeout`
        seconds; QueryCancelled when another thread calls `interrupt`. SUBSCRIBE goes through `subscribe`.
        """
        return self._run(text, parameters, named, timeout, None)

    def session(self) -> SqlSession:
        """`with db.session() as session:` runs statements with a transaction of their own: session.sql("BEGIN").

        Threads may hand it to each other. What is not committed when it is closed was never there.
        """
        from eventdb.sql_session import SqlSession

        self._check_open()
        made = SqlSession(self)
        self._sessions.add(made)
        return made

    def _run(
        self, text: str, parameters: Any, named: dict[str, Any], timeout: float | None, snapshot: Any,
        session: SqlSession | None = None,
    ) -> Result:  # fmt: skip
        self._check_open()
        if parameters is not None and named:
            raise UsageError("pass parameters as one sequence or dict, or as keyword arguments, not both")
        self._refresh_catalog()
        if session is None and snapshot is None:
            from eventdb.sql_session import session_of_thread

            session = session_of_thread(self)
        return self._session_of().run(text, named or parameters, timeout, snapshot, session)

    def interrupt(self) -> None:
        """Cancels every query of this handle that runs now, from another thread; they raise QueryCancelled."""
        if self._session is not None:
            self._session.interrupt()

    def _session_of(self) -> Session:
        if self._session is None:
            from eventdb.session import Session

            with self._lock:
                if self._session is None:
                    self._session = Session(self)
        return self._session

    # --- continuous queries -------------------------------------------------------------------------------------------

    def subscribe(
        self, query: str, *, start: str | int | dt.datetime | None = None, after: str | None = None,
        progress: bool = False,
    ) -> Subscription:  # fmt: skip
        """The changes of a topic, a view or a query, from now on: iterate over it, in a `with` block.

        `query` is a name, a SELECT ... [EMIT CHANGES] or a SUBSCRIBE statement. `start` is as in Topic.read: "earliest"
        (every change since the first event), "latest" (also "now"), an offset or a datetime; or "snapshot" (current
        content first; the default of a name and of SUBSCRIBE). `after`: goes on where the subscription to the same was
        whose `token` that is (InvalidToken, TokenExpired). `progress`: ProgressMessages say when everything is in.
        """
        self._check_open()
        self._refresh_catalog()
        return self._session_of().subscribe(query, start, after, progress)

    def wait(self, view: str, position: Position | int, timeout: float | None = None) -> None:
        """Returns once the stored content of `view` includes the event at `position`; TimeoutError after that time."""
        self._check_open()
        self._refresh_catalog()
        self._views_of().wait(view, position, timeout)

    def _views_of(self) -> Views:
        if self._views is None:
            from eventdb.views import Views

            with self._lock:
                if self._views is None:
                    self._views = Views(self)
        return self._views

    def close(self) -> None:
        """Flushes producers, ends subscriptions and queries, and closes: its handles raise ClosedError after.
        QueryTimeout if a query does not end: call it again."""
        with self._closing:
            if not self._closed:
                self._close()

    def _close(self) -> None:
        errors: list[EventDBError] = []
        for producer in self._producers:
            try:
                producer.close()
            except EventDBError as error:
                errors.append(error)
        for subscription in self._subscriptions:
            subscription.close()
        if self._session is not None:
            self._session.close()  # they use the snapshots of sessions
        for session in self._sessions:
            session.close()
        if self._views is not None:
            self._views.stop()
        self._store.retention.remove(self._limited_logs)
        with self._lock:
            self._closed = True
            handles: list[Topic | Table] = [*self._topics.values(), *self._tables.values()]
            for handle in handles:
                handle._retire(ClosedError(f"the database {self.path!r} is closed"))
            self._topics.clear()
            self._tables.clear()
            self._logs.clear()
        try:
            self._store.leave(self._live_topics)
            self._store.close()
        finally:
            self._catalog.close()
            self._remove_temporary()
        if errors:
            raise errors[0]

    def _remove_temporary(self) -> None:
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            import shutil

            shutil.rmtree(temporary, ignore_errors=True)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the database {self.path!r} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise ReadOnlyError(f"{self.path!r} is open read-only", path=self.path)

    def __enter__(self) -> Database:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({self.path!r}{', closed' if self._closed else ''})"
