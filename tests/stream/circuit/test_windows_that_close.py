"""EMIT ON WINDOW CLOSE of views of any shape: what it is the default for, what is refused, what it keeps and tells."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventdb
from bench import nexmark
from eventdb.errors import UnsupportedSQL
from eventdb.stream.circuit.query import CircuitQuery
from tests.relational.tables import normal
from tests.stream.circuit.event_time import T0
from tests.stream.circuit.histories import settled

A, B = (f"TUMBLE({name}, ts, INTERVAL '10 seconds')" for name in "ab")
COUNTS = f"SELECT window_end, k, count(*) AS n FROM {A} GROUP BY window_end, k"


@pytest.fixture
def db(tmp_path: Path):
    with eventdb.open(tmp_path / "db", durability="os") as db:
        for name in "ab":
            db.sql(
                f"CREATE TOPIC {name} (k VARCHAR, v BIGINT, ts TIMESTAMP, TIMESTAMP (ts), WATERMARK FOR ts AS ts - "
                "INTERVAL '2 seconds') WITH (partitions = 2)"
            )
        db.sql("CREATE TOPIC plain (k VARCHAR, v BIGINT, ts TIMESTAMP)")
        db.sql("CREATE TABLE sites (k VARCHAR PRIMARY KEY, v BIGINT)")
        yield db


def add(db: eventdb.Database, topic: str, *rows: tuple[int, str, float | None, int]) -> None:
    """Rows (partition, k, seconds, v), each a commit."""
    for partition, k, seconds, v in rows:
        ts = None if seconds is None else T0 + dt.timedelta(seconds=seconds)
        db.topic(topic).append({"k": k, "v": v, "ts": ts}, partition=partition)


def content(db: eventdb.Database, view: str) -> list[Any]:
    return normal(db.sql(f"SELECT * FROM {view}").fetchall())


def test_windows_over_watermarks_close_unless_the_view_says_otherwise(db: eventdb.Database) -> None:
    for i, query in enumerate((
        f"SELECT window_start, count(*) AS n FROM {A} GROUP BY window_start",  # several partitions
        f"SELECT max(n) AS n, window_end FROM ({COUNTS}) GROUP BY window_end",
        f"SELECT x.v, y.v AS w FROM {A} x JOIN {B} y ON x.k = y.k AND x.window_end = y.window_end",
        f"SELECT k, v FROM {A} QUALIFY row_number() OVER (PARTITION BY window_end ORDER BY v) = 1",
    )):  # fmt: skip
        db.sql(f"CREATE MATERIALIZED VIEW close{i} AS {query}")
        db.sql(f"CREATE MATERIALIZED VIEW revise{i} STATE LIMIT '10MB' AS {query} EMIT ON UPDATE")
        assert db.stats()["views"][f"close{i}"]["emit"] == "window_close"
        assert db.stats()["views"][f"revise{i}"]["emit"] == "update"
    db.sql("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s FROM a GROUP BY k")
    assert db.stats()["views"]["sums"]["emit"] == "update"
    add(db, "a", (0, "x", 1, 1), (1, "x", 1, 2), (0, "x", 12, 3))
    assert content(db, "close0") == []
    assert len(content(db, "revise0")) == 2
    add(db, "a", (1, "x", 12, 3))
    assert content(db, "close0") == normal([(T0, 2)])
    assert content(db, "close3") == [("x", 1.0)]


REFUSED = {
    f"SELECT k, max(n) AS n FROM ({COUNTS}) GROUP BY k": "a GROUP BY without a window .* add window_start",
    f"SELECT DISTINCT k FROM ({COUNTS})": "DISTINCT of columns without a window .* select window_end",
    f"SELECT * FROM ({COUNTS}) ORDER BY n LIMIT 3": "LIMIT across windows .* partition by window_end",
    f"SELECT x.v FROM {A} x JOIN {B} y ON x.k = y.k": r"does not compare the windows .* a.window_end = b.window_end",
    f"SELECT x.v FROM {A} x JOIN b ON x.k = b.k AND b.v > 1": "rows of a topic without a window .* FROM TUMBLE",
    f"SELECT window_end, s.v FROM {A} x JOIN sites s ON s.k = x.k": "reads the table 'sites' .* join it where you read",
    f"SELECT x.window_end FROM {A} x JOIN TUMBLE(plain, ts, INTERVAL '10 seconds') y ON x.window_end = y.window_end":
        "topic 'plain' never closes: it has no WATERMARK",
    f"SELECT window_end, sum(n) AS n FROM TUMBLE((SELECT window_end - INTERVAL '1 second' AS e, n FROM ({COUNTS})), e, "
    "INTERVAL '3 seconds') GROUP BY window_end": "a window over .* must be over window_time",
}  # fmt: skip


@pytest.mark.parametrize("query", REFUSED)
def test_what_cannot_close_is_refused_with_the_fix(db: eventdb.Database, query: str) -> None:
    with pytest.raises(UnsupportedSQL, match=f"(?s){REFUSED[query]}.*EMIT ON UPDATE"):
        db.sql(f"CREATE MATERIALIZED VIEW w AS {query} EMIT ON WINDOW CLOSE")
    assert not db.stats().get("views")


def test_a_view_over_a_view_whose_windows_close_is_refused(db: eventdb.Database) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {COUNTS}")
    with pytest.raises(UnsupportedSQL, match="whose windows close"):
        db.sql("CREATE MATERIALIZED VIEW x AS SELECT k, sum(n) AS n FROM w GROUP BY k")


def test_late_rows_are_dropped_and_counted_and_the_watermark_is_told(db: eventdb.Database) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {COUNTS} EMIT ON WINDOW CLOSE GRACE INTERVAL '5 seconds'")
    add(db, "a", (0, "x", 1, 1), (1, "x", 16.9, 1), (0, "x", 17, 1), (1, "x", 3, 1))
    assert content(db, "w") == []  # the mark is 14.9 s, the window closes at 15
    add(db, "a", (1, "y", 17, 1), (1, "x", 3, 1), (0, "x", None, 1))
    assert content(db, "w") == normal([(T0 + dt.timedelta(seconds=10), "x", 2)])
    settled(db)
    stats = db.stats()["views"]["w"]
    assert stats["late_rows"] == 1
    assert stats["watermark"] == T0 + dt.timedelta(seconds=15)


def test_a_row_late_for_several_windows_counts_once(db: eventdb.Database) -> None:
    hop = "HOP(a, ts, slide => INTERVAL '2 seconds', size => INTERVAL '10 seconds')"
    db.sql(f"CREATE MATERIALIZED VIEW w AS SELECT window_end, count(*) AS n FROM {hop} GROUP BY window_end")
    add(db, "a", (0, "x", 100, 1), (1, "x", 100, 1), (0, "x", 50, 1), (1, "x", 91, 1))
    content(db, "w")
    settled(db)
    assert db.stats()["views"]["w"]["late_rows"] == 2  # the last one for the windows that end at 92 to 98


def test_subscribers_get_rows_as_windows_close_in_that_order(db: eventdb.Database) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {COUNTS}")
    add(db, "a", (0, "y", 1, 1), (0, "x", 1, 1), (1, "x", 12, 1), (0, "x", 13, 1))
    with db.subscribe("w") as whole, db.subscribe("w", start="latest") as later, db.subscribe(COUNTS) as own:
        first = [tuple(change.row) for change in whole.poll(0)]
        assert first == [(T0 + dt.timedelta(seconds=10), "x", 1), (T0 + dt.timedelta(seconds=10), "y", 1)]
        assert [tuple(change.row) for change in own.poll(0)] == first
        assert later.poll(0) == []
        add(db, "a", (0, "x", 25, 1), (0, "x", 45, 1))
        assert whole.poll(0) == []
        add(db, "a", (1, "x", 45, 1))
        rest = [(T0 + dt.timedelta(seconds=20), "x", 2), (T0 + dt.timedelta(seconds=30), "x", 1)]
        for feed in (whole, later, own):
            changes = feed.poll(0)
            assert [change.op for change in changes] == ["+I", "+I"]
            assert [tuple(change.row) for change in changes] == rest


def test_an_old_snapshot_has_the_rows_of_its_own_time(db: eventdb.Database) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {COUNTS}")
    add(db, "a", (0, "x", 1, 1), (1, "x", 13, 1), (0, "x", 13, 1))
    with db.snapshot() as old:
        add(db, "a", (0, "x", 25, 1), (1, "x", 25, 1))
        for _ in range(2):
            assert len(content(db, "w")) == 2
            assert normal(old.sql("SELECT * FROM w").fetchall()) == normal([(T0 + dt.timedelta(seconds=10), "x", 1)])
            settled(db)


def test_a_restored_copy_has_the_windows_that_had_closed_there(db: eventdb.Database, tmp_path: Path) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {COUNTS}")
    add(db, "a", (0, "x", 1, 1), (1, "x", 13, 1), (0, "x", 13, 1))
    before = content(db, "w")
    time = db.sql("SELECT max(_append_time) FROM a").fetchall()[0][0]
    add(db, "a", (0, "x", 25, 1), (1, "x", 25, 1), (0, "x", 26, 1))
    settled(db)
    assert len(content(db, "w")) == 2
    db.backup(tmp_path / "copy")
    eventdb.restore(tmp_path / "copy", tmp_path / "other", to_time=time)
    with eventdb.open(tmp_path / "other") as other:
        assert content(other, "w") == before
        add(other, "a", (0, "x", 35, 1), (1, "x", 35, 1))
        assert content(other, "w") == normal([
            (T0 + dt.timedelta(seconds=10), "x", 1), (T0 + dt.timedelta(seconds=20), "x", 2)
        ])  # fmt: skip
        settled(other)
        assert len(content(other, "w")) == 2


@pytest.mark.parametrize("query", [
    COUNTS,
    f"SELECT x.window_end, x.k, y.v FROM {A} x JOIN {B} y ON x.k = y.k AND x.window_end = y.window_end AND x.v = y.v",
    f"SELECT window_end, max(n) AS n FROM ({COUNTS}) GROUP BY window_end",
    f"SELECT window_end, k, v FROM {A} QUALIFY row_number() OVER (PARTITION BY window_end ORDER BY v DESC) <= 3",
])  # fmt: skip
def test_the_state_is_that_of_the_open_windows_however_long_it_runs(db: eventdb.Database, query: str) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW w AS {query}")
    views = db._views_of()
    spec = views.spec(views._find("w"))
    kept = CircuitQuery(spec)
    kept.drop_content()
    sizes, stored, rows = [], [], 0
    for step in range(40):
        for name in "ab":
            for partition in (0, 1):
                seconds = np.arange(500) / 10 + 50 * step
                times = np.datetime64(T0, "us") + (seconds * 1e6).astype("timedelta64[us]")
                keys = [f"k{i % 7} {step}" for i in range(500)]
                db.topic(name).append_batch({"k": keys, "v": np.arange(500), "ts": times}, partition=partition)
        with db._store.snapshot() as snapshot:
            rows += sum(batch.row_count for batch in kept.advance(snapshot))
        kept = kept.without_lost_strings()
        sizes.append(kept.nbytes - kept.circuit.interner.nbytes)
        stored.append(sum(len(part.whole() or b"") for part in kept.parts))
    assert rows > 150
    assert sizes[-1] <= max(sizes[:8])
    assert max(stored[8:]) <= 1.1 * max(stored[:8])


def test_a_view_of_one_topic_may_group_by_window_end_alone(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        db.sql("CREATE TOPIC a (v BIGINT, ts TIMESTAMP, TIMESTAMP (ts), WATERMARK FOR ts AS ts - INTERVAL '2 seconds')")
        db.sql(f"CREATE MATERIALIZED VIEW w AS SELECT window_end, count(*) AS n FROM {A} GROUP BY window_end")
        for seconds in (1, 11.9):
            db.topic("a").append({"v": 1, "ts": T0 + dt.timedelta(seconds=seconds)})
        assert content(db, "w") == []
        db.topic("a").append({"v": 1, "ts": T0 + dt.timedelta(seconds=12)})
        assert content(db, "w") == normal([(T0 + dt.timedelta(seconds=10), 1)])


# --- Nexmark --------------------------------------------------------------------------------------------------------

Q7 = (
    "SELECT b.auction, b.price, b.bidder, b.dateTime, b.extra, b.window_end AS ends FROM {tumble_bid} b JOIN (SELECT "
    "max(price) AS maxprice, window_end AS t FROM {tumble_bid} GROUP BY window_start, window_end) m "
    "ON b.price = m.maxprice AND b.window_end = m.t"
)
Q5 = nexmark.QUERIES["q5"].replace("x.starttime FROM", "x.starttime, x.endtime AS ends FROM")
Q8 = nexmark.QUERIES["q8"].replace("p.starttime FROM", "p.starttime, p.endtime AS ends FROM")


def test_nexmark_views_hold_what_their_queries_answer_over_closed_windows(tmp_path: Path) -> None:
    how = {"rate": 50, "disorder": 100}
    groups = 24
    tables = {
        "person": nexmark.persons(0, groups, **how),
        "auction": nexmark.auctions(0, 3 * groups, **how),
        "bid": nexmark.bids(0, 46 * groups, **how),
    }
    db = eventdb.open(tmp_path / "db", durability="os")
    for name, columns in nexmark.TOPICS.items():
        declared = ", ".join(f"{column} {type}" for column, type in columns.items())
        db.sql(
            f"CREATE TOPIC {name} ({declared}, TIMESTAMP (dateTime), WATERMARK FOR dateTime AS dateTime - "
            "INTERVAL '4 seconds')"  # longer than events are late: no row is dropped
        )
    for name, query in (("q5", Q5), ("q7", Q7), ("q8", Q8)):
        db.sql(f"CREATE MATERIALIZED VIEW {name} AS {query.format(**nexmark.WINDOWS)} EMIT ON WINDOW CLOSE")
    read = {"q5": ("bid",), "q7": ("bid",), "q8": ("person", "auction")}
    for part in range(4):
        for name, table in tables.items():
            size = table.num_rows // 4
            db.topic(name).append_batch(table.slice(part * size, size))
        for name, query in (("q5", Q5), ("q7", Q7), ("q8", Q8)):
            marks = [db.sql(f"SELECT max(dateTime) FROM {topic}").fetchall()[0][0] for topic in read[name]]
            closed = min(marks) - dt.timedelta(seconds=4)
            text = query.format(**nexmark.WINDOWS)
            answer = normal(db.sql(f"SELECT * FROM ({text}) q WHERE ends <= TIMESTAMP '{closed}'").fetchall())
            assert content(db, name) == answer, (name, part)
            assert answer or part < 3, f"{name} has no rows: it shows nothing"
        if part == 1:
            db.close()
            db = eventdb.open(tmp_path / "db", durability="os")
    settled(db)
    assert {name: view["late_rows"] for name, view in db.stats()["views"].items()} == {"q5": 0, "q7": 0, "q8": 0}
    db.close()
