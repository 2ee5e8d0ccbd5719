"""When segments are sealed: by a helper process, when they are old, at close, one process at a time, killed or not."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventdb
from tests.storage.test_sealed import fill


def test_a_helper_process_seals_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal_process.SEAL_INTERVAL_MS", 50)
    with eventdb.open(tmp_path / "a.eventdb", durability="interval:50ms") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        for first in (0, 80_000):
            topic.append_many({"n": n} for n in range(first, first + 80_000))
        deadline = time.monotonic() + 60
        while not list((tmp_path / "a.eventdb" / "topics").rglob("*.col")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list((tmp_path / "a.eventdb" / "topics").rglob("*.col"))
        assert [event["n"] for event in topic.read()] == list(range(160_000))
    with eventdb.open(tmp_path / "a.eventdb") as db:
        assert db.check(deep=True) == []
        assert db.sql("SELECT count(*), sum(n) FROM t").fetchall() == [(160_000, 159_999 * 80_000)]


def test_closing_seals_what_waits_where_numpy_is_loaded(tmp_path: Path) -> None:
    import pyarrow as pa

    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        for first in (0, 100_000):
            topic.append_batch(pa.table({"n": np.arange(first, first + 100_000)}))
    assert list((tmp_path / "a.eventdb" / "topics").rglob("*.col"))
    with eventdb.open(tmp_path / "a.eventdb") as db:
        assert db.sql("SELECT count(*), sum(n) FROM t").fetchall() == [(200_000, 199_999 * 100_000)]
        assert db.check(deep=True) == []


def hours_later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """From now on the wall clock says so much more."""

    from eventdb.storage.device.files import Clock

    shift_us = int(hours * 3_600_000_000)
    monkeypatch.setattr(Clock, "time_us", lambda self: time.time_ns() // 1000 + shift_us)


def sealed_figures(db: eventdb.Database) -> Any:
    return db.stats()["sealed"]


def test_old_segments_are_sealed_though_they_are_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        options = {"slow": {}, "quick": {"seal_after": "10 minutes"}, "kept": {"seal_after": "never"}}
        for name, given in options.items():
            topic = db.create_topic(name, {"n": "BIGINT"}, **given)
            topic.append_many({"n": n} for n in range(2_000))
        db.create_topic("small", {"n": "BIGINT"}).append({"n": 1})  # nothing to win
        db.create_table("table", {"id": "BIGINT"}, primary_key="id").insert_many([{"id": n} for n in range(2_000)])
        sealer = db._store.sealer()
        assert not sealer.has_work()
        assert sealed_figures(db) == {"segments": 0, "rows": 0, "bytes": 0}
        for hours, rows in ((0.2, 2_000), (1.01, 4_000), (1_000, 4_000)):
            hours_later(monkeypatch, hours)
            assert sealer.has_work() == (hours < 1_000)
            assert sealer.step(lambda: False) == (hours < 1_000)
            assert not sealer.has_work()
            assert sealed_figures(db)["rows"] == rows
        assert sealed_figures(db)["bytes"] == sum(p.stat().st_size for p in Path(db.path).rglob("*.col"))
        assert db.stats()["sealing"]["rows"] == 4_000  # type: ignore[index]
        for name in options:
            db.topic(name).append({"n": 2_000})
            assert [event["n"] for event in db.topic(name).read()] == list(range(2_001))
        db.alter_topic("kept", seal_after=None)
        assert sealer.step(lambda: False)
        assert sealed_figures(db)["rows"] == 6_001
        assert db.check(deep=True) == []


def test_sealing_by_age_is_spared_what_was_appended_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        eventdb.open(tmp_path / "a.eventdb", durability="os") as db,
        eventdb.open(tmp_path / "a.eventdb", durability="os") as other,
    ):
        topic = db.create_topic("t", {"n": "BIGINT"}, seal_after="1 minute")
        topic.append_many({"n": n} for n in range(1_500))
        hours_later(monkeypatch, 1)
        other.topic("t").append({"n": 1_500})
        assert db._store.sealer().step(lambda: False)
        other.topic("t").append({"n": 1_501})
        assert not db._store.sealer().has_work()
        hours_later(monkeypatch, 2)
        assert not db._store.sealer().has_work()  # one row is not worth a file
        assert [event["n"] for event in other.topic("t").read()] == list(range(1_502))
        assert sealed_figures(db)["rows"] == 1_501


def test_closing_seals_old_segments_where_numpy_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        db.create_topic("t", {"n": "BIGINT"}).append_many({"n": n} for n in range(3_000))
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        assert sealed_figures(db)["rows"] == 0
        hours_later(monkeypatch, 3)
    with eventdb.open(tmp_path / "a.eventdb", read_only=True) as db:
        assert sealed_figures(db)["rows"] == 3_000
        assert [event["n"] for event in db.topic("t").read()] == list(range(3_000))


def test_a_large_table_is_no_work_for_the_sealer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays raw: a helper that is started for it finds nothing to do, every few seconds."""
    monkeypatch.setattr("eventdb.storage.sealed.sealer.SEAL_LEAST_ROWS", 1_000)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        table = db.create_table("t", {"id": "BIGINT"}, primary_key="id")
        for first in range(0, 9_000, 1_000):  # into several segments, all but the last one full
            table.insert_many([{"id": n} for n in range(first, first + 1_000)])
        assert not db._store.sealer().has_work()


