"""CREATE MATERIALIZED VIEW ... INTO: what is written into topics and tables, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import BindError, ParseError, QueryError, UnsupportedSQL, UsageError
from eventdb.stream.runner import Runner


@pytest.fixture
def db(path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(path, durability="os") as db:
        db.sql("CREATE TOPIC t (k VARCHAR, x BIGINT, at TIMESTAMP, TIMESTAMP (at), WATERMARK FOR at AS at)")
        db.sql("CREATE TOPIC o (k VARCHAR, x BIGINT, note VARCHAR)")
        db.sql("CREATE TABLE s (k VARCHAR PRIMARY KEY, n BIGINT, note VARCHAR DEFAULT 'new')")
        yield db


def eventually(check: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not check():
        assert time.monotonic() < until
        time.sleep(0.01)


def rows(db: eventdb.Database, query: str) -> list[tuple[Any, ...]]:
    return db.sql(query).fetchall()


def append(db: eventdb.Database, *events: tuple[str | None, int]) -> None:
    db.topic("t").append_many([{"k": k, "x": x} for k, x in events])


def test_each_row_goes_into_the_topic_once_and_in_order(db: eventdb.Database, path: Path) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TOPIC o AS SELECT k, x * 2 AS x FROM t WHERE x > 0")
    append(db, ("a", 1), ("b", 0), ("c", 3))
    eventually(lambda: len(rows(db, "SELECT * FROM o")) == 2)
    append(db, ("d", 4), ("e", 5))
    db.close()
    with eventdb.open(path, durability="os") as again:
        eventually(lambda: len(rows(again, "SELECT * FROM o")) == 4)
        append(again, ("f", 6))
        eventually(lambda: len(rows(again, "SELECT * FROM o")) == 5)
        expected = [("a", 2, None), ("c", 6, None), ("d", 8, None), ("e", 10, None), ("f", 12, None)]
        assert rows(again, "SELECT * FROM o ORDER BY _offset") == expected
        assert rows(again, "SELECT * FROM v") == [row[:2] for row in expected]


def test_rows_and_state_are_one_commit(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TOPIC o AS SELECT k, x FROM t")
    spec = db._views_of().stored()[0][1]
    for i in range(50):
        append(db, *[("a", i)] * (i % 7))
        with db._store.snapshot() as snapshot:
            stored = spec.keys.progress(snapshot)  # type: ignore[union-attr]
            assert snapshot.offsets(db._log_by_id(db._catalog.topic("o").id))[1] == stored.output_end  # type: ignore[union-attr]


def test_groups_are_upserted_and_deleted_by_the_key_of_the_table(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TABLE s AS SELECT k, sum(x) AS n FROM t GROUP BY k HAVING sum(x) > 0")
    append(db, ("a", 1), ("b", 2), ("b", 3))
    eventually(lambda: len(db.table("s")) == 2)
    assert rows(db, "SELECT * FROM s ORDER BY k") == [("a", 1, "new"), ("b", 5, "new")]
    append(db, ("a", -1), ("c", 7), ("b", 1))
    eventually(lambda: rows(db, "SELECT * FROM s ORDER BY k") == [("b", 6, "new"), ("c", 7, "new")])
    assert rows(db, "SELECT * FROM v ORDER BY k") == [("b", 6), ("c", 7)]


def test_who_waits_for_a_view_finds_its_rows_in_the_table(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TABLE s AS SELECT k, sum(x) AS n FROM t GROUP BY k")
    for i in range(20):
        db.wait("v", db.topic("t").append({"k": "a", "x": 1}), timeout=60)
        assert rows(db, "SELECT n FROM s") == [(i + 1,)]
    db._views_of().stop()
    db._views_of()._runner = Runner(db._store, str(db.path) + "/NONE", lambda: [], lambda: 1, lambda *_: None)
    position = db.topic("t").append({"k": "a", "x": 1})
    with pytest.raises(TimeoutError):
        db.wait("v", position, timeout=0.05)


def test_a_chain_of_views_through_topics_ends_in_a_table(db: eventdb.Database) -> None:
    db.sql("CREATE TOPIC j (k VARCHAR, x BIGINT)")
    db.sql("CREATE TABLE names (k VARCHAR PRIMARY KEY)")
    db.sql("INSERT INTO names VALUES ('a'), ('b')")
    db.sql("CREATE MATERIALIZED VIEW first INTO o AS SELECT k, x FROM t WHERE x % 2 = 0")
    db.sql(
        "CREATE MATERIALIZED VIEW second INTO TOPIC j STATE LIMIT '9MB' AS "
        "SELECT o.k, o.x + t.x AS x FROM o JOIN t ON o.k = t.k AND o.x = t.x + 1"
    )
    db.sql("CREATE MATERIALIZED VIEW third INTO TABLE s AS SELECT k, count(*) AS n FROM j WHERE k IN "
           "(SELECT k FROM names) GROUP BY k")  # fmt: skip
    for start in range(0, 60, 7):
        append(db, *[("abc"[i // 2 % 3], i) for i in range(start, min(start + 7, 60))])
    expected: dict[str, int] = {}
    events = [("abc"[i // 2 % 3], i) for i in range(60)]
    for k, x in events:
        expected[k] = expected.get(k, 0) + sum(1 for other, y in events if x % 2 == 0 and other == k and x == y + 1)
    db.sql("DELETE FROM names WHERE k = 'b'")
    wanted = [("a", expected["a"])] if expected["a"] else []
    eventually(lambda: rows(db, "SELECT k, n FROM s") == wanted and len(rows(db, "SELECT * FROM j")) == sum(
        expected.values()))  # fmt: skip


def test_windows_that_close_go_into_a_topic_and_a_table(db: eventdb.Database) -> None:
    db.sql("CREATE TOPIC w (window_start TIMESTAMP, n BIGINT)")
    db.sql("CREATE TABLE ws (window_start TIMESTAMP PRIMARY KEY, n BIGINT)")
    query = "SELECT window_start, count(*) AS n FROM TUMBLE(t, at, INTERVAL '1 minute') GROUP BY window_start"
    db.sql(f"CREATE MATERIALIZED VIEW a INTO TOPIC w AS {query}")
    db.sql(f"CREATE MATERIALIZED VIEW b INTO TABLE ws AS {query}")
    for minute in (0, 0, 1, 5):
        db.sql(f"INSERT INTO t VALUES ('a', 1, TIMESTAMP '2026-01-01 00:0{minute}:00')")
    eventually(lambda: len(rows(db, "SELECT * FROM w")) == 2 and len(db.table("ws")) == 2)
    assert rows(db, "SELECT * FROM w") == rows(db, "SELECT * FROM ws ORDER BY 1") == rows(db, "SELECT * FROM a")


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        ("INTO TOPIC o AS SELECT k, count(*) AS x FROM t GROUP BY k", UnsupportedSQL, "PRIMARY KEY"),
        ("INTO TOPIC s AS SELECT k FROM t", ParseError, "is a table"),
        ("INTO TOPIC missing AS SELECT k FROM t", BindError, "missing"),
        ("INTO o AS SELECT k AS y FROM t", UsageError, "no column 'y'"),
        ("INTO o AS SELECT x AS k FROM t", UsageError, "CAST"),
        ("INTO s AS SELECT k FROM t", UsageError, "no key that is plain"),
        ("INTO s AS SELECT k, count(*) AS n FROM t GROUP BY k, x", UsageError, "PRIMARY KEY is"),
        ("INTO t AS SELECT k, x FROM o", UsageError, "its own rows"),
        ("INTO o AS SELECT k, x FROM o", UsageError, "its own rows"),
    ],
)
def test_what_cannot_be_written_is_refused_when_the_view_is_made(
    db: eventdb.Database, statement: str, error: type[Exception], message: str
) -> None:
    db.sql("CREATE MATERIALIZED VIEW upstream INTO o AS SELECT k, x FROM t")
    with pytest.raises(error, match=message) as caught:
        db.sql(f"CREATE MATERIALIZED VIEW v {statement}")
    assert isinstance(caught.value, UsageError | QueryError)
    assert rows(db, "SHOW VIEWS")[0][0] == "upstream"
    for text in ("DROP TOPIC o", "DROP TOPIC o CASCADE", "ALTER TOPIC o RENAME TO p"):
        with pytest.raises(UsageError, match="upstream"):
            db.sql(text)


def test_a_row_that_does_not_fit_stops_its_view_alone(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TABLE s AS SELECT k, count(*) AS n FROM t GROUP BY k")
    db.sql("CREATE MATERIALIZED VIEW other INTO TOPIC o AS SELECT k, x FROM t")
    append(db, ("a", 1), (None, 2))
    eventually(lambda: len(rows(db, "SELECT * FROM o")) == 2)
    eventually(lambda: db._catalog.view("v").state == "failed")
    with pytest.raises(eventdb.ViewFailed, match="NULL"):
        db.sql("SELECT * FROM v")
    assert len(db.table("s")) == 0


def test_a_full_topic_holds_its_view_up_and_loses_nothing(db: eventdb.Database) -> None:
    db.sql("CREATE TOPIC small (k VARCHAR) WITH (max_rows = 4000, on_full = 'reject')")
    db.sql("CREATE MATERIALIZED VIEW v INTO TOPIC small AS SELECT k FROM t")
    db.sql("CREATE MATERIALIZED VIEW other INTO TOPIC o AS SELECT k, x FROM t")
    append(db, *[("a", 1)] * 3000)
    append(db, *[("b", 1)] * 3000)
    eventually(lambda: len(rows(db, "SELECT * FROM o")) == 6000)
    runner = db._views_of()._runner
    assert isinstance(runner, Runner)
    view_id = db._catalog.view("v").id
    eventually(lambda: view_id in runner.problems)
    assert "full" in str(runner.problems[view_id])
    db.sql("ALTER TOPIC small SET (max_rows = 100000)")
    eventually(lambda: len(rows(db, "SELECT * FROM small")) == 6000)


def test_a_state_that_was_lost_is_not_made_anew_behind_rows_that_were_written(db: eventdb.Database, path: Path) -> None:
    db.sql("CREATE MATERIALIZED VIEW v INTO TOPIC o AS SELECT k, x FROM t")
    append(db, ("a", 1))
    eventually(lambda: len(rows(db, "SELECT * FROM o")) == 1)
    backup = path.parent / "backup"
    db.backup(backup)
    restored = path.parent / "restored"
    eventdb.restore(backup, restored, to_offset={"t": 0})
    with eventdb.open(restored) as other:
        other.topic("t").append({"k": "b", "x": 2})
        eventually(lambda: other._catalog.view("v").state == "failed")
        assert rows(other, "SELECT k FROM o") == [("a",)]
        with pytest.raises(eventdb.ViewFailed, match="again"):
            other.sql("SELECT * FROM v")
