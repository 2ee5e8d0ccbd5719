"""A restored database ends where it was told to, and everything computed from the log agrees with that."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("stored", [False, True])
def test_a_view_over_a_topic_whose_start_was_trimmed_is_computed_from_what_is_left(
    tmp_path: Path, stored: bool
) -> None:
    with make(tmp_path / "db") as db:
        db.sql("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(n) AS total FROM log GROUP BY k")
        db.sql("CREATE MATERIALIZED VIEW big AS SELECT n FROM log WHERE n >= 1")
        for n in range(30):
            db.topic("log").append({"k": f"k{n % 3}", "n": n})
        for view in ("sums", "big"):
            db.wait(view, 29, timeout=20)
        db.topic("log").delete_before(12)
        db.backup(tmp_path / "backup")
    moment = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    how: dict[str, object] = {"to_offset": {"log": 25}} if stored else {"to_time": moment}
    report = eventdb.restore(tmp_path / "backup", tmp_path / "again", **how)  # type: ignore[arg-type]
    told = report["views_shortened"]
    assert isinstance(told, list)
    assert sorted(told) == [
        f"view {name} took events from offset 0 on into account, but its topic begins at 12 now: "
        "it is computed from there"
        for name in ("big", "sums")
    ]
    end = 25 if stored else 30
    with eventdb.open(tmp_path / "again") as db:
        assert content(db) == list(range(12, end))
        for view in ("sums", "big"):
            db.wait(view, end - 1, timeout=20)
        expected = {(f"k{k}", sum(n for n in range(12, end) if n % 3 == k)) for k in range(3)}
        assert set(db.sql("SELECT * FROM sums").fetchall()) == expected
        assert content(db, "big") == list(range(12, end))
        db.topic("log").append({"k": "k0", "n": 100})
        db.wait("big", end, timeout=20)
        assert content(db, "big") == [*range(12, end), 100]
    assert eventdb.restore(tmp_path / "backup", tmp_path / "whole")["views_shortened"] == []


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


def changed(db: eventdb.Database, states: dict[int, tuple[dt.datetime, dict[int, str | None]]], turns: range) -> None:
    """The table goes through states, which are noted by the offset its log then ends at."""
    table = db.table("t")
    model = dict(max(states.items())[1][1]) if states else {}
    for n in turns:
        if n % 5 == 4:
            keys = [k for k in range(40) if (k + n) % 7 == 0]
            table.delete_many(keys)
            for k in keys:
                model.pop(k, None)
        elif n % 3:
            table.put({"k": n % 11, "s": f"s{n}"})
            model[n % 11] = f"s{n}"
        else:
            rows = [{"k": k, "s": "long" * 600 if n == 12 else None} for k in range(n % 13, 40)]
            table.put_many(rows)
            model |= {row["k"]: row["s"] for row in rows}
        last = list(table.read(start=max(0, table.offsets()[1] - 1)))[-1]
        states[table.offsets()[1]] = (last.append_time, dict(model))


def test_a_table_goes_back_to_any_state_since_its_last_compaction(tmp_path: Path) -> None:
    states: dict[int, tuple[dt.datetime, dict[int, str | None]]] = {}
    with eventdb.open(tmp_path / "db", durability="os") as db:
        db.create_table("t", {"k": "INTEGER", "s": "VARCHAR"}, primary_key="k")
        changed(db, states, range(60))
        db.backup(tmp_path / "first")
        compacted = max(states)
        db.table("t").compact(full=True)
        changed(db, states, range(60, 90))
        db.backup(tmp_path / "second")
        current = {row["k"]: row["s"] for row in db.table("t").rows()}
    assert current == states[max(states)][1]
    ends = sorted(states)
    for number, end in enumerate([ends[0], ends[12], ends[33], ends[61], ends[70]]):
        moment, expected = states[end]
        backup = tmp_path / ("first" if end <= compacted else "second")
        wanted: dict[str, object] = {"to_offset": {"t": end}} if number % 2 else {"to_time": moment}
        path = tmp_path / f"again{number}"
        eventdb.restore(backup, path, **wanted)  # type: ignore[arg-type]
        with eventdb.open(path) as db:
            table = db.table("t")
            assert table.offsets()[1] == end
            assert {row["k"]: row["s"] for row in table.rows()} == expected
            assert {k: table.get(k) for k in range(40)} == {
                k: {"k": k, "s": expected[k]} if k in expected else None for k in range(40)
            }
            assert len(table) == len(expected)
            assert db.check(deep=True) == []
            again = {end: states[end]}
            changed(db, again, range(100, 130))
            assert dict(db.sql("SELECT k, s FROM t").fetchall()) == again[max(again)][1]
            table.compact(full=True)
            assert dict(db.sql("SELECT k, s FROM t").fetchall()) == again[max(again)][1]
            assert db.check(deep=True) == []
    with pytest.raises(eventdb.UnsupportedError, match=f"before offset {compacted} may have been compacted away"):
        eventdb.restore(tmp_path / "second", tmp_path / "no", to_offset={"t": ends[30]})
    assert not (tmp_path / "no").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(eventdb.UnsupportedError, match="compacted away"):
        eventdb.restore(tmp_path / "second", tmp_path / "empty", to_time=states[ends[30]][0])
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"to_time": "2026"}, {"to_time": 2026}, {"to_offset": "t"}, {"to_offset": 3}], ids=repr
)
def test_a_wrong_argument_of_restore_is_named_and_nothing_is_made(tmp_path: Path, wrong: Any) -> None:
    eventdb.open(tmp_path / "db").close()
    with pytest.raises(eventdb.UsageError, match=next(iter(wrong))):
        eventdb.restore(tmp_path / "db", tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
