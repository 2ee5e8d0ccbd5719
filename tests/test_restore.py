"""A restored database ends where it was told to, and everything computed from the log agrees with that."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import OffsetOutOfRange, StorageError, TopicNotFound, UsageError


def make(path: Path) -> eventdb.Database:
    db = eventdb.open(path, durability="os")
    db.create_topic("log", {"k": "VARCHAR", "n": "BIGINT NOT NULL"})
    db.create_topic("other", {"n": "BIGINT NOT NULL"})
    return db


def content(db: eventdb.Database, topic: str = "log") -> list[int]:
    return [n for (n,) in db.sql(f"SELECT n FROM {topic}").fetchall()]


def files_of(path: Path) -> dict[Path, bytes]:
    """Every file but those that readers share while they have the database open."""
    shared = ("lock.mdb", "-wal", "-shm")
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.name.endswith(shared)}


@pytest.mark.parametrize("end", [0, 1, 1023, 1024, 1025, 2999, 3000])
def test_a_log_ends_at_the_offset_and_goes_on_from_it(tmp_path: Path, end: int) -> None:
    with make(tmp_path / "db") as db:
        db.topic("log").append_many([{"k": f"k{n % 9}", "n": n} for n in range(3000)])
        db.topic("other").append({"n": 1})
        db.backup(tmp_path / "backup")
    eventdb.restore(tmp_path / "backup", tmp_path / "again", to_offset={"log": end})
    with eventdb.open(tmp_path / "again") as db:
        assert content(db) == list(range(end))
        assert content(db, "other") == [1]
        assert db.check(deep=True) == []
        assert db.topic("log").append({"k": "new", "n": 7}).offset == end
        assert db.check(deep=True) == []
    with eventdb.open(tmp_path / "again", read_only=True) as db:
        assert content(db) == [*range(end), 7]


def test_a_time_cuts_every_topic_at_its_append_time(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        for n in range(20):
            db.topic("log").append({"k": "a", "n": n})
            db.topic("other").append({"n": n})
        times = {t: [event.append_time for event in db.topic(t).read()] for t in ("log", "other")}
        db.backup(tmp_path / "backup")
    for moment in (times["log"][0], times["log"][7], times["other"][12], times["other"][19]):
        for shift in (dt.timedelta(0), dt.timedelta(microseconds=-1)):
            path = tmp_path / f"{moment.timestamp()}{shift}".replace(" ", "")
            eventdb.restore(tmp_path / "backup", path, to_time=moment + shift)
            with eventdb.open(path) as db:
                for topic, appended in times.items():
                    assert content(db, topic) == [n for n in range(20) if appended[n] <= moment + shift]


def test_views_and_producers_follow_the_cut(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        db.sql("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(n) AS total FROM log GROUP BY k")
        db.sql("CREATE MATERIALIZED VIEW big AS SELECT n FROM log WHERE n >= 10")
        with db.topic("log").producer(id="sensor") as producer:
            for n in range(30):
                producer.send({"k": f"k{n % 3}", "n": n})
            producer.flush()
        db.wait("sums", 29, timeout=20)
        db.wait("big", 29, timeout=20)
        db.backup(tmp_path / "backup")
    eventdb.restore(tmp_path / "backup", tmp_path / "again", to_offset={"log": 20})
    with eventdb.open(tmp_path / "again") as db:
        assert content(db) == list(range(20))
        db.wait("sums", 19, timeout=20)
        db.wait("big", 19, timeout=20)
        expected = {(f"k{k}", sum(n for n in range(20) if n % 3 == k)) for k in range(3)}
        assert set(db.sql("SELECT * FROM sums").fetchall()) == expected
        assert content(db, "big") == list(range(10, 20))
        with db.topic("log").producer(id="sensor") as producer:
            assert producer.send({"k": "x", "n": 19}, sequence=19).result().offset == 19  # known: not stored again
            assert producer.send({"k": "x", "n": 100}, sequence=20).result().offset == 20  # cut: stored now
        assert content(db) == [*range(20), 100]


def test_a_restore_that_cannot_be_done_says_why_and_leaves_the_backup_alone(tmp_path: Path) -> None:
    with make(tmp_path / "db") as db:
        db.topic("log").append({"k": "a", "n": 1})
        db.backup(tmp_path / "backup")
        before = files_of(tmp_path / "backup")
        with pytest.raises(OffsetOutOfRange, match=r"0\.\.1"):
            eventdb.restore(tmp_path / "backup", tmp_path / "a", to_offset={"log": 2})
        with pytest.raises(TopicNotFound):
            eventdb.restore(tmp_path / "backup", tmp_path / "b", to_offset={"lug": 2})
        with pytest.raises(UsageError, match="integer"):
            eventdb.restore(tmp_path / "backup", tmp_path / "b", to_offset={"log": 1.5})  # type: ignore[dict-item]
        with pytest.raises(StorageError, match="exists"):
            eventdb.restore(tmp_path / "backup", tmp_path / "db")
        with pytest.raises(StorageError):
            eventdb.restore(tmp_path / "nothing", tmp_path / "c")
    assert files_of(tmp_path / "backup") == before
    assert not [name for name in "abc" if (tmp_path / name).exists()]
