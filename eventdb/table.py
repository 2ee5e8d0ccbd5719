"""Table: a handle to the current rows of a keyed topic. Loads neither NumPy nor the SQL parser.

Rows are read by key through the index, and all versions as a changelog. A change is one commit; Transaction takes many.
"""

from __future__ import annotations

import time

from eventdb.config import LOCK_TIMEOUT_MS
from eventdb.errors import DatabaseLocked, OffsetOutOfRange, SchemaMismatch, UsageError
from eventdb.event import Position
from eventdb.row import RowCodec
from eventdb.schema import Schema
from eventdb.storage.index.key_index import row_count
from eventdb.storage.index.keys import key_encoder
from eventdb.storage.tables.keyed import KeyedWriter
from eventdb.values import us_to_datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.errors import EventDBError
    from eventdb.table_changes import Writer

READ_CHUNK_ROWS = 1_024


class RowChange:
    """One version in a table's changelog. `op` is "put" (the row's new values) or "delete" (`row` is what was deleted).

    `offset` and `append_time` (naive UTC) are those of the version itself.
    """

    __slots__ = ("_append_us", "offset", "op", "row")

    def __init__(self, op: str, row: dict[str, Any], offset: int, append_us: int) -> None:
        self.op = op
        self.row = row
        self.offset = offset
        self._append_us = append_us

    @property
    def append_time(self) -> dt.datetime:
        return us_to_datetime(self._append_us)

    def __repr__(self) -> str:
        return f"RowChange({self.offset}: {self.op} {self.row!r})"


