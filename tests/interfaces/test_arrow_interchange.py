"""The Arrow PyCapsule interface both ways, with other libraries at the other end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import eventdb
from eventdb.errors import UsageError

pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")
duckdb = pytest.importorskip("duckdb")

ROWS: list[tuple[Any, ...]] = [
    (1, "a", 0.5, Decimal("1.25"), dt.datetime(2026, 1, 1, 0, 0, 1), dt.date(2026, 1, 1), b"\0\xff", True, 1.5, 3),
    (2, "é'", float("inf"), Decimal("-0.01"), dt.datetime(1900, 1, 1), dt.date(1900, 1, 1), b"", False, -0.0, -3),
    (3, *[None] * 9),
]
NAMES = ["i", "s", "x", "d", "at", "day", "raw", "ok", "f", "n"]
TYPES = ["BIGINT", "VARCHAR", "DOUBLE", "DECIMAL(9,2)", "TIMESTAMP", "DATE", "BLOB", "BOOLEAN", "FLOAT", "SMALLINT"]


@pytest.fixture(scope="module")
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as opened:
        opened.create_topic("t", dict(zip(NAMES, TYPES, strict=True)))
        opened.topic("t").append_many([dict(zip(NAMES, row, strict=True)) for row in ROWS])
        yield opened


class Stream:
    """Any object with a stream and nothing else."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.source.__arrow_c_stream__(requested_schema)


class Array:
    """Any object with an array and nothing else."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self.source.__arrow_c_array__(requested_schema)


def test_others_read_a_result(db: eventdb.Database) -> None:
    result = db.sql("SELECT * FROM t ORDER BY i")
    stream = Stream(result)
    assert pl.DataFrame(stream).rows() == ROWS
    assert duckdb.sql("SELECT * FROM stream").fetchall() == ROWS
    assert duckdb.sql("SELECT sum(i) FROM stream WHERE s IS NOT NULL").fetchall() == [(3,)]
    assert [tuple(row.values()) for row in pa.table(stream).to_pylist()] == ROWS
    frame = pd.DataFrame.from_arrow(stream)
    assert list(frame.columns) == NAMES
    assert frame["d"][1] == Decimal("-0.01")
    assert frame["s"].isna().tolist() == [False, False, True]
    assert [field.name for field in pa.schema(result)] == NAMES


def test_a_result_is_read_as_often_as_asked_and_after_its_rows_were_fetched(db: eventdb.Database) -> None:
    result = db.sql("SELECT i FROM t ORDER BY i")
    assert result.fetchone() == (1,)
    for _ in range(2):
        assert pl.DataFrame(result)["i"].to_list() == [1, 2, 3]
    assert pa.table(db.sql("SELECT i, s FROM t WHERE false")).schema == pa.schema({"i": pa.int64(), "s": pa.string()})


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("SELECT i, s, x FROM t", {"i": pa.int32(), "s": pa.large_string(), "x": pa.float32()}),
        ("SELECT s, raw FROM t", {"s": pa.string_view(), "raw": pa.large_binary()}),
        ("SELECT s FROM t", {"s": pa.dictionary(pa.int32(), pa.string())}),
        ("SELECT d, day FROM t", {"d": pa.decimal128(12, 4), "day": pa.date64()}),
        ("SELECT n, f FROM t", {"n": pa.int64(), "f": pa.float64()}),
    ],
)
def test_a_requested_schema_is_given(db: eventdb.Database, query: str, asked: dict[str, Any]) -> None:
    schema = pa.schema(asked)
    result = db.sql(query)
    found = pa.RecordBatchReader.from_stream(Stream(result), schema=schema).read_all()
    assert found.schema == schema
    assert found.cast(result.arrow().schema) == result.arrow()


@pytest.mark.parametrize("asked", [{"s": pa.int32()}, {"other": pa.string()}, {"s": pa.string(), "i": pa.int64()}])
def test_a_requested_schema_that_cannot_be_is_refused(db: eventdb.Database, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="schema"):
        db.sql("SELECT s FROM t").__arrow_c_stream__(pa.schema(asked).__arrow_c_schema__())


TABLE = pa.table({"i": [7, 8], "s": ["x", None]})
SOURCES: dict[str, Any] = {
    "a stream": lambda: Stream(TABLE),
    "a stream of two batches": lambda: Stream(pa.concat_tables([TABLE[:1], TABLE[1:]])),
    "an array": lambda: Array(TABLE.to_batches()[0]),
    "a struct array": lambda: Array(TABLE.to_struct_array().chunk(0)),
    "views of strings": lambda: Stream(pa.table({"i": [7, 8], "s": pa.array(["x", None], pa.string_view())})),
    "dictionaries": lambda: Stream(pa.table({"s": pa.array(["x", None]).dictionary_encode(), "i": [7, 8]})),
    "narrower numbers": lambda: Stream(TABLE.cast(pa.schema({"i": pa.int8(), "s": pa.large_string()}))),
    "polars": lambda: pl.from_arrow(TABLE),
    "a polars struct": lambda: pl.from_arrow(TABLE).to_struct("any"),
    "pandas": lambda: TABLE.to_pandas(),
    "pandas rows": lambda: pd.DataFrame({"i": [6, 7, 8], "s": ["", "x", None]}).query("i > 6"),
    "duckdb": lambda: duckdb.sql("SELECT * FROM (VALUES (7, 'x'), (8, NULL)) t(i, s)"),
    "a result": lambda: eventdb.open(":memory:").sql("SELECT * FROM (VALUES (7, 'x'), (8, NULL)) t(i, s)"),
    "a reader": lambda: TABLE.to_reader(),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_anything_with_a_capsule_is_appended(db: eventdb.Database, source: str) -> None:
    name = source.replace(" ", "_")
    topic = db.create_topic(name, {"i": "BIGINT", "s": "VARCHAR"})
    topic.append_batch(SOURCES[source]())
    with db.transaction() as transaction:
        transaction.append_batch(topic, SOURCES[source]())
    with topic.producer() as producer:
        producer.send({"i": 9, "s": "y"})
    found = db.sql(f"SELECT i, s FROM {name} ORDER BY _offset").fetchall()
    assert found == [(7, "x"), (8, None), (7, "x"), (8, None), (9, "y")]
    assert db.create_topic(f"like_{name}", like=SOURCES[source]()).schema.names in (["i", "s"], ["s", "i"])


def test_what_is_no_table_is_refused_and_stores_nothing(db: eventdb.Database) -> None:
    topic = db.create_topic("refusing", {"i": "BIGINT", "s": "VARCHAR"})

    def broken() -> Iterator[pa.RecordBatch]:
        yield TABLE.to_batches()[0]
        raise OSError("the source broke")

    for source in (
        Stream(pa.chunked_array([[1, 2]])),
        Array(pa.array([1, 2])),
        pl.Series("i", [1]),
        Stream(pa.RecordBatchReader.from_batches(TABLE.schema, broken())),
        5,
    ):
        with pytest.raises((UsageError, OSError)):
            topic.append_batch(source)
    assert db.sql("SELECT count(*) FROM refusing").fetchone() == (0,)
