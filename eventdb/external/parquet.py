"""Parquet files as Arrow: the columns wanted, without the row groups and pages whose statistics say no row is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from eventdb.external.locations import Location
from eventdb.external.source import Terms
from eventdb.schema import DataType

_BATCH_ROWS = 131_072
_FEW_ROWS = 10_000
_CODED_BYTES = 4  # a column of strings that needs no more a value, uncompressed, is coded by a dictionary
_OPERATORS = {"eq": "__eq__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}


def open_parquet(
    file: Location, columns: Sequence[str] | None = None, types: Mapping[str, DataType] | None = None,
    terms: Terms = (), limit: int | None = None,
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:  # fmt: skip
    """The file's schema and a lazy stream of the chosen columns. ArrowInvalid, OSError."""
    format = pa_dataset.ParquetFileFormat()
    fragment = format.make_fragment(file.path, file.filesystem)
    schema = fragment.physical_schema
    if columns is None:
        return schema, iter(())
    if not columns and not terms:
        return schema, _counted(fragment.metadata.num_rows)
    coded = _coded(fragment.metadata, schema, columns)
    if coded:
        options = pa_dataset.ParquetReadOptions(dictionary_columns=coded)
        fragment = pa_dataset.ParquetFileFormat(read_options=options).make_fragment(file.path, file.filesystem)
    if limit is not None and limit <= _FEW_ROWS and not terms:  # no thread reads ahead
        whole = pa_parquet.ParquetFile(file.open_file(), read_dictionary=coded)
        return schema, whole.iter_batches(min(_BATCH_ROWS, max(limit, 1)), columns=list(columns), use_threads=False)
    scanner = fragment.scanner(
        columns=list(columns), filter=condition(terms, schema, types or {}),
        batch_size=_BATCH_ROWS, batch_readahead=4, fragment_readahead=1, cache_metadata=False,
    )  # fmt: skip
    return schema, iter(scanner.to_batches())


def _counted(row_count: int) -> Iterator[pa.RecordBatch]:
    """So many rows without columns."""
    while row_count > 0:
        part = min(row_count, _BATCH_ROWS)
        yield pa.RecordBatch.from_struct_array(pa.array([{}] * part, pa.struct([])))
        row_count -= part


def _coded(metadata: Any, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """The columns of strings whose pages hold codes: they are read as such."""
    wanted = {name for name in columns if name in schema.names and pa.types.is_string(schema.field(name).type)}
    found = []
    for i in range(metadata.num_columns if wanted and metadata.num_row_groups else 0):
        groups = [metadata.row_group(g).column(i) for g in range(metadata.num_row_groups)]
        if groups[0].path_in_schema in wanted:
            size, count = sum(g.total_uncompressed_size for g in groups), sum(g.num_values for g in groups)
            if size <= _CODED_BYTES * count:
                found.append(groups[0].path_in_schema)
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
            return pa.scalar(Decimal(value).scaleb(-kind.scale), field)
        if kind.is_integer and pa.types.is_integer(field):
            return pa.scalar(value, field)
        if kind.name == "VARCHAR" and (pa.types.is_string(field) or pa.types.is_large_string(field)):
            return pa.scalar(value, field)
        if {"DOUBLE": pa.types.is_float64, "FLOAT": pa.types.is_float32}.get(kind.name, pa.types.is_null)(field):
            return pa.scalar(value, field)
    except (pa.ArrowException, OverflowError, ValueError):
        return None
    return None
