"""PEP 249 (Python Database API 2.0) over EventDB: what programs and tools written for any SQL database use.

    with closing(eventdb.connect("plant.eventdb")) as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO devices VALUES (:id, :site)", {"id": "d1", "site": "north"})
        connection.commit()

A transaction begins with the first statement that writes and ends with `commit` or `rollback`
(eventdb/sql_transaction.py); `autocommit=True` makes every statement one of its own. Parameters are `:name` with a
dict, or `?` with a sequence. Errors are those of PEP 249; the cause of each is EventDB's own, with its fields.
"""

from __future__ import annotations

from eventdb.dbapi.connection import Connection, connect
from eventdb.dbapi.cursor import Cursor
from eventdb.dbapi.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from eventdb.dbapi.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
    TypeObject,
)

apilevel = "2.0"
threadsafety = 1  # threads may share the module, but not connections
paramstyle = "named"

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "TypeObject",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]
