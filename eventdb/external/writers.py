"""COPY TO: batches into a file, or into the files of a folder, whole or not at all (see placement.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from eventdb.arrow import arrow_schema, batch_to_arrow
from eventdb.batch import RecordBatch
from eventdb.errors import EventDBError, StorageError, UnsupportedError, UsageError
from eventdb.external.files import detect_format
from eventdb.external.json_lines import JsonWriter
from eventdb.external.locations import ending, resolve
from eventdb.external.options import FORMAT_SYNONYMS
from eventdb.external.placement import put_file, put_folder, refuse_own_folder
from eventdb.schema import DataType

_KNOWN = {
    "parquet": ("compression", "compression_level", "row_group_size"),
    "csv": ("compression", "header", "delim", "delimiter", "sep", "force_quote"),
    "json": ("compression", "array"),
    "arrow": ("compression",),
}
_COMMON = ("format", "partition_by", "overwrite")
_CODECS = {
    "parquet": ("snappy", "zstd", "gzip", "lz4", "brotli", "uncompressed"),
    "arrow": ("uncompressed", "lz4", "zstd"),
    "csv": ("uncompressed", "gzip", "zstd", "bz2", "lz4"),
    "json": ("uncompressed", "gzip", "zstd", "bz2", "lz4"),
}
_ROW_GROUP_ROWS = 122_880
_MAX_PARTITIONS = 100_000


@dataclass(frozen=True)
class WriteOptions:
    """Checked options of COPY TO. `compression` is a codec of the format, "uncompressed" for none."""

    format: str
    compression: str
    level: int | None = None
    row_group_rows: int = _ROW_GROUP_ROWS
    header: bool = True
    delimiter: str = ","
    quotes_all: bool = False
    array: bool = False
    partition_by: tuple[str, ...] = ()
    overwrite: bool = False


def write_options(path: str, given: Mapping[str, Any], names: Sequence[str]) -> WriteOptions:
    """The options; the format is that of the file's name unless it is said. UsageError naming what is wrong."""
    format = str(given["format"]).lower() if "format" in given else detect_format(path)
    format = FORMAT_SYNONYMS.get(format, format)
    if format not in _KNOWN:
        raise UsageError(f"COPY: format is {', '.join(_KNOWN)}, not {given['format']!r}")
    allowed = (*_COMMON, *_KNOWN[format])
    for name in given:
        if name not in allowed:
            near = get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else f"{format} takes {', '.join(allowed)}"
            raise UsageError(f"COPY: no option {name!r} for {format}; {hint}")
    quoting = given.get("force_quote", False)
    if quoting not in (False, True, "*"):
        raise UnsupportedError("COPY: force_quote of some columns is not supported; write FORCE_QUOTE *",
                               construct="FORCE_QUOTE")  # fmt: skip
    default = "\t" if ending(path)[0] == ".tsv" else ","
    delimiter = next((given[n] for n in ("delim", "delimiter", "sep") if n in given), default)
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if not isinstance(delimiter, str) or len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise UsageError(f"COPY: delim is one (ASCII) character, no quote and no line end, not {delimiter!r}")
    compression = _compression(path, format, given.get("compression"))
    return WriteOptions(
        format, compression, _level(given, compression), _number(given, "row_group_size", _ROW_GROUP_ROWS) or 1,
        _flag(given, "header", True), delimiter, bool(quoting), _flag(given, "array", False),
        _partitions(given.get("partition_by"), names), _flag(given, "overwrite", False),
    )  # fmt: skip


def _compression(path: str, format: str, given: Any) -> str:
    named = ending(path)[1]
    if named is not None and format in ("parquet", "arrow"):
        raise UsageError(f"COPY: {path!r} would be {named} around {format}, which is compressed inside: name it "
                         f"{os.path.splitext(path)[0]!r} and write (COMPRESSION zstd)")  # fmt: skip
    if given is None or str(given).lower() == "auto":
        if format == "parquet":
            return "snappy"
        if format == "arrow":
            return "uncompressed"
        return named or "uncompressed"
    codec = str(given).lower()
    codec = {"none": "uncompressed", "gz": "gzip", "zst": "zstd", "lz4_raw": "lz4"}.get(codec, codec)
    if codec not in _CODECS[format]:
        raise UsageError(f"COPY: compression of {format} is {', '.join(_CODECS[format])}, not {given!r}")
    return codec


def _level(given: Mapping[str, Any], codec: str) -> int | None:
    level = _number(given, "compression_level", None)
    if level is None:
        return None
    if codec == "uncompressed" or not pa.Codec.supports_compression_level(codec):
        raise UsageError(f"COPY: {codec} has no compression_level; zstd, gzip and brotli have")
    highest = pa.Codec.maximum_compression_level(codec)
    if level > highest:
        raise UsageError(f"COPY: compression_level of {codec} is at most {highest}, not {level}")
    return level


def _number(given: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = given.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"COPY: {name} is a whole number from 1, not {value!r}")
    return value


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if value in (True, False):
        return bool(value)
    raise UsageError(f"COPY: {name} is true or false, not {value!r}")


