"""Cursor: executes statements of its connection and hands out the rows of the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventdb.dbapi.errors import InterfaceError, ProgrammingError, as_dbapi
from eventdb.dbapi.parameters import native

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    import pandas
    import pyarrow

    from eventdb.dbapi.connection import Connection
    from eventdb.result import Result

Row = tuple[Any, ...]
Description = list[tuple[str, str, None, int | None, int | None, int | None, bool | None]]


class Cursor:
    """Get it from Connection.cursor(). `description`, `rowcount` and `arraysize` are as in PEP 249.

    `rowcount` is the number of rows returned or changed, -1 before a statement.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.rowcount = -1
        self._result: Result | None = None
        self._closed = False

    @property
    def description(self) -> Description | None:
        """(name, type code, None, size in bytes of fixed-size types, precision, scale, None) of each column; None if
        the last statement returned no rows. Type codes are SQL type names and equal the module's type objects."""
        if self._result is None:
            return None
        return [
            (
                name, str(type), None, None if type.is_coded else type.width_bytes,
                type.precision or None, type.scale if type.precision else None, None,
            )
            for name, type in zip(self._result.columns, self._result.types, strict=True)
        ]  # fmt: skip

    @property
    def lastrowid(self) -> None:
        """None: rows have keys or offsets, which INSERT ... RETURNING gives."""
        return None

    def execute(self, operation: str, parameters: Any = None, *, timeout: float | None = None) -> Cursor:
        """Executes one statement, and returns the cursor itself. `parameters` are a dict for `:name`, a sequence for
        `?`. `timeout` is in seconds; the connection's if it is not given."""
        self._begin()
        connection = self.connection
        with as_dbapi():
            text, values = native(operation, _checked(parameters))
            limit = connection.timeout if timeout is None else timeout
            if connection.autocommit:
                result = connection._own_session().sql(text, values, timeout=limit)
            else:
                result = connection._transaction().run(text, values, limit)
        if result.columns:
            self._result = result
        self.rowcount = result.rowcount
        return self

    def executemany(
        self, operation: str, seq_of_parameters: Sequence[Any], *, timeout: float | None = None
    ) -> Cursor:  # fmt: skip
        """Executes a statement that returns no rows for each of the parameters; `rowcount` is the rows changed by all.

        It stops where it fails. In a transaction what came before stays, to be committed or rolled back; in autocommit
        it is one commit, of all or nothing. INSERT ... VALUES of placeholders alone takes the fast way.
        """
        self._begin()
        connection = self.connection
        limit = connection.timeout if timeout is None else timeout
        with as_dbapi():
            pairs = [native(operation, _checked(parameters)) for parameters in seq_of_parameters]
            texts = {text for text, _ in pairs}
            if len(texts) > 1:
                raise ProgrammingError("executemany: the dicts of parameters do not have the same names")
            owner = connection._own_session() if connection.autocommit else connection._transaction()
            self.rowcount = owner.run_many(pairs[0][0], [values for _, values in pairs], limit) if pairs else 0
        return self

    def fetchone(self) -> Row | None:
        """The next row, None after the last."""
        return self._rows().fetchone()

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next rows, `size` (or `arraysize`) at most; [] after the last."""
        rows = self._rows()
        with as_dbapi():
            return rows.fetchmany(self.arraysize if size is None else size)

    def fetchall(self) -> list[Row]:
        """All rows not fetched yet."""
        return self._rows().fetchall()

    def fetch_arrow_table(self) -> pyarrow.Table:
        """All rows of the statement as a pyarrow.Table, fetched or not."""
        return self._rows().arrow()

    def fetch_df(self) -> pandas.DataFrame:
        """All rows of the statement as a pandas DataFrame, fetched or not."""
        rows = self._rows()
        with as_dbapi():
            return rows.df()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Nothing: EventDB needs no sizes."""
        self._check()

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Nothing: EventDB needs no sizes."""
        self._check()

    def close(self) -> None:
        """Lets go of the rows; the cursor cannot be used any more."""
        self._result = None
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise InterfaceError("the cursor is closed")
        self.connection._check()

    def _begin(self) -> None:
        self._check()
        self._result = None
        self.rowcount = -1

    def _rows(self) -> Result:
        self._check()
        if self._result is None:
            raise ProgrammingError("there are no rows to fetch: no statement that returns rows was executed")
        return self._result

    def __enter__(self) -> Cursor:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(parameters: Any) -> Any:
    if parameters is not None and not hasattr(parameters, "keys") and not isinstance(parameters, list | tuple):
        if isinstance(parameters, str | bytes) or not hasattr(parameters, "__len__"):
            raise ProgrammingError(
                f"parameters are a dict for :name or a sequence for ?, not {type(parameters).__name__}"
            )
        return list(parameters)
    return parameters
