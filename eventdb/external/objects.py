"""ObjectSource: a Python object as rows, without a copy where its columns are laid out as ours.

Arrow tables, batches and readers, pandas and Polars frames, anything else with the Arrow PyCapsule interface (a result
of EventDB or DuckDB), a dict of columns, a list of dicts.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from eventdb.arrow import to_table
from eventdb.batch import RecordBatch
from eventdb.errors import SchemaMismatch, UsageError
from eventdb.external.columns import BATCH_ROWS, Converter, fields_of, require_readable
from eventdb.external.source import Terms
from eventdb.schema import DataType, Schema

_read: weakref.WeakSet[Any] = weakref.WeakSet()  # readers that gave their rows
_lock = threading.Lock()


def is_table(value: object) -> bool:
    """Whether an object is one that FROM can read."""
    if isinstance(value, pa.Table | pa.RecordBatch | pa.RecordBatchReader):
        return True
    if isinstance(value, type):
        return False
    if isinstance(value, Mapping):
        return bool(value) and all(
            isinstance(k, str) and hasattr(v, "__len__") and not isinstance(v, str | bytes | Mapping)
            for k, v in value.items()
        )
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, dict) for row in value)
    frame = (type(value).__module__.partition(".")[0], type(value).__name__)
    return (
        hasattr(value, "__arrow_c_stream__")
        or hasattr(value, "__arrow_c_array__")
        or frame in (("pandas", "DataFrame"), ("polars", "LazyFrame"))
    ) and frame[1] not in ("Series", "Array", "ChunkedArray")


def object_source(name: str, value: object) -> ObjectSource:
    """The rows of an object. UsageError naming it when it is none of those."""
    if not is_table(value):
        raise UsageError(
            f"{name!r} is a {type(value).__name__}: FROM reads Arrow tables, batches and readers, pandas and Polars "
            "frames, dicts of columns and lists of dicts"
        )
    if isinstance(value, pa.RecordBatchReader):
        return ObjectSource(name, value)
    try:
        if isinstance(value, list):
            return ObjectSource(name, table_of_rows(value))
        if type(value).__name__ == "LazyFrame":
            value = value.collect()  # type: ignore[attr-defined]
        return ObjectSource(name, to_table(value))
    except UsageError as error:
        raise UsageError(f"{name!r}: {error}") from None


def table_of_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """An Arrow table of dicts; a key that is not in all of them is NULL in the others."""
    names = dict.fromkeys(name for row in rows for name in row)
    return to_table({name: [row.get(name) for row in rows] for name in names})


class ObjectSource:
    """Rows of an Arrow table, any number of times, or of a reader, once; see source.Source."""

    kind = "ObjectScan"

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self._data = data
        fields, self._refused = fields_of(data.schema, {})
        try:
            self.schema = Schema(fields)
        except UsageError as error:
            raise UsageError(f"{name!r}: {error}") from None

    def batches(
        self, columns: Sequence[str], types: Sequence[DataType], terms: Terms = (), limit: int | None = None
    ) -> Iterator[RecordBatch]:
        """See Source. UsageError when a reader is read a second time."""
        require_readable(self.name, columns, self._refused)
        if isinstance(self._data, pa.RecordBatchReader):
            with _lock:
                if self._data in _read:
                    raise UsageError(
                        f"{self.name!r} is a reader, which gives its rows once, and they were read: keep them with "
                        "read_all()"
                    )
                _read.add(self._data)
            batches: Any = self._data
        else:
            batches = (self._data.select(list(columns)) if columns else self._data).to_batches(BATCH_ROWS)
        convert = Converter()
        try:
            for whole in batches:
                for start in range(0, whole.num_rows, BATCH_ROWS):
                    part = whole.slice(start, BATCH_ROWS)
                    made = [convert(part.column(n), t, n) for n, t in zip(columns, types, strict=True)]
                    yield RecordBatch(columns, made, part.num_rows)
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{self.name!r}: {error}", column=error.column, expected=error.expected) from None
