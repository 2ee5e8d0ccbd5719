"""Import: every format in, types kept, nothing half-imported silently."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

import eventdb
from eventdb_shell.importer import _estimate_rows
from tests.shell.command_run import Run

CSV = "device,temp,at\nd1,21.5,2026-01-01T00:00:00Z\nd2,,2026-01-01T00:00:01Z\n"
ROWS = [
    {"device": "d1", "temp": 21.5, "at": dt.datetime(2026, 1, 1)},
    {"device": "d2", "temp": None, "at": dt.datetime(2026, 1, 1, 0, 0, 1)},
]


def events(path: Path, topic: str = "readings") -> list[dict[str, object]]:
    with eventdb.open(path, read_only=True) as db:
        return [event.row for event in db.topic(topic).read()]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "plant.eventdb"


@pytest.fixture
def table() -> pa.Table:
    return pa.table({name: [row[name] for row in ROWS] for name in ("device", "temp", "at")})


def test_a_csv_makes_a_topic_with_inferred_types(database: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "a.csv"
    file.write_text(CSV)
    ran = run("import", database, "readings", file, "--event-time", "at", "--key", "device")
    assert ran.status == 0
    assert ran.out == ""
    assert ran.err.startswith("2 rows into new topic readings in ")
    assert events(database) == ROWS
    with eventdb.open(database) as db:
        event = next(db.topic("readings").read())
        assert (event.key, event.time) == ("d1", ROWS[0]["at"])
        assert [str(f.type) for f in db.topic("readings").schema] == ["VARCHAR", "DOUBLE", "TIMESTAMP"]


def test_parquet_arrow_and_json_lines_give_the_same_rows(
    database: Path, tmp_path: Path, table: pa.Table, run: Run
) -> None:
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, str(tmp_path / "a.arrow"), compression="uncompressed")
    lines = [json.dumps({**row, "at": row["at"].isoformat()}) for row in ROWS]  # type: ignore[attr-defined]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("a.parquet", "a.arrow", "a.jsonl"):
        ran = run("import", database, "t_" + name.partition(".")[2], tmp_path / name)
        assert ran.status == 0, ran.err
        assert events(database, "t_" + name.partition(".")[2]) == ROWS, name


def test_a_second_import_appends_by_column_name(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv").write_text("at,device\n2026-01-02T00:00:00Z,d3\n")
    assert run("import", database, "readings", tmp_path / "a.csv").status == 0
    ran = run("import", database, "readings", tmp_path / "b.csv")
    assert ran.err.startswith("1 rows into topic readings")
    assert events(database)[2] == {"device": "d3", "temp": None, "at": dt.datetime(2026, 1, 2)}


def test_standard_input_is_recognised_by_its_content(database: Path, run: Run) -> None:
    assert run("import", database, "readings", "-", stdin=CSV).status == 0
    assert run("import", database, "lines", "-", stdin='{"a": 1}\n{"a": 2}\n').status == 0
    assert events(database) == ROWS
    assert events(database, "lines") == [{"a": 1}, {"a": 2}]
    assert "empty" in run("import", database, "none", "-", stdin="").err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", [], "bad.csv"),
        ("a,b\n1,2\n3\n", [], "bad.csv"),
        ("a,a\n1,2\n", [], "'a'"),
        ("a,b\n1,2\n", ["--event-time", "c"], "--event-time c: the file has no such column; it has a, b"),
        ("a,b\n1,2\n", ["--key", "c"], "--key c"),
        ("a,b\n1,2\n", ["--event-time", "a"], "TIMESTAMP"),
        ("_a,b\n1,2\n", [], "'_a'"),
    ],
)
def test_a_bad_file_leaves_no_topic(
    content: str, arguments: list[str], message: str, database: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "bad.csv").write_text(content)
    ran = run("import", database, "readings", tmp_path / "bad.csv", *arguments)
    assert ran.status == 1
    assert message in ran.err
    assert "Traceback" not in ran.err
    with eventdb.open(database) as db:
        assert db.topics() == []


def test_a_file_that_breaks_in_the_middle_says_what_was_committed(database: Path, tmp_path: Path, run: Run) -> None:
    good = 300_000
    file = tmp_path / "long.csv"
    with file.open("w") as out:
        out.write("n,name\n")
        out.writelines(f"{i},name {i % 100}\n" for i in range(good))
        out.write("not a number,x\n")
    ran = run("import", database, "readings", file)
    assert ran.status == 1
    with eventdb.open(database) as db:
        committed = len(db.topic("readings"))
    assert 0 < committed <= good
    assert f"stopped: {committed:,} rows were committed to readings and stay" in ran.err
    assert f"--skip-rows {committed}" in ran.err
    text = file.read_text().replace("not a number", str(good))
    file.write_text(text)
    ran = run("import", database, "readings", file, "--skip-rows", str(committed))
    assert ran.status == 0
    with eventdb.open(database) as db:
        assert db.sql("SELECT count(*), count(DISTINCT n), max(n) FROM readings").fetchone() == (
            good + 1,
            good + 1,
            good,
        )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere.csv", "nowhere.csv does not exist"),
        ("a.xlsx", "--format csv|json|parquet|arrow"),
        ("folder", "folder is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(file: str, message: str, database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    (tmp_path / "folder").mkdir()
    ran = run("import", database, "readings", tmp_path / file)
    assert ran.status == 1
    assert message in ran.err


def test_columns_that_do_not_fit_an_existing_topic_are_named(database: Path, tmp_path: Path, run: Run) -> None:
    with eventdb.open(database) as db:
        db.create_topic("readings", {"device": "VARCHAR NOT NULL", "n": "SMALLINT"})
    cases = [
        ("device,m\nd1,1\n", "'m'"),
        ("n\n1\n", "'device'"),
        ("device,n\nd1,70000\n", "n"),
        ("device,n\n,1\n", "device"),
    ]
    for content, message in cases:
        (tmp_path / "a.csv").write_text(content)
        ran = run("import", database, "readings", tmp_path / "a.csv")
        assert ran.status == 1, content
        assert message in ran.err
        assert "no row was committed" in ran.err or "stopped" not in ran.err
    assert events(database) == []
    assert "are for a new topic" in run("import", database, "readings", tmp_path / "a.csv", "--key", "device").err


def test_text_columns_keep_their_leading_zeros(database: Path, tmp_path: Path, run: Run) -> None:
    with eventdb.open(database) as db:
        db.create_topic("readings", {"code": "VARCHAR"})
    (tmp_path / "a.csv").write_text("code\n007\n1e3\n")
    assert run("import", database, "readings", tmp_path / "a.csv").status == 0
    assert events(database) == [{"code": "007"}, {"code": "1e3"}]


def test_the_estimate_of_rows_is_close(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n" + "1,2\n" * 500_000)
    estimate = _estimate_rows(str(file), "csv", 0)
    assert estimate is not None
    assert abs(estimate - 500_000) < 5_000
    assert _estimate_rows(str(file), "parquet", 0) is None
