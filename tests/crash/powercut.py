"""Real power cuts: a file system (ext4 or xfs) on a loop device is shut down under a running writer,
remounted and checked.

The method: FS_IOC_SHUTDOWN makes the file system forget everything it has not written, as a power cut does, in two
milliseconds. By itself that finds little, because between two flushes the kernel has usually written nothing at all.
So until the cut a nemesis writes back random page ranges of random files, as a kernel under memory pressure may.

The boot id does not change in such a cut, so writer and checker are told another one (`--boot-id`), as a machine that
lost its power would show.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.crash.lives import START_SECONDS, Lives
from tests.crash.workload import PRODUCER_PREFIX
from tests.crash.zygote import Zygote

FS_IOC_SHUTDOWN = 0x8004587D
JOURNAL_ONLY, NOTHING = 1, 2  # what the shutdown still writes
SYNC_FILE_RANGE = 1 | 2 | 4  # wait, write, wait
PAGE_BYTES = 4096
ROUNDS_PER_DIRECTORY = 10


def unavailable(file_system: str = "ext4") -> str | None:
    """Why this machine cannot cut the power of such a file system, None if it can."""
    if not sys.platform.startswith("linux"):
        return "power cuts need Linux"
    if os.geteuid() != 0:
        return "power cuts need root"
    missing = [tool for tool in (f"mkfs.{file_system}", "losetup", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"power cuts need {', '.join(missing)}"
    if not os.path.exists("/dev/loop-control"):
        return "power cuts need loop devices"
    free = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
    return None if free.returncode == 0 else f"no free loop device: {free.stderr.strip()}"


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Disk:
    """A file system that can lose its power. `mount` is where it appears."""

    def __init__(self, work: Path, file_system: str = "ext4", size_bytes: int = 400 << 20) -> None:
        self._image = work / "disk"
        self.mount = work / "mount"
        self.mount.mkdir(parents=True)
        with open(self._image, "wb") as file:
            file.truncate(size_bytes)
        _run(f"mkfs.{file_system}", "-q", "-F" if file_system == "ext4" else "-f", str(self._image))
        self._device = _run("losetup", "--show", "-f", str(self._image))
        self._mounted = False

    def power_on(self) -> None:
        _run("mount", self._device, str(self.mount))
        self._mounted = True

    def cut(self, what_survives: int) -> None:
        """From here on nothing reaches the device; every write fails."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", what_survives))
        finally:
            os.close(fd)

    def power_off(self) -> None:
        """Unmounts; retries while the kernel still releases what a killed process held."""
        for attempt in range(200):
            if subprocess.run(["umount", str(self.mount)], capture_output=True, check=False).returncode == 0:
                self._mounted = False
                return
            time.sleep(0.002 * (attempt + 1))
        raise RuntimeError(f"cannot unmount {self.mount}")

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mounted:
            self.power_off()
        _run("losetup", "-d", self._device)
        self._image.unlink()


