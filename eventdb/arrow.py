"""Arrow at the edges: batches in and out. With external/ (files and Python objects) the only door of pyarrow.

Inside, EventDB exchanges RecordBatches; Arrow data become batches here (fixed-width columns without NULLs are not
copied) and results become Arrow here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eventdb.batch import Array, Column, Dictionary, RecordBatch, SpelledDictionary
from eventdb.decimal_columns import column_of_numbers, from_words, numbers_of, to_words
from eventdb.errors import SchemaMismatch, UsageError
from eventdb.kernels.strings import short_string_codes
from eventdb.schema import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    DOUBLE,
    FLOAT,
    INTEGER,
    INTERVAL,
    MAX_DECIMAL_DIGITS,
    NULL,
    SMALLINT,
    TIMESTAMP,
    TINYINT,
    VARCHAR,
    DataType,
    Field,
    Schema,
    decimal_type,
)

_ARROW_TYPES = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "INTERVAL": pa.duration("us"),
    "NULL": pa.null(),
}

READ_BATCH_ROWS = 131_072


def arrow_type(type: DataType) -> pa.DataType:
    return pa.decimal128(type.precision, type.scale) if type.name == "DECIMAL" else _ARROW_TYPES[type.name]


def sql_type(type: pa.DataType, name: str = "") -> DataType:
    """The SQL type that holds every value of an Arrow type; UsageError naming the column if there is none.

    Finer timestamps (ns) map to TIMESTAMP and are refused later if they would lose digits.
    """
    if pa.types.is_dictionary(type):
        return sql_type(type.value_type, name)
    if pa.types.is_decimal(type):
        if type.precision <= MAX_DECIMAL_DIGITS and 0 <= type.scale <= type.precision:
            return decimal_type(type.precision, type.scale)
        most = f"more than the {MAX_DECIMAL_DIGITS} digits" if type.scale >= 0 else "not the scale"
        raise UsageError(f"column {name!r}: {type} has {most} DECIMAL holds; cast it to double")
    tests: list[tuple[Any, DataType]] = [
        (pa.types.is_boolean, BOOLEAN),
        (pa.types.is_int8, TINYINT),
        (lambda t: pa.types.is_int16(t) or pa.types.is_uint8(t), SMALLINT),
        (lambda t: pa.types.is_int32(t) or pa.types.is_uint16(t), INTEGER),
        (pa.types.is_integer, BIGINT),
        (lambda t: pa.types.is_float16(t) or pa.types.is_float32(t), FLOAT),
        (pa.types.is_float64, DOUBLE),
        (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), VARCHAR),
        (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t), BLOB),
        (pa.types.is_fixed_size_binary, BLOB),
        (pa.types.is_date, DATE),
        (pa.types.is_timestamp, TIMESTAMP),
        (pa.types.is_duration, INTERVAL),
        (pa.types.is_null, NULL),
    ]
    for test, found in tests:
        if test(type):
            return found
    raise UsageError(f"column {name!r}: Arrow type {type} has no SQL type here; cast it to a number or string")


# --- batches to Arrow -------------------------------------------------------------------------------------------------


def column_to_arrow(column: Column) -> pa.Array:
    """An Arrow array of the column's type; NaN stays NaN, NULL becomes null."""
    kind = column.type.name
    if kind == "NULL":
        return pa.nulls(len(column))
    mask = None if column.validity is None else ~column.validity
    if kind == "DECIMAL":
        validity = None if mask is None else pa.array(column.validity).buffers()[1]
        words = pa.py_buffer(to_words(numbers_of(column)))
        return pa.Array.from_buffers(arrow_type(column.type), len(column), [validity, words])
    if column.dictionary is not None:
        return _coded_to_arrow(column, mask)
    values = np.ascontiguousarray(column.values)
    if kind == "DATE":
        return pa.array(values, mask=mask).view(pa.date32())
    if kind in ("TIMESTAMP", "INTERVAL"):
        return pa.array(values, mask=mask).view(arrow_type(column.type))
    return pa.array(values, arrow_type(column.type), mask=mask, from_pandas=False)


