"""What a SQL transaction has changed and not committed: rows of topics and tables, and how its own queries see them.

A query of the transaction reads its snapshot with the plan changed: every scan of a changed topic or table becomes the
scan without the rows that were replaced or deleted, followed by the rows that are held here. Those have provisional
offsets from OWN_OFFSETS on, in the order they were made; the real ones are given by the commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Column, RecordBatch
from eventdb.errors import ConflictError, UnsupportedError
from eventdb.logical.expressions import ColumnRef
from eventdb.logical.plan import Join, OutputField, Plan, Project, Scan, UnionAll, ViewScan, transform_plan
from eventdb.logical.relational import WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.schema import BIGINT, TIMESTAMP, DataType
from eventdb.storage.index.key_index import KeyIndex
from eventdb.storage.tables.keyed import KeyedWriter, key_shown, key_taken
from eventdb.table_changes import column_of

if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.transaction import WriteTransaction
    from eventdb.table import Table
    from eventdb.topic import Topic

    Row = tuple[Any, ...]

OWN_OFFSETS = 1 << 62
_UNTOUCHED = object()  # a key that has the row it has in the snapshot


class TopicRows:
    """Events for one topic, in the order they were inserted: columns, or rows of physical values."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._parts: list[tuple[bool, list[Any]]] = []  # (whether columns, columns or rows)
        self._columns: list[list[Column]] = []  # of the parts that a query has read

    def add_columns(self, parts: Sequence[list[Column]]) -> None:
        """All columns of each part, which become rows together."""
        self._parts += [(True, columns) for columns in parts]

    def add_rows(self, rows: list[Row]) -> None:
        self._parts.append((False, rows))

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._parts)

    def commit(self, transaction: WriteTransaction) -> None:
        self.topic._raise_if_retired()
        for columnar, part in self._parts:
            place = self.topic._place_columns if columnar else self.topic._place_rows
            place(transaction, part, None, None)

    @property
    def replaced(self) -> list[int]:
        """Events are never replaced."""
        return []

    def batches(self, scan: Scan, now_us: int) -> Iterator[RecordBatch]:
        """The rows as the scan would give them."""
        topic = self.topic
        types = topic.schema.types
        if scan.partition is not None and (topic.partitions > 1 or scan.partition):
            return
        for columnar, part in self._parts[len(self._columns) :]:
            made = part if columnar else [column_of(type, list(v)) for type, v in zip(types, zip(*part, strict=True),
                                                                                      strict=True)]  # fmt: skip
            self._columns.append(made)
        first = OWN_OFFSETS
        for columns in self._columns:
            count = len(columns[0])
            yield _batch(scan, topic, columns, np.arange(first, first + count, dtype=np.int64), now_us)
            first += count


