"""INSERT, UPDATE, DELETE and MERGE on tables: what a bound statement does inside a write transaction.

The rows a statement works on are found at a snapshot; they count only if nothing they come from has changed when the
writer lock is held (`is_current`), so every statement does what it would do alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, Protocol

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import SchemaMismatch
from eventdb.logical.expressions import ColumnRef, columns_of
from eventdb.logical.plan import Plan, Scan
from eventdb.merge_rows import MergeRows, rows_of
from eventdb.physical.evaluate import evaluate
from eventdb.result import Result
from eventdb.schema import BIGINT, BOOLEAN, VARCHAR, DataType, Schema
from eventdb.sql import statements as st
from eventdb.storage.snapshot import StoreSnapshot
from eventdb.storage.tables.keyed import KeyedWriter
from eventdb.storage.transaction import WriteTransaction
from eventdb.table import Table

Row = tuple[Any, ...]


TableStatement = st.InsertRows | st.Update | st.Delete | st.Merge


class Writer(Protocol):
    """What takes changes of a table: see KeyedWriter."""

    @property
    def key_of(self) -> Callable[[Sequence[Any]], bytes]: ...
    def row_ids(self, count: int) -> range: ...
    def find(self, key: bytes) -> int: ...
    def find_all(self, keys: Sequence[bytes]) -> list[int]: ...
    def rows(self, offsets: Sequence[int]) -> list[Row]: ...
    def put(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int: ...
    def insert(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int: ...
    def remove(self, offsets: Sequence[int], rows: Sequence[Row]) -> int: ...
    def replace(self, offsets: Sequence[int], old: Sequence[Row], new: Sequence[Row]) -> list[int]: ...


class TableChange:
    """One execution of a statement: `read` rows, then `apply` them."""

    def __init__(self, table: Table, statement: TableStatement) -> None:
        self._table = table
        self._statement = statement
        self._schema = table.schema
        self._rows: list[Row] = []
        self._ends: dict[int, int] = {}  # end offset by topic id of everything the rows come from
        self._batches: list[RecordBatch] = []
        self._done: list[tuple[int, Row]] = []  # (offset, row) of what RETURNING returns
        self._actions: list[str] = []  # MERGE: what was done with each of them

    def read(self, batches: Sequence[RecordBatch]) -> None:
        """The rows of the statement's plan."""
        self._batches = list(batches)
        if not isinstance(self._statement, st.Merge):
            self._rows = [row for batch in batches for row in rows_of(batch.columns)]

    def depend_on(self, plan: Plan, snapshot: StoreSnapshot, logs: Callable[[int], Any]) -> None:
        """The rows are those of the plan at the snapshot."""
        self._ends = {scan.topic_id: snapshot.offsets(logs(scan.topic_id))[1] for scan in _scans(plan)}

    def is_current(self, transaction: WriteTransaction, logs: Callable[[int], Any]) -> bool:
        """Whether nothing was committed meanwhile to the topics and tables the rows come from."""
        return all(transaction.end_offset(logs(topic_id)) == end for topic_id, end in self._ends.items())

    def apply(self, transaction: WriteTransaction) -> Result:
        """The change, in the transaction. ConstraintError and SchemaMismatch mean that it must not be committed."""
        self._table._check_usable()
        return self.change(KeyedWriter(transaction, self._table._log, self._table.name))

    def change(self, writer: Writer) -> Result:
        """The change, through the writer."""
        statement = self._statement
        if isinstance(statement, st.InsertRows):
            self._insert(writer, statement)
        elif isinstance(statement, st.Update):
            self._update(writer)
        elif isinstance(statement, st.Delete):
            self._delete(writer)
        else:
            self._merge(writer, statement)
        if statement.returning is None:
            return Result([], [], [], rowcount=len(self._done))
        return returned_rows(statement.returning, self._schema, self._done, self._actions)

    # --- statements ---------------------------------------------------------------------------------------------------

    def _insert(self, writer: Writer, statement: st.InsertRows) -> None:
        rows = self._rows
        if statement.columns != tuple(range(len(self._schema))):
            rows = []
            for given in self._rows:
                values: list[Any] = list(self._table._defaults)
                for position, value in zip(statement.columns, given, strict=True):
                    values[position] = value
                rows.append(tuple(values))
        _require_values(self._schema, rows)
        if statement.conflict is None or self._table._is_keyless:
            self._add(writer, rows)
            return
        keys = [writer.key_of(row) for row in rows]
        if statement.conflict.values is None:
            fresh: dict[bytes, Row] = {}
            for row, key in zip(rows, keys, strict=True):
                if key not in fresh and writer.find(key) < 0:
                    fresh[key] = row
            self._add(writer, list(fresh.values()))
        else:
            self._upsert(writer, rows, keys, statement.conflict)

    def _upsert(self, writer: Writer, rows: list[Row], keys: list[bytes], conflict: st.Conflict) -> None:
        """As if row after row was inserted: rows with one key take turns, rows with different keys go together."""
        waiting = list(range(len(rows)))
        while waiting:
            turn: dict[bytes, int] = {}
            later = [i for i in waiting if turn.setdefault(keys[i], i) != i]
            places = dict(zip(turn.values(), writer.find_all(list(turn)), strict=True))
            fresh = [i for i, offset in places.items() if offset < 0]
            taken = [i for i, offset in places.items() if offset >= 0]
            self._add(writer, [rows[i] for i in fresh])
            if taken:
                offsets = [places[i] for i in taken]
                old = writer.rows(offsets)
                offsets, old, new = self._resolved(conflict, offsets, old, [rows[i] for i in taken])
                self._replace(writer, offsets, old, new, _keeps_key(conflict, self._table._log.primary_key))
            waiting = later

    def _resolved(
        self, conflict: st.Conflict, offsets: list[int], old: list[Row], new: list[Row]
    ) -> tuple[list[int], list[Row], list[Row]]:
        """Offsets, rows and new rows of what DO UPDATE changes."""
        assert conflict.values is not None
        types = [*self._schema.types, *self._schema.types]
        pairs = [[*column] for column in (*zip(*old, strict=True), *zip(*new, strict=True))]
        computed = [value for value in conflict.values if not isinstance(value, ColumnRef)]
        read = {i for value in (*computed, conflict.where) if value is not None for i in columns_of(value)}
        columns = [column_of(type, pairs[i]) if i in read else _unread(len(old)) for i, type in enumerate(types)]
        batch = RecordBatch([""] * len(columns), columns)
        if conflict.where is not None:
            chosen = evaluate(conflict.where, batch)
            keep: Array = chosen.values if chosen.validity is None else chosen.values & chosen.validity
            batch = batch.filter(keep)
            kept = keep.tolist()
            offsets = list(compress(offsets, kept))
            old = list(compress(old, kept))
            pairs = [list(compress(column, kept)) for column in pairs]
        if not offsets:
            return [], [], []
        rows = rows_of([evaluate(value, batch) for value in computed]) if computed else iter(())
        made = zip(*rows, strict=True)
        found = [pairs[value.index] if isinstance(value, ColumnRef) else next(made) for value in conflict.values]
        return offsets, old, list(zip(*found, strict=True))

    def _update(self, writer: Writer) -> None:
        width = len(self._schema)
        rows = self._once(self._rows)
        self._replace(
            writer, [row[width] for row in rows], [row[:width] for row in rows], [row[width + 1 :] for row in rows]
        )

    def _delete(self, writer: Writer) -> None:
        width = len(self._schema)
        rows = self._once(self._rows)
        self._remove(writer, [row[width] for row in rows], [row[:width] for row in rows])

    def _once(self, rows: list[Row]) -> list[Row]:
        """The first row of each offset."""
        width = len(self._schema)
        found: dict[int, Row] = {}
        for row in rows:
            found.setdefault(row[width], row)
        return list(found.values())

    def _merge(self, writer: Writer, statement: st.Merge) -> None:
        """Rows are deleted first, then updated, then inserted: a key that one of them gives up is free for the next."""
        chosen = MergeRows(statement, len(self._schema))
        for batch in self._batches:
            chosen.add(batch)
        chosen.check(self._table.name)
        self._remove(writer, [offset for offset, _ in chosen.deleted], [row for _, row in chosen.deleted])
        self._actions += ["DELETE"] * len(self._done)
        self._replace(
            writer, [offset for offset, _, _ in chosen.updated], [old for _, old, _ in chosen.updated],
            [new for _, _, new in chosen.updated],
        )  # fmt: skip
        self._actions += ["UPDATE"] * (len(self._done) - len(self._actions))
        _require_values(self._schema, chosen.inserted)
        self._add(writer, chosen.inserted)
        self._actions += ["INSERT"] * (len(self._done) - len(self._actions))

    def _remove(self, writer: Writer, offsets: list[int], rows: list[Row]) -> None:
        if rows:
            held = writer.rows(offsets) if self._table._is_keyless else rows
            self._done += enumerate(held, writer.remove(offsets, held))

    def _add(self, writer: Writer, rows: list[Row]) -> None:
        if rows:
            rows = self._table._identified(writer, rows)
            self._done += enumerate(rows, writer.insert(rows, [writer.key_of(row) for row in rows]))

    def _replace(
        self, writer: Writer, offsets: list[int], old: list[Row], new: list[Row], keeps_key: bool = False
    ) -> None:
        if new:
            _require_values(self._schema, new)
            if self._table._is_keyless:
                old = writer.rows(offsets)
                new = [row + before[-1:] for row, before in zip(new, old, strict=True)]
            if keeps_key:
                self._done += enumerate(new, writer.put(new, [writer.key_of(row) for row in old]))
            else:
                self._done += zip(writer.replace(offsets, old, new), new, strict=True)


