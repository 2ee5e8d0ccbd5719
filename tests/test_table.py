"""Tables against a dict and against SQLite: the same statements, the same rows, in every snapshot."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb import ConstraintError, SchemaMismatch, UnsupportedSQL, UsageError
from eventdb.storage.index import keys as keys_module
from tests.limits import SEGMENT_ROWS

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["a", "b", "c", "d", "e", "long" * 150, "lone" * 150]


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments roll all the time, and every long key has one digest."""
    for name in SEGMENT_ROWS:
        monkeypatch.setattr(f"eventdb.storage.{name}", 8)
    monkeypatch.setattr("eventdb.storage.transaction.MAX_PAYLOAD_BYTES", 300)
    monkeypatch.setattr(keys_module, "_digest", lambda key: b"same")


# --- a dict as the oracle ---------------------------------------------------------------------------------------------

key = st.sampled_from(KEYS)
number = st.integers(-5, 5) | st.none()
operation = st.one_of(
    st.tuples(st.just("put"), key, number),
    st.tuples(st.just("insert"), key, number),
    st.tuples(st.just("delete"), key, st.none()),
    st.tuples(st.just("checkpoint"), st.none(), st.none()),
)


@pytest.mark.usefixtures("small")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(operation, min_size=1, max_size=6), max_size=25))
def test_a_table_is_a_dict_and_old_snapshots_stay_what_they_were(commits: list[list[tuple[str, Any, Any]]]) -> None:
    with eventdb.open(":memory:") as db:
        table = db.create_table("t", {"k": "VARCHAR", "n": "INTEGER"}, primary_key="k")
        model: dict[str, Any] = {}
        snapshots = []
        for commit in commits:
            wanted = dict(model)
            try:
                with db.transaction() as tx:
                    for what, k, n in commit:
                        if what == "put":
                            tx.put(table, {"k": k, "n": n})
                            wanted[k] = n
                        elif what == "insert":
                            tx.insert(table, {"k": k, "n": n})
                            wanted[k] = n if k not in wanted else "taken"
                        elif what == "delete":
                            tx.delete(table, k)
                            wanted.pop(k, None)
                        if "taken" in wanted.values():
                            break
                assert "taken" not in wanted.values()
                model = wanted
            except ConstraintError:
                assert "taken" in wanted.values()
            if any(what == "checkpoint" for what, _, _ in commit):
                db.checkpoint()
            snapshots.append((db.snapshot(), dict(model)))
        for snapshot, expected in snapshots:
            assert dict(snapshot.sql("SELECT k, n FROM t").fetchall()) == expected
            assert snapshot.sql("SELECT count(*) FROM t").fetchall() == [(len(expected),)]
            snapshot.close()
        assert {k: table.get(k) for k in KEYS} == {k: {"k": k, "n": model[k]} if k in model else None for k in KEYS}
        assert {row["k"]: row["n"] for row in table.rows()} == model
        assert len(table) == len(model)
        replayed: dict[str, Any] = {}
        for change in table.read():
            if change.op == "put":
                replayed[change.row["k"]] = change.row["n"]
            else:
                del replayed[change.row["k"]]
        assert replayed == model
        assert db.check(deep=True) == []


# --- SQLite as the oracle ---------------------------------------------------------------------------------------------

_WHERE = st.sampled_from(
    [
        "WHERE a = 1 AND b = 'b'", "WHERE a IN (0, 2) AND b IN ('c', 'a') AND n > 0",
        "", "WHERE n > 0", "WHERE n IS NULL", "WHERE a = 1 OR n < 0", "WHERE b || 'x' > 'bx'", "WHERE n % 2 = 0",
        "WHERE 1 = 0",
    ]
)  # fmt: skip
_SET = st.sampled_from(
    ["n = n + 1", "n = NULL", "n = a, s = b", "s = s || '!'", "n = -n, s = 'new'", "a = a + 10", "b = b || 'z'"]
)
_row = st.tuples(
    st.integers(0, 3), st.sampled_from("abc"), st.integers(-3, 3) | st.none(), st.sampled_from(["x", "yy", None])
)


def _values(rows: list[tuple[Any, ...]]) -> str:
    def shown(value: Any) -> str:
        return "NULL" if value is None else repr(value)

    return ", ".join(f"({', '.join(map(shown, row))})" for row in rows)


