"""Progress of a long load: a redrawn bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

REDRAW_S = 0.1
PLAIN_EVERY_S = 5.0
BAR_CELLS = 24


def format_rate(per_second: float) -> str:
    """1.2M rows/s, 340k rows/s, 87 rows/s."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if per_second >= size:
            value = per_second / size
            return f"{value:.1f}{unit} rows/s" if value < 10 else f"{value:.0f}{unit} rows/s"
    return f"{per_second:.0f} rows/s"


def format_left(seconds: float) -> str:
    """0:07, 2:05, 1:00:00."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Call `advance` with the rows committed so far; `finish` leaves the terminal clean.

    `total` is the expected number of rows (it may be an estimate), None if unknown: then no bar and no time left.
    `clock` returns seconds and is replaced by tests.
    """

    def __init__(self, out: TextIO, total: int | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._out = out
        self._total = total
        self._clock = clock
        self._started = clock()
        self._drawn_at = self._started
        self._bar = out.isatty()
        self._drawn = False
        self.rows = 0

    @property
    def elapsed_s(self) -> float:
        return max(self._clock() - self._started, 1e-9)

    def advance(self, rows: int) -> None:
        """`rows` are done in all; draws when enough time has passed."""
        self.rows = rows
        now = self._clock()
        if now - self._drawn_at < (REDRAW_S if self._bar else PLAIN_EVERY_S):
            return
        self._drawn_at = now
        if self._bar:
            width = shutil.get_terminal_size().columns
            self._out.write("\r" + self.line()[: width - 1] + "\x1b[K")
            self._drawn = True
        else:
            self._out.write(self.line(bar=False) + "\n")
        self._out.flush()

    def line(self, bar: bool = True) -> str:
        """The state as one line."""
        rate = self.rows / self.elapsed_s
        text = f"{self.rows:,} rows  {format_rate(rate)}"
        if not self._total or self.rows > self._total:
            return text
        share = self.rows / self._total
        left = (self._total - self.rows) / rate if rate else 0.0
        full = int(share * BAR_CELLS)
        drawn = f"[{'#' * full}{'.' * (BAR_CELLS - full)}] " if bar else ""
        return f"{drawn}{share:4.0%}  {text}  {format_left(left)} left"

    def finish(self) -> None:
        """Remove the bar."""
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()
