"""Strings from outside: equal ones are equal wherever they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pq
import pytest

import eventdb

TEXTS = ["a", "b", "a", "c", None, "d", "ü", "", "e", "", "f", "g", "h", "ü", "long " * 9]  # most of them once
TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


def compare(db: eventdb.Database, source: str, values: list[Any]) -> None:
    """The rows (k, v) of a source against a Python list."""
    present = [v for v in values if v is not None]
    for wanted in ("a", "ü", "", "x", "long " * 9):
        value = wanted if isinstance(present[0], str) else wanted.encode()
        for operator, equal in (("=", True), ("<>", False), ("IN ($v, $v) AND v =", True)):
            found = db.sql(f"SELECT k FROM {source} WHERE v {operator} $v ORDER BY k", v=value).fetchall()
            assert found == [(k,) for k, v in enumerate(values) if v is not None and (v == value) is equal], operator
    assert dict(db.sql(f"SELECT v, count(*) FROM {source} GROUP BY v").fetchall()) == Counter(values)
    assert db.sql(f"SELECT count(DISTINCT v), count(*) FROM {source}").fetchall() == [(len(set(present)), len(values))]
    joined = db.sql(f"SELECT count(*) FROM {source} AS x JOIN {source} AS y ON x.v = y.v").fetchall()
    assert joined == [(sum(n * n for n in Counter(present).values()),)]
    same = db.sql(f"SELECT count(*) FROM (SELECT DISTINCT v FROM {source})").fetchall()
    assert same == [(len(set(values)),)]


@pytest.mark.parametrize("type", TYPES, ids=str)
@pytest.mark.parametrize("start", [0, 1])
def test_equal_strings_of_an_object_are_equal(db: eventdb.Database, type: pa.DataType, start: int) -> None:
    values = TEXTS if "string" in str(type) else [None if t is None else t.encode() for t in TEXTS]
    table = pa.table({"k": range(-start, len(values) - start), "v": pa.array(values, type)}).slice(start)
    db.register("t", table)
    compare(db, "t", values[start:])


def test_equal_strings_of_few_bytes_are_equal(db: eventdb.Database) -> None:
    values = [b"ab", b"cd", None, b"ab", b"ef"]
    db.register("t", pa.table({"k": range(5), "v": pa.array(values, pa.binary(2))}))
    compare(db, "t", values)


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "json"])
def test_equal_strings_of_a_file_are_equal(db: eventdb.Database, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    table = pa.table({"k": range(len(TEXTS)), "v": TEXTS})
    if ending == "parquet":
        pq.write_table(table, path, use_dictionary=False)
    elif ending == "arrow":
        pa_feather.write_feather(table, path)
    else:
        db.register("t", table)
        db.sql(f"COPY (SELECT * FROM t ORDER BY k) TO '{path}'")
    compare(db, f"'{path}'", TEXTS)


def test_equal_strings_of_functions_are_equal(db: eventdb.Database) -> None:
    db.create_table_function("texts", lambda: list(enumerate(TEXTS)), [], {"k": "BIGINT", "v": "VARCHAR"})
    compare(db, "texts()", TEXTS)
    db.register("numbers", pa.table({"k": range(len(TEXTS))}))
    db.create_function("text_of", lambda k: TEXTS[k], ["BIGINT"], "VARCHAR")
    compare(db, "(SELECT k, text_of(k) AS v FROM numbers)", TEXTS)
    db.create_function("texts_of", lambda k: pa.array([TEXTS[i] for i in k.to_pylist()]), ["BIGINT"], "VARCHAR",
                       vectorized=True)  # fmt: skip
    compare(db, "(SELECT k, texts_of(k) AS v FROM numbers)", TEXTS)


def test_strings_that_are_appended_come_back(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"k": "BIGINT", "v": "VARCHAR"})
    topic.append_batch({"k": list(range(len(TEXTS))), "v": TEXTS})
    compare(db, "t", TEXTS)