_CONFLICT = st.sampled_from(
    [
        "",
        "ON CONFLICT DO NOTHING",
        "ON CONFLICT (a, b) DO NOTHING",
        "ON CONFLICT (a, b) DO UPDATE SET n = excluded.n",
        "ON CONFLICT (b, a) DO UPDATE SET n = t.n + excluded.n, s = coalesce(s, '') || excluded.b WHERE t.n < 3",
        "ON CONFLICT (a, b) DO UPDATE SET n = excluded.n + 1, s = NULL WHERE excluded.n IS NOT NULL",
    ]
)
_statement = st.one_of(
    st.builds(
        lambda rows, conflict: f"INSERT INTO t VALUES {_values(rows)} {conflict}",
        st.lists(_row, min_size=1, max_size=4), _CONFLICT,
    ),
    st.builds(lambda set, where: f"UPDATE t SET {set} {where}", _SET, _WHERE),
    st.builds(lambda where: f"DELETE FROM t {where}", _WHERE),
    st.just("INSERT INTO t SELECT a + 1, b, n, s FROM t WHERE n > 0 ON CONFLICT DO NOTHING"),
    st.builds(
        lambda verb, rows: f"INSERT OR {verb} INTO t VALUES {_values(rows)}",
        st.sampled_from(["REPLACE", "IGNORE"]), st.lists(_row, min_size=1, max_size=4),
    ),
    st.builds(lambda a, b: f"INSERT OR REPLACE INTO t (b, a) VALUES ('{b}', {a})", st.integers(0, 3),
              st.sampled_from("abc")),
    st.builds(lambda a, b, n: f"INSERT INTO t (n, a, b) VALUES ({n}, {a}, '{b}') ON CONFLICT DO NOTHING",
              st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 3)),
)  # fmt: skip


def _content(rows: Any) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


@pytest.mark.usefixtures("small")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_statement, min_size=1, max_size=15))
def test_statements_do_what_sqlite_does(statements: list[str]) -> None:
    with eventdb.open(":memory:") as db:
        oracle = apsw.Connection(":memory:")
        columns = "a INTEGER, b VARCHAR, n INTEGER DEFAULT -7, s VARCHAR DEFAULT 'a,)'"
        create = f"CREATE TABLE t ({columns}, PRIMARY KEY (a, b))"
        db.sql(create)
        oracle.execute(create)
        for statement in statements:
            before = oracle.execute("SELECT * FROM t").fetchall()
            moved = any(f"SET {c} = " in statement for c in "ab")
            try:
                oracle.execute(statement)
                failed = False
            except apsw.ConstraintError:
                failed = True
            counted = oracle.changes()
            old = db.snapshot()
            try:
                result = db.sql(statement)
                assert not failed or moved, statement
                if failed:  # SQLite looks at the key after each row, we after all of them
                    oracle.execute("DELETE FROM t")
                    for row in db.sql("SELECT * FROM t").fetchall():
                        oracle.execute("INSERT INTO t VALUES (?, ?, ?, ?)", row)
                else:
                    assert result.rowcount == counted, statement
            except ConstraintError:
                assert failed, statement
            assert _content(old.sql("SELECT * FROM t").fetchall()) == _content(before)
            old.close()
            found = db.sql("SELECT * FROM t").fetchall()
            assert _content(found) == _content(oracle.execute("SELECT * FROM t").fetchall())
        assert db.check(deep=True) == []


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("BOOLEAN", [False, True]),
        ("TINYINT", [-128, -1, 0, 127]),
        ("BIGINT", [-(1 << 63), -1, 0, 1, (1 << 63) - 1]),
        ("FLOAT", [-math.inf, -1.5, 0.1, 1e30]),
        ("DOUBLE", [-math.inf, -1.5, -1e-300, 0.0, 1e-300, 2.5, math.inf]),
        ("DECIMAL(9,2)", [Decimal("-1.25"), Decimal("0.00"), Decimal("7.10")]),
        ("VARCHAR", ["", "\0", "\0\0", "\0a", "a", "a\0", "a\0b", "aa", "z" * 399, "z" * 1000, "ü"]),
        ("BLOB", [b"", b"\0", b"\0\xff", b"\1", b"\xff", b"\xff" * 500]),
        ("DATE", [dt.date(1, 1, 1), dt.date(1970, 1, 1), dt.date(9999, 12, 31)]),
        ("TIMESTAMP", [dt.datetime(1, 1, 1), dt.datetime(2026, 1, 1, 12, 0, 0, 1)]),
    ],
)
def test_every_type_can_be_a_key(db: eventdb.Database, type: str, values: list[Any]) -> None:
    one = db.create_table("one", {"k": type, "n": "INTEGER"}, primary_key="k")
    two = db.create_table("two", {"n": "INTEGER", "k": type, "m": "VARCHAR"}, primary_key=("m", "k"))
    for number, value in enumerate(values):
        one.insert({"k": value, "n": number})
        two.put({"m": "x\0", "k": value, "n": number})
    for number, value in enumerate(values):
        assert one.get(value)["n"] == number  # type: ignore[index]
        assert two.get(("x\0", value))["n"] == number  # type: ignore[index]
        assert two.get({"k": value, "m": "x"}) is None
        with pytest.raises(ConstraintError):
            one.insert({"k": value, "n": 0})
    encode = keys_module.key_encoder(one.schema, (0,))
    physical = [one._key(value) for value in values]
    assert sorted(map(encode, physical)) == list(map(encode, physical))


