"""CSV files as Arrow: what the text does not say (delimiter, encoding, types) is found out, or refused with advice.

Arrow's reader does the work. This module looks at the first megabyte first, because a wrong guess there is silent:
`00501` would become 501, a file with semicolons one column, Latin-1 bytes a BLOB. Once the types are known, UTF-8 text
is cut at line ends into pieces that are parsed by all cores; other text goes through Arrow's stream, on one.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from eventdb.errors import UsageError
from eventdb.external.locations import Location, ending

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_BYTES = 1 << 20  # as much as Arrow's reader infers types from
_PIECE_BYTES = 16 << 20  # parsed at a time
_FIRST_BYTES = 1 << 20  # so that a LIMIT need not wait for more
_BLOCK_BYTES = 4 << 20  # by one core
_NULLS = ["", "NA", "NULL", "null"]
csv.field_size_limit(max(csv.field_size_limit(), _SAMPLE_BYTES))  # a value may be all of the sample
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9.]+,[0-9]+\s*")


@dataclass(frozen=True)
class CsvOptions:
    """`delimiter` None: the one of DELIMITERS that splits every line alike. Without `header` the columns are called
    column1, column2, ...; `names` are theirs instead. `skip_rows` lines stand before the header. `nulls` are the texts
    that mean NULL when not quoted. `keeps_zeros`: a leading zero in a column of integers is an error, wherever it
    comes. `refuses_commas`: so is a column whose every value is a number with a decimal comma, which would be text."""

    delimiter: str | None = None
    encoding: str = "utf-8"
    header: bool = True
    quote: str = '"'
    keeps_zeros: bool = False
    refuses_commas: bool = False
    escape: str | None = None
    nulls: tuple[str, ...] | None = None
    skip_rows: int = 0
    names: tuple[str, ...] = ()
    all_varchar: bool = False
    decimal_point: str = "."
    timestamp_format: str | None = None
    compression: str | None = None


@dataclass(frozen=True)
class _Shape:
    """What was found out of a file."""

    delimiter: str
    names: list[str] | None
    quoted: bool
    signs: bool
    single: bool
    blanks: int
    schema: pa.Schema


def open_csv(
    file: Location, options: CsvOptions, known: Mapping[str, pa.DataType], wanted: Sequence[str] | None = None,
    shapes: dict[str, _Shape] | None = None,
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:  # fmt: skip
    """The schema and a lazy stream of batches; `known` are the types of some columns, `wanted` the only ones read (then
    the schema has them alone). `shapes` keeps by file what its first megabyte says. UsageError, ArrowInvalid."""
    path = file.name
    shape = None if shapes is None or wanted is None else shapes.get(path)
    if shape is None:
        delimiter, names, quoted, signs, single, blanks, rows = _look(file, options)
        known = _spelled(known, names or (rows[0] if rows else []))
    else:
        delimiter, names, quoted, rows = shape.delimiter, shape.names, shape.quoted, []
        signs, single, blanks = shape.signs, shape.single, shape.blanks
    checked = {n: t for n, t in known.items() if options.keeps_zeros and pa.types.is_integer(t)}

    def parsing(newlines: bool) -> pa_csv.ParseOptions:
        return pa_csv.ParseOptions(
            delimiter=delimiter, quote_char=options.quote or False, escape_char=_escape(options) or False,
            newlines_in_values=newlines, ignore_empty_lines=not single,
        )  # fmt: skip

    def converting(types: Mapping[str, pa.DataType], columns: Sequence[str] | None = None) -> pa_csv.ConvertOptions:
        return pa_csv.ConvertOptions(
            null_values=_NULLS if options.nulls is None else list(options.nulls), strings_can_be_null=True,
            quoted_strings_can_be_null=False, column_types=types, decimal_point=options.decimal_point,
            timestamp_parsers=[options.timestamp_format] if options.timestamp_format else None,
            include_columns=None if columns is None else list(columns),
        )  # fmt: skip

    skipped = options.skip_rows + blanks

    def opened(
        types: Mapping[str, pa.DataType], columns: Sequence[str] | None = None, threads: bool = True
    ) -> pa_csv.CSVStreamingReader:
        read = pa_csv.ReadOptions(
            encoding=options.encoding, column_names=names, skip_rows=skipped, use_threads=threads,
            skip_rows_after_names=int(options.header and names is not None),
        )  # fmt: skip
        try:
            stream = file.open_stream(options.compression)
            return pa_csv.open_csv(stream, read, parsing(quoted), converting(types, columns))
        except pa.ArrowInvalid:
            if not threads:
                raise
            return opened(types, columns, threads=False)  # it says which row is wrong

    def sequential(threads: bool) -> pa_csv.CSVStreamingReader:
        return opened(known, wanted or schema.names[:1], threads)

    if shape is not None:
        schema = pa.schema([pa.field(f.name, known.get(f.name, f.type)) for f in shape.schema])
    else:
        types = {**known, **dict.fromkeys(checked, pa.string())}
        reader = opened(types)
        if options.all_varchar:
            types = {**dict.fromkeys(reader.schema.names, pa.string()), **types}
            reader = opened(types)
        texts = _texts(reader.schema, rows[1:] if options.header else rows, types)
        zeros = {name: pa.string() for name, _, found in texts if any(re.match(_LEADING_ZERO, text) for text in found)}
        if zeros:
            reader = opened({**types, **zeros})
        if options.refuses_commas:
            _refuse_commas(path, reader.schema, texts)
        if shapes is not None:
            shapes[path] = _Shape(delimiter, names, quoted, signs, single, blanks, reader.schema)
        if wanted is None:
            return reader.schema, _batches(path, reader, checked, 1 + options.header)
        schema = reader.schema
    assert wanted is not None
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise UsageError(f"{path!r} has no column {missing[0]!r}; the columns are {', '.join(schema.names)}")
    known = {field.name: field.type for field in schema}
    if codecs.lookup(options.encoding).name != "utf-8" or _escape(options):
        return schema, sequential(True)
    pieces = _pieces(file, options, delimiter, signs)
    first = (skipped, int(options.header))
    return schema, _parsed(pieces, schema.names, first, parsing, converting(known, wanted or schema.names[:1]),
                           sequential)  # fmt: skip


def _look(file: Location, options: CsvOptions) -> tuple[str, list[str] | None, bool, bool, bool, int, list[list[str]]]:
    """(delimiter, names unless the header has them, whether there are quotes, whether some quote nothing, whether there
    is one column, how many blank lines are skipped, rows) of the first megabyte. A blank line is a row of one column,
    and none of more."""
    sample = _sample(file, options)
    delimiter = options.delimiter or _delimiter(file, sample, options)
    lines = list(_rows(sample, delimiter, options))
    rows = [row for row in lines if row]
    names = list(options.names) or (
        None if options.header or not rows else [f"column{i + 1}" for i in range(len(rows[0]))]
    )
    single = bool(rows) and all(len(row) == 1 for row in rows)
    blanks = 0 if single and not options.header else next((i for i, row in enumerate(lines) if row), 0)
    quoted = bool(options.quote) and options.quote in sample
    signs = quoted and _has_signs(sample.encode() + b"\n", options.quote.encode(), delimiter.encode())
    return delimiter, names, quoted, signs, single, blanks, rows


def _rows(sample: str, delimiter: str, options: CsvOptions) -> Iterator[list[str]]:
    escape = _escape(options)
    return csv.reader(
        io.StringIO(sample, newline=""), delimiter=delimiter, quotechar=options.quote or None,
        quoting=csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE, escapechar=escape,
    )  # fmt: skip


def _escape(options: CsvOptions) -> str | None:
    """What takes the next character as it is; None where it is the quote, which stands for itself in pairs anyway."""
    return options.escape if options.escape and options.escape != options.quote else None


def _spelled(types: Mapping[str, pa.DataType], names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types by the names as the file has them."""
    spelling = {name.lower(): name for name in names}
    return {spelling.get(name.lower(), name): type for name, type in types.items()}


