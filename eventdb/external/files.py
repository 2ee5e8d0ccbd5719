"""FileSource: one file or many as rows, read in batches whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from eventdb.arrow import arrow_type
from eventdb.batch import RecordBatch
from eventdb.errors import EventDBError, SchemaMismatch, UsageError
from eventdb.external import hive
from eventdb.external.columns import BATCH_ROWS, Converter, fields_of, parts, repeated, require_readable
from eventdb.external.csv import CsvOptions, explain, open_csv
from eventdb.external.ipc import open_ipc
from eventdb.external.json_lines import open_json
from eventdb.external.locations import Location, ending, locate
from eventdb.external.options import READERS, ReadOptions, checked
from eventdb.external.parquet import open_fragment, read_fragment
from eventdb.external.source import Terms
from eventdb.schema import VARCHAR, DataType, Field, Schema

FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".arrows": "arrow",
}  # fmt: skip
# A column whose type is known is read as it, so that '007' stays text and 1.5 may follow integers.
_TEXT_TYPES = {
    "VARCHAR": pa.string(), "DOUBLE": pa.float64(), "FLOAT": pa.float64(), "BOOLEAN": pa.bool_(), "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
} | dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), pa.int64())  # fmt: skip
_CODED = pa.dictionary(pa.int32(), pa.string())


def detect_format(path: str) -> str:
    """'csv' | 'json' | 'parquet' | 'arrow' by the file's ending (.gz and the like are looked through)."""
    extension, _ = ending(path.partition("?")[0] if "://" in path else path)
    if extension not in FORMATS:
        raise UsageError(
            f"{path!r}: unknown file type; the extensions are {', '.join(FORMATS)}, or name the reader: read_csv('...')"
        )
    return FORMATS[extension]


def open_files(
    patterns: Sequence[str], format: str | None = None, options: ReadOptions | CsvOptions | None = None,
    filesystems: Mapping[str, Any] | None = None,
) -> FileSource:  # fmt: skip
    """The rows of files, of one format (None: the one their names say). UsageError naming the file that is no such one.

    The columns are those of the first file, or of all with `union_by_name`. CSV types are inferred from the first
    megabyte, JSON types from the first 64.
    """
    files = locate(patterns, filesystems or {})
    if format is None:
        formats = {detect_format(file.path) for file in files}
        if len(formats) > 1:
            raise UsageError(f"the files are of several formats ({', '.join(sorted(formats))}): read each by itself")
        format = formats.pop()
    if isinstance(options, CsvOptions):
        return FileSource(patterns, files, format, ReadOptions(), options)
    given = options or ReadOptions()
    csv = CsvOptions(compression=given.compression, **given.csv)
    return FileSource(patterns, files, format, given, csv)


def read_function(name: str, patterns: Sequence[str], given: Mapping[str, Any], filesystems: Mapping[str, Any]) -> Any:
    """The source of a call such as read_csv('x.csv', header => false)."""
    format = READERS[name]
    return open_files(patterns, format, checked(name, format, given), filesystems)


