"""Every exception EventDB raises, grouped by who must act.

::

    EventDBError
    |-- UsageError               the caller passed something wrong: fix the call
    |   |-- SchemaMismatch         a row or batch does not fit its topic (column, value, expected)
    |   |-- ConstraintError        a row breaks its table's primary key (table, key)
    |   |-- TransactionFailed      a statement of this transaction failed: ROLLBACK
    |   |-- ClosedError            the handle was closed
    |   |-- ForkError              the handle was inherited through fork()
    |   `-- UnsupportedError       valid elsewhere, not built here (construct)
    |-- CatalogError             a name is missing or taken
    |   |-- TopicNotFound          (name, near)
    |   `-- TopicExists            (name)
    |-- QueryError               a statement is wrong or was stopped (sql, line, column)
    |   |-- ParseError             not SQL
    |   |-- BindError              unknown or ambiguous name, wrong type
    |   |-- UnsupportedSQL         a construct EventDB does not execute (construct)
    |   |-- EvaluationError        a value broke an expression: overflow, bad cast, division by zero
    |   |   `-- FunctionError        a function written in Python raised, or gave no such value (function, original)
    |   |-- QueryCancelled         interrupted by the user
    |   |-- QueryTimeout           ran longer than its timeout
    |   `-- MemoryLimitExceeded    needs more than memory_limit
    |-- ConflictError            another transaction changed the same row: do this one again (table, key)
    |-- StorageError             the directory, the disk or the medium (path)
    |   |-- NotADatabase           the path holds something else
    |   |-- FormatTooNew           written by a newer EventDB
    |   |-- CorruptionError        stored bytes do not verify
    |   |-- DiskFullError          no space; nothing of the call was stored
    |   |-- DatabaseLocked         another process holds the writer lock (pid)
    |   |-- ReadOnlyError          opened read-only, or the medium is
    |   |-- OutcomeUnknown         the flush of this commit failed; it may or may not survive
    |   |-- PoisonedError          an earlier flush failed; reopen to continue
    |   |-- TopicFull              the topic's max_rows or max_bytes is reached and on_full = 'reject' (limit)
    |   `-- OffsetOutOfRange       the offset is outside the log (offset, earliest, latest)
    |-- StreamError              a continuous query
    |   |-- ViewFailed             a view stopped on a row (view, topic, offset)
    |   `-- TokenExpired           rows that a token needs are gone (topic, offset)
    |-- ReplicationError         a peer
    `-- InternalError            a bug in EventDB: please report it

A message says what was found, what was expected, and what to do. The typed fields carry the same facts for programs.
"""

from __future__ import annotations


class EventDBError(Exception):
    """Base of every error raised by EventDB."""


class UsageError(EventDBError, ValueError):
    """The caller passed a wrong value, type, name or option."""


class SchemaMismatch(UsageError):
    """A row or batch does not fit the schema of its topic, or a topic not the one asked for. Nothing was stored."""

    def __init__(
        self, message: str, *, column: str | None = None, value: object = None, expected: str | None = None
    ) -> None:
        super().__init__(message)
        self.column = column
        self.value = value
        self.expected = expected


class ConstraintError(UsageError):
    """A row breaks its table's primary key: `key` is the value (a tuple if there are several columns).

    Nothing of the call was stored.
    """

    def __init__(self, message: str, *, table: str = "", key: object = None) -> None:
        super().__init__(message)
        self.table = table
        self.key = key


class TransactionFailed(UsageError):
    """A statement of the transaction has failed (`__cause__`): it takes no more of them, and is not committed."""


class ClosedError(UsageError):
    """The database, topic, producer or subscription was closed."""


class ForkError(UsageError):
    """The database was opened before fork() and is used in the child: start processes with spawn, or fork first.

    The child cannot open it either: LMDB's locks belong to the process that opened it.
    """


class InvalidToken(UsageError):
    """What AFTER names is no token of a subscription, or one of another query, view or database."""


class UnsupportedError(UsageError):
    """A valid wish that this version does not build."""

    def __init__(self, message: str, *, construct: str | None = None) -> None:
        super().__init__(message)
        self.construct = construct


class CatalogError(EventDBError):
    """A topic, view or column name is missing, taken or not allowed."""


