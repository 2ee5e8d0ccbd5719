"""Handles: what is closed with its database (producers, subscriptions, sessions)."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Handles(Generic[T]):
    """A set that keeps nothing alive. Threads may add and discard while another one goes over it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run inside
        self._held: weakref.WeakSet[T] = weakref.WeakSet()

    def add(self, handle: T) -> None:
        with self._lock:
            self._held.add(handle)

    def discard(self, handle: T) -> None:
        with self._lock:
            self._held.discard(handle)

    def __iter__(self) -> Iterator[T]:
        """Those that there are now."""
        with self._lock:
            return iter(list(self._held))
