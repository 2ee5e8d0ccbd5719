"""Tokens: whoever goes on from one gets the changes after it, none twice, wherever the first one stopped reading."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import InvalidToken, TokenExpired, UsageError

ROUNDS = int(os.environ.get("EVENTDB_TOKEN_ROUNDS", "2"))
MAKE = (
    "CREATE TOPIC t (k VARCHAR, x BIGINT, at TIMESTAMP, TIMESTAMP (at), WATERMARK FOR at AS at - INTERVAL '1 second')",
    "CREATE TOPIC p (k VARCHAR, x BIGINT, KEY (k)) WITH (partitions = 3)",
    "CREATE TABLE u (k VARCHAR PRIMARY KEY, y BIGINT)",
)
QUERIES = {
    "each row": "SELECT k, x * 2 AS xx FROM t WHERE x % 3 > 0",
    "picked": "SELECT x, k FROM t",
    "groups": "SELECT k, count(*) AS n, sum(x) AS s FROM t GROUP BY k HAVING sum(x) % 5 > 0",
    "windows": "SELECT window_start, k, sum(x) AS s FROM TUMBLE(t, at, INTERVAL '4 seconds') GROUP BY window_start, k",
    "a join": "SELECT t.k, t.x, u.y FROM t JOIN u ON t.k = u.k",
    "groups of a join": "SELECT u.y, count(*) AS n, max(t.x) AS m FROM t JOIN u ON t.k = u.k GROUP BY u.y",
    "rows of partitions": "SELECT k, x FROM p WHERE x % 2 = 0",
    "groups of partitions": "SELECT k, sum(x) AS s FROM p GROUP BY k",
    "the best": "SELECT k, x FROM t ORDER BY x DESC, k LIMIT 3",
    "a table": "SELECT * FROM u",
}


def _append(db: eventdb.Database, chance: random.Random, clock: list[int]) -> None:
    for _ in range(chance.randint(1, 3)):
        rows = []
        for _ in range(chance.choice([1, 1, 2, 9])):
            clock[0] += chance.choice([0, 300_000, 900_000])
            rows.append({"k": chance.choice("abcde"), "x": chance.randint(0, 30), "at": clock[0]})
        kind = chance.randint(0, 3)
        if kind == 0:
            key, y = chance.choice("abcde"), chance.randint(0, 2)
            db.sql(f"INSERT OR REPLACE INTO u VALUES ('{key}', {y})" if y else f"DELETE FROM u WHERE k = '{key}'")
        elif kind == 1:
            db.topic("p").append_many([{"k": row["k"], "x": row["x"]} for row in rows])
        else:
            from eventdb.values import us_to_datetime

            db.topic("t").append_many([{**row, "at": us_to_datetime(row["at"])} for row in rows])


def _fold(content: Counter[Any], changes: list[eventdb.Change]) -> None:
    for change in changes:
        if change.op == "progress":
            continue
        content[change.row] += 1 if change.op in ("+I", "+U") else -1
        assert change.op in ("-U", "+I", "+U", "-D")


def _read_some(feed: eventdb.Subscription, chance: random.Random) -> list[eventdb.Change]:
    """Some of the changes that are there, in one of the ways there are to read them."""
    kind = chance.randint(0, 3)
    found: list[eventdb.Change] = []
    if kind == 0:
        return feed.poll(0)
    if kind == 1:
        while more := feed.poll(0):
            found += more
        return found
    for _ in range(chance.randint(1, 6)):
        if not (feed._batch is not None or feed._advance(0)):
            break
        change = feed._take()
        if change is None:
            break
        found.append(change)
    if kind == 3 and found:
        found += feed.poll(0)  # the rest of the batch
    return found


CASES = [(name, stored) for name in QUERIES for stored in (True, False) if stored or "partitions" not in name]


@pytest.mark.parametrize(("name", "stored"), CASES)
def test_changes_before_and_after_a_token_are_the_content(tmp_path: Path, name: str, stored: bool) -> None:
    for seed in range(ROUNDS):
        chance = random.Random(f"{name} {stored} {seed}")
        path = tmp_path / str(seed)
        db = eventdb.open(path, durability="os")
        for statement in MAKE:
            db.sql(statement)
        clock = [10_000_000]
        query = QUERIES[name]
        _append(db, chance, clock)
        limit = "STATE LIMIT '50MB' " if name not in ("each row", "picked", "groups", "windows") else ""
        if stored:
            db.sql(f"CREATE MATERIALIZED VIEW v {limit}AS {query}")
        target = "v" if stored else f"({query})"
        start = chance.choice(["SNAPSHOT", "FROM BEGINNING"])
        feed = db.subscribe(f"SUBSCRIBE TO {target} {start}{chance.choice(['', ' WITH PROGRESS'])}")
        content: Counter[Any] = Counter()
        token = None
        for _ in range(25):
            _append(db, chance, clock)
            _fold(content, _read_some(feed, chance))
            token = feed.token or token
            if chance.random() < 0.4 and token is not None:
                feed.close()
                if chance.random() < 0.4:
                    db.close()
                    db = eventdb.open(path, durability="os")
                    if chance.random() < 0.5 and stored:
                        db.sql("SELECT * FROM v")
                if chance.random() < 0.5:
                    feed = db.subscribe(f"SUBSCRIBE TO {target} AFTER '{token}'")
                else:
                    feed = db.subscribe("v" if stored else f"SUBSCRIBE TO {target}", after=token, progress=True)
                assert feed.token == token
        while more := feed.poll(0):
            _fold(content, more)
        if name == "windows":  # what a query answers has the open windows, too
            db.sql("DROP VIEW IF EXISTS v")
            db.sql(f"CREATE MATERIALIZED VIEW v AS {query}")
            expected = Counter(db.sql("SELECT * FROM v").fetchall())
        else:
            expected = Counter(db.sql(query).fetchall())
        assert {row: n for row, n in content.items() if n} == expected
        db.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db") as db:
        for statement in MAKE:
            db.sql(statement)
        yield db


def test_a_token_of_something_else_is_refused(db: eventdb.Database, tmp_path: Path) -> None:
    db.sql("CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM t GROUP BY k")
    feed = db.subscribe("v")
    assert feed.token is None
    feed.poll(0)
    token = feed.token
    assert token is not None
    assert len(token) < 200
    other = db.subscribe("SELECT k FROM t")
    other.poll(0)
    for wrong in ("", "nonsense", token[:-2], token[:-1] + ("A" if token[-1] != "A" else "B"), "é" + token):
        with pytest.raises(InvalidToken, match="no token"):
            db.subscribe("v", after=wrong)
    assert other.token is not None
    with pytest.raises(InvalidToken, match="another query"):
        db.subscribe("v", after=other.token)
    with pytest.raises(InvalidToken, match="another query"):
        db.subscribe(f"SUBSCRIBE TO u AFTER '{token}'")
    with pytest.raises(UsageError, match="one of them"):
        db.subscribe("v", start="latest", after=token)
    db.sql("DROP VIEW v")
    db.sql("CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM t GROUP BY k")
    with pytest.raises(InvalidToken, match="made anew"):
        db.subscribe("v", after=token)


@pytest.mark.parametrize("query", ["SELECT k FROM small", "SELECT k, count(*) AS n FROM small GROUP BY k",
                                   "SELECT small.k, y FROM small JOIN u ON small.k = u.k"])  # fmt: skip
def test_a_token_whose_rows_are_gone_is_refused(db: eventdb.Database, query: str) -> None:
    db.sql("CREATE TOPIC small (k VARCHAR) WITH (max_rows = 5000)")
    topic = db.topic("small")
    topic.append_many([{"k": "a"}] * 10)
    feed = db.subscribe(f"SUBSCRIBE TO ({query})")
    feed.poll(0)
    token = feed.token
    topic.append_many([{"k": "b"}] * 10)
    again = db.subscribe(f"SUBSCRIBE TO ({query})", after=token)
    again.poll(0)
    for _ in range(20):
        topic.append_many([{"k": "c"}] * 1000)
    db.retain()
    first = next(iter(topic.read(start="earliest"))).offset
    assert first > 20
    late = db.subscribe(f"SUBSCRIBE TO ({query})", after=token)
    with pytest.raises(TokenExpired, match="removed") as caught:
        late.poll(0)
    assert caught.value.topic == "small"
    assert caught.value.offset >= first


def test_a_limit_that_cuts_a_batch_leaves_a_token_at_the_cut(db: eventdb.Database) -> None:
    db.topic("t").append_many([{"k": k, "x": 1} for k in "abcdef"])
    query = "SELECT k, count(*) AS n FROM t GROUP BY k"
    with db.subscribe(f"SUBSCRIBE TO ({query}) SNAPSHOT LIMIT 4") as feed:
        first = list(feed)
    second = db.subscribe(f"SUBSCRIBE TO ({query}) AFTER '{feed.token}'").poll(0)
    assert len(first) == 4
    assert sorted(change.row for change in first + second) == [(k, 1) for k in "abcdef"]


def _stored(db: eventdb.Database) -> None:
    until = time.monotonic() + 60
    while db._views_of().stats()["v"]["lag_rows"]:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("query", ["SELECT * FROM u", "SELECT y, count(*) AS n FROM u GROUP BY y"])
def test_a_token_within_the_content_means_the_same_rows_whatever_way_the_content_was_made(
    tmp_path: Path, query: str
) -> None:
    db = eventdb.open(tmp_path / "db", durability="os")
    db.sql(MAKE[2])
    db.sql(f"CREATE MATERIALIZED VIEW v AS {query}")
    keys = "qwertyuiop"
    for i, key in enumerate(keys):
        db.sql(f"INSERT INTO u VALUES ('{key}', {9 - i})")
    _stored(db)
    db.sql("DELETE FROM u WHERE k IN ('q', 'r', 'u', 'p')")
    _stored(db)
    for i, key in enumerate("zxcvbnm"):
        db.sql(f"INSERT INTO u VALUES ('{key}', {i * 3 % 7})")
    _stored(db)
    db.close()
    db = eventdb.open(tmp_path / "db", durability="os")
    feed = db.subscribe("v")
    content: Counter[Any] = Counter()
    _fold(content, [next(feed) for _ in range(4)])
    token = feed.token
    db.sql("INSERT INTO u VALUES ('l', 5)")
    _stored(db)  # what is stored lies behind the token: the content there is made anew
    again = db.subscribe("v", after=token)
    while more := again.poll(0):
        _fold(content, more)
    assert {row: n for row, n in content.items() if n} == Counter(db.sql(query).fetchall())
    db.close()
