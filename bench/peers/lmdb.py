"""LMDB as a log: the number of the event is the key, MDB_APPEND."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from bench.log import Log
from bench.payload import Row, packed, unpacked


class LmdbLog(Log):
    """One write transaction per event; `sync=False` leaves flushing to `flush`."""

    def __init__(self, path: Path, sync: bool = True) -> None:
        self._env = lmdb.open(str(path), map_size=1 << 34, sync=sync, subdir=False)
        self._next = 0

    def prepare(self, one: Row) -> bytes:
        return packed(one)

    def appender(self) -> Callable[[Any], object]:
        def append(message: bytes) -> None:
            with self._env.begin(write=True) as txn:
                txn.put(self._next.to_bytes(8, "big"), message, append=True)
            self._next += 1

        return append

    def append_batch(self, prepared: Any) -> None:
        with self._env.begin(write=True) as txn:
            for message in prepared:
                txn.put(self._next.to_bytes(8, "big"), message, append=True)
                self._next += 1

    def flush(self) -> None:
        self._env.sync(True)

    def contents(self) -> Iterator[Row]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            for _, message in cursor:
                yield unpacked(message)

    def close(self) -> None:
        self._env.close()
