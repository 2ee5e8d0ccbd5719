"""COPY TO and COPY FROM, with DuckDB reading and writing the other side."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest

import eventdb
from eventdb.errors import (
    BindError,
    ConstraintError,
    EvaluationError,
    FunctionError,
    ParseError,
    SchemaMismatch,
    StorageError,
    UnsupportedError,
    UsageError,
)

COLUMNS = {
    "n": "BIGINT", "small": "SMALLINT", "device": "VARCHAR", "temp": "DOUBLE", "price": "DECIMAL(9,2)", "ok": "BOOLEAN",
    "day": "DATE", "ts": "TIMESTAMP",
}  # fmt: skip
ROWS = [
    {
        "n": i, "small": i % 100, "device": [None, "", 'a "quoted", one', "line\nbreak", "ü€", "007"][i % 6],
        "temp": None if i % 5 == 4 else i / 8, "price": Decimal(i) / 4, "ok": i % 2 == 0,
        "day": dt.date(2024, 1, 1) + dt.timedelta(i % 40),
        "ts": dt.datetime(2024, 1, 1) + dt.timedelta(seconds=i, microseconds=i % 3),
    }
    for i in range(500)
]  # fmt: skip


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        database.create_topic("readings", COLUMNS).append_many(ROWS)
        yield database


def in_duckdb(path: Path | str, reader: str = "") -> list[tuple[Any, ...]]:
    with duckdb.connect() as oracle:
        return oracle.execute(f"SELECT * FROM {reader or repr(str(path))}").fetchall()


def as_tuples(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("options", ["", "(COMPRESSION zstd, ROW_GROUP_SIZE 100)", "(COMPRESSION none)"])
def test_a_parquet_file_holds_the_rows(db: eventdb.Database, tmp_path: Path, options: str) -> None:
    path = tmp_path / "x.parquet"
    assert db.sql(f"COPY readings TO '{path}' {options}").rowcount == 500
    assert in_duckdb(path) == as_tuples(ROWS)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == (5 if "ROW_GROUP_SIZE" in options else 1)
    assert os.listdir(tmp_path) == ["x.parquet"]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst"])
def test_a_csv_file_holds_the_rows(db: eventdb.Database, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    assert db.sql(f"COPY (SELECT * FROM readings WHERE n < 300) TO '{path}'").rowcount == 300
    types = "{" + ", ".join(f"'{name}': '{type}'" for name, type in COLUMNS.items()) + "}"
    found = in_duckdb(path, f"read_csv('{path}', columns = {types}, header = true)")
    assert [row[:2] + row[3:] for row in found] == [row[:2] + row[3:] for row in as_tuples(ROWS[:300])]
    assert [row[2] for row in found if row[2]] == [row["device"] for row in ROWS[:300] if row["device"]]
    assert db.sql(f"SELECT device FROM '{path}'").fetchall() == [(row["device"],) for row in ROWS[:300]]


def test_csv_options_shape_the_text(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    db.sql(f"COPY (SELECT n, device FROM readings WHERE n IN (4, 5)) TO '{path}' (HEADER false, DELIM ';')")
    assert path.read_text() == '4;"ü€"\n5;"007"\n'
    db.sql(
        f"COPY (SELECT n, ts - TIMESTAMP '2024-01-01' AS age FROM readings WHERE n = 61) TO '{path}' WITH (DELIM '\\t')"
    )
    assert path.read_text() == '"n"\t"age"\n61\t"0:01:01.000001"\n'
    db.sql(f"COPY (SELECT n FROM readings WHERE n < 2) TO '{path}' (FORCE_QUOTE *)")
    assert path.read_text() == '"n"\n"0"\n"1"\n'


@pytest.mark.parametrize("options", ["", "(ARRAY true)", "(FORMAT json, ARRAY)"])
def test_a_json_file_holds_the_rows(db: eventdb.Database, tmp_path: Path, options: str) -> None:
    path = tmp_path / "x.json"
    assert db.sql(f"COPY (SELECT n, device, temp, price, ok, day FROM readings) TO '{path}' {options}").rowcount == 500
    text = path.read_text()
    found = json.loads(text) if options else [json.loads(line) for line in text.splitlines()]
    names = ("n", "device", "temp", "price", "ok")
    assert [{k: row[k] for k in names} for row in found] == [
        {k: float(row[k]) if k == "price" else row[k] for k in names} for row in ROWS
    ]
    assert found[1]["day"] == "2024-01-02"
    db.sql(f"COPY (SELECT n FROM readings WHERE n < 0) TO '{path}' {options}")
    assert path.read_text() == ("[]\n" if options else "")


def test_numbers_that_json_has_not_are_strings(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    db.sql(f"COPY (SELECT CAST('inf' AS DOUBLE) AS a, CAST('nan' AS DOUBLE) AS b, x'0fff' AS c) TO '{path}'")
    assert json.loads(path.read_text()) == {"a": "Infinity", "b": "NaN", "c": "0fff"}


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_an_arrow_file_holds_the_rows(db: eventdb.Database, tmp_path: Path, codec: str) -> None:
    path = tmp_path / "x.arrow"
    db.sql(f"COPY readings (n, ts, price) TO '{path}' (FORMAT arrow, COMPRESSION {codec})")
    assert pa_feather.read_table(path).to_pylist() == [{k: r[k] for k in ("n", "ts", "price")} for r in ROWS]


def test_partitions_are_folders_that_both_engines_read(db: eventdb.Database, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    sql = f"COPY (SELECT n, ok, small % 3 AS r FROM readings) TO '{folder}' (FORMAT parquet, PARTITION_BY (r, ok))"
    assert db.sql(sql).rowcount == 500
    wanted = sorted((row["n"], str(row["ok"]).lower(), row["small"] % 3) for row in ROWS)
    assert sorted(in_duckdb("", f"(SELECT n, ok, r FROM '{folder}/**/*.parquet')")) == wanted
    found = db.sql(f"SELECT n, ok, r FROM '{folder}/*/*/*.parquet' WHERE r = 1").fetchall()
    assert sorted(found) == [row for row in wanted if row[2] == 1]
    with pytest.raises(UsageError, match="not empty: OVERWRITE"):
        db.sql(sql)
    assert (
        db.sql(
            sql.replace("(FORMAT", "(OVERWRITE, FORMAT").replace("FROM readings", "FROM readings WHERE n = 1")
        ).rowcount
        == 1
    )
    assert in_duckdb("", f"(SELECT n FROM '{folder}/**/*.parquet')") == [(1,)]
    assert os.listdir(tmp_path) == ["parts"]
    db.sql(f"COPY (SELECT n, device FROM readings WHERE n < 12) TO '{tmp_path}/c' (FORMAT csv, PARTITION_BY device)")
    assert db.sql(f"SELECT count(*) FROM '{tmp_path}/c/*/*.csv' WHERE device IS NULL").fetchall() == [(2,)]


def test_a_copy_that_fails_leaves_what_was_there(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("before\n")
    topic = db.create_topic("many", {"n": "BIGINT"})
    topic.append_batch({"n": np.arange(300_000)})
    for target in (f"'{path}'", f"'{tmp_path}/new.parquet'", f"'{tmp_path}/folder' (FORMAT parquet, PARTITION_BY k)"):
        with pytest.raises(EvaluationError, match="division by zero"):
            db.sql(f"COPY (SELECT n % 2 AS k, 1 / (n - 290000) AS x FROM many) TO {target}")
        assert os.listdir(tmp_path) == ["x.csv"]
    assert path.read_text() == "before\n"

    def fails(n: int) -> int:
        if n == 7:
            raise ValueError("seven")
        return n

    db.create_function("fails", fails)
    with pytest.raises(FunctionError, match="seven"):
        db.sql(f"COPY (SELECT fails(n) AS n FROM many) TO '{path}'")
    with pytest.raises(StorageError, match="cannot write"):
        db.sql(f"COPY many TO '{tmp_path}/no/such/folder/x.csv'")
    with pytest.raises(UsageError, match="is a folder"):
        db.sql(f"COPY many TO '{tmp_path}' (FORMAT csv)")
    assert os.listdir(tmp_path) == ["x.csv"]
    with db.snapshot() as cut:
        topic.append({"n": 5})
        assert cut.sql(f"COPY many TO '{path}'").rowcount == 300_000


def test_what_is_wrong_with_an_option_is_said(db: eventdb.Database, tmp_path: Path) -> None:
    for rest, message in (
        ("'x.csv' (HEADR true)", "no option 'headr' for csv; did you mean header"),
        ("'x.parquet' (HEADER true)", "no option 'header' for parquet"),
        ("'x.xyz'", "unknown file type"),
        ("'x' (FORMAT xml)", "format is parquet, csv, json, arrow, not 'xml'"),
        ("'x.parquet' (COMPRESSION zip)", "compression of parquet is snappy"),
        ("'x.parquet' (PARTITION_BY (nope))", "partition_by names no column 'nope'"),
        ("'x.parquet' (ROW_GROUP_SIZE 0)", "whole number from 1"),
        ("'x.csv' (DELIM 'ab')", "one .ASCII. character"),
        ("'x.csv' (DELIM (n, ok))", "one .ASCII. character, .* not .'n', 'ok'."),
        ("'x.csv' (DELIM '\"')", "one .ASCII. character, no quote and no line end"),
        ("'x.csv' (DELIM '\n')", "one .ASCII. character, no quote and no line end"),
        ("'x.parquet' (PARTITION_BY (ok, OK))", "partition_by names a column twice: ok, OK"),
        ("'x.parquet' (COMPRESSION_LEVEL 3)", "snappy has no compression_level; zstd, gzip and brotli have"),
        ("'x.parquet' (COMPRESSION zstd, COMPRESSION_LEVEL 900)", "compression_level of zstd is at most 22, not 900"),
        ("'x.parquet.gz'", "'x.parquet.gz' would be gzip around parquet.*: name it 'x.parquet'"),
        ("'x.arrow.zst'", "'x.arrow.zst' would be zstd around arrow.*: name it 'x.arrow'"),
        ("'x.gz' (FORMAT arrow)", "'x.gz' would be gzip around arrow"),
        ("'x.csv' (HEADER maybe)", "header is true or false"),
        ("'x.csv' (HEADER, HEADER)", "header is given twice"),
    ):
        with pytest.raises((UsageError, BindError), match=message):
            db.sql(f"COPY readings TO {rest}")
    with pytest.raises(UnsupportedError, match="PARTITION_BY writes parquet, csv or arrow, not json"):
        db.sql(f"COPY readings TO '{tmp_path}/j' (FORMAT json, PARTITION_BY ok)")
    with pytest.raises(UsageError, match="column 'n' is there twice"):
        db.sql(f"COPY (SELECT n, n FROM readings) TO '{tmp_path}/x.csv'")
    with pytest.raises(UnsupportedError, match="NULL without a type"):
        db.sql(f"COPY (SELECT NULL AS x) TO '{tmp_path}/x.parquet'")
    for sql, message in (
        ("COPY readings", "expected FROM"),
        ("COPY readings TO", "expected a file"),
        ("COPY readings TO 'x.csv' HEADER", "expected \\("),
        ("COPY 'x.csv' TO 'y.csv'", "expected a table"),
    ):
        with pytest.raises(ParseError, match=message):
            db.sql(sql)
    with pytest.raises(BindError, match="no column 'tmp' in readings; did you mean temp"):
        db.sql("COPY readings (n, tmp) TO 'x.csv'")
    with pytest.raises(BindError, match="no topic, table or view 'reading'; did you mean readings"):
        db.sql("COPY reading TO 'x.csv'")


def test_a_registered_file_system_is_written_to(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    db.register_filesystem("s3", pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem()))
    assert db.sql("COPY readings TO $path", path="s3://bucket/x.parquet").rowcount == 500
    assert db.sql("SELECT count(*) FROM 's3://bucket/x.parquet'").fetchall() == [(500,)]
    assert db.sql("COPY readings TO 's3://bucket/p' (FORMAT parquet, PARTITION_BY ok)").rowcount == 500
    assert db.sql("SELECT count(*) FROM 's3://bucket/p/*/*.parquet' WHERE ok = 'true'").fetchall() == [(250,)]


# --- FROM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "arrow"])
def test_rows_come_back_as_they_went(db: eventdb.Database, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    db.sql(f"COPY readings TO '{path}'")
    db.create_topic("again", COLUMNS)
    assert db.sql(f"COPY again FROM '{path}'").rowcount == 500
    assert db.sql("SELECT * FROM again").fetchall() == as_tuples(ROWS)


def test_columns_go_by_name_and_those_of_a_file_without_header_in_order(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    db.create_topic("t", {"a": "BIGINT", "b": "VARCHAR", "c": "DOUBLE"})
    path.write_text("C,B\n1.5,007\n2.5,008\n")
    assert db.sql(f"COPY t FROM '{path}' (DELIM ',')").rowcount == 2
    path.write_text("9;x\n")
    assert db.sql(f"COPY t (a, b) FROM '{path}' (FORMAT csv, HEADER false, DELIM ';')").rowcount == 1
    assert db.sql("SELECT * FROM t").fetchall() == [(None, "007", 1.5), (None, "008", 2.5), (9, "x", None)]
    path.write_text("a,bb\n1,2\n")
    with pytest.raises(BindError, match=r"column 'bb' goes nowhere: did you mean b\?.*INSERT INTO t SELECT"):
        db.sql(f"COPY t FROM '{path}'")
    path.write_text("a\nx\n")
    with pytest.raises((UsageError, BindError), match=r"x\.csv.*invalid value 'x'"):
        db.sql(f"COPY t FROM '{path}'")
    with pytest.raises(BindError, match="did you mean header"):
        db.sql(f"COPY t FROM '{path}' (HEADR true)")
    with pytest.raises(BindError, match="does not exist"):
        db.sql("COPY t FROM 'gone.csv'")
    db.create_topic("strict", {"a": "BIGINT NOT NULL", "b": "VARCHAR"})
    path.write_text("b\nx\n")
    with pytest.raises(BindError, match="'a' of strict is NOT NULL and the file does not have it"):
        db.sql(f"COPY strict FROM '{path}'")
    path.write_text("a,b\n1,x\n,y\n")
    with pytest.raises(SchemaMismatch, match=r"'a'.*NOT NULL"):
        db.sql(f"COPY strict FROM '{path}'")
    assert db.sql("SELECT count(*) FROM strict").fetchall() == [(0,)]


def test_a_table_takes_rows_of_a_file_with_its_key(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    db.sql("CREATE TABLE devices (id VARCHAR PRIMARY KEY, site VARCHAR)")
    pq.write_table(pa.table({"site": ["n", "s"], "id": ["a", "b"]}), path)
    assert db.sql(f"COPY devices FROM '{path}'").rowcount == 2
    assert db.sql("SELECT id, site FROM devices ORDER BY id").fetchall() == [("a", "n"), ("b", "s")]
    with pytest.raises(ConstraintError, match="devices"):
        db.sql(f"COPY devices FROM '{path}'")
    assert db.sql(f"COPY (SELECT * FROM devices WHERE id = 'a') TO '{tmp_path}/d.csv'").rowcount == 1


def test_a_file_larger_than_memory_goes_into_a_topic_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    count = 600_000
    pq.write_table(pa.table({"n": np.arange(count), "m": np.arange(count) / 2}), path, row_group_size=50_000)
    with eventdb.open(tmp_path / "db", memory_limit="4MB") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "m": "DOUBLE"})
        topic.append({"n": 0, "m": 0.0})
        assert db.sql(f"COPY t FROM '{path}'").rowcount == count
        assert db.sql("SELECT count(*), sum(n), max(m) FROM t").fetchall() == [
            (count + 1, count * (count - 1) // 2, (count - 1) / 2)
        ]
        pq.write_table(
            pa.table({"n": [*range(count), None], "m": np.arange(count + 1) / 2}), path, row_group_size=50_000
        )
        data = bytearray(path.read_bytes())
        start = pq.ParquetFile(path).metadata.row_group(11).column(0).data_page_offset
        data[start : start + 40] = b"\xff" * 40
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"x\.parquet"):
            db.sql(f"COPY t FROM '{path}'")
        assert db.sql("SELECT count(*) FROM t").fetchall() == [(count + 1,)]


def test_a_copy_into_a_topic_is_part_of_a_transaction(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n2\n")
    db.create_topic("t", {"a": "BIGINT"})
    db.sql("BEGIN")
    db.sql(f"COPY t FROM '{path}'")
    assert db.sql("SELECT count(*) FROM t").fetchall() == [(2,)]
    db.sql("ROLLBACK")
    assert db.sql("SELECT count(*) FROM t").fetchall() == [(0,)]
