"""Producer: many small sends, few commits.

`send` checks the event, queues it and returns a future; one background thread commits a batch when its first event is
`linger_ms` old or when it holds `max_rows`. When four full batches wait, `send` blocks: memory stays bounded.

With an `id` the producer is idempotent. Every event has a sequence number (counted on, or given by the caller); the
commit that stores the events also stores the sequence reached, so after a crash the producer of the same id continues
at `next_sequence`, a repeated sequence returns its original position and stores nothing, and a gap is refused. Opening
a producer raises the id's epoch: an older producer of the same id is fenced and can commit no more.
"""

from __future__ import annotations

import struct
import threading
import time

from eventdb.errors import ClosedError, EventDBError, InternalError, UnsupportedError, UsageError
from eventdb.event import Position
from eventdb.headers import encode_headers
from eventdb.partitioner import check_partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.headers import Headers
    from eventdb.storage.transaction import WriteTransaction
    from eventdb.topic import Topic

MAX_WAITING_BATCHES = 4
KEPT_RANGES = 5

_STATE = struct.Struct("<IQB")  # epoch, next sequence, ranges kept
_KEY_PREFIX = b"uw"  # then topic id, "/", producer id
_RANGE = struct.Struct("<QIQ")  # first sequence, rows, first offset


class _Batch:
    __slots__ = (
        "done", "error", "first_offset", "first_sequence", "headers", "partitions", "positions", "rows", "started_ns",
    )  # fmt: skip

    def __init__(self, first_sequence: int) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.partitions: dict[int, int] = {}  # of the rows sent to an explicit one
        self.headers: dict[int, bytes] = {}
        self.positions: Sequence[Position] | None = None  # in a topic of several partitions
        self.first_sequence = first_sequence
        self.first_offset = -1
        self.started_ns = 0
        self.error: BaseException | None = None
        self.done = threading.Event()

    @property
    def following(self) -> int:
        """The sequence number behind its last row's."""
        return self.first_sequence + len(self.rows)


class SendFuture:
    """The fate of one event: `result` waits for its commit."""

    __slots__ = ("_batch", "_index")  # set by who makes it: an __init__ costs a send a tenth of its time

    _batch: _Batch
    _index: int

    def done(self) -> bool:
        return self._batch.done.is_set()

    def result(self, timeout: float | None = None) -> Position:
        """The event's position, once durable in the database's mode. TimeoutError after `timeout` seconds; the error of
        the commit if it failed (then no event of the batch was stored)."""
        batch = self._batch
        if not batch.done.wait(timeout):
            raise TimeoutError(f"the event was not committed within {timeout} s")
        if batch.error is not None:
            raise batch.error
        if batch.positions is not None:
            return batch.positions[self._index]
        return Position(0, batch.first_offset + self._index)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self._batch.done.wait(timeout):
            raise TimeoutError(f"the event was not committed within {timeout} s")
        return self._batch.error


def _future(batch: _Batch, index: int) -> SendFuture:
    future = SendFuture()
    future._batch = batch
    future._index = index
    return future


