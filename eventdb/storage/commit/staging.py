"""Rows on their way into a segment: what a transaction has placed so far, and values as the bytes that are stored."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate, chain

from eventdb.config import MAX_VALUE_BYTES
from eventdb.errors import SchemaMismatch
from eventdb.storage.segment.log import PartitionLog, PartitionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.commit.checksum import Checksum
    from eventdb.storage.segment.layout import ColumnLayout
    from eventdb.storage.segment.segment import Segment


_NONE = type(None)


class Staged:
    """What one transaction has appended to one log so far. Rows are in the segment, past the committed end."""

    __slots__ = ("checksums", "chunks", "created", "log", "moved", "pending", "segment", "state", "zeroed")

    def __init__(self, log: PartitionLog, pending: dict[int, dict[str, int]]) -> None:
        self.log = log
        self.state: PartitionState = log.state.copy()
        self.segment: Segment | None = log.segment
        self.zeroed: Segment | None = None  # made by this transaction, and nothing was ever stored in it
        self.chunks: list[tuple[Segment, int, int]] = []  # segment, first row, rows
        self.created: dict[int, tuple[Segment, bytes]] = {}  # by base
        self.pending = pending  # shared by the partitions of a topic, as their dictionaries are
        self.moved = False  # the log's start or active segment, by retention
        self.checksums: dict[tuple[int, int, int], Checksum] = {}  # by segment base, first row, rows; of large parts

    def room(self) -> int:
        segment = self.segment
        return 0 if segment is None else segment.layout.capacity - (self.state.log_end - segment.base)

    def note_range(self, low: int, high: int) -> None:
        """Event times of rows that were stored lie between these."""
        state = self.state
        state.min_time = min(state.min_time, low)
        state.max_time = max(state.max_time, high)

    def add(self, row: int, count: int) -> None:
        assert self.segment is not None
        if self.chunks and self.chunks[-1][0] is self.segment:
            segment, first, before = self.chunks[-1]
            self.chunks[-1] = (segment, first, before + count)
        else:
            self.chunks.append((self.segment, row, count))
        self.state.log_end += count


class PlainValues:
    """Values on their way to a heap: their bytes, where each ends if they lie one after another, and whether some are
    None, which has no bytes."""

    __slots__ = ("ends", "has_none", "pieces")

    def __init__(self, values: list[Any]) -> None:
        kinds = set(map(type, values))
        self.has_none = _NONE in kinds
        if kinds == {bytes}:
            self.pieces = values
        elif kinds == {str}:
            self.pieces = [value.encode("utf-8", "surrogatepass") for value in values]
        else:
            self.pieces = [
                b"" if v is None else v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v)
                for v in values
            ]
        sizes = list(map(len, self.pieces))
        self.ends = list(accumulate(sizes))
        if sizes and self.ends[-1] > MAX_VALUE_BYTES and max(sizes) > MAX_VALUE_BYTES:
            raise SchemaMismatch(f"a value of {max(sizes)} bytes exceeds the limit of {MAX_VALUE_BYTES}")

    def count_fitting(self, room_bytes: int) -> int:
        """How many, from the first on, fit the room."""
        return bisect_right(self.ends, room_bytes)

    def store(self, memory: memoryview, position: int, used: int, count: int) -> bytes:
        """The bytes of the first `count` lie in the heap at `position`, behind `used` bytes; where each ends in it."""
        data = b"".join(self.pieces if count == len(self.pieces) else self.pieces[:count])
        memory[position + used : position + used + len(data)] = data
        ends = array("q", accumulate(chain((used,), map(len, self.pieces[:count]))))
        return memoryview(ends)[1:].tobytes()


def pack_values(code: str, values: list[Any], name: str) -> bytes:
    try:
        return bytes(map(bool, values)) if code == "?" else array(code, values).tobytes()
    except (TypeError, OverflowError, ValueError) as error:
        raise SchemaMismatch(f"column {name!r}: {error}", column=name) from error


def null_flags(values: list[Any]) -> bytes:
    """A byte a value, 1 where it is None; nothing if none is."""
    flags = bytes([v is None for v in values])
    return flags if 1 in flags else b""


def pack_nullable(column: ColumnLayout, stored: list[Any], values: list[Any], name: str) -> tuple[bytes, bytes]:
    """The bytes of a column that is not plain, and its null_flags. `stored` is the codes of a coded column."""
    code = column.struct_code
    if column.coded:
        return array(code, stored).tobytes(), null_flags(values) if 0 in stored else b""  # None has code 0
    if code != "?":
        try:
            return array(code, stored).tobytes(), b""  # which no None passes: the common case needs no other look
        except (TypeError, OverflowError, ValueError):
            pass  # a None, or what pack_values names
    nulls = null_flags(values)
    return pack_values(code, [0 if v is None else v for v in values] if nulls else values, name), nulls
