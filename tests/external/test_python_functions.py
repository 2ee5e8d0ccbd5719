"""Functions written in Python: scalar, aggregate and table functions."""

from __future__ import annotations

import datetime as dt
import itertools
import re
import statistics
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.arrow import arrow_type
from eventdb.errors import BindError, FunctionError, SchemaMismatch, UnsupportedSQL, UsageError
from eventdb.schema import INTERVAL, parse_type


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        topic = database.create_topic(
            "readings", {"device": "VARCHAR", "temp": "DOUBLE", "n": "BIGINT", "ts": "TIMESTAMP"}
        )
        start = dt.datetime(2024, 1, 1)
        topic.append_many(
            [
                {
                    "device": None if i % 10 == 9 else f"d{i % 3}",
                    "temp": None if i % 7 == 6 else i / 2,
                    "n": i,
                    "ts": start + dt.timedelta(minutes=i),
                }
                for i in range(60)
            ]
        )
        yield database


def rows(db: eventdb.Database, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    return db.sql(sql, list(args) or None).fetchall()


def add_tax(price: float, rate: float = 0.5) -> float:
    return price * (1 + rate)


def test_a_function_stands_wherever_an_expression_does(db: eventdb.Database) -> None:
    db.create_function("add_tax", add_tax)
    db.create_function("tag", lambda text, n: f"{text}-{n % 2}", ["VARCHAR", "BIGINT"], "VARCHAR")
    model = [(f"d{i % 3}" if i % 10 != 9 else None, i / 2 if i % 7 != 6 else None, i) for i in range(60)]
    taxed = [(n, None if t is None else t * 1.5) for _, t, n in model]
    assert rows(db, "SELECT n, add_tax(temp) FROM readings") == taxed
    assert rows(db, "SELECT add_tax(n, 1) FROM readings WHERE add_tax(n) > 80 ORDER BY 1") == [
        (n * 2.0,) for _, _, n in model if n * 1.5 > 80
    ]
    groups: dict[str | None, int] = {}
    for device, _, n in model:
        key = None if device is None else f"{device}-{n % 2}"
        groups[key] = groups.get(key, 0) + 1
    assert dict(rows(db, "SELECT tag(device, n) AS k, count(*) FROM readings GROUP BY k")) == groups
    assert rows(db, "SELECT n FROM readings ORDER BY add_tax(-n) LIMIT 2") == [(59,), (58,)]
    assert rows(db, "SELECT max(add_tax(n)) FROM readings HAVING add_tax(max(n)) > 1") == [(59 * 1.5,)]
    assert rows(db, "SELECT CASE WHEN n > 57 THEN tag(device, n) ELSE 'x' END FROM readings WHERE n > 56") == [
        ("x",),
        ("d1-0",),
        (None,),
    ]
    assert rows(db, "SELECT add_tax(?, 0.25)", 8) == [(10.0,)]
    joined = "SELECT count(*) FROM readings a JOIN readings b ON add_tax(a.n) = b.n"
    assert rows(db, joined) == [(sum(1 for i in range(60) if i % 2 == 0 and i * 1.5 < 60),)]


VALUES = {
    "BOOLEAN": [True, False, None],
    "BIGINT": [1, -(2**63), 2**63 - 1, None],
    "SMALLINT": [1, -5],
    "DOUBLE": [1.5, float("inf"), None],
    "VARCHAR": ["", "ü€", None],
    "BLOB": [b"", b"\x00\xff", None],
    "DATE": [dt.date(1, 1, 1), dt.date(2024, 2, 29), None],
    "TIMESTAMP": [dt.datetime(1999, 12, 31, 23, 59, 59, 999_999), None],
    "INTERVAL": [dt.timedelta(days=-1, microseconds=5), None],
    "DECIMAL(9,2)": [Decimal("1.25"), Decimal("-99.99"), None],
}


@pytest.mark.parametrize("vectorized", [False, True], ids=["rows", "arrow"])
@pytest.mark.parametrize("type", VALUES)
def test_values_of_every_type_come_and_go(db: eventdb.Database, type: str, vectorized: bool) -> None:
    values = VALUES[type]
    db.create_function("same", lambda x: x, [type], type, vectorized=vectorized)
    array = pa.array(values, arrow_type(INTERVAL if type == "INTERVAL" else parse_type(type)))
    db.register("given", {"i": list(range(len(values))), "x": array})
    assert rows(db, "SELECT same(x) FROM given ORDER BY i") == [(value,) for value in values]


@settings(max_examples=15, deadline=None)
@given(data=st.lists(st.tuples(st.one_of(st.none(), st.integers(-1000, 1000)), st.one_of(st.none(), st.text()))))
def test_null_handling_is_duckdbs(data: list[tuple[int | None, str | None]]) -> None:
    def describe(n: int | None, s: str | None) -> str | None:
        return None if n == 7 else f"{n}:{s}"

    table = pa.table(
        {"n": pa.array([n for n, _ in data], pa.int64()), "s": pa.array([s for _, s in data], pa.string())}
    )
    with eventdb.open(":memory:") as db, duckdb.connect() as oracle:
        oracle.register("given", table)
        db.register("given", table)
        for handling in ("default", "special"):
            name = f"describe_{handling}"
            db.create_function(name, describe, null_handling=handling)
            oracle.create_function(name, describe, ["BIGINT", "VARCHAR"], "VARCHAR", null_handling=handling)  # type: ignore[arg-type]
            sql = f"SELECT {name}(n, s) FROM given"
            assert rows(db, sql) == oracle.execute(sql).fetchall()


def test_a_vectorized_function_takes_and_gives_arrays(db: eventdb.Database) -> None:
    sizes: list[int] = []

    def double(x: pa.Array) -> Any:
        sizes.append(len(x))
        return pc.multiply(x, 2)

    db.create_function("twice", double, ["BIGINT"], "BIGINT", vectorized=True)
    assert rows(db, "SELECT sum(twice(n)) FROM readings") == [(2 * sum(range(60)),)]
    assert sizes == [60]
    db.create_function("np_sqrt", lambda x: np.sqrt(np.asarray(x)), ["DOUBLE"], "DOUBLE", vectorized=True)
    assert rows(db, "SELECT np_sqrt(n) FROM readings WHERE n = 49") == [(7.0,)]
    db.create_function("cut", lambda x: x[:1], ["BIGINT"], "BIGINT", vectorized=True)
    with pytest.raises(FunctionError, match=r"cut\(\) gave 1 values for 60 rows"):
        rows(db, "SELECT cut(n) FROM readings")
    db.create_function("as_text", lambda x: [str(v) for v in x], ["BIGINT"], "BIGINT", vectorized=True)
    with pytest.raises(FunctionError, match=r"as_text\(\).*BIGINT"):
        rows(db, "SELECT as_text(n) FROM readings")


def test_an_exception_names_the_function_its_arguments_and_the_row(db: eventdb.Database) -> None:
    def picky(n: int) -> int:
        if n == 41:
            raise ValueError("not that one")
        return n

    db.create_function("picky", picky)
    with pytest.raises(
        FunctionError, match=r"picky\(41\) raised ValueError: not that one \(row at offset 41\)"
    ) as caught:
        rows(db, "SELECT picky(n) FROM readings")
    assert caught.value.function == "picky"
    assert isinstance(caught.value.original, ValueError)
    assert rows(db, "SELECT sum(picky(n)) FROM readings WHERE n < 41") == [(sum(range(41)),)]
    with pytest.raises(FunctionError, match=r"picky\(41\).*offset 41"):
        rows(db, "SELECT count(*) FROM readings WHERE n > 30 AND picky(n) > 0")
    db.create_function("safely", picky, exception_handling="return_null")
    assert rows(db, "SELECT safely(n) FROM readings WHERE n IN (40, 41)") == [(40,), (None,)]
    db.create_function("wrong", lambda n: "x" if n == 5 else n, ["BIGINT"], "BIGINT")
    with pytest.raises(FunctionError, match=r"wrong\(\) returns BIGINT: it gave 'x' \(str\)"):
        rows(db, "SELECT wrong(n) FROM readings")


REFUSED: dict[str, list[Any]] = {
    "BIGINT": [1.5, 1.0, True, Decimal("1"), "1", np.float64(1.5), 2**63, np.datetime64(5, "ns")],
    "TINYINT": [1.5, 128],
    "BOOLEAN": [1, 1.0, "true"],
    "DOUBLE": [True, "1", 10**400],
    "FLOAT": [1e300, True],
    "DECIMAL(9,2)": [1.5, Decimal("1.555"), Decimal(10**8), True, Decimal("NaN")],
    "VARCHAR": [b"x", 1, "\ud800"],
    "BLOB": ["x", 1],
    "DATE": [1, 1.5, dt.datetime(2024, 1, 1), "2024-01-01"],
    "TIMESTAMP": [1.5, True, dt.date(2024, 1, 1), np.datetime64(1500, "ns"), "2024-01-01"],
}
STORED: dict[str, list[Any]] = {
    "BIGINT": [1, np.int64(3), None],
    "DOUBLE": [1, Decimal("1.5"), 2**70, np.float32(0.5), 2.5, None],
    "FLOAT": [1, 0.5, float("-inf")],
    "DECIMAL(9,2)": [1, Decimal("1.5"), np.int64(3)],
    "VARCHAR": ["ü", np.str_("x"), ""],
    "BLOB": [b"x", bytearray(b"y")],
    "DATE": [dt.date(2024, 1, 1), np.datetime64("2024-01-02")],
    "TIMESTAMP": [5, dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))), np.datetime64(5000, "ns")],
}


