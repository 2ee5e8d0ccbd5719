"""BlockCache: decoded blocks that will be wanted again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventdb.batch import Array, Dictionary

SELDOM = 8
_SEEN_COUNT = 1 << 16
_Key = tuple[int, int, int]  # segment, column, block


class Decoded:
    """A decoded block. `dictionary` is set for plain columns: `values` are its codes."""

    __slots__ = ("dictionary", "size_bytes", "validity", "values")

    def __init__(self, values: Array, validity: Array | None, dictionary: Dictionary | None, size_bytes: int) -> None:
        self.values = values
        self.validity = validity
        self.dictionary = dictionary
        self.size_bytes = size_bytes


class BlockCache:
    """The blocks decoded last, at most `limit_bytes` of them. For all threads of the process.

    A block is kept when it is decoded for the second time: a scan that passes once keeps none, and its blocks are
    decoded into memory that the processor has at hand. If others have to go for it, only every SELDOM-th one is kept:
    who comes round again and again to more blocks than there is room for then finds most of what fits, not nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._blocks: OrderedDict[_Key, Decoded] = OrderedDict()
        self._seen: OrderedDict[_Key, None] = OrderedDict()  # decoded once of late, not kept
        self._turned_away = 0
        self._lock = threading.Lock()

    def get(self, key: _Key) -> Decoded | None:
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
            return found

    def get_all(self, keys: list[_Key]) -> list[Decoded | None]:
        """`get` each."""
        with self._lock:
            found = [self._blocks.get(key) for key in keys]
            for key, block in zip(keys, found, strict=True):
                if block is not None:
                    self._blocks.move_to_end(key)
            return found

    def put(self, key: _Key, block: Decoded, *, at_once: bool = False) -> None:
        """The block is kept if it was here before, or `at_once`, whatever has to go for it."""
        with self._lock:
            if key in self._blocks or block.size_bytes > self.limit_bytes:
                return
            if not at_once and key not in self._seen:
                self._note(key)
                return
            if not at_once and self.held_bytes + block.size_bytes > self.limit_bytes:
                self._turned_away += 1
                if self._turned_away % SELDOM:
                    return
            self._seen.pop(key, None)
            self._blocks[key] = block
            self.held_bytes += block.size_bytes
            while self.held_bytes > self.limit_bytes:
                _, oldest = self._blocks.popitem(last=False)
                self.held_bytes -= oldest.size_bytes
                del oldest  # now there is room for its memory to wait

    def room_bytes(self) -> int:
        return self.limit_bytes - self.held_bytes

    def is_worth_keeping(self, key: _Key, size_bytes: int) -> bool:
        """Whether the block was used before and there is room for it. Says for the next time that it is used now."""
        with self._lock:
            if key in self._seen and self.held_bytes + size_bytes <= self.limit_bytes:
                return True
            self._note(key)
            return False

    def _note(self, key: _Key) -> None:
        self._seen[key] = None
        if len(self._seen) > _SEEN_COUNT:
            self._seen.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self.held_bytes = 0
            self._blocks.clear()
            self._seen.clear()
