"""How soon does a subscriber see an event? Open loop: events come on a schedule, whether or not anyone keeps up.

    python -m bench latency [same] [other] [view] [--rate 1000] [--seconds 2]

Every event carries the monotonic time just before its `append` was called, so a latency covers the commit, the wake-up,
the change's way through the subscription and into the subscriber's hands. `other`: the subscriber is a process of its
own. `view`: the subscriber follows a materialized view over the topic.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import eventdb
from bench.bare import BareWrite
from bench.measure import Report, median, percentile, scratch

COLUMNS = {
    "sent_ns": "BIGINT",
    "device": "VARCHAR",
    "temp": "DOUBLE",
    "humidity": "DOUBLE",
    "status": "VARCHAR",
    "n": "BIGINT",
}
WARMUP = 200
ROUNDS = 5
LAST = -1  # n of the event that tells the subscriber to stop
VIEW = (
    "CREATE MATERIALIZED VIEW per_device AS "
    "SELECT device, count(*) AS events, max(sent_ns) AS sent_ns FROM ticks GROUP BY device"
)


def schedule(rate: int, seconds: float) -> Iterator[int]:
    """0, 1, 2 ... at `rate` a second, the warm-up first; a late one comes at once, none is left out."""
    start = time.monotonic_ns() + 50_000_000
    period = 1_000_000_000 // rate
    for n in range(int(rate * seconds) + WARMUP):
        while (left := start + n * period - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)  # never spinning: that would take the interpreter away from the subscriber
        yield n


def append_on_schedule(topic: eventdb.Topic, rate: int, seconds: float) -> None:
    """`rate` events a second, and the one that ends it."""
    for n in schedule(rate, seconds):
        topic.append({"sent_ns": time.monotonic_ns(), "device": f"d{n % 100}", "temp": 20.5, "humidity": 40.0,
                      "status": "ok", "n": n})  # fmt: skip
    topic.append({"sent_ns": 0, "device": "end", "temp": None, "humidity": None, "status": None, "n": LAST})


def collect_follow(db: eventdb.Database, ready: Callable[[], object]) -> list[int]:
    """Latencies in ns of a reader that follows the topic."""
    found = []
    events = db.topic("ticks").read("latest", follow=True, timeout=60)
    ready()
    for event in events:
        now = time.monotonic_ns()
        if event["n"] == LAST:
            break
        found.append(now - event["sent_ns"])
    return found


def collect_changes(query: str) -> Callable[[eventdb.Database, Callable[[], object]], list[int]]:
    """Latencies in ns of a subscription."""

    def collect(db: eventdb.Database, ready: Callable[[], object]) -> list[int]:
        found = []
        with db.subscribe(query, start="latest") as changes:
            device, sent = changes.columns.index("device"), changes.columns.index("sent_ns")
            ready()
            for change in changes:
                now = time.monotonic_ns()
                if change.row[device] == "end":
                    break
                if change.op in ("+I", "+U"):
                    found.append(now - change.row[sent])
        return found

    return collect


COLLECTORS = {
    "follow": collect_follow,
    "subscribe": collect_changes("ticks"),
    "filter": collect_changes("SELECT sent_ns, device FROM ticks WHERE temp > 10 OR n = -1"),
    "view": collect_changes("per_device"),
}


def same_process(path: Path, collector: str, durability: str, rate: int, seconds: float) -> list[int]:
    """The subscriber is a thread of the appending process."""
    found: list[int] = []
    with eventdb.open(path, durability=durability) as db:
        topic = db.create_topic("ticks", COLUMNS, if_not_exists=True)
        if collector == "view":
            db.sql(VIEW)
        ready = threading.Event()
        thread = threading.Thread(target=lambda: found.extend(COLLECTORS[collector](db, ready.set)))
        thread.start()
        ready.wait(60)
        append_on_schedule(topic, rate, seconds)
        thread.join(60)
    return found[WARMUP:]


def other_process(path: Path, collector: str, durability: str, rate: int, seconds: float) -> list[int]:
    """The subscriber is a process of its own."""
    with eventdb.open(path, durability=durability) as db:
        topic = db.create_topic("ticks", COLUMNS, if_not_exists=True)
        if collector == "view":
            db.sql(VIEW)
        command = [sys.executable, "-m", "bench.latency", "--subscribe", str(path), "--collector", collector]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as subscriber:
            assert subscriber.stdout is not None
            subscriber.stdout.readline()
            append_on_schedule(topic, rate, seconds)
            found: list[int] = json.loads(subscriber.stdout.readline())
    return found[WARMUP:]


def flush_on_schedule(path: Path, rate: int, seconds: float) -> list[int]:
    """Latencies in ns of a bare pwrite + fdatasync at the same rate: what the device alone adds in `commit` mode."""
    found = []
    bare = BareWrite(path, int(rate * seconds) + WARMUP)
    for n in schedule(rate, seconds):
        before = time.monotonic_ns()
        bare.write(n)
        found.append(time.monotonic_ns() - before)
    return found[WARMUP:]


def subscriber_main(path: str, collector: str) -> int:
    """The other process: prints "ready", then its latencies."""
    with eventdb.open(path) as db:
        print(json.dumps(COLLECTORS[collector](db, lambda: print("ready", flush=True))), flush=True)
    return 0


CASES = (
    ("same", "subscribe", "interval:100ms", (200, 2_000)),
    ("same", "subscribe", "commit", (200, 2_000)),
    ("same", "follow", "interval:100ms", (None, None)),
    ("same", "filter", "interval:100ms", (None, None)),
    ("other", "subscribe", "interval:100ms", (None, 5_000)),
    ("other", "subscribe", "commit", (None, 5_000)),
    ("other", "follow", "interval:100ms", (None, None)),
    ("view", "view", "interval:100ms", (None, None)),
    ("view", "view", "commit", (None, None)),
)


def _show(values: Sequence[float], bar_us: int | None) -> tuple[str, str, bool | None]:
    middle = median(values) / 1e3
    return f"{middle:.0f} us", f"<= {bar_us} us" if bar_us else "", None if bar_us is None else middle <= bar_us


def latency(kinds: Sequence[str], rate: int, seconds: float) -> Report:
    report = Report(
        f"From append to the subscriber's hands at {rate:,} events/s (medians of {ROUNDS} runs of {seconds:g} s)"
    )
    for kind, collector, durability, bars in CASES:
        if kind not in kinds:
            continue
        run = other_process if kind == "other" else same_process
        middles: list[float] = []
        tails: list[float] = []
        worst = 0
        floors: list[float] = []
        for round_number in range(ROUNDS):
            with scratch() as work:
                if durability == "commit":
                    floors.append(percentile(flush_on_schedule(work / "bare", rate, seconds), 0.5))
                found = run(work / f"db{round_number}", collector, durability, rate, seconds)
            middles.append(percentile(found, 0.5))
            tails.append(percentile(found, 0.99))
            worst = max(worst, *found)
        what = f"{'other' if kind == 'other' else 'same'} process, {collector}, {durability.partition(':')[0]}"
        for name, values, bar in (("p50", middles, bars[0]), ("p99", tails, bars[1])):
            value, wanted, met = _show(values, bar)
            if floors and name == "p50":
                value += f", {median(floors) / 1e3:.0f} us of it a bare flush"
            report.add(f"{what}: {name}", value, f"worst {worst / 1e3:.0f} us" if name == "p99" else "", wanted, met)
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench latency", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="same, other, view (default: all)")
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--subscribe", help=argparse.SUPPRESS)
    parser.add_argument("--collector", choices=sorted(COLLECTORS), default="subscribe")
    options = parser.parse_args(arguments)
    if options.subscribe:
        return subscriber_main(options.subscribe, options.collector)
    report = latency(options.kinds or ("same", "other", "view"), options.rate, options.seconds)
    report.show()
    return report.missed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
