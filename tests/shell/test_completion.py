"""Completion: a pure function of text, cursor (marked | here) and catalog."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb_shell.completion import Candidate, Catalog, complete, quote_name

CATALOG = Catalog(
    tables={
        "weather": (("station", "VARCHAR"), ("time", "TIMESTAMP"), ("temp", "DOUBLE")),
        "sensors": (("id", "VARCHAR"), ("site name", "VARCHAR")),
        "daily": (("day", "TIMESTAMP"), ("mean", "DOUBLE")),
    },
    views=frozenset({"daily"}),
    functions={"avg": "mean", "abs": "absolute value", "stddev": "spread"},
    commands={".mode": "how rows are printed", ".help": "this list", ".schema": "columns", ".timer": "time"},
    modes=("table", "csv"),
)


def offered(marked: str) -> list[str]:
    return [found.text for found in found_at(marked)]


def found_at(marked: str) -> list[Candidate]:
    cursor = marked.index("|")
    return complete(marked.replace("|", "", 1), cursor, CATALOG)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("SELECT * FROM |", ["weather", "sensors", "daily"]),
        ("SELECT * FROM we|", ["weather"]),
        ("select * from weather join s|", ["sensors"]),
        ("SELECT * FROM weather, s|", ["sensors"]),
        ("SELECT * FROM TUMBLE(|", ["weather", "sensors", "daily"]),
        ("INSERT INTO se|", ["sensors"]),
        ("SELECT * FROM weather ORDER BY temp, sta|", ["station", "start"]),
        ("SELECT abs(temp, sta| FROM weather", ["station", "start"]),
        ("SUBSCRIBE TO da|", ["daily"]),
        ("DESCRIBE w|", ["weather"]),
        ("SELECT w.| FROM weather w", ["station", "time", "temp"]),
        ("SELECT w.t| FROM weather AS w", ["time", "temp"]),
        ("SELECT weather.st| FROM weather", ["station"]),
        ("SELECT s.| FROM sensors s", ["id", '"site name"']),
        ("SELECT nobody.| FROM weather w", []),
        ("SELECT stat| FROM weather", ["station"]),
        ("SELECT st| FROM weather", ["station", "stddev(", "start"]),
        ("SELECT st|", ["stddev(", "start"]),
        ("SELECT 1; SELECT * FROM weather WHERE te|", ["temp"]),
        ("SELECT * FROM sensors; SELECT te| ", []),
        ("SEL|", ["SELECT"]),
        ("sel|", ["select"]),
        ("create m|", ["materialized"]),
        ("CRE|", ["CREATE TOPIC", "CREATE MATERIALIZED VIEW"]),
        ("SELECT 1; DES|", ["DESCRIBE"]),
        ("SELECT 'fr|", []),
        ("SELECT 1 -- fr|", []),
        ("SELECT 1 /* fr|", []),
        ('SELECT "si| FROM sensors', []),
        ('SELECT * FROM sensors WHERE "si|', ['"site name"']),
        ("SELECT 5m|", []),
        (".mo|", [".mode"]),
        (".mode c|", ["csv"]),
        (".schema da|", ["daily"]),
        (".timer o|", ["on", "off"]),
    ],
)
def test_what_is_offered_depends_on_the_words_before_the_cursor(marked: str, expected: list[str]) -> None:
    assert offered(marked) == expected


def test_a_candidate_replaces_the_word_under_the_cursor() -> None:
    (found,) = found_at("SELECT * FROM wea|")
    assert (found.start, found.kind, found.detail) == (14, "topic", "station, time, temp")
    (view,) = found_at("SELECT * FROM dai|")
    assert view.kind == "view"


def test_columns_come_before_functions_and_keywords() -> None:
    kinds = [found.kind for found in found_at("SELECT | FROM weather")]
    order = ["column", "function", "keyword", "topic", "view"]
    assert sorted(kinds, key=order.index) == kinds
    assert {"column", "function", "keyword"} <= set(kinds)


def test_system_columns_are_offered_where_a_topic_is_named() -> None:
    assert offered("SELECT _o| FROM weather") == ["_offset"]


QUOTED = [("weather", "weather"), ("site name", '"site name"'), ("order", '"order"'), ('a"b', '"a""b"'), ("1x", '"1x"')]


@pytest.mark.parametrize(("name", "written"), QUOTED)
def test_names_are_quoted_only_when_they_must_be(name: str, written: str) -> None:
    assert quote_name(name) == written


@given(st.text(alphabet="selct from w.,()'\";-/*|_5é\n", max_size=40), st.integers(0, 40))
def test_any_text_and_cursor_gives_candidates_that_fit(text: str, cursor: int) -> None:
    cursor = min(cursor, len(text))
    for found in complete(text, cursor, CATALOG):
        prefix = text[found.start : cursor].lower().lstrip('"')
        assert found.text.lower().lstrip('"').startswith(prefix)
