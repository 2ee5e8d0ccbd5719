"""Python objects in FROM: by the name of a variable, and registered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import eventdb
from eventdb.errors import BindError, SchemaMismatch, UnsupportedSQL, UsageError
from eventdb.external.objects import object_source

global_rows = [{"a": 1}, {"b": "x"}]


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


OBJECTS: dict[str, Any] = {
    "table": pa.table({"a": [1, 2, None], "s": ["x", None, "y"], "t": [dt.datetime(2024, 1, 1)] * 3}),
    "batch": pa.record_batch({"a": [1, 2], "s": ["x", "y"]}),
    "reader": pa.table({"a": [1, 2], "s": ["x", "y"]}).to_reader(),
    "pandas": pd.DataFrame({"a": [1, 2], "s": ["x", None], "c": pd.Categorical(["u", "v"])}),
    "polars": pl.DataFrame({"a": [1, 2], "s": ["x", "y" * 40], "d": [dt.date(2024, 1, 1)] * 2}),
    "arrays": {"a": np.arange(5), "s": list("abcde"), "f": np.linspace(0, 1, 5)},
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_local_variable_is_a_table_as_in_duckdb(db: eventdb.Database, kind: str) -> None:
    frame = OBJECTS[kind]
    wanted = pa.table(frame).to_pylist() if kind == "arrays" else None
    found = db.sql("SELECT * FROM frame WHERE a >= 1").fetchall()
    if wanted is not None:
        assert found == [tuple(row.values()) for row in wanted if row["a"] >= 1]
    elif kind != "reader":
        assert found == duckdb.sql("SELECT * FROM frame WHERE a >= 1").fetchall()
    else:
        assert found == [(1, "x"), (2, "y")]


def test_locals_go_before_globals_and_stored_names_before_both(db: eventdb.Database) -> None:
    assert db.sql("SELECT * FROM global_rows").fetchall() == [(1, None), (None, "x")]

    def inner() -> list[Any]:
        global_rows = {"z": [7]}
        assert len(global_rows) == 1
        return db.sql("SELECT z FROM global_rows").fetchall()

    assert inner() == [(7,)]
    db.create_topic("global_rows", {"q": "BIGINT"}).append({"q": 9})
    assert db.sql("SELECT * FROM global_rows").fetchall() == [(9,)]
    with pytest.raises(UsageError, match="is a topic, table or view"):
        db.register("Global_Rows", {"z": [1]})


def test_a_variable_is_looked_up_again_each_time(db: eventdb.Database) -> None:
    for n in range(3):
        rows = {"n": [n], f"c{n}": [1]}
        assert len(rows) == 2
        assert db.sql("SELECT n FROM rows WHERE n >= ?", [0]).fetchall() == [(n,)]


def test_replacements_can_be_turned_off(db: eventdb.Database) -> None:
    db.sql("SET python_enable_replacements = false")
    with pytest.raises(BindError, match="no topic, table or view 'global_rows'"):
        db.sql("SELECT * FROM global_rows")
    db.register("global_rows", global_rows)
    assert db.sql("SELECT count(*) FROM global_rows").fetchall() == [(2,)]
    db.sql("SET python_enable_replacements = DEFAULT")
    with pytest.raises(UsageError, match="is true or false"):
        db.sql("SET python_enable_replacements = 7")


def test_what_is_no_table_is_not_found(db: eventdb.Database) -> None:
    number, text, series = 5, "x", pd.Series([1])
    assert (number, text, len(series)) == (5, "x", 1)
    for name in ("number", "text", "series", "pd"):
        with pytest.raises(BindError, match=f"no topic, table or view '{name}'"):
            db.sql(f"SELECT * FROM {name}")


def test_registered_objects_are_found_without_case_and_forgotten(db: eventdb.Database) -> None:
    db.register("Prices", {"sku": ["a", "b"], "price": [1.5, 2.5]})
    topic = db.create_topic("orders", {"sku": "VARCHAR", "n": "BIGINT"})
    topic.append_many([{"sku": "a", "n": 2}, {"sku": "b", "n": 3}])
    sql = "SELECT o.sku, n * price FROM orders o JOIN prices p ON o.sku = p.sku ORDER BY 1"
    assert db.sql(sql).fetchall() == [("a", 3.0), ("b", 7.5)]
    db.register("prices", {"sku": ["a"], "price": [10.0]})
    assert db.sql(sql).fetchall() == [("a", 20.0)]
    assert db.sql("INSERT INTO orders SELECT sku, 1 FROM prices").rowcount == 1
    with db.snapshot() as cut:
        assert cut.sql("SELECT price FROM prices").fetchall() == [(10.0,)]
    with pytest.raises(BindError, match="did you mean prices"):
        db.sql("SELECT * FROM price")
    with pytest.raises(UnsupportedSQL, match="continuous query over a file or a Python object"):
        db.sql("CREATE MATERIALIZED VIEW v AS SELECT * FROM prices")
    db.unregister("PRICES")
    with pytest.raises(BindError):
        db.sql("SELECT * FROM prices")
    with pytest.raises(UsageError, match="no object is registered"):
        db.unregister("prices")
    with pytest.raises(UsageError, match="'x' is a int: FROM reads"):
        db.register("x", 5)
    with pytest.raises(UsageError, match="non-empty string"):
        db.register("", global_rows)


def test_a_reader_gives_its_rows_once(db: eventdb.Database) -> None:
    reader = pa.table({"a": [1, 2]}).to_reader()
    assert reader.schema.names == ["a"]
    assert db.sql("EXPLAIN SELECT * FROM reader").fetchall()
    assert db.sql("SELECT sum(a) FROM reader").fetchall() == [(3,)]
    with pytest.raises(UsageError, match="gives its rows once"):
        db.sql("SELECT sum(a) FROM reader")


def test_a_result_is_a_table(db: eventdb.Database) -> None:
    first = db.sql("VALUES (1, 'x'), (2, 'y')")
    assert len(first) == 2
    assert db.sql("SELECT max(col0) FROM first").fetchall() == [(2,)]
    other = duckdb.sql("SELECT 42 AS n").to_arrow_table()
    assert other.num_rows == 1
    assert db.sql("SELECT n FROM other").fetchall() == [(42,)]


def test_columns_of_numbers_are_not_copied() -> None:
    values = np.arange(100_000)
    (batch,) = object_source("t", pa.table({"a": values})).batches(["a"], [eventdb.schema.BIGINT])
    assert np.shares_memory(batch.columns[0].values, values)


def test_columns_without_a_sql_type_and_values_that_do_not_fit_are_named(db: eventdb.Database) -> None:
    odd = pa.table({"a": [1], "l": [[1]], "u": pa.array([2**64 - 1], pa.uint64())})
    assert odd.num_rows == 1
    assert db.sql("SELECT a FROM odd").fetchall() == [(1,)]
    with pytest.raises(UsageError, match=r"'odd'.*'l'.*list"):
        db.sql("SELECT l FROM odd")
    with pytest.raises(SchemaMismatch, match=r"'odd'.*'u'"):
        db.sql("SELECT u FROM odd")
    with pytest.raises(UsageError, match=r"'mixed'.*'a'.*one column"):
        db.register("mixed", [{"a": 1}, {"a": "x"}])


def test_the_index_of_a_pandas_frame_is_a_column_where_it_has_a_name(db: eventdb.Database) -> None:
    frame = pd.DataFrame({"n": [1, 2, 3, 4], "device": ["a", "b", "a", "c"]})
    topic = db.create_topic("kept", {"device": "VARCHAR", "n": "BIGINT"})
    topic.append_batch(frame[frame.n != 2])  # its index is 0, 2, 3
    topic.append_batch(frame.set_index("device"))
    topic.append_batch(frame.set_index(["device", "n"])[[]])
    named = frame[["n"]].rename_axis("device")
    with pytest.raises(SchemaMismatch, match="column 'device' is VARCHAR"):
        topic.append_batch(named)
    rows = [("a", 1), ("a", 3), ("c", 4), *2 * [("a", 1), ("b", 2), ("a", 3), ("c", 4)]]
    assert db.sql("SELECT device, n FROM kept").fetchall() == rows
    filtered = frame[frame.n != 2]
    assert db.sql("SELECT * FROM filtered").fetchall() == duckdb.sql("SELECT * FROM filtered").fetchall()
    assert len(filtered) == 3
    db.register("indexed", frame.set_index("device"))
    assert db.sql("SELECT n, device FROM indexed").fetchall() == [(1, "a"), (2, "b"), (3, "a"), (4, "c")]
    db.register("named", named)
    assert db.sql("SELECT * FROM named").fetchall() == [(1, 0), (2, 1), (3, 2), (4, 3)]
    with pytest.raises(UsageError, match="'n' is named twice"):
        db.register("twice", frame.set_index("n", drop=False))


@pytest.mark.parametrize(
    "values",
    [[10, 20, None, 10], [1.5, None, 1.5], [True, None, False], [Decimal("1.5"), None], [dt.date(2024, 1, 1), None],
     [dt.datetime(2024, 1, 1), None, dt.datetime(2024, 1, 1)], [None, None]],
)  # fmt: skip
def test_a_dictionary_of_any_type_is_read(db: eventdb.Database, values: list[Any]) -> None:
    table = pa.table({"v": pa.array([*values, *values]).dictionary_encode()})
    db.register("t", table.slice(1))
    assert db.sql("SELECT v FROM t").fetchall() == [(v,) for v in [*values, *values][1:]]
    if values[0] == 10:
        frame = pd.DataFrame({"v": pd.Categorical([3, 1, 3])})
        assert db.sql("SELECT v FROM frame").fetchall() == duckdb.sql("SELECT v FROM frame").fetchall()
        db.create_topic("kept", {"v": "BIGINT"}).append_batch(frame)
        assert db.sql("SELECT v FROM kept").fetchall() == [(3,), (1,), (3,)]


def test_python_objects_are_refused(db: eventdb.Database) -> None:
    with pytest.raises(UsageError, match="'f': cannot read DataFrame as Arrow"):
        db.register("f", pd.DataFrame({"a": [2**70]}))
    with pytest.raises(UsageError, match="'f': a Polars column of Python objects"):
        db.register("f", pl.DataFrame({"a": [object()]}))
