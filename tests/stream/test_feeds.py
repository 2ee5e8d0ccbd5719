"""How changes reach their reader: with progress, once in a while, by callback, iterator, asyncio, Arrow; and slowly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import ParseError, UnsupportedSQL
from eventdb.subscription import Subscription

KINDS = {
    "a view of one topic": "SELECT k, count(*) AS n, sum(x) AS s FROM t GROUP BY k",
    "a circuit": "SELECT k, count(*) AS n, sum(x) AS s FROM (SELECT * FROM t JOIN u USING (k)) GROUP BY k",
}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        db.sql("CREATE TOPIC t (k VARCHAR, x BIGINT, at TIMESTAMP, TIMESTAMP (at), WATERMARK FOR at AS at)")
        db.sql("CREATE TABLE u (k VARCHAR PRIMARY KEY)")
        db.sql("INSERT INTO u VALUES ('a'), ('b')")
        yield db


@pytest.fixture(params=KINDS)
def query(request: pytest.FixtureRequest) -> str:
    return KINDS[request.param]


def _append(db: eventdb.Database, *rows: tuple[str, int]) -> None:
    db.topic("t").append_many([{"k": k, "x": x} for k, x in rows])


def _due(feed: Subscription) -> None:
    """The interval of EMIT EVERY is over."""
    assert feed._subscriber._due_s > time.monotonic()
    feed._subscriber._due_s = 0.0


def test_progress_says_that_everything_is_in_and_where_to_go_on(db: eventdb.Database, query: str) -> None:
    feed = db.subscribe(f"SUBSCRIBE TO ({query}) WITH PROGRESS")
    [first] = feed.poll(0)
    assert (first.op, first.row) == ("progress", ())
    assert feed.poll(0) == []
    _append(db, ("c", 1), ("a", 2))
    changes = feed.poll(0)
    assert {change.op for change in changes} == {"+I"}
    [message] = feed.poll(0)
    assert isinstance(message, eventdb.ProgressMessage)
    assert message.offset >= first.offset
    assert message.watermark is None
    assert message.token == feed.token
    assert feed.poll(0) == []
    _append(db, ("a", 0))
    [again] = [c for c in db.subscribe(f"SUBSCRIBE TO ({query})", after=message.token).poll(0) if c.op == "+U"]
    assert again.row == ("a", 2, 2)


def test_progress_of_a_topic_with_a_watermark_tells_it(db: eventdb.Database) -> None:
    feed = db.subscribe("SELECT k, count(*) AS n FROM t GROUP BY k", start="latest", progress=True)
    db.sql("INSERT INTO t VALUES ('a', 1, TIMESTAMP '2026-01-01 00:00:05')")
    messages = [change for _ in range(3) for change in feed.poll(0)]
    assert isinstance(messages[-1], eventdb.ProgressMessage)
    assert str(messages[-1].watermark) == "2026-01-01 00:00:05"
    db.sql("INSERT INTO t VALUES ('a', 1, TIMESTAMP '2026-01-01 00:00:06')")
    feed.poll(0)
    batch = feed.poll_arrow(0)
    assert batch is not None
    assert batch.num_rows == 0
    assert batch.schema.metadata[b"watermark"] == b"2026-01-01T00:00:06"
    assert batch.schema.metadata[b"token"].decode() == feed.token


def test_rows_that_come_and_go_within_an_interval_do_not_appear(db: eventdb.Database, query: str) -> None:
    feed = db.subscribe(f"SUBSCRIBE TO ({query} HAVING sum(x) > 0 EMIT EVERY INTERVAL '1 hour')")
    _append(db, ("a", 1))
    assert [(c.op, c.row) for c in feed.poll(0)] == [("+I", ("a", 1, 1))]
    for x in (1, -2, 5):
        _append(db, ("a", x))
        assert feed.poll(0) == []
    _append(db, ("b", 7))
    _append(db, ("b", -7))
    assert feed.poll(0.01) == []
    _due(feed)
    assert [(c.op, c.row) for c in feed.poll(0)] == [("-U", ("a", 1, 1)), ("+U", ("a", 4, 5))]
    _append(db, ("a", -5))
    assert feed.poll(0) == []
    token = feed.token
    assert [(c.op, c.row) for c in db.subscribe(f"SUBSCRIBE TO ({query} HAVING sum(x) > 0)", after=token).poll(0)] == [
        ("-D", ("a", 4, 5))
    ]


def test_all_rows_are_repeated_when_some_have_changed(db: eventdb.Database, query: str) -> None:
    feed = db.subscribe(f"SUBSCRIBE TO ({query} EMIT EVERY INTERVAL '1 hour' REPEAT)")
    _append(db, ("a", 1), ("b", 2))
    assert sorted((c.op, c.row) for c in feed.poll(0)) == [("+I", ("a", 1, 1)), ("+I", ("b", 1, 2))]
    _append(db, ("a", 3))
    assert feed.poll(0) == []
    _due(feed)
    assert sorted((c.op, c.row) for c in feed.poll(0)) == [("+I", ("a", 2, 4)), ("+I", ("b", 1, 2))]
    _due(feed)
    assert feed.poll(0) == []
    again = db.subscribe(f"SUBSCRIBE TO ({query} EMIT EVERY INTERVAL '1 hour' REPEAT)", after=feed.token)
    assert again.poll(0) == []
    _append(db, ("b", 1))
    assert sorted(c.row for c in again.poll(0)) == [("a", 2, 4), ("b", 2, 3)]


def test_who_comes_late_takes_many_rows_in_a_part_at_a_time(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventdb.stream.circuit import inputs, query, subscribe

    monkeypatch.setattr(subscribe, "AT_ONCE_ROWS", 50)
    for module in (inputs, query):
        monkeypatch.setattr(module, "MORSEL_ROWS", 16)
    feed = db.subscribe(f"SUBSCRIBE TO ({KINDS['a circuit']})")
    broken = "SELECT k, 100 / count(*) FILTER (x > 50) AS n FROM (SELECT * FROM t JOIN u USING (k)) GROUP BY k"
    passing = db.subscribe(f"SUBSCRIBE TO ({broken})")
    assert feed.poll(0) == passing.poll(0) == []
    _append(db, *[("ab"[i % 2], i) for i in range(100)])
    assert sorted((c.op, c.row) for c in feed.poll(0)) == [("+I", ("a", 50, 2450)), ("+I", ("b", 50, 2500))]
    assert sorted(c.row for c in passing.poll(0)) == [("a", 4), ("b", 4)]  # the count of the first rows is 0
    _append(db, *[("a", 1)] * 60)
    assert [(c.op, c.row) for c in feed.poll(0)] == [("-U", ("a", 50, 2450)), ("+U", ("a", 110, 2510))]
    assert passing.poll(0) == []


def test_an_interval_that_a_view_declares_is_kept_by_its_subscribers_alone(db: eventdb.Database, query: str) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW v AS {query} EMIT EVERY INTERVAL '1 hour'")
    feed = db.subscribe("v")
    _append(db, ("a", 1))
    assert len(feed.poll(0)) == 1
    _append(db, ("a", 1))
    assert feed.poll(0) == []
    assert db.sql("SELECT * FROM v").fetchall() == [("a", 2, 2)]
    _due(feed)
    assert [c.row for c in feed.poll(0)] == [("a", 1, 1), ("a", 2, 2)]


def test_a_large_history_within_an_interval_comes_as_one_step(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventdb.stream import subscribe

    monkeypatch.setattr(subscribe, "MORSEL_ROWS", 10)
    _append(db, *[("a", i) for i in range(95)])
    feed = db.subscribe(f"SUBSCRIBE TO ({KINDS['a view of one topic']} EMIT EVERY 1h) FROM BEGINNING")
    assert [(c.op, c.row) for c in feed.poll(0)] == [("+I", ("a", 95, sum(range(95))))]
    rows = db.subscribe("SUBSCRIBE TO (SELECT x FROM t EMIT EVERY 1h) FROM BEGINNING")
    assert [c.row[0] for _ in range(10) for c in rows.poll(0)] == list(range(95))
    _append(db, ("a", 1))
    assert rows.poll(0) == []


def test_changes_can_be_asked_for_in_the_words_of_a_select(db: eventdb.Database) -> None:
    feed = db.subscribe("SELECT k, count(*) AS n FROM t GROUP BY k EMIT CHANGES LIMIT 3")
    assert feed.poll(0) == []
    _append(db, ("a", 1))
    _append(db, ("a", 1))
    assert [(c.op, c.row) for c in feed.poll(0)] == [("+I", ("a", 2))]
    _append(db, ("a", 1))
    assert [(c.op, c.row) for c in feed] == [("-U", ("a", 2)), ("+U", ("a", 3))]
    paced = db.subscribe("SELECT k FROM t EMIT EVERY INTERVAL '1 hour' LIMIT 2")
    assert paced.poll(0) == []
    _append(db, ("c", 1), ("d", 1), ("e", 1))
    assert [c.row for c in paced] == [("c",), ("d",)]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("SUBSCRIBE TO (SELECT k FROM t EMIT EVERY 0s)", ParseError, "more than 0"),
        ("SUBSCRIBE TO (SELECT k FROM t EMIT EVERY 1s REPEAT)", UnsupportedSQL, "more and more"),
        ("SUBSCRIBE TO t AFTER", ParseError, "token"),
        ("SUBSCRIBE TO t AFTER 'x' SNAPSHOT", ParseError, "SNAPSHOT"),
    ],
)
def test_what_is_no_subscription_is_refused(
    db: eventdb.Database, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        db.subscribe(text)


def test_every_way_to_read_gives_the_same_changes(db: eventdb.Database, query: str) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW v AS {query}")
    polled, iterated, called, awaited, arrow = (db.subscribe("v") for _ in range(5))
    seen: list[eventdb.Change] = []
    thread = called.on_change(seen.extend)
    table: list[Any] = []
    found: list[eventdb.Change] = []
    for step in range(3):
        _append(db, ("a", step), ("b", 1), ("c", step))
        found += polled.poll(0)
        batch = arrow.poll_arrow(0)
        assert batch is not None
        table += [(row.pop("_op"), row.pop("_offset"), tuple(row.values())) for row in batch.to_pylist()]
        while len(seen) < len(found):
            time.sleep(0.002)
    expected = Counter((c.op, c.row) for c in found)
    assert Counter((op, row) for op, _, row in table) == expected
    assert Counter((c.op, c.row) for c in seen) == expected

    def content(changes: list[eventdb.Change]) -> Counter[Any]:
        total: Counter[Any] = Counter()
        for change in changes:
            total[change.row] += 1 if change.op in ("+I", "+U") else -1
        return +total

    async def follow() -> list[eventdb.Change]:
        found = []
        async for change in awaited:
            found.append(change)
            if len(found) == len(content(seen)):
                break
        return found

    assert content(asyncio.run(follow())) == content(seen)  # the whole history as one step
    assert content([next(iterated) for _ in content(seen)]) == content(seen)
    called.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_callback_that_raises_ends_its_subscription(db: eventdb.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", caught.append)
    feed = db.subscribe("t", start="latest")

    def fail(changes: list[eventdb.Change]) -> None:
        raise RuntimeError("no")

    thread = feed.on_change(fail)
    _append(db, ("a", 1))
    thread.join(10)
    assert str(caught[0].exc_value) == "no"
    with pytest.raises(eventdb.ClosedError):
        feed.poll(0)


@pytest.mark.parametrize("target", ["t", "every", "circuit"])
def test_a_slow_reader_holds_no_changes(db: eventdb.Database, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventdb.stream import subscribe

    monkeypatch.setattr(subscribe, "MORSEL_ROWS", 10)
    db.sql("CREATE MATERIALIZED VIEW every AS SELECT k, x FROM t")
    db.sql(f"CREATE MATERIALIZED VIEW circuit AS {KINDS['a circuit']}")
    feed = db.subscribe(target)
    _append(db, *[("a", i) for i in range(300)])
    db.wait("every", 299, timeout=30)
    late = db.subscribe(target)
    rows = 0
    for i in range(40):
        _append(db, ("a", i), ("b", i))
        for one in (feed, late):
            assert len(one._subscriber._ready) == 0  # nobody has asked
    for one in (feed, late):
        while changes := one.read(0):
            rows += sum(1 if op in (0, 2) else -1 for op in changes.ops.tolist())
            assert sum(len(more) for more, _ in one._subscriber._ready) <= 20
    assert rows == 2 * len(db.sql(f"SELECT * FROM {target}").fetchall())
