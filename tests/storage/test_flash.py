"""What a flush writes to the device: the page that changed, not what the kernel happens to cache beside it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

import eventdb


def written_bytes() -> int:
    """Bytes this process has made the kernel write to a device, by /proc/self/io."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def counts_on(directory: Path) -> bool:
    """Whether writes there reach a device that /proc/self/io counts (they do not in memory)."""
    try:
        before = written_bytes()
        (directory / "probe").write_bytes(bytes(4096))
        return written_bytes() > before
    except OSError:
        return False


def test_a_flush_of_one_event_writes_a_page_or_two_of_the_journal(tmp_path: Path) -> None:
    if not counts_on(tmp_path):
        pytest.skip("writes in this directory are not counted")
    with eventdb.open(tmp_path / "a.eventdb", durability="interval:20ms") as db:
        topic = db.create_topic("t", {"n": "BIGINT NOT NULL", "device": "VARCHAR NOT NULL"})
        for n in range(20):
            topic.append({"n": n, "device": "d"})
        found = []
        for n in range(15):
            time.sleep(0.1)  # flushed meanwhile: the next store makes its page dirty again
            before = written_bytes()
            topic.append({"n": n, "device": "d"})
            found.append(written_bytes() - before)
    assert statistics.median(found) <= 2 * 4096
