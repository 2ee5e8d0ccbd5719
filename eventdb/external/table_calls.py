"""CallSource: the rows that a Python function gives for some arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from eventdb.batch import RecordBatch
from eventdb.errors import EventDBError, FunctionError
from eventdb.external.objects import is_table, object_source
from eventdb.external.python_values import column_of_values
from eventdb.external.source import Terms
from eventdb.schema import DataType, Schema

_ROWS = 8_192  # of an iterable are taken at a time


class CallSource:
    """The function is called anew each time the rows are read; see source.Source."""

    kind = "FunctionScan"

    def __init__(self, name: str, function: Callable[..., Any], arguments: Sequence[Any], schema: Schema) -> None:
        self._function_name = name
        self._function = function
        self._arguments = tuple(arguments)
        self.name = f"{name}({', '.join(map(repr, arguments))})"
        self.schema = schema

    def batches(
        self, columns: Sequence[str], types: Sequence[DataType], terms: Terms = (), limit: int | None = None
    ) -> Iterator[RecordBatch]:
        """See Source. FunctionError for what the function raises, and for rows that do not fit the schema."""
        result = self._guard(lambda: self._function(*self._arguments))
        if is_table(result):
            yield from self._of_table(result, columns, types)
            return
        if not isinstance(result, Iterable) or isinstance(result, str | bytes | Mapping):
            raise self._wrong(f"gave a {type(result).__name__}: rows are a table, or an iterable of dicts or tuples")
        rows = self._guard(lambda: iter(result))
        while held := self._guard(lambda: list(islice(rows, _ROWS))):
            made = [self._column(name, held, type) for name, type in zip(columns, types, strict=True)]
            yield RecordBatch(columns, made, len(held))

    def _of_table(self, result: Any, columns: Sequence[str], types: Sequence[DataType]) -> Iterator[RecordBatch]:
        source = object_source(self.name, result)
        for name in self.schema.names:
            if source.schema.find(name) is None:
                raise self._wrong(f"gave no column {name!r}, but {', '.join(source.schema.names)}")
        names = [source.schema.fields[source.schema.index_of(name)].name for name in columns]
        try:
            for batch in source.batches(names, types):
                yield RecordBatch(columns, batch.columns, batch.row_count)
        except FunctionError:
            raise
        except EventDBError as error:
            raise self._wrong(f"gave a table that does not fit: {error}") from None

    def _column(self, name: str, rows: Sequence[Any], type: DataType) -> Any:
        position = self.schema.index_of(name)
        width = len(self.schema)
        values = []
        for row in rows:
            if isinstance(row, Mapping):
                values.append(row.get(name))
            elif isinstance(row, tuple | list) and len(row) == width:
                values.append(row[position])
            elif width == 1 and not isinstance(row, tuple | list):
                values.append(row)
            else:
                shown = ", ".join(self.schema.names)
                raise self._wrong(f"gave the row {row!r:.80}: a row is a dict, or a tuple of ({shown})")
        try:
            return column_of_values(values, type, name)
        except ValueError as error:
            raise self._wrong(f"gave a value of column {name!r} that is no {type}: {error}") from None

    def _guard(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            raise FunctionError(
                f"{self.name} raised {type(error).__name__}: {error}", self._function_name, False, error
            ) from error

    def _wrong(self, what: str) -> FunctionError:
        return FunctionError(f"{self.name} {what}", self._function_name, False)
