"""kill -9 of the process that maintains: another takes over, and nothing is missing or counted twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from eventdb.stream.reader import ViewReader
from eventdb.stream.state import StateKeys
from eventdb.stream.subscribe import Subscriber
from tests.stream.cases import SECOND, comparable, expect
from tests.stream.maintainer_process import BY_DEVICE, WINDOWED, open_store, specs_of
from tests.stream.memory_store import physical_rows
from tests.stream.test_law import content

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = 6


def _maintainer(path: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.stream.maintainer_process", path]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_maintainers_lose_nothing_and_double_nothing(tmp_path):
    path = str(tmp_path / "db")
    store = open_store(path)
    chance = random.Random(5)
    rows: list[tuple[object, ...]] = []
    log = specs_of(store)[0].input_log
    now = 0

    def append(count: int) -> None:
        nonlocal now
        batch = []
        for _ in range(count):
            now += chance.choice([0, 0, 1]) * SECOND // 4
            time_us = now - chance.randint(0, 8) * SECOND
            batch.append(("abcde"[chance.randint(0, 4)], chance.randint(0, 9), 1.5, time_us))
        with store.write() as transaction:
            transaction.append_rows(log, batch)
        rows.extend(batch)

    processes = [_maintainer(path)]
    try:
        for _ in range(KILLS):
            assert processes[-1].stdout.readline() == "lease\n"
            processes.append(_maintainer(path))  # waits for the lease
            deadline = time.monotonic() + chance.random() * 0.2
            while time.monotonic() < deadline:
                append(chance.randint(1, 400))
            os.kill(processes[-2].pid, signal.SIGKILL)
            processes[-2].wait()
            append(chance.randint(1, 50))
        assert processes[-1].stdout.readline() == "lease\n"
        windowed, by_device = specs_of(store)
        deadline = time.monotonic() + 30
        done = False
        while not done:
            assert time.monotonic() < deadline
            with store.snapshot() as snapshot:
                done = all(spec.keys.progress(snapshot).input_offset == len(rows) for spec in (windowed, by_device))
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    for spec, case in ((windowed, WINDOWED), (by_device, BY_DEVICE)):
        expected = expect(case, rows, [0] * len(rows))
        with store.snapshot() as snapshot:
            progress = spec.keys.progress(snapshot)
            assert progress.input_offset == len(rows), "the stored part alone must be right"
            assert progress.late_row_count == expected.late
            assert comparable(content(ViewReader(), spec, snapshot)) == comparable(expected.rows)
            if spec is windowed:
                assert len(list(StateKeys(spec.id).groups(snapshot))) == expected.open_groups
                assert snapshot.offsets(spec.output_log) == (0, len(expected.rows))
        subscriber = Subscriber(store, spec, "snapshot")
        got = physical_rows(subscriber.read(1.0).batch.columns)
        while (more := subscriber.read(0)) is not None:
            got += physical_rows(more.batch.columns)
        assert comparable(got) == comparable(expected.rows)
    store.close()
