"""Several writing and reading processes on one directory, stopped, continued and killed at random, then judged.

SIGSTOP hits whoever it hits, the holder of the writer lock included: nobody may take the lock from it, and everybody
goes on once it continues. A killed writer is replaced by another one at once. A stop or a kill counts if its victim
was in an operation.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.lives import START_SECONDS, Lives
from tests.crash.workload import PRODUCER_PREFIX
from tests.crash.zygote import Zygote

LEAST_SIGHTS = 20


@dataclass
class StormTally:
    """What happened so far."""

    kills: Counter[str] = field(default_factory=Counter)  # by the operation they hit
    stops: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    acked: int = 0
    events: int = 0
    sights: int = 0
    problems: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.rounds} storms: {self.kills.total()} kills and {self.stops.total()} stops of running operations "
            f"(killed {dict(self.kills)}, stopped {dict(self.stops)}); {self.acked} operations acknowledged, "
            f"{self.events} events, {self.sights} sights; {len(self.problems)} problems {dict(self.kinds)}"
        )


class Storm(Lives):
    """Rounds of `seconds` each, below `work`, every round in a directory of its own."""

    def __init__(
        self, zygote: Zygote, work: Path, durability: str, seed: int, *, plant: str = "", seconds: float = 2.0
    ) -> None:
        super().__init__(zygote, work, durability, seed, plant)
        self._seconds = seconds
        self._writers: dict[str, int] = {}
        self._observers: dict[str, int] = {}
        self._names = 0
        self.tally = StormTally()

    def run(self, rounds: int, *, until_broken: bool = False) -> StormTally:
        for _ in range(rounds):
            self._round()
            if self.tally.problems and until_broken:
                break
        return self.tally

    def _begin(self) -> None:
        self.settle_in(self._work / f"storm-{self.tally.rounds:03d}")
        self._start_writer()
        self._await_acks(next(iter(self._writers)), 1)
        for _ in range(self._rng.choice((1, 2))):
            self._start_writer()
        for index in range(2):
            self._observers[f"eye{index}"] = self.start(f"eye{index}", "--role", "observer")

    def _start_writer(self) -> None:
        self._names += 1
        name = f"{PRODUCER_PREFIX}-{self._names}" if self._rng.random() < 0.2 else f"w{self._names}"
        self._writers[name] = self.start(name)

    def _await_acks(self, name: str, count: int) -> None:
        self.await_acks(self._writers[name], name, count, lambda text: self._problem("stuck", text))

    def _problem(self, kind: str, text: str) -> None:
        self.tally.problems.append(f"{kind}: {text}")
        self.tally.kinds[kind] += 1

    def _round(self) -> None:
        self._begin()
        rng, tally = self._rng, self.tally
        until = time.monotonic() + self._seconds
        while time.monotonic() < until or (self._is_unseen() and time.monotonic() < until + START_SECONDS):
            time.sleep(rng.expovariate(1 / 0.03))
            if rng.random() < 0.6:
                self._stop_somebody()
            else:
                self._kill_writer(rng.choice(list(self._writers)), tally.kills)
                self._start_writer()
        for name in list(self._writers):  # whoever is left is not held up
            self._await_acks(name, self._facts.acks(name) + 1)
        for name in list(self._writers):
            self._kill_writer(name, Counter())
        for name, pid in self._observers.items():
            self._end(name, pid)
        self._observers.clear()
        tally.rounds += 1
        self._judge()

    def _is_unseen(self) -> bool:
        """Whether observers, who load the SQL engine first, have not seen much: on a busy machine a storm is longer."""
        return sum(map(self._facts.sights, self._observers)) < LEAST_SIGHTS

    def _stop_somebody(self) -> None:
        """One process stops for a while; the others may go on or wait for it, nothing else."""
        name, pid = self._rng.choice([*self._writers.items(), *self._observers.items()])
        if self._zygote.wait(pid, 0) is not None:
            return
        os.kill(pid, signal.SIGSTOP)
        running = self._facts.running(name)
        time.sleep(self._rng.choice((0.002, 0.02, 0.1)))
        os.kill(pid, signal.SIGCONT)
        if running is not None or name in self._observers:
            self.tally.stops[running or "observe"] += 1

    def _end(self, name: str, pid: int) -> None:
        status = self._zygote.wait(pid, 0)
        if status is not None:
            self._problem("ended", f"{name} ended by itself ({status}): {self.last_words()}")
        self._zygote.kill(pid)

    def _kill_writer(self, name: str, hits: Counter[str]) -> None:
        self._end(name, self._writers.pop(name))
        running = self._facts.running(name)
        if running is not None:
            hits[running] += 1

    def _judge(self) -> None:
        report = self.judge()
        self.tally.acked += report.get("acked", 0)
        self.tally.events += report.get("events", 0)
        self.tally.sights += report.get("sights", 0)
        self.tally.problems += report["problems"]
        self.tally.kinds.update(report["kinds"])