class Table:
    """One table of an open database. Safe to use from several threads."""

    def __init__(self, database: Database, info: TopicInfo) -> None:
        self._database = database
        self._info = info
        self._store = database._store
        self._log = database._log_of(info)
        self._is_keyless = info.is_keyless
        self._schema = info.visible
        self._codec = RowCodec(self._schema, info.defaults)
        self._defaults = tuple(info.defaults.get(i) for i in range(len(self._schema)))
        self._names = self._schema.names
        self._width = len(self._names)
        self._key_names = [] if self._is_keyless else [self._names[i] for i in info.primary_key]
        self._key_codec = RowCodec(Schema([info.schema.fields[i] for i in info.primary_key]))
        self._encode_key = key_encoder(info.schema, info.primary_key)
        self._retired: EventDBError | None = None
        self._checked_ns = 0

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The names of the key's columns, in the key's order; () of a table without a primary key."""
        return tuple(self._key_names)

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {self.schema!r}, primary_key={self.primary_key!r})"

    def __len__(self) -> int:
        """The number of rows."""
        self._check_usable()
        with self._store.snapshot() as snapshot:
            return row_count(snapshot, self._log)

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    def _retire(self, error: EventDBError) -> None:
        self._retired = error

    def _check_usable(self) -> None:
        """Raises if the table was dropped or the database closed."""
        self._checked_ns = self._database._looked_for_ddl(self._checked_ns)
        if self._retired is not None:
            raise self._retired

    def _check_write(self) -> None:
        self._check_usable()
        if self._database._transactions:
            from eventdb.transaction import refuse_beside

            refuse_beside(self._database, f"a change of table {self.name!r}", "tx.put, tx.insert or tx.delete")

    # --- changing -----------------------------------------------------------------------------------------------------

    def put(self, row: Mapping[str, Any]) -> Position:
        """The row is the current one of its key, in one commit; the one before it, if any, is superseded.

        Columns that are missing have their default, or are NULL. SchemaMismatch stores nothing. Costs one flush in
        `commit` mode.
        """
        self._check_write()
        self._check_key("put")
        values = self._codec.encode(row)
        offset = self._store.put_row(self._log, values, self._log.key_of(values))
        return Position(0, offset) if offset >= 0 else self._write("put", [values])[0]

    def put_many(self, rows: Iterable[Mapping[str, Any]]) -> list[Position]:
        """Puts all rows in one commit, or none; of rows with the same key the last one stays."""
        self._check_key("put_many")
        return self._write("put", self._encoded(rows))

    def insert(self, row: Mapping[str, Any]) -> Position:
        """Like `put` for a key that has no row yet; ConstraintError, and nothing stored, if it has one."""
        return self.insert_many([row])[0]

    def insert_many(self, rows: Iterable[Mapping[str, Any]]) -> list[Position]:
        """Inserts all rows in one commit, or none if a key is taken (also by an earlier row of this call)."""
        return self._write("insert", self._encoded(rows))

    def delete(self, key: Any) -> bool:
        """Whether the key had a row; it has none now."""
        return bool(self.delete_many([key]))

    def delete_many(self, keys: Iterable[Any]) -> int:
        """How many of the keys had a row; none has one now. One commit."""
        self._check_write()
        wanted = [self._key(key) for key in keys]
        with self._store.write() as transaction:
            return self._apply(KeyedWriter(transaction, self._log, self.name), "delete", wanted)

    def _encoded(self, rows: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        if hasattr(rows, "keys"):
            raise UsageError("pass a list of dicts; put and insert take one")
        encode = self._codec.encode
        return [encode(row) for row in rows]

    def _write(self, operation: str, rows: list[tuple[Any, ...]]) -> list[Position]:
        self._check_write()
        if not rows:
            return []
        with self._store.write() as transaction:
            first = self._apply(KeyedWriter(transaction, self._log, self.name), operation, rows)
        return [Position(0, offset) for offset in range(first, first + len(rows))]

    def _apply(self, writer: KeyedWriter, operation: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """The offset of the first row, or for "delete" of keys how many had a row."""
        if operation == "delete":
            return writer.delete([writer.encode_key(key) for key in rows])
        rows = self._identified(writer, rows)
        keys = [writer.key_of(row) for row in rows]
        return writer.put(rows, keys) if operation == "put" else writer.insert(rows, keys)

    def _identified(self, writer: Writer, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows to insert as the log has them: without a primary key each gets a number of its own."""
        if not self._is_keyless:
            return list(rows)
        return [(*row, number) for row, number in zip(rows, writer.row_ids(len(rows)), strict=True)]

    def _check_key(self, call: str) -> None:
        if self._is_keyless:
            raise UsageError(f"table {self.name!r} has no primary key, which {call} needs: use insert, or SQL")

    def _key(self, key: Any) -> tuple[Any, ...]:
        """The physical values of a key: one value, or a tuple, list or dict of several."""
        self._check_key("a key")
        names = self._key_names
        if hasattr(key, "keys"):
            return self._key_codec.encode(key)
        values = list(key) if len(names) > 1 and isinstance(key, tuple | list) else [key]
        if len(values) != len(names):
            shown = names[0] if len(names) == 1 else f"a tuple ({', '.join(names)})"
            raise SchemaMismatch(f"the key of table {self.name!r} is {shown}, not {key!r}")
        return self._key_codec.encode(dict(zip(names, values, strict=True)))

    def compact(self, *, full: bool = False) -> dict[str, int]:
        """Gives back the space of versions that nobody can see any more. Offsets and contents do not change.

        {'removed': versions, 'segments': files rewritten or dropped, 'held': 1 if an older snapshot kept all of them}.
        The newest segment, which is still written, stays as it is, unless `full`. Runs by itself in the background.
        DatabaseLocked if another process has been rewriting files for 30 seconds.
        """
        from eventdb.storage.tables.compact import compact_table

        self._check_usable()
        with self._store.sealer().lease(LOCK_TIMEOUT_MS) as mine:
            if not mine:
                raise DatabaseLocked(
                    f"{self._store.path}: another process has been rewriting files for {LOCK_TIMEOUT_MS} ms; try again",
                    path=self._store.path,
                )
            return compact_table(self._store, self._log, full=full)

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: Any) -> dict[str, Any] | None:
        """The row that has the key now, None if there is none. One look into the index, whatever the table's size.

        `key` is the value of the key column; of several columns a tuple in the key's order, or a dict.
        """
        self._check_usable()
        found = self._store.current_row(self._log, self._encode_key(self._key(key)))
        return None if found is None else dict(zip(self._names, self._codec.decode(found), strict=True))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The current rows, in the order they were put; all of one moment, that of the first row."""
        self._check_usable()
        names, decode, width = self._names, self._codec.decode, self._width
        with self._store.snapshot() as snapshot:
            start, end = snapshot.offsets(self._log)
            for chunk in snapshot.rows(self._log, start, end):
                for _, _, row in chunk:
                    if row[-1] == 0 or row[-1] > end:
                        yield dict(zip(names, decode(row[:width]), strict=True))

    def offsets(self) -> tuple[int, int]:
        """(earliest offset, offset the next version will get) of the changelog."""
        self._check_usable()
        with self._store.snapshot() as snapshot:
            start, end = snapshot.offsets(self._log)
            return start, end

    def read(self, start: int = 0, *, follow: bool = False, timeout: float | None = None) -> Iterator[RowChange]:
        """The changelog in offset order, from the offset `start` on: a RowChange for every put and every delete.

        Applied in order it gives the table. Compaction removes versions that were superseded, and deletions, as in a
        compacted topic of Kafka; what stays keeps its offset. Without `follow` it ends where the table ends when it
        gets there; with it, it waits for more and ends after `timeout` seconds without (None = never).
        """
        self._check_usable()
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise UsageError(f"start is an offset of 0 or more, not {start!r}")
        end = self.offsets()[1]
        if start > end:
            raise OffsetOutOfRange(
                f"table {self.name!r} ends at offset {end}: start {start} is outside", path=self._store.path,
                offset=start, earliest=0, latest=end,
            )  # fmt: skip
        return self._read(start, follow, timeout)

    def _read(self, position: int, follow: bool, timeout: float | None) -> Iterator[RowChange]:
        names, decode, width = self._names, self._codec.decode, self._width
        waited_from = time.monotonic()
        while True:
            self._check_usable()
            with self._store.snapshot() as snapshot:
                end = snapshot.offsets(self._log)[1]
                stop = min(end, position + READ_CHUNK_ROWS)
                found = [row for chunk in snapshot.rows(self._log, position, stop) for row in chunk]
                commit = snapshot.commit_id
            for offset, append_us, row in found:
                op = "delete" if row[-1] == offset + 1 else "put"
                yield RowChange(op, dict(zip(names, decode(row[:width]), strict=True)), offset, append_us)
            if stop > position:
                position, waited_from = stop, time.monotonic()
                continue
            if not follow:
                return
            left = 1.0 if timeout is None else waited_from + timeout - time.monotonic()
            if left <= 0:
                return
            self._store.wait(commit, min(left, 1.0))
