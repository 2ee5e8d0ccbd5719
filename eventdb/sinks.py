"""Where CREATE MATERIALIZED VIEW ... INTO writes: an append-only topic, or a table by its primary key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import InternalError, SchemaMismatch, UnsupportedSQL, UsageError, ViewFailed
from eventdb.logical.plan import Fields
from eventdb.schema import Schema
from eventdb.session import Session
from eventdb.storage.tables.keyed import KeyedWriter
from eventdb.stream.emission import physical_rows

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.sql.statements import TableInfo
    from eventdb.storage.transaction import WriteTransaction
    from eventdb.stream.sink import Sink
    from eventdb.table import Table
    from eventdb.topic import Topic


@dataclass(frozen=True, slots=True)
class TopicSink:
    """Appends rows to a topic. `positions`: of the view's columns in its schema."""

    topic_id: int
    view: str
    topic: Topic
    positions: tuple[int, ...]

    def write(self, transaction: WriteTransaction, changes: Sequence[RecordBatch]) -> None:
        for change in changes:
            rows = change
            if change.weight is not None:
                if (change.weight < 0).any():
                    raise InternalError(f"view {self.view!r} takes rows back that topic {self.topic.name!r} keeps")
                rows = change.take(np.repeat(np.arange(change.row_count), change.weight))
            if not rows.row_count:
                continue
            try:
                columns = Session._prepare(self.topic.schema, self.positions, rows)
            except SchemaMismatch as error:
                raise ViewFailed(f"view {self.view!r} into {self.topic.name!r}: {error}", view=self.view) from error
            self.topic._place_columns(transaction, columns, None, None)


@dataclass(frozen=True, slots=True)
class TableSink:
    """Keeps a table's rows as the view's: a row that comes replaces the one of its key, one that goes is deleted.

    `positions`: of the view's columns in the table's schema; `key`: of the columns of the table's key among them.
    """

    topic_id: int
    view: str
    table: Table
    positions: tuple[int, ...]
    key: tuple[int, ...]

    def write(self, transaction: WriteTransaction, changes: Sequence[RecordBatch]) -> None:
        table = self.table
        writer = KeyedWriter(transaction, table._log, table.name)
        gone: dict[bytes, None] = {}
        come: dict[bytes, tuple[object, ...]] = {}
        for change in changes:
            weights = [1] * change.row_count if change.weight is None else change.weight.tolist()
            for values, weight in zip(physical_rows(change), weights, strict=True):
                key = writer.encode_key([values[i] for i in self.key]) if self._has_key(values) else b""
                if weight > 0:
                    come[key] = self._row(values)
                else:
                    gone[key] = None
        lost = [key for key in gone if key not in come]
        if lost:
            writer.delete(lost)
        if come:
            writer.put(list(come.values()), list(come))

    def _has_key(self, values: Sequence[object]) -> bool:
        return all(values[i] is not None for i in self.key)

    def _row(self, values: Sequence[object]) -> tuple[object, ...]:
        row = list(self.table._defaults)
        for position, value in zip(self.positions, values, strict=True):
            row[position] = value
        for field, value in zip(self.table.schema, row, strict=True):
            if value is None and not field.nullable:
                raise ViewFailed(
                    f"view {self.view!r} into {self.table.name!r}: column {field.name!r} is {field.type} NOT NULL, and "
                    "a row holds NULL; leave such rows out with WHERE",
                    view=self.view,
                )
        return tuple(row)


def make_sink(database: Database, into: TableInfo, view: str, fields: Fields, unique: Sequence[int] | None, *,
              grows: bool) -> Sink:  # fmt: skip
    """The sink of a view with such columns. `unique`: positions of columns no two of its rows have in common, None if
    that is not plain to see; `grows`: its rows only come.

    UsageError where columns do not fit, UnsupportedSQL where the rows cannot be kept.
    """
    positions = _positions(into, fields)
    if into.kind == "topic":
        if not grows:
            raise UnsupportedSQL(
                f"INTO TOPIC {into.name} of a query that revises its rows: a topic keeps every row; write it into a "
                "table whose PRIMARY KEY are the columns of GROUP BY, or use EMIT ON WINDOW CLOSE",
                construct="an updating query into an append-only topic",
            )
        return TopicSink(into.id, view, database.topic(into.name), positions)
    table = database.table(into.name)
    names = [field.name.lower() for field in fields]
    key = [name.lower() for name in table.primary_key]
    if not key:
        raise UsageError(f"INTO {into.name}: the table has no PRIMARY KEY by which rows could be replaced: give it one")
    if not unique or not {names[i] for i in unique} <= set(key) or not set(key) <= set(names):
        found = "no key that is plain to see" if not unique else f"the key ({', '.join(names[i] for i in unique)})"
        raise UsageError(
            f"INTO {into.name}: the table's PRIMARY KEY is ({', '.join(table.primary_key)}), the query has {found}: "
            "they must be the same, such as the columns of GROUP BY"
        )
    return TableSink(into.id, view, table, positions, tuple(names.index(name) for name in key))


def _positions(into: TableInfo, fields: Fields) -> tuple[int, ...]:
    """Where the view's columns go in the topic's or table's schema."""
    if into.kind not in ("topic", "table"):
        raise UsageError(f"INTO {into.name}: that is a {into.kind}; a view writes into a topic or a table")
    schema: Schema = into.schema
    found = []
    for field in fields:
        position = schema.find(field.name)
        if position is None:
            raise UsageError(
                f"INTO {into.name}: it has no column {field.name!r}; its columns are {', '.join(schema.names)}: name "
                "the query's columns with AS"
            )
        wanted = schema.fields[position].type
        if str(wanted) != str(field.type):
            raise UsageError(
                f"INTO {into.name}: column {field.name!r} is {wanted}, the query gives {field.type}: write "
                f"CAST({field.name} AS {wanted}) AS {field.name}"
            )
        found.append(position)
    for i, column in enumerate(schema):
        if i not in found and not column.nullable and into.default(i) is None:
            raise UsageError(f"INTO {into.name}: column {column.name!r} is NOT NULL, and the query does not give it")
    return tuple(found)
