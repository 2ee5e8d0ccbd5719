"""The key of a table's row: its values as bytes, and where the index keeps the offset of the row that has it now.

Bytes of different keys differ, and they sort as the values do. A key too long for the index is kept under its digest,
with the offsets of all rows whose keys have that digest: whoever looks for one compares the rows.
"""

from __future__ import annotations

import struct

from eventdb.storage.format import KEY_DIGEST, KEY_LIMIT_BYTES, KEY_WHOLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.schema import Schema

_ENCODERS: dict[tuple[str, ...], Callable[[Sequence[Any]], bytes]] = {}
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def key_encoder(schema: Schema, positions: Sequence[int]) -> Callable[[Sequence[Any]], bytes]:
    """encode(values of the key columns, physical, none of them None) -> bytes."""
    names = tuple(schema.fields[i].type.stored_name for i in positions)
    found = _ENCODERS.get(names)
    if found is None:
        parts = [_part(name) for name in names]
        if len(parts) == 1:
            (only,) = parts

            def found(values: Sequence[Any]) -> bytes:
                return only(values[0])
        else:

            def found(values: Sequence[Any]) -> bytes:
                return b"".join([part(value) for part, value in zip(parts, values, strict=True)])

        _ENCODERS[names] = found
    return found


def row_key_encoder(schema: Schema, positions: Sequence[int]) -> Callable[[Sequence[Any]], bytes]:
    """encode(values of a row, physical, none of those at the positions None) -> bytes of its key."""
    encode = key_encoder(schema, positions)
    if len(positions) > 1:
        return lambda row: encode([row[i] for i in positions])
    (at,) = positions
    part = _part(schema.fields[at].type.stored_name)
    return lambda row: part(row[at])


def _part(name: str) -> Callable[[Any], bytes]:
    """Encodes a value of a type."""
    return _PARTS.get(name, _integer)


def _integer(value: int) -> bytes:
    return (value + _SIGN).to_bytes(8, "big")


def _double(value: float) -> bytes:
    if value != value:
        return b"\xff" * 8  # every NaN is one key, after all numbers
    (bits,) = struct.unpack("<Q", struct.pack("<d", value + 0.0))  # -0.0 equals 0.0
    return (bits ^ (_ALL if bits & _SIGN else _SIGN)).to_bytes(8, "big")  # type: ignore[no-any-return]


def _float(value: float) -> bytes:
    return _double(struct.unpack("<f", struct.pack("<f", value))[0])


def _blob(value: bytes) -> bytes:
    return value.replace(b"\0", b"\0\xff") + b"\0\0"


def _text(value: str) -> bytes:
    return _blob(value.encode("utf-8", "surrogatepass"))


_PARTS: dict[str, Callable[[Any], bytes]] = {"VARCHAR": _text, "BLOB": _blob, "FLOAT": _float, "DOUBLE": _double}


def _digest(key: bytes) -> bytes:
    from hashlib import blake2b

    return blake2b(key, digest_size=32).digest()


def index_key(prefix: bytes, key: bytes) -> bytes:
    """The index key of an encoded key."""
    return prefix + (KEY_WHOLE + key if len(key) <= KEY_LIMIT_BYTES else KEY_DIGEST + _digest(key))


def is_digest(found: bytes, prefix: bytes) -> bool:
    """Whether an index key stands for every key of its digest."""
    return found[len(prefix) : len(prefix) + 1] == KEY_DIGEST