class FileSource:
    """Rows of files of one format; see source.Source."""

    kind = "FileScan"

    def __init__(
        self, patterns: Sequence[str], files: Sequence[Location], format: str, options: ReadOptions, csv: CsvOptions
    ) -> None:
        self.name = ", ".join(patterns)
        self.files = list(files)
        self.format = format
        self.options = options
        self._csv = csv
        self._types = options.types
        self._found: pa.Schema | None = None
        self._fragments: dict[str, Any] = {}
        self._shapes: dict[str, Any] = {}
        self._values: list[dict[str, Any]] = [{} for _ in files]
        self.schema = self._schema()

    # --- columns ------------------------------------------------------------------------------------------------------

    def _schema(self) -> Schema:
        found = self._file_schema(self.files[0])
        if self.options.union_by_name and len(self.files) > 1:
            schemas = [found, *map(self._file_schema, self.files[1:])]
            try:
                found = pa.unify_schemas(schemas, promote_options="permissive")
            except (pa.ArrowException, ValueError) as error:
                raise UsageError(f"the files of {self.name!r} have no common type for a column: {error}") from None
        self._found = found
        if self.format == "csv":
            self._types = self._spelled(found.names)
        fields, self._refused = self._guarded(self.files[0], lambda: fields_of(found, self._types))
        if not fields:
            raise UsageError(f"{self.files[0].name!r} has no columns")
        names = {field.name.lower() for field in fields}
        if self.options.hive is not False:
            types, self._values = hive.typed([hive.texts_of(file.path) for file in self.files])
            if self.options.hive and not types:
                raise UsageError(f"hive_partitioning: the files of {self.name!r} lie in no folders named column=value")
            if self.options.hive:
                fields = [field for field in fields if field.name not in types]
            else:  # a column of the files is theirs
                types = {name: type for name, type in types.items() if name.lower() not in names}
                self._values = [{name: value[name] for name in types} for value in self._values]
            fields += [Field(name, type) for name, type in types.items()]
        if self.options.filename is not None:
            fields.append(Field(self.options.filename, VARCHAR, False))
        try:
            return Schema(fields)
        except UsageError as error:
            raise UsageError(f"{self.files[0].name!r}: {error}") from None

    def _spelled(self, names: Sequence[str]) -> dict[str, DataType]:
        """The types by the names as the files have them. UsageError for a column that is not there."""
        found: dict[str, DataType] = {}
        spelling = {name.lower(): name for name in names}
        for name, type in self.options.types.items():
            if name.lower() not in spelling:
                near = get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(names)}"
                raise UsageError(f"{self.name!r}: types names no column {name!r}; {hint}")
            found[spelling[name.lower()]] = type
        return found

    def _file_schema(self, file: Location) -> pa.Schema:
        return self._guarded(file, lambda: self._open(file, None)[0])

    def _guarded(self, file: Location, work: Any) -> Any:
        """What `work` gives; a reader's exception becomes UsageError with the file's name and its own words."""
        try:
            return work()
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{file.name!r}: {error}", column=error.column, expected=error.expected) from None
        except EventDBError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise UsageError(self._explained(file, error)) from None

    def _explained(self, file: Location, error: Exception) -> str:
        if self.format == "csv":
            return explain(file, error, self._csv)
        advice = ""
        if self.format == "json" and "changed from" in str(error):
            advice = "; give the column's type: read_json('...', columns => {'name': 'DOUBLE'})"
        return f"cannot read {file.name!r} as {self.format}: {error}{advice}"

    # --- rows ---------------------------------------------------------------------------------------------------------

    def batches(
        self, columns: Sequence[str] | None = None, types: Sequence[DataType] | None = None, terms: Terms = (),
        limit: int | None = None,
    ) -> Iterator[RecordBatch]:  # fmt: skip
        """See Source; without `columns` all of them."""
        chosen = self.schema.names if columns is None else list(columns)
        fields = [self.schema.fields[self.schema.index_of(name)] for name in chosen]
        wanted = [field.type for field in fields] if types is None else list(types)
        require_readable(self.files[0].name, [field.name for field in fields], self._refused)
        for file, values in zip(self.files, self._values, strict=True):
            if hive.may_hold(values, terms):
                yield from self._file_batches(file, values, [f.name for f in fields], chosen, wanted, terms, limit)

    def _file_batches(
        self, file: Location, values: Mapping[str, Any], names: list[str], shown: list[str], types: list[DataType],
        terms: Terms, limit: int | None,
    ) -> Iterator[RecordBatch]:  # fmt: skip
        added = {n: v for n, v in values.items() if n in names}
        terms = tuple(term for term in terms if term[0] not in values)
        if self.options.filename is not None:
            added[self.options.filename] = file.name
        own = [(n, t) for n, t in zip(names, types, strict=True) if n not in added]
        if self.options.union_by_name:
            there = set(self._file_schema(file).names)
            own = [(n, t) for n, t in own if n in there]
        if self.format == "parquet" and not own and not terms:
            for count in parts(self._guarded(file, lambda: self._fragment(file)).metadata.num_rows):
                columns = [repeated(type, added.get(name), count) for name, type in zip(names, types, strict=True)]
                yield RecordBatch(shown, columns, count)
            return
        convert = Converter()
        _, stream = self._guarded(file, lambda: self._open(file, own, terms, limit))
        stream = iter(stream)
        while True:
            batch = self._guarded(file, lambda: next(stream, None))
            if batch is None:
                return
            held = {n: i for i, n in enumerate(batch.schema.names)}
            for n, _ in own:
                if n not in held:
                    self._lacks(file, n, batch.schema.names)
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch if batch.num_rows <= BATCH_ROWS else batch.slice(start, BATCH_ROWS)
                count = part.num_rows
                made = []
                for name, type in zip(names, types, strict=True):
                    if name in added:
                        made.append(repeated(type, added[name], count))
                    elif (name, type) in own:
                        source = part.column(held[name])
                        made.append(self._guarded(file, lambda s=source, t=type, n=name: convert(s, t, n)))
                    else:
                        made.append(repeated(type, None, count))
                yield RecordBatch(shown, made, count)

    def _fragment(self, file: Location) -> Any:
        """A Parquet file whose footer was read once."""
        found = self._fragments.get(file.name)
        if found is None:
            found = self._fragments[file.name] = open_fragment(file)
        return found

    def _lacks(self, file: Location, name: str, names: Sequence[str]) -> None:
        more = "; union_by_name => true reads NULLs there" if len(self.files) > 1 else ""
        raise UsageError(f"{file.name!r} has no column {name!r}; the columns are {', '.join(names)}{more}")

    def _open(
        self, file: Location, own: Sequence[tuple[str, DataType]] | None, terms: Terms = (), limit: int | None = None
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The file's schema and its batches; `own` None: only the schema."""
        names = None if own is None else [n for n, _ in own]
        if self.format == "parquet":
            fragment = self._fragment(file)
            schema = fragment.physical_schema
            for name in names or ():
                if name not in schema.names:
                    self._lacks(file, name, schema.names)
            types = {} if names is None else {f.name: f.type for f in self.schema}
            return schema, iter(()) if names is None else read_fragment(file, fragment, names, types, terms, limit)
        if self.format == "arrow":
            return open_ipc(file, self.options.compression, names)
        known = {n: _text_type(t) for n, t in self._types.items()}
        if self.format == "json":
            return open_json(file, known, self.options.compression, None if own is None else self._found)
        if self.format != "csv":
            raise UsageError(f"format {self.format!r} is not one of csv, json, parquet, arrow")
        if own is None:
            return open_csv(file, self._csv, known, None, self._shapes)
        known |= {n: _text_type(t) for n, t in own if n not in known and (t.is_numeric or t == VARCHAR)}
        if self._csv.keeps_zeros:
            return open_csv(file, self._csv, known)
        known |= {n: _CODED for n, t in known.items() if t == pa.string()}
        return open_csv(file, self._csv, known, names, self._shapes)


def _text_type(type: DataType) -> pa.DataType:
    """What a column of text is read as whose type is known."""
    return _TEXT_TYPES.get(type.name) or arrow_type(type)