def test_zero_has_one_key_and_nan_has_one_key(db: eventdb.Database) -> None:
    table = db.create_table("t", {"x": "DOUBLE", "n": "INTEGER"}, primary_key="x")
    table.put({"x": 0.0, "n": 1})
    table.put({"x": -0.0, "n": 2})
    table.put({"x": math.nan, "n": 3})
    table.put({"x": -math.nan, "n": 4})
    assert [row["n"] for row in table.rows()] == [2, 4]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_taken_key_is_named_with_the_fix_and_nothing_is_stored(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, s VARCHAR)")
    db.sql("INSERT INTO t VALUES (7, 'x')")
    with pytest.raises(ConstraintError, match=r"id = 7 already; .*ON CONFLICT \(id\) DO UPDATE") as caught:
        db.sql("INSERT INTO t VALUES (1, 'a'), (7, 'b')")
    assert (caught.value.table, caught.value.key) == ("t", 7)
    assert db.sql("SELECT * FROM t").fetchall() == [(7, "x")]


def test_what_does_not_fit_is_refused_and_nothing_is_stored(db: eventdb.Database) -> None:
    table = db.create_table("t", {"a": "INTEGER", "b": "VARCHAR", "n": "INTEGER NOT NULL"}, primary_key=("a", "b"))
    fits: dict[str, Any] = {"a": 1, "b": "x", "n": 1}
    for wrong in ({"a": 1, "n": 1}, {"a": 1, "b": "x"}, fits | {"a": "1"}, fits | {"z": 1}):
        with pytest.raises(SchemaMismatch):
            table.put_many([{"a": 0, "b": "", "n": 0}, wrong])
    with pytest.raises(SchemaMismatch, match="NOT NULL"):
        db.sql("INSERT INTO t VALUES (1, 'x', NULL)")
    with pytest.raises(SchemaMismatch, match=r"a tuple \(a, b\)"):
        table.get(1)
    with pytest.raises(UsageError, match=r"db\.table\('t'\)"):
        db.topic("t")
    with pytest.raises(UsageError, match="primary_key"):
        db.create_table("u", {"a": "INTEGER"}, primary_key=[])
    assert len(table) == 0
    table.put({"a": 1, "b": "x", "n": 1})
    with pytest.raises(SchemaMismatch, match="NOT NULL"):
        db.sql("UPDATE t SET n = NULL")
    assert list(table.rows()) == [{"a": 1, "b": "x", "n": 1}]


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("CREATE TABLE u (a INTEGER PRIMARY KEY) WITH (partitions = 2)", "WITH (...) of a table"),
        ("CREATE TABLE u (a INTEGER PRIMARY KEY, UNIQUE (a))", "the constraint UNIQUE"),
    ],
)
def test_what_tables_do_not_do_yet_is_named(db: eventdb.Database, text: str, construct: str) -> None:
    db.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    with pytest.raises(UnsupportedSQL) as caught:
        db.sql(text)
    assert caught.value.construct == construct


