"""Rendering: golden texts, one mode each, and the promises that hold for any rows."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb_shell.render import MODES, Layout, format_interval, format_value, measure, shorten

NAMES = ["station", "n", "temp", "at"]
TYPES = ["VARCHAR", "BIGINT", "DOUBLE", "TIMESTAMP"]
ROWS = [
    ("EWR", 1, 39.02, dt.datetime(2013, 1, 1, 6)),
    ("JFK", 1200, None, dt.datetime(2013, 1, 1, 6, 0, 0, 500)),
    (None, -3, -0.5, None),
]


def drawn(mode: str, rows: object = ROWS, names: list[str] = NAMES, types: list[str] = TYPES, **layout: object) -> str:
    out = io.StringIO()
    MODES[mode](names, types, rows, out, Layout(**layout))  # type: ignore[arg-type]
    return out.getvalue()


def test_table_shows_types_null_and_numbers_to_the_right() -> None:
    assert drawn("table") == (
        "┌─────────┬────────┬────────┬────────────────────────────┐\n"
        "│ station │ n      │ temp   │ at                         │\n"
        "│ VARCHAR │ BIGINT │ DOUBLE │ TIMESTAMP                  │\n"
        "├─────────┼────────┼────────┼────────────────────────────┤\n"
        "│ EWR     │      1 │  39.02 │ 2013-01-01 06:00:00        │\n"
        "│ JFK     │   1200 │   NULL │ 2013-01-01 06:00:00.000500 │\n"
        "│ NULL    │     -3 │   -0.5 │ NULL                       │\n"
        "└─────────┴────────┴────────┴────────────────────────────┘\n"
        "3 rows\n"
    )


def test_table_in_ascii_where_the_terminal_has_no_boxes() -> None:
    text = drawn("table", [(1,)], ["a"], ["BIGINT"], ascii=True)
    assert text == "+--------+\n| a      |\n| BIGINT |\n+--------+\n|      1 |\n+--------+\n1 row\n"


def test_csv_tells_null_from_empty_and_quotes_what_needs_it() -> None:
    rows = [("a,b", None), ('say "hi"', ""), (" spaced ", "x\ny")]
    assert drawn("csv", rows, ["a", "b c"], ["VARCHAR", "VARCHAR"]) == (
        'a,b c\n"a,b",\n"say ""hi""",""\n" spaced ","x\ny"\n'
    )


def test_json_is_one_object_a_line_with_iso_times_and_no_nan() -> None:
    rows = [(float("nan"), Decimal("1.10"), dt.datetime(2013, 1, 1, 6), b"\x01", True, None, "é\n")]
    names = ["f", "d", "t", "b", "x", "n", "f"]
    text = drawn("json", rows, names, ["DOUBLE"] * 7)
    assert text == '{"f":"NaN","d":1.10,"t":"2013-01-01T06:00:00Z","b":"\\\\x01","x":true,"n":null,"f_1":"é\\n"}\n'
    assert json.loads(text)["b"] == "\\x01"


def test_line_mode_prints_a_column_a_line() -> None:
    assert drawn("line", ROWS[:2], ["s", "count", "t", "at"]) == (
        "    s = EWR\ncount = 1\n    t = 39.02\n   at = 2013-01-01 06:00:00\n\n"
        "    s = JFK\ncount = 1200\n    t = NULL\n   at = 2013-01-01 06:00:00.000500\n"
    )


def test_markdown_escapes_pipes_and_aligns_numbers() -> None:
    assert drawn("markdown", [("a|b", 1)], ["x", "n"], ["VARCHAR", "BIGINT"]) == (
        "| x | n |\n| --- | ---: |\n| a\\|b | 1 |\n"
    )


def test_wide_characters_keep_the_columns_straight() -> None:
    text = drawn("table", [("日本",), ("abc",)], ["name"], ["VARCHAR"])
    assert {measure(line) for line in text.splitlines()[:-1]} == {11}


