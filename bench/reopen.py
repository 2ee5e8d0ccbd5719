"""How soon is a database there again after its process was killed? With some history and with ten times as much.

    python -m bench reopen [--rows 1000000] [--rounds 5] [--full]

A process stores the history in batches, goes on with single events and is killed with SIGKILL in the midst of them. A
new process is timed from before the opening until it has the last event: ours, SQLite in WAL mode; and redis-server,
which loads its append-only file, until it answers. Redis holds 300,000 events at most, 1M with `--full`: it reads all.
`--full`: 10M and 100M events.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import eventdb
from bench.contest import peer
from bench.measure import Report, median, scratch, show_s
from bench.payload import packed, row
from bench.peers.server import Unavailable
from bench.startup import ENVIRONMENT

ROWS, FULL_ROWS = 1_000_000, 10_000_000
REDIS_ROWS, FULL_REDIS_ROWS = 300_000, 1_000_000
BATCH_ROWS = 100_000
SINGLE_ROWS = 3_000
COLUMNS = {"n": "BIGINT NOT NULL", "device": "VARCHAR NOT NULL", "temp": "DOUBLE NOT NULL"}
BAR_S = 0.5
EQUAL, EQUAL_S = 1.5, 0.02  # "equal": within half as much again, or within 20 ms


def _columns(first: int, count: int) -> dict[str, object]:
    import numpy as np

    n = np.arange(first, first + count, dtype=np.int64)
    names = np.array([f"device-{i}" for i in range(1_000)], dtype=object)
    return {"n": n, "device": names[n % 1_000], "temp": n * 0.5}


def write_ours(path: Path, rows: int) -> None:
    """Never returns: it is killed while it appends."""
    db = eventdb.open(path, durability="interval:100ms")
    topic = db.create_topic("events", COLUMNS)
    for first in range(0, rows, BATCH_ROWS):
        topic.append_batch(_columns(first, min(BATCH_ROWS, rows - first)))
    n = rows
    while True:
        topic.append({"n": n, "device": f"device-{n % 1_000}", "temp": n * 0.5})
        n += 1
        if n == rows + SINGLE_ROWS:
            print("ready", flush=True)


def write_sqlite(path: Path, rows: int) -> None:
    from bench.peers.sqlite import SqliteLog

    log = SqliteLog(path, "NORMAL")
    for first in range(0, rows, BATCH_ROWS):
        log.append_batch([(n, f"device-{n % 1_000}", b"") for n in range(first, min(first + BATCH_ROWS, rows))])
    append = log.appender()
    n = rows
    while True:
        append((n, f"device-{n % 1_000}", b""))
        n += 1
        if n == rows + SINGLE_ROWS:
            print("ready", flush=True)


def open_ours(path: Path) -> tuple[float, int]:
    """(seconds, number of the last event)."""
    started = time.perf_counter()
    db = eventdb.open(path, durability="interval:100ms")
    (last,) = db.topic("events").read(-1)
    seconds = time.perf_counter() - started
    if last["n"] != last.offset:
        raise AssertionError(f"event {last['n']} came back at offset {last.offset}")
    db.close()
    return seconds, last["n"]


def open_sqlite(path: Path) -> tuple[float, int]:
    from bench.peers.sqlite import SqliteLog

    started = time.perf_counter()
    log = SqliteLog(path, "NORMAL")
    ((last,),) = log.query("SELECT n FROM events ORDER BY rowid DESC LIMIT 1")
    seconds = time.perf_counter() - started
    log.close()
    return seconds, last


WRITERS = {"ours": write_ours, "SQLite": write_sqlite}
OPENERS = {"ours": open_ours, "SQLite": open_sqlite}


def _command(name: str, path: Path, rows: int, what: str) -> list[str]:
    return [sys.executable, "-m", "bench.reopen", f"--{what}", name, "--path", str(path), "--rows", str(rows)]


def killed(name: str, path: Path, rows: int) -> None:
    """A database at `path` whose writer was killed in the midst of single events."""
    with subprocess.Popen(_command(name, path, rows, "write"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != "ready":
                raise AssertionError(f"the writer of {name} ended with status {process.wait()}")
        finally:
            process.send_signal(signal.SIGKILL)


def _copy(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    for path in source.parent.glob(f"{source.name}*"):
        copy = target.with_name(target.name + path.name.removeprefix(source.name))
        subprocess.run(["cp", "-a", "--sparse=never", str(path), str(copy)], check=True)


def reopened(name: str, path: Path, rows: int) -> float:
    """Seconds of one opening by a process of its own."""
    found = subprocess.run(
        _command(name, path, rows, "open"), capture_output=True, text=True, check=True, env=ENVIRONMENT
    ).stdout
    seconds, last = json.loads(found)
    if last < rows + SINGLE_ROWS - 1:
        raise AssertionError(f"{name} lost events: the last of {rows + SINGLE_ROWS:,} acknowledged is {last}")
    return float(seconds)


def embedded(report: Report, work: Path, sizes: Sequence[int], rounds: int) -> None:
    """A killed writer for every round: a reopened database was closed properly."""
    seconds: dict[str, dict[int, float]] = {"ours": {}, "SQLite": {}}
    for size in sizes:
        values: dict[str, list[float]] = {name: [] for name in OPENERS}
        for name in OPENERS:
            killed(name, work / name, size)
        for _ in range(rounds):
            for name in OPENERS:
                _copy(work / name, work / "again")
                os.sync()  # an opening does not wait for the copy to reach the disk
                values[name].append(reopened(name, work / "again", size))
                _remove(work / "again")
        for name in OPENERS:
            seconds[name][size] = median(values[name])
            _remove(work / name)
    for size in sizes:
        mine, theirs = seconds["ours"][size], seconds["SQLite"][size]
        report.add(f"{size:,} events / SQLite", f"{show_s(mine)} against {show_s(theirs)}", f"{theirs / mine:.2f}x",
                   f"<= {show_s(BAR_S)}", mine <= BAR_S)  # fmt: skip
    small, large = (seconds["ours"][size] for size in sizes)
    report.add(f"{sizes[1]:,} / {sizes[0]:,} events", f"{show_s(large)} against {show_s(small)}",
               f"{large / small:.2f}x", "equal", large <= small * EQUAL or large - small <= EQUAL_S)  # fmt: skip


def _remove(path: Path) -> None:
    for one in path.parent.glob(f"{path.name}*"):
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()


def redis(report: Report, work: Path, rows: int) -> None:
    try:
        log = peer("redis", "RedisLog", "everysec")(work / "redis")
    except Unavailable as error:
        report.note(f"Redis: skipped, {error}")
        return

    def entries() -> Iterator[tuple[str, bytes]]:
        return ((f"{n + 1}-0", packed(row(n))) for n in range(rows))

    try:
        log.load(entries())
        time.sleep(1.5)  # everysec has flushed
        log.kill()
        started = time.perf_counter()
        log.start()
        seconds = time.perf_counter() - started
        if log.length() != rows:
            raise AssertionError(f"Redis came back with {log.length():,} of {rows:,} events")
    finally:
        log.close()
    report.note(f"Redis, append-only file of {rows:,} events: {show_s(seconds)}, {seconds / rows * 1e6:.2f} us each")


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench reopen", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="of the smaller history")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROWS:,} and {10 * FULL_ROWS:,} events")
    parser.add_argument("--write", choices=WRITERS, help=argparse.SUPPRESS)
    parser.add_argument("--open", choices=OPENERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write:
        WRITERS[options.write](Path(options.path), options.rows)
    if options.open:
        print(json.dumps(OPENERS[options.open](Path(options.path))), flush=True)
        return 0
    rows = FULL_ROWS if options.full else options.rows
    report = Report("From a killed process's files to the last event")
    with scratch() as work:
        embedded(report, work, (rows, 10 * rows), options.rounds)
        redis(report, work, FULL_REDIS_ROWS if options.full else min(10 * rows, REDIS_ROWS))
    report.show()
    return report.missed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
