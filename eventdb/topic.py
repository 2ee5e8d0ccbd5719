"""Topic: a handle to append to and read from one topic.

The append path is this file, the row codec it calls and storage: nothing else runs between `topic.append` and the
journal. A handle that must not be used any more (its topic was dropped, its database closed) gets another `_encode`,
so the fast path has no test for it.
"""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress

from eventdb.config import DDL_CHECK_NS, PRODUCER_LINGER_MS, PRODUCER_MAX_ROWS
from eventdb.errors import EventDBError, InternalError, OffsetOutOfRange, ReadOnlyError, UsageError
from eventdb.event import Event, EventKind, EventWithHeaders, Position, Positions
from eventdb.headers import decode_headers, encode_headers
from eventdb.partitioner import check_partition
from eventdb.row import RowCodec
from eventdb.values import datetime_to_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from eventdb.batch import Column
    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.headers import Headers, Pairs
    from eventdb.partitioned import BatchPositions
    from eventdb.producer import Producer
    from eventdb.schema import Schema
    from eventdb.storage import PartitionLog, StoreSnapshot, WriteTransaction
    from eventdb.storage.segment.segment import Lists

FIRST_CHUNK_ROWS, READ_CHUNK_ROWS = 64, 4_096  # rows read together: few first, for who wants a few


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
        "_logs",
        "_plain_since",
        "_store",
    )

    def __init__(self, database: Database, info: TopicInfo) -> None:
        self._database = database
        self._info = info
        self._store = database._store
        self._logs = database._logs_of(info)
        self._log = self._logs[0]
        self._codec = RowCodec(info.schema)
        self._encode = self._codec.encode
        self._append_row = self._store.append_row
        self._checked_ns = 0
        # The index transaction up to which a partition is known to have no headers: then new rows need no snapshot.
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

    @property
    def partitions(self) -> int:
        """The number of partitions; it never changes."""
        return len(self._logs)

    def __len__(self) -> int:
        """The number of events."""
        self._database._check_open()
        with self._store.snapshot() as snapshot:
            return sum(map(snapshot.held_rows, self._logs))

    def _one(self, partition: int | None) -> PartitionLog:
        """The log of a partition, which must be named if there are several."""
        if partition is None:
            if len(self._logs) > 1:
                raise UsageError(
                    f"topic {self.name!r} has {len(self._logs)} partitions, and offsets belong to one: "
                    "pass partition=..."
                )
            return self._log
        return self._logs[check_partition(partition, len(self._logs), self.name)]

    def _retire(self, error: EventDBError) -> None:
        def refuse(event: object) -> tuple[Any, ...]:
            raise error

        self._encode = refuse

    def _check_live(self) -> None:
        if self._encode is not self._codec.encode:
            self._encode({})  # raises why this handle is retired

    def _check_ddl(self) -> None:
        """Has another process dropped the topic?"""
        self._checked_ns = self._database._looked_for_ddl(self._checked_ns)

    def _check_write(self) -> None:
        """The same, and that no transaction of this thread is open; as long as any is, the next append asks again."""
        self._check_ddl()
        if self._database._transactions:
            from eventdb.transaction import refuse_beside

            self._checked_ns = 0
            refuse_beside(self._database, f"an append to topic {self.name!r}", "tx.append(topic, event)")

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(
        self, event: Mapping[str, Any], *, partition: int | None = None, headers: Headers | None = None
    ) -> Position:
        """Appends one event in one commit; when it returns, the event is durable in the database's durability mode.

        Columns that are missing are NULL. SchemaMismatch (unknown column, NULL in NOT NULL, wrong type or range) stores
        nothing; TopicFull where the topic's limits say so. Costs one flush in `commit` mode, about 10 us otherwise.

        The event goes to `partition`, else to the one its key gives (partitioner.py); events without a key take turns,
        one partition a commit. `headers` is a dict of str to bytes or None, or a list of such pairs.
        """
        if time.monotonic_ns() - self._checked_ns > DDL_CHECK_NS:
            self._check_write()
        if partition is not None or headers is not None:
            return self._append_all([self._encode(event)], partition, None if headers is None else [headers])[0]
        return Position(0, self._append_row(self._log, self._encode(event)))

    def append_many(
        self, events: Iterable[Mapping[str, Any]], *, partition: int | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> Sequence[Position]:  # fmt: skip
        """Appends all events in one commit, or none of them when one does not fit. `headers` has one entry (or None)
        for each event."""
        self._check_write()
        self._check_live()
        if isinstance(events, dict) or hasattr(events, "keys"):
            raise UsageError("append_many takes a list of dicts; use append for one event, append_batch for columns")
        given = events if isinstance(events, list) else list(events)
        if partition is not None:
            check_partition(partition, len(self._logs), self.name)
        encoded = self._encoded(headers, len(given))
        if not given:
            return []
        cells = self._codec.encode_all(given)
        with self._store.write() as transaction:
            return self._place_cells(transaction, cells, partition, encoded)

    def _append_all(
        self, rows: list[tuple[Any, ...]], partition: int | None, headers: Sequence[Headers | None] | None
    ) -> Sequence[Position]:
        if partition is not None:
            check_partition(partition, len(self._logs), self.name)
        encoded = self._encoded(headers, len(rows))
        if not rows:
            return []
        with self._store.write() as transaction:
            return self._place_rows(transaction, rows, partition, encoded)

    def append_batch(
        self, data: Any, *, partition: int | None = None, headers: Sequence[Headers | None] | None = None
    ) -> range | BatchPositions:
        """Appends a table in one commit and returns the offsets of its rows; in a topic of several partitions their
        positions, in row order.

        `data` is a dict of arrays, an Arrow table or record batch, a pandas or Polars frame, or anything with the Arrow
        PyCapsule interface. The index of a pandas frame is a column where it has a name, and dropped where it has none:
        `reset_index()` makes it one. Columns are matched by name; missing ones are NULL. SchemaMismatch stores nothing.
        """
        from eventdb.arrow import columns_for
        from eventdb.storage.segment.columns import shared_dictionaries

        self._check_write()
        self._check_live()
        if partition is not None:
            check_partition(partition, len(self._logs), self.name)
        columns = columns_for(data, self._info.schema, shared_dictionaries(self._log))
        encoded = self._encoded(headers, len(columns[0]))
        if not len(columns[0]):
            return range(0, 0) if len(self._logs) > 1 else range(end := self.offsets()[1], end)
        with self._store.write() as transaction:
            return self._place_columns(transaction, columns, partition, encoded)

    @staticmethod
    def _encoded(headers: Sequence[Headers | None] | None, rows: int) -> list[bytes] | None:
        """The headers of `rows` rows as they are stored, None if there are none."""
        if headers is None:
            return None
        if hasattr(headers, "keys") or not hasattr(headers, "__len__"):
            raise UsageError("headers of several events is a list with one entry, or None, for each event")
        if len(headers) != rows:
            raise UsageError(f"{len(headers)} entries of headers do not fit {rows} events")
        encoded = [b"" if one is None else encode_headers(one) for one in headers]
        return encoded if any(encoded) else None

    def _place_rows(
        self, transaction: WriteTransaction, rows: list[tuple[Any, ...]], partition: Any, headers: list[bytes] | None
    ) -> Sequence[Position]:
        """The rows are part of the transaction; where they will lie. `partition` is one, or one (or None) a row."""
        first = self._place_on(transaction, self._log, rows, headers)
        return Positions(0, range(first, first + len(rows)))

    def _place_cells(
        self, transaction: WriteTransaction, cells: list[list[Any]], partition: Any, headers: list[bytes] | None
    ) -> Sequence[Position]:
        """_place_rows() for rows given as columns of physical values."""
        first = transaction.append_cells(self._log, cells)
        self._place_headers(transaction, self._log, first, headers)
        return Positions(0, range(first, first + len(cells[0])))

    def _place_columns(
        self, transaction: WriteTransaction, columns: list[Column], partition: int | None, headers: list[bytes] | None
    ) -> range | BatchPositions:
        first = transaction.append_columns(self._log, columns)
        self._place_headers(transaction, self._log, first, headers)
        return range(first, first + len(columns[0]))

    def _place_on(
        self, transaction: WriteTransaction, log: PartitionLog, rows: list[tuple[Any, ...]], headers: list[bytes] | None
    ) -> int:
        first = transaction.append_rows(log, rows)
        self._place_headers(transaction, log, first, headers)
        return first

    @staticmethod
    def _place_headers(
        transaction: WriteTransaction, log: PartitionLog, first: int, headers: list[bytes] | None
    ) -> None:
        if headers is not None and log.beside is not None:
            beside = [(first + i, one) for i, one in enumerate(headers) if one]
            if beside:
                transaction.append_beside(log, beside)

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

    def offsets(self, partition: int | None = None) -> tuple[int, int]:
        """(earliest offset kept, offset the next event will get); a topic of several partitions needs `partition`."""
        return self._offsets(self._one(partition))

    def _offsets(self, log: PartitionLog) -> tuple[int, int]:
        self._database._check_open()
        with self._store.snapshot() as snapshot:
            start, end = snapshot.offsets(log)
            return start, end

    def delete_before(self, offset: int, *, partition: int | None = None) -> int:
        """Removes the events below `offset` for good, as Kafka's DeleteRecords; returns the earliest offset kept.

        Their space goes back to the file system in whole segments, once no older reader needs them; it works on a full
        disk. OffsetOutOfRange beyond the end.
        """
        self._check_ddl()
        if self._encode is not self._codec.encode:
            self._encode({})  # raises why this handle is retired
        log = self._one(partition)
        earliest, latest = self._offsets(log)
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise UsageError(f"offset is an integer, not {offset!r}")
        if offset > latest or offset < 0:
            raise self._out_of_range(log, "offset", offset, earliest, latest)
        return self._store.retention.trim(log, offset)

    def read(
        self,
        start: str | int | dt.datetime | Mapping[int, int] = "earliest",
        *,
        stop: int | dt.datetime | None = None,
        limit: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
        partition: int | None = None,
    ) -> Iterator[Event]:
        """Events in offset order; of all partitions, merged by append time (then by partition), or of one.

        `start` is "earliest", "latest", an offset (negative counts from the end) or a datetime (the first event at or
        after that event time). `stop` is an offset (exclusive) or a datetime (ends before the first event, from the
        start on, at or after it). Offsets belong to one partition: to read several from offsets of their own, `start`
        is a dict of partition to offset. Without `follow` the end is fixed when reading begins; with it, reading waits
        for more events and ends after `timeout` seconds without one (None = never). OffsetOutOfRange if an offset lies
        outside the log, or if events were removed before they were read.
        """
        self._database._check_open()
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise UsageError(f"limit is a row count of 0 or more, not {limit!r}")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
            raise UsageError(f"timeout is a number of seconds of 0 or more, not {timeout!r}")
        if partition is None and len(self._logs) > 1:
            return self._read_merged(start, stop, limit, follow, timeout)
        log = self._one(partition)
        if not isinstance(start, str | int | dt.datetime) and hasattr(start, "get"):
            start = start.get(log.partition, "earliest")
        first, last, stop_us = self._range(log, start, stop, follow)
        return self._read(log, first, last, stop_us, limit, follow, timeout, start == "earliest")

    def _read_merged(
        self, start: Any, stop: Any, limit: int | None, follow: bool, timeout: float | None
    ) -> Iterator[Event]:
        raise InternalError("a topic of one partition has nothing to merge")

    def _range(self, log: PartitionLog, start: Any, stop: Any, follow: bool) -> tuple[int, int | None, int | None]:
        """(first offset, end offset or None, end time or None) of a reading."""
        earliest, latest = self._offsets(log)
        first = self._resolve(log, start, "start", earliest, latest)
        stop_us = datetime_to_us(stop) if isinstance(stop, dt.datetime) else None
        last = None
        if stop is not None and stop_us is None:
            last = self._resolve(log, stop, "stop", earliest, latest if not follow else 1 << 62)
        if not follow:
            last = latest if last is None else min(last, latest)
            if stop_us is not None:
                return first, self._find_time(log, stop_us, first, last), None
        return first, last, stop_us

    def _resolve(self, log: PartitionLog, place: object, what: str, earliest: int, latest: int) -> int:
        if place == "earliest":
            return earliest
        if place == "latest":
            return latest
        if isinstance(place, dt.datetime):
            return self._find_time(log, datetime_to_us(place), earliest, latest)
        if isinstance(place, bool) or not isinstance(place, int):
            raise UsageError(f"{what} is 'earliest', 'latest', an offset or a datetime, not {place!r}")
        offset = place if place >= 0 else max(earliest, latest + place)
        if not earliest <= offset <= latest:
            raise self._out_of_range(log, what, place, earliest, latest)
        return offset

    def _out_of_range(self, log: PartitionLog, what: str, offset: int, earliest: int, latest: int) -> OffsetOutOfRange:
        where = f" in partition {log.partition}" if len(self._logs) > 1 else ""
        return OffsetOutOfRange(
            f"topic {self.name!r} holds offsets {earliest} to {latest} (exclusive){where}: {what} {offset} is outside",
            path=self._store.path,
            offset=offset,
            earliest=earliest,
            latest=latest,
        )

    def _find_time(self, log: PartitionLog, time_us: int, start: int, end: int) -> int:
        with self._store.snapshot() as snapshot:
            return snapshot.find_time(log, time_us, max(start, snapshot.offsets(log)[0]), end)

    def _read(
        self,
        log: PartitionLog,
        position: int,
        last: int | None,
        stop_us: int | None,
        limit: int | None,
        follow: bool,
        timeout: float | None,
        skips: bool,
    ) -> Iterator[Event]:
        """`skips`: the reading begins wherever the log does, should its start have moved meanwhile."""
        key = None if self._info.key is None else self.schema.index_of(self._info.key)
        kind = EventKind(self.schema, log.partition, key, log.event_time, self._codec.decode)
        new = object.__new__
        left = 1 << 62 if limit is None else limit
        most_rows = FIRST_CHUNK_ROWS
        deadline: float | None = None  # of the present wait
        while left:
            commit, position, chunks, headers = self._chunk(log, position, last, min(left, most_rows), skips)
            if not chunks:
                if not follow or (last is not None and position >= last):
                    return
                if timeout is not None and deadline is None:
                    deadline = time.monotonic() + timeout
                if not self._wait(commit, deadline):
                    return
                continue
            skips, deadline = False, None
            most_rows = min(most_rows * 4, READ_CHUNK_ROWS)
            for offsets, times, columns in chunks:
                if stop_us is not None:
                    before = _first_at(times if log.event_time is None else columns[log.event_time], stop_us)
                    if before is not None:
                        left = min(left, before)
                offsets = offsets[:left]
                for offset, append_us, stored in zip(offsets, times, zip(*columns, strict=True), strict=False):
                    if headers and offset in headers:
                        event: Event = EventWithHeaders(kind, stored, offset, append_us, headers[offset])
                    else:
                        # As Event(...), for half the time: calling a class costs more than all the rest.
                        event = new(Event)
                        event._kind = kind
                        event._stored = stored
                        event.offset = offset
                        event._append_time_us = append_us
                    yield event
                left -= len(offsets)
                if not left:
                    return
                position = offsets[-1] + 1

    def _chunk(
        self, log: PartitionLog, position: int, last: int | None, most_rows: int, skips: bool
    ) -> tuple[int, int, list[Lists], dict[int, Pairs]]:
        """The commit id looked at, the position behind gaps, up to `most_rows` rows and their headers by offset; no
        snapshot is held while the caller works."""
        self._database._check_open()
        if last is None:
            tail = self._store.tail(log, position)
            if tail is not None and not tail.has_beside:
                return tail.commit_id, position, [tail.lists(log)], {}
        with self._store.snapshot() as snapshot:
            earliest, end = snapshot.offsets(log)
            if position < earliest and (last is None or position < last):
                if not skips:
                    raise self._out_of_range(log, "the next event, offset", position, earliest, end)
                position = earliest
            position = snapshot.past_gaps(log, position)
            stop = min(end if last is None else min(end, last), position + most_rows)
            headers: dict[int, Pairs] = {}
            if position >= stop:
                return snapshot.commit_id, position, [], headers
            chunks = list(snapshot.lists(log, position, stop))
            beside = log.beside
            if beside is not None and snapshot.partition(beside.key) is not None:
                headers = self._headers_in(snapshot, beside, position, stop)
            return snapshot.commit_id, position, chunks, headers

    @staticmethod
    def _headers_in(snapshot: StoreSnapshot, beside: PartitionLog, start: int, stop: int) -> dict[int, Pairs]:
        first, end = snapshot.search(beside, start), snapshot.search(beside, stop)
        return {row[0]: decode_headers(row[1]) for chunk in snapshot.rows(beside, first, end) for _, _, row in chunk}

    def _wait(self, commit: int, deadline: float | None) -> bool:
        """Until there is a newer commit than `commit`, or a second has passed; False if the deadline has."""
        self._check_ddl()  # here and not behind the wait: there an event may be waiting already
        self._raise_if_retired()
        left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
        if left <= 0:
            return False
        # In slices of a second, so that closing the database in another thread ends a reader that waits for ever.
        self._store.wait(commit, left)
        return True

    def _raise_if_retired(self) -> None:
        """Raises if the topic was dropped or its database closed meanwhile; a read-only handle reads on."""
        if self._encode is not self._codec.encode and self._info.kind == "topic":
            with suppress(ReadOnlyError):
                self._encode({})


def _first_at(times: Sequence[int | None], stop_us: int) -> int | None:
    """The first position of a time of `stop_us` or more; None if there is none."""
    return next((i for i, time in enumerate(times) if time is not None and time >= stop_us), None)
