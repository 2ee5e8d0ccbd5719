"""Does a database that has lived long answer like a young one? Many events in thousands of segments.

    python -m bench long_life [--rows 5000000] [--segment-rows 20000] [--full]

One process appends batches of a segment each, with the sealer asleep, so that every segment stays. It times single
appends and looks at its memory early (a hundredth of the rows) and late. Another process opens the database and looks
up times and offsets; then the history is sealed, at full size, and a third process looks again. `--full`: 100M events.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eventdb
from bench.measure import Report, median, percentile, quiet_collector, scratch, show_s, without_sealer
from bench.startup import ENVIRONMENT

ROWS, FULL_ROWS = 5_000_000, 100_000_000
SEGMENT_ROWS = 20_000
SINGLE_ROWS = 5_000
LOOK_UPS = 200
COLUMNS = {"ts": "TIMESTAMP NOT NULL", "device": "VARCHAR NOT NULL", "temp": "DOUBLE NOT NULL"}
START_US, STEP_US = 1_704_067_200_000_000, 1_000
EPOCH = dt.datetime(1970, 1, 1)
OPEN_BAR_S, LOOK_BAR_S = 0.05, 0.001
FLAT, FLAT_BYTES = 1.5, 16 << 20  # late is early and half as much again; 16 MB more memory


def time_of(n: int) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=START_US + n * STEP_US)


def own_memory_bytes() -> int:
    """Of this process alone, without pages of mapped files, which the kernel takes back when it needs them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def single_appends(topic: Any, first: int) -> list[float]:
    """Seconds of each of SINGLE_ROWS appends."""
    seconds = []
    with quiet_collector():
        for n in range(first, first + SINGLE_ROWS):
            started = time.perf_counter()
            topic.append({"ts": time_of(n), "device": f"device-{n % 1_000}", "temp": n * 0.5})
            seconds.append(time.perf_counter() - started)
    return seconds


def small_segments(segment_rows: int) -> None:
    """In this process segments have at most so many rows, and nothing is sealed."""
    from eventdb.storage import transaction
    from eventdb.storage.segment import columns, segment

    for module in (columns, segment, transaction):
        module.MAX_SEGMENT_ROWS = segment_rows  # type: ignore[attr-defined]
    without_sealer()


