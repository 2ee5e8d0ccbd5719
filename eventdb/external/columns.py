"""Arrow columns from outside as columns of a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from eventdb.arrow import column_from_arrow, sql_type
from eventdb.batch import Array, Column, Dictionary
from eventdb.errors import UsageError
from eventdb.schema import NULL, VARCHAR, DataType, Field

BATCH_ROWS = 131_072


def fields_of(schema: pa.Schema, given: Mapping[str, DataType]) -> tuple[list[Field], dict[str, str]]:
    """The columns, of `given` types where there is one, and what is wrong with those whose type SQL has none for: they
    are VARCHAR to the binder and must not be read."""
    fields: list[Field] = []
    refused: dict[str, str] = {}
    for field in schema:
        type = given.get(field.name)
        if type is None:
            try:
                type = sql_type(field.type, field.name)
            except UsageError as error:
                refused[field.name] = str(error)
                type = VARCHAR
        fields.append(Field(field.name, VARCHAR if type == NULL else type))
    return fields, refused


def require_readable(source: str, names: Iterable[str], refused: Mapping[str, str]) -> None:
    """UsageError for the first of the columns that is one of the refused."""
    for name in names:
        if name in refused:
            raise UsageError(f"{source!r}: {refused[name]}; or leave it out: SELECT * EXCLUDE ({name})")


def repeated(type: DataType, value: Any, count: int) -> Column:
    """A column of one physical value, None for NULL."""
    valid = np.zeros(count, dtype=bool) if value is None else None
    if type.is_coded:
        empty = "" if type.name == "VARCHAR" else b""
        return Column(type, np.zeros(count, np.int32), valid, Dictionary([empty if value is None else value]))
    return Column(type, np.full(count, 0 if value is None else value, dtype=type.physical), valid)


def parts(row_count: int) -> Iterator[int]:
    """So many rows as the sizes of batches."""
    while row_count > 0:
        yield min(row_count, BATCH_ROWS)
        row_count -= BATCH_ROWS


class Converter:
    """Arrow arrays to columns. Arrays whose dictionaries are equal share one here too."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, Dictionary]] = {}

    def __call__(self, array: Any, type: DataType, name: str) -> Column:
        """The column; SchemaMismatch naming it when a value does not fit."""
        if not pa.types.is_dictionary(array.type) or not isinstance(array, pa.DictionaryArray):
            return column_from_arrow(array, type, name)
        last = self._last.get(name)
        if last is not None and array.dictionary.equals(last[0]) and array.indices.type == pa.int32():
            return _recoded(array, type, last[1])
        column = column_from_arrow(array, type, name)
        if column.dictionary is not None and len(column.dictionary) == len(array.dictionary):
            self._last[name] = (array.dictionary, column.dictionary)
        return column


def _recoded(array: pa.DictionaryArray, type: DataType, dictionary: Dictionary) -> Column:
    indices = array.indices
    data = indices.buffers()[1]
    codes: Array = np.frombuffer(data, np.int32)[indices.offset : indices.offset + len(indices)]
    if not indices.null_count:
        return Column(type, codes, None, dictionary)
    present = np.asarray(indices.is_valid().to_numpy(zero_copy_only=False))
    return Column(type, np.where(present, codes, np.int32(0)), present, dictionary)
