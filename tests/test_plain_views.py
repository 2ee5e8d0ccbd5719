"""Plain views: a stored query means the same columns for ever, reads nothing of one program alone, and is not left
behind by what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import eventdb
from eventdb import BindError, UnsupportedSQL, UsageError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        opened.sql("CREATE TABLE t(a INTEGER, b VARCHAR)")
        opened.sql("INSERT INTO t VALUES (1, 'x')")
        yield opened


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("1 AS a, 'x' AS c", "column 'b'"),
        ("'x' AS b, 1 AS a", "column 'a'"),
        ("1 AS a, 2 AS b", "column 'b'.*VARCHAR.*INTEGER"),
        ("2.5 AS a, 'x' AS b", "column 'a'.*INTEGER.*DECIMAL"),
        ("1 AS a, 'x' AS b, 3 AS c", "'c'"),
        ("1 AS a", "column 'b'"),
    ],
)
def test_a_view_over_a_table_made_anew_with_other_columns_says_which(
    db: eventdb.Database, columns: str, message: str
) -> None:
    db.sql("CREATE VIEW v AS SELECT * FROM t")
    db.sql("CREATE VIEW w AS SELECT * FROM v")
    db.sql(f"CREATE OR REPLACE TABLE t AS SELECT {columns}")
    for view in ("v", "w"):
        with pytest.raises(BindError, match=f"view 'v'.*{message}"):
            db.sql(f"SELECT * FROM {view}")
    db.sql("CREATE OR REPLACE TABLE t AS SELECT 5 AS A, NULL::VARCHAR AS b")
    assert db.sql("SELECT a, b FROM w").fetchall() == [(5, None)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM t -- all",
        "FROM t",
        "WITH q AS (SELECT * FROM t) SELECT a, b FROM q ORDER BY a LIMIT 1",
        "(SELECT a, b FROM t)",
        "SELECT a, b FROM t UNION ALL SELECT a, b FROM t WHERE a > 9",
    ],
)
def test_the_names_of_a_view_stand_for_columns_of_its_query(db: eventdb.Database, query: str) -> None:
    db.sql(f"CREATE VIEW v(x, y) AS {query}")
    assert db.sql("SELECT y, x FROM v").fetchall() == [("x", 1)]
    db.sql("CREATE OR REPLACE TABLE t AS SELECT 'z' AS b, 7 AS a")
    if "*" in query or query == "FROM t":
        assert db.sql("SELECT x, y FROM v").fetchall() == [(7, "z")]
    db.sql("CREATE OR REPLACE TABLE t AS SELECT 'z' AS q, 7 AS a")
    with pytest.raises(BindError, match=r"view 'v'.*b"):
        db.sql("SELECT x, y FROM v")


def test_names_of_a_view_over_values_and_computed_columns(db: eventdb.Database) -> None:
    db.sql("CREATE VIEW v(x, y) AS VALUES (1, 'a'), (2, 'b')")
    assert sorted(db.sql("SELECT y, x FROM v").fetchall()) == [("a", 1), ("b", 2)]
    db.sql("CREATE VIEW w(n) AS SELECT max(a) + 1, count(*) FROM t")
    assert db.sql("SELECT n FROM w").fetchall() == [(2,)]
    assert db.sql("SELECT * FROM w").fetchall() == [(2, 1)]
    with pytest.raises(BindError, match="named 'a'"):
        db.sql("CREATE VIEW u(x, y) AS SELECT a, a FROM t")


# --- what lives in one program ----------------------------------------------------------------------------------------


def test_a_view_cannot_keep_what_lives_in_one_program(db: eventdb.Database) -> None:
    variable = {"a": [1, 2]}
    db.register("object", {"a": [1]})
    db.create_function("twice", lambda x: 2 * x, ["BIGINT"], "BIGINT")
    db.create_aggregate("first_of", lambda values: values[0], ["BIGINT"], "BIGINT")
    db.create_table_function("numbers", lambda: [(1,)], [], {"n": "BIGINT"})
    for query in (
        "SELECT twice(a) FROM t",
        "SELECT a FROM t WHERE a IN (SELECT twice(a) FROM t)",
        "SELECT first_of(a) FROM t",
        "SELECT * FROM numbers()",
        "SELECT * FROM object",
        "SELECT * FROM variable",
    ):
        assert len(db.sql(query).fetchall()) > 0 or "WHERE" in query, variable
        for head in ("CREATE VIEW v AS", "CREATE OR REPLACE VIEW v(x) AS"):
            with pytest.raises(UnsupportedSQL, match="in a view"):
                db.sql(f"{head} {query}")
    assert db.sql("SHOW VIEWS").fetchall() == []


def test_a_view_never_reads_a_variable_in_place_of_a_lost_table(db: eventdb.Database) -> None:
    db.sql("CREATE VIEW v AS SELECT a FROM t")
    db.sql("ALTER TABLE t RENAME TO gone")
    t = {"a": [99]}
    assert db.sql("SELECT a FROM t").fetchall() == [(99,)], t
    with pytest.raises(BindError, match="view 'v' cannot be read"):
        db.sql("SELECT a FROM v")


def test_an_object_cannot_take_the_name_of_a_view(db: eventdb.Database) -> None:
    db.sql("CREATE VIEW Good AS SELECT a FROM t")
    with pytest.raises(UsageError, match="'gOOd' is a topic, table or view"):
        db.register("gOOd", {"a": [1]})