def write(path: Path, rows: int, segment_rows: int) -> dict[str, Any]:
    """The history, and how appends fared early and late."""
    import numpy as np

    small_segments(segment_rows)
    names = np.array([f"device-{i}" for i in range(1_000)], dtype=object)
    found: dict[str, Any] = {}
    batches: list[float] = []
    n = 0
    with eventdb.open(path, durability="interval:100ms") as db:
        topic = db.create_topic("events", COLUMNS, key="device", event_time="ts")
        for when, end in (("early", rows // 100), ("late", rows)):
            while n < end:
                numbers = np.arange(n, n + segment_rows, dtype=np.int64)
                stamps = (START_US + numbers * STEP_US).view("M8[us]")
                table = {"ts": stamps, "device": names[numbers % 1_000], "temp": numbers * 0.5}
                started = time.perf_counter()
                topic.append_batch(table)
                batches.append(time.perf_counter() - started)
                n += segment_rows
            seconds = single_appends(topic, n)
            n += SINGLE_ROWS
            found[when] = {
                "p50": median(seconds), "p99": percentile(seconds, 0.99), "memory": own_memory_bytes(),
                "batch": median(batches[-50:]),
            }  # fmt: skip
    return {**found, "rows": n, "segments": len(list(path.glob("topics/*/0/*.seg")))}


def seal(path: Path, rows: int, segment_rows: int) -> dict[str, Any]:
    with eventdb.open(path) as db:
        db.compact()
    return {"segments": len(list(path.glob("topics/*/0/*.col")))}


def look(path: Path, rows: int, segment_rows: int) -> dict[str, Any]:
    """Seconds of opening, of the first look-up of each kind and of the median one. `rows` are all there are."""
    small_segments(segment_rows)
    draw = random.Random(7)

    def by_offset(n: int) -> Any:
        return next(topic.read(n, limit=1))

    def by_time(n: int) -> Any:
        return next(topic.read(time_of(n), limit=1))

    def by_sql(n: int) -> Any:
        ((number,),) = db.sql("SELECT _offset FROM events WHERE ts = $at", at=time_of(n)).fetchall()
        return number

    started = time.perf_counter()
    db = eventdb.open(path, durability="interval:100ms")
    topic = db.topic("events")
    found: dict[str, Any] = {"open": time.perf_counter() - started, "memory_open": own_memory_bytes()}
    with db:
        looks: dict[str, Callable[[int], Any]] = {"offset": by_offset, "time": by_time, "sql": by_sql}
        for name, find in looks.items():
            seconds = []
            for n in [draw.randrange(rows) for _ in range(LOOK_UPS)]:
                started = time.perf_counter()
                event = find(n)
                seconds.append(time.perf_counter() - started)
                if (event if isinstance(event, int) else event.offset) != n:
                    raise AssertionError(f"by {name}, event {n} came back as {event}")
            found[name] = {"first": seconds[0], "median": median(seconds)}
        found["memory"] = own_memory_bytes()
    return found


STEPS = {"write": write, "look": look, "seal": seal}


def in_a_process(step: str, path: Path, rows: int, segment_rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.long_life", "--step", step, "--path", str(path), "--rows", str(rows)]
    command += ["--segment-rows", str(segment_rows)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=ENVIRONMENT).stdout
    answer: dict[str, Any] = json.loads(printed)
    return answer


def report_looks(report: Report, what: str, found: dict[str, Any]) -> None:
    report.add(f"{what}: open", show_s(found["open"]), "", f"<= {show_s(OPEN_BAR_S)}", found["open"] <= OPEN_BAR_S)
    for name in ("offset", "time", "sql"):
        one = found[name]
        report.add(f"{what}: an event by {name}", f"{show_s(one['median'])}, the first {show_s(one['first'])}", "",
                   f"<= {show_s(LOOK_BAR_S)}", one["median"] <= LOOK_BAR_S)  # fmt: skip
    report.note(
        f"{what}: {found['memory_open'] / 1e6:.0f} MB after the opening, {found['memory'] / 1e6:.0f} MB at the end"
    )


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench long_life", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--segment-rows", type=int, default=SEGMENT_ROWS)
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROWS:,} events")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(STEPS[options.step](Path(options.path), options.rows, options.segment_rows)), flush=True)
        return 0
    rows = FULL_ROWS if options.full else options.rows
    with scratch() as work:
        path = work / "a.eventdb"
        written = in_a_process("write", path, rows, options.segment_rows)
        report = Report(f"A history of {written['rows']:,} events in {written['segments']:,} segments")
        early, late = written["early"], written["late"]
        lines = {"p50": "single append, p50", "p99": "single append, p99", "batch": "a segment's batch"}
        for name, what in lines.items():
            ratio, shown = late[name] / early[name], f"{show_s(early[name])} early, {show_s(late[name])} late"
            report.add(what, shown, f"{ratio:.2f}x", f"<= {FLAT:g}x", ratio <= FLAT)
        more = late["memory"] - early["memory"]
        report.add("memory", f"{early['memory'] / 1e6:.0f} MB early, {late['memory'] / 1e6:.0f} MB late",
                   f"+{more / 1e6:.0f} MB", f"<= {FLAT_BYTES / 1e6:.0f} MB", more <= FLAT_BYTES)  # fmt: skip
        report_looks(report, "raw", in_a_process("look", path, written["rows"], options.segment_rows))
        sealed = in_a_process("seal", path, written["rows"], options.segment_rows)
        looked = in_a_process("look", path, written["rows"], options.segment_rows)
        report_looks(report, f"sealed into {sealed['segments']:,}", looked)
    report.show()
    return report.missed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
