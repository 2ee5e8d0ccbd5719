"""Connection: one open database and one transaction at a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from eventdb.config import DEFAULT_MEMORY_BYTES
from eventdb.dbapi import errors
from eventdb.dbapi.cursor import Cursor
from eventdb.dbapi.errors import as_dbapi

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from eventdb.database import Database
    from eventdb.sql_session import SqlSession
    from eventdb.sql_transaction import SqlTransaction

READ_COMMITTED, SNAPSHOT = "READ COMMITTED", "SNAPSHOT"


def connect(
    database: str | os.PathLike[str] | Database,
    *,
    durability: str = "commit",
    read_only: bool = False,
    memory_limit: str | int = DEFAULT_MEMORY_BYTES,
    threads: int | None = None,
    autocommit: bool = False,
    isolation: str = READ_COMMITTED,
    timeout: float | None = None,
) -> Connection:
    """A connection of PEP 249 to the database directory, with the options of `eventdb.open`; or to an open Database,
    which then stays open when the connection is closed.

    `autocommit`: every statement is committed at once, except between BEGIN and COMMIT. `isolation`: with "READ
    COMMITTED" a query before the first change of a transaction sees what is committed by then; with "SNAPSHOT" all see
    what was at the first of them, so that a change of what was read conflicts with others' changes since. `timeout`
    bounds every statement, in seconds.
    OperationalError, DatabaseError or ProgrammingError for what `eventdb.open` raises.
    """
    from eventdb.database import Database, open

    _check_isolation(isolation)
    with as_dbapi():
        if isinstance(database, Database):
            database._check_open()
            return Connection(database, False, autocommit, isolation, timeout)
        opened = open(
            database, durability=durability, read_only=read_only, memory_limit=memory_limit, threads=threads
        )  # fmt: skip
        return Connection(opened, True, autocommit, isolation, timeout)


class Connection:
    """Get it from `connect`. One thread uses it at a time (`interrupt` may be called from any).

    In a `with` block it commits at the end, or rolls back if an exception leaves the block; it is not closed.
    """

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(
        self, database: Database, owned: bool, autocommit: bool, isolation: str, timeout: float | None
    ) -> None:  # fmt: skip
        self._database = database
        self._owned = owned
        self._autocommit = bool(autocommit)
        self._isolation = isolation
        self.timeout = timeout
        self._pending: SqlTransaction | None = None
        self._session: SqlSession | None = None  # of autocommit, where BEGIN opens a transaction
        self._closed = False

    @property
    def database(self) -> Database:
        """The database underneath: topics, producers, views and all."""
        self._check()
        return self._database

    @property
    def autocommit(self) -> bool:
        """Whether every statement is committed at once. Setting it commits what is not."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.commit()
        self._autocommit = bool(value)

    @property
    def isolation(self) -> str:
        """ "READ COMMITTED" or "SNAPSHOT"; see `connect`. Setting it commits what is not."""
        return self._isolation

    @isolation.setter
    def isolation(self, value: str) -> None:
        _check_isolation(value)
        if value != self._isolation:
            self.commit()
            self._isolation, self._pending = value, None

    @property
    def in_transaction(self) -> bool:
        """Whether there is something to commit or roll back."""
        begun = self._session is not None and self._session.in_transaction
        return begun or (self._pending is not None and self._pending.is_open)

    def cursor(self) -> Cursor:
        self._check()
        return Cursor(self)

    def execute(self, operation: str, parameters: Any = None, *, timeout: float | None = None) -> Cursor:
        """A new cursor that has executed the statement."""
        return self.cursor().execute(operation, parameters, timeout=timeout)

    def executemany(self, operation: str, seq_of_parameters: Sequence[Any]) -> Cursor:
        """A new cursor that has executed the statement for each of the parameters."""
        return self.cursor().executemany(operation, seq_of_parameters)

    def commit(self) -> None:
        """Stores what was changed since the last commit, all in one. OperationalError if another transaction has
        changed one of the rows meanwhile, IntegrityError if a key is taken now: nothing is stored then."""
        self._check()
        with as_dbapi():
            if self._session is not None and self._session.in_transaction:
                self._session.commit()
            if self._pending is not None:
                self._pending.commit()

    def rollback(self) -> None:
        """Forgets what was changed since the last commit."""
        self._check()
        if self._session is not None and self._session.in_transaction:
            self._session.rollback()
        if self._pending is not None:
            self._pending.rollback()

    def interrupt(self) -> None:
        """Cancels the statements of this connection's database handle that run now; they raise OperationalError."""
        self._check()
        self._database.interrupt()

    def close(self) -> None:
        """Rolls back what is not committed, and closes the database if `connect` opened it. Closing twice is fine."""
        if self._closed:
            return
        self.rollback()
        if self._owned:
            with as_dbapi():
                self._database.close()
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise errors.InterfaceError("the connection is closed")

    def _own_session(self) -> SqlSession:
        if self._session is None:
            self._session = self._database.session()
        return self._session

    def _transaction(self) -> SqlTransaction:
        if self._pending is None:
            from eventdb.sql_transaction import SqlTransaction

            self._pending = SqlTransaction(self._database, reads_begin=self._isolation == SNAPSHOT)
        return self._pending

    def __enter__(self) -> Connection:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
        else:
            self.rollback()

    def __repr__(self) -> str:
        return f"Connection({self._database.path!r}{', closed' if self._closed else ''})"


def _check_isolation(value: str) -> None:
    if value not in (READ_COMMITTED, SNAPSHOT):
        raise errors.ProgrammingError(f"isolation is {READ_COMMITTED!r} or {SNAPSHOT!r}, not {value!r}")
