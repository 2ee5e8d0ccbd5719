"""A topic of several partitions: every row finds its partition, and readers get all of them merged."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence

from eventdb.config import DDL_CHECK_NS
from eventdb.errors import UsageError
from eventdb.event import Position
from eventdb.partitioner import Partitioner, check_partition
from eventdb.topic import Topic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from eventdb.batch import Array, Column
    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.event import Event
    from eventdb.headers import Headers
    from eventdb.storage import WriteTransaction

__all__ = ["BatchPositions", "PartitionedTopic"]


class BatchPositions(Sequence[Position]):
    """Where the rows of a batch lie, in row order. `partitions` and `offsets` are int64 arrays."""

    __slots__ = ("offsets", "partitions")

    def __init__(self, partitions: Array, offsets: Array) -> None:
        self.partitions = partitions
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return BatchPositions(self.partitions[index], self.offsets[index])
        return Position(int(self.partitions[index]), int(self.offsets[index]))

    def __iter__(self) -> Iterator[Position]:
        return map(Position, self.partitions.tolist(), self.offsets.tolist())

    def __repr__(self) -> str:
        return f"BatchPositions({len(self)} rows)"


class PartitionedTopic(Topic):
    """See Topic. A row goes to the partition asked for, else to the one its key gives; rows without a key take turns,
    one partition a call."""

    __slots__ = ("_key_index", "_partitioner", "_turns")

    def __init__(self, database: Database, info: TopicInfo) -> None:
        super().__init__(database, info)
        self._key_index = -1 if info.key is None else info.schema.index_of(info.key)
        self._partitioner = (
            None if info.key is None else Partitioner(info.schema.fields[self._key_index].type, info.partitions)
        )
        self._turns = itertools.count()

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(
        self, event: Mapping[str, Any], *, partition: int | None = None, headers: Headers | None = None
    ) -> Position:
        if time.monotonic_ns() - self._checked_ns > DDL_CHECK_NS:
            self._check_write()
        row = self._encode(event)
        if headers is not None:
            return self._append_all([row], partition, [headers])[0]
        if partition is None:
            partition = self._of_row(row, -1)
            if partition < 0:
                partition = next(self._turns) % len(self._logs)
        else:
            check_partition(partition, len(self._logs), self.name)
        return Position(partition, self._append_row(self._logs[partition], row))

    def _of_row(self, row: tuple[Any, ...], default: int) -> int:
        key = row[self._key_index] if self._partitioner is not None else None
        return default if key is None or self._partitioner is None else self._partitioner.of(key)

    def _place_rows(
        self, transaction: WriteTransaction, rows: list[tuple[Any, ...]], partition: Any, headers: list[bytes] | None
    ) -> Sequence[Position]:
        turn = next(self._turns) % len(self._logs)
        groups: dict[int, list[int]] = {}
        if isinstance(partition, int):
            groups[partition] = list(range(len(rows)))
        else:
            for i, row in enumerate(rows):
                asked = None if partition is None else partition[i]
                groups.setdefault(self._of_row(row, turn) if asked is None else asked, []).append(i)
        positions: list[Any] = [None] * len(rows)
        for number in sorted(groups):
            chosen = groups[number]
            theirs = None if headers is None else [headers[i] for i in chosen]
            first = self._place_on(transaction, self._logs[number], [rows[i] for i in chosen], theirs)
            for offset, i in enumerate(chosen, first):
                positions[i] = Position(number, offset)
        return positions

    def _place_cells(
        self, transaction: WriteTransaction, cells: list[list[Any]], partition: Any, headers: list[bytes] | None
    ) -> Sequence[Position]:
        return self._place_rows(transaction, list(zip(*cells, strict=True)), partition, headers)

    def _place_columns(
        self, transaction: WriteTransaction, columns: list[Column], partition: int | None, headers: list[bytes] | None
    ) -> BatchPositions:
        import numpy as np

        count = len(columns[0])
        turn = next(self._turns) % len(self._logs)
        if partition is not None:
            numbers = np.full(count, partition, dtype=np.int64)
        elif self._partitioner is None:
            numbers = np.full(count, turn, dtype=np.int64)
        else:
            numbers = self._partitioner.of_column(columns[self._key_index])
            numbers = np.where(numbers < 0, turn, numbers)
        offsets = np.empty(count, dtype=np.int64)
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            log = self._logs[number]
            part = columns if len(chosen) == count else [column.take(chosen) for column in columns]
            first = transaction.append_columns(log, part)
            offsets[chosen] = np.arange(first, first + len(chosen))
            self._place_headers(
                transaction, log, first, None if headers is None else [headers[i] for i in chosen.tolist()]
            )
        return BatchPositions(numbers, offsets)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_merged(
        self, start: Any, stop: Any, limit: int | None, follow: bool, timeout: float | None
    ) -> Iterator[Event]:
        for what, place in (("start", start), ("stop", stop)):
            if isinstance(place, int):
                raise UsageError(
                    f"{what}={place!r}: topic {self.name!r} has {len(self._logs)} partitions, and offsets belong to "
                    "one: pass partition=..., or start={partition: offset, ...}"
                )
        starts = [start] * len(self._logs)
        if hasattr(start, "keys"):
            for number in start:
                check_partition(number, len(self._logs), self.name)
            starts = [start.get(number, "earliest") for number in range(len(self._logs))]
        ranges = [self._range(log, place, stop, follow) for log, place in zip(self._logs, starts, strict=True)]
        skips = [place == "earliest" for place in starts]
        merged = self._merge(ranges, skips, follow, timeout)
        return merged if limit is None else itertools.islice(merged, limit)

    def _merge(
        self, ranges: list[tuple[int, int | None, int | None]], skips: list[bool], follow: bool, timeout: float | None
    ) -> Iterator[Event]:
        """Rounds: everything there is, merged; then, following, everything that came meanwhile."""
        positions = [first for first, _, _ in ranges]
        ended = [False] * len(ranges)
        while True:
            with self._store.snapshot() as snapshot:
                ends = [snapshot.offsets(log)[1] for log in self._logs]
            parts = []
            for number, (_, last, stop_us) in enumerate(ranges):
                end = ends[number] if last is None else min(ends[number], last)
                if positions[number] < end and not ended[number]:
                    parts.append(self._part(number, positions, end, stop_us, skips[number], ended))
            skips = [False] * len(ranges)
            yield from heapq.merge(*parts, key=lambda event: (event._append_time_us, event.partition))
            done = all(
                ended[number] or (last is not None and positions[number] >= last)
                for number, (_, last, _) in enumerate(ranges)
            )
            if not follow or done or not self._wait_any(positions, timeout):
                return

    def _part(
        self, number: int, positions: list[int], end: int, stop_us: int | None, skips: bool, ended: list[bool]
    ) -> Iterator[Event]:
        """The events of one partition up to `end`; notes how far it came, and whether it met the end time."""
        log = self._logs[number]
        for event in self._read(log, positions[number], end, stop_us, None, False, None, skips):
            yield event
            positions[number] = event.offset + 1
        ended[number] = stop_us is not None and positions[number] < end
        positions[number] = max(positions[number], end) if not ended[number] else positions[number]

    def _wait_any(self, positions: list[int], timeout: float | None) -> bool:
        """Whether any partition has events beyond its position before `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._store.snapshot() as snapshot:
                now = snapshot.commit_id
                if any(snapshot.offsets(log)[1] > at for log, at in zip(self._logs, positions, strict=True)):
                    return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._store.wait(now, 1.0 if left is None else min(left, 1.0))
            self._check_ddl()
            self._raise_if_retired()
