"""What the maintainer of a view tells of it, for every process to see; once a second at most, beside its state.

::

    "v" view id "m"      Figures

It is not journaled: a power cut may set it back.
"""

from __future__ import annotations

import os
import time
from dataclasses import astuple, dataclass

from eventdb.errors import CorruptionError
from eventdb.physical.state_bytes import decode, encode
from eventdb.stream.state import Reading, StateKeys, Writing, view_prefix

LEAST_S = 1.0  # between two tellings
RECENT_US = 5_000_000  # rates are those of the last seconds, or 0


@dataclass(frozen=True, slots=True)
class Figures:
    """`input_rows` and `output_rows` since the view was created, rates in rows a second up to `at_us`. `restarts`: how
    often another process has taken over, or the state was loaded again after an error. `error` is what keeps the view
    from being maintained, '' for nothing."""

    process: int
    at_us: int
    input_rows: int = 0
    output_rows: int = 0
    input_rate: float = 0.0
    output_rate: float = 0.0
    state_rows: int = 0
    restarts: int = 0
    error: str = ""

    @staticmethod
    def of(store: Reading, view_id: int) -> Figures | None:
        """Those that were told last."""
        data = store.get(_key(view_id))
        if data is None:
            return None
        try:
            return Figures(*decode(data))
        except (ValueError, TypeError) as error:
            raise CorruptionError("the figures of a view do not decode") from error

    @property
    def is_recent(self) -> bool:
        return abs(time.time_ns() // 1000 - self.at_us) < RECENT_US


class Meter:
    """Counts what one view takes in and gives out in this process, and tells it. `taken` and `given` only grow."""

    def __init__(self, view_id: int) -> None:
        self.taken = self.given = self.restarts = 0
        self.error = ""
        self._view_id = view_id
        self._base: Figures | None = None
        self._told: tuple[int, int, int, str] | None = None
        self._told_s = 0.0

    def is_due(self) -> bool:
        """Whether there is something new to tell, and time to."""
        return self._told is None or (self._told != self._now() and time.monotonic() - self._told_s >= LEAST_S)

    def _now(self) -> tuple[int, int, int, str]:
        return self.taken, self.given, self.restarts, self.error

    def tell(self, store: Writing, state_rows: int) -> None:
        if StateKeys(self._view_id).is_dropped(store):
            return
        now_s, own = time.monotonic(), os.getpid()
        base = self._base
        if base is None:
            base = Figures.of(store, self._view_id) or Figures(own, 0)
            self.restarts += base.process != own
            self._base = base
        before, passed_s = self._told or (self.taken, self.given, 0, ""), now_s - self._told_s
        figures = Figures(
            own, time.time_ns() // 1000, base.input_rows + self.taken, base.output_rows + self.given,
            (self.taken - before[0]) / passed_s, (self.given - before[1]) / passed_s, state_rows,
            base.restarts + self.restarts, self.error,
        )  # fmt: skip
        store.put(_key(self._view_id), encode(astuple(figures)))
        self._told, self._told_s = self._now(), now_s


def _key(view_id: int) -> bytes:
    return view_prefix(view_id) + b"m"
