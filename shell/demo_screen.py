"""What the demo shows while events arrive: a block redrawn in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import datetime as dt
import io
import shutil
from collections.abc import Sequence
from typing import Any

from .demo_process import percentile
from .render import MODES, Layout, shorten
from .streams import Streams

BAR_CELLS = 30
MIN_COLUMNS, MIN_LINES = 60, 20  # a smaller terminal gets plain lines: what wraps or scrolls cannot be redrawn
Alarm = tuple[int, str, dt.datetime, float]


class Screen:
    """`plain` prints lines; otherwise the live block replaces itself. `pause_s` is the time between two looks."""

    def __init__(self, streams: Streams, plain: bool) -> None:
        self._out = streams.stdout
        size = shutil.get_terminal_size()
        self._plain = plain = plain or size.columns < MIN_COLUMNS or size.lines < MIN_LINES
        self._lines_drawn = 0
        self._last_day: dt.date | None = None
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self.unicode = encoding.lower().replace("-", "").startswith("utf")
        self.width = 0 if plain else size.columns
        self.pause_s = 0.05 if plain else 0.2

    def title(self, title: str, text: str) -> None:
        """Begin a chapter."""
        bold, normal = ("", "") if self._plain else ("\x1b[1m", "\x1b[0m")
        self._out.write(f"\n{bold}{title}{normal}{': ' + text if text else ''}\n")
        self._out.flush()

    def code(self, line: str) -> str:
        return line if self._plain else f"\x1b[36m{line}\x1b[0m"

    def wants(self, at: dt.datetime) -> bool:
        """Whether event time `at` is worth showing: any on a terminal, noon of every fifth day in plain lines."""
        if not self._plain:
            return True
        return at.hour >= 12 and (self._last_day is None or at.date() >= self._last_day + dt.timedelta(days=5))

    def draw(
        self,
        *,
        at: dt.datetime,
        share: float,
        appended: int,
        names: Sequence[str],
        types: Sequence[str],
        rows: Sequence[Sequence[Any]],
        alarms: Sequence[Alarm],
        latencies: Sequence[float],
    ) -> None:
        """Show one moment: event time `at`, `share` of the replay done, the newest rows of the view."""
        self._last_day = at.date()
        if self._plain:
            self._draw_line(at, appended, rows, alarms, latencies)
            return
        table = io.StringIO()
        MODES["table"](names, types, rows, table, Layout(width=self.width, ascii=not self.unicode))
        full = int(share * BAR_CELLS)
        lines = [
            f"   {at:%Y-%m-%d %H:%M} UTC  [{'#' * full}{'.' * (BAR_CELLS - full)}] {share:4.0%}  {appended:,} events",
            *table.getvalue().splitlines()[:-1],
            f"   freezing alarms: {len(alarms):,}   {describe_alarm(alarms)}",
            f"   append -> alarm: {describe_latencies(latencies)}",
        ]
        up = f"\x1b[{self._lines_drawn}A" if self._lines_drawn else ""
        self._out.write(up + "".join(f"\r{shorten(line, self.width)}\x1b[K\n" for line in lines))
        self._lines_drawn = len(lines)
        self._out.flush()

    def leave(self) -> None:
        """Leave the live block where it is; the next one begins below."""
        self._lines_drawn = 0

    def _draw_line(
        self,
        at: dt.datetime,
        appended: int,
        rows: Sequence[Sequence[Any]],
        alarms: Sequence[Alarm],
        latencies: Sequence[float],
    ) -> None:
        """One line: mean temperatures of the day and what has been seen."""
        means = "  ".join(f"{row[0]} {row[4]}" for row in rows)
        self._out.write(
            f"   {at:%Y-%m-%d %H:%M}  {appended:,} events  mean temp {means}  {len(alarms)} freezing alarms"
            f"  {describe_latencies(latencies)}\n"
        )
        self._out.flush()


def describe_alarm(alarms: Sequence[Alarm]) -> str:
    """The newest alarm in words, empty before the first."""
    if not alarms:
        return ""
    _, station, at, temp = alarms[-1]
    return f"last: {station} {at:%Y-%m-%d %H:%M} {temp} F"


def describe_latencies(latencies: Sequence[float]) -> str:
    """Ordered latencies in us, in words; they are none before the first alarm of this run."""
    if not latencies:
        return "none yet"
    return f"p50 {percentile(latencies, 0.5):,.0f} us, p99 {percentile(latencies, 0.99):,.0f} us"
