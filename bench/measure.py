"""How the benchmarks measure: contestants take turns within one run, medians are compared, every figure meets its bar.

Taking turns matters on a machine that others use too: a slow minute hits everybody.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROUNDS = 5


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk (not in memory, where a flush costs nothing) that is gone afterwards.

    EVENTDB_BENCH_DIR names another place for it than the current directory.
    """
    base = os.environ.get("EVENTDB_BENCH_DIR") or os.getcwd()
    path = Path(tempfile.mkdtemp(prefix=".bench-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection inside a measured stretch, for anybody."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def without_sealer() -> None:
    """From here on this process seals nothing but what it is asked to."""
    from eventdb.storage.sealed.sealer import Sealer

    Sealer.has_work = lambda self: False  # type: ignore[method-assign]
    Sealer.step_at_close = lambda self: None  # type: ignore[method-assign]


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    with quiet_collector():
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


def timed_each(work: Callable[[Any], object], items: Sequence[Any], into: list[float]) -> float:
    """Seconds of all calls, one an item; the seconds of each go into `into`."""
    clock = time.perf_counter
    with quiet_collector():
        started = before = clock()
        for item in items:
            work(item)
            after = clock()
            into.append(after - before)
            before = after
        return before - started


def take_turns(contestants: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Each contestant's measured values; all of them once per round, in an order drawn anew: what one leaves in the
    caches and the disk's queue falls on all others alike."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    draw = random.Random(7)
    for _ in range(rounds):
        for name in draw.sample(list(contestants), len(contestants)):
            values[name].append(contestants[name]())
    return values


@dataclass
class Line:
    """One figure: ours, theirs, a ratio and the bar it has to meet."""

    what: str
    value: str
    ratio: str = ""
    bar: str = ""
    met: bool | None = None


@dataclass
class Report:
    """What one benchmark answers."""

    question: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, value: str, ratio: str = "", bar: str = "", met: bool | None = None) -> None:
        self.lines.append(Line(what, value, ratio, bar, met))

    def faster(self, what: str, ours_s: float, theirs_s: float, at_least: float, peer: str) -> None:
        """A line that says how many times faster than the peer, and whether that is enough."""
        ratio = theirs_s / ours_s
        self.add(what, f"{show_s(ours_s)} against {show_s(theirs_s)}", f"{ratio:.2f}x {peer}", f">= {at_least:g}x",
                 ratio >= at_least)  # fmt: skip

    def note(self, text: str) -> None:
        self.notes.append(text)

    def show(self) -> None:
        words = {True: "met", False: "MISSED", None: ""}
        table = [("what", "median", "ratio", "bar", "")]
        table += [(line.what, line.value, line.ratio, line.bar, words[line.met]) for line in self.lines]
        widths = [max(len(row[i]) for row in table) for i in range(5)]
        print(self.question)
        for row in table:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for text in self.notes:
            print(f"  {text}")
        print(flush=True)

    def missed(self) -> int:
        return sum(line.met is False for line in self.lines)


def show_s(seconds: float) -> str:
    """A duration with a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def answer(questions: Mapping[str, Callable[[Path], Report]], names: Sequence[str]) -> int:
    """Prints the reports asked for, all of them if none is named; the number of bars missed."""
    unknown = [name for name in names if name not in questions]
    if unknown:
        raise SystemExit(f"no question {unknown[0]!r}; the questions are {', '.join(questions)}")
    missed = 0
    for name in names or questions:
        with scratch() as work:
            report = questions[name](work)
        report.show()
        missed += report.missed()
    return missed