class Producer:
    """See Topic.producer. Use as a context manager: leaving it flushes. Safe to use from several threads."""

    def __init__(self, topic: Topic, *, linger_ms: float, max_rows: int, id: str | None) -> None:
        if isinstance(linger_ms, bool) or not isinstance(linger_ms, int | float) or not 0 <= linger_ms <= 60_000:
            raise UsageError(f"linger_ms is a number from 0 to 60000, not {linger_ms!r}")
        if isinstance(max_rows, bool) or not isinstance(max_rows, int) or not 1 <= max_rows <= 1_000_000:
            raise UsageError(f"max_rows is an integer from 1 to 1000000, not {max_rows!r}")
        if id is not None and (not isinstance(id, str) or not id or len(id.encode()) > 200):
            raise UsageError(f"a producer id is a string of 1 to 200 bytes, not {id!r}")
        if id is not None and topic.partitions > 1:
            raise UnsupportedError(
                f"an idempotent producer (id={id!r}) of topic {topic.name!r}, which has {topic.partitions} partitions: "
                "only topics of one partition have them in this version",
                construct="producer id",
            )
        self.topic = topic
        self.id = id
        self._linger_ns = int(linger_ms * 1e6)
        self._max_rows = max_rows
        self._key = b"" if id is None else _KEY_PREFIX + b"%d/" % topic._info.id + id.encode()
        self._epoch = 0
        self._ranges: list[tuple[int, int, int]] = []
        self._batch = _Batch(0 if id is None else self._take_over())
        self._queue: list[_Batch] = []
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._closed = False
        self._failed: BaseException | None = None
        self._stopped = False  # closed or failed: what a send looks at
        self._flush_now = False
        self._thread = threading.Thread(target=self._run, name=f"eventdb-producer-{topic.name}", daemon=True)
        self._thread.start()
        topic._database._producers.add(self)

    @property
    def next_sequence(self) -> int:
        """The sequence number the next event gets; after a restart, where to continue. Needs an id."""
        return self._batch.following

    def send(
        self, event: Mapping[str, Any], *, sequence: int | None = None, partition: int | None = None,
        headers: Headers | None = None,
    ) -> SendFuture:  # fmt: skip
        """Queues one event. SchemaMismatch is raised here, at once; what can fail later comes out of the future.

        `sequence` (idempotent producers only) is the caller's own count: a number below `next_sequence` is a repeat and
        resolves to the original position; a number above it is a gap and a UsageError.
        """
        row = self.topic._encode(event)
        if partition is not None:
            check_partition(partition, self.topic.partitions, self.topic.name)
        encoded = b"" if headers is None else encode_headers(headers)
        future = SendFuture()
        with self._lock:
            if self._stopped:
                if self._closed or self._failed is None:
                    raise ClosedError(f"the producer of {self.topic.name!r} is closed")
                raise self._failed
            batch = self._batch
            rows = batch.rows
            index = len(rows)
            if sequence is not None and sequence != batch.first_sequence + index:
                return self._repeat(sequence)
            if not index:
                batch.started_ns = time.monotonic_ns()
                self._work.notify()
            if partition is not None:
                batch.partitions[index] = partition
            if encoded:
                batch.headers[index] = encoded
            rows.append(row)
            future._batch = batch
            future._index = index
            if index + 1 >= self._max_rows:
                self._rotate()
                while len(self._queue) > MAX_WAITING_BATCHES and self._failed is None:
                    self._room.wait()
            return future

    def flush(self, timeout: float | None = None) -> None:
        """Returns once every event sent before the call is committed; raises what their commits raised."""
        with self._lock:
            waiting = [*self._queue, self._batch] if self._batch.rows else list(self._queue)
            if self._batch.rows:
                self._rotate()
            if self._failed is not None:
                raise self._failed
        for batch in waiting:
            if not batch.done.wait(timeout):
                raise TimeoutError(f"events were not committed within {timeout} s")
            if batch.error is not None:
                raise batch.error

    def close(self) -> None:
        """Flushes and stops. Raises what the last commits raised."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._stopped = True
            if self._batch.rows:
                self._rotate()
            self._work.notify_all()
            self._room.notify_all()
        self._thread.join()
        self.topic._database._producers.discard(self)
        if self._failed is not None:
            raise self._failed

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except EventDBError:
            if error is None:
                raise

    # --- inside -------------------------------------------------------------------------------------------------------

    def _rotate(self) -> None:
        """Moves the current batch to the queue; the lock is held."""
        self._queue.append(self._batch)
        self._batch = _Batch(self._batch.following)
        self._work.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                batch = self._next_batch()
                if batch is None:
                    return
            try:
                self._commit(batch)
            except BaseException as error:
                self._fail(batch, error)
                return
            batch.done.set()
            with self._lock:
                self._queue.remove(batch)
                self._room.notify_all()

    def _next_batch(self) -> _Batch | None:
        """Waits for a batch that is full or old enough; None when closed and drained. The lock is held."""
        while not self._queue:
            if self._closed:
                return None
            if not self._batch.rows:
                self._work.wait()
                continue
            left_ns = self._batch.started_ns + self._linger_ns - time.monotonic_ns()
            if left_ns <= 0:
                self._rotate()
            else:
                self._work.wait(left_ns / 1e9)
        return self._queue[0]

    def _commit(self, batch: _Batch) -> None:
        topic = self.topic
        with topic._store.write() as transaction:
            count = len(batch.rows)
            partitions = [batch.partitions.get(i) for i in range(count)] if batch.partitions else None
            headers = [batch.headers.get(i, b"") for i in range(count)] if batch.headers else None
            if topic.partitions > 1:
                batch.positions = topic._place_rows(transaction, batch.rows, partitions, headers)
            else:
                batch.first_offset = topic._place_on(transaction, topic._log, batch.rows, headers)
            if self.id is not None:
                self._record(transaction, batch)

    def _fail(self, batch: _Batch, error: BaseException) -> None:
        """A failed commit fails this and every later batch: events are never stored out of order."""
        with self._lock:
            self._failed = error
            self._stopped = True
            failed = [*self._queue, self._batch]
            self._queue.clear()
            self._room.notify_all()
        for one in failed:
            one.error = error
            one.done.set()

    def _repeat(self, sequence: int) -> SendFuture:
        if self.id is None:
            raise UsageError("a sequence needs an idempotent producer: pass id=... to topic.producer")
        if isinstance(sequence, bool) or not isinstance(sequence, int) or sequence < 0:
            raise UsageError(f"a sequence is an integer of 0 or more, not {sequence!r}")
        if sequence > self.next_sequence:
            raise UsageError(f"sequence {sequence} leaves a gap: producer {self.id!r} is at {self.next_sequence}")
        for batch in (*self._queue, self._batch):
            if batch.first_sequence <= sequence < batch.following:
                return _future(batch, sequence - batch.first_sequence)
        for first, count, offset in self._ranges:
            if first <= sequence < first + count:
                batch = _Batch(first)
                batch.first_offset = offset
                batch.done.set()
                return _future(batch, sequence - first)
        raise UsageError(
            f"sequence {sequence} of producer {self.id!r} was committed long ago; its position is no longer known "
            f"(the last {KEPT_RANGES} batches are kept)"
        )

    def _load(self, transaction: WriteTransaction) -> tuple[int, int, list[tuple[int, int, int]]]:
        stored = transaction.get(self._key)
        if stored is None:
            return 0, 0, []
        epoch, following, count = _STATE.unpack_from(stored)
        ranges = [_RANGE.unpack_from(stored, _STATE.size + i * _RANGE.size) for i in range(count)]
        return epoch, following, ranges

    def _take_over(self) -> int:
        """The next sequence number; from now on, older producers of the id are fenced."""
        with self.topic._store.write() as transaction:
            epoch, following, self._ranges = self._load(transaction)
            self._epoch = epoch + 1
            transaction.put(self._key, self._state(following, self._ranges))
        return following

    def _state(self, next_sequence: int, ranges: list[tuple[int, int, int]]) -> bytes:
        head = _STATE.pack(self._epoch, next_sequence, len(ranges))
        return head + b"".join(_RANGE.pack(*one) for one in ranges)

    def _record(self, transaction: WriteTransaction, batch: _Batch) -> None:
        epoch, following, _ = self._load(transaction)
        if epoch != self._epoch:
            raise UsageError(
                f"producer {self.id!r} was opened again elsewhere: this one is fenced (epoch {self._epoch})"
            )
        if following != batch.first_sequence:
            raise InternalError(f"producer {self.id!r}: stored sequence {following}, sending {batch.first_sequence}")
        ranges = [*self._ranges, (batch.first_sequence, len(batch.rows), batch.first_offset)][-KEPT_RANGES:]
        transaction.put(self._key, self._state(batch.first_sequence + len(batch.rows), ranges))
        self._ranges = ranges


def cut_sequences(store: Any, ends: dict[int, int]) -> None:
    """Sequences whose events lie behind the new end of their topic (by id) may be sent again. Inside a transaction."""
    for key, value in list(store.range(_KEY_PREFIX)):
        end = ends.get(int(key[len(_KEY_PREFIX) :].partition(b"/")[0]), 0)
        epoch, following, count = _STATE.unpack_from(value)
        kept = []
        for first, rows, offset in [_RANGE.unpack_from(value, _STATE.size + i * _RANGE.size) for i in range(count)]:
            if offset + rows > end:
                following = min(following, first + max(0, end - offset))
            if offset < end:
                kept.append((first, min(rows, end - offset), offset))
        head = _STATE.pack(epoch, following, len(kept))
        store.put(key, head + b"".join(_RANGE.pack(*one) for one in kept))
