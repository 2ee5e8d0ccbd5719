"""Text to tokens and trees: splitting, limits, and the rewrites before sqlglot's parser."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import EventDBError, InternalError, ParseError, QueryError, UsageError
from eventdb.sql.parser import parse, split
from tests.sql.tables import bound, explain


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;; ", []),
        ("-- only a comment\n", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';'; SELECT \";\"", ["SELECT ';'", 'SELECT ";"']),
        ("SELECT 'it''s; fine'; x", ["SELECT 'it''s; fine'", "x"]),
        ("SELECT 1 -- a; b\n; SELECT 2", ["SELECT 1 -- a; b", "SELECT 2"]),
        ("SELECT /* ; */ 1; SELECT 2", ["SELECT /* ; */ 1", "SELECT 2"]),
        ("SELECT $$a;b$$; SELECT $q$;$$;$q$", ["SELECT $$a;b$$", "SELECT $q$;$$;$q$"]),
        ("SELECT $1; SELECT $2", ["SELECT $1", "SELECT $2"]),
        ("SELECT 'open; SELECT 2", ["SELECT 'open; SELECT 2"]),
    ],
)
def test_split_respects_quotes_comments_and_dollar_quotes(text: str, statements: list[str]) -> None:
    assert split(text) == statements


@given(st.lists(st.sampled_from(["SELECT 1", "'a;b'", '"c;d"', "x -- ;\n", "/*;*/ y", "$t$;$t$"]), max_size=6))
def test_split_finds_every_statement_it_was_joined_from(pieces: list[str]) -> None:
    assert split(";".join(pieces)) == [piece.strip() for piece in pieces]


def outcome(sql: str) -> str:
    """'bound', or 'refused' with an error about the statement; 'bug' for an InternalError."""
    try:
        bound(sql)
    except InternalError:
        return "bug"
    except EventDBError:
        return "refused"
    return "bound"


@given(st.text(max_size=60))
def test_any_text_is_a_statement_or_a_typed_error(text: str) -> None:
    assert outcome(text) in ("bound", "refused")


@given(
    st.lists(
        st.sampled_from(
            """SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT
            ( ) , * readings device temp n ts count ( max AS a 1 2.5 'x'
            AND OR NOT IN BETWEEN CASE WHEN THEN ELSE END IS NULL + - / = < JOIN ON USING UNION ALL VALUES INTERVAL 5m
            TUMBLE EMIT ON UPDATE $p ? :: INTEGER DISTINCT FILTER OVER WITH . [ ] LIKE ESCAPE CAST""".split()
        ),
        max_size=14,
    )
)
def test_any_words_are_a_statement_or_a_typed_error(words: list[str]) -> None:
    assert outcome("SELECT " + " ".join(words)) in ("bound", "refused")


@pytest.mark.parametrize(
    ("sql", "message", "line", "column"),
    [
        ("", "empty", 0, 0),
        (" ; ", "empty", 0, 0),
        ("SELECT 1;\nSELECT 2", "one statement at a time", 1, 9),
        ("SELECT a\0b", "NUL", 1, 9),
        ("SELECT 'abc", "string is not closed", 1, 8),
        ("SELECT\n  'abc", "string is not closed", 2, 3),
        ('SELECT "abc', "quoted name is not closed", 1, 8),
        ("SELECT /* abc", "comment is not closed", 1, 8),
        ("SELECT (1", "bracket is not closed", 1, 8),
        ("SELECT 1)", "no bracket is open", 1, 9),
        ("SELECT (1]", "no bracket is open", 1, 10),
        ("SELEC 1", "did you mean SELECT?", 1, 1),
        ("SELECT 1 2 3", "syntax error at '2'", 1, 10),
        ("SELECT 0x1F", "'0x1F' is not a number", 1, 8),
        ("SELECT a FROM readings WHERE", "syntax error", 1, 24),
        ("SELECT * FROM", "syntax error at 'FROM': expected table name$", 1, 10),
    ],
)
def test_a_syntax_error_says_what_and_where(sql: str, message: str, line: int, column: int) -> None:
    with pytest.raises(ParseError, match="(?m)" + message.replace("?", r"\?")) as caught:
        bound(sql)
    assert "Token" not in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_the_error_shows_the_line_and_a_caret() -> None:
    with pytest.raises(QueryError) as caught:
        bound("SELECT device,\n       tmp\nFROM readings")
    assert str(caught.value) == ("no column tmp; did you mean temp?\nline 2, column 8:\n         tmp\n         ^")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
        "SELECT " + "NOT " * 10_000 + "TRUE",
        "SELECT " + "1 + " * 10_000 + "1",
        "SELECT " + "CASE WHEN TRUE THEN " * 3_000 + "1" + " END" * 3_000,
        "SELECT " + "abs(" * 250 + "1" + ")" * 250,
        "SELECT " + "x" * (1 << 20),
    ],
    ids=["brackets", "not", "plus", "case", "calls", "long"],
)
def test_deep_or_long_statements_are_typed_errors(sql: str) -> None:
    with pytest.raises(QueryError):
        bound(sql)


def test_long_chains_and_lists_bind() -> None:
    bound("SELECT n FROM readings WHERE " + " OR ".join(f"n = {i}" for i in range(3_000)))
    bound("SELECT n FROM readings WHERE n IN (" + ", ".join(map(str, range(3_000))) + ")")
    bound("SELECT 1" + " UNION ALL SELECT 1" * 300)
    bound("SELECT " + "(" * 100 + "1" + ")" * 100)


def test_a_statement_must_be_text() -> None:
    with pytest.raises(UsageError, match="not int"):
        bound(5)  # type: ignore[arg-type]


def test_the_same_text_is_parsed_once() -> None:
    assert parse("SELECT 41 + 1") is parse("SELECT 41 + 1")


def test_words_that_look_like_functions_are_not() -> None:
    assert explain("WITH c (a, b) AS (SELECT n, temp FROM readings) SELECT * FROM c")[0] == "Project a, b"
    assert explain("SELECT * REPLACE (n + 1 AS n) FROM readings")[0].startswith("Project device, temp, (n + 1) AS n")


def test_importing_eventdb_does_not_import_sqlglot() -> None:
    code = "import eventdb, sys; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
