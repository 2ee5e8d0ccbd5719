"""The module of PEP 249 beyond the compliance suite: parameters, types, errors, ends."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import eventdb
from eventdb import dbapi, errors
from eventdb.dbapi.errors import kind_of
from eventdb.dbapi.parameters import native

QUOTED = "SELECT ':a', \":a\", x::a, $$:a$$ -- :a\n/* :a */"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[dbapi.Connection]:
    opened = eventdb.connect(tmp_path / "db", durability="os")
    opened.execute(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR NOT NULL, price DECIMAL(9,2), raw BLOB, day DATE, "
        "at TIMESTAMP, ok BOOLEAN)"
    )
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("operation", "given", "text", "values"),
    [
        ("SELECT :a", {"a": 1}, "SELECT $a", {"a": 1}),
        ("SELECT :a, $b, :a", {"a": 1, "b": 2, "c": 3}, "SELECT $a, $b, $a", {"a": 1, "b": 2}),
        (QUOTED, {"a": 1}, QUOTED, None),
        ("SELECT 'it''s :a', :a", {"a": 1}, "SELECT 'it''s :a', $a", {"a": 1}),
        ("SELECT :a::INTEGER, :ab", {"a": 1}, "SELECT $a::INTEGER, :ab", {"a": 1}),
        ("SELECT x[1:a]", {"a": 1}, "SELECT x[1:a]", None),
        ("SELECT ?", (1,), "SELECT ?", (1,)),
        ("SELECT 1", (), "SELECT 1", None),
        ("SELECT 1", {}, "SELECT 1", None),
    ],
)  # fmt: skip
def test_named_placeholders_become_those_of_the_dialect(
    operation: str, given: object, text: str, values: object
) -> None:
    assert native(operation, given) == (text, values)


def test_values_come_back_as_they_went(connection: dbapi.Connection) -> None:
    row = (
        1, "é'\":x%s?", Decimal("12.30"), dbapi.Binary(b"\0\xff"), dbapi.Date(2026, 1, 2),
        dbapi.Timestamp(2026, 1, 2, 3, 4, 5, 6), True,
    )  # fmt: skip
    connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    names = [column[0] for column in connection.execute("SELECT * FROM t").description or ()]
    bound = dict(zip(names, (2, *row[1:]), strict=True))
    connection.execute("INSERT INTO t VALUES (:id, :name, :price, :raw, :day, :at, :ok)", bound)
    assert connection.execute("SELECT * FROM t ORDER BY id").fetchall() == [row, (2, *row[1:])]
    connection.commit()
    assert connection.execute("SELECT * FROM t ORDER BY id").fetchall() == [row, (2, *row[1:])]


def test_the_description_names_types_that_equal_the_type_objects(connection: dbapi.Connection) -> None:
    description = connection.execute("SELECT id, name, price, raw, day, at, ok FROM t").description
    assert description is not None
    kinds = [dbapi.NUMBER, dbapi.STRING, dbapi.NUMBER, dbapi.BINARY, dbapi.DATETIME, dbapi.DATETIME, dbapi.NUMBER]
    assert [column[1] for column in description] == kinds
    assert [column[1] == dbapi.ROWID for column in description] == [False] * 7
    assert description[0] == ("id", "BIGINT", None, 8, None, None, None)
    assert description[1] == ("name", "VARCHAR", None, None, None, None, None)
    assert description[2] == ("price", "DECIMAL(9,2)", None, 8, 9, 2, None)
    assert dbapi.STRING != dbapi.NUMBER
    assert dbapi.STRING != 5
    assert len({dbapi.STRING, dbapi.NUMBER, dbapi.STRING}) == 2


def test_ticks_are_local_times() -> None:
    moment = dt.datetime(2026, 3, 4, 5, 6, 7)
    ticks = moment.timestamp()
    assert dbapi.TimestampFromTicks(ticks) == moment
    assert dbapi.DateFromTicks(ticks) == moment.date()
    assert dbapi.TimeFromTicks(ticks) == moment.time()


@pytest.mark.parametrize(
    ("statement", "parameters", "kind"),
    [
        ("SELEC 1", None, dbapi.ProgrammingError),
        ("SELECT x FROM t", None, dbapi.ProgrammingError),
        ("SELECT 1 FROM nowhere", None, dbapi.ProgrammingError),
        ("SELECT ?", (1, 2), dbapi.ProgrammingError),
        ("SELECT :b", {"a": 1}, dbapi.ProgrammingError),
        ("SELECT ?", "x", dbapi.ProgrammingError),
        ("SELECT ?", 5, dbapi.ProgrammingError),
        (5, None, dbapi.ProgrammingError),
        ("SELECT CAST('x' AS INTEGER)", None, dbapi.DataError),
        ("INSERT INTO t (id) VALUES (1)", None, dbapi.DatabaseError),
        ("INSERT INTO t (id, name) VALUES (2, NULL)", None, dbapi.IntegrityError),
        ("SELECT * FROM t TABLESAMPLE RESERVOIR (5)", None, dbapi.NotSupportedError),
    ],
)
def test_what_is_wrong_is_an_error_of_the_kind_of_pep_249(
    connection: dbapi.Connection, statement: str, parameters: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        connection.execute(statement, parameters)
    assert isinstance(caught.value, dbapi.Error)


def test_every_error_of_eventdb_has_a_kind() -> None:
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.EventDBError):
            kind = kind_of(error("message", **({"function": "f"} if name == "FunctionError" else {})))
            assert issubclass(kind, dbapi.InterfaceError if error is errors.ClosedError else dbapi.DatabaseError), name
    assert kind_of(errors.InternalError("x")) is dbapi.InternalError
    assert kind_of(errors.QueryTimeout("x")) is dbapi.OperationalError
    assert kind_of(errors.DiskFullError("x")) is dbapi.OperationalError
    assert kind_of(errors.TopicNotFound("x")) is dbapi.ProgrammingError


def test_what_is_closed_says_so(connection: dbapi.Connection) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    with cursor:
        pass
    for use in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1"), lambda: cursor.setinputsizes([])):
        with pytest.raises(dbapi.InterfaceError, match="cursor is closed"):
            use()
    other = connection.cursor()
    connection.close()
    connection.close()
    for use in (connection.commit, connection.rollback, connection.cursor, lambda: other.execute("SELECT 1"),
                lambda: connection.__enter__(), connection.interrupt):  # fmt: skip
        with pytest.raises(dbapi.InterfaceError, match="connection is closed"):
            use()


def test_a_connection_to_an_open_database_leaves_it_open(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        connection = dbapi.connect(db)
        assert connection.database is db
        connection.close()
        db.sql("SELECT 1")
    with pytest.raises(dbapi.InterfaceError):
        dbapi.connect(db)
    with pytest.raises(dbapi.OperationalError):
        dbapi.connect(tmp_path / "missing", read_only=True)


def test_autocommit_commits_each_statement(connection: dbapi.Connection) -> None:
    other = dbapi.connect(connection.database.path, durability="os")
    connection.execute("INSERT INTO t (id, name) VALUES (1, 'a')")
    connection.autocommit = True
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
    connection.executemany("INSERT INTO t (id, name) VALUES (?, ?)", [(2, "b"), (3, "c")])
    connection.execute("INSERT INTO t (id, name) VALUES (4, 'd')")
    with pytest.raises(dbapi.IntegrityError):
        connection.executemany("INSERT INTO t (id, name) VALUES (?, ?)", [(5, "b"), (3, "c")])
    assert not connection.in_transaction
    assert other.execute("SELECT count(*) FROM t").fetchone() == (4,)
    other.close()


def test_rows_are_fetched_by_iteration_and_as_arrow(connection: dbapi.Connection) -> None:
    connection.executemany("INSERT INTO t (id, name) VALUES (?, ?)", [(i, str(i)) for i in range(5)])
    cursor = connection.execute("SELECT id FROM t ORDER BY id")
    assert next(cursor) == (0,)
    assert [i for (i,) in cursor] == [1, 2, 3, 4]
    assert cursor.fetchone() is None
    assert cursor.fetch_arrow_table().column("id").to_pylist() == [0, 1, 2, 3, 4]
    assert cursor.fetch_df()["id"].sum() == 10
    with pytest.raises(dbapi.NotSupportedError, match="returns rows"):
        cursor.executemany("SELECT ?", [(1,), (2,)])
    with pytest.raises(dbapi.ProgrammingError, match="same names"):
        cursor.executemany("INSERT INTO t (id, name) VALUES (:id, :x)", [{"id": 8, "x": "a"}, {"id": 9}])
    assert cursor.executemany("INSERT INTO t (id, name) VALUES (?, ?)", []).rowcount == 0


def test_a_statement_ends_at_its_timeout_and_when_interrupted(connection: dbapi.Connection) -> None:
    slow = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 900000000) SELECT max(n) FROM r"
    connection.execute("SET recursion_limit = 1000000000")
    with pytest.raises(dbapi.OperationalError, match="timeout"):
        connection.execute(slow, timeout=0.05)
    timer = threading.Timer(0.1, connection.interrupt)
    timer.start()
    with pytest.raises(dbapi.OperationalError, match="cancelled"):
        connection.execute(slow)
    timer.join()
    connection.timeout = 0.05
    with pytest.raises(dbapi.OperationalError, match="timeout"):
        connection.execute(slow)