def _refuse_commas(path: str, schema: pa.Schema, texts: Sequence[tuple[str, int, list[str]]]) -> None:
    for name, i, found in texts:
        if found and pa.types.is_string(schema.field(i).type) and all(map(_DECIMAL_COMMA.fullmatch, found)):
            raise UsageError(
                f"{path!r}: column {name!r} holds numbers with a decimal comma ({found[0].strip()!r}): write them "
                "with a point, or import them as text, into a topic that has a VARCHAR column of that name"
            )


def _pieces(file: Location, options: CsvOptions, delimiter: str, signs: bool) -> Iterator[tuple[bytes, bool]]:
    """The text in pieces that end at the end of a row, and whether a line may end inside a value. UsageError where the
    last value has a quote and no second one."""
    quote = options.quote.encode()
    others = bytes(byte for byte in range(256) if byte not in quote + b"\n")
    with file.open_stream(options.compression) as stream:
        held, size = b"", _FIRST_BYTES
        while data := stream.read(size):
            size = _PIECE_BYTES
            held = held + data if held else data
            cut = held.rfind(b"\n") + 1
            piece = held[:cut]
            # Of quotes and line ends alone: those of each line in pairs, if every line ends outside quotes.
            broken = signs or (bool(quote) and quote in piece.translate(None, others).replace(quote + quote, b""))
            if signs or (broken and _has_signs(held, quote, delimiter.encode())):
                signs, cut = True, _rows_end(held, quote, delimiter.encode())
            elif broken:
                while cut and held.count(quote, 0, cut) % 2:  # that line end is inside quotes
                    cut = held.rfind(b"\n", 0, cut - 1) + 1
            piece = held[:cut]
            if cut:
                yield piece, broken
                held = held[cut:]
        if held:
            broken = bool(quote) and quote in held
            held += b"\n"  # without one Arrow takes an empty last value for a quoted one
            cut = _rows_end(held, quote, delimiter.encode()) if broken else len(held)
            if cut < len(held):
                start = held[cut : cut + 60].decode(errors="replace")
                raise UsageError(f"{file.name!r}: a quote is not closed, in the row that starts with {start!r}")
            yield held, broken


