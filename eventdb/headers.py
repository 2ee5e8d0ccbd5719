"""Headers of an event: ordered (name, value) pairs as Kafka has them; a name may repeat, a value is bytes or None.

A topic's headers lie in a log of their own beside each partition, one row for each event that has any (`HEADERS`), and
are appended in the same commit: topics and events without headers pay nothing.
"""

from __future__ import annotations

import struct

from eventdb.config import MAX_VALUE_BYTES
from eventdb.errors import CorruptionError, UsageError
from eventdb.schema import BIGINT, BLOB, Field, Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    Headers: TypeAlias = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]]
    Pairs: TypeAlias = tuple[tuple[str, bytes | None], ...]

HEADERS = Schema([Field("event_offset", BIGINT, nullable=False), Field("headers", BLOB, nullable=False)])
BESIDE = 0x8000  # added to a partition's number: where its headers lie
_PART = struct.Struct("<Hi")  # name bytes, value bytes or -1; then name, value


def encode_headers(headers: Headers) -> bytes:
    """The stored form, b'' for none. UsageError names what is not a header."""
    pairs = headers.items() if hasattr(headers, "items") else headers
    parts: list[bytes] = []
    try:
        listed = [(name, value) for name, value in pairs]
    except (TypeError, ValueError):
        raise UsageError(
            f"headers is a dict of str to bytes or None, or a list of such pairs, not {headers!r:.80}"
        ) from None
    for name, value in listed:
        if not isinstance(name, str) or not (value is None or isinstance(value, bytes | bytearray | memoryview)):
            raise UsageError(f"a header is a str name and a bytes value or None, not {name!r:.40}: {value!r:.40}")
        try:
            key = name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"header name {name!r:.40} holds a lone surrogate, which has no UTF-8 form") from None
        if len(key) > 0xFFFF:
            raise UsageError(f"a header name has at most 65535 bytes, not {len(key)}")
        data = b"" if value is None else bytes(value)
        parts += (_PART.pack(len(key), -1 if value is None else len(data)), key, data)
    found = b"".join(parts)
    if len(found) > MAX_VALUE_BYTES:
        raise UsageError(f"the headers of an event have at most {MAX_VALUE_BYTES} bytes, not {len(found)}")
    return found


def decode_headers(data: bytes) -> Pairs:
    """The pairs of a stored form."""
    found: list[tuple[str, bytes | None]] = []
    at = 0
    try:
        while at < len(data):
            name_bytes, value_bytes = _PART.unpack_from(data, at)
            at += _PART.size
            name = data[at : at + name_bytes].decode()
            at += name_bytes
            value = None if value_bytes < 0 else data[at : at + value_bytes]
            at += max(value_bytes, 0)
            found.append((name, value))
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptionError(f"stored headers cannot be read: {error}") from error
    return tuple(found)


def headers_text(data: bytes) -> str:
    """The JSON text of a stored form: an array of [name, value] pairs. A value is its UTF-8 text; one that is no text,
    or begins with a backslash and 'x', is written as PostgreSQL writes bytea: \\x and hexadecimal digits."""
    import json

    return json.dumps([[name, _value_text(value)] for name, value in decode_headers(data)], ensure_ascii=False)


def _value_text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "\\x" + value.hex()
    return "\\x" + value.hex() if text.startswith("\\x") else text
