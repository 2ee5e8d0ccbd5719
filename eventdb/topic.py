"""Topic: a handle to append to and read from one topic.

The append path is this file, the row codec it calls and storage: nothing else runs between `topic.append` and the
journal. A handle that must not be used any more (its topic was dropped, its database closed) gets another `_encode`,
so the fast path has no test for it.
"""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress

from eventdb.config import PRODUCER_LINGER_MS, PRODUCER_MAX_ROWS
from eventdb.errors import EventDBError, OffsetOutOfRange, ReadOnlyError, UsageError
from eventdb.event import Event, Position
from eventdb.row import RowCodec
from eventdb.values import datetime_to_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from eventdb.catalog import TopicInfo
    from eventdb.database import Database
    from eventdb.producer import Producer
    from eventdb.schema import Schema

READ_CHUNK_ROWS = 1_024
_DDL_CHECK_NS = 50_000_000


class Topic:
    """One topic of an open database. Safe to use from several threads."""

    __slots__ = (
        "__weakref__",
        "_append_row",
        "_checked_ns",
        "_codec",
        "_database",
        "_encode",
        "_info",
        "_log",
        "_store",
    )

    def __init__(self, database: Database, info: TopicInfo) -> None:
        self._database = database
        self._info = info
        self._store = database._store
        self._log = database._log_of(info)
        self._codec = RowCodec(info.schema)
        self._encode = self._codec.encode
        self._append_row = self._store.append_row
        self._checked_ns = 0
        if info.kind != "topic":
            self._retire(UsageError(f"{info.name!r} is maintained by its query: append to its topic instead"))

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def schema(self) -> Schema:
        return self._info.schema

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {self.schema!r})"

    def __len__(self) -> int:
        """The number of events."""
        start, end = self.offsets()
        return end - start

    def _retire(self, error: EventDBError) -> None:
        def refuse(event: object) -> tuple[Any, ...]:
            raise error

        self._encode = refuse

    def _check_ddl(self) -> None:
        """At most every 50 ms: has another process dropped the topic?"""
        now = time.monotonic_ns()
        if now - self._checked_ns > _DDL_CHECK_NS:
            self._database._refresh_catalog()
            self._checked_ns = now

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, event: Mapping[str, Any]) -> Position:
        """Appends one event in one commit; when it returns, the event is durable in the database's durability mode.

        Columns that are missing are NULL. SchemaMismatch (unknown column, NULL in NOT NULL, wrong type or range) stores
        nothing. Costs one flush in `commit` mode, about 10 us otherwise.
        """
        if time.monotonic_ns() - self._checked_ns > _DDL_CHECK_NS:
            self._check_ddl()
        return Position(0, self._append_row(self._log, self._encode(event)))

    def append_many(self, events: Iterable[Mapping[str, Any]]) -> list[Position]:
        """Appends all events in one commit, or none of them when one does not fit."""
        self._check_ddl()
        encode = self._encode
        if isinstance(events, dict) or hasattr(events, "keys"):
            raise UsageError("append_many takes a list of dicts; use append for one event, append_batch for columns")
        rows = [encode(event) for event in events]
        if not rows:
            return []
        with self._store.write() as transaction:
            first = transaction.append_rows(self._log, rows)
        return [Position(0, offset) for offset in range(first, first + len(rows))]

    def append_batch(self, data: Any) -> range:
        """Appends a table in one commit and returns the offsets of its rows.

        `data` is a dict of arrays, an Arrow table or record batch, a pandas or Polars frame, or anything with the Arrow
        PyCapsule interface. Columns are matched by name; missing ones are NULL. SchemaMismatch stores nothing.
        """
        from eventdb.arrow import columns_for

        self._check_ddl()
        if self._encode is not self._codec.encode:
            self._encode({})  # raises why this handle is retired
        columns = columns_for(data, self._info.schema)
        rows = len(columns[0])
        if not rows:
            end = self.offsets()[1]
            return range(end, end)
        with self._store.write() as transaction:
            first = transaction.append_columns(self._log, columns)
        return range(first, first + rows)

    def producer(
        self, *, linger_ms: float = PRODUCER_LINGER_MS, max_rows: int = PRODUCER_MAX_ROWS, id: str | None = None
    ) -> Producer:
        """A background writer that groups events into commits: `send` returns at once, its future resolves when
        durable.

        A batch is committed `linger_ms` after its first event or when it holds `max_rows`. With an `id` the producer is
        idempotent: see Producer.
        """
        from eventdb.producer import Producer

        return Producer(self, linger_ms=linger_ms, max_rows=max_rows, id=id)

    # --- reading ------------------------------------------------------------------------------------------------------

    def offsets(self) -> tuple[int, int]:
        """(earliest offset kept, offset the next event will get)."""
        self._database._check_open()
        with self._store.snapshot() as snapshot:
            start, end = snapshot.offsets(self._log)
            return start, end

    def read(
        self,
        start: str | int | dt.datetime = "earliest",
        *,
        stop: int | dt.datetime | None = None,
        limit: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Event]:
        """Events in offset order.

        `start` is "earliest", "latest", an offset (negative counts from the end) or a datetime (the first event at or
        after that event time). `stop` is an offset (exclusive) or a datetime (ends before the first event, from the
        start on, at or after it). Without `follow` the end is fixed when reading begins; with it, reading waits for
        more events and ends after `timeout` seconds without one (None = never). OffsetOutOfRange if an offset lies
        outside the log.
        """
        self._database._check_open()
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise UsageError(f"limit is a row count of 0 or more, not {limit!r}")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
            raise UsageError(f"timeout is a number of seconds of 0 or more, not {timeout!r}")
        earliest, latest = self.offsets()
        first = self._resolve(start, "start", earliest, latest)
        stop_us = datetime_to_us(stop) if isinstance(stop, dt.datetime) else None
        last = None
        if stop is not None and stop_us is None:
            last = self._resolve(stop, "stop", earliest, latest if not follow else 1 << 62)
        if not follow:
            last = latest if last is None else min(last, latest)
        return self._read(first, last, stop_us, limit, follow, timeout)

    def _resolve(self, place: object, what: str, earliest: int, latest: int) -> int:
        if place == "earliest":
            return earliest
        if place == "latest":
            return latest
        if isinstance(place, dt.datetime):
            return self._find_time(datetime_to_us(place), earliest, latest)
        if isinstance(place, bool) or not isinstance(place, int):
            raise UsageError(f"{what} is 'earliest', 'latest', an offset or a datetime, not {place!r}")
        offset = place if place >= 0 else max(earliest, latest + place)
        if not earliest <= offset <= latest:
            raise OffsetOutOfRange(
                f"topic {self.name!r} holds offsets {earliest} to {latest} (exclusive): {what} {place} is outside",
                path=self._store.path,
                offset=offset,
                earliest=earliest,
                latest=latest,
            )
        return offset

    def _time_of(self) -> Callable[[int, tuple[Any, ...]], int | None]:
        column = self._log.event_time
        return (lambda append_us, row: append_us) if column is None else (lambda append_us, row: row[column])

    def _find_time(self, time_us: int, start: int, end: int) -> int:
        time_of = self._time_of()
        with self._store.snapshot() as snapshot:
            for chunk in snapshot.rows(self._log, start, end):
                for offset, append_us, row in chunk:
                    at = time_of(append_us, row)
                    if at is not None and at >= time_us:
                        return offset
        return end

    def _read(
        self,
        position: int,
        last: int | None,
        stop_us: int | None,
        limit: int | None,
        follow: bool,
        timeout: float | None,
    ) -> Iterator[Event]:
        names = {name: i for i, name in enumerate(self.schema.names)}
        key = None if self._info.key is None else self.schema.index_of(self._info.key)
        decode, event_time, time_of = self._codec.decode, self._log.event_time, self._time_of()
        left = -1 if limit is None else limit
        while left:
            commit, rows = self._chunk(position, last)
            if not rows:
                if not follow or (last is not None and position >= last):
                    return
                if not self._wait(commit, position, timeout):
                    return
                continue
            for offset, append_us, row in rows:
                if stop_us is not None:
                    at = time_of(append_us, row)
                    if at is not None and at >= stop_us:
                        return
                yield Event(names, decode(row), offset, 0, append_us, key, event_time)
                position = offset + 1
                left -= 1
                if not left:
                    return

    def _chunk(self, position: int, last: int | None) -> tuple[int, list[tuple[int, int, tuple[Any, ...]]]]:
        """The commit id looked at and up to READ_CHUNK_ROWS rows; no snapshot is held while the caller works."""
        self._database._check_open()
        if last is None:
            tail = self._store.tail(self._log, position)
            if tail is not None:
                return tail.commit_id, tail.rows(self._log)
        with self._store.snapshot() as snapshot:
            earliest, end = snapshot.offsets(self._log)
            position = max(position, earliest)
            stop = min(end if last is None else min(end, last), position + READ_CHUNK_ROWS)
            rows: list[tuple[int, int, tuple[Any, ...]]] = []
            if position < stop:
                for chunk in snapshot.rows(self._log, position, stop):
                    rows.extend(chunk)
            return snapshot.commit_id, rows

    def _wait(self, commit: int, position: int, timeout: float | None) -> bool:
        """Whether there are events from `position` on before `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            # In slices of a second, so that closing the database in another thread ends a reader that waits for ever.
            commit = self._store.wait(commit, 1.0 if left is None else min(left, 1.0))
            self._check_ddl()
            if self._encode is not self._codec.encode and self._info.kind == "topic":
                with suppress(ReadOnlyError):  # a read-only handle cannot append but reads on
                    self._encode({})  # raises: dropped or closed meanwhile
            if self._store.tail(self._log, position) is not None or self.offsets()[1] > position:
                return True
