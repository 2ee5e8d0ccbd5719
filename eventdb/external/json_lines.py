"""JSON files as Arrow: one object a line, or one array of objects."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from eventdb.errors import UsageError
from eventdb.external.locations import Location

_INFERRED_BYTES = 64 << 20  # of a file are looked at to find its columns and their types
_BLOCK_BYTES = 4 << 20
_ARRAY_ROWS = 10_000
_SPACES = re.compile(r"[ \t\r\n]*")


def open_json(
    file: Location, known: Mapping[str, pa.DataType], compression: str | None, schema: pa.Schema | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and a lazy stream of batches. `schema` is what the columns were found to be before (None: find out);
    `known` are the types of some columns. ArrowInvalid, UsageError."""
    with file.open_stream(compression) as stream:
        is_array = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_array:
        if schema is None:
            held = list(_array(file, compression))
            names = dict.fromkeys(name for row in held for name in row)
            schema = pa.schema([(name, _column([row.get(name) for row in held]).type) for name in names])
        schema = _typed(schema, known)
        decimals = frozenset(field.name for field in schema if pa.types.is_decimal(field.type))
        return schema, _tables(_array(file, compression, decimals), schema)
    if schema is None:
        with file.open_stream(compression) as stream:
            data = stream.read(_INFERRED_BYTES)
        if len(data) == _INFERRED_BYTES:
            data = data[: data.rfind(b"\n") + 1] or data
        schema = pa_json.read_json(
            pa.BufferReader(data), pa_json.ReadOptions(block_size=max(len(data), 1)), _parsing(known, "infer")
        ).schema
        return schema, iter(())
    schema = _typed(schema, known)
    opened = pa_json.open_json(
        file.open_stream(compression),
        pa_json.ReadOptions(block_size=_BLOCK_BYTES),
        _parsing({f.name: f.type for f in schema}, "ignore"),
    )
    return opened.schema, iter(opened)


def _parsing(types: Mapping[str, pa.DataType], unexpected: str) -> pa_json.ParseOptions:
    explicit = pa.schema(list(types.items())) if types else None
    return pa_json.ParseOptions(explicit_schema=explicit, unexpected_field_behavior=unexpected)


def _typed(schema: pa.Schema, known: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(f.name, known.get(f.name, f.type)) for f in schema])


def _array(file: Location, compression: str | None, decimals: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """The objects of an array, decoded as the text comes in; the numbers of some columns keep all their digits.
    UsageError for what is no array of objects."""
    with file.open_stream(compression) as raw:
        text = _Text(io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8-sig"), Decimal if decimals else None)
        text.next_mark()
        text.at += 1  # the bracket
        number = 0
        while (mark := text.next_mark()) != "]":
            number += 1
            if number > 1:
                if mark != ",":
                    raise _wrong(
                        file, number - 1, f"has no comma and no end of the array behind it, but {text.shown()}"
                    )
                text.at += 1
                mark = text.next_mark()
            try:
                value = text.value() if mark else None
            except json.JSONDecodeError as error:
                raise _wrong(file, number, f"cannot be read: {error.msg} at {text.shown()}") from None
            if not isinstance(value, dict):
                raise _wrong(
                    file, number, f"is no object: {value!r:.60}" if mark else "is missing: the array does not end"
                )
            if decimals:
                value = {n: float(v) if isinstance(v, Decimal) and n not in decimals else v for n, v in value.items()}
            yield value
        text.at += 1
        if text.next_mark():
            raise UsageError(f"{file.name!r}: behind the end of the array stands {text.shown()}")


def _wrong(file: Location, number: int, what: str) -> UsageError:
    return UsageError(f"{file.name!r}, element {number} of the array {what}")


class _Text:
    """Text that is read by blocks; `at` is how far of the one held. `parse_float` makes numbers with a point."""

    def __init__(self, stream: io.TextIOWrapper, parse_float: Callable[[str], Any] | None) -> None:
        self._stream = stream
        self._decoder = json.JSONDecoder(parse_int=_integer, parse_float=parse_float)
        self._held = ""
        self.at = 0

    def _more(self) -> bool:
        block = self._stream.read(_BLOCK_BYTES)
        self._held, self.at = self._held[self.at :] + block, 0
        return bool(block)

    def next_mark(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            found = _SPACES.match(self._held, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self._held):
                return self._held[self.at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The value that starts here. JSONDecodeError."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self.at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if end < len(self._held) or not self._more():  # a number may go on
                self.at = end
                return value

    def shown(self) -> str:
        """The next few characters, for a message."""
        while len(self._held) < self.at + 40 and self._more():
            pass
        return repr(self._held[self.at : self.at + 40])


def _integer(text: str) -> int | float:
    return int(text) if len(text) < 400 else float(text)  # which is none that a type holds, and slow to read


def _tables(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while held := list(islice(rows, _ARRAY_ROWS)):
        arrays = [_column([row.get(field.name) for row in held], field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[Any], type: pa.DataType | None = None) -> pa.Array:
    """The values as they are, or of a type. As in JSON lines, integers beyond 64 bits make doubles, and no value is
    cut to fit. ArrowException."""
    try:
        spelled = type is not None and (pa.types.is_nested(type) or pa.types.is_decimal(type))
        found = pa.array(values, type if spelled else None)
    except (OverflowError, pa.ArrowException):
        if (type is not None and pa.types.is_integer(type)) or not any(map(_is_beyond, values)):
            raise
        found = pa.array([_double(value) for value in values])
    if type is None or found.type == type:
        return found
    return found.cast(type, safe=not pa.types.is_floating(type))


def _is_beyond(value: Any) -> bool:
    return isinstance(value, int) and not -(1 << 63) <= value < 1 << 63


def _double(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    except OverflowError:
        return math.copysign(math.inf, value)


class JsonWriter:
    """Rows as JSON: an object a line, or one array of them. What JSON has no number or type for is a string."""

    def __init__(self, sink: Any, array: bool) -> None:
        self._sink = sink
        self._array = array
        self._row_count = 0

    def write(self, batch: pa.RecordBatch) -> None:
        names = [json.dumps(name, ensure_ascii=False) + ":" for name in batch.schema.names]
        columns = [
            [label + _text(value) for value in column.to_pylist()]
            for label, column in zip(names, batch.columns, strict=True)
        ]
        lines = ["{" + ",".join(row) + "}" for row in zip(*columns, strict=True)]
        if not lines:
            return
        if self._array:
            lead = ",\n" if self._row_count else "[\n"
            self._sink.write((lead + ",\n".join(lines)).encode())
        else:
            self._sink.write(("\n".join(lines) + "\n").encode())
        self._row_count += len(lines)

    def finish(self) -> None:
        if self._array:
            self._sink.write(b"\n]\n" if self._row_count else b"[]\n")


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'"{"NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}"'
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value.hex() if isinstance(value, bytes) else str(value), ensure_ascii=False)
