"""JSON files as Arrow: one object a line, or one array of objects."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from eventdb.errors import UsageError
from eventdb.external.locations import Location

_INFERRED_BYTES = 64 << 20  # of a file are looked at to find its columns and their types
_BLOCK_BYTES = 4 << 20
_ARRAY_ROWS = 10_000
_SPACES = " \t\r\n"


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
            schema = pa.schema([(name, pa.array([row.get(name) for row in held]).type) for name in names])
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
    """The objects of an array, decoded as the text comes in. The numbers of some columns keep all their digits."""
    decoder = json.JSONDecoder(parse_float=Decimal) if decimals else json.JSONDecoder()
    with file.open_stream(compression) as raw:
        text = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8-sig")
        held = text.read(_BLOCK_BYTES).lstrip(_SPACES)[1:]
        number = 0
        while True:
            held = held.lstrip(_SPACES + ",")
            if held.startswith("]"):
                return
            try:
                value, end = decoder.raw_decode(held)
                if end == len(held):
                    raise json.JSONDecodeError("more may follow", held, end)
            except json.JSONDecodeError as error:
                more = text.read(_BLOCK_BYTES)
                if not more:
                    raise UsageError(f"{file.name!r}, element {number + 1} of the array: {error.msg}") from None
                held += more
                continue
            number += 1
            if not isinstance(value, dict):
                raise UsageError(f"{file.name!r}, element {number} of the array is no object: {held[:end][:60]}")
            held = held[end:]
            if decimals:
                value = {n: float(v) if isinstance(v, Decimal) and n not in decimals else v for n, v in value.items()}
            yield value


def _tables(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == _ARRAY_ROWS:
            yield from pa.Table.from_pylist(held, schema).to_batches()
            held = []
    if held:
        yield from pa.Table.from_pylist(held, schema).to_batches()


def chosen(batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches with these columns alone."""
    for batch in batches:
        yield batch.select(list(columns)) if columns else batch


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
