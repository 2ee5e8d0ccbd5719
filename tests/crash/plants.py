"""Bugs planted on purpose, inside one writer process: a harness that does not notice them proves nothing.

Each entry of PLANTS breaks one rule of the storage design by replacing functions of the product.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from eventdb.event import Position
from eventdb.producer import Producer
from eventdb.storage.commit.commit import Writer
from eventdb.storage.device.files import Clock
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.store import Store
from eventdb.transaction import Transaction


def set_boot_id(boot_id: str) -> None:
    """From now on storage sees this boot id: how a machine that lost its power looks to the next process."""
    Clock.boot_id = lambda self: boot_id  # type: ignore[method-assign]


def ack_before_flush() -> None:
    """The journal is flushed 50 ms after the commit was acknowledged instead of before."""
    whole = Writer.flush

    def later(self: Writer, fd: int, path: str) -> None:
        if "/journal/" not in path:
            whole(self, fd, path)
            return
        self.flushes += 1
        copy = os.dup(fd)

        def flush() -> None:
            time.sleep(0.05)
            os.fdatasync(copy)
            os.close(copy)

        if threading.active_count() < 8:
            threading.Thread(target=flush, daemon=True).start()
        else:
            os.close(copy)

    Writer.flush = later  # type: ignore[method-assign]


def ack_before_bulk_flush() -> None:
    """The rows of a large batch are left to the kernel: only the record that names them is flushed."""
    Writer.flush_bulk = lambda self, bulk, descriptors: None  # type: ignore[method-assign]


class Released:
    """Stands in for a pin that was let go."""

    def __init__(self, txn_id: int) -> None:
        self._txn_id = txn_id

    def id(self) -> int:
        return self._txn_id

    def abort(self) -> None:
        pass


def checkpoint_without_pin() -> None:
    """A checkpoint is saved, but nothing keeps LMDB from reusing its pages."""
    whole = Writer.commit_txn

    def unpinned(self: Writer, *arguments: Any) -> None:
        if self.pin is not None and not isinstance(self.pin, Released):
            released = Released(self.pin.id())
            self.pin.abort()
            self.pin = released
        whole(self, *arguments)

    Writer.commit_txn = unpinned  # type: ignore[method-assign]


def split_transaction() -> None:
    """A transaction over two topics is two commits."""

    def commit(self: Transaction) -> None:
        self._end()
        for topic, rows, columnar, _, _ in self._parts:
            with self._database._store.write() as writer:
                add = writer.append_columns if columnar else writer.append_rows
                first = add(topic._log, rows)
            count = len(rows[0]) if columnar else len(rows)
            positions = self.positions.setdefault(topic.name, [])
            positions.extend(Position(0, first + i) for i in range(count))

    Transaction.commit = commit  # type: ignore[method-assign]


def write_behind() -> None:
    """Single events are acknowledged at once and committed eight at a time."""
    waiting: list[tuple[Any, ...]] = []

    def append_row(self: Store, log: Any, row: tuple[Any, ...]) -> int:
        with self.snapshot() as snapshot:
            offset = snapshot.offsets(log)[1] + sum(one[0] is log for one in waiting)
        waiting.append((log, row))
        if len(waiting) == 8:
            with self.write() as writer:
                for target, held in waiting:
                    writer.append_row(target, held)
            waiting.clear()
        return offset

    Store.append_row = append_row  # type: ignore[method-assign]


def sequence_apart() -> None:
    """An idempotent producer stores its sequence in a commit of its own, after the events."""

    def commit(self: Producer, batch: Any) -> None:
        with self.topic._store.write() as transaction:
            batch.first_offset = transaction.append_rows(self.topic._log, batch.rows)
        time.sleep(0.002)
        with self.topic._store.write() as transaction:
            self._record(transaction, batch)

    Producer._commit = commit  # type: ignore[method-assign]


def stale_reader() -> None:
    """A reader looks at the index alone and misses what is in the head, ahead of it."""
    whole = StoreSnapshot.__init__

    def without_head(self: StoreSnapshot, txn: Any, commit_id: int, head: bytes) -> None:
        whole(self, txn, commit_id, b"")

    StoreSnapshot.__init__ = without_head  # type: ignore[method-assign]


def sink_apart() -> None:
    """A view's rows go to its sink in a commit of their own, before the state they followed from."""
    from eventdb.stream.runner import Runner
    from eventdb.stream.task import Task, ViewTask

    whole = Runner._commit

    def commit(self: Runner, tasks: list[Task]) -> bool:
        for task in tasks:
            if isinstance(task, ViewTask) and task.spec.sink is not None:
                with self._store.write() as transaction:
                    task.spec.sink.write(transaction, [rows.batch for rows in task.outputs])
                time.sleep(0.005)
                object.__setattr__(task.spec, "sink", Unwritten())
        return whole(self, tasks)

    ViewTask.advance = _with_sink(ViewTask.advance)  # type: ignore[method-assign]
    Runner._commit = commit  # type: ignore[method-assign]


class Unwritten:
    """A sink whose rows were written already."""

    topic_id = -1

    def write(self, transaction: Any, changes: Any) -> None:
        pass


def _with_sink(whole: Callable[..., bool]) -> Callable[..., bool]:
    """Gives each view its sink back before it goes on."""
    sinks: dict[int, Any] = {}

    def advance(self: Any, *arguments: Any) -> bool:
        sink = sinks.setdefault(self.spec.id, self.spec.sink)
        object.__setattr__(self.spec, "sink", sink)
        return whole(self, *arguments)

    return advance


PLANTS: dict[str, Callable[[], None]] = {
    "ack-before-flush": ack_before_flush,
    "ack-before-bulk-flush": ack_before_bulk_flush,
    "checkpoint-without-pin": checkpoint_without_pin,
    "split-transaction": split_transaction,
    "write-behind": write_behind,
    "sequence-apart": sequence_apart,
    "stale-reader": stale_reader,
    "sink-apart": sink_apart,
}
