"""Transaction: appends to many topics and changes of many tables in one commit.

Rows are checked as they are added and held in memory; the writer lock is taken only at the end, so user code never
holds it. Leaving the block commits everything; an exception leaves nothing behind.
"""

from __future__ import annotations

import threading

from eventdb.errors import ClosedError, UsageError
from eventdb.event import Position
from eventdb.partitioner import check_partition
from eventdb.storage.tables.keyed import KeyedWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from eventdb.database import Database
    from eventdb.headers import Headers
    from eventdb.table import Table
    from eventdb.topic import Topic


def refuse_beside(database: Database, what: str, instead: str) -> None:
    """UsageError if this thread is in the block of a transaction: a write that does not go through it would be
    committed at once, whatever becomes of the transaction. Other threads write as ever."""
    if threading.get_ident() in database._transactions:
        raise UsageError(
            f"{what} would not be part of the transaction that this thread has open, and stay if it is rolled back: "
            f"use {instead} (INSERT, if it began with BEGIN), or write after it"
        )


def enter_block(database: Database, thread: int) -> None:
    """The thread is in a transaction: what it writes beside it is refused."""
    database._transactions.append(thread)
    for topic in list(database._topics.values()):
        topic._checked_ns = 0  # its next append looks around first, where it would see that this one is open


def leave_block(database: Database, thread: int) -> None:
    """It is in none any more."""
    database._transactions.remove(thread)


class Transaction:
    """See Database.transaction. One thread uses it. After the block, `positions` tells where every event lies."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # (topic, rows or columns, whether columns, a partition a row or one for all columns, headers a row)
        self._parts: list[tuple[Topic, list[Any], bool, Any, list[bytes] | None]] = []
        self._changes: list[tuple[Table, str, list[Any]]] = []  # (table, operation, rows or keys)
        self._open = True
        self._entered = 0  # the thread whose block it is
        self.positions: dict[str, list[Position]] = {}

    def _topic(self, topic: str | Topic) -> Topic:
        if not self._open:
            raise ClosedError("the transaction has ended; begin another")
        return self._database.topic(topic if isinstance(topic, str) else topic.name)

    def append(
        self, topic: str | Topic, event: Mapping[str, Any], *, partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:  # fmt: skip
        """Adds one event. SchemaMismatch is raised here; nothing is visible before the block ends."""
        handle = self._topic(topic)
        row = handle._encode(event)
        if partition is not None or headers is not None:
            self._add(handle, [row], partition, None if headers is None else [headers])
        elif self._parts and self._parts[-1][0] is handle and self._parts[-1][2:] == (False, None, None):
            self._parts[-1][1].append(row)
        else:
            self._parts.append((handle, [row], False, None, None))

    def append_many(
        self, topic: str | Topic, events: Iterable[Mapping[str, Any]], *, partition: int | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:  # fmt: skip
        """Adds many events; `headers` has one entry for each of them."""
        handle = self._topic(topic)
        rows = [handle._encode(event) for event in events]
        if rows:
            self._add(handle, rows, partition, headers)

    def _add(
        self, topic: Topic, rows: list[Any], partition: int | None, headers: Sequence[Headers | None] | None
    ) -> None:
        if partition is not None:
            check_partition(partition, topic.partitions, topic.name)
        self._parts.append((topic, rows, False, partition, topic._encoded(headers, len(rows))))

    def append_batch(
        self, topic: str | Topic, data: Any, *, partition: int | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:  # fmt: skip
        """Adds a table, as Topic.append_batch takes it."""
        from eventdb.arrow import columns_for
        from eventdb.storage.segment.columns import shared_dictionaries

        handle = self._topic(topic)
        columns = columns_for(data, handle.schema, shared_dictionaries(handle._log))
        if partition is not None:
            check_partition(partition, handle.partitions, handle.name)
        if len(columns[0]):
            self._parts.append((handle, columns, True, partition, handle._encoded(headers, len(columns[0]))))

    def put(self, table: str | Table, row: Mapping[str, Any]) -> None:
        """The row becomes the current one of its key when the block ends. SchemaMismatch is raised here."""
        handle = self._table(table)
        handle._check_key("put")
        self._change(handle, "put", handle._codec.encode(row))

    def insert(self, table: str | Table, row: Mapping[str, Any]) -> None:
        """Like `put`; if the key has a row when the block ends, that raises ConstraintError and stores nothing."""
        handle = self._table(table)
        self._change(handle, "insert", handle._codec.encode(row))

    def delete(self, table: str | Table, key: Any) -> None:
        """The key has no row when the block ends, whether it had one or not. `key` as in Table.get."""
        handle = self._table(table)
        self._change(handle, "delete", handle._key(key))

    def _table(self, table: str | Table) -> Table:
        if not self._open:
            raise ClosedError("the transaction has ended; begin another")
        return self._database.table(table if isinstance(table, str) else table.name)

    def _change(self, table: Table, operation: str, row: tuple[Any, ...]) -> None:
        last = self._changes[-1] if self._changes else None
        if last is not None and last[0] is table and last[1] == operation:
            last[2].append(row)
        else:
            self._changes.append((table, operation, [row]))

    def commit(self) -> None:
        """Stores everything in one commit; the block's end does it too."""
        if not self._open:
            raise ClosedError("the transaction has ended; begin another")
        self._end()
        if not self._parts and not self._changes:
            return
        placed: list[tuple[str, Sequence[Any]]] = []
        self._database._refresh_catalog()  # what was dropped says so
        for topic in {id(part[0]): part[0] for part in self._parts}.values():
            topic._raise_if_retired()
        for table in {id(change[0]): change[0] for change in self._changes}.values():
            table._check_usable()
        with self._database._store.write() as writer:
            for topic, rows, columnar, partition, headers in self._parts:
                place = topic._place_columns if columnar else topic._place_rows
                placed.append((topic.name, place(writer, rows, partition, headers)))
            for table, operation, rows in self._changes:
                first = table._apply(KeyedWriter(writer, table._log, table.name), operation, rows)
                if operation != "delete":
                    placed.append((table.name, range(first, first + len(rows))))
        for name, found in placed:
            positions = [Position(0, offset) for offset in found] if isinstance(found, range) else list(found)
            self.positions.setdefault(name, []).extend(positions)
        self._parts.clear()
        self._changes.clear()

    def rollback(self) -> None:
        """Forgets everything added."""
        self._end()
        self._parts.clear()
        self._changes.clear()

    def _end(self) -> None:
        self._open = False
        entered, self._entered = self._entered, 0
        if entered:
            leave_block(self._database, entered)

    def __enter__(self) -> Transaction:
        if not self._open or self._entered:
            raise UsageError("a transaction is entered once")
        session = getattr(self._database._local, "session", None)
        if session is not None and session.in_transaction:
            raise UsageError("this thread has a transaction of SQL open: COMMIT or ROLLBACK it, or INSERT in it")
        self._entered = threading.get_ident()
        enter_block(self._database, self._entered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.rollback()
        elif self._open:
            self.commit()
