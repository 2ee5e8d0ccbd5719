"""How many bytes does the device write for a 100-byte event? Single appends at 10 a second, flushed every second.

    python -m bench flash [--seconds 30] [--rate 10] [--full]

Every contestant is a process on an ext4 file system of its own in a loop device (as root), whose counter says what
reached the device, journal of the file system and all; the process's own write_bytes (/proc/self/io) is shown too. They
run at the same time. Counting starts when the database has been opened and ends after its last flush; opening and
closing are paid once and are not counted. Without root only write_bytes is compared. `--full`: 300 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.contest import Opener, ours, peer
from bench.measure import Report, scratch
from bench.payload import Numbers, digest

EVENT_BYTES = 100
IMAGE_BYTES = 512 << 20
SECTOR_BYTES = 512
FULL_SECONDS = 300.0
OURS = "eventdb interval:1000ms"
CONTESTANTS: dict[str, Opener] = {
    OURS: ours("interval:1000ms"),
    "SQLite WAL/NORMAL": peer("sqlite", "SqliteLog", "NORMAL"),
    "SQLite WAL/FULL": peer("sqlite", "SqliteLog", "FULL"),
    "LMDB, synced every second": peer("lmdb", "LmdbLog", False),
}


class LoopDevice:
    """A file system of its own; `written` says what its device has been given."""

    def __init__(self, work: Path, name: str) -> None:
        self.mount = work / name
        image = work / f"{name}.image"
        self.mount.mkdir()
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        self.device = _run("losetup", "--show", "--find", str(image))
        try:
            _run("mount", "-o", "noatime", self.device, str(self.mount))
        except OSError:
            _run("losetup", "--detach", self.device)
            raise

    def written(self) -> int:
        fields = Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()
        return int(fields[6]) * SECTOR_BYTES

    def close(self) -> None:
        try:
            _run("umount", str(self.mount))
        finally:
            _run("losetup", "--detach", self.device)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise OSError(f"{command[0]}: {error.stderr.strip()}") from error


def written_by_this_process() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def child(name: str, path: Path, rate: float, seconds: float) -> int:
    """Appends on schedule; says "ready", waits for a line, works, says what it wrote, waits for a line, closes."""
    log = CONTESTANTS[name](path)
    numbers = Numbers(EVENT_BYTES)
    append = log.appender()
    flush = getattr(log, "flush", None)
    log.append_batch(log.prepare_batch(numbers.block(1_000)))  # every device has been heard of
    for one in numbers.block(20):
        append(log.prepare(one))
    if flush:
        flush()
    time.sleep(1.5)  # whatever the start left behind is flushed by now
    print("ready", flush=True)
    sys.stdin.readline()
    before, start, flushed = written_by_this_process(), time.monotonic(), time.monotonic()
    count = int(rate * seconds)
    for n in range(count):
        time.sleep(max(0.0, start + n / rate - time.monotonic()))
        append(log.prepare(numbers.block(1)[0]))
        if flush and time.monotonic() - flushed >= 1:
            flush()
            flushed = time.monotonic()
    if flush:
        flush()
    time.sleep(1.5)
    print(json.dumps([count, written_by_this_process() - before]), flush=True)
    sys.stdin.readline()
    same = digest(log.contents()) == digest(numbers.all())
    log.close()
    print(json.dumps(same), flush=True)
    return 0


@contextlib.contextmanager
def children(places: dict[str, Path], rate: float, seconds: float) -> Iterator[dict[str, subprocess.Popen[str]]]:
    found: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, place in places.items():
            command = [sys.executable, "-m", "bench.flash", "--child", name, "--path", str(place / "db"),
                       "--rate", str(rate), "--seconds", str(seconds)]  # fmt: skip
            found[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        yield found
    finally:
        for process in found.values():
            process.kill()
            process.wait()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"a contestant ended with status {process.wait()}")
    return line


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def flash(work: Path, rate: float, seconds: float, report: Report) -> None:
    devices: dict[str, LoopDevice] = {}
    places: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        for i, name in enumerate(CONTESTANTS):
            places[name] = work / f"place{i}"
            try:
                devices[name] = LoopDevice(work, f"place{i}")
            except OSError as error:
                report.note(f"no loop device for {name}, only its write_bytes count: {error}")
                places[name].mkdir(exist_ok=True)
            else:
                stack.callback(devices[name].close)
        with children(places, rate, seconds) as processes:
            for process in processes.values():
                _hear(process)
            os.sync()
            before = {name: device.written() for name, device in devices.items()}
            for process in processes.values():
                _tell(process)
            counts = {name: json.loads(_hear(process)) for name, process in processes.items()}
            os.sync()  # what the kernel still holds for SQLite and LMDB is theirs, too
            device = {name: devices[name].written() - before[name] for name in devices}
            for name, process in processes.items():
                _tell(process)
                if not json.loads(_hear(process)):
                    raise AssertionError(f"{name} does not hold the events it was given")
                process.wait()
    compare(report, counts, device)


def compare(report: Report, counts: dict[str, list[int]], device: dict[str, int]) -> None:
    whole = len(device) == len(counts)
    per_event = {name: (device[name] if whole else own) / count for name, (count, own) in counts.items()}
    kind = "device" if whole else "write_bytes"
    for name, theirs in per_event.items():
        if name != OURS:
            mine = per_event[OURS]
            report.add(f"{kind} / {name}", f"{mine:,.0f} against {theirs:,.0f} bytes an event",
                       f"{theirs / max(mine, 1):.2f}x", "fewer", 0 < mine <= theirs)  # fmt: skip
    for name, (count, own) in counts.items():
        report.note(f"{name}: write_bytes {own / count:,.0f} an event")


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench flash", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--full", action="store_true", help=f"{FULL_SECONDS:g} seconds")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return child(options.child, Path(options.path), options.rate, options.seconds)
    seconds = FULL_SECONDS if options.full else options.seconds
    report = Report(f"Bytes written for an event of {EVENT_BYTES} bytes, {options.rate:g} a second for {seconds:g} s")
    with scratch() as work:
        flash(work, options.rate, seconds, report)
    report.show()
    return report.missed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
