"""Clauses of the grammar's edge: each does what it says, against a plain model, or is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

import eventdb
from eventdb import BindError, EvaluationError, EventDBError, ParseError, UnsupportedSQL, UsageError

ROWS = [(1, 10), (1, 20), (2, 10)]


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as opened:
        opened.sql("CREATE TABLE k(a INTEGER, b INTEGER)")
        opened.sql("INSERT INTO k VALUES (1, 10), (1, 20), (2, 10)")
        yield opened


def grouped(sets: list[frozenset[str]]) -> list[tuple[object, ...]]:
    """The rows and counts of grouping sets, each set once for each time it is given."""
    found: list[tuple[object, ...]] = []
    for one in sets:
        keys = [(a if "a" in one else None, b if "b" in one else None) for a, b in ROWS]
        found += [(*key, keys.count(key)) for key in dict.fromkeys(keys)]
    return sorted(found, key=repr)


def test_group_by_distinct_takes_each_grouping_set_once(db: eventdb.Database) -> None:
    rollup = [frozenset("ab"), frozenset("a"), frozenset()]
    every = [one | other for one, other in product(rollup, [frozenset("a"), frozenset()])]
    for word, sets in (("", every), ("DISTINCT", list(dict.fromkeys(every)))):
        query = f"SELECT a, b, count(*) FROM k GROUP BY {word} ROLLUP (a, b), ROLLUP (a)"
        assert sorted(db.sql(query).fetchall(), key=repr) == grouped(sets)
    assert sorted(db.sql("SELECT a, count(*) FROM k GROUP BY DISTINCT a").fetchall()) == [(1, 2), (2, 1)]


@pytest.mark.parametrize("keys", ["ALL, b", "ALL ROLLUP (a, b)"])
def test_group_by_all_beside_other_keys_is_refused(db: eventdb.Database, keys: str) -> None:
    with pytest.raises(UnsupportedSQL, match="GROUP BY ALL beside other keys"):
        db.sql(f"SELECT a, count(*) FROM k GROUP BY {keys}")


def test_distinct_on_nothing_is_refused(db: eventdb.Database) -> None:
    with pytest.raises(BindError, match="DISTINCT ON"):
        db.sql("SELECT DISTINCT ON () a FROM k")


def test_a_parameter_of_execute_is_given_once(db: eventdb.Database) -> None:
    db.sql("PREPARE p AS SELECT $a - $b")
    with pytest.raises(ParseError, match=r"\$a is given twice"):
        db.sql("EXECUTE p(a := 1, a := 2, b := 3)")
    assert db.sql("EXECUTE p(a := 1, b := 3)").fetchall() == [(-2,)]


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ("READ ONLY, READ WRITE", "READ WRITE after READ ONLY"),
        ("READ WRITE READ ONLY", "READ ONLY after READ WRITE"),
        ("READ ONLY, READ ONLY", "given twice"),
        ("ISOLATION LEVEL SNAPSHOT, ISOLATION LEVEL READ COMMITTED", "given twice"),
        ("READ ONLY,", "expected a transaction mode"),
    ],
)
def test_transaction_modes_that_contradict_each_other_begin_nothing(
    db: eventdb.Database, modes: str, message: str
) -> None:
    with pytest.raises(ParseError, match=message):
        db.sql(f"BEGIN {modes}")
    with pytest.raises(UsageError, match="no transaction"):
        db.sql("ROLLBACK")
    db.sql("BEGIN TRANSACTION ISOLATION LEVEL SNAPSHOT, READ WRITE")
    db.sql("ROLLBACK")


def test_the_message_of_merge_error_is_any_expression(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE t(a INTEGER PRIMARY KEY)")
    db.sql("INSERT INTO t VALUES (1)")
    source = "MERGE INTO t USING (SELECT 1 AS a, 'q' AS c) s ON t.a = s.a WHEN MATCHED THEN ERROR "
    for message, shown in (("upper(s.c) || 'z'", "Qz"), ("concat('no ', s.c)", "no q"), ("('x' || c)", "xq")):
        with pytest.raises(EvaluationError, match=f"^{shown}"):
            db.sql(source + message)


@pytest.mark.parametrize("clause", ["ON CONFLICT DO NOTHING", "ON CONFLICT DO UPDATE SET b = 1"])
def test_on_conflict_needs_a_key(db: eventdb.Database, clause: str) -> None:
    with pytest.raises(UnsupportedSQL, match="ON CONFLICT on a table without a key"):
        db.sql(f"INSERT INTO k VALUES (1, 10) {clause}")
    for verb in ("REPLACE", "IGNORE"):
        with pytest.raises(UnsupportedSQL, match=f"INSERT OR {verb} on a table without a key"):
            db.sql(f"INSERT OR {verb} INTO k VALUES (1, 10)")
    assert sorted(db.sql("SELECT * FROM k").fetchall()) == ROWS


def test_columns_may_be_named_conflict_and_returning(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE c(conflict INTEGER PRIMARY KEY, returning INTEGER)")
    db.sql("INSERT INTO c (conflict, returning) VALUES (1, 2), (3, 4)")
    assert db.sql("SELECT conflict, returning FROM c WHERE c.returning > 2").fetchall() == [(3, 4)]
    db.sql("INSERT INTO c SELECT x.conflict + 4, y.returning FROM c x JOIN c y ON x.conflict = 1 AND y.conflict = 3")
    db.sql("INSERT INTO c SELECT x.conflict + 10, 0 FROM (SELECT conflict FROM c) x JOIN k ON conflict = a LIMIT 1")
    done = db.sql("UPDATE c SET returning = returning + 1 WHERE returning = 2 RETURNING returning")
    assert done.fetchall() == [(3,)]
    assert db.sql("DELETE FROM c WHERE c.returning = 0 RETURNING c.conflict").fetchall() == [(11,)]
    merged = "MERGE INTO c USING (SELECT 3 AS returning) s ON c.returning = s.returning WHEN MATCHED THEN UPDATE "
    assert db.sql(merged + "SET returning = 9 RETURNING c.returning").fetchall() == [(9,)]
    assert db.sql("INSERT INTO c VALUES (1, 7) ON CONFLICT DO UPDATE SET returning = 7 RETURNING *").fetchall() == [
        (1, 7)
    ]
    assert sorted(db.sql("SELECT * FROM c").fetchall()) == [(1, 7), (3, 4), (5, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE TABLE d(a INTEGER DEFAULT random())", "a DEFAULT that is not a constant"),
        ("EXECUTE p(random())", "a value of EXECUTE that is not a constant"),
        ("SELECT (a AS x) FROM k", "AS inside an expression"),
        ("SELECT abs(a AS x) FROM k", "AS inside an expression"),
        ("SELECT a FROM k WHERE (a = 1 AS x)", "AS inside an expression"),
    ],
)
def test_refusals_use_words_of_sql(db: eventdb.Database, text: str, message: str) -> None:
    db.create_function("random", lambda: 4.0, [], "DOUBLE", volatile=True)
    db.sql("PREPARE p AS SELECT $1")
    with pytest.raises(EventDBError, match=message):
        db.sql(text)


def test_a_column_is_named_by_its_position(db: eventdb.Database) -> None:
    assert db.sql("SELECT b FROM k ORDER BY #1 DESC, #2 DESC").fetchall() == [(10,), (20,), (10,)]
    assert db.sql("SELECT #2 + 1, a FROM k WHERE #1 = 2").fetchall() == [(11, 2)]
    united = db.sql("SELECT a, b FROM k UNION SELECT 0, 5 ORDER BY #2, #1").fetchall()
    assert united == [(0, 5), (1, 10), (2, 10), (1, 20)]
    with pytest.raises(BindError, match="#3: there are 2 columns"):
        db.sql("SELECT #3 FROM k")


def test_an_aggregate_may_come_first_behind_distinct_on(db: eventdb.Database) -> None:
    query = "SELECT DISTINCT ON (a) max(b), a FROM k GROUP BY a ORDER BY a"
    assert db.sql(query).fetchall() == [(20, 1), (10, 2)]


def test_a_window_with_a_frame_is_named_without_brackets(db: eventdb.Database) -> None:
    window = "FROM k WINDOW w AS (ORDER BY a, b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"
    assert db.sql(f"SELECT sum(b) OVER w {window}").fetchall() == [(10,), (30,), (30,)]
    with pytest.raises(BindError, match="write OVER w"):
        db.sql(f"SELECT sum(b) OVER (w) {window}")
    assert len(db.sql("SELECT sum(b) OVER (w) FROM k WINDOW w AS (ORDER BY a)").fetchall()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT * FROM rang()", "no table function rang"),
        ("SELECT corr(*) FROM k", r"\* is not allowed here"),
        ("SELECT row_number() OVER (ORDER BY ALL) FROM k", "ALL is not allowed here"),
    ],
)
def test_what_is_wrong_is_not_called_unsupported(db: eventdb.Database, text: str, message: str) -> None:
    with pytest.raises(BindError, match=message):
        db.sql(text)


def test_text_written_in_a_union_by_name_is_read_as_its_column(db: eventdb.Database) -> None:
    for text in ("SELECT '7' AS c UNION ALL BY NAME SELECT 8 AS c", "SELECT 8 AS c UNION ALL BY NAME SELECT '7' AS c"):
        assert sorted(db.sql(text).fetchall()) == [(7,), (8,)]
    with pytest.raises(BindError, match="VARCHAR"):
        db.sql("SELECT 'x' AS c UNION ALL BY NAME SELECT 8 AS c")