def _coded_to_arrow(column: Column, mask: Array | None) -> pa.Array:
    assert column.dictionary is not None
    codes = column.values
    target = arrow_type(column.type)
    known = len(column.dictionary)
    if not known:
        return pa.nulls(len(column), target)
    kept, spelled = column.dictionary.arrow, column.dictionary
    if kept is not None and (len(kept) >= known or (len(codes) and int(codes.max()) < len(kept))):
        values = kept
    elif isinstance(spelled, SpelledDictionary) and spelled.distinct:
        buffers = [None, pa.py_buffer(spelled.starts), pa.py_buffer(spelled.heap)]
        values = pa.Array.from_buffers(target, known, buffers)
        if mask is None and known == len(codes) and codes[-1] == known - 1 and (codes[:-1] < codes[1:]).all():
            return values  # every row has its own
    elif known > 2 * len(codes) and spelled.converted + len(codes) < known:
        # A few rows of a large dictionary: only the values they use, until that was done for as many rows as it has.
        spelled.converted += len(codes)
        used, codes = np.unique(codes, return_inverse=True)
        array = column.dictionary.array()
        values = pa.array([array[i] for i in used], target)
    else:
        values = column.dictionary.arrow = pa.array(column.dictionary.values[:known], target)
    indices = pa.array(codes.astype(np.int32, copy=False), mask=mask)
    return pa.DictionaryArray.from_arrays(indices, values).cast(target)


def arrow_schema(names: Sequence[str], types: Sequence[DataType]) -> pa.Schema:
    return pa.schema([pa.field(n, arrow_type(t)) for n, t in zip(names, types, strict=True)])


def batch_to_arrow(batch: RecordBatch) -> pa.RecordBatch:
    schema = arrow_schema(batch.names, batch.types)
    return pa.RecordBatch.from_arrays([column_to_arrow(c) for c in batch.columns], schema=schema)


def table_to_arrow(names: Sequence[str], types: Sequence[DataType], batches: Iterable[RecordBatch]) -> pa.Table:
    return pa.Table.from_batches([batch_to_arrow(b) for b in batches], schema=arrow_schema(names, types))


class _Asked:
    def __init__(self, capsule: object) -> None:
        self.__arrow_c_schema__ = lambda: capsule


def stream_capsule(table: pa.Table, asked: object) -> object:
    """The PyCapsule stream of a table, cast to the schema of a capsule. UsageError if that cannot be."""
    try:
        return (table if asked is None else table.cast(pa.schema(_Asked(asked)))).__arrow_c_stream__()
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"the result has not the schema that was asked for: {error}") from None


# --- Arrow to batches -------------------------------------------------------------------------------------------------


def _numbers(array: pa.Array, dtype: Any) -> Array:
    """The values of an array of fixed width, whatever lies under its nulls included, not copied. Arrow's `to_numpy` and
    `fill_null` would import pandas, where it is installed: a second."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype)[array.offset : array.offset + len(array)]


def _flags(array: pa.BooleanArray) -> Array:
    """The values of a boolean array, whatever lies under its nulls included."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.empty(0, bool)
    first, stop = array.offset, array.offset + len(array)
    held = np.frombuffer(data, np.uint8)[first >> 3 : (stop + 7) >> 3]
    return np.unpackbits(held, bitorder="little")[first & 7 :][: stop - first].view(bool)