class TableRows:
    """Changes of one table. It takes them as a KeyedWriter does; an entry is made of every key that is touched."""

    def __init__(self, table: Table, snapshot: StoreSnapshot) -> None:
        self.table = table
        self.log = table._log
        self.key_of = self.log.key_of
        self._snapshot = snapshot
        self._index = KeyIndex(snapshot, self.log)
        self._entries: dict[bytes, int] = {}
        self._rows: list[Any] = []  # of each entry: the row, None (deleted) or _UNTOUCHED
        self._bases: list[int] = []  # the offset its key has in the snapshot, -1 if none
        self._undo: list[tuple[int, Any]] = []
        self._columns: tuple[list[Column], Any] | None = None

    # --- as a KeyedWriter ---------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> int:
        """The offset, perhaps a provisional one, of the row that has the key; -1 if none has."""
        entry = self._entry(key)
        row = self._rows[entry]
        if row is _UNTOUCHED:
            return self._bases[entry]
        return -1 if row is None else OWN_OFFSETS + entry

    def find_all(self, keys: Sequence[bytes]) -> list[int]:
        return [self.find(key) for key in keys]

    def rows(self, offsets: Sequence[int]) -> list[Row]:
        """The values of the rows."""
        found: list[Row] = []
        for offset in offsets:
            if offset >= OWN_OFFSETS:
                found.append(self._rows[offset - OWN_OFFSETS])
            else:
                found.append(next(iter(self._snapshot.rows(self.log, offset, offset + 1)))[0][2][:-1])
        return found

    def row_ids(self, count: int) -> range:
        """Numbers of rows until the commit, which gives them others."""
        first = OWN_OFFSETS + len(self._rows)
        return range(first, first + count)

    def put(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int:
        for row, key in zip(rows, keys, strict=True):
            self._set(key, row)
        return OWN_OFFSETS

    def insert(self, rows: Sequence[Row], keys: Sequence[bytes]) -> int:
        """ConstraintError if a key is taken."""
        for row, key in zip(rows, keys, strict=True):
            if self.find(key) >= 0:
                raise key_taken(self.log, self.table.name, row)
            self._set(key, row)
        return OWN_OFFSETS

    def remove(self, offsets: Sequence[int], rows: Sequence[Row]) -> int:
        for row in rows:
            self._set(self.key_of(row), None)
        return OWN_OFFSETS

    def replace(self, offsets: Sequence[int], old: Sequence[Row], new: Sequence[Row]) -> list[int]:
        """Rows whose keys change are deleted and inserted, as KeyedWriter.replace does it."""
        before, after = [self.key_of(row) for row in old], [self.key_of(row) for row in new]
        moved = [i for i, key in enumerate(before) if key != after[i]]
        for i in moved:
            self._set(before[i], None)
        for i, key in enumerate(before):
            if key == after[i]:
                self._set(key, new[i])
        self.insert([new[i] for i in moved], [after[i] for i in moved])
        return [OWN_OFFSETS + self._entries[key] for key in after]

    def _entry(self, key: bytes) -> int:
        entry = self._entries.get(key)
        if entry is None:
            place = self._index.find(key)
            entry = self._entries[key] = len(self._rows)
            self._rows.append(_UNTOUCHED)
            self._bases.append(-1 if place is None else place[0].offset_at(place[1]))
        return entry

    def _set(self, key: bytes, row: Row | None) -> None:
        entry = self._entry(key)
        self._undo.append((entry, self._rows[entry]))
        self._rows[entry] = row
        self._columns = None

    @property
    def is_changed(self) -> bool:
        """Whether there may be anything to commit."""
        return any(row is not _UNTOUCHED for row in self._rows)

    # --- a statement, and the commit ----------------------------------------------------------------------------------

    def keep(self) -> None:
        """The statement is done: what it changed stays."""
        self._undo.clear()

    def undo(self) -> None:
        """The statement failed: nothing of it stays."""
        while self._undo:
            entry, row = self._undo.pop()
            self._rows[entry] = row
        self._columns = None

    def commit(self, transaction: WriteTransaction) -> None:
        """The last row of every changed key. ConstraintError if a key that was free is taken now, ConflictError if
        another commit has changed a row since the snapshot."""
        self.table._check_usable()
        writer = KeyedWriter(transaction, self.log, self.table.name)
        changed = [
            (key, self._bases[entry], self._rows[entry])
            for key, entry in self._entries.items()
            if self._rows[entry] is not _UNTOUCHED and (self._bases[entry] >= 0 or self._rows[entry] is not None)
        ]
        for (_, base, row), now in zip(changed, writer.find_all([key for key, _, _ in changed]), strict=True):
            if base < 0 <= now:
                raise writer.taken(row)
            if base != now:
                key, shown = key_shown(self.log, self.rows([base])[0] if row is None else row)
                raise ConflictError(
                    f"table {self.table.name!r}: another transaction has changed the row {shown}, which this one "
                    "changes too, since it began: nothing of it was stored, do it again",
                    table=self.table.name,
                    key=key,
                )
        gone = [base for _, base, row in changed if row is None]
        if gone:
            writer.remove(gone, writer.rows(gone))
        kept = [(key, row) for key, _, row in changed if row is not None]
        if self.table._is_keyless and kept:
            rows = [row for _, row in kept]
            numbers = writer.row_ids(len(rows))
            rows = [r if r[-1] < OWN_OFFSETS else (*r[:-1], n) for r, n in zip(rows, numbers, strict=True)]
            kept = [(self.key_of(row), row) for row in rows]
        if kept:
            writer.put([row for _, row in kept], [key for key, _ in kept])

    # --- what queries see ---------------------------------------------------------------------------------------------

    @property
    def replaced(self) -> list[int]:
        """The offsets of rows in the snapshot that are no more what the transaction sees."""
        return [base for base, row in zip(self._bases, self._rows, strict=True) if base >= 0 and row is not _UNTOUCHED]

    def batches(self, scan: Scan, now_us: int) -> Iterator[RecordBatch]:
        if self._columns is None:
            held = [(i, row) for i, row in enumerate(self._rows) if row is not None and row is not _UNTOUCHED]
            offsets = np.array([OWN_OFFSETS + i for i, _ in held], dtype=np.int64)
            width = len(self.table.schema)
            values = zip(*[row[:width] for _, row in held], strict=True) if held else iter([()] * width)
            columns = [column_of(type, list(v)) for type, v in zip(self.table.schema.types, values, strict=True)]
            self._columns = columns, offsets
        columns, offsets = self._columns
        if len(offsets):
            yield _batch(scan, self.table, columns, offsets, now_us)


def own_rows(
    plan: Plan, changed: dict[int, TopicRows | TableRows], readers: dict[str, str], context: QueryContext, now_us: int
) -> Plan:
    """The plan over the context's snapshot and over what is changed, by topic id. `readers` are the views over changed
    topics and tables, with their names: UnsupportedError, for they do not see what is not committed."""

    def change(node: Plan) -> Plan:
        if isinstance(node, ViewScan) and node.name in readers:
            raise UnsupportedError(
                f"view {node.name!r} does not show what this transaction has changed in "
                f"{readers[node.name]!r}: commit before reading it",
                construct="a view over uncommitted changes",
            )
        if isinstance(node, Scan) and node.topic_id in changed:
            return _with_own(node, changed[node.topic_id], context, now_us)
        return node

    return transform_plan(plan, change)


def _with_own(scan: Scan, rows: TopicRows | TableRows, context: QueryContext, now_us: int) -> Plan:
    replaced = rows.replaced
    old: Plan = scan
    if replaced:
        # One column more, against which the offsets of rows that are no more are joined.
        offset = OutputField("_offset", BIGINT, nullable=False)
        wide = replace(scan, columns=(*scan.columns, "_offset"), output=(*scan.output, offset))
        batch = RecordBatch(["_offset"], [Column(BIGINT, np.array(replaced, dtype=np.int64))])
        gone = _held([batch], (offset,), scan.name, context)
        here, there = ColumnRef(BIGINT, len(scan.columns), "_offset"), ColumnRef(BIGINT, 0, "_offset")
        left = Join("anti", wide, gone, (here,), (there,))
        kept = tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(scan.output))
        old = Project(left, kept, scan.output)
    if scan.stop_offset is not None and scan.stop_offset <= OWN_OFFSETS:
        return old
    own = list(rows.batches(scan, now_us))
    return UnionAll((old, _held(own, scan.output, scan.name, context)), scan.output) if own else old


