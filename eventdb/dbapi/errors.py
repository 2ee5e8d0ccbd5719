"""The exceptions of PEP 249, and which of them an error of EventDB becomes. `__cause__` is EventDB's own error."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager

from eventdb import errors


class Warning(builtins.Exception):
    """Named by PEP 249; EventDB raises none."""


class Error(builtins.Exception):
    """Base of all others."""


class InterfaceError(Error):
    """The connection or cursor is closed."""


class DatabaseError(Error):
    """Base of what the database reports."""


class DataError(DatabaseError):
    """A value does not fit: out of range, division by zero, a bad cast, the wrong type."""


class OperationalError(DatabaseError):
    """The disk, a lock, a limit, a timeout, a conflict with another transaction: not the program's doing."""


class IntegrityError(DatabaseError):
    """A primary key is taken, or a NOT NULL column gets NULL."""


class InternalError(DatabaseError):
    """A bug in EventDB."""


class ProgrammingError(DatabaseError):
    """Not SQL, an unknown name, wrong parameters."""


class NotSupportedError(DatabaseError):
    """Valid elsewhere, not built here."""


_KINDS: tuple[tuple[type[errors.EventDBError], type[Error]], ...] = (
    (errors.ConstraintError, IntegrityError),
    (errors.SchemaMismatch, DataError),
    (errors.ClosedError, InterfaceError),
    (errors.ForkError, OperationalError),
    (errors.UnsupportedError, NotSupportedError),
    (errors.UsageError, ProgrammingError),
    (errors.CatalogError, ProgrammingError),
    (errors.UnsupportedSQL, NotSupportedError),
    (errors.ParseError, ProgrammingError),
    (errors.BindError, ProgrammingError),
    (errors.EvaluationError, DataError),
    (errors.QueryError, OperationalError),  # cancelled, too late, too large
    (errors.CorruptionError, DatabaseError),
    (errors.StorageError, OperationalError),
    (errors.ConflictError, OperationalError),
    (errors.StreamError, OperationalError),
    (errors.ReplicationError, OperationalError),
    (errors.InternalError, InternalError),
)


def kind_of(error: errors.EventDBError) -> type[Error]:
    """The exception of PEP 249 that an error of EventDB becomes."""
    if isinstance(error, errors.SchemaMismatch) and error.value is None and (error.expected or "").endswith("NOT NULL"):
        return IntegrityError
    return next((kind for own, kind in _KINDS if isinstance(error, own)), DatabaseError)


@contextmanager
def as_dbapi() -> Iterator[None]:
    """Errors of EventDB leave the block as those of PEP 249."""
    try:
        yield
    except errors.EventDBError as error:
        raise kind_of(error)(str(error)) from error