def test_a_column_that_is_not_named_has_its_default(tmp_path: Path) -> None:
    columns = (
        "k INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 2 + 3, s VARCHAR DEFAULT 'it''s, (so)' NULL, "
        "d DECIMAL(6,2) DEFAULT 1.5, at TIMESTAMP DEFAULT TIMESTAMP '2026-01-02 03:04:05', b BLOB DEFAULT x'00ff', "
        "x DOUBLE DEFAULT 1, z VARCHAR DEFAULT NULL"
    )
    given = {
        "n": 5, "s": "it's, (so)", "d": Decimal("1.50"), "at": dt.datetime(2026, 1, 2, 3, 4, 5), "b": b"\0\xff",
        "x": 1.0, "z": None,
    }  # fmt: skip
    with eventdb.open(tmp_path / "db") as db:
        db.sql(f"CREATE TABLE t ({columns})")
        db.sql("INSERT INTO t (k) VALUES (1), (2)")
        db.sql("INSERT INTO t (k, n, s) VALUES (3, DEFAULT, 'mine'), (4, 9, DEFAULT)")
        db.sql("UPDATE t SET n = 0, s = '' WHERE k = 2")
        db.sql("UPDATE t SET n = DEFAULT, s = DEFAULT, z = DEFAULT WHERE k = 2")
        db.sql("INSERT INTO t (k) SELECT k + 10 FROM t WHERE k = 1")
    with eventdb.open(tmp_path / "db") as db:
        table = db.table("t")
        table.put({"k": 5})
        table.insert({"k": 6, "s": None, "N": 1})
        expected = {k: {"k": k} | given for k in (1, 2, 3, 4, 5, 6, 11)}
        expected[3]["s"], expected[4]["n"] = "mine", 9
        expected[6] |= {"s": None, "n": 1}
        assert {row["k"]: row for row in table.rows()} == expected
        assert db.sql("DESCRIBE t").fetchall()[1][3] == "default 5"
        with pytest.raises(SchemaMismatch):
            db.sql("INSERT INTO t (k, n) VALUES (9, NULL)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE TABLE u (k INTEGER PRIMARY KEY, at TIMESTAMP DEFAULT now())", "constant"),
        ("CREATE TABLE u (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 'x')", "n"),
        ("CREATE TABLE u (k INTEGER PRIMARY KEY, n INTEGER DEFAULT)", "expected a constant"),
        ("CREATE TABLE u (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 1 DEFAULT 2)", "two defaults"),
        ("INSERT OR ABORT INTO t VALUES (1, 1)", "INSERT OR ABORT"),
        ("INSERT OR REPLACE INTO t VALUES (1, 1) ON CONFLICT DO NOTHING", "write one of the two"),
        ("INSERT OR IGNORE INTO p VALUES (1)", "no primary key"),
    ],
)
def test_defaults_and_conflicts_that_cannot_be_are_refused_with_the_reason(
    db: eventdb.Database, text: str, message: str
) -> None:
    db.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    db.sql("CREATE TOPIC p (n INTEGER)")
    with pytest.raises(eventdb.QueryError, match=message):
        db.sql(text)


def test_a_dropped_table_is_gone_with_its_keys(db: eventdb.Database) -> None:
    table = db.create_table("t", {"k": "VARCHAR"}, primary_key="k")
    table.put({"k": "a"})
    db.sql("DROP TABLE t")
    with pytest.raises(eventdb.TopicNotFound):
        table.get("a")
    again = db.create_table("t", {"k": "VARCHAR"}, primary_key="k")
    assert again.get("a") is None
    assert db.tables() == ["t"]
    assert db.topics() == []


# --- SQL --------------------------------------------------------------------------------------------------------------


