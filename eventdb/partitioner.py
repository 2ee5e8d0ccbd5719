"""Which partition a key belongs to: Kafka's default partitioner, so that both agree on every key.

partition = (murmur2(key bytes) & 0x7fffffff) % partitions, where the key bytes are those of Kafka's serializers: the
UTF-8 of a VARCHAR, the bytes of a BLOB, big-endian two's complement of SMALLINT (2 bytes), INTEGER and DATE (4: days),
BIGINT, TIMESTAMP (8: microseconds) and DECIMAL (8, of more than 18 digits 16: the unscaled number), big-endian IEEE of
FLOAT and DOUBLE, one byte of BOOLEAN (0 or 1) and TINYINT. Keys that compare equal give equal bytes: -0.0 hashes as
0.0, every NaN as one NaN.
"""

from __future__ import annotations

import struct

from eventdb.errors import UsageError
from eventdb.wide_decimals import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.batch import Array, Column
    from eventdb.schema import DataType

MAX_PARTITIONS = 4_096
KNOWN_KEYS = 65_536  # keys whose partition is kept; beyond it they are forgotten and hashed again
_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF
_FORMATS = {
    "TINYINT": ">b", "SMALLINT": ">h", "INTEGER": ">i", "DATE": ">i", "BIGINT": ">q", "TIMESTAMP": ">q",
    "DECIMAL": ">q", "FLOAT": ">f", "DOUBLE": ">d", "BOOLEAN": ">?",
}  # fmt: skip


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 of the bytes, as an unsigned 32-bit number."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = k * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    rest = length - whole
    if rest:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def key_bytes(type: DataType) -> Callable[[Any], bytes]:
    """Physical value of a key column -> the bytes that are hashed."""
    if type.name == "VARCHAR":
        return lambda value: value.encode("utf-8", "surrogatepass")
    if type.name == "BLOB":
        return bytes
    if type.is_wide:
        return lambda value: unpack(value).to_bytes(16, "big", signed=True)
    packer = struct.Struct(_FORMATS[type.name])
    if type.is_float:
        return lambda value: packer.pack(value + 0.0 if value == value else float("nan"))
    return packer.pack


class Partitioner:
    """The partition of a key, for `count` partitions. Threads may share it."""

    __slots__ = ("_bytes_of", "_known", "count", "type")

    def __init__(self, type: DataType, count: int) -> None:
        self.type = type
        self.count = count
        self._bytes_of = key_bytes(type)
        self._known: dict[Any, int] = {}

    def of(self, key: Any) -> int:
        """The partition of a physical value that is not NULL."""
        found = self._known.get(key)
        if found is None:
            found = (murmur2(self._bytes_of(key)) & 0x7FFFFFFF) % self.count
            if len(self._known) >= KNOWN_KEYS:
                self._known = {}
            self._known[key] = found
        return found

    def of_column(self, column: Column) -> Array:
        """The int64 partition of every row; -1 where the key is NULL."""
        import numpy as np

        if column.dictionary is None:
            dtype = np.dtype(_FORMATS[self.type.name])
            values = column.values
            if self.type.is_float:
                values = np.where(np.isnan(values), np.nan, values + 0.0)
            wide = np.ascontiguousarray(values.astype(dtype)).view(np.uint8).reshape(len(values), dtype.itemsize)
            found = self._fold(_murmur2_rows(wide))
        else:
            used = column.values if column.validity is None else column.values[column.validity]
            seen = np.zeros(max(1, len(column.dictionary)), dtype=bool)
            seen[used] = True
            codes = np.flatnonzero(seen)
            table = np.zeros(len(seen), dtype=np.int64)
            keys = column.dictionary.values
            if len(used):
                table[codes] = self._fold(murmur2_many([self._bytes_of(keys[code]) for code in codes.tolist()]))
            found = table[np.minimum(column.values, len(table) - 1)]
        return found if column.validity is None else np.where(column.validity, found, -1)

    def _fold(self, hashes: Array) -> Array:
        import numpy as np

        return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % self.count


def murmur2_many(keys: Sequence[bytes]) -> Array:
    """murmur2 of every key, as uint32: keys of one length are hashed together."""
    import numpy as np

    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    found = np.empty(len(keys), dtype=np.uint32)
    for length in np.unique(lengths).tolist():
        positions = np.flatnonzero(lengths == length)
        joined = b"".join([keys[i] for i in positions.tolist()])
        found[positions] = _murmur2_rows(np.frombuffer(joined, dtype=np.uint8).reshape(len(positions), length))
    return found


def _murmur2_rows(rows: Array) -> Array:
    """murmur2 of each row of a uint8 matrix."""
    import numpy as np

    count, length = rows.shape
    m = np.uint32(_M)
    h = np.full(count, _SEED ^ length, dtype=np.uint32)
    whole = length & ~3
    words = np.ascontiguousarray(rows[:, :whole]).view("<u4") if whole else None
    for i in range(whole // 4):
        assert words is not None
        k = words[:, i] * m
        k = (k ^ (k >> np.uint32(24))) * m
        h = (h * m) ^ k
    if whole < length:
        tail = np.zeros(count, dtype=np.uint32)
        for i in range(whole, length):
            tail |= rows[:, i].astype(np.uint32) << np.uint32(8 * (i - whole))
        h = (h ^ tail) * m
    h = (h ^ (h >> np.uint32(13))) * m
    return h ^ (h >> np.uint32(15))


def check_partition(partition: object, count: int, topic: str) -> int:
    """The explicit partition, if the topic has it; UsageError naming the range otherwise."""
    if isinstance(partition, bool) or not isinstance(partition, int) or not 0 <= partition < count:
        raise UsageError(f"topic {topic!r} has partitions 0 to {count - 1}, not {partition!r}")
    return partition
