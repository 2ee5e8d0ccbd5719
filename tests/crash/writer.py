"""A real writer process: appends unique events through every door of the API and records each acknowledgement.

    python -m tests.crash.writer DIRECTORY HISTORY --name w1 --durability commit --seed 7

It runs until it is killed or `--seconds` are over. `--die-at-step N` makes it kill itself with SIGKILL at the N-th call
or return inside the storage layer: between two system calls, or between the journal and the index. `--plant` breaks
the product on purpose, to prove that the checker would notice.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import eventdb
from tests.crash import plants
from tests.crash.history import SEND, Recorder
from tests.crash.sights import observe
from tests.crash.sinks import CREATE_SINKS
from tests.crash.workload import COLUMNS, CREATE_VIEWS, PRODUCER_PREFIX, TOPICS, event, table

STORAGE = os.path.join(os.path.dirname(os.path.abspath(eventdb.__file__)), "storage")
WEIGHTS = {"append": 60, "many": 15, "batch": 8, "transaction": 15, "checkpoint": 2}


class Writer:
    """One writer: `step` performs one random operation, recorded before and after."""

    def __init__(
        self, db: eventdb.Database, history: Recorder, name: str, rng: random.Random, kinds: Sequence[str] = ()
    ) -> None:
        self._kinds = list(kinds or WEIGHTS)
        self._db = db
        self._history = history
        self._name = name
        self._rng = rng
        self._next = 0
        self._operations = 0
        self._topics = {name: db.topic(name) for name in TOPICS}

    def _begin(self, kind: str, parts: list[tuple[str, int, int]]) -> str:
        op = f"{os.getpid()}.{self._operations}"
        self._operations += 1
        self._history.begin(self._name, op, kind, parts)
        return op

    def _take(self, count: int) -> int:
        first = self._next
        self._next += count
        return first

    def step(self) -> None:
        kind = self._rng.choices(self._kinds, [WEIGHTS[kind] for kind in self._kinds])[0]
        getattr(self, f"_{kind}")()

    def _append(self) -> None:
        name, n = self._rng.choice(TOPICS), self._take(1)
        op = self._begin("append", [(name, n, 1)])
        position = self._topics[name].append(event(self._name, n))
        self._history.ack(self._name, op, [[position.offset]])

    def _many(self) -> None:
        name, count = self._rng.choice(TOPICS), self._rng.choice((2, 5, 30, 200))
        first = self._take(count)
        op = self._begin("many", [(name, first, count)])
        positions = self._topics[name].append_many([event(self._name, n) for n in range(first, first + count)])
        self._history.ack(self._name, op, [[position.offset for position in positions]])

    def _batch(self) -> None:
        name, count = self._rng.choice(TOPICS), self._rng.choice((3, 100, 400, 4_000))
        first = self._take(count)
        op = self._begin("batch", [(name, first, count)])
        offsets = self._topics[name].append_batch(table(self._name, first, count))
        self._history.ack(self._name, op, [list(offsets)])

    def _transaction(self) -> None:
        counts = [self._rng.choice((1, 1, 4, 50)) for _ in TOPICS]
        parts = [(name, self._take(count), count) for name, count in zip(TOPICS, counts, strict=True)]
        op = self._begin("transaction", parts)
        with self._db.transaction() as tx:
            for name, first, count in parts:
                if count == 1:
                    tx.append(name, event(self._name, first))
                else:
                    tx.append_many(name, [event(self._name, n) for n in range(first, first + count)])
        self._history.ack(self._name, op, [[p.offset for p in tx.positions[name]] for name in TOPICS])

    def _checkpoint(self) -> None:
        op = self._begin("checkpoint", [])
        self._db.checkpoint()
        self._history.ack(self._name, op, [])


class Sender(Writer):
    """A writer with an idempotent producer. After a restart it repeats its last event and goes on behind it."""

    def __init__(
        self, db: eventdb.Database, history: Recorder, name: str, rng: random.Random, kinds: Sequence[str] = ()
    ) -> None:
        super().__init__(db, history, name, rng, kinds)
        self._producer = self._topics[TOPICS[0]].producer(id=name, linger_ms=1, max_rows=rng.choice((7, 64, 1_000)))
        self._next = self._producer.next_sequence
        if self._next:
            last = self._next - 1
            history.same(name, last, self._producer.send(event(name, last), sequence=last).result(60).offset)

    def step(self) -> None:
        count = self._rng.choice((1, 1, 20, 300))
        first = self._take(count)
        op = self._begin(SEND, [(TOPICS[0], first, count)])
        futures = [self._producer.send(event(self._name, n), sequence=n) for n in range(first, first + count)]
        self._history.ack(self._name, op, [[future.result(60).offset for future in futures]])


def follow(db: eventdb.Database, history: Recorder, name: str, seconds: float) -> None:
    """Reads a topic as it grows: offsets without holes, no writer out of order, every value as written."""
    following: dict[str, int] = {}
    expected = 0
    topic = db.topic(TOPICS[0])
    until = time.monotonic() + seconds
    for found in topic.read(follow=True, timeout=seconds):
        writer, n = found["writer"], found["n"]
        if found.offset != expected:
            history.wrong(name, f"offset {found.offset} follows {expected - 1}")
        if n < following.get(writer, 0):
            history.wrong(name, f"event {writer}/{n} at offset {found.offset} comes after {following[writer] - 1}")
        if found.row != event(writer, n):
            history.wrong(name, f"event {writer}/{n} at offset {found.offset} is not as written: {found.row!r:.200}")
        following[writer] = n + 1
        expected = found.offset + 1
        if time.monotonic() > until:
            return


def die_at_step(count: int) -> None:
    """Kills this process at the `count`-th call or return in the storage layer, on whichever thread it happens."""
    left = [count]
    inside: dict[Any, bool] = {}

    def profile(frame: FrameType, what: str, argument: object) -> None:
        code = frame.f_code
        known = inside.get(code)
        if known is None:
            known = inside[code] = code.co_filename.startswith(STORAGE)
        if known:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(profile)
    sys.setprofile(profile)


def create(db: eventdb.Database) -> None:
    for name in TOPICS:
        db.create_topic(name, COLUMNS, event_time="ts", if_not_exists=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("history")
    parser.add_argument("--name", required=True, help=f"unique, or {PRODUCER_PREFIX}... for an idempotent producer")
    parser.add_argument("--durability", default="commit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="mean pause between operations")
    parser.add_argument("--boot-id", default="", help="the boot id this process sees, for simulated power cuts")
    parser.add_argument("--die-at-step", type=int, default=0)
    parser.add_argument("--role", choices=("writer", "follower", "observer"), default="writer")
    parser.add_argument("--view", action="store_true", help="create the materialized views that are not there")
    parser.add_argument("--kinds", nargs="+", choices=tuple(WEIGHTS), default=(), help="of operations (default: all)")
    parser.add_argument("--plant", choices=sorted(plants.PLANTS), default=None)
    options = parser.parse_args(arguments)
    if options.boot_id:
        plants.set_boot_id(options.boot_id)
    if options.plant:
        plants.PLANTS[options.plant]()
    history = Recorder(options.history)
    rng = random.Random(options.seed)
    db = eventdb.open(options.directory, durability=options.durability)
    create(db)
    if options.view:
        for statement in [*CREATE_VIEWS, *CREATE_SINKS]:
            db.sql(statement)
    if options.role == "follower":
        follow(db, history, options.name, options.seconds)
        return 0
    if options.role == "observer":
        observe(db, history, options.name, rng, options.seconds)
        return 0
    if options.die_at_step:
        die_at_step(options.die_at_step)  # before any thread starts: it reaches new ones only
    make = Sender if options.name.startswith(PRODUCER_PREFIX) else Writer
    writer = make(db, history, options.name, rng, options.kinds)
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        writer.step()
        if options.pause_ms:
            time.sleep(rng.expovariate(1.0) * options.pause_ms / 1e3)
    sys.setprofile(None)
    db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
