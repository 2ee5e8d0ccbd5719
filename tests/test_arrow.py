"""Arrow in and out: every type both ways, from every kind of frame, and what is refused."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as hs

import eventdb
from eventdb.arrow import batch_to_arrow, columns_for, infer_schema
from eventdb.batch import Column, Dictionary, RecordBatch
from eventdb.errors import SchemaMismatch, UsageError
from eventdb.external.files import detect_format, open_files
from eventdb.schema import VARCHAR, Schema
from tests.test_row import ALL, VALUES

ROWS = hs.lists(hs.fixed_dictionaries({k: hs.none() | v for k, v in VALUES.items()}), max_size=8)


def arrow_table(rows: list[dict[str, object]]) -> pa.Table:
    types = [pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(12,
    2),          pa.string(), pa.binary(), pa.date32(), pa.timestamp("us")]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(ALL.names, types, strict=True))))


@given(ROWS)
def test_arrow_to_batch_to_arrow_is_the_identity(rows: list[dict[str, object]]) -> None:
    table = arrow_table(rows)
    batch = RecordBatch(ALL.names, columns_for(table, ALL))
    assert batch.to_pylist() == [tuple(row[name] for name in ALL.names) for row in rows]
    assert batch_to_arrow(batch).to_pylist() == rows


@given(ROWS, hs.integers(0, 4), hs.integers(0, 4))
def test_slices_of_arrow_arrays_keep_their_rows(rows: list[dict[str, object]], start: int, length: int) -> None:
    part = arrow_table(rows).slice(start, length)
    assert RecordBatch(ALL.names, columns_for(part, ALL)).to_pylist() == [
        tuple(row[name] for name in ALL.names) for row in rows[start : start + length]
    ]


def test_pandas_polars_numpy_and_lists_give_the_same_columns() -> None:
    schema = Schema.from_mapping({"a": "BIGINT", "b": "VARCHAR", "c": "TIMESTAMP"})
    times = [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)]
    sources: list[object] = [
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": times}),
        pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": times}),
        {"a": np.array([1, 2]), "b": ["x", None], "c": np.array(times, dtype="datetime64[us]")},
        {"A": [1, 2], "B": pa.array(["x", None]).dictionary_encode(), "C": times},
    ]
    for source in sources:
        rows = RecordBatch(schema.names, columns_for(source, schema)).to_pylist()
        assert rows == [(1, "x", times[0]), (2, None, times[1])]


def test_a_foreign_dictionary_with_repeats_and_nulls_is_made_distinct() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), pa.array(["x", "x", None, "y"]))
    (column,) = columns_for({"s": array}, Schema.from_mapping({"s": "VARCHAR"}))
    assert column.to_pylist() == ["x", "x", None, "y"]
    assert column.dictionary is not None
    assert len(set(column.dictionary.values)) == len(column.dictionary.values)


@pytest.mark.parametrize(
    ("type", "values", "words"),
    [
        ("TINYINT", [1, 300], "TINYINT"),
        ("BIGINT", [1.5], "BIGINT"),
        ("BIGINT", ["1"], "parse the strings"),
        ("VARCHAR", [1], "VARCHAR"),
        ("FLOAT", [1e300], "use DOUBLE"),
        ("DECIMAL(4,2)", [Decimal("123.45")], "DECIMAL"),
        ("BOOLEAN", [1], "BOOLEAN"),
        ("TIMESTAMP", ["2024"], "TIMESTAMP"),
        ("BIGINT NOT NULL", [1, None], "row 1"),
        ("BLOB", ["text"], "BLOB"),
    ],
)
def test_a_batch_that_does_not_fit_names_its_column(type: str, values: list[object], words: str) -> None:
    with pytest.raises(SchemaMismatch, match=words) as caught:
        columns_for({"x": values}, Schema.from_mapping({"x": type}))
    assert caught.value.column == "x"


def test_what_is_not_a_table_is_a_usage_error() -> None:
    schema = Schema.from_mapping({"x": "BIGINT"})
    for wrong in (7, "text", [1, 2], None, {"x": 5}, {"x": "abc"}, {"x": [1], "y": [1]}, {"x": [1, "a"]}, {1: [1]}):
        with pytest.raises(UsageError):
            columns_for(wrong, schema)
    with pytest.raises(UsageError, match="differ in length"):
        columns_for({"x": [1], "X": [1, 2]}, schema)


def test_a_few_rows_of_a_large_dictionary_do_not_carry_all_of_it() -> None:
    dictionary = Dictionary([f"v{i}" for i in range(10_000)])
    column = Column(VARCHAR, np.array([9_999, 0], dtype=np.int32), None, dictionary)
    assert batch_to_arrow(RecordBatch(["s"], [column])).to_pylist() == [{"s": "v9999"}, {"s": "v0"}]


def test_inferred_schemas_hold_every_value() -> None:
    table = pa.table({"u": pa.array([1], pa.uint8()), "n": pa.nulls(1), "s": ["x"]})
    assert [str(t) for t in infer_schema(table).types] == ["SMALLINT", "VARCHAR", "VARCHAR"]
    with pytest.raises(UsageError, match="list"):
        infer_schema(pa.table({"l": [[1]]}))


def test_files_are_read_by_column_and_broken_ones_are_named(tmp_path: Path) -> None:
    csv = tmp_path / "x.csv"
    csv.write_text("a,b,at\n1,x,2024-01-01T00:00:00Z\n2,NA,2024-01-02T00:00:00Z\n")
    assert open_files([str(csv)]).schema.names == ["a", "b", "at"]
    (batch,) = open_files([str(csv)]).batches(["b", "a"])
    assert batch.to_pylist() == [("x", 1), (None, 2)]
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"a": 1, "b": "x"}\n{"a": null, "b": "y"}\n')
    (batch,) = open_files([str(lines)]).batches()
    assert batch.to_pylist() == [(1, "x"), (None, "y")]
    parquet = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), parquet)
    (batch,) = open_files([str(parquet)]).batches([])
    assert (len(batch), batch.columns) == (2, ())
    parquet.write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match=r"x\.parquet"):
        open_files([str(parquet)])
    csv.write_text("a,b\n1,2\n1\n")
    with pytest.raises(UsageError, match=r"x\.csv"):
        list(open_files([str(csv)]).batches())
    for path in ("gone.csv", str(tmp_path)):
        with pytest.raises(UsageError, match=r"does not exist|is a directory"):
            open_files([path], "csv")
    with pytest.raises(UsageError, match="unknown file type"):
        detect_format("x.xlsx")


@pytest.mark.parametrize("count", [1, 50], ids=["plain", "coded"])
def test_a_string_that_is_not_utf_8_is_refused(count: int) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(np.arange(count + 1, dtype=np.int32)), pa.py_buffer(b"\xff" * count)]
    )
    with pytest.raises(SchemaMismatch, match=r"'s'.*UTF-8"):
        columns_for(pa.table({"s": bad}), Schema.from_mapping({"s": "VARCHAR"}))


def test_a_batch_does_not_import_pandas(tmp_path: Path) -> None:
    code = """if True:
        import sys, pyarrow as pa, eventdb
        numbers = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\\5"), pa.py_buffer(bytes(24))])
        flags = pa.Array.from_buffers(pa.bool_(), 3, [None, pa.py_buffer(b"\\6")])
        with eventdb.open(sys.argv[1]) as db:
            topic = db.create_topic("t", {"n": "BIGINT", "b": "BOOLEAN"})
            topic.append_batch(pa.Table.from_arrays([numbers, flags], ["n", "b"]))
            assert [tuple(e.row.values()) for e in topic.read()] == [(0, False), (None, True), (0, True)]
        assert "pandas" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], check=True, timeout=120)


