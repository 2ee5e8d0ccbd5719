"""Result: every way to take the rows, and the values they hold."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from eventdb.batch import Column, RecordBatch
from eventdb.errors import UsageError
from eventdb.result import Result
from eventdb.schema import BIGINT, TIMESTAMP, VARCHAR, decimal_type


def result(sizes: tuple[int, ...] = (2, 0, 3)) -> Result:
    batches = []
    first = 0
    for size in sizes:
        numbers = np.arange(first, first + size)
        names = Column.encode(VARCHAR, [None if i == 1 else f"n{i}" for i in numbers.tolist()])
        batches.append(RecordBatch(["i", "name"], [Column(BIGINT, numbers), names]))
        first += size
    return Result(["i", "name"], [BIGINT, VARCHAR], batches)


ROWS = [(0, "n0"), (1, None), (2, "n2"), (3, "n3"), (4, "n4")]


def test_rows_come_once_in_order_however_they_are_fetched() -> None:
    assert result().fetchall() == ROWS
    assert list(result()) == ROWS
    mixed = result()
    assert [mixed.fetchone(), *mixed.fetchmany(2), *mixed.fetchall()] == ROWS
    assert mixed.fetchone() is None
    assert mixed.fetchmany(5) == mixed.fetchall() == []
    assert mixed.rowcount == len(mixed) == 5


def test_frames_hold_all_rows_even_after_fetching() -> None:
    shown = result()
    shown.fetchall()
    assert shown.arrow().to_pylist() == [{"i": i, "name": n} for i, n in ROWS]
    assert shown.pl().rows() == ROWS
    assert shown.df()["i"].tolist() == [0, 1, 2, 3, 4]
    assert sum(len(batch) for batch in shown.batches()) == 5


def test_other_engines_read_a_result_through_the_capsule() -> None:
    shown = result()
    assert pl.DataFrame(shown).rows() == ROWS
    assert pd.DataFrame.from_arrow(shown)["i"].sum() == 10
    assert duckdb.sql("SELECT sum(i) FROM shown").fetchall() == [(10,)]


def test_empty_results_keep_their_columns() -> None:
    empty = result(())
    assert empty.fetchall() == []
    assert empty.arrow().column_names == ["i", "name"]
    assert "(0 rows)" in empty.to_text()


def test_the_text_table_leaves_out_the_middle_and_counts() -> None:
    text = result((100,)).to_text(max_rows=4)
    assert "96 rows more" in text
    assert text.splitlines()[0].split() == ["i", "name"]
    assert "NULL" in text
    assert "n99" in text
    assert text.endswith("(100 rows)")


def test_html_is_escaped() -> None:
    batch = RecordBatch(["<b>"], [Column.encode(VARCHAR, ["<script>"])])
    html = Result(["<b>"], [VARCHAR], [batch])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_html_shows_both_ends_and_the_number_of_rows() -> None:
    html = result((100,))._repr_html_(max_rows=4)
    assert html.count("<tr>") == 1 + 4 + 1
    assert "96 rows more" in html
    assert "<p>100 rows</p>" in html
    assert all(f">n{i}<" in html for i in (0, 98, 99))
    assert ">n50<" not in html
    assert "NULL" in html
    assert "rows more" not in result((100,))._repr_html_(max_rows=100)
    assert "<p>1 row</p>" in result((1,))._repr_html_()
    assert Result([], [], [], rowcount=3)._repr_html_() == "<p>3 rows changed</p>"


def test_html_cuts_long_values_and_escapes_after() -> None:
    batch = RecordBatch(["x"], [Column.encode(VARCHAR, ["&" * 5000])])
    html = Result(["x"], [VARCHAR], [batch])._repr_html_()
    assert html.count("&amp;") == 199
    assert "…" in html


def test_values_are_python_values() -> None:
    columns = [Column(decimal_type(9, 2), np.array([-125])), Column(TIMESTAMP, np.array([1_704_067_200_000_000]))]
    rows = Result(["d", "t"], [c.type for c in columns], [RecordBatch(["d", "t"], columns)]).fetchall()
    assert rows == [(Decimal("-1.25"), dt.datetime(2024, 1, 1))]


def test_a_wrong_fetch_size_is_refused() -> None:
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(UsageError, match="row count"):
            result().fetchmany(wrong)  # type: ignore[arg-type]
