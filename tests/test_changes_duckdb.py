"""INSERT, UPDATE, DELETE and MERGE against DuckDB: the same statements on the same rows."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb

KEY = st.integers(0, 6)
VALUE = st.one_of(st.none(), st.integers(-9, 9))
TEXT = st.one_of(st.none(), st.sampled_from(["", "a", "bc", "é"]))
ROWS = st.dictionaries(KEY, st.tuples(VALUE, TEXT), min_size=2, max_size=6)
STATEMENTS = (
    "INSERT INTO t VALUES (?, ?, 'new') RETURNING k + 1 AS n, v",
    "INSERT INTO t (v, k) VALUES (?2, ?1)",
    "INSERT INTO t BY NAME SELECT ?::BIGINT AS k, ?::BIGINT AS v",
    "INSERT INTO t SELECT k + ?1, v, s FROM src WHERE v > ?2 RETURNING *",
    "INSERT INTO t SELECT * FROM src WHERE ?1 = ?1 AND ?2 = ?2 ON CONFLICT DO NOTHING RETURNING k",
    "INSERT INTO t VALUES (?, ?, NULL) ON CONFLICT (k) DO UPDATE SET v = excluded.v, s = t.s || '!' RETURNING s",
    "INSERT INTO t SELECT * FROM src WHERE ?1 = ?1 ON CONFLICT (k) DO UPDATE SET v = t.v + excluded.v WHERE t.v > ?2",
    "INSERT OR REPLACE INTO t VALUES (?, ?, 'or') RETURNING s",
    "INSERT OR IGNORE INTO t VALUES (?, ?, 'or') RETURNING s",
    "UPDATE t SET v = src.v + ?2 FROM src WHERE t.k = src.k AND src.k <> ?1 RETURNING t.k, v",
    "UPDATE t AS x SET s = (SELECT max(src.s) FROM src WHERE src.k <= x.k), v = ?2 WHERE k > ?1 RETURNING x.*",
    "UPDATE t SET s = DEFAULT WHERE k = ?1 OR v = ?2",
    "WITH c AS (SELECT k FROM src WHERE v < ?2) DELETE FROM t WHERE k IN (SELECT k FROM c) AND k <> ?1 RETURNING k",
    "DELETE FROM t USING src AS z WHERE t.k = z.k + ?1 AND coalesce(z.v, 0) < ?2 RETURNING t.k",
    "MERGE INTO t USING src ON t.k = src.k WHEN MATCHED AND src.v > ?2 THEN UPDATE SET v = src.v, s = 'm' "
    "WHEN MATCHED AND t.k = ?1 THEN DELETE WHEN MATCHED THEN DO NOTHING "
    "WHEN NOT MATCHED AND src.k <> ?1 THEN INSERT (k, v) VALUES (src.k, ?2) RETURNING merge_action, k, v",
    "MERGE INTO t USING (SELECT * FROM src WHERE k > ?1) AS z USING (k) WHEN MATCHED THEN UPDATE "
    "WHEN NOT MATCHED THEN INSERT WHEN NOT MATCHED BY SOURCE AND t.v > ?2 THEN DELETE RETURNING merge_action, t.*",
    "MERGE INTO t USING src ON t.k = src.k WHEN MATCHED AND t.k >= ?1 THEN UPDATE SET v = ?2 WHEN MATCHED THEN DELETE "
    "WHEN NOT MATCHED THEN INSERT RETURNING merge_action, k",
    "MERGE INTO t USING src ON t.k = src.k WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = t.k * ?1 + ?2",
)
KEYLESS = (
    "INSERT INTO u VALUES (?, ?, 'x')",
    "INSERT INTO u SELECT k, v, s FROM src WHERE k > ?1 AND ?2 = ?2",
    "UPDATE u SET v = coalesce(v, 0) + ?2 WHERE k >= ?1 RETURNING v",
    "DELETE FROM u WHERE k = ?1 OR v = ?2 RETURNING k, v, s",
    "MERGE INTO u USING src ON u.k = src.k WHEN MATCHED AND u.v < ?2 THEN UPDATE SET s = src.s "
    "WHEN MATCHED AND src.k > ?1 THEN DELETE WHEN NOT MATCHED THEN INSERT BY NAME RETURNING merge_action, k",
)
STEPS = st.lists(st.tuples(st.sampled_from(STATEMENTS + KEYLESS), KEY, st.integers(-9, 9)), min_size=8, max_size=14)


def ours(statement: str) -> str:
    return statement.replace("?1", "$1").replace("?2", "$2")


def outcome(run: Any, wrong: type[Exception] | tuple[type[Exception], ...]) -> list[Any] | None:
    """The rows as a bag; None if a constraint was broken."""
    try:
        return sorted(map(repr, run()))
    except wrong:
        return None


@settings(max_examples=10, deadline=None)
@given(ROWS, ROWS, STEPS, st.booleans())
def test_changes_do_what_they_do_in_duckdb(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, Any], source: dict[int, Any], steps: list[Any], one: bool
) -> None:
    """Each statement for itself, or in transactions that end where one fails."""
    theirs = duckdb.connect()
    with eventdb.open(tmp_path_factory.mktemp("c") / "db", durability="os") as db, db.session() as mine:
        for run in (theirs.execute, mine.sql):
            run("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT, s VARCHAR DEFAULT 'd')")
            run("CREATE TABLE src (k BIGINT PRIMARY KEY, v BIGINT, s VARCHAR)")
            run("CREATE TABLE u (k BIGINT, v BIGINT, s VARCHAR)")
            for name, held in (("t", rows), ("src", source), ("u", rows), ("u", source)):
                for key, (value, text) in held.items():
                    run(f"INSERT INTO {name} VALUES (?, ?, ?)", [key, value, text])
        if one:
            theirs.execute("BEGIN")
            mine.sql("BEGIN")
        for statement, key, value in steps:
            text = ours(statement)
            found = outcome(lambda: rows_of(mine.sql(text, [key, value])), eventdb.ConstraintError)  # noqa: B023
            expected = outcome(lambda: theirs.execute(text, [key, value]).fetchall(), duckdb.ConstraintException)  # noqa: B023
            assert found == expected, text
            if found is None and one:
                for run in (theirs.execute, mine.sql):
                    run("ROLLBACK")
                    run("BEGIN")
            for name in ("t", "u"):
                query = f"SELECT * FROM {name} ORDER BY ALL"
                assert mine.sql(query).fetchall() == theirs.execute(query).fetchall(), text
        if one:
            mine.sql("COMMIT")
        for name in ("t", "u"):
            query = f"SELECT * FROM {name} ORDER BY ALL"
            assert db.sql(query).fetchall() == theirs.execute(query).fetchall()
    theirs.close()


def rows_of(result: eventdb.Result) -> list[Any]:
    """The rows; of a change without RETURNING how many, as DuckDB says it."""
    return result.fetchall() if result.columns else [(result.rowcount,)]
