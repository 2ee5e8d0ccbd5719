"""Files as tables, against DuckDB reading the same files."""

from __future__ import annotations

import datetime as dt
import gzip
import operator
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import BindError, QueryError, UnsupportedError, UsageError
from eventdb.external import csv as csv_module
from eventdb.external.files import open_files


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


def rows(db: eventdb.Database, sql: str) -> list[tuple[Any, ...]]:
    return db.sql(sql).fetchall()


def agree(db: eventdb.Database, sql: str) -> list[tuple[Any, ...]]:
    """The rows, which are DuckDB's."""
    found = rows(db, sql)
    with duckdb.connect() as oracle:
        assert sorted(found, key=repr) == sorted(oracle.execute(sql).fetchall(), key=repr), sql
    return found


SAMPLE = pa.table(
    {
        "id": pa.array(range(5_000), pa.int32()),
        "device": [f"d{i % 7}" if i % 11 else None for i in range(5_000)],
        "text": [f"row {i}" for i in range(5_000)],
        "temp": [float(i % 100) / 4 for i in range(5_000)],
        "price": pa.array([Decimal(i) / 100 for i in range(5_000)], pa.decimal128(9, 2)),
        "day": pa.array([i // 10 for i in range(5_000)], pa.date32()),
        "seen": pa.array([1_700_000_000_000 + 60_000 * i for i in range(5_000)], pa.timestamp("ms")),
        "ok": [i % 3 == 0 for i in range(5_000)],
    }
)
QUERIES = """
    SELECT * FROM '{f}' WHERE id < 20 OR id IS NULL
    SELECT count(*), count(device), sum(temp), min(seen), max(day) FROM '{f}'
    SELECT device, count(*), sum(price) FROM '{f}' WHERE temp > 3 GROUP BY device
    SELECT id FROM '{f}' WHERE device IN ('d1', 'd2') AND id BETWEEN 100 AND 120
    SELECT text FROM '{f}' WHERE seen >= TIMESTAMP '2023-11-15 00:00:00' AND seen < TIMESTAMP '2023-11-15 00:05:00'
    SELECT id, ok FROM '{f}' WHERE day = DATE '1970-01-09' AND ok
    SELECT id FROM '{f}' WHERE price = 3.07
    SELECT count(*) FROM '{f}' WHERE id > 3000000000
    SELECT x.id FROM '{f}' x JOIN '{f}' y ON x.id = y.id + 4990
""".strip().splitlines()


@pytest.mark.parametrize("query", QUERIES)
def test_a_parquet_file_gives_the_rows_duckdb_reads(db: eventdb.Database, tmp_path: Path, query: str) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(SAMPLE, path, row_group_size=700)
    agree(db, query.strip().format(f=path))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_csv_file_gives_the_rows_duckdb_reads(db: eventdb.Database, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.csv{ending}"
    with duckdb.connect() as oracle:
        oracle.register("sample", SAMPLE)
        oracle.execute(f"COPY (SELECT id, device, temp, day, ok FROM sample) TO '{path}'")
    agree(db, f"SELECT * FROM '{path}' WHERE temp < 5")
    agree(db, f"SELECT device, count(*), min(day) FROM '{path}' GROUP BY 1")
    assert rows(db, f"SELECT count(*) FROM '{path}'") == [(5_000,)]


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "jsonl.gz"])
def test_json_lines_give_the_rows_duckdb_reads(db: eventdb.Database, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    with duckdb.connect() as oracle:
        oracle.register("sample", SAMPLE)
        oracle.execute(f"COPY (SELECT id, device, temp, ok FROM sample) TO '{path}' (FORMAT json)")
    agree(db, f"SELECT id, device, temp, ok FROM '{path}'")


def test_a_json_array_is_read_as_its_objects(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('\n [{"a": 1, "b": "x, ]"},\n\n{"a": 2.5, "c": true} ] ')
    assert agree(db, f"SELECT * FROM '{path}'") == [(1.0, "x, ]", None), (2.5, None, True)]
    path.write_text('[{"a": 1}, 2]')
    with pytest.raises(QueryError, match="element 2 of the array is no object: 2"):
        db.sql(f"SELECT * FROM '{path}'")
    path.write_text('[{"a": 1}, {"a"')
    with pytest.raises(QueryError, match=r"x\.json.*element 2"):
        db.sql(f"SELECT * FROM '{path}'")


def test_arrow_files_are_read_by_column(db: eventdb.Database, tmp_path: Path) -> None:
    for name, write in (("x.feather", pa_feather.write_feather), ("x.arrow", _write_stream)):
        path = tmp_path / name
        write(SAMPLE, path)
        wanted = [(r["text"], r["id"]) for r in SAMPLE.to_pylist() if r["temp"] == 1.25]
        assert rows(db, f"SELECT text, id FROM '{path}' WHERE temp = 1.25") == wanted


def _write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, 1_000)


def test_row_groups_whose_statistics_say_no_are_not_read(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(SAMPLE.select(["id", "temp"]), path, row_group_size=500)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(3).column(0)  # ids 1500 to 1999
    start = column.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert rows(db, f"SELECT min(id), count(*) FROM '{path}' WHERE id >= 2000") == [(2_000, 3_000)]
    assert rows(db, f"SELECT count(*) FROM '{path}' WHERE id IN (7, 4321)") == [(2,)]
    with pytest.raises(UsageError, match=r"x\.parquet"):
        rows(db, f"SELECT count(*) FROM '{path}' WHERE id >= 1999")
    assert rows(db, f"SELECT id FROM '{path}' LIMIT 3") == [(0,), (1,), (2,)]  # stops before it


def test_no_row_group_is_left_out_that_holds_a_row(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(SAMPLE, path, row_group_size=700)
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
    for sign, function in compare.items():
        for value in (0, 1, 699, 700, 701, 4_900, 4_999, 5_000):
            wanted = sum(function(n, value) for n in range(5_000))
            assert rows(db, f"SELECT count(*) FROM '{path}' WHERE id {sign} {value}") == [(wanted,)], (sign, value)
            assert rows(db, f"SELECT count(*) FROM '{path}' WHERE {value} {sign} id") == [
                (sum(function(value, n) for n in range(5_000)),)
            ]
            assert rows(db, f"SELECT count(*) FROM '{path}' WHERE price {sign} CAST({value} AS DOUBLE) / 100") == [
                (wanted,)
            ]


def test_explain_shows_what_a_scan_is_told(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(SAMPLE, path)
    plan = "\n".join(row[0] for row in rows(db, f"EXPLAIN SELECT text FROM '{path}' WHERE id > 5 AND device IN ('d1')"))
    assert "[id, device, text] where id > 5 AND device IN ('d1',)" in plan
    plan = "\n".join(row[0] for row in rows(db, f"EXPLAIN SELECT text FROM '{path}' LIMIT 5 OFFSET 2"))
    assert "[text] limit 7" in plan


def test_globs_and_lists_read_many_files(db: eventdb.Database, tmp_path: Path) -> None:
    for year, month, count in ((2023, 12, 3), (2024, 1, 4), (2024, 2, 5)):
        folder = tmp_path / f"year={year}" / f"month={month}"
        folder.mkdir(parents=True)
        columns: dict[str, Any] = {"a": list(range(count)), "s": ["x"] * count}
        if month == 2:
            columns["e"] = [1.5] * count
        pq.write_table(pa.table(columns), folder / "part.parquet")
    base = tmp_path
    agree(db, f"SELECT a, s, year, month FROM '{base}/*/*/part.parquet'")
    united = f"read_parquet('{base}/**/*.parquet', union_by_name => true)"
    agree(db, f"SELECT a, s, e, year, month FROM {united} WHERE year = 2024 AND a > 1")
    found = agree(
        db, f"SELECT a, filename FROM read_parquet('{base}/**/p?rt.parquet', filename => true) WHERE month = 1"
    )
    assert {row[1] for row in found} == {f"{base}/year=2024/month=1/part.parquet"}
    files = [f"{base}/year=2024/month={m}/part.parquet" for m in (2, 1)]
    agree(db, f"SELECT a, e FROM read_parquet({files}, union_by_name = true)")
    with pytest.raises(UsageError, match=r"month=1.*no column 'e'.*union_by_name => true"):
        db.sql(f"SELECT a, e FROM read_parquet({files})")
    with pytest.raises(QueryError, match="no file matches"):
        db.sql(f"SELECT * FROM '{base}/*.parquet'")


def test_partitions_are_pruned_by_their_folders(db: eventdb.Database, tmp_path: Path) -> None:
    for day in ("2024-01-01", "2024-01-02"):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"a": [1]}), tmp_path / f"day={day}" / "x.parquet")
    (tmp_path / "day=__HIVE_DEFAULT_PARTITION__").mkdir()
    pq.write_table(pa.table({"a": [2]}), tmp_path / "day=__HIVE_DEFAULT_PARTITION__" / "x.parquet")
    broken = tmp_path / "day=2024-01-03"
    broken.mkdir()
    pq.write_table(pa.table({"a": [1]}), broken / "x.parquet")
    source = open_files([f"{tmp_path}/*/x.parquet"])
    assert [(f.name, str(f.type)) for f in source.schema] == [("a", "BIGINT"), ("day", "DATE")]
    (broken / "x.parquet").write_bytes(b"nothing")
    sql = f"SELECT a, day FROM '{tmp_path}/*/x.parquet' WHERE day < DATE '2024-01-02'"
    assert rows(db, sql) == [(1, dt.date(2024, 1, 1))]
    assert rows(db, f"SELECT a FROM '{tmp_path}/day=_*/x.parquet'") == [(2,)]


CSV_CALLS = {
    "read_csv('{f}', header = false, all_varchar = true)": "a;b;c\n1;007;x\n",
    "read_csv('{f}', header => false, names => ['p', 'q'], delim => ';')": "1;2\n3;4\n",
    "read_csv('{f}', skip = 2, header = true)": "made by x\n\na,b\n1,2\n",
    "read_csv('{f}', nullstr = '-')": "a,b\n1,-\n-,x\n",
    "read_csv('{f}', columns = {{'x': 'INTEGER', 'y': 'VARCHAR', 'z': 'DATE'}})": "a,b,c\n1,2,2024-02-29\n",
    "read_csv('{f}', types = {{'a': 'VARCHAR'}})": "a,b\n1,2\n",
    "read_csv('{f}', quote = '''')": "a,b\n'x,1',2\n",
    "read_csv('{f}', delim = ';', decimal_separator = ',')": "a;b\n1,5;x\n",
    "read_csv(['{f}'], filename = true)": "a,b\n1,2\n",
}


@pytest.mark.parametrize("call", CSV_CALLS)
def test_csv_options_mean_what_they_mean_in_duckdb(db: eventdb.Database, tmp_path: Path, call: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(CSV_CALLS[call])
    agree(db, f"SELECT * FROM {call.format(f=path)}")


def test_an_option_that_is_none_is_named(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    for call, message in (
        ("heeder => 1", "no option 'heeder'; did you mean header?"),
        ("header => 'maybe'", "header is true or false"),
        ("delim => 'ab'", "one \\(ASCII\\) character"),
        ("columns => ['a']", "maps columns to types"),
        ("types => {'a': 'NUMBR'}", "unknown type"),
        ("compression => 'zip'", "compression is auto"),
        ("skip => -1", "number of lines"),
        ("header => true, header => false", "given twice"),
        ("header => a + 1", "no column a|must be a constant"),
    ):
        with pytest.raises(BindError, match=message):
            db.sql(f"SELECT * FROM read_csv('{path}', {call})")
    with pytest.raises(BindError, match="takes a path or a list"):
        db.sql("SELECT * FROM read_csv()")
    assert db.sql("SELECT a FROM read_csv($path)", path=str(path)).fetchall() == [(1,)]


field = st.one_of(st.none(), st.text(st.sampled_from('ab",\né'), max_size=8))


@settings(max_examples=40, deadline=None)
@given(table=st.lists(st.tuples(st.integers(-5, 5), field), min_size=1, max_size=30), piece=st.integers(8, 64))
def test_text_cut_into_pieces_is_the_text(tmp_path_factory: pytest.TempPathFactory, table: Any, piece: int) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    lines = [f"{n}," + ("" if s is None else '"' + s.replace('"', '""') + '"') for n, s in table]
    path.write_text("a,b\n" + "\n".join(lines) + "\n", newline="")
    before = csv_module._FIRST_BYTES, csv_module._PIECE_BYTES
    try:
        csv_module._FIRST_BYTES = csv_module._PIECE_BYTES = piece
        options = csv_module.CsvOptions(delimiter=",")
        source = open_files([str(path)], "csv", options)
        found = [row for batch in source.batches(["a", "b"]) for row in batch.to_pylist()]
    finally:
        csv_module._FIRST_BYTES, csv_module._PIECE_BYTES = before
    assert [row[0] for row in found] == [n for n, _ in table]
    if source.schema.types[1].name == "VARCHAR" and any(s is not None for _, s in table):
        assert [row[1] for row in found] == [s for _, s in table]


def test_a_broken_row_is_named_wherever_it_is(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,22222222222222\n" * 100_000 + "x,1\n")
    with pytest.raises(UsageError, match=r"x\.csv.*Row #100002.*invalid value 'x'.*types =>"):
        db.sql(f"SELECT sum(a) FROM '{path}'")
    path.write_text("a,b\n" + "1,22222222222222\n" * 100_000 + "1\n")
    with pytest.raises(UsageError, match=r"x\.csv.*Row #100002.*Expected 2 columns, got 1"):
        db.sql(f"SELECT sum(a) FROM '{path}'")


def test_a_column_without_a_sql_type_is_refused_only_where_it_is_read(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1], "l": [[1]], "big": pa.array([Decimal(1)], pa.decimal256(50, 2))}), path)
    assert rows(db, f"SELECT a FROM '{path}'") == [(1,)]
    with pytest.raises(UsageError, match=r"x\.parquet.*'l'.*list.*EXCLUDE \(l\)"):
        db.sql(f"SELECT * FROM '{path}'")
    with pytest.raises(UsageError, match=r"'big'.*38 digits"):
        db.sql(f"SELECT big FROM '{path}'")


def test_a_registered_file_system_serves_its_scheme(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "bucket" / "deep").mkdir(parents=True)
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "bucket" / "deep" / "x.parquet")
    with gzip.open(tmp_path / "bucket" / "y.csv.gz", "wt") as file:
        file.write("a\n3\n")
    remote = pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem())
    with pytest.raises(BindError, match=r"no file system for lake://"):
        db.sql("SELECT * FROM 'lake://bucket/deep/x.parquet'")
    db.register_filesystem("lake", remote)
    db.register_filesystem("s3", remote)
    assert rows(db, "SELECT sum(a) FROM 'lake://bucket/**/*.parquet'") == [(3,)]
    assert rows(db, "SELECT a, filename FROM read_csv('s3://bucket/*.gz', filename => true)") == [
        (3, "s3://bucket/y.csv.gz")
    ]
    assert rows(db, f"SELECT a FROM 'file://{tmp_path}/bucket/y.csv.gz'") == [(3,)]
    with pytest.raises(BindError, match=r"did you mean 'bucket/y.csv.gz'"):
        db.sql("SELECT * FROM 's3://bucket/y.csv'")
    with pytest.raises(UsageError, match="a file system is"):
        db.register_filesystem("s3", object())
    with pytest.raises(UsageError, match="a scheme is"):
        db.register_filesystem("s 3", remote)