@pytest.mark.parametrize("type", list(REFUSED))
def test_a_value_that_a_column_of_the_type_does_not_store_is_refused(db: eventdb.Database, type: str) -> None:
    topic = db.create_topic("same", {"c": type})
    for value in REFUSED[type]:
        with pytest.raises(SchemaMismatch):
            topic.append({"c": value})
        db.create_function("f", lambda n, value=value: value, ["BIGINT"], type, replace=True)
        with pytest.raises(FunctionError, match=rf"f\(\) returns {re.escape(type)}: it gave .* \(\w+\)"):
            rows(db, "SELECT f(n) FROM readings")
        db.create_aggregate("a", lambda held, value=value: value, ["BIGINT"], type, replace=True)
        with pytest.raises(FunctionError, match=rf"a\(\) returns {re.escape(type)}: it gave"):
            rows(db, "SELECT a(n) FROM readings")
        db.create_table_function("t", lambda value=value: [(value,)], [], {"c": type}, replace=True)
        with pytest.raises(FunctionError, match=r"t\(\) gave a value of column 'c'"):
            rows(db, "SELECT * FROM t()")
    if type in ("BIGINT", "TINYINT", "BOOLEAN"):
        for value in ([1.5], [None, 1.5], pa.array([1.5])):
            db.create_function("v", lambda n, value=value: value, ["BIGINT"], type, vectorized=True, replace=True)
            with pytest.raises(FunctionError, match=r"v\(\)"):
                rows(db, f"SELECT v(n) FROM readings LIMIT {len(value)}")


