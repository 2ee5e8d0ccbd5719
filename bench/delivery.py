"""How soon does a reader have an event? 1,000, 10,000 and 50,000 events a second are offered, open loop.

    python -m bench delivery [--rates 1000 10000 50000] [--seconds 2] [--rounds 1] [--only NAME ...] [--full]

A latency runs from the moment an event was due: its time on the schedule, or the moment the kernel woke the sender,
should that be later. A sender that cannot keep up therefore shows it. Ours: `append` with `interval:100ms` to a reader
that follows the topic, in a thread of the same process and in a process of its own. Redis (XADD to XREAD BLOCK,
everysec), NATS (publish to a subscription, captured by a stream) and Kafka (acks=1, linger 1 ms) have a reader process.
Bare wake-ups, a number handed over with the same calls and nothing stored, are the limit of what Python can do here.
`--full`: 5 rounds of 5 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import eventdb
from bench.contest import peer
from bench.measure import Report, median, percentile, scratch
from bench.peers.server import Unavailable

COLUMNS = {"due_ns": "BIGINT", "device": "VARCHAR", "temp": "DOUBLE", "humidity": "DOUBLE", "status": "VARCHAR"}
RATES = (1_000, 10_000, 50_000)
WARMUP_S = 0.2
LAST = -1  # due_ns of the event that tells the reader to stop
WARM, WARM_EVENTS = 0, 100  # due_ns of events that only make connections and fill caches
PATIENCE = 2  # a sender that has taken so many times its time is stopped: it does not keep up
BARS_US = {"same process": (50, 1_000), "other process": (100, 2_000)}
BARE = {"same process": "bare eventfd", "other process": "bare datagram"}
PEERS = {
    "Redis XREAD BLOCK": peer("redis", "RedisLog", "everysec"),
    "NATS": peer("nats", "NatsLog", "2m"),
    "Kafka": peer("kafka", "KafkaLog"),
}


def send_on_schedule(send: Callable[[int], object], rate: int, seconds: float) -> float:
    """Calls `send` with the due time (monotonic ns) of each event; the share of the events that were sent in time."""
    count = int(rate * (seconds + WARMUP_S))
    for _ in range(WARM_EVENTS):
        send(WARM)
    time.sleep(1)
    now = time.monotonic_ns
    woke = start = now() + 20_000_000
    limit = start + int(PATIENCE * (seconds + WARMUP_S) * 1e9)
    sent = 0
    for n in range(count):
        due = start + n * 1_000_000_000 // rate
        while (left := due - now()) > 0:
            time.sleep(left / 1e9)  # never spinning: that would take the interpreter away from a reader
            woke = now()
        if woke > limit or now() > limit:
            break
        send(max(due, woke))
        sent += 1
    return sent / count


def sender_of(topic: eventdb.Topic) -> Callable[[int], object]:
    append = topic.append
    return lambda due: append(
        {"due_ns": due, "device": f"d{due % 100}", "temp": 20.5, "humidity": 40.0, "status": "ok"}
    )


def follow(topic: eventdb.Topic, ready: Callable[[], object]) -> list[int]:
    """Latencies in ns of a reader that follows the topic."""
    found: list[int] = []
    events = topic.read("latest", follow=True, timeout=60)
    ready()
    for event in events:
        at, due = time.monotonic_ns(), event["due_ns"]
        if due == LAST:
            break
        if due != WARM:
            found.append(at - due)
    return found


@contextlib.contextmanager
def reader_process(name: str, address: str) -> Iterator[Callable[[], list[int]]]:
    """A reader in a process of its own, ready; the function waits for its latencies."""
    command = [sys.executable, "-m", "bench.delivery", "--read", name, "--address", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout

        def latencies() -> list[int]:
            found: list[int] = json.loads(output.readline())
            return found

        try:
            if output.readline().strip() != "ready":
                raise AssertionError(f"the reader of {name} ended with status {process.wait()}")
            yield latencies
        finally:
            process.kill()


def ours_same(path: Path, rate: int, seconds: float) -> tuple[list[int], float]:
    found: list[int] = []
    with eventdb.open(path, durability="interval:100ms") as db:
        topic = db.create_topic("ticks", COLUMNS)
        ready = threading.Event()
        thread = threading.Thread(target=lambda: found.extend(follow(topic, ready.set)))
        thread.start()
        ready.wait(60)
        send = sender_of(topic)
        share = send_on_schedule(send, rate, seconds)
        send(LAST)
        thread.join(120)
    return found, share


def ours_other(path: Path, rate: int, seconds: float) -> tuple[list[int], float]:
    with eventdb.open(path, durability="interval:100ms") as db:
        send = sender_of(db.create_topic("ticks", COLUMNS))
        with reader_process("eventdb", str(path)) as latencies:
            share = send_on_schedule(send, rate, seconds)
            send(LAST)
            return latencies(), share


def bare_same(path: Path, rate: int, seconds: float) -> tuple[list[int], float]:
    """Two threads: the due times go through a list in memory, and an eventfd wakes the reader."""
    found: list[int] = []
    waiting: deque[int] = deque()
    ready = threading.Event()
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def receive() -> None:
        with select.epoll() as poll:
            poll.register(fd, select.EPOLLIN | select.EPOLLET)
            ready.set()
            while True:
                while waiting:
                    due = waiting.popleft()
                    at = time.monotonic_ns()
                    if due == LAST:
                        return
                    if due != WARM:
                        found.append(at - due)
                poll.poll(1)

    def send(due: int) -> None:
        waiting.append(due)
        os.eventfd_write(fd, 1)

    thread = threading.Thread(target=receive)
    thread.start()
    ready.wait(60)
    share = send_on_schedule(send, rate, seconds)
    send(LAST)
    thread.join(120)
    os.close(fd)
    return found, share


def bare_other(path: Path, rate: int, seconds: float) -> tuple[list[int], float]:
    """Two processes: the due times are datagrams, which wake the reader."""
    address = f"eventdb-bench-{os.getpid()}-{path.name}"
    with (
        reader_process("bare datagram", address) as latencies,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.connect("\0" + address)

        def send(due: int) -> None:
            sender.send(due.to_bytes(8, "little", signed=True))

        share = send_on_schedule(send, rate, seconds)
        send(LAST)
        return latencies(), share


def receive_bare(address: str, ready: Callable[[], object], take: Callable[[bytes], bool]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, select.epoll() as poll:
        receiver.bind("\0" + address)
        receiver.setblocking(False)
        poll.register(receiver, select.EPOLLIN)
        ready()
        going = True
        while going:
            poll.poll(1)
            with contextlib.suppress(BlockingIOError):
                while going:
                    going = take(receiver.recv(16))


def theirs(name: str) -> Callable[[Path, int, float], tuple[list[int], float]]:
    def run(path: Path, rate: int, seconds: float) -> tuple[list[int], float]:
        log: Any = PEERS[name](path)
        try:
            with reader_process(name, str(log.port)) as latencies, log.sender() as send:
                share = send_on_schedule(lambda due: send(message(due)), rate, seconds)
                send(message(LAST))
                return latencies(), share
        finally:
            log.close()

    return run


def message(due: int) -> bytes:
    """100 bytes."""
    return due.to_bytes(8, "little", signed=True) + bytes(92)


def read(name: str, address: str) -> int:
    """The reader process: prints "ready", then its latencies."""

    def ready() -> None:
        print("ready", flush=True)

    found: list[int] = []
    if name == "eventdb":
        with eventdb.open(address, durability="interval:100ms") as db:
            found = follow(db.topic("ticks"), ready)
    else:

        def take(data: bytes) -> bool:
            at, due = time.monotonic_ns(), int.from_bytes(data[:8], "little", signed=True)
            if due not in (LAST, WARM):
                found.append(at - due)
            return due != LAST

        if name == BARE["other process"]:
            receive_bare(address, ready, take)
        else:
            module = {"Redis XREAD BLOCK": "redis", "NATS": "nats", "Kafka": "kafka"}[name]
            peer(module, "receive", ready, take)(Path(address))  # its port
    print(json.dumps(found), flush=True)
    return 0


def delivery(rates: Sequence[int], seconds: float, rounds: int, only: Sequence[str]) -> Report:
    report = Report(f"From an event's due time to its reader's hands (medians of {rounds} runs of {seconds:g} s)")
    runs = {BARE["same process"]: bare_same, "same process": ours_same, BARE["other process"]: bare_other,
            "other process": ours_other, **{name: theirs(name) for name in PEERS}}  # fmt: skip
    for rate in rates:
        measured: dict[str, tuple[float, float]] = {}
        for name in only or runs:
            middles: list[float] = []
            tails: list[float] = []
            shares: list[float] = []
            try:
                for round_number in range(rounds):
                    with scratch() as work:
                        found, share = runs[name](work / f"log{round_number}", rate, seconds)
                    found = found[int(rate * WARMUP_S) :] or found
                    middles.append(percentile(found, 0.5) / 1e3)
                    tails.append(percentile(found, 0.99) / 1e3)
                    shares.append(share)
            except Unavailable as error:
                report.note(f"{name}: skipped, {error}")
                continue
            kept_up = "" if min(shares) == 1 else f"only {min(shares):.0%} sent"
            measured[name] = values = median(middles), median(tails)
            limits = measured.get(BARE.get(name, ""), (None, None))
            for what, value, limit, bar in zip(("p50", "p99"), values, limits, BARS_US.get(name, (None, None)),
                                               strict=True):  # fmt: skip
                ratio = kept_up or ("" if limit is None else f"{value / limit:.1f}x bare")
                report.add(f"{rate:,}/s, {name}: {what}", f"{value:,.0f} us", ratio, f"<= {bar} us" if bar else "",
                           None if bar is None else value <= bar and not kept_up)  # fmt: skip
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench delivery", description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*BARE.values(), *BARS_US, *PEERS])
    parser.add_argument("--full", action="store_true", help="5 rounds of 5 s")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        return read(options.read, options.address)
    seconds, rounds = (5.0, 5) if options.full else (options.seconds, options.rounds)
    report = delivery(options.rates, seconds, rounds, options.only or ())
    report.show()
    return report.missed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
