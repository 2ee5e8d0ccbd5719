"""EventDB: an event log, SQL over its history and continuous queries, in one directory and one process.

Layers, each importing only from those to its right::

    eventdb_shell > database, topic, producer, transaction, snapshot, subscription, result > stream > physical | sql
        > logical | storage | catalog > arrow, batch > kernels | values | schema | config > errors

Public names are here and nothing else is; they load on first use, so that `import eventdb` costs milliseconds and
loads neither NumPy, Arrow, Numba nor the SQL parser.
"""

from __future__ import annotations

__version__ = "0.1.0"

from eventdb.errors import (
    BindError,
    CatalogError,
    ClosedError,
    ConflictError,
    ConstraintError,
    CorruptionError,
    DatabaseLocked,
    DiskFullError,
    EvaluationError,
    EventDBError,
    ForkError,
    FormatTooNew,
    FunctionError,
    InternalError,
    InvalidToken,
    MemoryLimitExceeded,
    NotADatabase,
    OffsetOutOfRange,
    OutcomeUnknown,
    ParseError,
    PoisonedError,
    QueryCancelled,
    QueryError,
    QueryTimeout,
    ReadOnlyError,
    ReplicationError,
    SchemaMismatch,
    StorageError,
    StreamError,
    TokenExpired,
    TopicExists,
    TopicFull,
    TopicNotFound,
    TransactionFailed,
    UnsupportedError,
    UnsupportedSQL,
    UsageError,
    ViewFailed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.care import check, repair, restore
    from eventdb.database import Database, open
    from eventdb.dbapi import connect
    from eventdb.event import Event, Position
    from eventdb.producer import Producer
    from eventdb.result import Result
    from eventdb.snapshot import Snapshot
    from eventdb.sql_session import SqlSession
    from eventdb.subscription import Change, ProgressMessage, Subscription
    from eventdb.table import RowChange, Table
    from eventdb.topic import Topic
    from eventdb.transaction import Transaction

_LAZY = {
    "Change": "eventdb.subscription",
    "Database": "eventdb.database",
    "Event": "eventdb.event",
    "Position": "eventdb.event",
    "ProgressMessage": "eventdb.subscription",
    "Producer": "eventdb.producer",
    "Result": "eventdb.result",
    "RowChange": "eventdb.table",
    "Snapshot": "eventdb.snapshot",
    "SqlSession": "eventdb.sql_session",
    "Subscription": "eventdb.subscription",
    "Table": "eventdb.table",
    "Topic": "eventdb.topic",
    "Transaction": "eventdb.transaction",
    "check": "eventdb.care",
    "connect": "eventdb.dbapi",
    "open": "eventdb.database",
    "repair": "eventdb.care",
    "restore": "eventdb.care",
}

__all__ = [
    "BindError",
    "CatalogError",
    "Change",
    "ClosedError",
    "ConflictError",
    "ConstraintError",
    "CorruptionError",
    "Database",
    "DatabaseLocked",
    "DiskFullError",
    "EvaluationError",
    "Event",
    "EventDBError",
    "ForkError",
    "FormatTooNew",
    "FunctionError",
    "InternalError",
    "InvalidToken",
    "MemoryLimitExceeded",
    "NotADatabase",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "ParseError",
    "PoisonedError",
    "Position",
    "Producer",
    "ProgressMessage",
    "QueryCancelled",
    "QueryError",
    "QueryTimeout",
    "ReadOnlyError",
    "ReplicationError",
    "Result",
    "RowChange",
    "SchemaMismatch",
    "Snapshot",
    "SqlSession",
    "StorageError",
    "StreamError",
    "Subscription",
    "Table",
    "TokenExpired",
    "Topic",
    "TopicExists",
    "TopicFull",
    "TopicNotFound",
    "Transaction",
    "TransactionFailed",
    "UnsupportedError",
    "UnsupportedSQL",
    "UsageError",
    "ViewFailed",
    "__version__",
    "check",
    "connect",
    "open",
    "repair",
    "restore",
]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'eventdb' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
