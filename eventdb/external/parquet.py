"""Parquet files as Arrow: the columns wanted, without the row groups whose statistics say no row is.

Pages are not skipped: pyarrow (26) says whether a column chunk has a page index, but neither gives its content nor
reads chosen pages or rows of a row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from eventdb.external.locations import Location
from eventdb.external.source import Terms
from eventdb.schema import DataType
from eventdb.values import decode_value

_BATCH_ROWS = 131_072
_FEW_ROWS = 10_000
_CODED_BYTES = 4  # a column of strings that needs no more a value, uncompressed, is coded by a dictionary
_OPERATORS = {"eq": "__eq__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}


def open_fragment(file: Location) -> Any:
    """The file with its footer. ArrowInvalid, OSError."""
    fragment = pa_dataset.ParquetFileFormat().make_fragment(file.path, file.filesystem)
    fragment.ensure_complete_metadata()
    return fragment


def read_fragment(
    file: Location, fragment: Any, columns: Sequence[str], types: Mapping[str, DataType], terms: Terms,
    limit: int | None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """A lazy stream of the chosen columns, without the row groups that the terms rule out. ArrowInvalid, OSError."""
    schema = fragment.physical_schema
    coded = _coded(fragment.metadata, schema, columns)
    if limit is not None and limit <= _FEW_ROWS and not terms:  # no thread reads ahead
        whole = pa_parquet.ParquetFile(file.open_file(), metadata=fragment.metadata, read_dictionary=coded)
        return iter(whole.iter_batches(min(_BATCH_ROWS, max(limit, 1)), columns=list(columns), use_threads=False))
    wanted = condition(terms, schema, types)
    if wanted is not None:
        # Rows are not filtered here: for most conditions that costs more than it saves the filter above.
        fragment = fragment.subset(wanted)
        if not fragment.row_groups:
            return iter(())
    groups = [group.id for group in fragment.row_groups] if wanted is not None else None
    if coded:
        format = pa_dataset.ParquetFileFormat(read_options=pa_dataset.ParquetReadOptions(dictionary_columns=coded))
        fragment = format.make_fragment(file.path, file.filesystem, row_groups=groups)
    scanner = fragment.scanner(
        columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=4, fragment_readahead=1, cache_metadata=False
    )
    return iter(scanner.to_batches())


def _coded(metadata: Any, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """The columns of strings whose pages hold codes: they are read as such."""
    wanted = {name for name in columns if name in schema.names and pa.types.is_string(schema.field(name).type)}
    if not wanted or not metadata.num_row_groups:
        return []
    found = []
    first = metadata.row_group(0)
    for i in range(metadata.num_columns):
        name = metadata.schema.column(i).path
        if name in wanted:
            groups = [metadata.row_group(g).column(i) for g in range(1, min(metadata.num_row_groups, 8))]
            groups.append(first.column(i))
            size, count = sum(g.total_uncompressed_size for g in groups), sum(g.num_values for g in groups)
            if size <= _CODED_BYTES * count:
                found.append(name)
    return found


def condition(terms: Terms, schema: pa.Schema, types: Mapping[str, DataType]) -> Any:
    """The terms that mean the same to Arrow, as one expression of the dataset; None without any."""
    result: Any = None
    for column, function, value in terms:
        if column not in schema.names or column not in types:
            continue
        kind, field = types[column], schema.field(column).type
        if function == "in":
            scalars = [_scalar(v, kind, field) for v in value]
            if not scalars or any(s is None for s in scalars):
                continue
            term = pa_dataset.field(column).isin(pa.array([s.as_py() for s in scalars], scalars[0].type))
        else:
            scalar = _scalar(value, kind, field)
            if scalar is None:
                continue
            term = getattr(pa_dataset.field(column), _OPERATORS[function])(scalar)
        result = term if result is None else result & term
    return result


def _scalar(value: Any, kind: DataType, field: pa.DataType) -> Any:
    """A physical value as a scalar of the file's type; None where that would not be the same value."""
    try:
        if kind.name == "TIMESTAMP" and pa.types.is_timestamp(field):
            return pa.scalar(value, pa.timestamp("us", field.tz)).cast(field)
        if kind.name == "DATE" and pa.types.is_date32(field):
            return pa.scalar(value, pa.int32()).cast(field)
        if kind.name == "DECIMAL" and pa.types.is_decimal(field):
            return pa.scalar(decode_value(kind, value), field)
        if kind.is_integer and pa.types.is_integer(field):
            return pa.scalar(value, field)
        if kind.name == "VARCHAR" and (pa.types.is_string(field) or pa.types.is_large_string(field)):
            return pa.scalar(value, field)
        if {"DOUBLE": pa.types.is_float64, "FLOAT": pa.types.is_float32}.get(kind.name, pa.types.is_null)(field):
            return pa.scalar(value, field)
    except (pa.ArrowException, OverflowError, ValueError):
        return None
    return None
