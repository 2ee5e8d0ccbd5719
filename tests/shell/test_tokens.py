"""The tokens cover the text; statements end where the SQL says, not where a semicolon stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb_shell.statements import all_statements, is_blank, is_complete, split_statements
from eventdb_shell.tokens import tokenize

SQL_PIECES = st.sampled_from(
    ["select", " ", "'a;b'", '"x;y"', "--c;\n", "/* ; */", ";", "1.5e3", ",", "'", '"', "/*", "é", "\n"]
)


@given(st.one_of(st.text(), st.lists(SQL_PIECES).map("".join)))
def test_tokens_join_to_the_text_and_know_their_place(text: str) -> None:
    tokens = tokenize(text)
    assert "".join(token.text for token in tokens) == text
    assert all(text[token.start : token.stop] == token.text for token in tokens)


@given(st.lists(SQL_PIECES).map("".join))
def test_splitting_a_text_in_two_steps_gives_the_same_statements(text: str) -> None:
    whole, rest = split_statements(text)
    again, rest_again = split_statements(rest)
    assert not again
    assert rest_again == rest
    assert all(s.text in text for s in whole)


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"], ""),
        ("SELECT ';' ; x", ["SELECT ';'"], " x"),
        ("SELECT 'it''s; fine';", ["SELECT 'it''s; fine'"], ""),
        ('SELECT "a;b" FROM t;', ['SELECT "a;b" FROM t'], ""),
        ("-- no; statement\nSELECT 1;", ["SELECT 1"], ""),
        ("/* a; /* nested; */ b */ SELECT 1;", ["SELECT 1"], ""),
        (";;;", [], ""),
        ("SELECT 'open;", [], "SELECT 'open;"),
        ("SELECT 1 -- end;", [], "SELECT 1 -- end;"),
    ],
)
def test_only_a_semicolon_outside_strings_and_comments_ends_a_statement(
    text: str, statements: list[str], rest: str
) -> None:
    found, left = split_statements(text)
    assert [s.text for s in found] == statements
    assert left == rest


def test_a_doubled_quote_belongs_to_its_string() -> None:
    assert [t.text for t in tokenize("'it''s' \"a\"\"b\"")] == ["'it''s'", " ", '"a""b"']


def test_a_statement_knows_the_line_it_begins_on() -> None:
    assert [(s.text, s.line) for s in all_statements("a;\n\n b\n;\nc")] == [("a", 1), ("b", 3), ("c", 5)]


def test_the_last_statement_needs_no_semicolon_even_behind_a_comment() -> None:
    assert [s.text for s in all_statements("SELECT 1 -- one")] == ["SELECT 1 -- one"]
    assert [s.text for s in all_statements("SELECT 'open")] == ["SELECT 'open"]
    assert all_statements("  -- nothing\n") == []


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", True),
        ("   \n", True),
        (".help", True),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT 1; -- done", True),
        ("SELECT ';", False),
        ("SELECT 1; SELECT 2", False),
        ("/* open ;", False),
    ],
)
def test_enter_runs_only_what_is_complete(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


def test_blank_means_space_and_closed_comments() -> None:
    assert is_blank(" /* a */ -- b\n ")
    assert not is_blank("/* a")
    assert not is_blank(";")
