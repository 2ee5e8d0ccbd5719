"""Subqueries in UPDATE, DELETE and INSERT choose and compute what DuckDB's do: all see the rows as they were before."""

from __future__ import annotations

import pytest

import eventdb
from eventdb.errors import EvaluationError

duckdb = pytest.importorskip("duckdb", reason="DuckDB is the oracle of these tests; it is in the dev extra")

ROWS = [(1, 2, 10), (2, 3, None), (3, 9, 30), (4, None, 40), (5, 2, 50)]
CHANGES = (
    "DELETE FROM t WHERE k IN (SELECT v FROM t)",
    "DELETE FROM t WHERE NOT EXISTS (SELECT 1 FROM t AS u WHERE u.v = t.k)",
    "DELETE FROM t WHERE v NOT IN (SELECT w FROM t WHERE w > 20)",
    "UPDATE t SET w = (SELECT max(u.w) FROM t AS u WHERE u.k < t.k)",
    "UPDATE t SET v = (SELECT count(*) FROM t AS u WHERE u.v = t.v), w = w + 1 WHERE w > (SELECT min(w) FROM t)",
    "INSERT INTO t SELECT k + 10, (SELECT min(v) FROM t), w FROM t WHERE v IN (SELECT k FROM t)",
    "INSERT INTO t VALUES (20, (SELECT max(k) FROM t), 1), (21, 1, (SELECT w FROM t WHERE k = 2))",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_with_a_subquery_leaves_the_rows_of_duckdb(change: str) -> None:
    duck = duckdb.connect()
    with eventdb.open(":memory:") as db:
        for run in (duck.execute, db.sql):
            run("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER, w INTEGER)")
            for row in ROWS:
                run("INSERT INTO t VALUES (?, ?, ?)", row)
            run(change)
        expected = duck.execute("SELECT * FROM t ORDER BY k").fetchall()
        assert expected != ROWS
        assert db.sql("SELECT * FROM t ORDER BY k").fetchall() == expected
    duck.close()


def test_a_change_whose_subquery_gives_two_rows_changes_nothing() -> None:
    with eventdb.open(":memory:") as db:
        db.sql("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
        db.sql("INSERT INTO t VALUES (1, 1), (2, 2)")
        with pytest.raises(EvaluationError, match="more than one row"):
            db.sql("UPDATE t SET v = (SELECT k FROM t)")
        assert db.sql("SELECT * FROM t ORDER BY k").fetchall() == [(1, 1), (2, 2)]