def test_returning_gives_the_rows_and_their_offsets(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    assert db.sql("INSERT INTO t VALUES (1, 10), (2, 20) RETURNING _offset, *").fetchall() == [(0, 1, 10), (1, 2, 20)]
    assert db.sql("UPDATE t SET n = n + id WHERE id = 2 RETURNING n, _offset").fetchall() == [(22, 2)]
    assert db.sql("DELETE FROM t RETURNING id").fetchall() == [(1,), (2,)]
    assert db.sql("SELECT id, n, _offset FROM t").fetchall() == []
    assert db.sql("DELETE FROM t RETURNING id").fetchall() == []


def test_describe_and_show_name_the_key_and_the_rows(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE t (a INTEGER, b VARCHAR, c DOUBLE, PRIMARY KEY (b, a))")
    db.sql("INSERT INTO t VALUES (1, 'x', 2), (2, 'x', 2)")
    db.sql("DELETE FROM t WHERE a = 1")
    assert [(row[0], row[2], row[3]) for row in db.sql("DESCRIBE t").fetchall()] == [
        ("a", False, "primary key"), ("b", False, "primary key"), ("c", True, None),
    ]  # fmt: skip
    assert db.sql("SHOW TABLES").fetchall()[0][:3] == ("t", "table", 1)
    assert db.stats()["topics"] == {"t": 1}


def test_tables_join_and_aggregate_like_topics_compiled_or_not(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE d (id INTEGER PRIMARY KEY, site VARCHAR)")
    db.sql("CREATE TOPIC r (id INTEGER, x INTEGER)")
    db.sql("INSERT INTO d VALUES (1, 'n'), (2, 's')")
    db.sql("INSERT INTO r VALUES (1, 5), (2, 6), (1, 7)")
    db.sql("UPDATE d SET site = 'w' WHERE id = 1")
    for execution in ("interpreted", "compiled"):
        db.sql(f"SET execution = {execution}")
        found = db.sql("SELECT site, sum(x) FROM r JOIN d ON r.id = d.id GROUP BY site ORDER BY site").fetchall()
        assert found == [("s", 6), ("w", 12)]
        assert db.sql("SELECT count(*), min(site), max(id) FROM d").fetchall() == [(2, "s", 2)]
        assert db.sql("SELECT id FROM d WHERE site = 'n'").fetchall() == []


# --- several writers --------------------------------------------------------------------------------------------------


def test_no_increment_of_many_threads_is_lost(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        db.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        db.sql("INSERT INTO t VALUES (1, 0), (2, 0)")

        def work(number: int) -> None:
            for i in range(25):
                if number % 2:
                    db.sql("UPDATE t SET n = n + 1 WHERE id = 1")
                else:
                    db.sql(f"INSERT INTO t VALUES (1, {i}) ON CONFLICT (id) DO UPDATE SET n = t.n + 1")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert db.sql("SELECT n FROM t ORDER BY id").fetchall() == [(100,), (0,)]


WRITER = """
import sys, eventdb
with eventdb.open(sys.argv[1], durability="os") as db:
    table = db.table("t")
    for i in range(150):
        db.sql("UPDATE t SET n = n + 1 WHERE id = 'shared'")
        table.put({"id": sys.argv[2] + str(i % 20), "n": i})
        if i % 3 == 0:
            table.delete(sys.argv[2] + str(i % 20))
"""


def test_two_processes_write_one_table_and_a_third_reads_whole_states(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"id": "VARCHAR", "n": "INTEGER"}, primary_key="id")
        table.put({"id": "shared", "n": 0})
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name], cwd=ROOT) for name in "xy"]
        while any(writer.poll() is None for writer in writers):
            with db.snapshot() as snapshot:
                ids = [row[0] for row in snapshot.sql("SELECT id FROM t").fetchall()]
                assert len(ids) == len(set(ids))
                assert "shared" in ids
                assert snapshot.sql("SELECT count(*) FROM t").fetchall() == [(len(ids),)]
        assert [writer.wait() for writer in writers] == [0, 0]
        assert table.get("shared") == {"id": "shared", "n": 300}
        expected = {f"{name}{i % 20}": i for i in range(130, 150) if i % 3 for name in "xy"} | {"shared": 300}
        assert {row["id"]: row["n"] for row in table.rows()} == expected
        assert db.check(deep=True) == []


APPEND_ONLY = """
import sys, eventdb
with eventdb.open(sys.argv[1]) as db:
    table = db.create_table("t", {"id": "VARCHAR", "n": "BIGINT"}, primary_key="id")
    table.put({"id": "a", "n": 1})
    table.insert({"id": "b", "n": 2})
    table.delete("a")
    with db.transaction() as tx:
        tx.put("t", {"id": "c", "n": 3})
    assert table.get("b") == {"id": "b", "n": 2} and len(table) == 2 and len(list(table.read())) == 4
print(*{"numpy", "pyarrow", "numba", "sqlglot"} & set(sys.modules))
"""


def test_a_program_that_uses_tables_by_key_loads_nothing_heavy(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", APPEND_ONLY, str(tmp_path / "db")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
