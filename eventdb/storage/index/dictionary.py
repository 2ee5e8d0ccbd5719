"""The dictionary of one VARCHAR column of a topic, as this process knows it: values in code order and the way back.

The index holds the truth. A code is published here only after the commit that gave it, so a reader never meets a value
that an aborted commit made up.
"""

from __future__ import annotations

import threading
import zlib

from eventdb.errors import CorruptionError
from eventdb.storage.format import (
    CHUNK,
    CHUNK_BYTES,
    CHUNK_BZ2,
    CHUNK_BZ2_BYTES,
    CHUNK_BZ2_CODES,
    CHUNK_JOINT,
    CHUNK_LEAST_VALUES,
    CHUNK_ZLIB,
    DICTIONARY_KEY,
    DICTIONARY_MAX_BYTES,
    DICTIONARY_VALUE_BYTES,
    chunk_key,
    dictionary_key,
)
from eventdb.storage.index.kv import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class DictionaryCache:
    """`values[code]` and `codes[value]`; `codes[None]` is 0, the code stored under a NULL. `values` only grows."""

    __slots__ = ("_lock", "_shared", "codes", "column", "topic_id", "value_bytes", "values")

    def __init__(self, topic_id: int, column: int) -> None:
        self.topic_id = topic_id
        self.column = column
        self.values: list[str] = []
        self.codes: dict[str | None, int] = {None: 0}
        self.value_bytes = 0
        self._shared: Any = None
        self._lock = threading.Lock()

    def refresh(self, txn: Any) -> None:
        """Every code the transaction can see is known. Two seeks if nothing is new."""
        with self._lock:
            more = True
            while more:
                known = len(self.values)
                more = self._read_chunks(txn)
                more |= self._read_singles(txn)
                if more and known == len(self.values):
                    raise CorruptionError(
                        f"dictionary of topic {self.topic_id} column {self.column}: code {known} is missing"
                    )

    def _read_singles(self, txn: Any) -> bool:
        """Whether there are more behind a gap, which chunks may fill."""
        prefix = dictionary_key(self.topic_id, self.column, 0)[:-4]
        for key, value in scan(txn, prefix, dictionary_key(self.topic_id, self.column, len(self.values))):
            if DICTIONARY_KEY.unpack(key)[3] != len(self.values):
                return True
            self._add(value.decode("utf-8", "surrogatepass"), len(value))
        return False

    def _read_chunks(self, txn: Any) -> bool:
        """Whether there are more behind a gap, which single values may fill."""
        prefix = chunk_key(self.topic_id, self.column, 0)[:-4]
        for key, value in scan(txn, prefix, chunk_key(self.topic_id, self.column, len(self.values))):
            known = len(self.values)
            first = DICTIONARY_KEY.unpack(key)[3] + 1 - CHUNK.unpack_from(value)[0]
            if first > known:
                return True
            for data in self._chunk_values(value)[known - first :]:
                self._add(data.decode("utf-8", "surrogatepass"), len(data))
        return False

    def _chunk_values(self, value: bytes) -> list[bytes]:
        count, size, codec = CHUNK.unpack_from(value)
        try:
            data = _decompress(value[CHUNK.size :], codec)
        except (OSError, ValueError, zlib.error):
            data = b""
        values = data.split(CHUNK_JOINT)
        if len(data) != size or len(values) != count:
            raise CorruptionError(
                f"dictionary of topic {self.topic_id} column {self.column}: a chunk of {count} values is damaged"
            )
        return values

    def publish(self, pending: dict[str, int]) -> None:
        """Codes given by a commit that has happened, in code order."""
        with self._lock:
            for value, code in pending.items():
                if code == len(self.values):
                    self._add(value, len(value))

    def _add(self, value: str, length: int) -> None:
        self.codes[value] = len(self.values)
        self.values.append(value)
        self.value_bytes += length

    def is_full(self, limit: int, more_values: int = 0, more_bytes: int = 0) -> bool:
        return len(self.values) + more_values > limit or self.value_bytes + more_bytes > DICTIONARY_MAX_BYTES

    def shared(self) -> Any:
        """The eventdb.batch.Dictionary over `values`, the same object at each call; never empty."""
        if self._shared is None:
            from eventdb.batch import Dictionary

            if not self.values:
                return Dictionary([""])  # every row is NULL: code 0 must be safe to read
            self._shared = Dictionary(self.values)
        return self._shared


def stored_values(topic_id: int, column: int, pending: dict[str, int]) -> Iterator[tuple[bytes, bytes]]:
    """The index entries of new values, in code order: one each, or compressed chunks of many."""
    if len(pending) < CHUNK_LEAST_VALUES:
        for text, code in pending.items():
            yield dictionary_key(topic_id, column, code), text.encode("utf-8", "surrogatepass")
        return
    parts: list[bytes] = []
    size = -1
    last = next(reversed(pending.values()))
    for text, code in pending.items():
        parts.append(text.encode("utf-8", "surrogatepass"))
        size += 1 + len(parts[-1])
        if size >= CHUNK_BYTES or code == last:
            codec = CHUNK_BZ2 if code < CHUNK_BZ2_CODES and size <= CHUNK_BZ2_BYTES else CHUNK_ZLIB
            head = CHUNK.pack(len(parts), size, codec)
            yield chunk_key(topic_id, column, code), head + _compress(CHUNK_JOINT.join(parts), codec)
            parts, size = [], -1


def _compress(data: bytes, codec: int) -> bytes:
    if codec == CHUNK_ZLIB:
        return zlib.compress(data)
    import bz2

    return bz2.compress(data, 2)  # in blocks of 200 kB


def _decompress(data: bytes, codec: int) -> bytes:
    if codec == CHUNK_ZLIB:
        return zlib.decompress(data)
    import bz2

    return bz2.decompress(data)


def has_code(txn: Any, topic_id: int, column: int, code: int) -> bool:
    """Whether the index has a value of that code."""
    if txn.get(dictionary_key(topic_id, column, code)) is not None:
        return True
    for key, value in scan(txn, chunk_key(topic_id, column, 0)[:-4], chunk_key(topic_id, column, code)):
        last = DICTIONARY_KEY.unpack(key)[3]
        return bool(last + 1 - CHUNK.unpack_from(value)[0] <= code)
    return False


def is_short(value: str) -> bool:
    return len(value) <= DICTIONARY_VALUE_BYTES