def test_few_rows_of_a_large_dictionary_are_the_same_however_often_they_are_asked_for(path: Path) -> None:
    """At first their values are made for each answer, then they are taken from all of them, though more come."""
    with eventdb.open(path, durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "word": "VARCHAR"})
        topic.append_many([{"n": n, "word": f"word-{n}"} for n in range(400)])
        for turn in range(12):
            low = 60 * turn % 350
            found = db.sql("SELECT word FROM t WHERE n >= $low AND n < $high", low=low, high=low + 50).arrow()
            assert found["word"].to_pylist() == [f"word-{n}" for n in range(low, low + 50)]
            topic.append({"n": 1_000 + turn, "word": f"new-{turn}" if turn % 3 else None})
            found = db.sql("SELECT word FROM t WHERE n >= 1000").arrow()
            assert found["word"].to_pylist() == [f"new-{n}" if n % 3 else None for n in range(turn + 1)]


def test_strings_of_a_batch_take_the_codes_the_topic_knows_or_get_new_ones(tmp_path: Path) -> None:
    known = [f"device {i}" for i in range(40)]
    batches = [
        known,
        [known[i * 7 % 40] for i in range(500)],
        [None if i % 5 == 0 else known[i * 11 % 40] for i in range(500)],
        [None] * 100,
        [known[i % 40] for i in range(499)] + ["one more"],
        [("one more", "device 3", None)[i % 3] for i in range(200)],
    ]
    wanted: list[str | None] = []
    for durability in ("commit", "os"):
        with eventdb.open(tmp_path / durability, durability=durability) as db:
            topic = db.create_topic("t", {"device": "VARCHAR", "n": "BIGINT"})
            wanted = []
            for batch in batches:
                for array in (pa.array(batch, pa.string()), pa.chunked_array([batch[:90], batch[90:]], pa.string())):
                    topic.append_batch(pa.table({"device": array, "n": range(len(batch))}))
                    wanted += batch
            assert [event["device"] for event in topic.read()] == wanted
        with eventdb.open(tmp_path / durability) as db:
            assert [event["device"] for event in db.topic("t").read()] == wanted
            found = db.sql("SELECT device, count(*) FROM t GROUP BY device").fetchall()
            assert dict(found) == Counter(wanted)
