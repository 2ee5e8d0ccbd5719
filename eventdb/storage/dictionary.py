"""The dictionary of one VARCHAR column of a topic, as this process knows it: values in code order and the way back.

The index holds the truth. A code is published here only after the commit that gave it, so a reader never meets a value
that an aborted commit made up.
"""

from __future__ import annotations

import threading

from eventdb.errors import CorruptionError
from eventdb.storage.format import DICTIONARY_KEY, DICTIONARY_MAX_BYTES, DICTIONARY_VALUE_BYTES, dictionary_key
from eventdb.storage.kv import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        """Every code the transaction can see is known. One seek if nothing is new."""
        with self._lock:
            prefix = dictionary_key(self.topic_id, self.column, 0)[:-4]
            for key, value in scan(txn, prefix, dictionary_key(self.topic_id, self.column, len(self.values))):
                if DICTIONARY_KEY.unpack(key)[3] != len(self.values):
                    raise CorruptionError(
                        f"dictionary of topic {self.topic_id} column {self.column}: code {len(self.values)} is missing"
                    )
                self._add(value.decode("utf-8", "surrogatepass"), len(value))

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


def is_short(value: str) -> bool:
    return len(value) <= DICTIONARY_VALUE_BYTES