def column_from_arrow(
    array: pa.Array | pa.ChunkedArray, target: DataType, name: str, *, repeats: bool = False
) -> Column:
    """A column of type `target`. SchemaMismatch naming the column when a value does not fit exactly. With `repeats`
    equal strings may have several codes: cheap, and for appending alone, since queries compare the codes."""
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()  # which copies even one
        if isinstance(array, pa.ChunkedArray):  # an empty or a still chunked result
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], arrow_type(target))
    if target.name == "NULL":
        return Column(NULL, np.zeros(len(array), bool), np.zeros(len(array), bool))
    validity = None
    if array.null_count:
        validity = _flags(array.is_valid())
    if target.is_coded and not target.is_wide:
        return _coded_from_arrow(array, target, name, validity, repeats)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
        validity = _flags(array.is_valid()) if array.null_count else None
    wanted = arrow_type(target)
    if array.type != wanted:
        array = _cast(array, wanted, target, name)
    if target.name == "DECIMAL":
        words = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset * 2 : (array.offset + len(array)) * 2]
        numbers = from_words(words.reshape(-1, 2), validity)
        if len(numbers) and max(int(numbers.max()), -int(numbers.min())) >= 10**target.precision:
            raise SchemaMismatch(f"column {name!r} is {target}: a value has more digits", column=name)
        return column_of_numbers(target, numbers, validity)
    if target.name in ("DATE", "TIMESTAMP", "INTERVAL"):
        array = array.view(pa.int32() if target.name == "DATE" else pa.int64())
    values = _flags(array) if target.name == "BOOLEAN" else _numbers(array, target.physical)
    if validity is not None:
        values = np.where(validity, values, values.dtype.type(0))
    if target.name == "TIMESTAMP" and len(values):
        from eventdb.values import MAX_TIMESTAMP_US, MIN_TIMESTAMP_US

        if values.min() < MIN_TIMESTAMP_US or values.max() > MAX_TIMESTAMP_US:
            raise SchemaMismatch(f"column {name!r}: a timestamp lies outside the years 1 to 9999", column=name)
    return Column(target, values, validity)


