"""Small real file systems for tests, as full and as short of inodes as one wishes. Root only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _require(*tools: str) -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("a file system of its own needs Linux and root")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@contextlib.contextmanager
def tmpfs(at: Path, options: str) -> Iterator[Path]:
    """A tmpfs mounted at a new directory."""
    _require("mount", "umount")
    at.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at))
    except OSError as error:
        pytest.skip(str(error))
    try:
        yield at
    finally:
        _run("umount", str(at))


@contextlib.contextmanager
def ext4(at: Path, size_bytes: int, *make: str) -> Iterator[Path]:
    """A new ext4 mounted at a new directory; `make` are options of mkfs. Its image lies beside."""
    _require("mount", "umount", "losetup", "mkfs.ext4")
    at.mkdir()
    image = at.with_suffix(".image")
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", *make, str(image))
    try:
        device = _run("losetup", "--show", "-f", str(image))
    except OSError as error:
        pytest.skip(str(error))
    try:
        _run("mount", device, str(at))
        try:
            yield at
        finally:
            _run("umount", str(at))
    finally:
        _run("losetup", "-d", device)


def fill(path: Path) -> None:
    """A neighbour takes all the room there is."""
    for size in (1 << 16, 1 << 12):
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as out:
            while True:
                out.write(bytes(size))


@contextlib.contextmanager
def bad_sectors(at: Path, source: Path, victim: Path, good_bytes: int) -> Iterator[Path]:
    """A copy of the directory `source` on a file system of its own, where reading the file `victim` (a path in it)
    beyond its first `good_bytes` is an I/O error, and reading anything else is not.

    The victim is written last, behind everything, and then the image below the loop device is cut short there.
    """
    _require("filefrag")
    with ext4(at, 64 << 20, "-b", "4096", "-O", "^has_journal") as mount:
        copy = mount / "db"
        shutil.copytree(
            source, copy, ignore=lambda folder, names: {victim.name} if Path(folder) == victim.parent else []
        )
        os.sync()
        (mount / "between").write_bytes(bytes(8 << 20))
        os.sync()
        shutil.copy(victim, copy / victim.relative_to(source))
        os.sync()
        first = _first_block(copy / victim.relative_to(source))
        others = [
            file for file in copy.rglob("*") if file.is_file() and file.stat().st_size and file.name != victim.name
        ]
        assert max(map(_first_block, others)) < first
        device = _run("findmnt", "-n", "-o", "SOURCE", str(mount))
        _run("umount", str(mount))
        os.truncate(at.with_suffix(".image"), first * 4096 + good_bytes)
        _run("mount", device, str(mount))
        yield copy


def _first_block(file: Path) -> int:
    """Where a file of one extent begins on the device."""
    lines = _run("filefrag", "-v", "-b4096", str(file)).splitlines()
    extents = [line.replace("..", " ").replace(":", " ").split() for line in lines if line.lstrip()[:1].isdigit()]
    assert len(extents) == 1, lines
    return int(extents[0][3])
