"""A log as the benchmarks see it: ours here, those of the rivals in bench/peers."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import eventdb
from bench.payload import COLUMNS, Row, packed

if TYPE_CHECKING:
    import pyarrow


def arrow_table(rows: Sequence[Row]) -> pyarrow.Table:
    """The events as columns."""
    import pyarrow as pa

    n, device, body = zip(*rows, strict=True)
    return pa.table({"n": pa.array(n, pa.int64()), "device": pa.array(device), "body": pa.array(body, pa.binary())})


class Log(ABC):
    """Stores events of bench/payload.py. Each contestant gets them in the form it takes quickest: what `prepare` makes
    before the clock starts."""

    @abstractmethod
    def prepare(self, one: Row) -> Any:
        """What `append_each` takes for one event."""

    def prepare_each(self, rows: Sequence[Row]) -> list[Any]:
        return [self.prepare(one) for one in rows]

    def prepare_batch(self, rows: Sequence[Row]) -> Any:
        """What `append_batch` takes."""
        return self.prepare_each(rows)

    def connect(self, threads: int) -> None:  # noqa: B027 (most need nothing)
        """Whatever `append_each` of so many blocks needs; not measured."""

    def appender(self) -> Callable[[Any], object]:
        """A function for one thread: when it returns, the event is as durable as this log promises."""
        raise TypeError(f"{type(self).__name__} is measured with batches only")

    def append_each(self, blocks: Sequence[Sequence[Any]]) -> None:
        """One event after the other, each block by a thread of its own, all at once."""
        if len(blocks) == 1:
            _append_all(self.appender(), blocks[0])
            return
        threads = [threading.Thread(target=_append_all, args=(self.appender(), block)) for block in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @abstractmethod
    def append_batch(self, prepared: Any) -> None:
        """All events; when it returns, they are as durable as this log promises."""

    def contents(self) -> Iterator[Row]:
        """Every event stored."""
        raise TypeError(f"{type(self).__name__} keeps bytes, not events")

    @abstractmethod
    def close(self) -> None:
        """Lets everything go."""


def _append_all(append: Callable[[Any], object], block: Sequence[Any]) -> None:
    for one in block:
        append(one)


class EventLog(Log):
    """A topic of this database; takes dicts."""

    def __init__(self, path: Path, durability: str) -> None:
        self.db = eventdb.open(path, durability=durability)
        self.topic = self.db.create_topic("events", COLUMNS)

    def prepare(self, one: Row) -> dict[str, Any]:
        return dict(zip(COLUMNS, one, strict=True))

    def appender(self) -> Callable[[Any], object]:
        return self.topic.append

    def append_batch(self, prepared: Any) -> None:
        self.topic.append_many(prepared)

    def contents(self) -> Iterator[Row]:
        return ((event["n"], event["device"], event["body"]) for event in self.topic.read())

    def close(self) -> None:
        self.db.close()


class ColumnarLog(EventLog):
    """The same from Arrow tables."""

    def prepare_batch(self, rows: Sequence[Row]) -> pyarrow.Table:
        return arrow_table(rows)

    def append_batch(self, prepared: Any) -> None:
        self.topic.append_batch(prepared)


class BareFile(Log):
    """pwrite and fdatasync into a file filled with zeros: what the device allows. Keeps no structure at all."""

    def __init__(self, path: Path, room_bytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        for at in range(0, room_bytes, 1 << 20):
            os.pwrite(self._fd, bytes(1 << 20), at)
        os.fsync(self._fd)
        self._end = 0

    def prepare(self, one: Row) -> bytes:
        return packed(one)

    def prepare_batch(self, rows: Sequence[Row]) -> bytes:
        return b"".join(map(packed, rows))

    def appender(self) -> Callable[[Any], object]:
        return self.append_batch

    def append_batch(self, prepared: Any) -> None:
        at = self._end
        self._end += len(prepared)
        os.pwrite(self._fd, prepared, at)
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
