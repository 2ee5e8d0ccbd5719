"""The sweep: every system call on storage of a scenario fails once, in turn, and the process is killed at each.

strace does both to a real process (sweep_victim.py), which has everything imported, or open, before strace comes. A dry
run lists the calls that touch the directory; a point is the n-th call of one name and what happens to it. Only the main
thread is traced: strace counts per thread, and no other one has anything to do here (the victim flushes in turn what
would be flushed side by side). What is left is judged by the next process to open it (sweep_judge.py).

A fault counts if strace says that it was injected into a call on the directory. Reading fails with EIO alone and
mapping with ENOMEM: what they fail with. A short write is one of no bytes: strace replaces a call, so a longer one
would be a lie about what was stored. Real ones come from a limit on the size of files: the write that crosses it is cut
short, and the next one fails with EFBIG.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.sweep_judge import read_history
from tests.crash.sweep_victim import SCENARIOS, lose_power
from tests.crash.zygote import Zygote

WRITES = ("write", "pwrite64", "pwritev", "pwritev2", "writev")
READS = ("read", "pread64", "preadv", "getdents64", "newfstatat", "stat", "lstat", "statx", "readlink")
CHANGES = (
    "openat", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "msync", "rename", "renameat",
    "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat", "mkdir", "mkdirat", "chmod", "fchmod",
)  # fmt: skip
FAULTS = {
    **dict.fromkeys(WRITES, ("EIO", "ENOSPC", "short", "kill")),
    **dict.fromkeys(READS, ("EIO",)),
    **dict.fromkeys(CHANGES, ("EIO", "ENOSPC", "kill")),
    "mmap": ("ENOMEM",),
}
LEAST_LIMIT_BYTES = 4096  # the history must fit
SECONDS = 60.0
RETRIES = 3  # whatever shifts the count of a name by one (memory that Python maps, a poll) must not fail the sweep

_PWRITE = re.compile(r"^pwrite64\(.*, (\d+), (\d+)\) += \d+$")
_CALL = re.compile(r"^(\w+)\(")


def unavailable() -> str | None:
    """Why this machine cannot sweep, None if it can."""
    if not sys.platform.startswith("linux"):
        return "system calls are injected on Linux"
    if shutil.which("strace") is None:
        return "needs strace: apt-get install strace"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and scope.exists() and scope.read_text().strip() != "0":
        return "strace may not attach to a process here: kernel.yama.ptrace_scope is not 0"
    return None


@dataclass(frozen=True)
class Point:
    """The `count`-th call of `call` in a scenario, and what happens to it; for "limit", no file gets longer than
    `count` bytes until a step has failed."""

    scenario: str
    call: str
    count: int
    fault: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.fault} at {self.call} {self.count}"

    def injection(self) -> str:
        if self.fault in ("", "limit"):
            return ""
        what = {"kill": "signal=SIGKILL", "short": "retval=0"}.get(self.fault, f"error={self.fault}")
        return f"{self.call}:{what}:when={self.count}"


@dataclass
class Outcome:
    """What came of a point. `hit` is the call the fault was injected into, '' if there was none."""

    point: Point
    hit: str
    problems: list[str]


@dataclass
class SweepTally:
    """Outcomes so far."""

    points: int = 0
    fired: Counter[str] = field(default_factory=Counter)  # by fault
    scenarios: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.points += 1
        if outcome.hit:
            self.fired[outcome.point.fault] += 1
            self.scenarios[outcome.point.scenario] += 1
        else:
            self.problems.append(f"{outcome.point}: never fired")
        self.problems += [f"{outcome.point} ({outcome.hit:.120}): {text}" for text in outcome.problems]

    def __str__(self) -> str:
        return (
            f"{self.fired.total()} of {self.points} faults fired {dict(self.fired)} in {dict(self.scenarios)}; "
            f"{len(self.problems)} problems"
        )


class Sweep:
    """Points of scenarios, below `work`."""

    def __init__(self, zygote: Zygote, work: Path, plant: str = "") -> None:
        self._zygote = zygote
        self._plant = plant  # a bug of sweep_victim.py that the processes have
        self._work = work
        self._bases: dict[str, Path | None] = {}
        self._directory, self._history = work / "db", work / "history"
        self._output, self._trace = work / "output", work / "trace"

    def _run(self, module: str, arguments: Iterable[object]) -> int | None:
        pid = self._zygote.run(module, list(arguments), str(self._output))
        status = self._zygote.wait(pid, SECONDS)
        self._zygote.kill(pid)
        return status

    def _base(self, scenario: str) -> Path | None:
        """The directory a scenario begins with."""
        if scenario not in self._bases:
            path = None
            if SCENARIOS[scenario].base:
                path = self._work / f"base-{scenario}"
                status = self._run("tests.crash.sweep_victim", ["prepare", scenario, path])
                assert status == (-signal.SIGKILL if SCENARIOS[scenario].killed else 0), self._said()
                if SCENARIOS[scenario].power:
                    lose_power(path)
            self._bases[scenario] = path
        return self._bases[scenario]

    def _said(self) -> str:
        text = self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""
        return " | ".join(text.strip().splitlines()[-4:])

    # -- one run -------------------------------------------------------------------------------

    def _renew(self, scenario: str) -> None:
        """The directory is as the scenario begins."""
        base = self._base(scenario)
        shutil.rmtree(self._directory, ignore_errors=True)
        if base is not None:
            shutil.copytree(base, self._directory)

    def _victim(self, point: Point) -> int | None:
        self._renew(point.scenario)
        return self._run_victim(point)

    def _run_victim(self, point: Point) -> int | None:
        """A process runs the scenario under strace; its exit status, None if it hung."""
        ready, go = self._work / "ready", self._work / "go"
        for path in (self._history, self._output, self._trace, ready, go):
            path.unlink(missing_ok=True)
        go.write_bytes(b"\0")
        pid = self._zygote.run(
            "tests.crash.sweep_victim",
            ["run", point.scenario, self._directory, self._history, ready, go, self._plant]
            + [point.count] * (point.fault == "limit"),
            str(self._output),
        )
        _wait_until(lambda: ready.exists() or self._zygote.wait(pid, 0) is not None)
        assert ready.exists(), f"{point} did not get ready: {self._said()}"
        command = ["strace", "-y", "-qq", "-s", "0", "-o", str(self._trace), "-p", str(pid)]
        command += ["-e", "trace=" + ",".join(f"?{name}" for name in FAULTS)]
        if point.injection():
            command += ["-e", f"inject={point.injection()}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
            try:
                _wait_until(lambda: _traced(pid) or strace.poll() is not None)
                if strace.poll() is not None:
                    assert strace.stderr is not None
                    raise RuntimeError(f"strace: {strace.stderr.read().decode()}")
                with open(go, "r+b") as file:  # not truncated: the process maps it
                    file.write(b"\1")
                status = self._zygote.wait(pid, SECONDS)
            finally:
                self._zygote.kill(pid)
                strace.wait(SECONDS)
        return status

    def _calls(self) -> list[tuple[str, int, str]]:
        """(name, which of that name, line) of each call in the trace."""
        counts: Counter[str] = Counter()
        calls = []
        for line in self._trace.read_text(encoding="utf-8", errors="replace").splitlines():
            found = _CALL.match(line)
            if found is not None:
                counts[found[1]] += 1
                calls.append((found[1], counts[found[1]], line))
        return calls

    def _touches(self, line: str) -> bool:
        """A call on something in the directory that the device can fail: the status of an open file is in memory."""
        if "AT_EMPTY_PATH" in line:
            return False
        return f"{self._directory}/" in line or f'{self._directory}"' in line or f"{self._directory}>" in line

    def points(self, scenario: str) -> list[Point]:
        """Every point of a scenario, after a run of it in which nothing happens."""
        status = self._victim(Point(scenario, "", 0, ""))
        problems = self._judge(scenario)
        assert status == 0, (scenario, status, self._said())
        assert not problems, (scenario, problems)
        places = dict.fromkeys((name, count) for name, count, line in self._calls() if self._touches(line))
        points = [Point(scenario, name, count, fault) for name, count in places for fault in FAULTS[name]]
        # A journal file is allocated as a whole, so no write to it crosses a limit.
        writes = [
            _PWRITE.search(line) for _, _, line in self._calls() if self._touches(line) and "/journal/" not in line
        ]
        limits = sorted({int(found[2]) + int(found[1]) // 2 for found in writes if found is not None})
        return points + [Point(scenario, "pwrite64", limit, "limit") for limit in limits if limit > LEAST_LIMIT_BYTES]

    def strike(self, point: Point) -> Outcome:
        """One point: the fault happens, and what is left is judged."""
        for _ in range(RETRIES):
            status = self._victim(point)
            hit = self._hit(point, status)
            if hit:
                break
        problems = []
        if status is None:
            problems.append(f"stuck: {self._said()}")
        elif status != (-signal.SIGKILL if point.fault == "kill" and hit else 0):
            problems.append(f"died: it ended with {status}: {self._said()}")
        if point.fault == "kill":
            problems += self._judge_after_power_cut(point.scenario)
        return Outcome(point, hit, problems + self._judge(point.scenario))

    def _hit(self, point: Point, status: int | None) -> str:
        """The call on the directory that the fault was injected into."""
        if point.fault == "limit":  # a step failed, and nothing else makes one fail
            failed = [fact for fact in read_history(self._history) if fact[0] in ("failed", "unknown")]
            return str(failed[0]) if failed else ""
        calls = [line for name, _, line in self._calls() if name == point.call]
        if point.fault == "kill":
            struck = calls[-1:] if status == -signal.SIGKILL else []
        else:
            struck = [line for line in calls if "(INJECTED)" in line]
        return next((line for line in struck if self._touches(line)), "")

    def kill_again_and_again(self, kills: list[Point], rng: random.Random, lives: int) -> tuple[int, list[str]]:
        """Each life is killed somewhere in opening what the one before left, at times after a power cut.

        Returns how many kills happened, and the problems of what is left.
        """
        self._renew("reopen")
        killed = 0
        for _ in range(lives):
            killed += self._run_victim(rng.choice(kills)) == -signal.SIGKILL
            if rng.random() < 0.5:
                lose_power(self._directory)
        return killed, self._judge("reopen")

    def _judge_after_power_cut(self, scenario: str) -> list[str]:
        """Of a copy whose index is set back to its checkpoint: the journal alone has to know the rest."""
        copy = self._work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if not self._directory.exists():
            return []
        shutil.copytree(self._directory, copy)
        return [f"after a power cut: {text}" for text in self._judge(scenario, copy)] if lose_power(copy) else []

    def _judge(self, scenario: str, directory: Path | None = None) -> list[str]:
        self._output.unlink(missing_ok=True)
        status = self._run("tests.crash.sweep_judge", [scenario, directory or self._directory, self._history])
        lines = [line for line in self._said().split(" | ") if line.startswith("[")]
        if status != 0 or not lines:
            return [f"unopenable: the judge ended with {status}: {self._said()}"]
        problems: list[str] = json.loads(lines[-1])
        return problems


def _traced(pid: int) -> bool:
    """Whether the process has a tracer."""
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _wait_until(true: object) -> None:
    assert callable(true)
    until = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > until:
            raise TimeoutError("a swept process did not get on")
        time.sleep(0.001)
