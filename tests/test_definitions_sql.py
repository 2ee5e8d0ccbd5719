"""CREATE TABLE AS, OR REPLACE, tables without a key, plain views, RENAME TO, TRUNCATE, PREPARE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import eventdb
from eventdb import BindError, TopicExists, TopicNotFound, UsageError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        opened.sql("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y'")
        yield opened


def rows(db: eventdb.Database, query: str) -> list[tuple[object, ...]]:
    return sorted(db.sql(query).fetchall())


def test_a_table_of_a_query_can_be_replaced_by_one_of_itself(db: eventdb.Database) -> None:
    assert db.sql("CREATE OR REPLACE TABLE t AS SELECT a + 1 AS a, b FROM t").rowcount == 2
    assert rows(db, "SELECT * FROM t") == [(2, "x"), (3, "y")]
    with pytest.raises(TopicExists):
        db.sql("CREATE TABLE t AS SELECT 1 AS a")
    db.sql("CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS a")
    db.sql("CREATE TABLE u(x, y) AS SELECT a, b FROM t WITH NO DATA")
    assert rows(db, "SELECT * FROM u") == []
    db.sql("CREATE OR REPLACE TABLE u (k INT PRIMARY KEY)")
    assert db.sql("SELECT * FROM u").columns == ["k"]
    db.sql("CREATE TOPIC e AS SELECT * FROM t")
    assert db.topic("e").append({"a": 9}).offset == 2
    assert sorted(db.tables()) == ["t", "u"]
    with pytest.raises(eventdb.EvaluationError):
        db.sql("CREATE TABLE bad AS SELECT 1 // (a - 2) AS q FROM t")
    assert "bad" not in db.tables()
    assert db.check(deep=True) == []


def test_a_table_without_a_key_keeps_every_row(db: eventdb.Database) -> None:
    handle = db.create_table("log", {"x": "BIGINT"})
    handle.insert_many([{"x": 1}, {"x": 1}])
    assert [row["x"] for row in handle.rows()] == [1, 1]
    assert handle.primary_key == ()
    assert handle.schema.names == ["x"]
    with pytest.raises(UsageError, match="no primary key"):
        handle.put({"x": 1})
    with pytest.raises(UsageError, match="no primary key"):
        handle.get(1)
    assert db.sql("UPDATE log SET x = 2 WHERE _offset = 0").rowcount == 1
    assert rows(db, "SELECT * FROM log") == [(1,), (2,)]
    assert [change.op for change in handle.read()] == ["put", "put", "put"]
    with pytest.raises(eventdb.SchemaMismatch):
        db.create_table("log", {"x": "BIGINT"}, primary_key="x", if_not_exists=True)


def test_views_are_read_through_views(db: eventdb.Database) -> None:
    db.sql("CREATE VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a")
    db.sql("CREATE VIEW w(q) AS SELECT a FROM v WHERE n = 1")
    db.sql("INSERT INTO t VALUES (2, 'z')")
    assert rows(db, "SELECT w.q, v.n FROM w JOIN v ON w.q = v.a") == [(1, 1)]
    assert [row[0] for row in db.sql("SHOW VIEWS").fetchall()] == ["v", "w"]
    db.sql("BEGIN")
    db.sql("DELETE FROM t WHERE b = 'z'")
    assert rows(db, "SELECT * FROM w") == [(1,), (2,)]
    db.sql("ROLLBACK")
    with pytest.raises(TopicExists):
        db.sql("CREATE VIEW v AS SELECT 1 AS a")
    with pytest.raises(BindError, match="itself"):
        db.sql("CREATE OR REPLACE VIEW v AS SELECT * FROM w")
    for text in ("INSERT INTO v VALUES (1, 1)", "DELETE FROM v", "UPDATE v SET n = 1"):
        with pytest.raises(BindError, match="view"):
            db.sql(text)
    with pytest.raises(UsageError, match="feeds the view 'w'"):
        db.sql("DROP VIEW v")
    db.sql("CREATE OR REPLACE VIEW v AS SELECT 1 AS a")
    with pytest.raises(BindError, match="'w' cannot be read"):
        db.sql("SELECT * FROM w")
    db.sql("DROP VIEW w")
    db.sql("DROP VIEW v")
    with pytest.raises(TopicNotFound):
        db.sql("DROP VIEW v")
    db.sql("DROP VIEW IF EXISTS v")


def test_a_view_is_there_after_reopening(tmp_path: Path) -> None:
    for text in ("CREATE VIEW v AS SELECT 7 AS a", "SELECT a FROM v"):
        with eventdb.open(tmp_path / "again", durability="os") as db:
            found = db.sql(text)
    assert found.fetchall() == [(7,)]


def test_a_renamed_table_keeps_its_rows(db: eventdb.Database) -> None:
    db.sql("ALTER TABLE t RENAME TO t2")
    assert rows(db, "SELECT a FROM t2") == [(1,), (2,)]
    assert db.tables() == ["t2"]
    with pytest.raises(BindError):
        db.sql("SELECT * FROM t")
    db.sql("TRUNCATE TABLE t2")
    assert rows(db, "SELECT a FROM t2") == []


def test_prepared_statements_take_values_by_place_or_name(db: eventdb.Database) -> None:
    db.sql("PREPARE p AS SELECT ?::BIGINT + a FROM t WHERE b = ?")
    assert db.sql("EXECUTE p(10, 'y')").fetchall() == [(12,)]
    db.sql("PREPARE i AS INSERT INTO t VALUES ($a,$b) RETURNING b")
    assert db.sql("EXECUTE i(a := 3, b := 'z')").fetchall() == [("z",)]
    with pytest.raises(BindError, match="parameter 2"):
        db.sql("EXECUTE p(1)")
    with pytest.raises(BindError):
        db.sql("PREPARE bad AS SELECT nothing FROM t")
    db.sql("DEALLOCATE p")
    with pytest.raises(UsageError, match="PREPARE p"):
        db.sql("EXECUTE p(1, 'y')")


def test_numbered_parameters_need_no_spaces(db: eventdb.Database) -> None:
    assert db.sql("SELECT $1,$2,'$3,$4'", [1, 2]).fetchall() == [(1, 2, "$3,$4")]
