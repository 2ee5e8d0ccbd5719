"""Memory for decoded arrays, used again: fresh half megabytes cost 128 page faults each, several times their decoding.

An array from `Buffers.empty` is the caller's. When its last view is gone, the memory waits for the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from eventdb.batch import Array

LEAST_BYTES = 1 << 16  # smaller arrays come out of memory that the process has anyhow
MOST_BYTES = 1 << 24

_Memory = tuple[Any, int]  # a uint8 array and its address


class Buffers:
    """`room_bytes()` says how much memory may wait. For all threads; it takes no lock but its own, because an array may
    go while any lock is held, this one included."""

    def __init__(self, room_bytes: Callable[[], int]) -> None:
        self.room_bytes = room_bytes
        self.idle_bytes = 0
        self._lock = threading.RLock()
        self._idle: dict[int, list[_Memory]] = {}
        size = LEAST_BYTES
        while size <= MOST_BYTES:
            self._idle[size] = []
            size *= 2

    def empty(self, count: int, dtype: np.dtype[Any]) -> Array:
        """A writable array of `count` values, whatever they are."""
        size = count * dtype.itemsize
        if not LEAST_BYTES <= size <= MOST_BYTES:
            return np.empty(count, dtype)
        room = 1 << (size - 1).bit_length()
        with self._lock:
            waiting = self._idle[room]
            memory = waiting.pop() if waiting else None
            if memory is not None:
                self.idle_bytes -= room
        if memory is None:
            fresh = np.empty(room, np.uint8)
            memory = fresh, fresh.ctypes.data
        return np.asarray(_Loan(self, memory, count, dtype))

    def give_back(self, memory: _Memory) -> None:
        size = memory[0].nbytes
        with self._lock:
            if self.idle_bytes + size <= self.room_bytes():
                self._idle[size].append(memory)
                self.idle_bytes += size


class _Loan:
    """What the array and all its views hold: its end is the end of the last of them."""

    __slots__ = ("__array_interface__", "_memory", "_owner")

    def __init__(self, owner: Buffers, memory: _Memory, count: int, dtype: np.dtype[Any]) -> None:
        self._owner = owner
        self._memory = memory
        self.__array_interface__ = {
            "version": 3, "shape": (count,), "typestr": dtype.str, "data": (memory[1], False),
        }  # fmt: skip

    def __del__(self) -> None:
        self._owner.give_back(self._memory)


BUFFERS = Buffers(lambda: 0)  # blocks.py says how much memory may wait
