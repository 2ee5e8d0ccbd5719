"""Views through the public interface, where the views' thread and the user's threads meet."""

from __future__ import annotations

import threading
import time

import pytest

import eventdb


@pytest.fixture
def db(tmp_path):
    with eventdb.open(str(tmp_path / "db"), durability="os") as made:
        made.sql("CREATE TOPIC readings (device VARCHAR, temp DOUBLE, ts TIMESTAMP)")
        yield made


def test_binding_a_view_holds_no_lock_while_it_waits_for_the_database(db):
    """The views' thread binds while a user's thread holds the database's lock and looks for new views."""
    db.sql("CREATE MATERIALIZED VIEW v AS SELECT device, count(*) AS n FROM readings GROUP BY device")
    views = db._views_of()
    views.stop()
    [info] = db._catalog.views()
    views._specs.clear()
    db._logs.clear()
    with db._lock:
        binding = threading.Thread(target=views.spec, args=(info,))
        binding.start()
        time.sleep(0.1)
        assert binding.is_alive(), "it needs the database's lock"
        free = views._lock.acquire(timeout=2)
        assert free
        views._lock.release()
    binding.join(5)
    assert not binding.is_alive()


@pytest.mark.timeout(60)
def test_views_are_created_and_dropped_while_events_arrive(db):
    topic = db.topic("readings")
    stop = threading.Event()

    def append() -> None:
        while not stop.is_set():
            topic.append({"device": "a", "temp": 1.0, "ts": None})
            time.sleep(0.0005)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for i in range(8):
            db.sql(f"CREATE MATERIALIZED VIEW v{i} AS SELECT device, count(*) AS n FROM readings GROUP BY device")
            [(device, count)] = db.sql(f"SELECT * FROM v{i}").fetchall() or [("a", 0)]
            assert (device, count >= 0) == ("a", True)
            if i % 2:
                db.sql(f"DROP VIEW v{i - 1}")
    finally:
        stop.set()
        thread.join()
    with db.snapshot() as snapshot:
        [(total,)] = snapshot.sql("SELECT count(*) FROM readings").fetchall()
        for i in range(1, 8, 2):
            assert snapshot.sql(f"SELECT n FROM v{i}").fetchall() == [(total,)]