@pytest.mark.parametrize("type", list(STORED))
def test_a_value_is_what_a_column_of_the_type_stores(db: eventdb.Database, type: str) -> None:
    topic = db.create_topic("same", {"c": type})
    for value in STORED[type]:
        topic.append({"c": value})
        db.create_function("f", lambda n, value=value: value, ["BIGINT"], type, replace=True)
        found = rows(db, "SELECT f(n) FROM readings LIMIT 1")
        assert found == rows(db, "SELECT c FROM same ORDER BY _offset DESC LIMIT 1")
    db.create_table_function("t", lambda: [(value,) for value in STORED[type]], [], {"c": type})
    assert rows(db, "SELECT * FROM t()") == rows(db, "SELECT c FROM same ORDER BY _offset")


def test_a_volatile_function_is_called_for_each_row_and_others_once_for_constants(db: eventdb.Database) -> None:
    counter = itertools.count()
    db.create_function("ticket", lambda: next(counter), [], "BIGINT", volatile=True)
    assert rows(db, "SELECT ticket() FROM readings LIMIT 3")[:3] == [(0,), (1,), (2,)]
    found = rows(db, "SELECT t, t FROM (SELECT ticket() AS t, n FROM readings) WHERE t % 2 = 0")
    assert found
    assert all(a == b and a % 2 == 0 for a, b in found)
    calls: list[int] = []
    db.create_function("slow", lambda x: calls.append(x) or x * 2, ["BIGINT"], "BIGINT")
    assert rows(db, "SELECT sum(n * slow(21)) FROM readings") == [(42 * sum(range(60)),)]
    assert calls == [21]