def test_a_file_larger_than_the_memory_limit_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": range(600_000), "b": range(600_000)}), path, row_group_size=100_000)
    with eventdb.open(":memory:", memory_limit="2MB") as db:
        assert rows(db, f"SELECT count(*), sum(a), max(b) FROM '{path}'") == [(600_000, 179999700000, 599_999)]


def test_unknown_schemes_and_kinds_say_what_there_is(db: eventdb.Database) -> None:
    with pytest.raises(UsageError, match="unknown file type"):
        open_files([__file__])
    with pytest.raises(UnsupportedError, match="no file system for http://"):
        open_files(["http://host/x.csv"])


@pytest.mark.parametrize("hive", ["true", "false", None])
def test_a_column_that_folder_and_file_both_have_is_filtered_as_it_is_read(
    db: eventdb.Database, tmp_path: Path, hive: str | None
) -> None:
    for folder, value in (("a=1", 9), ("a=2", 8)):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"k": [value], "a": [value]}), tmp_path / folder / "x.parquet")
    options = "" if hive is None else f", hive_partitioning => {hive}"
    call = f"read_parquet('{tmp_path}/*/*.parquet'{options})"
    rows = db.sql(f"SELECT k, a FROM {call} ORDER BY k").fetchall()
    assert rows == ([(8, 2), (9, 1)] if hive == "true" else [(8, 8), (9, 9)])
    if hive is not None:
        with duckdb.connect() as oracle:
            assert rows == oracle.execute(f"SELECT k, a FROM {call} ORDER BY k").fetchall()
    for wanted in (1, 2, 8, 9):
        found = db.sql(f"SELECT k, a FROM {call} WHERE a = {wanted}").fetchall()
        assert found == [row for row in rows if row[1] == wanted]
        found = db.sql(f"SELECT count(*) FROM {call} WHERE a <= {wanted} AND a IN (1, 2, 8)").fetchall()
        assert found == [(sum(row[1] <= wanted and row[1] != 9 for row in rows),)]