class Nemesis:
    """Writes back random page ranges of random files below a directory."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            files = [os.path.join(base, name) for base, _, names in os.walk(self._directory) for name in names]
            for path in self._rng.sample(files, min(4, len(files))):
                self._write_back(path)
            time.sleep(0.0005)

    def _write_back(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return  # deleted meanwhile
        try:
            pages = os.fstat(fd).st_size // PAGE_BYTES
            for _ in range(8 if pages else 0):
                start = self._rng.randrange(pages) * PAGE_BYTES
                length = self._rng.choice((1, 1, 2, 8, 64)) * PAGE_BYTES
                self._libc.sync_file_range(fd, start, length, SYNC_FILE_RANGE)
        finally:
            os.close(fd)


@dataclass
class CutTally:
    """What happened so far. A cut counts if a writer was in an operation."""

    cuts: int = 0
    counted: int = 0
    broken: int = 0
    acked: int = 0
    lost_acked: int = 0
    worst_loss_s: float = 0.0
    recoveries: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.counted} cuts into running operations of {self.cuts}; {self.broken} broken {dict(self.kinds)}; "
            f"{self.lost_acked} acknowledged operations gone (worst {self.worst_loss_s * 1e3:.0f} ms before the cut); "
            f"recoveries {dict(self.recoveries)}"
        )


class CutCampaign(Lives):
    """Rounds of: power on, write, cut, power on, check."""

    def __init__(
        self,
        zygote: Zygote,
        work: Path,
        durability: str,
        seed: int,
        *,
        plant: str = "",
        run_s: float = 0.3,
        views: bool = False,
        file_system: str = "ext4",
        kinds: Sequence[str] = (),
    ) -> None:
        super().__init__(zygote, work, durability, seed, plant)
        self._seed = seed
        self._run_s = run_s
        self._file_system = file_system
        self._more = [*(["--view"] if views else []), *(["--kinds", *kinds] if kinds else [])]
        self._views = views
        self._fresh = True
        self._boot = 0
        self.tally = CutTally()

    def run(self, cuts: int, *, until_broken: bool = False) -> CutTally:
        """`cuts` cuts that count; with `until_broken` it ends at the first broken one."""
        tally = self.tally
        with Disk(self._work, self._file_system) as disk:
            while tally.counted < cuts and tally.cuts < 3 * cuts + 10:
                self._round(disk)
                if tally.problems and until_broken:
                    break
        return tally

    def _round(self, disk: Disk) -> None:
        tally, rng = self.tally, self._rng
        self.settle_in(self._work, disk.mount / "db")
        facts = self._facts
        disk.power_on()
        if self._fresh or tally.cuts % ROUNDS_PER_DIRECTORY == 0:
            shutil.rmtree(self._directory, ignore_errors=True)
            os.sync()
            self._history.unlink(missing_ok=True)
            self._fresh = False
        self._boot += 1
        name = f"{PRODUCER_PREFIX}-a" if rng.random() < 0.2 else f"w{tally.cuts}"
        before = facts.acks(name)
        pid = self.start(name, "--boot-id", f"boot-{self._boot}", *self._more)
        if rng.random() < 0.9:  # else the cut may hit opening, creating or recovery
            until = time.monotonic() + START_SECONDS
            while facts.acks(name) == before and time.monotonic() < until and self._zygote.wait(pid, 0.005) is None:
                pass
        Nemesis(self._directory, rng).run(self._run_s * rng.uniform(0.1, 1.0))
        status = self._zygote.wait(pid, 0)
        if status is not None:
            where = f"seed {self._seed} cut {tally.cuts}"
            tally.problems.append(f"{where}: the writer ended by itself ({status}): {self.last_words()}")
        disk.cut(rng.choice((JOURNAL_ONLY, NOTHING)))
        cut_s = time.monotonic()
        self._zygote.kill(pid)
        disk.power_off()
        tally.cuts += 1
        tally.counted += facts.running(name) is not None
        disk.power_on()
        self._boot += 1
        more = ["--view"] if self._views else []
        report = self.judge("--power", "--cut-s", cut_s, "--boot-id", f"boot-{self._boot}", *more)
        self._note(report, f"seed {self._seed} cut {tally.cuts}")
        os.sync()
        disk.power_off()

    def _note(self, report: dict[str, object], where: str) -> None:
        tally = self.tally
        problems = report["problems"]
        assert isinstance(problems, list)
        tally.lost_acked += int(str(report.get("lost_acked", 0)))
        tally.worst_loss_s = max(tally.worst_loss_s, float(str(report.get("loss_window_s", 0.0))))
        recovery = report.get("recovery", {})
        assert isinstance(recovery, dict)
        tally.recoveries[str(recovery.get("kind", "?"))] += 1
        if problems:
            tally.broken += 1
            tally.kinds.update(str(kind) for kind in report["kinds"])  # type: ignore[attr-defined]
            tally.problems += [f"{where}: {text}" for text in problems]
            self._fresh = True
