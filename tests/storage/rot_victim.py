"""A process that dies with commits in its journal: what test_rot.py damages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import eventdb
from tests.storage.test_rot import fill, row


def main(arguments: list[str]) -> int:
    path = Path(arguments[0])
    fill(path)
    with eventdb.open(path) as db:
        for n in range(1520, 1532):
            db.topic("log").append(row(n))
        os.kill(os.getpid(), signal.SIGKILL)
    return 1
