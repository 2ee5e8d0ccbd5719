"""Rounds of the kill test: start writers, kill one at a random moment, let the others go on, check, repeat.

A kill counts only if an operation was running: the history's last word on that writer is a beginning. Everything else
(a kill during opening or recovery, or between two operations) happened too and is checked too, but is not counted.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.history import Tail
from tests.crash.workload import PRODUCER_PREFIX
from tests.crash.zygote import Zygote

START_SECONDS = 60.0
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


class Campaign:
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
    ) -> None:
        self._zygote = zygote
        self._work = work
        self._durability = durability
        self._rng = random.Random(seed)
        self._plant = plant
        self._views = views
        self._senders = senders  # share of victims that are idempotent producers
        self._generation = 0
        self.tally = Tally()
        self._fresh()

    def _fresh(self) -> None:
        self._generation += 1
        base = self._work / f"{self._generation:03d}"
        base.mkdir(parents=True)
        self._directory, self._history, self._output = base / "db", base / "history", base / "output"
        self._tally_base = (self.tally.acked, self.tally.events)

    def run(self, kills: int) -> Tally:
        """Rounds until `kills` kills counted or something is wrong."""
        while self.tally.counted < kills and not self.tally.problems and self.tally.rounds < 4 * kills + 20:
            if self.tally.rounds and self.tally.rounds % ROUNDS_PER_DIRECTORY == 0:
                self._fresh()
            self._round()
            self.tally.rounds += 1
        return self.tally

    def _start(self, name: str, *more: object) -> int:
        arguments = [self._directory, self._history, "--name", name, "--durability", self._durability,
                     "--seed", self._rng.randrange(1 << 30), *more]  # fmt: skip
        if self._plant:
            arguments += ["--plant", self._plant]
        return self._zygote.run("tests.crash.writer", arguments, str(self._output))

    def _acks(self, name: str) -> int:
        return Tail(str(self._history)).acks(name)

    def _await_acks(self, pid: int, name: str, count: int) -> None:
        """Until a writer has `count` acknowledgements or is dead."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._acks(name) >= count or self._zygote.wait(pid, 0.003) is not None:
                return
        self.tally.problems.append(f"stuck: writer {name} got no further than {self._acks(name)} acknowledgements")

    def _ended(self, name: str, status: int | None) -> None:
        end = " | ".join(self._output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        self.tally.problems.append(f"writer {name} ended by itself ({status}): {end}")

    def _kill(self, pid: int, name: str) -> None:
        """Kills a writer, unless it killed itself; a writer that ended in any other way is a problem."""
        status = self._zygote.wait(pid, 0)
        if status is not None and status != -signal.SIGKILL:
            self._ended(name, status)
        self._zygote.kill(pid)
        self.tally.kills += 1
        running = Tail(str(self._history)).running(name)
        if running is not None:
            self.tally.counted += 1
            self.tally.hit[running] += 1

    def _round(self) -> None:
        rng, serial = self._rng, self.tally.rounds
        victim = f"{PRODUCER_PREFIX}-a" if rng.random() < self._senders else f"w{serial}a"
        by_step = rng.random() < 0.5
        more: list[object] = ["--view"] if self._views else []
        start = self._acks(victim)
        others = []
        if rng.random() < 0.3:
            others.append((f"w{serial}b", self._start(f"w{serial}b", *more)))
        if rng.random() < 0.3:
            others.append(("follower", self._start("follower", "--role", "follower", *more)))
        if by_step:
            pid = self._start(
                victim, "--die-at-step", int(rng.expovariate(1 / rng.choice((100, 1_000, 8_000)))) + 1, *more
            )
            self._zygote.wait(pid, START_SECONDS)
        else:
            pid = self._start(victim, *more)
            if rng.random() < 0.9:
                self._await_acks(pid, victim, start + 1)
            time.sleep(rng.expovariate(1 / rng.choice((0.01, 0.05, 0.2))))
        self._kill(pid, victim)
        for name, other in others:
            if name != "follower":  # a killed process holds nobody up
                self._await_acks(other, name, self._acks(name) + 2)
            self._kill(other, name)
        self._check()

    def _check(self) -> None:
        more = ["--durability", self._durability, *(["--view"] if self._views else [])]
        report = run_checker(self._zygote, self._directory, self._history, self._output, *more)
        self.tally.problems += report["problems"]
        self.tally.recoveries[report.get("recovery", {}).get("kind", "?")] += 1
        self.tally.acked = self._tally_base[0] + report.get("acked", 0)
        self.tally.events = self._tally_base[1] + report.get("events", 0)


def run_checker(
    zygote: Zygote, directory: Path, history: Path, output: Path, *more: object, seconds: float = 120
) -> dict[str, Any]:
    """The checker's report, from a process of its own: a directory that kills its reader is a finding, not an end."""
    said = Path(f"{output}.check")
    said.unlink(missing_ok=True)
    pid = zygote.run("tests.crash.checker", [directory, history, *more], str(said))
    status = zygote.wait(pid, seconds)
    if status is None:
        zygote.kill(pid)
    text = said.read_text(encoding="utf-8", errors="replace") if os.path.exists(said) else ""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if status not in (0, 1) or not lines:
        end = " | ".join(text.strip().splitlines()[-3:])
        return {"problems": [f"unopenable: the checker ended with {status}: {end}"], "kinds": ["unopenable"]}
    report: dict[str, Any] = json.loads(lines[-1])
    return report
