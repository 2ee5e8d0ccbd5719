"""Importing CSV: what the text does not say is found out, told with an option, or refused with advice."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import eventdb
from tests.shell.command_run import Run


def imported(path: Path, topic: str = "t") -> tuple[list[str], list[tuple[object, ...]]]:
    """Types and rows of a topic."""
    with eventdb.open(path, read_only=True) as db:
        found = db.topic(topic)
        return [str(field.type) for field in found.schema], [tuple(event.row.values()) for event in found.read()]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "plant.eventdb"


@pytest.mark.parametrize(("delimiter", "name"), [(",", ","), (";", ";"), ("\t", "tab"), ("\t", "\\t"), ("|", "|")])
def test_the_delimiter_is_found_out_or_told(
    delimiter: str, name: str, database: Path, tmp_path: Path, run: Run
) -> None:
    text = 'place,count\n"Ulm; or, | rather",1\nBonn,2\n'.replace("place,count", f"place{delimiter}count")
    text = text.replace('",1', f'"{delimiter}1').replace("Bonn,2", f"Bonn{delimiter}2")
    (tmp_path / "a.csv").write_text(text)
    assert run("import", database, "t", tmp_path / "a.csv").status == 0
    assert run("import", database, "u", tmp_path / "a.csv", "--delimiter", name).status == 0
    assert imported(database) == (["VARCHAR", "BIGINT"], [("Ulm; or, | rather", 1), ("Bonn", 2)])
    assert imported(database, "u") == imported(database)


def test_a_told_delimiter_wins_over_what_is_found(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text("a,b;c\nx,2;3\n")
    assert run("import", database, "t", tmp_path / "a.csv", "--delimiter", ";").status == 0
    assert imported(database) == (["VARCHAR", "BIGINT"], [("x,2", 3)])
    assert run("import", database, "t", tmp_path / "a.csv", "--delimiter", "<>").status == 2


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_another_encoding_is_read_when_it_is_told(encoding: str, database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_bytes("plätze,n\nKöln,1\nÉvian,2\n".encode(encoding))
    ran = run("import", database, "t", tmp_path / "a.csv", "--encoding", encoding)
    assert ran.status == 0, ran.err
    assert imported(database) == (["VARCHAR", "BIGINT"], [("Köln", 1), ("Évian", 2)])
    with eventdb.open(database) as db:
        assert db.topic("t").schema.names[0] == "plätze"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("many", [0, 200_000])
def test_bytes_that_are_no_utf8_are_named_by_line_and_byte(
    packed: bool, many: int, database: Path, tmp_path: Path, run: Run
) -> None:
    data = b"place,n\n" + b"Bonn,1\n" * many + b"Ulm,1\nK\xf6ln,2\n"
    file = tmp_path / ("a.csv.gz" if packed else "a.csv")
    file.write_bytes(gzip.compress(data, 1) if packed else data)
    ran = run("import", database, "t", file)
    assert ran.status == 1
    assert f"is not utf-8: line {many + 3}, byte 2 of it is 0xf6" in ran.err
    assert "--encoding" in ran.err
    assert "Traceback" not in ran.err


def test_an_unknown_encoding_is_refused(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    ran = run("import", database, "t", tmp_path / "a.csv", "--encoding", "klingon")
    assert (ran.status, "encoding 'klingon' is no text encoding" in ran.err) == (1, True)


def test_leading_zeros_stay(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text("zip,n,zero,share\n10115,1,0,0.5\n00501,-2,10,1.5\n")
    assert run("import", database, "t", tmp_path / "a.csv").status == 0
    expected = [("10115", 1, 0, 0.5), ("00501", -2, 10, 1.5)]
    assert imported(database) == (["VARCHAR", "BIGINT", "BIGINT", "DOUBLE"], expected)
    with eventdb.open(database) as db:
        assert db.sql(f"SELECT zip FROM '{tmp_path / 'a.csv'}'").fetchall() == [("10115",), ("00501",)]
        db.create_topic("numbers", {"zip": "BIGINT"})
    (tmp_path / "b.csv").write_text("zip\n00501\n")  # who made the column a number wants one
    assert run("import", database, "numbers", tmp_path / "b.csv").status == 0
    assert imported(database, "numbers") == (["BIGINT"], [(501,)])


def test_a_leading_zero_far_behind_is_an_error_and_no_integer(database: Path, tmp_path: Path, run: Run) -> None:
    count = 300_000
    (tmp_path / "a.csv").write_text(
        "zip,n\n" + "".join(f"{10_000 + n % 80_000},{n}\n" for n in range(count)) + "00501,1\n"
    )
    ran = run("import", database, "t", tmp_path / "a.csv")
    assert ran.status == 1
    assert f"row {count + 2}: column 'zip' was taken for integers, but '00501' would lose its leading zero" in ran.err
    types, rows = imported(database)
    assert types == ["BIGINT", "BIGINT"]
    assert (501, 1) not in rows


def test_a_file_without_a_header_gets_names(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text("007,x\n2,y\n")
    assert run("import", database, "t", tmp_path / "a.csv", "--no-header").status == 0
    assert imported(database) == (["VARCHAR", "VARCHAR"], [("007", "x"), ("2", "y")])
    with eventdb.open(database) as db:
        assert list(db.topic("t").schema.names) == ["column1", "column2"]


def test_quotes_hold_delimiters_quotes_and_line_ends(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text('a,b\n"x, ""y""\nz",1\n,2\n"",3\n')
    assert run("import", database, "t", tmp_path / "a.csv").status == 0
    assert imported(database)[1] == [('x, "y"\nz', 1), (None, 2), ("", 3)]
    (tmp_path / "b.csv").write_text("a,b\n'x,y',1\n")
    assert run("import", database, "u", tmp_path / "b.csv", "--quote", "'").status == 0
    assert imported(database, "u")[1] == [("x,y", 1)]


def test_a_decimal_comma_is_refused_with_advice(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text("place;price\nUlm;1,50\nBonn;\nKiel;1.200,75\n")
    ran = run("import", database, "t", tmp_path / "a.csv")
    assert ran.status == 1
    assert "column 'price' holds numbers with a decimal comma ('1,50')" in ran.err
    assert "VARCHAR" in ran.err
    with eventdb.open(database) as db:
        assert db.topics() == []
        db.create_topic("text", {"place": "VARCHAR", "price": "VARCHAR"})
        db.create_topic("number", {"place": "VARCHAR", "price": "DOUBLE"})
    ran = run("import", database, "number", tmp_path / "a.csv")
    assert (ran.status, "decimal" in ran.err) == (1, True)
    assert run("import", database, "text", tmp_path / "a.csv").status == 0
    assert imported(database, "text")[1] == [("Ulm", "1,50"), ("Bonn", None), ("Kiel", "1.200,75")]


def test_options_of_csv_are_refused_for_other_files(database: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    ran = run("import", database, "t", tmp_path / "a.jsonl", "--delimiter", ";")
    assert (ran.status, "are for CSV, and this is json" in ran.err) == (1, True)