def returned_rows(
    returning: st.Returning, schema: Schema, done: Sequence[tuple[int, Row]], actions: Sequence[str]
) -> Result:
    """What RETURNING makes of rows and their offsets, and in MERGE of what was done with them."""
    columns = [column_of(type, [row[i] for _, row in done]) for i, type in enumerate(schema.types)]
    columns.append(column_of(BIGINT, [offset for offset, _ in done]))
    if actions:
        columns.append(column_of(VARCHAR, list(actions)))
    batch = RecordBatch([""] * len(columns), columns, len(done))
    return returned_batches(returning, [batch] if done else [])


def returned_batches(returning: st.Returning, batches: Sequence[RecordBatch]) -> Result:
    """What RETURNING makes of batches of the columns it reads."""
    names, types = list(returning.names), [value.type for value in returning.values]
    made = [RecordBatch(names, [evaluate(value, b) for value in returning.values], len(b)) for b in batches if len(b)]
    return Result(names, types, made)


def _unread(rows: int) -> Column:
    """A column that no expression reads."""
    return Column(BOOLEAN, np.zeros(rows, dtype=bool))


def _keeps_key(conflict: st.Conflict, primary_key: Sequence[int]) -> bool:
    """Whether DO UPDATE sets no column of the key."""
    assert conflict.values is not None
    values = [conflict.values[i] for i in primary_key]
    return all(isinstance(e, ColumnRef) and e.index == i for e, i in zip(values, primary_key, strict=True))


def column_of(type: DataType, values: list[Any]) -> Column:
    """The column of physical values, None = NULL."""
    if type.is_coded:
        return Column.encode(type, values)
    present = np.array([v is not None for v in values], dtype=bool)
    numbers = np.array([0 if v is None else v for v in values], dtype=type.physical)
    return Column(type, numbers, None if present.all() else present)


def _require_values(schema: Schema, rows: Sequence[Row]) -> None:
    """SchemaMismatch for a NULL in a NOT NULL column."""
    for index, field in enumerate(schema):
        if not field.nullable:
            for number, row in enumerate(rows):
                if row[index] is None:
                    raise SchemaMismatch(
                        f"column {field.name!r} is {field.type} NOT NULL: row {number} holds NULL",
                        column=field.name,
                        expected=f"{field.type} NOT NULL",
                    )


def _scans(plan: Plan) -> Iterator[Scan]:
    if isinstance(plan, Scan):
        yield plan
    for child in plan.children:
        yield from _scans(child)
