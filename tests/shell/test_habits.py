"""What people type out of habit, and output whose reader goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eventdb
from eventdb_shell.commands import COMMANDS, HABITS, habit_command


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("help", ".help"), ("HELP;", ".help"), ("\\?", ".help"), ("quit", ".quit"), (" exit ; ", ".quit"),
        ("exit", ".quit"), ("\\q", ".quit"), ("\\d", ".tables"), ("\\d readings", ".schema readings"),
        ("\\d readings;", ".schema readings"), ("", None), (";", None), ("help me", None), ("quit 1", None),
        ("SELECT 1", None), ("\\x", None), ("\\d a b", None), ("exit_code", None),
    ],
)  # fmt: skip
def test_a_plain_word_alone_means_the_dot_command(typed: str, means: str | None) -> None:
    assert habit_command(typed) == means


def test_every_habit_leads_to_a_command() -> None:
    assert set(HABITS.values()) <= set(COMMANDS)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    path = tmp_path / "plant.eventdb"
    with eventdb.open(path, durability="os") as db:
        db.create_topic("t", {"n": "BIGINT"}).append_batch({"n": range(60_000)})
    return path


@pytest.mark.parametrize("arguments", [
    ["--mode", "csv", "-c", "SELECT * FROM t"], ["--mode", "json", "-c", "SELECT * FROM t"],
    ["--mode", "table", "-c", "SELECT * FROM t"], ["-c", "SELECT 1 AS one", "-c", "SELECT 2 AS two"],
])  # fmt: skip
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_closed_pipe_ends_the_command_without_a_word(plant: Path, arguments: list[str], reader: str) -> None:
    script = f'"$0" -m eventdb_shell "$@" | {reader} > /dev/null'
    ran = subprocess.run(
        ["sh", "-c", script, sys.executable, str(plant), *arguments], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_tail_whose_reader_goes_away_ends_without_a_word(plant: Path) -> None:
    script = '"$0" -m eventdb_shell tail "$1" t -n 50000 | head -1'
    ran = subprocess.run(["sh", "-c", script, sys.executable, str(plant)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 1
