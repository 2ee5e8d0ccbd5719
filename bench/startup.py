"""What does a short program pay? Import, open, append one event, close, as a whole process; against sqlite3.

And what does one hold that appends dicts and reads its events back: which libraries it loads, its resident memory.

python -m bench startup [rounds]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import Report, median, scratch, show_s, take_turns

ROUNDS = 15
OURS = """
import eventdb
db = eventdb.open({path!r})
t = db.create_topic("readings", {{"ts": "TIMESTAMP", "device": "VARCHAR", "status": "VARCHAR", "temp": "DOUBLE",
                                  "humidity": "DOUBLE", "count": "BIGINT"}}, if_not_exists=True)
t.append({{"ts": 1704067200000000, "device": "d", "status": "ok", "temp": 20.5, "humidity": 40.0, "count": 1}})
db.close()
"""
SQLITE = """
import sqlite3
db = sqlite3.connect({path!r}, isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS readings "
           "(ts INTEGER, device TEXT, status TEXT, temp REAL, humidity REAL, count INTEGER)")
db.execute("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?)", (1704067200000000, "d", "ok", 20.5, 40.0, 1))
db.close()
"""
PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(line.split()[1])
"""
READ_BACK = OURS.replace(
    "db.close()",
    """
t.append_many([{{"ts": 1704067200000000 + n, "device": f"d{{n % 9}}", "status": "ok", "temp": 20.5, "humidity": None,
                 "count": n}} for n in range(1000)])
assert sum(event["count"] for event in t.read(-1000)) == 499500
import sys
kept = sorted({{name.partition(".")[0] for name, module in sys.modules.items()
               if "-packages" in (getattr(module, "__file__", None) or "")}} - BEFORE)
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        print(line.split()[1], *kept)
db.close()""",
)
BEFORE = """
import sys
BEFORE = {{name.partition(".")[0] for name, module in sys.modules.items()
          if "-packages" in (getattr(module, "__file__", None) or "")}}
"""
INSIDE = """
import time
started = time.perf_counter()
{code}
print(time.perf_counter() - started)
"""
ALLOWED = {"apsw", "lmdb", "eventdb"}  # eventdb: where it is not installed for development
MAX_RESIDENT_MB = 20
MAX_INSIDE_S = 0.060
MODULES = """
import sys
heavy = ("numpy", "pyarrow", "numba", "sqlglot", "dataclasses", "inspect", "asyncio", "logging")
print(" ".join(name for name in heavy if name in sys.modules))
"""


# Compiled modules are kept, as in any installation; some shells forbid writing them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return done.stdout.strip()


def _timed(code: str) -> float:
    started = time.perf_counter()
    _process(code)
    return time.perf_counter() - started


def startup(work: Path, rounds: int) -> Report:
    serial = iter(range(1_000_000))

    def fresh(code: str) -> Callable[[], float]:
        return lambda: _timed(code.format(path=str(work / f"new-{next(serial)}")))

    def existing(code: str, name: str) -> Callable[[], float]:
        text = code.format(path=str(work / name))
        _process(text)
        return lambda: _timed(text)

    values = take_turns(
        {
            "python": lambda: _timed("pass"),
            "ours new": fresh(OURS),
            "sqlite new": fresh(SQLITE),
            "ours": existing(OURS, "ours"),
            "sqlite": existing(SQLITE, "lite.db"),
            "ours import": lambda: _timed("import eventdb; eventdb.open"),
        },
        rounds,
    )
    seconds = {name: median(found) for name, found in values.items()}
    report = Report("A whole process: import, open, append one event durably, close")
    for what, suffix in (("existing database", ""), ("new database", " new")):
        ours, theirs = seconds[f"ours{suffix}"], seconds[f"sqlite{suffix}"]
        report.add(
            what,
            f"{show_s(ours)} against {show_s(theirs)}",
            f"{ours / theirs:.2f}x sqlite3",
            "<= 3x",
            ours <= 3 * theirs,
        )
    peaks = {name: int(_process(code.format(path=str(work / name)) + PEAK)) / 1024
             for name, code in (("ours", OURS), ("lite.db", SQLITE))}  # fmt: skip
    report.add(
        "peak memory", f"{peaks['ours']:.1f} MB against {peaks['lite.db']:.1f} MB", "", "< 30 MB", peaks["ours"] < 30
    )
    new = _process(OURS.format(path=str(work / "peak-new")) + PEAK)
    report.add("peak memory, new database", f"{int(new) / 1024:.1f} MB", "", "< 30 MB", int(new) / 1024 < 30)
    report.note(
        f"python alone {show_s(seconds['python'])}; import eventdb and its open {show_s(seconds['ours import'])}"
    )
    loaded = _process(OURS.format(path=str(work / "ours")) + MODULES)
    report.note(f"heavy modules loaded: {loaded or 'none'}")
    return report


def footprint(work: Path, rounds: int) -> Report:
    """The process that only appends dicts and reads events back, and the time of its import, open, append and close."""
    report = Report("A process that appends dicts and reads them back")
    found = _process((BEFORE + READ_BACK).format(path=str(work / "footprint"))).split()
    resident_mb, loaded = int(found[0]) / 1024, set(found[1:])
    bare_mb = int(_process(PEAK)) / 1024
    report.add("resident memory", f"{resident_mb:.1f} MB", f"python alone {bare_mb:.1f} MB", f"<= {MAX_RESIDENT_MB} MB",
               resident_mb <= MAX_RESIDENT_MB)  # fmt: skip
    report.add("libraries loaded", ", ".join(sorted(loaded)), "", "apsw, lmdb alone", loaded <= ALLOWED)
    serial = iter(range(1_000_000))

    def inside(name: str) -> Callable[[], float]:
        return lambda: float(_process(INSIDE.format(code=OURS.format(path=str(work / (name or f"in-{next(serial)}"))))))

    inside("existing")()
    seconds = take_turns({"existing": inside("existing"), "new": inside("")}, rounds)
    for what, values in seconds.items():
        taken = median(values)
        report.add(f"import, open, append, close, {what} database", show_s(taken), "", f"<= {show_s(MAX_INSIDE_S)}",
                   taken <= MAX_INSIDE_S)  # fmt: skip
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the reports; the number of bars missed."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    missed = 0
    for question in (startup, footprint):
        with scratch() as work:
            report = question(work, rounds)
        report.show()
        missed += report.missed()
    return missed
