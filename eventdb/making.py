"""Tables and topics that are made under a hidden name and take their own once they are whole.

Whoever makes one shares the lease until it has its name or is taken away. What a process leaves that dies meanwhile is
swept by the next one that opens the database while nobody shares it.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from eventdb.definitions import HIDDEN
from eventdb.dropping import kept_readers, refuse_readers
from eventdb.errors import EventDBError, TopicNotFound, UsageError
from eventdb.merge_rows import rows_of
from eventdb.options import add_table
from eventdb.storage.tables.keyed import KeyedWriter
from eventdb.stream.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eventdb.batch import RecordBatch
    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.schema import Schema

LEASE_NAME = "MAKING"  # shared by whoever makes something, held alone by who sweeps


def new_table(database: Database, schema: Schema, key: tuple[int, ...], defaults: Mapping[int, Any]) -> TopicInfo:
    """An empty table that nobody can name."""
    return add_table(database._catalog, _hidden_name(), schema, key, defaults, hidden=True)


def new_topic(database: Database, schema: Schema) -> TopicInfo:
    """An empty topic that nobody can name."""
    return database._catalog.create_topic(_hidden_name(), schema, hidden=True)


def store_all(database: Database, made: TopicInfo, batches: Sequence[RecordBatch]) -> int:
    """Stores the rows in one commit; returns how many they are."""
    database._refresh_catalog()
    count = sum(map(len, batches))
    if made.kind == "topic":
        topic = database._handle(made)
        fields = range(len(made.schema))
        with database._store.write() as transaction:
            for batch in batches:
                if len(batch):
                    columns = database._session_of()._prepare(made.schema, fields, batch)
                    topic._place_columns(transaction, columns, None, None)
        return count
    table = database._table_handle(made)
    with database._store.write() as transaction:
        writer = KeyedWriter(transaction, table._log, made.name)
        for batch in batches:
            if len(batch):
                table._apply(writer, "insert", list(rows_of(batch.columns)))
    return count


def replace_table(database: Database, name: str, made: TopicInfo, *, only: bool = True) -> None:
    """The name is that of `made` from now on; the table that had it is gone, if `only` says that one may have it.
    UsageError while a materialized view reads that."""
    with database._lock:
        old: TopicInfo | None = None
        try:
            old = database._catalog.topic(name)
        except TopicNotFound:
            old = None
        if old is not None and only:
            if old.kind != "table":
                raise UsageError(f"{old.name!r} is a {old.kind}: CREATE OR REPLACE TABLE replaces tables")
            refuse_readers("table", old.name, kept_readers(database, {old.name}), "drop the view first")
            database._catalog.replace_topic(name, made)
        else:
            database._catalog.rename_topic(made, name)
        database._tables.pop(made.id, None)
        database._topics.pop(made.id, None)
        database._refresh_catalog()
    if old is not None and only:  # it writes, and who writes may ask for the lock
        database._store.forget(old.id)


def sweep(database: Database) -> None:
    """What processes that died were making is gone, unless a live one is making something."""
    lease = Lease(os.path.join(database.path, LEASE_NAME))
    try:
        if lease.acquire():
            for info in database._catalog.topics():
                if info.is_hidden:
                    _forget(database, info)
    finally:
        lease.release()


@contextmanager
def made_aside(database: Database, make: Callable[[], TopicInfo]) -> Iterator[TopicInfo]:
    """What `make` gives; a failure inside the block takes it away again, unless it has its own name by then."""
    database._check_writable()
    lease = Lease(os.path.join(database.path, LEASE_NAME))
    lease.share()
    try:
        made = make()
        try:
            yield made
        except BaseException:
            with suppress(EventDBError):  # what cannot be taken away is swept at the next open
                _forget(database, made)
            raise
    finally:
        lease.release()


def _forget(database: Database, made: TopicInfo) -> None:
    """It is gone, if it is still hidden."""
    if database._catalog.drop_hidden(made.id):
        database._refresh_catalog()
        database._store.forget(made.id)


def _hidden_name() -> str:
    """A name that no statement can say: '/' keeps it out of every namespace."""
    return f"{HIDDEN}{os.getpid()}.{time.monotonic_ns()}"
