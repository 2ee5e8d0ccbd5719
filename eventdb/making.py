"""Tables and topics that are made under a hidden name and take their own once they are whole."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from eventdb.errors import TopicNotFound, UsageError
from eventdb.merge_rows import rows_of
from eventdb.options import add_table
from eventdb.storage.tables.keyed import KeyedWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventdb.batch import RecordBatch
    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.logical.plan import Plan
    from eventdb.schema import Schema


def new_table(database: Database, schema: Schema, key: tuple[int, ...], defaults: Mapping[int, Any]) -> TopicInfo:
    """An empty table that nobody can name."""
    return add_table(database._catalog, _hidden_name(), schema, key, defaults, hidden=True)


def new_topic(database: Database, schema: Schema) -> TopicInfo:
    """An empty topic that nobody can name."""
    return database._catalog.create_topic(_hidden_name(), schema, hidden=True)


def store_all(database: Database, made: TopicInfo, batches: Sequence[RecordBatch], plan: Plan) -> int:
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
    """The name is that of `made` from now on; the table that had it is gone, if `only` says that one may have it."""
    with database._lock:
        old: TopicInfo | None = None
        try:
            old = database._catalog.topic(name)
        except TopicNotFound:
            old = None
        if old is not None and only:
            if old.kind != "table":
                raise UsageError(f"{old.name!r} is a {old.kind}: CREATE OR REPLACE TABLE replaces tables")
            database._catalog.replace_topic(name, made)
        else:
            database._catalog.rename_topic(made, name)
        database._tables.pop(made.id, None)
        database._topics.pop(made.id, None)
        database._refresh_catalog()
        if old is not None and only:
            database._store.forget(old.id)


def drop_named(database: Database, name: str, kind: str, if_exists: bool) -> None:
    """The topic or table is gone with all it holds. UsageError while a view reads it."""
    database._check_writable()
    with database._lock:
        database._refresh_catalog()
        try:
            info = database._catalog.topic(name)
        except TopicNotFound:
            if if_exists:
                return
            raise
        if info.kind != kind:
            raise UsageError(f"{info.name!r} is a {info.kind}: DROP {info.kind.upper()} {info.name}")
        readers = database._views_of().readers_of(info.id) if database._catalog.views() else []
        if readers:
            raise UsageError(f"topic {info.name!r} feeds the view {readers[0]!r}: drop the view first")
        database._catalog.drop_topic(info.name)
        database._refresh_catalog()
        database._store.forget(info.id)


def _hidden_name() -> str:
    """A name that no statement can say: '/' keeps it out of every namespace."""
    return f"making/{os.getpid()}.{time.monotonic_ns()}"
