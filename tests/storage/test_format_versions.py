"""Formats: a newer one is left alone by every door, and there is no older one yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import eventdb
from eventdb.errors import FormatTooNew
from eventdb.storage.format import CRC, DATABASE_MAGIC, FORMAT, FORMAT_VERSION


def make(path: Path, version: int) -> None:
    """A database as a program that writes another format might leave it."""
    with eventdb.open(path) as db:
        db.create_topic("log", {"n": "BIGINT"}).append_many([{"n": n} for n in range(50)])
    data = bytearray((path / "FORMAT").read_bytes())
    magic, _, *rest = FORMAT.unpack_from(data)
    assert magic == DATABASE_MAGIC
    head = FORMAT.pack(magic, version, *rest)
    (path / "FORMAT").write_bytes(head + CRC.pack(crc32(head)))


def content(path: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.rglob("*")) if f.is_file()}


def back_up_into(path: Path) -> None:
    with eventdb.open(path.parent / "mine") as db:
        db.backup(path)


DOORS: dict[str, Callable[[Path], Any]] = {
    "open": eventdb.open,
    "read": lambda path: eventdb.open(path, read_only=True),
    "repair": eventdb.repair,
    "repair with loss": lambda path: eventdb.repair(path, accept_loss=True),
    "restore": lambda path: eventdb.restore(path, path.parent / "restored"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_newer_format_is_refused_by_every_door_and_not_touched(tmp_path: Path, door: str) -> None:
    make(tmp_path / "db", FORMAT_VERSION + 1)
    before = content(tmp_path / "db")
    for _ in range(2):
        with pytest.raises(FormatTooNew, match="upgrade EventDB"):
            DOORS[door](tmp_path / "db")
    after = content(tmp_path / "db")
    assert {name: after.get(name) for name in before} == before


def test_a_check_of_a_newer_format_says_so_and_a_backup_does_not_go_into_it(tmp_path: Path) -> None:
    make(tmp_path / "db", FORMAT_VERSION + 1)
    before = content(tmp_path / "db")
    found = eventdb.check(tmp_path / "db")
    assert len(found) == 1
    assert "upgrade EventDB" in found[0]
    with pytest.raises(eventdb.EventDBError):
        back_up_into(tmp_path / "db")
    assert content(tmp_path / "db") == before


def test_there_is_one_format() -> None:
    """Whoever adds another one writes the move from the old to the new, and a scenario of tests/crash/sweep_victim.py
    in which it is killed and failed at every call."""
    assert FORMAT_VERSION == 1
