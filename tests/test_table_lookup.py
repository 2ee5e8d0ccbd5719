"""Rows of a table by key: found through the index, and the same rows a scan finds."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


def plan(db: eventdb.Database, statement: str, *values: Any) -> str:
    return "\n".join(row[0] for row in db.sql(f"EXPLAIN {statement}", values).fetchall())


@pytest.fixture
def three(db: eventdb.Database) -> eventdb.Database:
    db.sql("CREATE TABLE t (a INTEGER, b VARCHAR, n INTEGER, PRIMARY KEY (b, a))")
    db.sql("INSERT INTO t VALUES (1, 'x', 1), (1, 'y', 0), (2, 'x', 3)")
    return db


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT n FROM t WHERE a = ? AND b = ?", "SELECT count(*) FROM t WHERE b = 'x' AND ? = a AND b = ?",
        "UPDATE t SET n = 5 WHERE n < 9 AND a IN (?, 7) AND b = ?", "DELETE FROM t WHERE b = 'x' AND a = ? AND b = ?",
        "SELECT * FROM t AS u JOIN t AS v ON u.n = v.n WHERE u.a = ? AND u.b = ?",
    ],
)  # fmt: skip
def test_a_statement_that_names_whole_keys_looks_them_up(three: eventdb.Database, statement: str) -> None:
    assert "KeyLookup t" in plan(three, statement, 1, "x").partition("physical plan")[2]


@pytest.mark.parametrize(
    "where",
    [
        "a = 1", "a = 1 OR b = 'x'", "a > 1 AND b = 'x'", "a = 1 AND b <> 'x'", "a NOT IN (1) AND b = 'x'",
        "a + 1 = 2 AND b = 'x'", "a = n AND b = 'x'", "1 / n = 1 AND a = 1 AND b = 'x'", "a = 1.5 AND b = 'x'",
    ],
)  # fmt: skip
def test_any_other_statement_scans(three: eventdb.Database, where: str) -> None:
    """One that may raise before it comes to the key must raise whatever the key is."""
    assert "KeyLookup" not in plan(three, f"SELECT * FROM t WHERE {where}")


def test_a_lookup_is_one_line_with_its_keys(three: eventdb.Database) -> None:
    assert plan(three, "SELECT n FROM t WHERE a = 1 AND b = 'x'").splitlines()[-1] == (
        "      KeyLookup t [a, b, n] (b, a) = ('x', 1) [interpreted]"
    )
    assert "(b, a) = 4 keys" in plan(three, "SELECT n FROM t WHERE a IN (1, 2, NULL) AND b IN ('x', 'y', 'x')")


def test_a_term_behind_the_key_is_evaluated_for_its_rows_only(three: eventdb.Database) -> None:
    assert three.sql("SELECT a FROM t WHERE a = 2 AND b = 'x' AND 3 / n = 1").fetchall() == [(2,)]
    with pytest.raises(eventdb.EvaluationError):
        three.sql("SELECT a FROM t WHERE a = 1 AND b = 'y' AND 3 / n = 1")


_term = st.sampled_from(
    [
        "a = 1", "a = 3", "a = NULL", "2 = a", "a IN (0, 2)", "a IN (1, NULL)", "a = 9000000000", "b = 'x'", "b = ''",
        "b IN ('x', 'long', 'none')", "n = 1", "n IS NULL", "_offset >= 3", "_offset < 6", "a < 3", "b = 'y' OR n > 0",
        "(a = 1 OR a = 2)", "n / 2 = 0",
    ]
)  # fmt: skip
_change = st.tuples(st.integers(0, 3), st.sampled_from(["x", "y", "", "long" * 200]), st.sampled_from([None, 0, 1, 2]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(_change, max_size=20), st.lists(st.lists(_term, min_size=2, max_size=4), min_size=4, max_size=8),
    st.sampled_from(["a, b", "b", "a"]),
)  # fmt: skip
def test_lookups_find_what_scans_find(changes: list[Any], filters: list[list[str]], key: str) -> None:
    with eventdb.open(":memory:") as db:
        db.sql(f"CREATE TABLE t (a INTEGER, b VARCHAR, n INTEGER, PRIMARY KEY ({key}))")
        table = db.table("t")
        for a, b, n in changes:
            if n == 2:
                table.delete({name: {"a": a, "b": b}[name] for name in key.split(", ")})
            else:
                table.put({"a": a, "b": b, "n": n})
        for terms in filters:
            where = " AND ".join(terms)
            query = f"SELECT *, _offset FROM t WHERE {where.replace('long', 'long' * 200)}"
            found = db.sql(query).fetchall()
            db.sql("SET disabled_optimizers = 'key_lookups, scan_ranges'")
            assert found == db.sql(query).fetchall(), where
            db.sql("SET disabled_optimizers = DEFAULT")


@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("BOOLEAN", [False, True]),
        ("TINYINT", [-128, 0, 127]),
        ("FLOAT", [-math.inf, 0.1, 1e30]),
        ("DOUBLE", [-1e-300, 0.0, 2.5, math.nan]),
        ("DECIMAL(9,2)", [Decimal("-1.25"), Decimal("7.10")]),
        ("BLOB", [b"", b"\0\xff", b"\xff" * 500]),
        ("DATE", [dt.date(1, 1, 1), dt.date(2026, 1, 1)]),
        ("TIMESTAMP", [dt.datetime(1, 1, 1), dt.datetime(2026, 1, 1, 12, 0, 0, 1)]),
    ],
)
def test_keys_of_every_type_are_found(db: eventdb.Database, type: str, values: list[Any]) -> None:
    table = db.create_table("t", {"k": type, "n": "INTEGER"}, primary_key="k")
    table.put_many([{"k": value, "n": n} for n, value in enumerate(values)])
    for value in values:
        query = f"SELECT n FROM t WHERE k = CAST(? AS {type})" if type in ("FLOAT", "TINYINT") else (
            "SELECT n FROM t WHERE k = ?"
        )  # fmt: skip
        found = db.sql(query, [value]).fetchall()
        db.sql("SET disabled_optimizers = key_lookups")
        assert found == db.sql(query, [value]).fetchall()
        db.sql("SET disabled_optimizers = DEFAULT")
        assert len(found) == (value == value)  # NaN equals nothing
    assert "KeyLookup" in plan(db, f"SELECT n FROM t WHERE k = CAST(? AS {type})", values[0])


PUT = "import sys, eventdb\nwith eventdb.open(sys.argv[1]) as db: db.table('t').put({'k': 1, 's': sys.argv[2]})"


def test_a_get_knows_a_string_that_another_process_was_the_first_to_put(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        table = db.create_table("t", {"k": "INTEGER", "s": "VARCHAR"}, primary_key="k")
        table.put({"k": 1, "s": "mine"})
        assert table.get(1) == {"k": 1, "s": "mine"}
        subprocess.run([sys.executable, "-c", PUT, str(tmp_path / "db"), "theirs"], cwd=ROOT, check=True)
        assert table.get(1) == {"k": 1, "s": "theirs"}
        assert db.sql("SELECT s FROM t WHERE k = 1").fetchall() == [("theirs",)]
