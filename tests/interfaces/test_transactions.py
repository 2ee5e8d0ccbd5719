"""What commit and rollback of a connection mean: for its own queries, for others, and for the disk."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb import dbapi


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        opened.create_topic(
            "events", {"name": "VARCHAR", "n": "BIGINT", "at": "TIMESTAMP"}, key="name", event_time="at"
        )
        opened.create_table("accounts", {"id": "BIGINT", "name": "VARCHAR", "balance": "BIGINT"}, primary_key="id")
        opened.sql("INSERT INTO accounts VALUES (1, 'ada', 10), (2, 'bob', 20), (3, 'cleo', 30)")
        opened.sql("INSERT INTO events VALUES ('ada', 1, TIMESTAMP '2026-01-01')")
        yield opened


def rows(source: Any, query: str) -> list[tuple[Any, ...]]:
    found = source.execute(query) if isinstance(source, dbapi.Connection) else source.sql(query)
    return sorted(found.fetchall())


def test_what_is_not_committed_is_seen_by_its_connection_alone(db: eventdb.Database) -> None:
    mine, other = dbapi.connect(db), dbapi.connect(db)
    mine.execute("INSERT INTO accounts VALUES (4, 'dan', 40)")
    mine.execute("UPDATE accounts SET balance = balance + 1 WHERE id IN (1, 4)")
    mine.execute("DELETE FROM accounts WHERE name = 'bob'")
    mine.execute("INSERT INTO events VALUES ('dan', 2, NULL)")
    assert rows(mine, "SELECT id, balance FROM accounts") == [(1, 11), (3, 30), (4, 41)]
    assert rows(mine, "SELECT name, count(*), sum(n) FROM events GROUP BY name") == [("ada", 1, 1), ("dan", 1, 2)]
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 4") == [(41,)]
    assert rows(mine, "SELECT e.n, a.balance FROM events e JOIN accounts a ON a.name = e.name") == [(1, 11), (2, 41)]
    for source in (other, db):
        assert rows(source, "SELECT id, balance FROM accounts") == [(1, 10), (2, 20), (3, 30)]
        assert rows(source, "SELECT count(*) FROM events") == [(1,)]
    mine.commit()
    for source in (mine, other, db):
        assert rows(source, "SELECT id, balance FROM accounts") == [(1, 11), (3, 30), (4, 41)]
        assert rows(source, "SELECT name, n FROM events") == [("ada", 1), ("dan", 2)]


def test_others_see_all_of_a_transaction_or_nothing(db: eventdb.Database) -> None:
    connection, seen, done = dbapi.connect(db), set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            with db.snapshot() as snapshot:
                seen.add(
                    snapshot.sql("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM accounts)").fetchone()
                )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for i in range(10, 30):
            connection.execute("INSERT INTO accounts VALUES (?, 'x', 0)", (i,))
            connection.execute("INSERT INTO events VALUES ('x', ?, NULL)", (i,))
            if i % 5 == 4:
                connection.commit()
    finally:
        done.set()
        thread.join()
    assert seen <= {(1 + n, 3 + n) for n in range(0, 25, 5)}


def test_rollback_and_close_leave_nothing(db: eventdb.Database) -> None:
    for end in (dbapi.Connection.rollback, dbapi.Connection.close):
        connection = dbapi.connect(db)
        connection.execute("DELETE FROM accounts")
        connection.execute("INSERT INTO events VALUES ('x', 1, NULL)")
        assert connection.in_transaction
        end(connection)
        assert len(rows(db, "SELECT * FROM accounts")) == 3
        assert len(rows(db, "SELECT * FROM events")) == 1


def test_a_block_commits_or_rolls_back(db: eventdb.Database) -> None:
    connection = dbapi.connect(db)
    with connection:
        connection.execute("UPDATE accounts SET balance = 0 WHERE id = 1")

    def change_and_fail() -> None:
        with connection:
            connection.execute("UPDATE accounts SET balance = 7 WHERE id = 2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert rows(db, "SELECT id, balance FROM accounts WHERE id < 3") == [(1, 0), (2, 20)]


def test_the_second_of_two_that_change_a_row_is_told_to_do_it_again(db: eventdb.Database) -> None:
    first, second = dbapi.connect(db), dbapi.connect(db)
    first.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
    second.execute("UPDATE accounts SET balance = balance + 5 WHERE id = 1")
    second.execute("INSERT INTO events VALUES ('second', 1, NULL)")
    first.commit()
    with pytest.raises(dbapi.OperationalError, match="accounts") as caught:
        second.commit()
    assert isinstance(caught.value.__cause__, eventdb.ConflictError)
    assert not second.in_transaction
    assert rows(second, "SELECT balance FROM accounts WHERE id = 1") == [(11,)]
    assert rows(db, "SELECT count(*) FROM events") == [(1,)]
    second.execute("UPDATE accounts SET balance = balance + 5 WHERE id = 1")
    second.commit()
    assert rows(db, "SELECT balance FROM accounts WHERE id = 1") == [(16,)]


@pytest.mark.parametrize("change", ["DELETE FROM accounts WHERE id = 1", "UPDATE accounts SET id = 9 WHERE id = 1"])
def test_a_row_that_was_deleted_meanwhile_is_a_conflict(db: eventdb.Database, change: str) -> None:
    mine = dbapi.connect(db)
    mine.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    db.sql(change)
    with pytest.raises(dbapi.OperationalError):
        mine.commit()


def test_different_rows_of_a_table_are_no_conflict(db: eventdb.Database) -> None:
    first, second = dbapi.connect(db), dbapi.connect(db)
    first.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    second.execute("DELETE FROM accounts WHERE id = 2")
    first.commit()
    second.commit()
    assert rows(db, "SELECT id, balance FROM accounts") == [(1, 0), (3, 30)]


def test_a_key_that_is_taken_is_an_integrity_error_at_once_or_at_the_commit(db: eventdb.Database) -> None:
    first, second = dbapi.connect(db), dbapi.connect(db)
    with pytest.raises(dbapi.IntegrityError, match="id = 1"):
        first.execute("INSERT INTO accounts VALUES (1, 'x', 0)")
    first.execute("INSERT INTO accounts VALUES (5, 'first', 0)")
    with pytest.raises(dbapi.IntegrityError, match="id = 5"):
        first.execute("INSERT INTO accounts VALUES (6, 'x', 0), (5, 'x', 0)")
    assert rows(first, "SELECT id FROM accounts WHERE id > 4") == [(5,)]  # the statement left nothing
    second.execute("INSERT INTO accounts VALUES (5, 'second', 0)")
    first.commit()
    with pytest.raises(dbapi.IntegrityError, match="id = 5"):
        second.commit()
    assert rows(db, "SELECT name FROM accounts WHERE id = 5") == [("first",)]


def test_a_transaction_that_writes_reads_one_moment(db: eventdb.Database) -> None:
    mine = dbapi.connect(db)
    assert rows(mine, "SELECT count(*) FROM events") == [(1,)]
    db.sql("INSERT INTO events VALUES ('a', 1, NULL)")
    assert rows(mine, "SELECT count(*) FROM events") == [(2,)]  # nothing was written yet
    mine.execute("INSERT INTO events VALUES ('b', 1, NULL)")
    db.sql("INSERT INTO events VALUES ('c', 1, NULL)")
    assert rows(mine, "SELECT count(*) FROM events") == [(3,)]
    mine.commit()
    assert rows(mine, "SELECT count(*) FROM events") == [(4,)]


def test_a_snapshot_transaction_begins_with_its_first_query(db: eventdb.Database) -> None:
    mine = dbapi.connect(db, isolation="SNAPSHOT")
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(10,)]
    db.sql("UPDATE accounts SET balance = 50 WHERE id = 1")
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(10,)]
    mine.execute("UPDATE accounts SET balance = 11 WHERE id = 1")
    with pytest.raises(dbapi.OperationalError):
        mine.commit()
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(50,)]
    mine.isolation = "READ COMMITTED"
    assert not mine.in_transaction
    with pytest.raises(dbapi.ProgrammingError, match="SERIALIZABLE"):
        dbapi.connect(db, isolation="SERIALIZABLE")


def test_a_view_over_uncommitted_events_is_refused(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW totals AS SELECT name, sum(n) AS n FROM events GROUP BY name")
    connection = dbapi.connect(db)
    connection.execute("UPDATE accounts SET balance = 0")
    assert rows(connection, "SELECT * FROM totals") == [("ada", 1)]
    connection.execute("INSERT INTO events VALUES ('ada', 2, NULL)")
    with pytest.raises(dbapi.NotSupportedError, match="totals"):
        connection.execute("SELECT * FROM totals")
    connection.commit()
    assert rows(connection, "SELECT * FROM totals") == [("ada", 3)]


def test_what_a_row_gets_at_the_commit_cannot_be_returned_before(db: eventdb.Database) -> None:
    connection = dbapi.connect(db)
    for statement in ("INSERT INTO events VALUES ('x', 1, NULL) RETURNING _offset",
                      "UPDATE accounts SET balance = 0 RETURNING id, _offset"):  # fmt: skip
        with pytest.raises(dbapi.NotSupportedError, match="_offset"):
            connection.execute(statement)
    assert not connection.in_transaction
    assert connection.execute("DELETE FROM accounts WHERE id = 1 RETURNING name").fetchall() == [("ada",)]
    connection.autocommit = True
    assert connection.execute("INSERT INTO events VALUES ('x', 1, NULL) RETURNING _offset").fetchall() == [(1,)]


def test_statements_that_create_commit_what_came_before(db: eventdb.Database) -> None:
    connection = dbapi.connect(db)
    connection.execute("DELETE FROM accounts WHERE id = 1")
    connection.execute("CREATE TABLE other (id BIGINT PRIMARY KEY)")
    connection.rollback()
    assert rows(db, "SELECT id FROM accounts") == [(2,), (3,)]
    assert "other" in db.tables()


def test_uncommitted_rows_have_system_columns(db: eventdb.Database) -> None:
    connection = dbapi.connect(db)
    connection.execute("INSERT INTO events VALUES ('zoe', 5, TIMESTAMP '2026-02-01'), ('max', 6, NULL)")
    found = connection.execute(
        "SELECT name, _key, _time, _partition, _headers FROM events WHERE _offset > 0"
    ).fetchall()
    assert [(name, key, str(time), part, headers) for name, key, time, part, headers in found] == [
        ("zoe", "zoe", "2026-02-01 00:00:00", 0, None),
        ("max", "max", "None", 0, None),
    ]
    assert connection.execute("SELECT name FROM events ORDER BY _offset DESC LIMIT 2").fetchall() == [
        ("max",),
        ("zoe",),
    ]
    assert rows(connection, "SELECT name FROM events WHERE _offset < 10") == [("ada",)]
    assert rows(connection, "SELECT name FROM events WHERE at >= TIMESTAMP '2026-01-15'") == [("zoe",)]
    assert rows(connection, "SELECT count(*) FROM events WHERE _append_time > TIMESTAMP '2020-01-01'") == [(3,)]


def test_executemany_inserts_what_execute_would(db: eventdb.Database) -> None:
    values = [(10, "é'x", 5), (11, None, -1), (12, "z", None)]
    with dbapi.connect(db) as connection:
        assert connection.executemany("INSERT INTO accounts VALUES (?, ?, ?)", values).rowcount == 3
        named = [{"n": str(i), "b": i, "extra": 0} for i in range(20, 23)]
        connection.executemany("INSERT INTO accounts (name, balance, id) VALUES (:n, :b, :b)", named)
        connection.executemany("INSERT INTO events (n, name) VALUES (?, ?)", [(7, "q"), (8, "r")])
        connection.executemany("INSERT INTO accounts (id) VALUES (?)", [("30",), (31,)])  # '30' takes a cast
        connection.executemany("UPDATE accounts SET balance = ? WHERE id = ?", [(1, 30), (2, 31)])
    expected = [*values, *((i, str(i), i) for i in range(20, 23)), (30, None, 1), (31, None, 2)]
    assert db.sql("SELECT * FROM accounts WHERE id >= 10 ORDER BY id").fetchall() == expected
    assert rows(db, "SELECT n, name, at FROM events WHERE n > 5") == [(7, "q", None), (8, "r", None)]


MANY = {  # the last one alone takes the way of one statement after another
    "a key": ("INSERT INTO accounts (id, balance) VALUES (?, ?)", [(40, 1), (41, 2), (1, 3), (42, 4)]),
    "a type": ("INSERT INTO accounts (id, balance) VALUES (?, ?)", [(40, 1), (41, 2), (44, "x"), (42, 4)]),
    "an expression": ("INSERT INTO accounts (id, balance) VALUES (?, 0 + ?)", [(40, 1), (41, 2), (1, 3), (42, 4)]),
}


@pytest.mark.parametrize("what", MANY)
@pytest.mark.parametrize("begin", ["", "DELETE FROM accounts WHERE id = 2"])
def test_executemany_stops_where_it_fails_and_keeps_what_came_before_as_sqlite_does(
    db: eventdb.Database, what: str, begin: str
) -> None:
    text, values = MANY[what]
    mine, theirs = dbapi.connect(db), sqlite3.connect(":memory:")
    theirs.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER) STRICT")
    theirs.execute("INSERT INTO accounts VALUES (1, 'ada', 10), (2, 'bob', 20), (3, 'cleo', 30)")
    theirs.commit()
    for connection, error in ((mine, dbapi.DatabaseError), (theirs, sqlite3.IntegrityError)):
        if begin:
            connection.execute(begin)
        with pytest.raises(error):
            connection.executemany(text, values)
        assert connection.in_transaction
    query = "SELECT id, balance FROM accounts ORDER BY id"
    for end in ("commit", "rollback"):
        assert mine.execute(query).fetchall() == theirs.execute(query).fetchall()
        getattr(mine, end)()
        getattr(theirs, end)()
    assert (40, 1) in rows(db, query)
    theirs.close()


@pytest.mark.parametrize("what", MANY)
def test_executemany_in_autocommit_leaves_all_or_nothing(db: eventdb.Database, what: str) -> None:
    text, values = MANY[what]
    mine = dbapi.connect(db, autocommit=True)
    with pytest.raises(dbapi.DatabaseError):
        mine.executemany(text, values)
    assert not mine.in_transaction
    assert rows(db, "SELECT id FROM accounts") == [(1,), (2,), (3,)]


def test_another_process_sees_the_commit_after_reopening(tmp_path: Path) -> None:
    connection = eventdb.connect(tmp_path / "new")
    connection.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, x VARCHAR)")
    connection.executemany("INSERT INTO t VALUES (:id, :x)", [{"id": i, "x": "a" * i} for i in range(5)])
    connection.execute("DELETE FROM t WHERE id = 2")
    connection.commit()
    connection.execute("DELETE FROM t")
    connection.close()
    with eventdb.open(tmp_path / "new") as again:
        assert [len(x) for (x,) in again.sql("SELECT x FROM t ORDER BY id")] == [0, 1, 3, 4]
        assert again.check(deep=True) == []


FAILING = ["INSERT INTO accounts VALUES (1, 'x', 0)", "UPDATE accounts SET balance = 1 / 0", "SELECT 1 / 0"]


@pytest.mark.parametrize("failing", FAILING)
def test_a_statement_that_fails_leaves_a_snapshot_transaction_at_its_moment(db: eventdb.Database, failing: str) -> None:
    """It read the next statement's moment, so that what it did with what it had read overwrote another's change."""
    mine = dbapi.connect(db, isolation="SNAPSHOT")
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(10,)]
    with pytest.raises(dbapi.DatabaseError):
        mine.execute(failing)
    db.sql("UPDATE accounts SET balance = 50 WHERE id = 1")
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(10,)]
    mine.execute("UPDATE accounts SET balance = 11 WHERE id = 1")
    with pytest.raises(dbapi.OperationalError):
        mine.commit()
    assert rows(db, "SELECT balance FROM accounts WHERE id = 1") == [(50,)]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SNAPSHOT"])
@pytest.mark.parametrize("failing", [*FAILING, "INSERT INTO events SELECT 'x', 1 / 0, NULL"])
def test_a_first_statement_that_fails_begins_no_transaction(db: eventdb.Database, isolation: str, failing: str) -> None:
    mine = dbapi.connect(db, isolation=isolation)
    with pytest.raises(dbapi.DatabaseError):
        mine.execute(failing)
    with pytest.raises(dbapi.IntegrityError):
        mine.executemany("INSERT INTO accounts (id) VALUES (?)", [(1,), (2,)])
    assert not mine.in_transaction
    db.sql("UPDATE accounts SET balance = 50 WHERE id = 1")
    assert rows(mine, "SELECT balance FROM accounts WHERE id = 1") == [(50,)]


def test_a_statement_whose_returning_fails_leaves_nothing(db: eventdb.Database) -> None:
    mine = dbapi.connect(db)
    mine.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    for into in ("events VALUES ('x', 0, NULL)", "accounts (id, balance) VALUES (9, 0)"):
        with pytest.raises(dbapi.DataError):
            mine.execute(f"INSERT INTO {into} RETURNING 1 / {'n' if 'events' in into else 'balance'}")
    mine.commit()
    assert rows(db, "SELECT count(*) FROM events") == [(1,)]
    assert rows(db, "SELECT id, balance FROM accounts") == [(1, 0), (2, 20), (3, 30)]


def test_begin_in_autocommit_opens_a_transaction_of_its_connection_alone(db: eventdb.Database) -> None:
    first, second = dbapi.connect(db, autocommit=True), dbapi.connect(db, autocommit=True)
    first.execute("BEGIN")
    first.execute("DELETE FROM accounts WHERE id = 1")
    assert first.in_transaction
    assert not second.in_transaction
    second.execute("BEGIN")
    second.execute("DELETE FROM accounts WHERE id = 2")
    assert rows(first, "SELECT id FROM accounts") == [(2,), (3,)]
    assert rows(second, "SELECT id FROM accounts") == [(1,), (3,)]
    assert rows(db, "SELECT id FROM accounts") == [(1,), (2,), (3,)]
    second.execute("ROLLBACK")
    first.execute("COMMIT")
    assert not first.in_transaction
    assert rows(db, "SELECT id FROM accounts") == [(2,), (3,)]


def test_a_connection_in_another_thread_goes_on_with_the_transaction_it_has(db: eventdb.Database) -> None:
    connection = dbapi.connect(db, autocommit=True)
    connection.execute("BEGIN")
    connection.execute("DELETE FROM accounts WHERE id = 1")
    seen: list[Any] = []

    def go_on() -> None:
        seen.append(rows(connection, "SELECT id FROM accounts"))
        connection.execute("COMMIT")
        seen.append(rows(db, "SELECT id FROM accounts"))

    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
    assert seen == [[(2,), (3,)]] * 2


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "autocommit", "with", "executemany"])
def test_ends_of_a_connection_are_ends_of_what_begin_opened(db: eventdb.Database, end: str) -> None:
    connection = dbapi.connect(db, autocommit=True)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO accounts (id) VALUES (?)", [(4,), (5,)])
    assert rows(db, "SELECT id FROM accounts WHERE id > 3") == []
    assert rows(connection, "SELECT id FROM accounts WHERE id > 3") == [(4,), (5,)]
    if end == "autocommit":
        connection.autocommit = False
    elif end == "with":
        with connection:
            pass
    elif end == "executemany":
        with pytest.raises(dbapi.IntegrityError):
            connection.executemany("INSERT INTO accounts (id) VALUES (?)", [(6,), (5,)])
        with pytest.raises(dbapi.ProgrammingError, match="failed"):
            connection.commit()
    else:
        getattr(connection, end)()
    kept = [] if end in ("rollback", "close", "executemany") else [(4,), (5,)]
    assert rows(db, "SELECT id FROM accounts WHERE id > 3") == kept
    assert not connection.in_transaction


def test_executemany_in_a_read_only_transaction_is_refused(db: eventdb.Database) -> None:
    connection = dbapi.connect(db, autocommit=True)
    connection.execute("BEGIN READ ONLY")
    with pytest.raises(dbapi.ProgrammingError, match="READ ONLY"):
        connection.executemany("INSERT INTO accounts (id) VALUES (?)", [(4,), (5,)])
    connection.rollback()


@pytest.mark.parametrize("name", ["events", "accounts"])
@pytest.mark.parametrize("way", ["BEGIN", "connection", "block"])
def test_a_commit_to_what_another_handle_has_dropped_says_so(db: eventdb.Database, way: str, name: str) -> None:
    """What was inserted into a topic went nowhere, and the commit succeeded."""
    insert = {"events": "INSERT INTO events (n) VALUES (5)", "accounts": "INSERT INTO accounts (id) VALUES (5)"}[name]
    with eventdb.open(db.path, durability="os") as other, contextlib.ExitStack() as opened:
        if way == "block":
            transaction = opened.enter_context(db.transaction())
            add = transaction.append if name == "events" else transaction.insert
            add(name, {"n": 5} if name == "events" else {"id": 5})
            commit = transaction.commit
        elif way == "BEGIN":
            session = opened.enter_context(db.session())
            session.sql("BEGIN")
            session.sql(insert)
            commit = session.commit
        else:
            commit = dbapi.connect(db).execute(insert).connection.commit
        other.sql(f"DROP {'TOPIC' if name == 'events' else 'TABLE'} {name}")
        with pytest.raises((eventdb.TopicNotFound, dbapi.ProgrammingError), match="dropped"):
            commit()


def test_a_copy_into_a_file_is_part_of_its_transaction_and_commits_nothing(
    db: eventdb.Database, tmp_path: Path
) -> None:
    mine = dbapi.connect(db)
    mine.execute("INSERT INTO accounts (id) VALUES (9)")
    mine.execute(f"COPY (SELECT id FROM accounts ORDER BY id) TO '{tmp_path / 'ids.csv'}'")
    assert (tmp_path / "ids.csv").read_text().split() == ['"id"', "1", "2", "3", "9"]
    mine.rollback()
    assert rows(db, "SELECT id FROM accounts") == [(1,), (2,), (3,)]


# --- against SQLite ---------------------------------------------------------------------------------------------------

KEYS = st.integers(0, 6)
NUMBERS = st.integers(-5, 5)
STATEMENTS = st.one_of(
    st.tuples(st.just("INSERT INTO t VALUES (?, ?)"), st.tuples(KEYS, NUMBERS)),
    st.tuples(st.just("INSERT INTO t VALUES (?, ?) ON CONFLICT (k) DO NOTHING"), st.tuples(KEYS, NUMBERS)),
    st.tuples(
        st.just("INSERT INTO t VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = t.v + excluded.v"),
        st.tuples(KEYS, NUMBERS),
    ),
    st.tuples(st.just("INSERT INTO t SELECT k + 1, v FROM t WHERE k = ?"), st.tuples(KEYS)),
    st.tuples(st.just("UPDATE t SET v = v * 2 + 1 WHERE k >= ?"), st.tuples(KEYS)),
    st.tuples(st.just("UPDATE t SET v = ? WHERE k = ?"), st.tuples(NUMBERS, KEYS)),
    st.tuples(st.just("UPDATE t SET k = ? WHERE k = ?"), st.tuples(KEYS, KEYS)),
    st.tuples(st.just("UPDATE t SET v = (SELECT max(v) FROM t) WHERE k = ?"), st.tuples(KEYS)),
    st.tuples(st.just("DELETE FROM t WHERE k = ?"), st.tuples(KEYS)),
    st.tuples(st.just("DELETE FROM t WHERE v > ?"), st.tuples(NUMBERS)),
    st.tuples(st.sampled_from(["COMMIT", "ROLLBACK"]), st.just(())),
)
QUERIES = [
    "SELECT k, v FROM t ORDER BY k",
    "SELECT count(*), sum(v), min(k) FROM t WHERE v >= 0",
    "SELECT a.k, b.k FROM t a JOIN t b ON a.v = b.v AND a.k < b.k ORDER BY 1, 2",
    "SELECT v FROM t WHERE k = 3",
    "SELECT k FROM t WHERE k IN (SELECT v FROM t) ORDER BY k",
    "SELECT v, count(*) FROM t GROUP BY v ORDER BY v LIMIT 2",
]


@settings(max_examples=25, deadline=None)
@given(st.lists(STATEMENTS, max_size=14))
def test_statements_of_a_transaction_do_what_they_do_in_sqlite(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, tuple[int, ...]]]
) -> None:
    theirs = sqlite3.connect(":memory:")
    theirs.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    with eventdb.open(tmp_path_factory.mktemp("t") / "db", durability="os") as db:
        db.sql("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)")
        mine = dbapi.connect(db)
        for statement, values in steps:
            if not values:
                for connection in (mine, theirs):
                    (connection.commit if statement == "COMMIT" else connection.rollback)()
            else:
                outcomes = []
                for connection, integrity in ((mine, dbapi.IntegrityError), (theirs, sqlite3.IntegrityError)):
                    try:
                        outcomes.append(max(0, connection.execute(statement, values).rowcount))
                    except integrity:
                        outcomes.append(-1)
                assert outcomes[0] == outcomes[1], statement
            for query in QUERIES:
                assert mine.execute(query).fetchall() == theirs.execute(query).fetchall(), (statement, query)
        mine.rollback()
        theirs.rollback()
        assert db.sql(QUERIES[0]).fetchall() == theirs.execute(QUERIES[0]).fetchall()
    theirs.close()
