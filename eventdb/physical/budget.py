"""MemoryBudget: what all queries of a database hold together; each knows the limit that all must keep (memory_limit).

An operator says what it holds through QueryContext.hold. One that can write rows to disk asks `may_hold` first and
spills when it has used its share; one that cannot is refused when the limit is passed.
"""

from __future__ import annotations

import threading


class MemoryBudget:
    """Bytes held by operators, of every running query. Threads may use it at the same time."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        return self._total

    def hold(self, owner: int, held_bytes: int) -> int:
        """`owner` holds so much now; returns what all hold together."""
        with self._lock:
            self._total += held_bytes - self._held.get(owner, 0)
            if held_bytes:
                self._held[owner] = held_bytes
            else:
                self._held.pop(owner, None)
            return self._total

    def others_bytes(self, owner: int) -> int:
        """What all but one hold."""
        with self._lock:
            return self._total - self._held.get(owner, 0)
