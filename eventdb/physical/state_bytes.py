"""Plain values <-> bytes: how the state of a group is stored with a view.

A sequence of None, bool, int (any size), float, str, bytes and tuples of them:

    N F T                      None, False, True
    b <int8>  q <int64>        integers
    I <u8 length> <bytes>      larger integers, little-endian, two's complement
    d <float64>
    s|y <u32 length> <bytes>   str in UTF-8, bytes
    t <u32 count> <values>     tuple

Numbers are little-endian. The bytes do not say how many values follow: decode reads to the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from eventdb.errors import CorruptionError

_pack_int8, _pack_int64, _pack_double = struct.Struct("<cb").pack, struct.Struct("<cq").pack, struct.Struct("<cd").pack
_pack_length = struct.Struct("<cI").pack
_int8, _int64, _double, _length = (struct.Struct("<" + code) for code in "bqdI")


def encode(values: Iterable[Any]) -> bytes:
    """The bytes of a sequence of values."""
    parts: list[bytes] = []
    _write(values, parts)
    return b"".join(parts)


def _write(values: Iterable[Any], parts: list[bytes]) -> None:
    add = parts.append
    for value in values:
        if value is None:
            add(b"N")
        elif value is True or value is False:
            add(b"T" if value else b"F")
        elif isinstance(value, int):
            if -128 <= value <= 127:
                add(_pack_int8(b"b", value))
            elif -(1 << 63) <= value < 1 << 63:
                add(_pack_int64(b"q", value))
            else:
                data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
                add(b"I" + bytes((len(data),)) + data)
        elif isinstance(value, float):
            add(_pack_double(b"d", value))
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            add(_pack_length(b"s", len(data)) + data)
        elif isinstance(value, bytes):
            add(_pack_length(b"y", len(value)) + value)
        else:
            add(_pack_length(b"t", len(value)))
            _write(value, parts)


def decode(data: bytes) -> list[Any]:
    """The values; CorruptionError if the bytes are not a sequence of them."""
    values: list[Any] = []
    position = 0
    try:
        while position < len(data):
            value, position = _read(data, position)
            values.append(value)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError):
        raise CorruptionError(f"stored group state is damaged at byte {position} of {len(data)}") from None
    return values


def _read(data: bytes, position: int) -> tuple[Any, int]:
    tag = data[position : position + 1]
    position += 1
    if tag == b"N":
        return None, position
    if tag in (b"T", b"F"):
        return tag == b"T", position
    if tag == b"b":
        return _int8.unpack_from(data, position)[0], position + 1
    if tag == b"q":
        return _int64.unpack_from(data, position)[0], position + 8
    if tag == b"d":
        return _double.unpack_from(data, position)[0], position + 8
    if tag == b"I":
        stop = position + 1 + data[position]
        return int.from_bytes(_cut(data, position + 1, stop), "little", signed=True), stop
    if tag in (b"s", b"y", b"t"):
        length = _length.unpack_from(data, position)[0]
        position += 4
        if tag == b"t":
            items = []
            for _ in range(length):
                item, position = _read(data, position)
                items.append(item)
            return tuple(items), position
        part = _cut(data, position, position + length)
        return (part.decode("utf-8", "surrogatepass") if tag == b"s" else part), position + length
    raise IndexError(position)


def _cut(data: bytes, start: int, stop: int) -> bytes:
    if stop > len(data):
        raise IndexError(stop)
    return data[start:stop]
