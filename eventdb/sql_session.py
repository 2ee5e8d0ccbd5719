"""SqlSession: one line of statements, in which BEGIN, COMMIT and ROLLBACK mean something.

`db.sql` has a session for each thread: BEGIN in one thread says nothing about the others. `db.session()` makes one that
belongs to whoever holds it, whichever thread that is; the shell runs in such a one. A transaction holds no lock and
reads a snapshot, so that one left open keeps nobody waiting; it ends with its thread, its session or its database.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from eventdb.errors import ClosedError, TransactionFailed, UsageError
from eventdb.sql_transaction import SqlTransaction, nothing
from eventdb.transaction import enter_block, leave_block, refuse_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from eventdb.database import Database
    from eventdb.result import Result
    from eventdb.sql import statements as st

_HEAD_CHARS = 60


class SqlSession:
    """See Database.session. One thread uses it at a time. In a `with` block it is closed at the end."""

    def __init__(self, database: Database, thread: int = 0) -> None:
        self._database = database
        self._thread = thread  # whose db.sql it serves
        self._transaction: SqlTransaction | None = None
        self._failure: tuple[str, BaseException] | None = None
        self._closed = False

    @property
    def in_transaction(self) -> bool:
        """Whether BEGIN was run, and neither COMMIT nor ROLLBACK since."""
        return self._transaction is not None

    def sql(
        self, text: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None, *, timeout: float | None = None,
        **named: Any,
    ) -> Result:  # fmt: skip
        """One statement, as Database.sql runs it, in this session and its transaction."""
        self._check()
        return self._database._run(text, parameters, named, timeout, None, self)

    def run_many(self, text: str, parameters: Sequence[Any], timeout: float | None = None) -> int:
        """The statement once for each of the parameters, as SqlTransaction.run_many does it, in the transaction that is
        open; without one in one of its own, of all or nothing. How many rows that changed."""
        self._check()
        if self._failure is not None:
            raise self._failed(self._failure, "ROLLBACK it before anything else")
        transaction = self._transaction
        if transaction is not None:
            try:
                return transaction.run_many(text, parameters, timeout)
            except BaseException as error:
                self.failed(text, error)
                raise
        transaction = SqlTransaction(self._database)
        try:
            count = transaction.run_many(text, parameters, timeout)
            transaction.commit()
        finally:
            transaction.rollback()
        return count

    def begin(self, *, read_only: bool = False) -> None:
        """A transaction begins: from its first statement on it reads one snapshot and its own changes over it.

        UsageError if one is open already, or the thread is in the block of db.transaction().
        """
        self._check()
        if self._transaction is not None:
            raise UsageError("a transaction is open already: COMMIT or ROLLBACK it before BEGIN")
        refuse_beside(self._database, "a transaction of SQL", "tx.append or tx.put")
        if self._thread:
            enter_block(self._database, self._thread)
        self._transaction = SqlTransaction(self._database, reads_begin=True, sole=True, read_only=read_only)

    def commit(self) -> None:
        """Stores what the transaction has changed, in one commit. ConflictError if another one has changed one of its
        rows meanwhile, ConstraintError if a key is taken now, TransactionFailed if a statement has failed: nothing is
        stored then. The transaction is over in any case. UsageError if none is open."""
        transaction, failure = self._end("COMMIT")
        if failure is not None:
            transaction.rollback()
            raise self._failed(failure, "nothing was stored")
        transaction.commit()

    def rollback(self) -> None:
        """Forgets what the transaction has changed. UsageError if none is open."""
        self._end("ROLLBACK")[0].rollback()

    def close(self) -> None:
        """Rolls back what is open. Closing twice is fine."""
        self._closed = True
        if self._transaction is not None:
            self.rollback()

    def _check(self) -> None:
        if self._closed:
            self._database._check_open()
            raise ClosedError("the session is closed; db.session() makes another")

    def _end(self, word: str) -> tuple[SqlTransaction, tuple[str, BaseException] | None]:
        transaction, failure = self._transaction, self._failure
        if transaction is None:
            raise UsageError(f"{word}: no transaction is open in this session; write BEGIN first")
        self._transaction = self._failure = None
        if self._thread:
            leave_block(self._database, self._thread)
        return transaction, failure

    @staticmethod
    def _failed(failure: tuple[str, BaseException], end: str) -> TransactionFailed:
        text, cause = failure
        head = " ".join(text.split())
        shown = head if len(head) <= _HEAD_CHARS else head[:_HEAD_CHARS] + "..."
        first = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        error = TransactionFailed(f"the transaction has failed at {shown!r} ({first}): {end}")
        error.__cause__ = cause
        return error

    # --- for what runs statements -------------------------------------------------------------------------------------

    def takes(self, statement: st.Statement) -> Callable[[Any, Any, float | None], Result] | None:
        """What runs the statement here; None: it is none of a transaction's."""
        from eventdb.sql import statements as st

        if isinstance(statement, st.Begin):
            self.begin(read_only=statement.read_only)
            return nothing
        if isinstance(statement, st.Commit | st.Rollback):
            (self.commit if isinstance(statement, st.Commit) else self.rollback)()
            return nothing
        if self._transaction is None:
            return None
        if self._failure is not None:
            raise self._failed(self._failure, "ROLLBACK it before anything else")
        return self._transaction.takes(statement)

    def failed(self, text: str, error: BaseException) -> None:
        """A statement that was run ended with an error."""
        if self._transaction is not None and self._failure is None:
            self._failure = (text, _without_frames(error))

    def __enter__(self) -> SqlSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # of a thread that has ended, among others

    def __repr__(self) -> str:
        return f"SqlSession({self._database.path!r}{', in a transaction' if self.in_transaction else ''})"


def _without_frames(error: BaseException) -> Any:
    """A copy of the error, and of those it comes from, without tracebacks: their frames hold the session, which would
    not end with its thread."""
    made = type(error).__new__(type(error), *error.args)
    for name, value in vars(error).items():
        setattr(made, name, _without_frames(value) if isinstance(value, BaseException) else value)
    if error.__cause__ is not None:
        made.__cause__ = _without_frames(error.__cause__)
    return made


def session_of_thread(database: Database) -> SqlSession:
    """The session of db.sql in this thread."""
    found: SqlSession | None = getattr(database._local, "session", None)
    if found is None:
        found = database._local.session = SqlSession(database, threading.get_ident())
        database._sessions.add(found)
    return found