def test_middle_rows_are_left_out_and_counted() -> None:
    lines = drawn("table", ((i,) for i in range(1000)), ["i"], ["BIGINT"], max_rows=4).splitlines()
    assert [line.strip("│ ") for line in lines[4:-2]] == ["0", "1", "·", "998", "999"]
    assert lines[-1] == "1,000 rows (4 shown)"


def test_all_rows_are_shown_when_they_just_fit() -> None:
    assert drawn("table", [(i,) for i in range(4)], ["i"], ["BIGINT"], max_rows=4).endswith("\n4 rows\n")


def test_long_values_are_cut_to_the_terminal() -> None:
    text = drawn("table", [("x" * 200, 7)], ["s", "n"], ["VARCHAR", "BIGINT"], width=40)
    assert {len(line) for line in text.splitlines()[:-1]} == {40}
    assert "…" in text
    assert "7" in text


def test_columns_in_the_middle_go_when_there_are_too_many() -> None:
    names = [f"c{i}" for i in range(50)]
    text = drawn("table", [tuple(range(50))], names, ["BIGINT"] * 50, width=60)
    assert max(measure(line) for line in text.splitlines()) <= 60
    assert "c0 " in text
    assert "c49" in text
    assert "of 50 columns shown" in text


def test_control_characters_cannot_reach_the_terminal() -> None:
    for mode in ("table", "line", "markdown"):
        text = drawn(mode, [("\x1b[31mred\n\x00\u202e",)], ["\x1b]0;t\x07"], ["VARCHAR"])
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (True, "true"),
        (1.0, "1.0"),
        (1e300, "1e+300"),
        (float("-inf"), "-Infinity"),
        (Decimal("1E+3"), "1000"),
        (dt.date(2013, 1, 2), "2013-01-02"),
        (b"\x00\xff", "\\x00ff"),
        (dt.timedelta(days=1, hours=2), "1 day 02:00:00"),
        (dt.timedelta(microseconds=-1500), "-00:00:00.0015"),
        (dt.timedelta(days=-2), "-2 days"),
        (dt.timedelta(0), "00:00:00"),
    ],
)
def test_values_are_written_as_sql_users_expect(value: object, text: str) -> None:
    assert format_value(value) == text


@given(st.timedeltas(dt.timedelta(days=-10000), dt.timedelta(days=10000)))
def test_an_interval_and_its_negative_differ_by_the_sign_only(value: dt.timedelta) -> None:
    if value:
        assert format_interval(value).replace("-", "") == format_interval(-value).replace("-", "")


@given(st.text(max_size=30), st.integers(1, 20))
def test_shortened_text_never_exceeds_its_cells(text: str, cells: int) -> None:
    assert measure(shorten(text, cells)) <= max(cells, 1)


CELLS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=8), st.floats(), st.booleans())


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_csv_and_json_give_every_row_back(rows: list[tuple[object, object]]) -> None:
    parsed = list(csv.reader(io.StringIO(drawn("csv", rows, ["a", "b"], ["VARCHAR", "VARCHAR"]), newline="")))
    assert parsed[1:] == [["" if v is None else format_value(v) for v in row] for row in rows]
    objects = [json.loads(line) for line in drawn("json", rows, ["a", "b"], ["VARCHAR"] * 2).split("\n")[:-1]]
    for found, row in zip(objects, rows, strict=True):
        for got, want in zip(found.values(), row, strict=True):
            assert got == (format_value(want) if isinstance(want, float) and want - want != 0 else want)


@given(st.lists(st.tuples(st.text(max_size=12), st.integers()), max_size=5), st.integers(20, 80))
def test_every_line_of_a_table_is_equally_wide_and_fits(rows: list[tuple[str, int]], width: int) -> None:
    lines = drawn("table", rows, ["text", "number"], ["VARCHAR", "BIGINT"], width=width).splitlines()
    widths = {measure(line) for line in lines[:-1]}
    assert len(widths) == 1
    assert widths.pop() <= width
