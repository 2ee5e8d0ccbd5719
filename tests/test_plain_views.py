"""Plain views: a stored query means the same columns for ever, reads nothing of one program alone, and is not left
behind by what it reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventdb
from eventdb import BindError, EventDBError, UnsupportedSQL, UsageError


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


# --- what is dropped with what ----------------------------------------------------------------------------------------


@pytest.fixture
def chain(db: eventdb.Database) -> eventdb.Database:
    """v reads t, w reads v, m is materialized over e, p reads m and t."""
    db.sql("CREATE TOPIC e (a INTEGER)")
    db.sql("CREATE MATERIALIZED VIEW m AS SELECT a FROM e")
    db.sql("CREATE VIEW v AS WITH x AS (SELECT a FROM t) SELECT * FROM x")
    db.sql("CREATE VIEW w AS SELECT a FROM v WHERE a IN (SELECT a FROM v)")
    db.sql("CREATE VIEW p AS SELECT m.a FROM m JOIN t ON m.a = t.a")
    return db


def names(db: eventdb.Database) -> set[str]:
    return {row[0] for row in db.sql("SHOW TABLES").fetchall()}


@pytest.mark.parametrize("word", ["", "RESTRICT"])
@pytest.mark.parametrize(
    ("what", "reader"), [("TABLE t", "v"), ("VIEW v", "w"), ("MATERIALIZED VIEW m", "p"), ("TOPIC e", "m")]
)
def test_drop_refuses_what_a_view_reads(chain: eventdb.Database, what: str, reader: str, word: str) -> None:
    with pytest.raises(UsageError, match=f"feeds the view '{reader}'.*CASCADE"):
        chain.sql(f"DROP {what} {word}")
    assert names(chain) == {"t", "e", "m", "v", "w", "p"}


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("TABLE t", {"e", "m"}),
        ("TABLE IF EXISTS T", {"e", "m"}),
        ("VIEW v", {"t", "e", "m", "p"}),
        ("VIEW w", {"t", "e", "m", "v", "p"}),
        ("MATERIALIZED VIEW m", {"t", "e", "v", "w"}),
        ("TOPIC e", {"t", "v", "w"}),
        ("TABLE IF EXISTS nothing", {"t", "e", "m", "v", "w", "p"}),
    ],
)
def test_drop_cascade_drops_the_views_that_read_it(chain: eventdb.Database, what: str, left: set[str]) -> None:
    chain.sql(f"DROP {what} CASCADE")
    assert names(chain) == left
    for name in left:
        chain.sql(f"SELECT * FROM {name}").fetchall()
    assert chain.check() == []


def test_drop_refuses_through_python_too(chain: eventdb.Database) -> None:
    with pytest.raises(UsageError, match="feeds the view 'v'"):
        chain.drop_table("t")
    chain.sql("DROP VIEW w")
    chain.sql("DROP VIEW v")
    chain.sql("DROP VIEW p")
    chain.drop_table("t")
    chain.sql("CREATE VIEW q AS SELECT 1 AS t")
    chain.sql("CREATE TABLE t(a INTEGER)")
    chain.drop_table("t")


# --- what is made aside -----------------------------------------------------------------------------------------------

HIDDEN = "making/"


def hidden(db: eventdb.Database) -> list[str]:
    return [info.name for info in db._catalog.topics() if info.name.startswith(HIDDEN)]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE OR REPLACE TABLE v (a INTEGER)",
        "CREATE OR REPLACE TABLE e (a INTEGER)",
        'CREATE OR REPLACE TABLE "a b" (a INTEGER)',
        "CREATE OR REPLACE TABLE m (a INTEGER)",
        "CREATE OR REPLACE TABLE v AS SELECT 1 AS a",
        "CREATE OR REPLACE TABLE e AS SELECT 1 AS a",
        'CREATE OR REPLACE TABLE "a b" AS SELECT 1 AS a',
        "CREATE OR REPLACE TABLE t AS SELECT 1 // (a - 1) AS a FROM t",
        "CREATE OR REPLACE VIEW t AS SELECT 1 AS a",
        "CREATE OR REPLACE VIEW m AS SELECT 1 AS a",
        "CREATE TOPIC v AS SELECT 1 AS a",
    ],
)
def test_a_create_that_fails_leaves_nothing(chain: eventdb.Database, text: str) -> None:
    with pytest.raises(EventDBError):
        chain.sql(text)
    assert hidden(chain) == []
    assert names(chain) == {"t", "e", "m", "v", "w", "p"}
    assert chain.sql("SELECT * FROM t").fetchall() == [(1, "x")]


def test_a_failure_behind_the_last_step_is_told_as_it_is(db: eventdb.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(topic_id: int) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(db._store, "forget", fail)
    with pytest.raises(RuntimeError, match="no"):
        db.sql("CREATE OR REPLACE TABLE t AS SELECT 2 AS a, 'y' AS b")
    monkeypatch.undo()
    assert db.sql("SELECT * FROM t").fetchall() == [(2, "y")]


VICTIM = """
import os, sys, eventdb, eventdb.making as making
db = eventdb.open(sys.argv[1], durability="os")
making.replace_table = lambda *a, **k: (print("made", flush=True), sys.stdin.readline(), os._exit(9))
db.sql("CREATE OR REPLACE TABLE t AS SELECT 3 AS a, 'z' AS b")
"""


def test_a_table_that_a_dead_process_was_making_is_swept_at_open_and_a_live_one_s_is_not(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with eventdb.open(path, durability="os") as db:
        db.sql("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b")
    victim = VICTIM.replace("making.replace_table =", "import eventdb.schema_statements as s; s.replace_table =")
    process = subprocess.Popen(
        [sys.executable, "-c", victim, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    with eventdb.open(path, durability="os") as db:
        assert len(hidden(db)) == 1
        assert db.tables() == ["t"]
        assert names(db) == {"t"}
    with eventdb.open(path, read_only=True) as db:
        assert len(hidden(db)) == 1
    process.communicate("go\n", timeout=60)
    assert process.returncode == 9
    with eventdb.open(path, durability="os") as db:
        assert hidden(db) == []
        assert db.sql("SELECT * FROM t").fetchall() == [(1, "x")]
        assert db.check(deep=True) == []


def test_drop_view_of_a_table_touches_no_view(chain: eventdb.Database) -> None:
    for text in ("DROP VIEW t", "DROP VIEW t CASCADE", "DROP VIEW e CASCADE"):
        with pytest.raises(UsageError, match=r"is a (table|topic): DROP (TABLE|TOPIC)"):
            chain.sql(text)
    for text in ("DROP VIEW IF EXISTS t CASCADE", "DROP VIEW IF EXISTS nothing CASCADE"):
        chain.sql(text)
    assert names(chain) == {"t", "e", "m", "v", "w", "p"}
