"""A disk whose flush does not return: who appends waits, who reads does not, and memory stays bounded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import eventdb
from eventdb.producer import MAX_WAITING_BATCHES
from eventdb.storage.device.files import Files

THREADS = 8


class Gate:
    """Every flush of a file waits here while it is shut."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Semaphore(0)
        whole = Files.fdatasync

        def fdatasync(fd: int) -> None:
            if not self.open.is_set():
                self.waiting.release()
                assert self.open.wait(60)
            whole(fd)

        patch.setattr(Files, "fdatasync", staticmethod(fdatasync))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def numbers(db: eventdb.Database) -> list[int]:
    return [event["n"] for event in db.topic("log").read()]


def test_appends_wait_for_a_slow_flush_and_reads_do_not(tmp_path: Path, gate: Gate) -> None:
    acked: list[int] = []
    with eventdb.open(tmp_path / "db") as db:
        log = db.create_topic("log", {"n": "BIGINT NOT NULL"})
        log.append({"n": -1})

        def append(n: int) -> None:
            log.append({"n": n})
            acked.append(n)

        gate.open.clear()
        threads = [threading.Thread(target=append, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        assert gate.waiting.acquire(timeout=60)
        for _ in range(20):
            assert numbers(db) == [-1]  # what is not flushed is neither acknowledged nor shown
            assert db.sql("SELECT count(*) FROM log").fetchall() == [(1,)]
        assert acked == []
        assert db.stats()["poisoned"] == ""
        gate.open.set()
        for thread in threads:
            thread.join(60)
        assert sorted(acked) == list(range(THREADS))
        assert sorted(numbers(db)) == list(range(-1, THREADS))
        assert db._store.check(deep=True) == []


def test_a_producer_on_a_slow_disk_stops_taking_events_and_loses_none(tmp_path: Path, gate: Gate) -> None:
    rows = 10
    with eventdb.open(tmp_path / "db") as db:
        producer = db.create_topic("log", {"n": "BIGINT NOT NULL"}).producer(linger_ms=0, max_rows=rows)
        producer.send({"n": 0}).result(60)
        gate.open.clear()
        sent = [0]

        def send() -> None:
            for n in range(1, 500):
                producer.send({"n": n})
                sent.append(n)

        sender = threading.Thread(target=send)
        sender.start()
        assert gate.waiting.acquire(timeout=60)
        while True:  # until it takes no more
            count = len(sent)
            sender.join(0.3)
            if count == len(sent):
                break
        assert sender.is_alive()
        assert count <= rows * (MAX_WAITING_BATCHES + 3)
        assert numbers(db) == [0]
        gate.open.set()
        sender.join(60)
        producer.flush(60)
        assert numbers(db) == list(range(500))
