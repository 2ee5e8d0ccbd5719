"""How fast are batches stored that are durable at their end? 10,000 events of 100 bytes and of 1 KB a batch.

    python -m bench batches [100] [1024] [--rounds 5] [--full]

From Python objects (dicts, tuples, messages: whatever a contestant takes quickest) against SQLite, Redis with
appendfsync always, NATS JetStream that flushes every message and Kafka that flushes what it acknowledges; from Arrow
tables against DuckDB; and against one bare write and flush of the same bytes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.contest import ahead, bare, check_same, logs, ours, peer
from bench.measure import Report, median, scratch, show_s, take_turns, timed
from bench.payload import Numbers

BATCH = 10_000
OBJECTS, ARROW, BARE = "eventdb append_many", "eventdb append_batch", "bare write + fdatasync"
PEERS = {
    "SQLite WAL/FULL": peer("sqlite", "SqliteLog", "FULL"),
    "Redis appendfsync always": peer("redis", "RedisLog", "always"),
    "Kafka flush.messages=1": peer("kafka", "KafkaLog", True),
    "NATS JetStream sync always": peer("nats", "NatsLog", "always"),
    "DuckDB": peer("duckdb", "DuckDBLog"),
}
BAR_OF_BARE = 0.5


def run(work: Path, size_bytes: int, rounds: int) -> Report:
    report = Report(f"Batches of {BATCH:,} events of {size_bytes} bytes, each durable at its end")
    room = (rounds + 2) * BATCH * size_bytes
    openers = {OBJECTS: ours("commit"), ARROW: ours("commit", True), BARE: bare(room), **PEERS}
    with logs(work, openers, report) as found:
        given = {name: Numbers(size_bytes) for name in found}

        def turn(name: str) -> Callable[[], float]:
            def work() -> float:
                batch = found[name].prepare_batch(given[name].block(BATCH))
                return timed(lambda: found[name].append_batch(batch))

            return work

        for name in found:
            turn(name)()
        os.sync()  # nobody flushes what another one left behind
        seconds = {name: median(values) for name, values in take_turns({n: turn(n) for n in found}, rounds).items()}
        check_same(found, given)
    rivals = {name: value for name, value in seconds.items() if name in PEERS}
    duckdb = {name: rivals.pop(name) for name in list(rivals) if name == "DuckDB"}
    ahead(report, "objects", seconds[OBJECTS], rivals)
    ahead(report, "Arrow", seconds[ARROW], duckdb)
    for what, name in (("objects", OBJECTS), ("Arrow", ARROW)):
        share = seconds[BARE] / seconds[name]
        bar, met = (f">= {BAR_OF_BARE:.0%}", share >= BAR_OF_BARE) if name == ARROW else ("", None)
        report.add(f"{what} / {BARE}", f"{show_s(seconds[name])} against {show_s(seconds[BARE])}",
                   f"{share:.0%} of its speed", bar, met)  # fmt: skip
        report.note(f"{name}: {BATCH / seconds[name] / 1e3:,.0f}k events/s, "
                    f"{BATCH * size_bytes / seconds[name] / 1e6:,.0f} MB/s")  # fmt: skip
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints a report for each size; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench batches", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, help="bytes of an event (default: 100 and 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="21 rounds")
    options = parser.parse_args(arguments)
    missed = 0
    for size in options.sizes or (100, 1024):
        with scratch() as work:
            report = run(work, size, 21 if options.full else options.rounds)
        report.show()
        missed += report.missed()
    return missed
