"""How long until one event is safe? One event per commit, from one thread and from eight.

    python -m bench durable [commit] [interval] [--events 40] [--rounds 15] [--full]

`commit`: on the device when the call returns, against SQLite WAL/FULL, Redis with appendfsync always, NATS JetStream
that flushes every message, and a bare pwrite + fdatasync. `interval`: flushed soon after, against SQLite WAL/NORMAL,
Redis everysec and Kafka acks=1. Every contestant is used from Python, with its quickest client.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.contest import Opener, ahead, bare, check_same, logs, ours, peer
from bench.log import Log
from bench.measure import Report, median, scratch, show_s, take_turns, timed
from bench.payload import Numbers

EVENT_BYTES = 100
THREADS = 8
OURS = "eventdb"
BARE = "bare pwrite + fdatasync"
COMMIT: dict[str, Opener] = {
    OURS: ours("commit"),
    BARE: bare(64 << 20),
    "SQLite WAL/FULL": peer("sqlite", "SqliteLog", "FULL"),
    "Redis appendfsync always": peer("redis", "RedisLog", "always"),
    "NATS JetStream sync always": peer("nats", "NatsLog", "always"),
}
INTERVAL: dict[str, Opener] = {
    OURS: ours("interval:1000ms"),
    "SQLite WAL/NORMAL": peer("sqlite", "SqliteLog", "NORMAL"),
    "Redis appendfsync everysec": peer("redis", "RedisLog", "everysec"),
    "Kafka acks=1": peer("kafka", "KafkaLog"),
}


def turns(
    found: Mapping[str, Log], given: Mapping[str, Numbers], threads: int, events: int, rounds: int
) -> dict[str, float]:
    """Median seconds per event of each log, `events` from each thread a turn."""

    def turn(name: str) -> Callable[[], float]:
        log, numbers = found[name], given[name]

        def work() -> float:
            blocks = [log.prepare_each(numbers.block(events)) for _ in range(threads)]
            return timed(lambda: log.append_each(blocks)) / (threads * events)

        return work

    for log in found.values():
        log.connect(threads)
    for name in found:
        turn(name)()  # connections, caches, strings never seen before
    os.sync()  # nobody flushes what another one left behind
    values = take_turns({name: turn(name) for name in found}, rounds)
    return {name: median(times) for name, times in values.items()}


def run(question: str, openers: Mapping[str, Opener], work: Path, events: int, rounds: int) -> Report:
    report = Report(question)
    with logs(work, openers, report) as found:
        given = {name: Numbers(EVENT_BYTES) for name in found}
        for name, log in found.items():
            log.append_batch(log.prepare_batch(given[name].block(1_000)))  # every device has been heard of
        alone = turns(found, given, 1, events, rounds)
        many = turns(found, given, THREADS, events, rounds)
        check_same(found, given)
    for threads, seconds in ((1, alone), (THREADS, many)):
        theirs = {name: value for name, value in seconds.items() if name not in (OURS, BARE)}
        ahead(report, f"{threads} thread{'s' * (threads > 1)}", seconds[OURS], theirs)
        if BARE in seconds:
            report.add(f"{threads} thread{'s' * (threads > 1)} / {BARE}",
                       f"{show_s(seconds[OURS])} against {show_s(seconds[BARE])}",
                       f"{seconds[OURS] / seconds[BARE]:.2f}x its time")  # fmt: skip
    gain = alone[OURS] / many[OURS]
    if BARE in found:
        report.add(f"{THREADS} threads / 1 thread", f"{1 / many[OURS]:,.0f} against {1 / alone[OURS]:,.0f} events/s",
                   f"{gain:.2f}x", ">= 4x", gain >= 4)  # fmt: skip
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the reports asked for; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench durable", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="commit, interval (default: both)")
    parser.add_argument("--events", type=int, default=40, help="events a thread appends in each turn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--full", action="store_true", help="51 rounds of 100 events")
    options = parser.parse_args(arguments)
    events, rounds = (100, 51) if options.full else (options.events, options.rounds)
    questions = {
        "commit": ("One event of 100 bytes per commit, on the device when it returns", COMMIT),
        "interval": ("One event of 100 bytes per commit, flushed soon after", INTERVAL),
    }
    missed = 0
    for kind in options.kinds or questions:
        if kind not in questions:
            raise SystemExit(f"no question {kind!r}; the questions are {', '.join(questions)}")
        with scratch() as work:
            report = run(*questions[kind], work, events, rounds)
        report.show()
        missed += report.missed()
    return missed