def test_what_cannot_be_declared_is_refused_with_the_fix(db: eventdb.Database) -> None:
    def bare(x):  # type: ignore[no-untyped-def]
        return x

    def odd(x: Decimal) -> int:
        return 1

    def keyword(*, x: int) -> int:
        return x

    cases: list[tuple[Any, str]] = [
        (lambda: db.create_function("f", bare), r"annotate the parameter 'x', or give args"),
        (lambda: db.create_function("f", bare, ["BIGINT"]), r"annotate what it returns, or give returns"),
        (lambda: db.create_function("f", odd), r"no SQL type for Decimal of 'x'.*DECIMAL\(10,2\)"),
        (lambda: db.create_function("f", keyword), r"'x' has no position"),
        (lambda: db.create_function("f", 5), r"f\(\): a function is a callable"),  # type: ignore[arg-type]
        (lambda: db.create_function("abs", add_tax), r"abs\(\) is built in"),
        (lambda: db.create_function("sum", add_tax), r"sum\(\) is built in"),
        (lambda: db.create_function("select", add_tax), r"select is a word of SQL"),
        (lambda: db.create_function("a b", add_tax), r"a function's name is a word"),
        (lambda: db.create_function("f", add_tax, ["NUMBR"], "INT"), r"unknown type 'NUMBR'"),
        (lambda: db.create_function("f", add_tax, null_handling="maybe"), r"'default' or 'special', not 'maybe'"),
        (lambda: db.create_function("f", lambda: 1, [], "INT", vectorized=True), r"at least one argument"),
        (lambda: db.create_aggregate("f", _Half), r"a class with step"),
        (lambda: db.create_table_function("f", add_tax, returns=None), r"returns maps columns to types"),
        (lambda: db.remove_function("gone"), r"no function 'gone' was created"),
    ]
    for work, message in cases:
        with pytest.raises(UsageError, match=message):
            work()
    db.create_function("f", add_tax)
    with pytest.raises(UsageError, match="replace=True"):
        db.create_function("F", add_tax)


class _Half:
    def step(self, x: int) -> None: ...


def test_a_call_that_does_not_fit_says_what_would(db: eventdb.Database) -> None:
    db.create_function("add_tax", add_tax)
    for sql, message in (
        (
            "SELECT add_tax(device) FROM readings",
            r"add_tax\(VARCHAR\) does not exist; it is add_tax\(DOUBLE, \[DOUBLE\]\)",
        ),
        ("SELECT add_tax() FROM readings", r"add_tax\(\) does not exist"),
        ("SELECT add_tax(1, 2, 3)", "does not exist"),
        ("SELECT add_tex(1)", r"no function add_tex\(\); did you mean add_tax"),
        ("SELECT * FROM add_tax(1)", "table function add_tax"),
    ):
        with pytest.raises((BindError, UnsupportedSQL), match=message):
            rows(db, sql)


def test_a_function_that_is_replaced_or_removed_is_gone_from_known_statements(db: eventdb.Database) -> None:
    sql = "SELECT f(n) FROM readings WHERE n = 3"
    db.create_function("f", lambda n: n + 1, ["BIGINT"], "BIGINT")
    assert rows(db, sql) == rows(db, sql) == [(4,)]
    db.create_function("f", lambda n: n + 2, ["BIGINT"], "BIGINT", replace=True)
    assert rows(db, sql) == [(5,)]
    db.remove_function("F")
    with pytest.raises(BindError, match=r"no function f\(\)"):
        rows(db, sql)