def _cast(array: pa.Array, wanted: pa.DataType, target: DataType, name: str) -> pa.Array:
    source = array.type
    text = pa.types.is_string(source) or pa.types.is_large_string(source)
    fits = (
        (
            target.is_numeric
            and (pa.types.is_integer(source) or pa.types.is_floating(source) or pa.types.is_decimal(source))
        )
        or (target.name in ("TIMESTAMP", "DATE") and (pa.types.is_timestamp(source) or pa.types.is_date(source)))
        or (target.name == "INTERVAL" and pa.types.is_duration(source))
        or pa.types.is_null(source)
    )
    if not fits or (target.name == "BOOLEAN" and not pa.types.is_null(source)):
        hint = "; parse the strings first" if text else ""
        raise SchemaMismatch(
            f"column {name!r} is {target}: cannot store Arrow {source}{hint}", column=name, expected=str(target)
        )
    try:
        if pa.types.is_timestamp(source) and source.tz is not None:
            array = array.cast(pa.timestamp(source.unit))  # already UTC underneath
        if target.is_float and not pa.types.is_floating(source):
            return pc.cast(array, wanted, safe=False)  # 2**53 + 1 as a double is a rounding every database accepts
        if target.name == "FLOAT" and pa.types.is_float64(source):
            narrow = pc.cast(array, wanted, safe=False)
            lost = pc.any(pc.and_(pc.is_inf(narrow), pc.invert(pc.is_inf(array)))).as_py()
            if lost:
                raise SchemaMismatch(f"column {name!r} is FLOAT: a value is too large; use DOUBLE", column=name)
            return narrow
        return pc.cast(array, wanted, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(
            f"column {name!r} is {target}: cannot store Arrow {source}: {error}", column=name, expected=str(target)
        ) from None


def _coded_from_arrow(
    array: pa.Array, target: DataType, name: str, validity: Array | None, repeats: bool
) -> Column:  # fmt: skip
    source = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not pa.types.is_null(source) and sql_type(source, name) != target:
        raise SchemaMismatch(
            f"column {name!r} is {target}: cannot store Arrow {source}", column=name, expected=str(target)
        )
    empty = "" if target.name == "VARCHAR" else b""
    if pa.types.is_null(source) or not len(array):
        return Column(target, np.zeros(len(array), np.int32), validity, Dictionary([empty]))
    if pa.types.is_dictionary(array.type):
        coded = array
    else:
        is_view = pa.types.is_string_view(source) or pa.types.is_binary_view(source)
        array = array.cast(arrow_type(target)) if is_view else array
        if repeats and target.name == "BLOB":
            return Column(
                target, np.arange(len(array), dtype=np.int32), validity, _spelled_from_arrow(array, target, name, False)
            )
        coded = array.dictionary_encode()
        if 2 * len(coded.dictionary) > len(array):  # hardly any repeats: codes save nothing
            if repeats:
                return Column(
                    target,
                    np.arange(len(array), dtype=np.int32),
                    validity,
                    _spelled_from_arrow(array, target, name, False),
                )
            return Column(target, _codes(coded), validity, _spelled_from_arrow(coded.dictionary, target, name, True))
    _check_text(coded.dictionary, name)
    values = coded.dictionary.to_pylist()
    if len(set(values)) != len(values) or None in values:  # a foreign dictionary may repeat values or hold null
        coded = coded.cast(coded.type.value_type).dictionary_encode()
        values = coded.dictionary.to_pylist()
        validity = _flags(coded.is_valid()) if coded.null_count else None
    return Column(target, _codes(coded), validity, Dictionary(values or [empty]))


def _known_codes(source: Any, target: DataType, dictionary: Dictionary | None) -> Column | None:
    """A column of strings in the codes of a dictionary, with no look at any string but Arrow's; None if it has others,
    or too few rows for it to pay."""
    if dictionary is None or target.name != "VARCHAR" or source.type != pa.string():
        return None
    count = len(dictionary)
    if 2 * count > len(source):
        return None
    values = dictionary.arrow
    if values is None or len(values) < count:
        try:
            values = dictionary.arrow = pa.array(dictionary.values[:count], pa.string())
        except UnicodeEncodeError:  # lone surrogates, which Arrow does not know
            return None
    array = source
    if isinstance(source, pa.ChunkedArray):
        array = source.chunk(0) if source.num_chunks == 1 else source.combine_chunks()
    found = pc.index_in(array, value_set=values)
    if found.null_count != array.null_count:
        return None
    codes = _numbers(found, np.dtype(np.int32))
    if not found.null_count:
        return Column(target, codes, None, dictionary)
    validity = _flags(found.is_valid())
    return Column(target, np.where(validity, codes, np.int32(0)), validity, dictionary)


def _codes(coded: pa.DictionaryArray) -> Array:
    """The codes of the values, 0 for null."""
    indices = coded.indices
    codes = _numbers(indices, np.dtype(str(indices.type))).astype(np.int32, copy=False)
    return np.where(_flags(indices.is_valid()), codes, np.int32(0)) if indices.null_count else codes


def _check_text(array: pa.Array, name: str) -> None:
    """SchemaMismatch if a string is not UTF-8: Arrow itself takes any bytes for one."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(f"column {name!r}: a string is not valid UTF-8 ({error})", column=name) from None


def _spelled_from_arrow(array: pa.Array, target: DataType, name: str, distinct: bool) -> SpelledDictionary:
    """Every value a code of its own: what is stored plainly is not worth encoding, and its bytes are not copied."""
    if target.name == "VARCHAR":
        _check_text(array, name)
    distinct = distinct and array.nbytes < 1 << 31
    small, large = (pa.string(), pa.large_string()) if target.name == "VARCHAR" else (pa.binary(), pa.large_binary())
    array = array.cast(small if distinct else large)
    _, starts, heap = array.buffers()
    offsets = np.frombuffer(starts, np.int32 if distinct else np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(b"" if heap is None else heap, dtype=np.uint8)
    return SpelledDictionary(offsets, data, text=target.name == "VARCHAR", distinct=distinct)


def distinct_strings(bounds: Array, heap: bytes, *, text: bool) -> tuple[Array, SpelledDictionary] | None:
    """(int32 code of each value, the distinct values) of values laid one after another: value i is heap[bounds[i] :
    bounds[i + 1]]. None for texts that are not UTF-8 throughout, and for more bytes than an int32 counts."""
    if len(heap) >= 1 << 31:
        return None
    starts = bounds.astype(np.int32)
    array = pa.Array.from_buffers(pa.binary(), len(bounds) - 1, [None, pa.py_buffer(starts), pa.py_buffer(heap)])
    encoded = array.dictionary_encode()
    values = encoded.dictionary
    if text:
        try:
            values.cast(pa.string())
        except pa.ArrowInvalid:
            return None
    _, offsets, data = values.buffers()
    spelled = np.frombuffer(b"" if data is None else data, dtype=np.uint8)
    places = np.frombuffer(offsets, dtype=np.int32)[: len(values) + 1]
    codes = np.frombuffer(encoded.indices.buffers()[1], dtype=np.int32)[: len(array)]
    return codes, SpelledDictionary(places, spelled, text=text, distinct=True)


def to_table(data: Any) -> pa.Table:
    """An Arrow table from a dict of arrays or anything with the Arrow PyCapsule interface (Arrow, Polars, DuckDB, an
    EventDB result), or a pandas frame, whose index is a column where it has a name. UsageError for anything else."""
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, pa.RecordBatchReader):
        return data.read_all()
    if isinstance(data, Mapping):
        return _table_from_mapping(data)
    library, kind = type(data).__module__.partition(".")[0], type(data).__name__
    if (library, kind) == ("polars", "DataFrame") and "Object" in map(str, data.dtypes):
        raise UsageError("a Polars column of Python objects has no SQL type; cast it to a number or string")
    try:
        if (library, kind) == ("pandas", "DataFrame"):
            return _table_from_pandas(data)
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data).read_all()
        if hasattr(data, "__arrow_c_array__"):
            return pa.Table.from_batches([pa.record_batch(data)])
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"cannot read {type(data).__name__} as Arrow: {error}") from None
    raise UsageError(
        f"a table is an Arrow table or batch, a pandas or Polars frame, or a dict of columns, not {type(data).__name__}"
    )


def _table_from_pandas(frame: Any) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    levels = [level for level, name in enumerate(frame.index.names) if name is not None]
    index = [pa.Array.from_pandas(frame.index.get_level_values(level)) for level in levels]
    names = [*table.column_names, *(str(frame.index.names[level]) for level in levels)]
    return pa.Table.from_arrays([*table.columns, *index], names) if levels else table


def _table_from_mapping(data: Mapping[str, Any]) -> pa.Table:
    names, arrays = [], []
    for name, values in data.items():
        if not isinstance(name, str):
            raise UsageError(f"a column name is a string, not {name!r}")
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise UsageError(f"column {name!r}: expected a list or an array, not {type(values).__name__}")
        try:
            is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
            arrays.append(values if is_arrow else pa.array(values, from_pandas=False))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise SchemaMismatch(f"column {name!r}: the values do not form one column: {error}", column=name) from None
        names.append(name)
    lengths = {name: len(array) for name, array in zip(names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"columns differ in length: {lengths}")
    return pa.table(dict(zip(names, arrays, strict=True)))


def columns_for(data: Any, schema: Schema, known: Sequence[Dictionary | None] = ()) -> list[Column]:
    """Columns in the order of `schema` from any table-like object: names match without case, missing ones are NULL.
    `known` are dictionaries that strings of each column may have their codes of, if it holds them all.

    SchemaMismatch for an unknown column, a missing or NULL value in a NOT NULL column, a type or value that does not
    fit.
    """
    if isinstance(data, RecordBatch):
        names: list[str] = list(data.names)
        sources: list[Any] = list(data.columns)
        rows = len(data)
    else:
        table = to_table(data)
        names, sources, rows = table.column_names, table.columns, table.num_rows
    found: dict[int, Any] = {}
    for name, source in zip(names, sources, strict=True):
        index = schema.index_of(name)
        if index in found:
            raise SchemaMismatch(f"column {name!r} is given twice", column=name)
        found[index] = source
    _encode_ahead(found)
    columns = []
    for index, field in enumerate(schema):
        source = found.get(index)
        if source is None:
            source = pa.nulls(rows)
        if isinstance(source, Column) and source.type != field.type:
            source = column_to_arrow(source)
        given = None if not known or isinstance(source, Column) else _known_codes(source, field.type, known[index])
        if given is not None:
            column = given
        elif isinstance(source, Column):
            column = source
        else:
            column = column_from_arrow(source, field.type, field.name, repeats=True)
        if not field.nullable and column.validity is not None and not column.validity.all():
            row = int(np.argmin(column.validity))
            raise SchemaMismatch(
                f"column {field.name!r} is {field.type} NOT NULL: row {row} of the batch holds no value",
                column=field.name,
                expected=f"{field.type} NOT NULL",
            )
        columns.append(column)
    return columns


def _encode_ahead(found: dict[int, Any]) -> None:
    """Long columns of strings are dictionary-encoded in threads, side by side (both ways let go of the GIL)."""

    def encode(index: int) -> None:
        found[index] = _encode_short(found[index]) or found[index].combine_chunks().dictionary_encode()

    long = [
        index
        for index, source in found.items()
        if isinstance(source, pa.ChunkedArray)
        and len(source) >= READ_BATCH_ROWS
        and (pa.types.is_string(source.type) or pa.types.is_large_string(source.type))
    ]
    threads = [threading.Thread(target=encode, args=(index,)) for index in long[1:]]
    for thread in threads:
        thread.start()
    if long:
        encode(long[0])
    for thread in threads:
        thread.join()


def _encode_short(strings: pa.ChunkedArray) -> pa.DictionaryArray | None:
    """The column, dictionary-encoded; None if it holds nulls, long strings or too many, or if the kernel declines."""
    parts = []
    for chunk in strings.chunks:
        _, ends, data = chunk.buffers()
        if chunk.null_count or data is None or data.address % 8 or ends.address % 8:
            return None
        offsets = np.frombuffer(ends, dtype=np.int32 if pa.types.is_string(chunk.type) else np.int64)
        parts.append((offsets[chunk.offset : chunk.offset + len(chunk) + 1], np.frombuffer(data, dtype=np.uint8)))
    found = short_string_codes(parts, len(strings))
    if found is None:
        return None
    codes, firsts = found
    return pa.DictionaryArray.from_arrays(pa.array(codes), strings.take(pa.array(firsts)).combine_chunks(), safe=False)


def array_of(values: Any) -> Any:
    """The values as an Arrow array. ValueError if they do not form one."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None


def infer_schema(data: Any) -> Schema:
    """The schema of a table-like object; columns of only nulls become VARCHAR."""
    schema = data.schema if isinstance(data, pa.RecordBatchReader) else to_table(data).schema
    return _schema_of(schema)


def _schema_of(schema: pa.Schema) -> Schema:
    fields = []
    for field in schema:
        found = sql_type(field.type, field.name)
        fields.append(Field(field.name, VARCHAR if found == NULL else found, True))
    return Schema(fields)


# --- compression ------------------------------------------------------------------------------------------------------


def compress_zstd(data: bytes | Array, level: int) -> bytes:
    """One zstd frame."""
    compressed: bytes = pa.Codec("zstd", compression_level=level).compress(pa.py_buffer(data), asbytes=True)
    return compressed


def decompress_zstd(data: memoryview, size_bytes: int) -> bytes | None:
    """What a zstd frame holds; None unless that is exactly `size_bytes`."""
    try:
        found: bytes = _ZSTD.decompress(pa.py_buffer(data), decompressed_size=size_bytes, asbytes=True)
    except (OSError, ValueError, pa.ArrowException):
        return None
    return found if len(found) == size_bytes else None


_ZSTD = pa.Codec("zstd")
