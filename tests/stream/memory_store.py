"""A store in memory with the interface of eventdb.storage.Store that continuous queries use.

Rows are physical tuples. A crash is forgetting every object but the store itself. `segment_rows` cuts logs into slices.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.schema import DataType, Schema


def column_of(type: DataType, values: Sequence[Any]) -> Column:
    """A column of physical values; None is NULL."""
    if type.is_coded:
        return Column.encode(type, values)
    present = np.array([v is not None for v in values], dtype=bool)
    filled = np.array([0 if v is None else v for v in values], dtype=type.physical)
    return Column(type, filled, None if present.all() else present)


def physical_rows(columns: Sequence[Column]) -> list[tuple[Any, ...]]:
    decoded = []
    for column in columns:
        values = column.decoded().tolist() if column.type.is_coded else column.values.tolist()
        present = [True] * len(values) if column.validity is None else column.validity.tolist()
        decoded.append([v if ok else None for v, ok in zip(values, present, strict=True)])
    return list(zip(*decoded, strict=True))


class MemoryLog:
    def __init__(self, topic_id: int, schema: Schema, event_time: int | None = None) -> None:
        self.topic_id = topic_id
        self.schema = schema
        self.event_time = event_time
        self.rows: list[tuple[Any, ...]] = []
        self.append_times: list[int] = []


class MemorySlice:
    def __init__(self, log: MemoryLog, start: int, stop: int) -> None:
        self._log = log
        self.first_offset = start
        self.row_count = stop - start
        self.time_range = None

    def column(self, index: int) -> Column:
        rows = self._log.rows[self.first_offset : self.first_offset + self.row_count]
        return column_of(self._log.schema.types[index], [row[index] for row in rows])

    def append_times(self) -> Array:
        times = self._log.append_times[self.first_offset : self.first_offset + self.row_count]
        return np.array(times, dtype=np.int64)


class MemorySnapshot:
    def __init__(self, store: MemoryStore) -> None:
        self._keys = dict(store.keys)
        self._ends = {log.topic_id: len(log.rows) for log in store.logs.values()}
        self._cut = store.cut
        self.commit_id = store.commits

    def __enter__(self) -> MemorySnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def close(self) -> None:
        return None

    def offsets(self, log: MemoryLog) -> tuple[int, int]:
        return 0, self._ends.get(log.topic_id, 0)

    def slices(
        self, log: MemoryLog, start: int, stop: int, times: object = None, key: object = None
    ) -> list[MemorySlice]:
        """Leaves no row out, whatever the `times` and the `key` sought."""
        assert 0 <= start <= stop <= self._ends[log.topic_id]
        points = sorted({start, stop, *(p for p in self._cut if start < p < stop)})
        return [MemorySlice(log, a, b) for a, b in pairwise(points)]

    def get(self, key: bytes) -> bytes | None:
        return self._keys.get(key)

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(k for k in self._keys if k.startswith(prefix)):
            yield key, self._keys[key]


class MemoryTransaction:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __enter__(self) -> MemoryTransaction:
        self._store.lock.acquire()
        self._keys = dict(self._store.keys)
        self._rows = {i: len(log.rows) for i, log in self._store.logs.items()}
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        store = self._store
        if kind is None:
            store.keys = self._keys
            store.commits += 1
        else:
            for i, count in self._rows.items():
                del store.logs[i].rows[count:]
                del store.logs[i].append_times[count:]
        store.lock.release()
        with store.condition:
            store.condition.notify_all()

    def append_rows(self, log: MemoryLog, rows: Sequence[tuple[Any, ...]], append_us: int = 0) -> int:
        first = len(log.rows)
        log.rows.extend(rows)
        log.append_times.extend([append_us] * len(rows))
        return first

    def append_columns(self, log: MemoryLog, columns: Sequence[Column]) -> int:
        return self.append_rows(log, physical_rows(columns))

    def end_offset(self, log: MemoryLog) -> int:
        return len(log.rows)

    def get(self, key: bytes) -> bytes | None:
        return self._keys.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._keys[key] = value

    def delete(self, key: bytes) -> None:
        self._keys.pop(key, None)

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(k for k in self._keys if k.startswith(prefix)):
            yield key, self._keys[key]


class MemoryStore:
    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}
        self.logs: dict[int, MemoryLog] = {}
        self.commits = 0
        self.cut: Sequence[int] = ()
        self.lock = threading.RLock()
        self.condition = threading.Condition()

    def log(self, topic_id: int, schema: Schema, event_time: int | None = None, partition: int = 0) -> MemoryLog:
        if topic_id not in self.logs:
            self.logs[topic_id] = MemoryLog(topic_id, schema, event_time)
        return self.logs[topic_id]

    def append(self, log: MemoryLog, rows: Sequence[tuple[Any, ...]], append_us: int = 0) -> int:
        with self.write() as transaction:
            return transaction.append_rows(log, rows, append_us)

    def write(self, *, journaled: bool = True) -> MemoryTransaction:
        return MemoryTransaction(self)

    def snapshot(self) -> MemorySnapshot:
        with self.lock:
            return MemorySnapshot(self)

    def tail(self, log: Any, start: int) -> None:
        """Every reader takes a snapshot."""

    def commit_id(self) -> int:
        return self.commits

    def wait(self, commit_id: int, timeout_s: float | None) -> int:
        with self.condition:
            self.condition.wait_for(lambda: self.commits > commit_id, timeout_s)
        return self.commits