def test_a_function_of_any_number_of_arguments(db: eventdb.Database) -> None:
    def joined(separator: str, *parts: int) -> str:
        return separator.join(map(str, parts))

    db.create_function("joined", joined)
    assert rows(db, "SELECT joined('-'), joined('-', 1, 2, 3)") == [("", "1-2-3")]
    db.create_function("most", max, ["BIGINT", "BIGINT", "..."], "BIGINT")
    assert rows(db, "SELECT most(1, 5, 3)") == [(5,)]


class Weighted:
    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def step(self, value: float, weight: float) -> None:
        self.total += value * weight
        self.weight += weight

    def finalize(self) -> float | None:
        return self.total / self.weight if self.weight else None


def test_an_aggregate_over_groups_with_filter_and_over_nothing() -> None:
    with eventdb.open(":memory:") as db:
        count = 140_000
        topic = db.create_topic("t", {"k": "BIGINT", "v": "DOUBLE", "w": "BIGINT"})
        numbers = np.arange(count)
        topic.append_batch({"k": numbers % 3, "v": numbers / 4, "w": numbers % 5})
        db.create_aggregate("weighted", Weighted)
        plain = "sum(v * w) / sum(CAST(w AS DOUBLE))"
        for sql in (
            "SELECT k, {} FROM t GROUP BY k ORDER BY k",
            "SELECT {} FROM t",
            "SELECT {} FILTER (WHERE v > 10) FROM t",
            "SELECT k, {} AS x FROM t GROUP BY k HAVING k > 0 ORDER BY x",
        ):
            expected = sql.replace("{} FILTER (WHERE v > 10) FROM t", plain + " FROM t WHERE v > 10").format(plain)
            found, wanted = rows(db, sql.format("weighted(v, w)")), rows(db, expected)
            assert len(found) == len(wanted)
            for a, b in zip(found, wanted, strict=True):
                assert a == pytest.approx(b)
        assert rows(db, "SELECT weighted(v, w) FROM t WHERE k > 5") == [(None,)]
        assert rows(db, "SELECT weighted(CAST(NULL AS DOUBLE), w) FROM t") == [(None,)]


def test_an_aggregate_of_whole_groups(db: eventdb.Database) -> None:
    db.create_aggregate("middle", statistics.median, ["DOUBLE"], "DOUBLE")
    db.create_aggregate(
        "spread", lambda x: pc.max(x).as_py() - pc.min(x).as_py(), ["BIGINT"], "BIGINT", vectorized=True
    )
    sql = "SELECT device, {} FROM readings WHERE temp IS NOT NULL GROUP BY device ORDER BY device"
    found = rows(db, sql.format("middle(temp), spread(n)"))
    frame = {"device": [], "temp": [], "n": []}  # type: ignore[var-annotated]
    for device, temp, n in rows(db, "SELECT device, temp, n FROM readings WHERE temp IS NOT NULL"):
        frame["device"].append(device)
        frame["temp"].append(temp)
        frame["n"].append(n)
    table = pa.table(frame)
    with duckdb.connect() as oracle:
        oracle.register("readings", table)
        assert found == oracle.execute(sql.format("median(temp), max(n) - min(n)")).fetchall()
    db.create_aggregate("distinct_sum", sum, ["BIGINT"], "BIGINT")
    assert rows(db, "SELECT distinct_sum(DISTINCT n % 4), distinct_sum(n % 4) FROM readings") == [(6, 90)]
    db.create_aggregate("listed", lambda x: ",".join(x), ["VARCHAR"], "VARCHAR")
    ordered = "SELECT listed(DISTINCT device ORDER BY device DESC), listed(device ORDER BY n DESC) FROM readings"
    assert rows(db, ordered + " WHERE n < 5") == [("d2,d1,d0", "d1,d0,d2,d1,d0")]
    assert rows(db, "SELECT listed(device) FILTER (WHERE n < 3) FROM readings") == [("d0,d1,d2",)]
    with pytest.raises(UnsupportedSQL, match=r"listed\(\) with OVER"):
        rows(db, "SELECT listed(device) OVER (ORDER BY n) FROM readings")
    with pytest.raises(FunctionError, match=r"middle\(\.\.\.\) raised StatisticsError"):
        rows(db, "SELECT middle(temp) FROM readings WHERE n < 0")
    with pytest.raises(BindError, match="aggregate"):
        rows(db, "SELECT n FROM readings WHERE middle(temp) > 1")