class TopicNotFound(CatalogError, LookupError):
    """No topic, table or view of that name; `near` lists similar names."""

    def __init__(self, message: str, *, name: str = "", near: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.near = near


class TopicExists(CatalogError):
    """A topic, table or view of that name exists already."""

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class QueryError(EventDBError):
    """A SQL statement failed. `line` and `column` count from 1 and are 0 when the place is not known."""

    def __init__(self, message: str, *, sql: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.sql = sql
        self.line = line
        self.column = column

    def __str__(self) -> str:
        if not self.line or not self.sql:
            return self.message
        lines = self.sql.splitlines()
        if self.line > len(lines):
            return self.message
        text = lines[self.line - 1].replace("\t", " ")
        start = max(0, self.column - 60)
        shown = text[start : start + 120]
        caret = " " * max(0, self.column - 1 - start) + "^"
        return f"{self.message}\nline {self.line}, column {self.column}:\n  {shown}\n  {caret}"


class ParseError(QueryError):
    """The text is not a statement of the dialect."""


class BindError(QueryError):
    """A name is unknown or ambiguous, or types do not fit."""


class UnsupportedSQL(QueryError):
    """The construct is known but not executed by this version."""

    def __init__(self, message: str, *, construct: str = "", sql: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message, sql=sql, line=line, column=column)
        self.construct = construct


class EvaluationError(QueryError):
    """A value broke an expression: overflow, division by zero, a cast that does not fit."""


class FunctionError(EvaluationError):
    """A function written in Python raised `original`, or what it gave is not of its type (`original` is None).

    `repeatable`: it may be called again for the same rows, to find out which one it was.
    """

    def __init__(
        self, message: str, function: str, repeatable: bool = True, original: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.function = function
        self.repeatable = repeatable
        self.original = original


class QueryCancelled(QueryError):
    """The query was interrupted."""


class QueryTimeout(QueryError):
    """The query ran longer than its timeout."""


class MemoryLimitExceeded(QueryError):
    """The query needs more memory than memory_limit allows."""


class ConflictError(EventDBError):
    """Another transaction has changed a row of `table` that this one changes too: `key` is its key (a tuple if there
    are several columns). Nothing was stored; do it again."""

    def __init__(self, message: str, *, table: str = "", key: object = None) -> None:
        super().__init__(message)
        self.table = table
        self.key = key


class StorageError(EventDBError):
    """The directory, a file or the medium. `path` names it."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class NotADatabase(StorageError):
    """The path exists and is not an EventDB directory."""


class FormatTooNew(StorageError):
    """The database was written by a newer version."""


class CorruptionError(StorageError):
    """Stored bytes do not verify."""


class DiskFullError(StorageError):
    """No space left. Nothing of the call was stored; reads go on."""


class DatabaseLocked(StorageError):
    """Another process holds the writer lock for longer than the timeout. `pid` is the holder, 0 if unknown."""

    def __init__(self, message: str, *, path: str = "", pid: int = 0) -> None:
        super().__init__(message, path=path)
        self.pid = pid


class ReadOnlyError(StorageError):
    """The database was opened read-only or lies on a read-only medium."""


class OutcomeUnknown(StorageError):
    """The flush of this commit failed: it may or may not survive. Reopen the database and look."""


class PoisonedError(StorageError):
    """An earlier flush failed, so nothing more is accepted. Close and reopen the database."""


class TopicFull(StorageError):
    """The append would pass a limit of its topic, whose on_full is 'reject'. Nothing of the call was stored.

    `limit` is the setting's name, `partition` the one that is full.
    """

    def __init__(self, message: str, *, path: str = "", limit: str = "", partition: int = 0) -> None:
        super().__init__(message, path=path)
        self.limit = limit
        self.partition = partition


class OffsetOutOfRange(StorageError, LookupError):
    """The offset lies outside [earliest, latest]."""

    def __init__(self, message: str, *, path: str = "", offset: int = 0, earliest: int = 0, latest: int = 0) -> None:
        super().__init__(message, path=path)
        self.offset = offset
        self.earliest = earliest
        self.latest = latest


class StreamError(EventDBError):
    """A continuous query."""


class ViewFailed(StreamError):
    """A view stopped on a row that broke its expression."""

    def __init__(self, message: str, *, view: str = "", topic: str = "", offset: int = -1) -> None:
        super().__init__(message)
        self.view = view
        self.topic = topic
        self.offset = offset


class TokenExpired(StreamError):
    """The changes after a token cannot be computed: rows of `topic` below `offset` are gone that it takes."""

    def __init__(self, message: str, *, topic: str = "", offset: int = -1) -> None:
        super().__init__(message)
        self.topic = topic
        self.offset = offset


class ReplicationError(EventDBError):
    """A peer."""


class InternalError(EventDBError):
    """A bug in EventDB."""
