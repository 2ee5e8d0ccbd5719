"""DECIMAL of more than 18 digits at the edges: files, views, tables, Python functions, DB-API, SQLAlchemy."""

from __future__ import annotations

import decimal
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import eventdb
from eventdb import dbapi

EXACT = decimal.Context(prec=100)
ROWS = [(i, None if i % 9 == 0 else Decimal((-7) ** (i % 44)).scaleb(-4, EXACT)) for i in range(200)]
GREATEST = Decimal("9" * 34 + ".9999")


def filled(path: Path | str) -> eventdb.Database:
    db = eventdb.open(path)
    db.create_topic("t", {"i": "BIGINT", "x": "DECIMAL(38,4)"}).append_many([{"i": i, "x": x} for i, x in ROWS])
    return db


@pytest.mark.parametrize("format", ["csv", "json", "parquet", "arrow"])
def test_a_file_gives_back_every_digit(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x.{format}"
    with filled(":memory:") as db:
        db.sql(f"COPY t TO '{path}'")
        db.sql("CREATE TABLE back (i BIGINT PRIMARY KEY, x DECIMAL(38,4))")
        db.sql(f"COPY back FROM '{path}'")
        assert db.sql("SELECT i, x FROM back ORDER BY i").fetchall() == ROWS
        if format in ("parquet", "arrow"):
            assert str(db.sql(f"SELECT x FROM '{path}'").types[0]) == "DECIMAL(38,4)"
            found = db.sql(f"SELECT i FROM '{path}' WHERE x > 10000000000000000000000.5 ORDER BY i").fetchall()
            assert found == [(i,) for i, x in ROWS if x is not None and x > Decimal("1e22")]
        if format == "parquet":
            with duckdb.connect() as oracle:
                assert oracle.execute(f"SELECT i, x FROM '{path}' ORDER BY i").fetchall() == ROWS


def test_an_array_of_json_gives_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"x": 12345678901234567890.25, "f": 1.5}, {"x": -7, "f": 2}, {"x": null, "f": 0.1}]')
    assert json.loads(path.read_text())[0]["x"] != Decimal("12345678901234567890.25")
    with eventdb.open(":memory:") as db:
        db.sql("CREATE TABLE t (x DECIMAL(38,2), f DOUBLE)")
        db.sql(f"COPY t FROM '{path}'")
        assert db.sql("SELECT x, f FROM t ORDER BY f DESC").fetchall() == [
            (Decimal("-7.00"), 2.0),
            (Decimal("12345678901234567890.25"), 1.5),
            (None, 0.1),
        ]


def test_a_view_keeps_what_its_query_gives(tmp_path: Path) -> None:
    query = "SELECT i % 5 AS g, sum(x) AS s, min(x) AS low, max(x) AS high, avg(x) AS a, count(DISTINCT x) AS d FROM t"
    with filled(tmp_path / "db") as db:
        db.sql(f"CREATE MATERIALIZED VIEW v AS {query} GROUP BY i % 5")
        db.sql("CREATE MATERIALIZED VIEW w AS SELECT x * 2 AS y, x + 0.5 AS z FROM t WHERE x > 1")
    with eventdb.open(tmp_path / "db") as db:
        topic = db.topic("t")
        draw = random.Random(1)
        for i in range(50):
            topic.append({"i": i, "x": Decimal(draw.randint(-(10**35), 10**35)).scaleb(-4, EXACT)})
        for view in "vw":
            db.wait(view, len(ROWS) + 49)
        assert db.sql("SELECT * FROM v ORDER BY g").fetchall() == (
            db.sql(f"{query} GROUP BY i % 5 ORDER BY 1").fetchall()
        )
        assert db.sql("SELECT sum(y), sum(z), count(*) FROM w").fetchall() == (
            db.sql("SELECT sum(x * 2), sum(x + 0.5), count(*) FROM t WHERE x > 1").fetchall()
        )


def test_a_table_changes_as_a_dict_does() -> None:
    with eventdb.open(":memory:") as db:
        db.sql("CREATE TABLE t (k DECIMAL(38,4) PRIMARY KEY, v DECIMAL(30,10) DEFAULT 12345678901234567890.5)")
        db.sql(f"INSERT INTO t VALUES (1, 12345678901234567890.1234567891), ({GREATEST}, NULL)")
        db.sql("INSERT INTO t (k) VALUES (2.5)")
        db.sql("UPDATE t SET v = v + 1 WHERE k > 2")
        db.sql("INSERT INTO t VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET v = excluded.v * 2")
        assert db.sql("SELECT * FROM t ORDER BY k").fetchall() == [
            (1, 4), (Decimal("2.5"), Decimal("12345678901234567891.5")), (GREATEST, None)
        ]  # fmt: skip
        with pytest.raises(eventdb.EventDBError):
            db.sql("INSERT INTO t VALUES (1.00, 2)")
        assert db.sql("DELETE FROM t WHERE k IN (?, 2.5)", [GREATEST]).rowcount == 2
        assert db.sql("SELECT k FROM t").fetchall() == [(1,)]


def test_a_python_function_takes_and_gives_every_digit() -> None:
    with eventdb.open(":memory:") as db:
        db.create_function(
            "raised", lambda x: EXACT.add(x, Decimal("0.0001")), args=["DECIMAL(38,4)"], returns="DECIMAL(38,4)"
        )
        given = Decimal("12345678901234567890.1234")
        assert db.sql("SELECT raised(?)", [given]).fetchall() == [(Decimal("12345678901234567890.1235"),)]


def test_results_reach_other_libraries() -> None:
    with filled(":memory:") as db:
        query = "SELECT x FROM t ORDER BY i"
        wanted = [x for _, x in ROWS]
        assert db.sql(query).arrow().column(0).to_pylist() == wanted
        assert db.sql(query).arrow().schema.field(0).type == pa.decimal128(38, 4)
        assert db.sql(query).pl()["x"].to_list() == wanted
        assert [None if x is None else x for x in db.sql(query).df()["x"]] == wanted
        db.register("frame", db.sql(query).arrow())
        assert db.sql("SELECT sum(x) FROM frame").fetchall() == db.sql("SELECT sum(x) FROM t").fetchall()


def test_the_db_api_passes_every_digit() -> None:
    connection: Any = dbapi.connect(":memory:")
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t (x DECIMAL(38,4))")
    cursor.executemany("INSERT INTO t VALUES (?)", [(GREATEST,), (GREATEST.copy_negate(),), (None,)])
    cursor.execute("SELECT x FROM t WHERE x = ?", [GREATEST])
    assert cursor.description[0] == ("x", "DECIMAL(38,4)", None, None, 38, 4, None)
    assert cursor.description[0][1] == dbapi.NUMBER
    assert cursor.fetchall() == [(GREATEST,)]
    connection.close()


def test_sqlalchemy_stores_a_numeric_of_38_digits(tmp_path: Path) -> None:
    sa = pytest.importorskip("sqlalchemy")
    engine = sa.create_engine(f"eventdb:///{tmp_path}/db")
    table = sa.Table(
        "q", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Numeric(38, 4))
    )
    table.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"id": 1, "x": GREATEST}, {"id": 2, "x": None}])
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.x).order_by(table.c.id)).all() == [(GREATEST,), (None,)]
        assert connection.scalar(sa.select(sa.func.sum(table.c.x))) == GREATEST
        assert connection.execute(sa.select(table.c.id).where(table.c.x == GREATEST)).all() == [(1,)]
    (_, column) = sa.inspect(engine).get_columns("q")
    assert (column["type"].precision, column["type"].scale) == (38, 4)
    engine.dispose()
