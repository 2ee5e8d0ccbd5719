"""CSV files against DuckDB: NULLs of one column, tabs, quotes, escapes, line ends, what is said of a wrong option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import BindError, UsageError
from eventdb.external import csv as csv_module


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


def in_duckdb(sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as oracle:
        return oracle.execute(sql).fetchall()


@pytest.mark.parametrize("rows", ["(1), (NULL), (2)", "(NULL), (1), (NULL)", "('a'), (''), (NULL)", "(true), (NULL)"])
@pytest.mark.parametrize("header", [True, False])
def test_one_column_comes_back_with_its_nulls(db: eventdb.Database, tmp_path: Path, rows: str, header: bool) -> None:
    path = tmp_path / "x.csv"
    query = f"SELECT a FROM (VALUES {rows}) AS t(a)"
    db.sql(f"COPY ({query}) TO '{path}' (HEADER {header})")
    call = f"FROM read_csv('{path}', header => {header})"
    assert db.sql(f"SELECT * {call}").fetchall() == db.sql(query).fetchall()
    assert db.sql(f"SELECT count(*) {call}").fetchall() == [(rows.count("("),)]
    if header:  # without one DuckDB skips the NULLs before the first value
        assert in_duckdb(f"SELECT count(*) {call}") == [(rows.count("("),)]
    db.sql(f"COPY ({query}) TO '{path}' (FORCE_QUOTE *)")
    assert db.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(rows.count("("),)]


@pytest.mark.parametrize(
    "text",
    ["a\n1\n\n2\n\n", "a\n\n\n", "\n\na\n1\n2\n", "a\nx\n\ny", "a\r\n1\r\n\r\n2\r\n", "a,b\n1,2\n\n3,4\n\n",
     "a\n1\n2\n\n\n", "\n\na,b\n1,2\n", "a\n1\n\n\n2", '"a\nb",c\n1,2\n', '"a\n\nb"\n1\n2\n', "a,b\n", "a\n",
     '\n"a\nb",c\n1,2\n'],
)  # fmt: skip
@pytest.mark.parametrize("header", [True, False])
def test_blank_lines_are_nulls_of_one_column_and_nothing_of_more(
    db: eventdb.Database, tmp_path: Path, text: str, header: bool
) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode())
    call = f"read_csv('{tmp_path}/x.csv', delim => ',', all_varchar => true, header => {str(header).lower()})"
    found = db.sql(f"SELECT * FROM {call}").fetchall()
    wanted = in_duckdb(f"SELECT * FROM {call}")
    if not header and "," not in text:  # DuckDB skips the blank lines before the first value
        wanted = [(None,)] * (len(text) - len(text.lstrip("\n"))) + wanted
    assert found == wanted
    assert db.sql(f"SELECT count(*) FROM {call}").fetchall() == [(len(found),)]


def test_tabs_split_a_file_whose_name_ends_in_tsv_alone(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "old.tsv.d").mkdir()
    for name in ("old.tsv.d/x.csv", "a.tsv.csv", "x.tsvx.csv"):
        (tmp_path / name).write_text("a,b\n1,2\n")
        assert db.sql(f"SELECT * FROM '{tmp_path}/{name}'").fetchall() == [(1, 2)]
    for name in ("x.tsv", "X.TSV", "x.tsv.gz"):
        db.sql(f"COPY (SELECT 1 AS a, 'x,y' AS b, NULL AS c) TO '{tmp_path}/{name}'")
        assert db.sql(f"SELECT * FROM '{tmp_path}/{name}'").fetchall() == [(1, "x,y", None)]
        found = in_duckdb(f"SELECT a, b FROM read_csv('{tmp_path}/{name}', delim = '\t')")
        assert found == [(1, "x,y")]
    assert (tmp_path / "x.tsv").read_text() == '"a"\t"b"\t"c"\n1\t"x,y"\t\n'
    db.sql(f"COPY (SELECT 1 AS a, 2 AS b) TO '{tmp_path}/x.tsv' (DELIM ',')")
    assert (tmp_path / "x.tsv").read_text() == '"a","b"\n1,2\n'


def test_a_value_may_be_as_long_as_it_is(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n1,"' + "x" * 600_000 + '"\n2,y\n')
    assert db.sql(f"SELECT a, length(b) FROM '{tmp_path}/x.csv'").fetchall() == [(1, 600_000), (2, 1)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('a,b\n1,x"y\n', "quote => ''"),
        ('a,b\n1,"x"\n', "quote => ''"),
        ('a;b\n1;"x"\n', "quote => '', delim => ';'"),
        ('a,b\n1,"x""y"\n', "escape => '\"'"),
        ('a,b\n1,"x,""y"\n', "quote => '\"', escape => '\"'"),
        ("a,b\n1,'x''y'\n", "quote => '''', escape => ''''"),
        ("a,b\n1,'x,\"'\n", "quote => ''''"),
        ('a,b\n1,"x\\"y"\n', "escape => '\\'"),
        ('a,b\n1,"x\\",y"\n2,"z"\n', "escape => '\\'"),
    ],
)
def test_quotes_and_escapes_mean_what_they_mean_in_duckdb(
    db: eventdb.Database, tmp_path: Path, text: str, options: str
) -> None:
    (tmp_path / "x.csv").write_text(text)
    call = f"read_csv('{tmp_path}/x.csv', header => true, {options})"
    assert db.sql(f"SELECT * FROM {call}").fetchall() == in_duckdb(f"SELECT * FROM {call}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("read_csv('{0}/x.csv', encoding => 'rot13')", "encoding 'rot13' is no text encoding: try utf-8"),
        ("read_csv('{0}/x.csv', encoding => 'hex')", "encoding 'hex' is no text encoding"),
        ("read_csv('{0}/x.csv', encoding => 'utf-88')", "encoding 'utf-88' is no text encoding"),
        ("read_csv('{0}/x.csv', types => {{'tmp': 'INTEGER'}})", "types names no column 'tmp'; did you mean temp"),
        ("read_csv('{0}/x.csv', types => {{'z': 'INTEGER'}})", "x.csv': types names no column 'z'; the columns"),
        ("'{0}/[z-a].csv'", r"\[z-a\].csv' is no pattern: bad character range z-a"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_the_file(db: eventdb.Database, tmp_path: Path, call: str, message: str) -> None:
    (tmp_path / "x.csv").write_text("temp,b\n1,2\n")
    with pytest.raises(BindError, match=message):
        db.sql(f"SELECT * FROM {call.format(tmp_path)}")


def test_types_go_by_name_without_case(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Temp,b\n1,2\n")
    call = f"read_csv('{tmp_path}/x.csv', types => {{'TEMP': 'VARCHAR'}})"
    assert db.sql(f"SELECT * FROM {call}").fetchall() == in_duckdb(f"SELECT * FROM {call}") == [("1", 2)]


def test_a_class_of_characters_holds_signs(db: eventdb.Database, tmp_path: Path) -> None:
    for name in ("a[.csv", "a&.csv", "ab.csv", "a\n.csv", "what?.csv"):
        (tmp_path / name).write_text("a\n1\n")
    for pattern, count in (("a[[&].csv", 2), ("a[!&&].csv", 3), ("a[b-b].csv", 1), ("a*.csv", 4), ("what?.csv", 1)):
        assert db.sql(f"SELECT count(*) FROM '{tmp_path}/{pattern}'").fetchall() == [(count,)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*2 * [st.sampled_from(["w", "", '5" pipe', '24"', '"x\ny"', '"x,\n""y"""', '""""', "ü"])]), min_size=1
    ),
    st.sampled_from([1, 3, 8, 40]),
    st.booleans(),
)
def test_a_quote_inside_a_value_is_part_of_it_wherever_the_text_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], piece: int, ends: bool
) -> None:
    path = tmp_path_factory.mktemp("signs") / "x.csv"
    path.write_text("a,b\n" + "\n".join(map(",".join, rows)) + ("\n" if ends else ""))
    wanted = [tuple(v[1:-1].replace('""', '"') if v[:1] == '"' else v or None for v in row) for row in rows]
    with pytest.MonkeyPatch.context() as patch, eventdb.open(":memory:") as db:
        patch.setattr(csv_module, "_FIRST_BYTES", piece)
        patch.setattr(csv_module, "_PIECE_BYTES", piece)
        call = f"read_csv('{path}', delim => ',', all_varchar => true)"
        assert db.sql(f"SELECT * FROM {call}").fetchall() == wanted


@pytest.mark.parametrize("text", ['a,b\n1,"x\n2,y\n', 'a,b\n1,x\n2,"y', 'a,b\n5",z\n1,"x\n\ny,z\n'])
def test_a_quote_that_is_not_closed_is_an_error(db: eventdb.Database, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UsageError, match=r"x.csv': a quote is not closed, in the row that starts with '(1,\"x|2,\"y)"):
        db.sql(f"SELECT * FROM '{tmp_path}/x.csv'").fetchall()


def test_more_lines_are_skipped_than_there_are(db: eventdb.Database, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(BindError, match=r"x\.csv"):
        db.sql(f"SELECT * FROM read_csv('{tmp_path}/x.csv', skip => 9223372036854775807)")
    with pytest.raises(BindError, match=r"x\.csv' is not punycode"):
        db.sql(f"SELECT * FROM read_csv('{tmp_path}/x.csv', encoding => 'punycode')")
