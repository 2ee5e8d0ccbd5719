"""The bank: readers in other processes never see money appear or vanish, also while maintainers are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eventdb
from tests.stream.circuit import bank

ROOT = Path(__file__).resolve().parent.parent.parent.parent
EVENTS = int(os.environ.get("EVENTDB_BANK_EVENTS", "1500"))


def _reader(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.stream.circuit.bank", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    return process


def _ended(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate("stop\n", timeout=120)
    seen = json.loads(out)
    assert seen["wrong"] == []
    assert seen["reads"] > 0


@pytest.mark.parametrize("kills", [0, 4])
def test_the_total_is_zero_at_every_read_of_other_processes(tmp_path: Path, kills: int) -> None:
    """Each process that is killed may have been the one that maintains the views."""
    path = tmp_path / "db"
    chance = random.Random(7)
    with eventdb.open(path) as db:
        bank.create(db)
        rows = list(bank.transfers(EVENTS))
        topic = db.topic("transfers")
        readers = [_reader(path), _reader(path)]
        at = 0
        kills_at = sorted(chance.sample(range(EVENTS), kills))
        while at < EVENTS:
            count = chance.choice([1, 1, 1, 2, 50])
            topic.append_many(rows[at : at + count])
            at += count
            if kills_at and kills_at[0] <= at:
                kills_at.pop(0)
                victim = readers.pop(0)
                victim.send_signal(signal.SIGKILL)
                victim.communicate()
                readers.append(_reader(path))
            if chance.random() < 0.05:
                time.sleep(0.01)
        for reader in readers:
            _ended(reader)
        expected = dict.fromkeys(range(bank.ACCOUNTS), 0)
        for row in rows[:at]:
            expected[row["sender"]] -= row["amount"]
            expected[row["receiver"]] += row["amount"]
        assert dict(db.sql("SELECT account, balance FROM balance").fetchall()) == expected
    with eventdb.open(path) as db:
        assert dict(db.sql("SELECT account, balance FROM balance").fetchall()) == expected
        assert db.sql("SELECT total FROM total").fetchall() == [(0,)]