def test_a_handle_seals_after_the_one_that_opened_the_store_is_closed(tmp_path: Path) -> None:
    first = eventdb.open(tmp_path / "a.eventdb", durability="os")
    second = eventdb.open(tmp_path / "a.eventdb", durability="os")
    third = eventdb.open(tmp_path / "a.eventdb", durability="os")
    second.create_topic("t", {"n": "BIGINT"}).append_many({"n": n} for n in range(3_000))
    third.close()
    first.close()
    assert second.compact(full=True)["rows"] == 3_000
    second.close()


def _three_topics(path: Path) -> Path:
    """Topics a, b and c with two segments each; the first one of b has lost its end. Returns that file."""
    with eventdb.open(path, durability="os") as db:
        for name in "abc":
            topic = db.create_topic(name, {"n": "BIGINT"})
            for first in (0, 80_000):
                topic.append_many({"n": n} for n in range(first, first + 80_000))
    (file, *_) = sorted((path / "topics" / "2" / "0").glob("*.seg"))
    file.write_bytes(file.read_bytes()[:10_000])
    return file


def test_a_damaged_segment_keeps_no_other_topic_from_being_sealed_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.eventdb"
    monkeypatch.setattr("eventdb.storage.sealed.sealer.Sealer.step_at_close", lambda self: None)
    file = _three_topics(path)
    with eventdb.open(path, durability="os") as db:
        assert db._store.sealer().step(lambda: False)
        assert all(list((path / "topics" / number / "0").glob("*.col")) for number in "13")
        (failure,) = db.stats()["sealing"]["failed"]  # type: ignore[index]
        assert failure.startswith("topic 2/0 cannot be sealed")
        assert file.name in failure


def test_compacting_goes_on_after_a_damaged_segment_and_ends_with_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.eventdb"
    monkeypatch.setattr("eventdb.storage.sealed.sealer.Sealer.step_at_close", lambda self: None)
    file = _three_topics(path)
    with eventdb.open(path, durability="os") as db:
        for _ in range(2):
            with pytest.raises(
                eventdb.CorruptionError, match=f"topic 2/0 cannot be sealed.*{file.name}.*repair"
            ) as told:
                db.compact(full=True)
            assert str(told.value).count("topic 2/0") == 1
        assert sealed_figures(db)["rows"] == 320_000
    eventdb.repair(path, accept_loss=True)
    with eventdb.open(path, durability="os") as db:
        db.compact(full=True)
        assert db.stats()["sealing"]["failed"] == []  # type: ignore[index]


def test_what_the_helper_process_cannot_seal_is_in_the_figures_of_who_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.eventdb"
    monkeypatch.setattr("eventdb.storage.sealed.sealer.Sealer.step_at_close", lambda self: None)
    monkeypatch.setattr("eventdb.storage.sealed.seal_process.SEAL_INTERVAL_MS", 50)
    _three_topics(path)
    with eventdb.open(path, durability="interval:50ms") as db:
        db.topic("a").append({"n": 0})
        deadline = time.monotonic() + 60
        while not db.stats()["sealing"]["failed"] and time.monotonic() < deadline:  # type: ignore[index]
            time.sleep(0.05)
        (failure,) = db.stats()["sealing"]["failed"]  # type: ignore[index]
        assert failure.startswith("topic 2/0 cannot be sealed")
        assert sealed_figures(db)["rows"] >= 160_000


def test_only_one_process_seals_and_its_death_frees_the_lease(tmp_path: Path) -> None:
    path = tmp_path / "a.eventdb"
    fill(path, 2_000).close()
    code = (
        "import sys, time, eventdb\n"
        "db = eventdb.open(sys.argv[1])\n"
        "assert db._store._sealer._acquire(0)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with eventdb.open(path) as db:
            sealer: Any = db._store._sealer
            assert sealer._acquire(50) is False
            holder.kill()
            holder.wait()
            assert db.compact(full=True)["rows"] == 2_000
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


KILLED = """
import sys, eventdb
with eventdb.open(sys.argv[1]) as db:
    topic = db.topic("t")
    print("ready", flush=True)
    n = 100_000
    while True:
        topic.append_many({"n": i} for i in range(n, n + 50))
        n += 50
        db.compact(full=True)
"""


def test_a_killed_sealer_leaves_every_row_in_its_place(tmp_path: Path) -> None:

    path = tmp_path / "a.eventdb"
    with eventdb.open(path) as db:
        db.create_topic("t", {"n": "BIGINT"}).append_many({"n": n + 90_000} for n in range(10_000))
    draw = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.3, 0.8))
        process.kill()
        process.wait()
        process.stdout.close()
        with eventdb.open(path) as db:
            found = [event["n"] for event in db.topic("t").read()]
            assert found[:10_000] == list(range(90_000, 100_000))
            rest = found[10_000:]
            assert rest == [n for start in _starts(rest) for n in start]
            assert db.check(deep=True) == []


def _starts(values: list[int]) -> list[range]:
    """The batches of 50 that whole lives of the writer wrote, each life from 100,000 on."""
    return [range(value, value + 50) for value in values[::50]]
