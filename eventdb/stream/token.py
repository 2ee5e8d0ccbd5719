"""Token: a short text that says how far the changes of a query were handed out, so that a later subscription goes on.

A token holds positions, no rows: who goes on from it computes the content there from rows that must still be there.
It is base64url of: state_bytes of (version, mark, begin, before, after, output, taken); CRC-32, 4 bytes little-endian.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import NamedTuple

from eventdb.errors import CorruptionError, InvalidToken
from eventdb.physical.state_bytes import decode, encode

Positions = tuple[tuple[int, ...], ...]
"""Per input, per partition, the offset of the next row."""

_VERSION = 1


class Place(NamedTuple):
    """Between two changes.

    All changes up to `before` (None: not even the content there) and the first `taken` of those from there to `after`
    were handed out. `begin`: the first rows that count, -1 where a stored view began. `output`, if not -1: how many
    rows of a view whose rows only come were handed out; that says it all.
    """

    begin: Positions
    before: Positions | None
    after: Positions
    output: int = -1
    taken: int = 0

    def partly(self, count: int) -> Place:
        """`count` changes later, in the batch up to `after`."""
        if self.output >= 0:
            return self._replace(output=self.output + count)
        return self._replace(taken=self.taken + count)

    def whole(self, count: int) -> Place:
        """Behind the batch up to `after`, of which `count` were left."""
        if self.output >= 0:
            return self._replace(output=self.output + count)
        return self._replace(before=self.after, taken=0)


def encode_token(mark: bytes, place: Place) -> str:
    """`mark`: a fingerprint of the query, 8 bytes."""
    data = encode((_VERSION, mark, place.begin, place.before, place.after, place.output, place.taken))
    return base64.urlsafe_b64encode(data + zlib.crc32(data).to_bytes(4, "little")).rstrip(b"=").decode()


def decode_token(text: str, mark: bytes) -> Place:
    """InvalidToken when it is none, or one of another query."""
    if not isinstance(text, str):
        raise InvalidToken(f"a token is what subscription.token gave, a string, not {type(text).__name__}")
    try:
        data = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if len(data) < 5 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ValueError
        version, found, begin, before, after, output, taken = decode(data[:-4])
    except (ValueError, binascii.Error, CorruptionError):
        raise InvalidToken(f"{text[:60]!r} is no token: pass what subscription.token gave, unchanged") from None
    if version != _VERSION:
        raise InvalidToken("the token was made by another version of EventDB: subscribe again with SNAPSHOT")
    if found != mark:
        raise InvalidToken(
            "the token is of another query, view or database, or the view was made anew: subscribe again with SNAPSHOT"
        )
    return Place(begin, before, after, output, taken)
