"""The rows a waiting reader takes from the head alone are those a snapshot shows, or it is told to take one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import eventdb

COLUMNS = {"n": "BIGINT", "device": "VARCHAR", "temp": "DOUBLE", "ok": "BOOLEAN"}
_OTHER = """
import os, sys, eventdb
topic = eventdb.open(sys.argv[1], durability="interval:100ms").topic("t")
for n in range(100, 103):
    topic.append({"n": n, "device": "first heard of elsewhere", "temp": None, "ok": True})
os._exit(0)  # as if killed: the head is left ahead of the index
"""


def _event(n: int) -> dict[str, Any]:
    return {"n": n, "device": f"d{n % 3}", "temp": None if n % 2 else n / 2, "ok": n % 4 == 0}


def _rows(db: eventdb.Database, topic: eventdb.Topic, start: int) -> list[Any]:
    with db._store.snapshot() as snapshot:
        return [row for chunk in snapshot.rows(topic._log, start, len(topic)) for row in chunk]


def test_the_tail_holds_the_rows_a_snapshot_shows(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", COLUMNS)
        told = 0
        for n in range(1_500):  # several segments
            topic.append(_event(n))
            start = max(0, n - n % 5)
            tail = db._store.tail(topic._log, start)
            expected = _rows(db, topic, start)
            if tail is not None:
                told += 1
                assert tail.rows(topic._log) == expected
                columns = [tail.slices(topic._log, start, n + 1)[0].column(i).to_pylist() for i in range(len(COLUMNS))]
                assert list(zip(*columns, strict=True)) == [row for _, _, row in expected]
        assert told > 1_450
        assert db._store.tail(topic._log, 1_500) is None  # nothing new


def test_a_string_first_heard_of_in_another_process_is_looked_up_in_the_index(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with eventdb.open(path, durability="interval:100ms") as db:
        topic = db.create_topic("t", COLUMNS)
        for n in range(100):
            topic.append(_event(n))
        assert len(list(topic.read())) == 100  # what is known of the index now is without that string
        subprocess.run([sys.executable, "-c", _OTHER, str(path)], check=True, timeout=60)
        assert db._store.tail(topic._log, 100) is None
        found = [(e["n"], e["device"]) for e in topic.read(100, follow=True, timeout=0.1)]
        assert found == [(n, "first heard of elsewhere") for n in range(100, 103)]
        topic.append(_event(103))
        assert [e["n"] for e in topic.read(100)] == [100, 101, 102, 103]


def test_a_subscription_that_picks_columns_hands_out_what_was_appended(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", COLUMNS)
        found: list[tuple[int, tuple[Any, ...]]] = []
        with db.subscribe("SELECT device, n, ok, temp FROM t", start="latest") as changes:
            changes.poll(0)

            def collect() -> None:
                for change in changes:
                    assert change.op == "+I"
                    found.append((change.offset, change.row))
                    if len(found) == 2_000:
                        return

            thread = threading.Thread(target=collect)
            thread.start()
            for n in range(2_000):
                topic.append(_event(n))
                if n % 50 == 0:
                    time.sleep(0.001)
            thread.join(30)
        events = map(_event, range(2_000))
        assert found == [(n, (e["device"], e["n"], e["ok"], e["temp"])) for n, e in enumerate(events)]


def test_a_wait_without_a_commit_ends_at_its_timeout(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", COLUMNS)
        topic.append(_event(0))
        store = db._store
        started = time.monotonic()
        assert store.wait(store.commit_id(), 0.2) == store.commit_id()
        assert 0.19 <= time.monotonic() - started < 2
