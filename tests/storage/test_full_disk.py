"""Disks that are really full, of bytes or of files: nobody dies, nothing acknowledged is lost, reading goes on, and so
does writing when there is room."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.storage.disks import ext4, fill, tmpfs

ROOT = Path(__file__).resolve().parent.parent.parent


class Process:
    """full_victim.py, running. `told` are the facts it said."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.storage.full_victim", *map(str, arguments)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        self.told: list[Any] = []

    def until(self, what: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.told.append(json.loads(line))
            if self.told[-1][0] == what:
                return
        raise AssertionError(self._process.communicate()[1])

    def end(self) -> int:
        output, errors = self._process.communicate(timeout=60)
        self.told += [json.loads(line) for line in output.splitlines()]
        assert self._process.returncode in (0, -9), errors
        return self._process.returncode

    def acked(self) -> int:
        return max(fact[1] for fact in self.told if fact[0] == "acked")

    def refusals(self) -> list[Any]:
        return [fact for fact in self.told if fact[0] == "full"]


def judge(process: Process, directory: Path) -> None:
    """Every refusal named the cause and left what was acknowledged readable; the next process finds the same."""
    acked = 0
    for what, *rest in process.told:
        if what == "acked":
            acked = rest[0]
        elif what == "full":
            assert "no space left" in rest[1]
            assert rest[2] == acked
    found = Process("look", directory)
    assert found.end() == 0
    assert found.told[0][1:3] == [acked, []]
    assert found.told[1][1] > 0  # and old events go


def run(directory: Path, room: Path, make_room: Any, *more: object) -> None:
    process = Process(directory, room, *more)
    process.until("waiting")
    assert len(process.refusals()) >= 6
    make_room()
    room.touch()
    assert process.end() == 0
    judge(process, directory)


@contextlib.contextmanager
def disk(kind: str, at: Path) -> Iterator[Path]:
    """With room for a database and little more."""
    if kind == "tmpfs":
        with tmpfs(at, "size=4M") as mount:
            yield mount
    else:
        with ext4(at, 16 << 20, "-O", "^has_journal") as mount:
            yield mount


def neighbour(mount: Path, left_bytes: int) -> Path:
    """A file of another program leaves so much room."""
    status = os.statvfs(mount)
    file = mount / "neighbour"
    with open(file, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, status.f_bavail * status.f_frsize - left_bytes)
    return file


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_fills_up_refuses_appends_kills_nobody_and_is_used_again(tmp_path: Path, kind: str) -> None:
    with disk(kind, tmp_path / "disk") as mount:
        file = neighbour(mount, 2 << 20)
        run(mount / "db", tmp_path / "room", file.unlink, "rows")


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_killed_process_is_recovered_from_on_a_disk_without_a_free_byte(tmp_path: Path, kind: str) -> None:
    with disk(kind, tmp_path / "disk") as mount:
        neighbour(mount, 2 << 20)
        process = Process(mount / "db", "die", "rows")
        assert process.end() == -9
        fill(mount / "more")
        status = os.statvfs(mount)
        assert status.f_bavail * status.f_frsize < 4096
        judge(process, mount / "db")


def test_a_disk_without_inodes_refuses_what_needs_a_file(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=64M,nr_inodes=40") as mount:
        make_room = ["mount", "-o", "remount,nr_inodes=400", str(mount)]
        run(mount / "db", tmp_path / "room", lambda: subprocess.run(make_room, check=True), "topics")
