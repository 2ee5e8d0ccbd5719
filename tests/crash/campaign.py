"""Rounds of the kill test: start writers, kill one at a random moment, let the others go on, check, repeat.

A kill counts only if an operation was running: the history's last word on that writer is a beginning. Everything else
(a kill during opening or recovery, or between two operations) happened too and is checked too, but is not counted.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.lives import START_SECONDS, Lives
from tests.crash.workload import PRODUCER_PREFIX
from tests.crash.zygote import Zygote

ROUNDS_PER_DIRECTORY = 12


@dataclass
class Tally:
    """What happened so far. `counted` kills hit a running operation."""

    kills: int = 0
    counted: int = 0
    rounds: int = 0
    recoveries: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    acked: int = 0
    events: int = 0
    hit: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        hit = ", ".join(f"{kind} {count}" for kind, count in sorted(self.hit.items()))
        return (
            f"{self.counted} kills of running operations ({hit}) of {self.kills} kills in {self.rounds} rounds; "
            f"{self.acked} operations acknowledged, {self.events} events; recoveries {dict(self.recoveries)}; "
            f"{len(self.problems)} problems"
        )


class Campaign(Lives):
    """Kill rounds in one durability mode below `work`. `run` goes on until enough kills counted."""

    def __init__(
        self,
        zygote: Zygote,
        work: Path,
        durability: str,
        seed: int,
        *,
        plant: str = "",
        views: bool = False,
        senders: float = 0.25,
        kinds: Sequence[str] = (),
    ) -> None:
        super().__init__(zygote, work, durability, seed, plant)
        self._more: list[object] = [*(["--view"] if views else []), *(["--kinds", *kinds] if kinds else [])]
        self._views = views
        self._senders = senders  # share of victims that are idempotent producers
        self._generation = 0
        self.tally = Tally()
        self._fresh()

    def _fresh(self) -> None:
        self._generation += 1
        self.settle_in(self._work / f"{self._generation:03d}")
        self._tally_base = (self.tally.acked, self.tally.events)

    def run(self, kills: int) -> Tally:
        """Rounds until `kills` kills counted or something is wrong."""
        while self.tally.counted < kills and not self.tally.problems and self.tally.rounds < 4 * kills + 20:
            if self.tally.rounds and self.tally.rounds % ROUNDS_PER_DIRECTORY == 0:
                self._fresh()
            self._round()
            self.tally.rounds += 1
        return self.tally

    def _ended(self, name: str, status: int | None) -> None:
        self.tally.problems.append(f"writer {name} ended by itself ({status}): {self.last_words()}")

    def _stuck(self, text: str) -> None:
        self.tally.problems.append(f"stuck: {text}")

    def _kill(self, pid: int, name: str) -> None:
        """Kills a writer, unless it killed itself; a writer that ended in any other way is a problem."""
        status = self._zygote.wait(pid, 0)
        if status is not None and status != -signal.SIGKILL:
            self._ended(name, status)
        self._zygote.kill(pid)
        self.tally.kills += 1
        running = self._facts.running(name)
        if running is not None:
            self.tally.counted += 1
            self.tally.hit[running] += 1

    def _round(self) -> None:
        rng, serial = self._rng, self.tally.rounds
        victim = f"{PRODUCER_PREFIX}-a" if rng.random() < self._senders else f"w{serial}a"
        by_step = rng.random() < 0.5
        more = self._more
        start = self._facts.acks(victim)
        others = []
        if rng.random() < 0.3:
            others.append((f"w{serial}b", self.start(f"w{serial}b", *more)))
        if rng.random() < 0.3:
            others.append(("follower", self.start("follower", "--role", "follower", *more)))
        if by_step:
            pid = self.start(
                victim, "--die-at-step", int(rng.expovariate(1 / rng.choice((100, 1_000, 8_000)))) + 1, *more
            )
            self._zygote.wait(pid, START_SECONDS)
        else:
            pid = self.start(victim, *more)
            if rng.random() < 0.9:
                self.await_acks(pid, victim, start + 1, self._stuck)
            time.sleep(rng.expovariate(1 / rng.choice((0.01, 0.05, 0.2))))
        self._kill(pid, victim)
        for name, other in others:
            if name != "follower":  # a killed process holds nobody up
                self.await_acks(other, name, self._facts.acks(name) + 2, self._stuck)
            self._kill(other, name)
        self._check()

    def _check(self) -> None:
        report = self.judge(*(["--view"] if self._views else []))
        self.tally.problems += report["problems"]
        self.tally.recoveries[report.get("recovery", {}).get("kind", "?")] += 1
        self.tally.acked = self._tally_base[0] + report.get("acked", 0)
        self.tally.events = self._tally_base[1] + report.get("events", 0)
