"""SqlTransaction: SQL statements that become visible together, or not at all.

Until its first statement that writes (or its first query, if `reads_begin`), each query sees what is committed. From
then on the transaction reads one snapshot, with its own changes over it (uncommitted.py); nobody else sees them. No
lock is held before the commit, which stores everything at once unless another commit has changed one of the same rows
of a table meanwhile: ConflictError.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from eventdb.batch import RecordBatch
from eventdb.copies import copy_to
from eventdb.errors import SchemaMismatch, UnsupportedError, UsageError
from eventdb.logical.plan import Plan
from eventdb.physical.context import QueryContext
from eventdb.result import Result
from eventdb.sql import statements as st
from eventdb.table_changes import TableChange, returned_batches
from eventdb.transaction import refuse_beside
from eventdb.uncommitted import TableRows, TopicRows, own_rows

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.storage.snapshot import StoreSnapshot

T = TypeVar("T")

_PASSIVE = (
    st.Describe, st.ShowTopics, st.Explain, st.SetOption, st.ShowSetting, st.Prepare, st.Deallocate, st.VerifyView,
)  # fmt: skip
_BARE_INSERT = re.compile(
    r"\s*INSERT\s+INTO\s+[^()'?$]+(\([^()'?$]*\))?\s*VALUES\s*\(\s*(\?|\$\w+)(\s*,\s*(\?|\$\w+))*\s*\)\s*;?\s*",
    re.IGNORECASE,
)


class SqlTransaction:
    """See the module. One thread at a time uses it; after `commit` or `rollback` the next one begins by itself.

    Statements that create, alter or drop commit what came before and take effect at once; if it is the `sole` one of
    its owner, which BEGIN began, they are refused.
    """

    def __init__(
        self, database: Database, *, reads_begin: bool = False, sole: bool = False, read_only: bool = False
    ) -> None:
        self._database = database
        self._reads_begin = reads_begin
        self._sole = sole
        self._read_only = read_only
        self._snapshot: StoreSnapshot | None = None
        self._changed: dict[int, TopicRows | TableRows] = {}

    @property
    def is_open(self) -> bool:
        """Whether it has begun: it reads a snapshot, and there may be something to commit."""
        return self._snapshot is not None

    def run(self, text: str, parameters: Any = None, timeout: float | None = None) -> Result:
        """One statement, as Database.sql runs it, inside the transaction."""
        database = self._database
        database._check_open()
        database._refresh_catalog()
        return database._session_of().run(text, parameters, timeout, None, self)

    def run_many(self, text: str, parameters: Sequence[Any], timeout: float | None = None) -> int:
        """The statement once for each of the parameters; how many rows that changed. It stops where it fails: what came
        before stays in the transaction. UnsupportedError if it returns rows. INSERT ... VALUES of parameters alone
        takes about as long as append_many."""
        if len(parameters) > 1 and _BARE_INSERT.fullmatch(text):
            count = self._insert_many(text, parameters)
            if count is not None:
                return count
        count = 0
        for values in parameters:
            result = self.run(text, values, timeout)
            if result.columns:
                raise UnsupportedError("a statement that returns rows runs once, not for many parameters", construct="")
            count += result.rowcount
        return count

    def commit(self) -> None:
        """Stores everything in one commit; if that fails, everything is forgotten."""
        try:
            if self._changed:
                self._database._check_writable()
                refuse_beside(self._database, "a commit", "tx.append or tx.put")
                self._database._refresh_catalog()  # what was dropped says so
                with self._database._store.write() as writer:
                    for rows in self._changed.values():
                        rows.commit(writer)
        finally:
            self.rollback()

    def rollback(self) -> None:
        """Forgets everything that is not committed."""
        snapshot, self._snapshot = self._snapshot, None
        self._changed = {}
        if snapshot is not None:
            snapshot.close()

    # --- for the session ----------------------------------------------------------------------------------------------

    def takes(self, statement: st.Statement) -> Callable[[Any, Any, float | None], Result] | None:
        """What runs the statement; None: the session does, as ever."""
        if isinstance(statement, st.Query):
            return self._query if self._reads_begin or self.is_open else None
        if isinstance(statement, st.Insert | st.InsertRows | st.Update | st.Delete | st.Merge):
            return self._change
        if isinstance(statement, st.Begin):
            if self.is_open:
                raise UsageError("a transaction is open already: it began with the first statement that wrote")
            return nothing
        if isinstance(statement, st.Commit | st.Rollback):
            (self.commit if isinstance(statement, st.Commit) else self.rollback)()
            return nothing
        if isinstance(statement, st.CopyTo) and not self._sole:
            return self._copy_to if self._reads_begin or self.is_open else None
        if not isinstance(statement, _PASSIVE):
            if self._sole:
                what = re.sub("(?<!^)([A-Z])", r" \1", type(statement).__name__).upper()
                raise UnsupportedError(
                    f"{what} in a transaction could not be rolled back: COMMIT first, or write it before BEGIN",
                    construct=f"{what} in a transaction",
                )
            self.commit()
        return None

    def failed(self, text: str, error: BaseException) -> None:
        """A statement ended with an error: it has left nothing, and the transaction goes on."""

    def _query(self, statement: st.Query, snapshot: Any, timeout: float | None) -> Result:
        plan = statement.plan
        with self._begun():
            batches = self._database._session_of().rows(plan, timeout, self._snapshot, self._own)
        return Result([f.name for f in plan.fields], [f.type for f in plan.fields], batches)

    def _copy_to(self, statement: st.CopyTo, snapshot: Any, timeout: float | None) -> Result:
        database = self._database
        with self._begun(), database._session_of().context(self._snapshot, timeout) as context:
            own = replace(statement, plan=self._own(statement.plan, context))
            return copy_to(own, context, database._filesystems, database.path)

    def _change(
        self,
        statement: st.Insert | st.InsertRows | st.Update | st.Delete | st.Merge,
        snapshot: Any,
        timeout: float | None,
    ) -> Result:
        database = self._database
        self._check_writable()
        if statement.returning is not None and statement.returning.reads_offset:
            raise UnsupportedError(
                "RETURNING _offset: a row gets its offset when the transaction commits; run it in autocommit",
                construct="RETURNING _offset in a transaction",
            )
        session = database._session_of()
        with self._begun():
            batches = session.rows(statement.plan, timeout, self._snapshot, self._own)
            with session.context(self._snapshot, None):  # nobody closes it under the change
                if isinstance(statement, st.Insert):
                    return self._add(statement, batches)
                change = TableChange(database.table(statement.table.name), statement)
                change.read(batches)
                return self._changing(self._table_rows(statement.table), change.change)

    def _add(self, statement: st.Insert, batches: Sequence[RecordBatch]) -> Result:
        rows, prepare = self._topic_rows(statement.topic), self._database._session_of()._prepare
        prepared = [prepare(rows.topic.schema, statement.columns, batch) for batch in batches if len(batch)]
        result = Result([], [], [], rowcount=sum(len(columns[0]) for columns in prepared))
        if statement.returning is not None:
            parts = [RecordBatch([""] * len(columns), columns) for columns in prepared]
            result = returned_batches(statement.returning, parts)
        rows.add_columns(prepared)
        return result

    @staticmethod
    def _changing(rows: TableRows, change: Callable[[TableRows], T]) -> T:
        """The change of a table, whole or not at all."""
        try:
            done = change(rows)
        except BaseException:
            rows.undo()
            raise
        rows.keep()
        return done

    def _insert_many(self, text: str, parameters: Sequence[Any]) -> int | None:
        """How many rows were inserted; None if one of them needs what SQL does beyond storing it (a cast, an error)."""
        database = self._database
        self._check_writable()
        database._refresh_catalog()
        statement = database._session_of().bind(text, parameters[0])
        if not isinstance(statement, st.Insert | st.InsertRows):
            return None
        info = statement.topic if isinstance(statement, st.Insert) else statement.table
        names = [info.schema.names[i] for i in statement.columns]
        if isinstance(parameters[0], Mapping):
            written = [name[1:] for name in re.findall(r"\$\w+", text)]
            values = [[given[name] for name in written] for given in parameters if given.keys() >= set(written)]
        else:
            values = [list(given) for given in parameters if len(given) == len(names)]
        if len(values) != len(parameters) or len(values[0]) != len(names):
            return None
        is_topic = isinstance(statement, st.Insert)
        encode = database.topic(info.name)._encode if is_topic else database.table(info.name)._codec.encode
        try:
            rows = [encode(dict(zip(names, row, strict=True))) for row in values]
        except SchemaMismatch:
            return None
        with self._begun(), database._session_of().context(self._snapshot, None):
            if is_topic:
                self._topic_rows(info).add_rows(rows)
            else:
                held = self._table_rows(info)
                rows = held.table._identified(held, rows)
                try:
                    held.insert(rows, [held.key_of(row) for row in rows])
                finally:
                    held.keep()  # those before one that fails, as if each was a statement
        return len(values)

    def _check_writable(self) -> None:
        self._database._check_writable()
        if self._read_only:
            raise UsageError("the transaction is READ ONLY: it began with BEGIN READ ONLY")

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Around a statement: the transaction has begun. If it begins with this one, which fails and leaves nothing, it
        has not begun."""
        begins = self._snapshot is None
        if begins:
            self._snapshot = self._database._store.snapshot()
        try:
            yield
        except BaseException:
            if begins and not any(rows.is_changed for rows in self._changed.values()):
                self.rollback()
            raise

    def _topic_rows(self, info: st.TableInfo) -> TopicRows:
        rows = self._changed.get(info.id)
        if rows is None:
            rows = self._changed[info.id] = TopicRows(self._database.topic(info.name))
        assert isinstance(rows, TopicRows)
        return rows

    def _table_rows(self, info: st.TableInfo) -> TableRows:
        rows = self._changed.get(info.id)
        if rows is None:
            assert self._snapshot is not None
            rows = self._changed[info.id] = TableRows(self._database.table(info.name), self._snapshot)
        assert isinstance(rows, TableRows)
        return rows

    def _own(self, plan: Plan, context: QueryContext) -> Plan:
        """The plan over the snapshot and the transaction's own changes."""
        if not self._changed:
            return plan
        readers: dict[str, str] = {}
        if self._database._catalog.views():
            views = self._database._views_of()
            for topic_id, rows in self._changed.items():
                name = rows.topic.name if isinstance(rows, TopicRows) else rows.table.name
                readers |= dict.fromkeys(views.readers_of(topic_id), name)
        return own_rows(plan, self._changed, readers, context, time.time_ns() // 1000)


def nothing(statement: st.Statement, snapshot: Any, timeout: float | None) -> Result:
    """Runs a statement whose work is done."""
    return Result([], [], [])
