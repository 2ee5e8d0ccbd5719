"""CSV files as Arrow: what the text does not say (delimiter, encoding, types) is found out, or refused with advice.

Arrow's reader does the work. This module looks at the first megabyte first, because a wrong guess there is silent:
`00501` would become 501, a file with semicolons one column, Latin-1 bytes a BLOB. A part of arrow.py, Arrow's door.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from eventdb.errors import UsageError

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_BYTES = 1 << 20  # as much as Arrow's reader infers types from
_NULLS = ["", "NA", "NULL", "null"]
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9.]+,[0-9]+\s*")


@dataclass(frozen=True)
class CsvOptions:
    """`delimiter` None: the one of DELIMITERS that splits every line alike. Without `header` the columns are called
    column1, column2, ... `keeps_zeros`: a leading zero in a column of integers is an error, wherever it comes.
    `refuses_commas`: so is a column whose every value is a number with a decimal comma, which would become text."""

    delimiter: str | None = None
    encoding: str = "utf-8"
    header: bool = True
    quote: str = '"'
    keeps_zeros: bool = False
    refuses_commas: bool = False


def open_csv(
    path: str, options: CsvOptions, known: Mapping[str, pa.DataType]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and a lazy stream of batches; `known` are the types of some columns. UsageError, ArrowInvalid."""
    sample = _sample(path, options)
    delimiter = options.delimiter or _delimiter(path, sample, options.quote)
    rows = list(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quotechar=options.quote))
    names = None if options.header or not rows else [f"column{i + 1}" for i in range(len(rows[0]))]
    checked = {n: t for n, t in known.items() if options.keeps_zeros and pa.types.is_integer(t)}

    def opened(types: Mapping[str, pa.DataType]) -> Any:
        return pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(encoding=options.encoding, column_names=names),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char=options.quote, newlines_in_values=options.quote in sample
            ),
            convert_options=pa_csv.ConvertOptions(null_values=_NULLS, strings_can_be_null=True,
                                                  quoted_strings_can_be_null=False, column_types=types),
        )  # fmt: skip

    types = {**known, **dict.fromkeys(checked, pa.string())}
    reader = opened(types)
    texts = _texts(reader.schema, rows[1:] if options.header else rows, known)
    zeros = {name: pa.string() for name, _, found in texts if any(re.match(_LEADING_ZERO, text) for text in found)}
    if zeros:
        reader = opened({**types, **zeros})
    for name, i, found in texts if options.refuses_commas else ():
        if found and pa.types.is_string(reader.schema.field(i).type) and all(map(_DECIMAL_COMMA.fullmatch, found)):
            raise UsageError(
                f"{path!r}: column {name!r} holds numbers with a decimal comma ({found[0].strip()!r}): write them "
                "with a point, or import them as text, into a topic that has a VARCHAR column of that name"
            )
    return reader.schema, _batches(path, reader, checked, 1 + options.header)


def explain(path: str, error: Exception, options: CsvOptions) -> str:
    """The reader's words, or better ones: where the bytes are no text, and what a decimal comma needs."""
    if "UTF8" in str(error) or isinstance(error, UnicodeError):
        found = _undecodable(path, options.encoding)
        if found:
            return found
    advice = (
        "; numbers are written with a decimal point" if re.search(r"invalid value '[^',]*,\d+'", str(error)) else ""
    )
    return f"cannot read {path!r} as csv: {error}{advice}"


def _sample(path: str, options: CsvOptions) -> str:
    """The text of the first megabyte, without a line that may go on behind it. UsageError where it is none."""
    try:
        decoder = codecs.getincrementaldecoder(options.encoding)()
    except LookupError:
        raise UsageError(f"encoding {options.encoding!r} is unknown: try utf-8, latin-1, cp1252 or utf-16") from None
    with pa.input_stream(path, compression="detect") as stream:
        data = stream.read(_SAMPLE_BYTES)
    try:
        text = decoder.decode(data, final=len(data) < _SAMPLE_BYTES)
    except UnicodeDecodeError as error:
        raise UsageError(explain(path, error, options)) from None
    if len(data) == _SAMPLE_BYTES:
        text = text[: text.rfind("\n") + 1]
    return text.removeprefix("\ufeff")


def _delimiter(path: str, sample: str, quote: str) -> str:
    """What splits every line of the sample into equally many columns, the most of them; a comma if nothing does."""
    if path.lower().partition(".tsv")[1]:
        return "\t"
    best, most = ",", 1
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quotechar=quote)
        widths = {len(row) for row, _ in zip(reader, range(1_000), strict=False) if row}
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


def _undecodable(path: str, encoding: str) -> str:
    """Where the file is not in the encoding; "" if it is."""
    with pa.input_stream(path, compression="detect") as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return (
                    f"{path!r} is not {encoding}: line {number}, byte {error.start + 1} of it is "
                    f"0x{line[error.start]:02x}; write it as UTF-8, or import it with --encoding "
                    "(latin-1 and cp1252 are common)"
                )
    return ""


__all__ = ["DELIMITERS", "CsvOptions", "explain", "open_csv"]