def test_an_aggregate_sees_nulls_where_it_asks_for_them(db: eventdb.Database) -> None:
    db.create_aggregate("nulls", lambda x: x.count(None), ["DOUBLE"], "BIGINT", null_handling="special")
    db.create_aggregate("no_nulls", lambda x: x.count(None), ["DOUBLE"], "BIGINT")
    assert rows(db, "SELECT nulls(temp), no_nulls(temp), count(*) - count(temp) FROM readings") == [(8, 0, 8)]


def test_a_table_function_gives_rows_of_any_kind(db: eventdb.Database) -> None:
    schema = {"i": "BIGINT", "s": "VARCHAR"}
    kinds: dict[str, Any] = {
        "tuples": lambda n: ((i, f"x{i}") for i in range(n)),
        "dicts": lambda n: [{"i": i, "s": f"x{i}"} for i in range(n)],
        "arrow": lambda n: pa.table({"s": [f"x{i}" for i in range(n)], "i": pa.array(range(n), pa.int32())}),
        "as_columns": lambda n: {"i": np.arange(n), "s": [f"x{i}" for i in range(n)]},
    }
    for name, function in kinds.items():
        db.create_table_function(name, function, ["BIGINT"], schema)
        assert rows(db, f"SELECT s, i FROM {name}(4) WHERE i > 1") == [("x2", 2), ("x3", 3)]
        assert rows(db, f"SELECT count(*) FROM {name}(20000) AS t JOIN readings r ON t.i = r.n") == [(60,)]
    assert db.sql("SELECT max(i) FROM tuples($n)", n=10).fetchall() == [(9,)]
    db.create_table_function("words", lambda text: text.split(), ["VARCHAR"], {"word": "VARCHAR"})
    assert rows(db, "SELECT word FROM words('to be or') w") == [("to",), ("be",), ("or",)]


def test_a_table_function_that_is_wrong_says_how(db: eventdb.Database) -> None:
    schema = {"i": "BIGINT", "s": "VARCHAR"}
    for function, message in (
        (lambda: 5, r"gave a int: rows are a table, or an iterable"),
        (lambda: [(1,)], r"gave the row \(1,\): a row is a dict, or a tuple of \(i, s\)"),
        (lambda: [("x", "y")], r"column 'i' that is no BIGINT"),
        (lambda: pa.table({"i": [1]}), r"gave no column 's', but i"),
        (lambda: 1 / 0, r"raised ZeroDivisionError"),
        (lambda: (1 / (1 - i) for i in range(3)), r"raised ZeroDivisionError"),
    ):
        db.create_table_function("f", function, [], schema, replace=True)
        with pytest.raises(FunctionError, match=r"f\(\) .*" + message):
            rows(db, "SELECT * FROM f()")
    db.create_table_function("g", lambda n: [(n,)], ["BIGINT"], {"i": "BIGINT"})
    with pytest.raises(BindError, match="is a table function: write FROM"):
        rows(db, "SELECT g(n) FROM readings")
    with pytest.raises(BindError, match=r"g\(VARCHAR\) does not exist|not a valid BIGINT"):
        rows(db, "SELECT * FROM g('x')")


def test_views_and_subscriptions_refuse_python_functions(db: eventdb.Database) -> None:
    db.create_function("add_tax", add_tax)
    db.create_aggregate("middle", statistics.median, ["DOUBLE"], "DOUBLE")
    for sql in (
        "CREATE MATERIALIZED VIEW v AS SELECT add_tax(temp) AS x FROM readings",
        "CREATE MATERIALIZED VIEW v AS SELECT n FROM readings WHERE add_tax(temp) > 1",
        "CREATE MATERIALIZED VIEW v AS SELECT device, middle(temp) AS m FROM readings GROUP BY device",
    ):
        with pytest.raises(UnsupportedSQL, match=r"(a Python function|middle\(temp\)) in a continuous query"):
            db.sql(sql)
    with pytest.raises(UnsupportedSQL, match="a Python function in a continuous query"):
        db.subscribe("SELECT add_tax(temp) FROM readings EMIT CHANGES")