def _partitions(given: Any, names: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return ()
    wanted = [given] if isinstance(given, str) else given
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise UsageError(f"COPY: partition_by lists columns: PARTITION_BY (a, b), not {given!r}")
    spelled = {name.lower(): name for name in names}
    for name in wanted:
        if name.lower() not in spelled:
            raise UsageError(f"COPY: partition_by names no column {name!r}; the columns are {', '.join(names)}")
    if len({name.lower() for name in wanted}) != len(wanted):
        raise UsageError(f"COPY: partition_by names a column twice: {', '.join(wanted)}")
    if len(wanted) == len(spelled):
        raise UsageError("COPY: partition_by leaves no column for the files")
    return tuple(spelled[name.lower()] for name in wanted)


def write(
    batches: Iterable[RecordBatch], names: Sequence[str], types: Sequence[DataType], path: str, options: WriteOptions,
    filesystems: Mapping[str, Any], own_folder: str,
) -> int:  # fmt: skip
    """Writes all rows and returns how many. UsageError for a place in `own_folder`, the database's. StorageError naming
    the file; then, and when the rows end in an error, nothing of it is left, and what was there stays."""
    if len({name.lower() for name in names}) != len(names):
        twice = next(n for n in names if [m.lower() for m in names].count(n.lower()) > 1)
        raise UsageError(f"COPY: column {twice!r} is there twice; give one of them another name")
    place = resolve(path, filesystems)
    refuse_own_folder(place, own_folder, bool(options.partition_by))
    counted = _Counted(batches)
    schema = arrow_schema(names, types)
    try:
        if options.partition_by:
            put_folder(place, lambda system, folder: _write_partitions(counted, schema, system, folder, options),
                       options.overwrite)  # fmt: skip
        else:
            put_file(place, lambda sink: _WRITERS[options.format](counted, schema, sink, options))
    except EventDBError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"cannot write {path!r}: {error}", path=path) from error
    return counted.row_count


class _Counted:
    """Arrow batches of the rows, counted as they pass."""

    def __init__(self, batches: Iterable[RecordBatch]) -> None:
        self._batches = batches
        self.row_count = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.row_count += batch.row_count
            yield batch_to_arrow(batch)


def _write_parquet(batches: _Counted, schema: pa.Schema, raw: Any, options: WriteOptions) -> None:
    codec = "none" if options.compression == "uncompressed" else options.compression
    with pa_parquet.ParquetWriter(raw, schema, compression=codec, compression_level=options.level) as writer:
        held: list[pa.RecordBatch] = []
        count = 0
        for batch in batches:
            held.append(batch)
            count += batch.num_rows
            if count >= options.row_group_rows:
                writer.write_table(pa.Table.from_batches(held, schema), options.row_group_rows)
                held, count = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held, schema), options.row_group_rows)


def _write_csv(batches: _Counted, schema: pa.Schema, raw: Any, options: WriteOptions) -> None:
    with _compressed(raw, options) as sink, pa_csv.CSVWriter(sink, schema, write_options=_csv_options(options)) as out:
        for batch in batches:
            out.write_batch(batch)


def _csv_options(options: WriteOptions) -> pa_csv.WriteOptions:
    quoting = "all_valid" if options.quotes_all else "needed"
    return pa_csv.WriteOptions(
        include_header=options.header, delimiter=options.delimiter, quoting_style=quoting, quoting_header=quoting
    )


def _write_json(batches: _Counted, schema: pa.Schema, raw: Any, options: WriteOptions) -> None:
    with _compressed(raw, options) as sink:
        writer = JsonWriter(sink, options.array)
        for batch in batches:
            writer.write(batch)
        writer.finish()


def _write_arrow(batches: _Counted, schema: pa.Schema, raw: Any, options: WriteOptions) -> None:
    codec = None if options.compression == "uncompressed" else options.compression
    with pa.ipc.new_file(raw, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for batch in batches:
            writer.write_batch(batch)


_WRITERS: dict[str, Callable[[_Counted, pa.Schema, Any, WriteOptions], None]] = {
    "parquet": _write_parquet, "csv": _write_csv, "json": _write_json, "arrow": _write_arrow,
}  # fmt: skip


def _compressed(raw: Any, options: WriteOptions) -> Any:
    if options.compression == "uncompressed":
        return raw
    return pa.CompressedOutputStream(raw, options.compression)


# --- folders of partitions --------------------------------------------------------------------------------------------


def _write_partitions(batches: _Counted, schema: pa.Schema, system: Any, folder: str, options: WriteOptions) -> None:
    if options.format == "json":
        raise UnsupportedError("COPY: PARTITION_BY writes parquet, csv or arrow, not json", construct="PARTITION_BY")
    keys = pa.schema([schema.field(name) for name in options.partition_by])
    kind, settings = _dataset_format(options)
    failure: list[BaseException] = []

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:  # Arrow makes another of it
            failure.append(error)
            raise

    try:
        pa_dataset.write_dataset(
            pa.RecordBatchReader.from_batches(schema, rows()), folder, filesystem=system, format=kind,
            file_options=settings, partitioning=pa_dataset.partitioning(keys, flavor="hive"),
            basename_template=f"data_{{i}}.{options.format}", max_partitions=_MAX_PARTITIONS,
            max_rows_per_group=options.row_group_rows, existing_data_behavior="overwrite_or_ignore",
        )  # fmt: skip
    except BaseException:
        if failure:
            raise failure[0] from None
        raise


def _dataset_format(options: WriteOptions) -> tuple[Any, Any]:
    codec = None if options.compression == "uncompressed" else options.compression
    if options.format == "parquet":
        kind = pa_dataset.ParquetFileFormat()
        return kind, kind.make_write_options(compression=codec or "none", compression_level=options.level)
    if options.format == "arrow":
        kind = pa_dataset.IpcFileFormat()
        return kind, kind.make_write_options(compression=codec)
    if codec is not None:
        raise UnsupportedError("COPY: PARTITION_BY writes CSV without compression", construct="COMPRESSION")
    kind = pa_dataset.CsvFileFormat()
    settings = _csv_options(options)
    return kind, kind.make_write_options(
        include_header=settings.include_header, delimiter=settings.delimiter, quoting_style=settings.quoting_style
    )
