"""Offsets whose events are lost for good: nobody gets them again, and everybody who reads goes on behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import OffsetOutOfRange
from tests.storage.test_repair import WHOLE, fill, offsets, segments

BY_WORD = "SELECT word, count(*) AS n, sum(n) AS total FROM log GROUP BY word"


def lose(path: Path, number: int) -> range:
    """The numbered segment of the log of test_repair.fill is lost, with consent. Returns its offsets."""
    files = segments(path)
    bases = [int(file.name.partition(".")[0]) for file in files]
    files[number].unlink()
    eventdb.repair(path, accept_loss=True)
    return range(bases[number], [*bases, 7000][number + 1])


def require_log(db: eventdb.Database, expected: list[tuple[int, int, str]], lost: range) -> None:
    """Every way to read the log gives exactly the expected rows (offset, n, word)."""
    log = db.topic("log")
    here = [offset for offset, _, _ in expected]
    assert [(e.offset, e["n"], e["word"]) for e in log.read()] == expected
    for start in {0, lost.start - 1, lost.start, lost.start + 1, lost.stop - 1, lost.stop} - {-1}:
        assert [e.offset for e in log.read(start, limit=3)] == [o for o in here if o >= start][:3]
        assert [e.offset for e in log.read(start, follow=True, limit=1)] == [o for o in here if o >= start][:1]
        with db.subscribe("log", start=start) as changes:
            found: list[int] = []
            while new := changes.poll(0):
                found += [change.offset for change in new]
        assert found == [o for o in here if o >= start]
    assert list(log.read(lost.start, stop=lost.stop)) == []
    assert list(log.read(lost.start, stop=lost.start + 1, follow=True)) == []
    figures = db.sql("SELECT count(*), sum(_offset), min(n), max(n), count(word) FROM log").fetchall()
    assert figures == [(len(here), sum(here), expected[0][1], expected[-1][1], len(here))]
    few = db.sql(f"SELECT _offset FROM log WHERE _offset >= {lost.start} ORDER BY _offset LIMIT 2").fetchall()
    assert few == [(o,) for o in here if o >= lost.start][:2]
    assert len(log) == len(here) == db.stats()["topics"]["log"]  # type: ignore[index]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("sealed", [False, True])
def test_no_offset_is_given_again_and_the_log_reads_on_behind_the_gap(
    tmp_path: Path, number: int, sealed: bool
) -> None:
    path = tmp_path / "db"
    fill(path)
    lost = lose(path, number)
    expected = [row for row in WHOLE if row[0] not in lost]
    with eventdb.open(path) as db:
        log = db.topic("log")
        assert log.offsets() == (0, 7000)
        assert log.append({"n": 7000, "word": "new"}).offset == 7000
        more = [{"n": n, "word": "new"} for n in range(7001, 12_000)]
        assert [p.offset for p in log.append_many(more)] == list(range(7001, 12_000))
        expected += [(n, n, "new") for n in range(7000, 12_000)]
        require_log(db, expected, lost)
        if sealed:
            db.compact(full=True)
        require_log(db, expected, lost)
    assert offsets(path) == expected
    assert eventdb.repair(path) == {"repaired": [], "lost": []}
    with eventdb.open(path) as db:
        require_log(db, expected, lost)
        db.topic("log").delete_before(lost.start + 1)
        assert next(iter(db.topic("log").read())).offset == lost.stop
        with pytest.raises(OffsetOutOfRange):
            db.topic("log").read(lost.start)
        db.topic("log").delete_before(lost.stop)
        assert len(db.topic("log")) == 12_000 - lost.stop
        assert db.check(deep=True) == []


def test_the_loss_of_all_of_a_topic_goes_on_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    for file in segments(path):
        file.unlink()
    eventdb.repair(path, accept_loss=True)
    with eventdb.open(path) as db:
        assert db.topic("log").offsets() == (7000, 7000)
        assert db.topic("log").append({"n": 1}).offset == 7000
        assert db.check(deep=True) == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("behind", [False, True])
def test_a_view_goes_on_behind_a_gap(tmp_path: Path, number: int, behind: bool) -> None:
    path = tmp_path / "db"
    fill(path)
    with eventdb.open(path) as db:
        if not behind:  # it has read the rows that are lost
            db.sql(
                "CREATE MATERIALIZED VIEW words AS SELECT word, count(*) AS n, sum(n) AS total FROM log GROUP BY word"
            )
            db.wait("words", 6_999, timeout=30)
    lost = lose(path, number)
    with eventdb.open(path) as db:
        if behind:
            db.sql(
                "CREATE MATERIALIZED VIEW words AS SELECT word, count(*) AS n, sum(n) AS total FROM log GROUP BY word"
            )
            db.sql("CREATE MATERIALIZED VIEW plain AS SELECT n FROM log WHERE n % 2 = 0")
        log = db.topic("log")
        log.append_many([{"n": n, "word": f"w{n % 40}"} for n in range(7_000, 7_100)])
        rows = [row for row in WHOLE if not (behind and row[0] in lost)]
        rows += [(n, n, f"w{n % 40}") for n in range(7_000, 7_100)]
        expected: dict[str, list[int]] = {}
        for _, n, word in rows:
            expected.setdefault(word, []).append(n)
        db.wait("words", 7_099, timeout=30)
        found = {word: (n, total) for word, n, total in db.sql("SELECT * FROM words").fetchall()}
        assert found == {word: (len(ns), sum(ns)) for word, ns in expected.items()}
        if behind:
            db.wait("plain", 7_099, timeout=30)
            assert sorted(db.sql("SELECT n FROM plain").fetchall()) == [(n,) for _, n, _ in rows if n % 2 == 0]


def test_a_subscription_to_an_aggregate_goes_on_behind_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    lost = lose(path, 2)
    with (
        eventdb.open(path) as db,
        db.subscribe("SELECT count(*) AS n FROM log EMIT CHANGES", start="snapshot") as changes,
    ):
        assert [change.row for change in changes.poll(0)][-1:] == [(7000 - len(lost),)]
        db.topic("log").append({"n": 7000, "word": "new"})
        assert [change.row for change in changes.poll(5)][-1:] == [(7001 - len(lost),)]


@pytest.mark.parametrize("number", [1, 2])
def test_a_backup_and_a_restore_keep_the_gap(tmp_path: Path, number: int) -> None:
    path = tmp_path / "db"
    fill(path)
    lost = lose(path, number)
    with eventdb.open(path) as db:
        db.topic("log").append_many([{"n": n, "word": "new"} for n in range(7000, 7100)])
        db.backup(tmp_path / "backup")
        expected = [(e.offset, e["n"], e["word"]) for e in db.topic("log").read()]
    eventdb.restore(tmp_path / "backup", tmp_path / "whole")
    assert offsets(tmp_path / "whole") == expected
    for i, end in enumerate((lost.start, lost.start + 1, lost.stop, 7050)):
        cut = tmp_path / f"cut{i}"
        eventdb.restore(tmp_path / "backup", cut, to_offset={"log": end})
        left = [row for row in expected if row[0] < end]
        assert offsets(cut) == left
        with eventdb.open(cut) as db:
            assert db.topic("log").append({"n": 0, "word": "w"}).offset == end
        assert offsets(cut) == [*left, (end, 0, "w")]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_headers_stay_with_their_events_around_a_gap(tmp_path: Path, number: int) -> None:
    path = tmp_path / "db"
    with eventdb.open(path) as db:
        log = db.create_topic("log", {"n": "BIGINT NOT NULL", "word": "VARCHAR"})
        for start in range(0, 7000, 500):
            log.append_many(
                [{"n": n, "word": "w"} for n in range(start, start + 500)],
                headers=[{"n": str(n).encode()} if n % 3 == 0 else None for n in range(start, start + 500)],
            )
    lost = lose(path, number)

    def require(end: int) -> None:
        with eventdb.open(path) as db:
            for e in db.topic("log").read():
                wanted: Any = (("n", str(e.offset).encode()),) if e.offset % 3 == 0 and e.offset < end else ()
                assert tuple(e.headers) == wanted
            assert db.check(deep=True) == []

    require(7000)
    with eventdb.open(path) as db:
        assert db.topic("log").append({"n": 1}, headers=None).offset == 7000
        assert db.topic("log").append({"n": 2}).offset == 7001
        assert db.topic("log").append({"n": 3}, headers={"n": b"7002"}).offset == 7002
        assert [tuple(e.headers) for e in db.topic("log").read(7000)] == [(), (), (("n", b"7002"),)]
        assert all(e.offset not in lost for e in db.topic("log").read())


def test_retention_passes_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    lost = lose(path, 1)
    with eventdb.open(path) as db:
        db.topic("log").append_many([{"n": n, "word": "new"} for n in range(7000, 7100)])
        db.alter_topic("log", retention="1 second")
        db.retain(trust_clock=True)
        db.alter_topic("log", retention=None, max_rows=lost.stop)
        db.retain()
        assert db.check(deep=True) == []
        assert [e.offset for e in db.topic("log").read()] == [
            o for o in range(db.topic("log").offsets()[0], 7100) if o not in lost
        ]