def _has_signs(text: bytes, quote: bytes, delimiter: bytes) -> bool:
    """Whether there are quotes that quote nothing, as in 5" pipe, which need not come in pairs."""
    return _rows_end(text, quote, delimiter, signs=False) < _rows_end(text, quote, delimiter)


def _rows_end(text: bytes, quote: bytes, delimiter: bytes, signs: bool = True) -> int:
    """Where the last row ends that the text has wholly, without `signs`: before the first such quote. Exact, and as
    slow as the parser."""
    q, d = re.escape(quote), re.escape(delimiter)
    rest = rb"[^%b\n]*+" % d if signs else rb"[^%b%b\n]*+" % (q, d)
    value = rb"(?:%b[^%b]*+(?:%b%b[^%b]*+)*+%b%b|[^%b%b\n]%b|)" % (q, q, q, q, q, q, rest, q, d, rest)
    found = re.match(rb"(?:%b(?:%b%b)*+\n)*+" % (value, d, value), text)
    return found.end() if found else 0


def _parsed(
    pieces: Iterator[tuple[bytes, bool]], names: list[str], first: tuple[int, int], parsing: Any, convert: Any,
    sequential: Any,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """The rows of the pieces; `first` is how many lines of the first one are skipped, and then how many rows."""
    for number, (piece, quoted) in enumerate(pieces):
        lines, rows = (0, 0) if number else first
        read = pa_csv.ReadOptions(
            column_names=names, skip_rows=lines, skip_rows_after_names=rows, block_size=_BLOCK_BYTES
        )
        try:
            table = pa_csv.read_csv(pa.BufferReader(piece), read, parsing(quoted), convert)
        except pa.ArrowInvalid:
            if not number and piece.count(b"\n") <= lines + rows:  # a header and no rows
                return
            for _ in sequential(False):  # says which row it is
                pass
            raise
        yield from table.to_batches()


def explain(file: Location, error: Exception, options: CsvOptions) -> str:
    """The reader's words, or better ones: where the bytes are no text, and what a decimal comma needs."""
    if "UTF8" in str(error) or isinstance(error, UnicodeError):
        found = _undecodable(file, options)
        if found:
            return found
    advice = (
        "; numbers are written with a decimal point" if re.search(r"invalid value '[^',]*,\d+'", str(error)) else ""
    )
    if not advice and (wrong := re.search(r"In CSV column #\d+: .*conversion error", str(error))):
        advice = "; give its type: read_csv('...', types => {'column': 'VARCHAR'})" if wrong else ""
    return f"cannot read {file.name!r} as csv: {error}{advice}"


def _sample(file: Location, options: CsvOptions) -> str:
    """The text of the first megabyte, without a line that may go on behind it. UsageError where it is none."""
    try:
        "".encode(options.encoding)  # which refuses codecs of bytes
        decoder = codecs.getincrementaldecoder(options.encoding)()
    except (LookupError, ValueError):
        raise UsageError(
            f"{file.name!r}: encoding {options.encoding!r} is no text encoding: try utf-8, latin-1, cp1252 or utf-16"
        ) from None
    with file.open_stream(options.compression) as stream:
        data = stream.read(_SAMPLE_BYTES)
    try:
        text = decoder.decode(data, final=len(data) < _SAMPLE_BYTES)
    except UnicodeDecodeError as error:
        raise UsageError(explain(file, error, options)) from None
    except UnicodeError as error:
        raise UsageError(f"{file.name!r} is not {options.encoding}: {error}") from None
    if len(data) == _SAMPLE_BYTES:
        text = text[: text.rfind("\n") + 1]
    text = text.removeprefix("\ufeff")
    for _ in range(options.skip_rows):
        if not text:
            break
        text = text.partition("\n")[2]
    return text


def _delimiter(file: Location, sample: str, options: CsvOptions) -> str:
    """What splits every line of the sample into equally many columns, the most of them; a comma if nothing does."""
    if ending(file.path)[0] == ".tsv":
        return "\t"
    best, most = ",", 1
    for delimiter in DELIMITERS:
        widths = {len(row) for row in islice(_rows(sample, delimiter, options), 1_000) if row}
        if len(widths) == 1 and (width := widths.pop()) > most:
            best, most = delimiter, width
    return best


def _texts(
    schema: pa.Schema, rows: list[list[str]], known: Mapping[str, Any]
) -> list[tuple[str, int, list[str]]]:  # fmt: skip
    """(name, position, what the sample's rows hold without NULLs) of each column whose type was inferred."""
    return [
        (name, i, [row[i] for row in rows if i < len(row) and row[i] not in _NULLS])
        for i, name in enumerate(schema.names)
        if name not in known
    ]


def _batches(
    path: str, reader: Any, checked: Mapping[str, pa.DataType], first_line: int
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """The batches, with the checked columns as integers. UsageError for one with a leading zero."""
    row = first_line
    for batch in reader:
        for name, type in checked.items():
            if name not in batch.schema.names:
                continue
            place = batch.schema.names.index(name)
            texts = batch.column(place)
            zero = pc.index(pc.match_substring_regex(texts, _LEADING_ZERO), True).as_py()
            if zero >= 0:
                raise UsageError(
                    f"{path!r}, row {row + zero}: column {name!r} was taken for integers, but {texts[zero].as_py()!r} "
                    "would lose its leading zero: import into a topic whose column is VARCHAR"
                )
            batch = batch.set_column(place, pa.field(name, type), pc.cast(pc.utf8_trim_whitespace(texts), type))
        yield batch
        row += batch.num_rows


def _undecodable(file: Location, options: CsvOptions) -> str:
    """Where the file is not in the encoding; "" if it is."""
    encoding = options.encoding
    with file.open_stream(options.compression) as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return (
                    f"{file.name!r} is not {encoding}: line {number}, byte {error.start + 1} of it is "
                    f"0x{line[error.start]:02x}; write it as UTF-8, or import it with --encoding "
                    "(latin-1 and cp1252 are common)"
                )
    return ""


__all__ = ["DELIMITERS", "CsvOptions", "explain", "open_csv"]