def _held(batches: list[RecordBatch], fields: tuple[OutputField, ...], name: str, context: QueryContext) -> Plan:
    number = -1 - len(context.working)  # the recursions of the query count upwards
    context.working[number] = batches
    return WorkingTable(number, name, fields)


def _batch(scan: Scan, owner: Topic | Table, columns: list[Column], offsets: Any, now_us: int) -> RecordBatch:
    made = [
        _column(name, field.type, owner, columns, offsets, now_us)
        for name, field in zip(scan.columns, scan.output, strict=True)
    ]
    return RecordBatch([field.name for field in scan.output], made, len(offsets))


def _column(
    name: str, type: DataType, owner: Topic | Table, columns: list[Column], offsets: Any, now_us: int
) -> Column:
    """A column of the schema or a system column."""
    info, count = owner._info, len(offsets)
    if name == "_offset":
        return Column(BIGINT, offsets)
    if name == "_partition":
        return Column(type, np.zeros(count, dtype=type.physical))
    if name == "_append_time" or (name == "_time" and info.event_time is None):
        return Column(TIMESTAMP, np.full(count, now_us, dtype=np.int64))
    wanted = {"_time": info.event_time, "_key": info.key}.get(name, name)
    if wanted is None or name == "_headers":
        return column_of(type, [None] * count)
    column = columns[owner.schema.index_of(wanted)]
    if column.type.name == "DATE" and type.name == "TIMESTAMP":
        return Column(type, column.values.astype(np.int64) * 86_400_000_000, column.validity)
    return column
