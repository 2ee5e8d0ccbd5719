"""Views and the rows that break their expressions: a view that stops names the row, one with a dead_letter goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import DiskFullError, ViewFailed
from eventdb.storage.store import Store
from eventdb.stream import runner as runner_module
from tests.test_view_changes import ROOT, content, made, nothing_is_left, until, verify

__all__ = ["made"]

DIVIDES = {
    "append": "SELECT k, 10 / x AS q FROM t",
    "update": "SELECT k, sum(10 / x) AS s FROM t GROUP BY k",
    "having": "SELECT k, count(*) AS n FROM t WHERE 10 / x > 0 GROUP BY k",
    "circuit": "SELECT DISTINCT k, 10 / x AS q FROM t",
    "key": "SELECT n, count(*) AS m FROM (SELECT 10 / x AS q, count(*) AS n FROM t GROUP BY 10 / x) d GROUP BY n",
}
SOUND = {name: query.replace("FROM t", "FROM (SELECT * FROM t WHERE x <> 0) t") for name, query in DIVIDES.items()}


def letters(db: eventdb.Database) -> list[tuple[object, ...]]:
    return db.sql("SELECT view_name, topic_name, source_partition, source_offset, content FROM bad").fetchall()


# --- views that stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["append", "update", "circuit", "key"])
def test_a_row_that_breaks_an_expression_stops_its_view_alone_and_is_named(made: eventdb.Database, kind: str) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {DIVIDES[kind]}")
    made.sql("CREATE MATERIALIZED VIEW other AS SELECT DISTINCT x FROM t")
    made.topic("t").append_many([{"k": "a", "x": 5}, {"k": "culprit", "x": 0}, {"k": "b", "x": 2}])
    until(lambda: made._catalog.view("v").state == "failed")
    error = made._catalog.view("v").error or ""
    assert "offset 7 of t" in error
    assert "culprit" in error
    assert "zero" in error
    with pytest.raises(ViewFailed, match="offset 7 of t"):
        made.sql("SELECT * FROM v")
    assert content(made, "other") == [(0,), (1,), (2,), (5,)]
    until(lambda: made.stats()["views"]["other"]["lag_rows"] == 0)  # type: ignore[index]


def test_the_partition_of_a_broken_row_is_named(made: eventdb.Database) -> None:
    topic = made.create_topic("p", {"k": "VARCHAR", "x": "BIGINT"}, key="k", partitions=4)
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT k, sum(10 / x) AS s FROM p GROUP BY k")
    position = topic.append({"k": "z", "x": 0})
    until(lambda: made._catalog.view("v").state == "failed")
    assert f"offset {position.offset} of partition {position.partition} of p" in str(made._catalog.view("v").error)


def test_pairs_of_rows_that_never_go_stop_a_view(made: eventdb.Database) -> None:
    made.create_topic("u", {"k": "VARCHAR", "y": "BIGINT"})
    made.sql("CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' AS SELECT t.k, x / y AS q FROM t JOIN u ON t.k = u.k")
    made.topic("u").append({"k": "a", "y": 0})
    until(lambda: made._catalog.view("v").state == "failed")
    assert "u from offset 0 on: division by zero" in str(made._catalog.view("v").error)


def test_an_error_that_may_go_away_is_told_and_does(made: eventdb.Database) -> None:
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT t.k, CAST(name AS BIGINT) AS n FROM t JOIN names m ON t.k = m.k")
    until(lambda: made.stats()["views"]["v"]["error"] is not None)  # type: ignore[index]
    assert made._catalog.view("v").state == "running"
    with pytest.raises(ViewFailed, match="ada"):
        made.sql("SELECT * FROM v")
    made.sql("UPDATE names SET name = '7'")
    assert content(made, "v") == [("a", 7)] * 2 + [("b", 7)] * 2
    until(lambda: made.stats()["views"]["v"]["error"] is None)  # type: ignore[index]


def test_a_view_that_is_stuck_does_not_try_again_before_something_comes(made: eventdb.Database) -> None:
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT t.k, CAST(name AS BIGINT) AS n FROM t JOIN names m ON t.k = m.k")
    until(lambda: made.stats()["views"]["v"]["error"] is not None)  # type: ignore[index]
    [task] = made._views_of()._runner._tasks.values()  # type: ignore[union-attr]
    tried = []
    task._loaded = lambda snapshot: tried.append(1)  # type: ignore[attr-defined]
    with made._store.snapshot() as snapshot:
        assert task.advance(snapshot, {}) is False
    assert not tried


def test_a_full_disk_stops_no_view(made: eventdb.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "RETRY_S", 0.05)
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT DISTINCT x FROM t")
    write, full = Store.write, [True]

    def guarded(self: Store, *, journaled: bool = True) -> object:
        if full[0] and not journaled:
            raise DiskFullError("no space left on the device")
        return write(self, journaled=journaled)

    monkeypatch.setattr(Store, "write", guarded)
    made.topic("t").append({"k": "a", "x": 9})
    until(lambda: "space" in str(made.stats()["views"]["v"]["error"]))  # type: ignore[index]
    full[0] = False
    until(lambda: made.stats()["views"]["v"]["error"] is None)  # type: ignore[index]
    assert made._catalog.view("v").state == "running"


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIVIDES)
def test_a_view_with_a_dead_letter_goes_on_without_the_rows_it_cannot_take_in(
    made: eventdb.Database, kind: str
) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 'bad') AS {DIVIDES[kind]}")
    made.topic("t").append_many([{"k": "a", "x": 5}, {"k": "é", "x": 0}, {"k": "b", "x": 2}, {"k": "c", "x": 0}])
    assert content(made, "v") == sorted(made.sql(SOUND[kind]).fetchall())
    until(lambda: len(letters(made)) == 2)
    assert [row[:4] for row in letters(made)] == [("v", "t", 0, 7), ("v", "t", 0, 9)]
    assert json.loads(str(letters(made)[0][4])) == {"k": "é", "x": 0}
    assert all("zero" in text for (text,) in made.sql("SELECT error FROM bad").fetchall())
    made.topic("t").append_many([{"k": "d", "x": 3}])
    assert content(made, "v") == sorted(made.sql(SOUND[kind]).fetchall())
    assert verify(made, "v")[2] is True
    made.sql("REFRESH VIEW v")
    assert content(made, "v") == sorted(made.sql(SOUND[kind]).fetchall())
    assert len(letters(made)) == 2, "what is computed anew is not noted again"
    assert made._catalog.view("v").state == "running"
    assert nothing_is_left(made)


@pytest.mark.parametrize("kind", ["append", "update", "circuit"])
def test_a_broken_row_is_noted_once_though_its_maintainer_dies_in_between(
    made: eventdb.Database, path: Path, kind: str
) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 'bad') AS {DIVIDES[kind]}")
    made.sql("ALTER VIEW v PAUSE")
    made.topic("t").append_many([{"k": "a", "x": 0}, {"k": "b", "x": 1}, {"k": "c", "x": 0}])
    made.close()
    for _ in range(2):
        command = [sys.executable, "-m", "tests.view_process", str(path), "letters", "ALTER VIEW v RESUME"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 9, ended
    with eventdb.open(path, durability="os") as db:
        until(lambda: db.stats()["views"]["v"]["lag_rows"] == 0)  # type: ignore[index]
        assert [row[3] for row in letters(db)] == [6, 8]
        assert content(db, "v") == sorted(db.sql(SOUND[kind]).fetchall())


def test_a_subscription_goes_on_without_the_rows_a_view_leaves_out(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 'bad') AS {DIVIDES['append']}")
    with made.subscribe("v", start="now") as changes:
        changes.poll(0)
        made.topic("t").append_many([{"k": "a", "x": 0}, {"k": "b", "x": 1}])
        assert [change.row for change in changes.poll(10)] == [("b", 10)]


def test_partitions_are_noted(made: eventdb.Database) -> None:
    topic = made.create_topic("p", {"k": "VARCHAR", "x": "BIGINT"}, key="k", partitions=4)
    made.sql("CREATE MATERIALIZED VIEW v WITH (dead_letter = 'bad') AS SELECT k, sum(10 / x) AS s FROM p GROUP BY k")
    positions = topic.append_many([{"k": f"k{i}", "x": i % 3} for i in range(30)])
    until(lambda: len(letters(made)) == 10)
    expected = sorted((at.partition, at.offset) for i, at in enumerate(positions) if i % 3 == 0)
    assert sorted((row[2], row[3]) for row in letters(made)) == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT t.k, CAST(name AS BIGINT) AS n FROM t JOIN names m ON t.k = m.k", "reads the table names"),
        ("SELECT a.k, a.x / b.x AS q FROM t a JOIN u b ON a.k = b.k", "of more than a row of one topic"),
        ("SELECT a.k FROM t a JOIN (SELECT k, x FROM t WHERE x > 3) b ON a.k = b.k", "in several ways"),
    ],
)
def test_dead_letter_is_refused_where_the_row_could_not_be_told(
    made: eventdb.Database, query: str, reason: str
) -> None:
    made.create_topic("u", {"k": "VARCHAR", "x": "BIGINT"})
    with pytest.raises(eventdb.UnsupportedSQL, match=reason):
        made.sql(f"CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' WITH (dead_letter = 'bad') AS {query}")
    assert "bad" not in made.topics()


def test_dead_letter_of_a_join_of_what_is_computed_below_it(made: eventdb.Database) -> None:
    made.create_topic("u", {"k": "VARCHAR", "y": "BIGINT"})
    made.topic("u").append({"k": "a", "y": 1})
    query = "SELECT d.k, count(*) AS s FROM (SELECT k FROM t WHERE 10 / x > 0) d JOIN u ON d.k = u.k GROUP BY d.k"
    made.sql(f"CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' WITH (dead_letter = 'bad') AS {query}")
    made.topic("t").append_many([{"k": "a", "x": 0}, {"k": "a", "x": 1}])
    assert content(made, "v") == [("a", 3)]
    until(lambda: [row[3] for row in letters(made)] == [6])


def test_what_cannot_be_a_dead_letter_topic_says_why(made: eventdb.Database) -> None:
    query = DIVIDES["append"]
    with pytest.raises(eventdb.UsageError, match="the view reads 't'"):
        made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 't') AS {query}")
    with pytest.raises(eventdb.UsageError, match="columns of broken rows"):
        made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 'names') AS {query}")
    with pytest.raises(eventdb.ParseError, match="no option 'speed'"):
        made.sql(f"CREATE MATERIALIZED VIEW v WITH (speed = 'high') AS {query}")
    made.sql(f"CREATE MATERIALIZED VIEW v WITH (dead_letter = 'bad') AS {query}")
    with pytest.raises(eventdb.UsageError, match="'v'"):
        made.sql("DROP TOPIC bad")
    with pytest.raises(eventdb.UnsupportedSQL, match="goes on without rows"):
        made.sql("CREATE MATERIALIZED VIEW w AS SELECT DISTINCT q FROM v")
    made.sql("CREATE MATERIALIZED VIEW g WITH (dead_letter = 'bad') AS SELECT k, sum(x) AS s FROM t GROUP BY k")
    with pytest.raises(eventdb.UsageError, match="dead_letter differs"):
        made.sql("CREATE OR REPLACE MATERIALIZED VIEW g KEEP STATE AS SELECT k, sum(x) + 1 AS s FROM t GROUP BY k")
