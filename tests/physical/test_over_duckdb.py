"""Analytic functions against DuckDB: generated rows, full of NULLs, under generated windows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventdb
from eventdb.errors import EvaluationError
from eventdb.physical import over_aggregates
from tests.physical.duckdb_pair import FIXED, START, Rows, agree, databases, stored, tables

NULLS = st.sampled_from([" ASC NULLS FIRST", " ASC NULLS LAST", " DESC NULLS FIRST", " DESC NULLS LAST"])
PARTITIONS = st.sampled_from(["", "PARTITION BY g", "PARTITION BY h, g", "PARTITION BY x"])
EXCLUDES = st.sampled_from(["", "", " EXCLUDE CURRENT ROW", " EXCLUDE GROUP", " EXCLUDE TIES", " EXCLUDE NO OTHERS"])
PEERED = [
    "count(*)",
    "count(s)",
    "sum(i)",
    "sum(d)",
    "sum(x)",
    "avg(i)",
    "avg(d)",
    "avg(x)",
    "min(x)",
    "max(x)",
    "min(s)",
    "max(s)",
    "min(t)",
    "max(d)",
    "bool_and(h > 1)",
    "bool_or(h > 1)",
    "bit_xor(h)",
    "bit_and(h)",
    "bit_or(h)",
    "product(h)",
    "var_pop(x)",
    "var_samp(h)",
    "stddev_samp(d)",
    "count(DISTINCT g)",
    "sum(DISTINCT h)",
    "median(x)",
    "quantile_disc(h, 0.3)",
    "quantile_cont(d::DOUBLE, 0.7)",
    "covar_pop(x, h)",
    "mad(h)",
    "regr_count(h, x)",
    "entropy(s)",
]
"""They give the same for all rows of a group of peers."""
RANKS = ["row_number()", "rank()", "dense_rank()", "percent_rank()", "cume_dist()", "ntile(3)", "ntile(h * h + 1)"]
PICKS = ["first_value(s)", "last_value(x)", "nth_value(h, 2)", "first_value(x IGNORE NULLS)", "nth_value(x, h)",
         "last_value(s IGNORE NULLS)", "nth_value(g, 3 IGNORE NULLS)", "first(h)", "last(s)", "any_value(x)",
         "string_agg(s, '-')", "arg_min(s, i)", "mode(g)", "arg_max(o, h)"]  # fmt: skip
SHIFTS = [
    "lag(s)",
    "lead(x)",
    "lag(h, 2)",
    "lead(h, 2, -1)",
    "lag(x, h)",
    "lead(g IGNORE NULLS)",
    "lag(x, 2 IGNORE NULLS)",
    "lag(d, 1, 0)",
    "lead(s, 1, g)",
]


@st.composite
def bounds(draw: st.DrawFn, offsets: st.SearchStrategy[str]) -> str:
    """BETWEEN ... AND ..., the end not before the start."""
    places = ["UNBOUNDED PRECEDING", "{} PRECEDING", "CURRENT ROW", "{} FOLLOWING", "UNBOUNDED FOLLOWING"]
    first = draw(st.integers(0, 3))
    last = draw(st.integers(max(first, 1), 4))
    return f"BETWEEN {places[first].format(draw(offsets))} AND {places[last].format(draw(offsets))}"


WHOLE = st.integers(0, 4).map(str)


@st.composite
def windows(draw: st.DrawFn, unique: bool) -> str:
    """A window; with `unique` its order leaves no peers, so that every function has one answer."""
    partition = draw(PARTITIONS)
    kind = draw(st.sampled_from(["none", "rows", "groups", "range", "offsets"]))
    if unique:
        keys = [f"{c}{draw(NULLS)}" for c in draw(st.lists(st.sampled_from("hxst"), max_size=2))] + ["o"]
    elif kind == "offsets":
        column, offsets = draw(
            st.sampled_from(
                [("h", WHOLE), ("x", st.sampled_from(["0", "1.5", "1e6"])), ("d", st.sampled_from(["0", "1.25", "3"])),
                 ("t", st.sampled_from(["INTERVAL '0 hours'", "INTERVAL '15 hours'", "INTERVAL '1 month'"]))]
            )
        )  # fmt: skip
        return f"{partition} ORDER BY {column}{draw(NULLS)} RANGE {draw(bounds(offsets))}{draw(EXCLUDES)}"
    else:
        keys = [f"{c}{draw(NULLS)}" for c in draw(st.lists(st.sampled_from("hxstg"), max_size=2))]
    order = f"ORDER BY {', '.join(keys)}" if keys else ""
    if kind == "rows" and unique:
        edges = draw(bounds(st.one_of(WHOLE, st.just("coalesce(h * h, 1)"))))
        return f"{partition} {order} ROWS {edges}{draw(EXCLUDES)}"
    if kind == "groups" and order:
        return f"{partition} {order} GROUPS {draw(bounds(WHOLE))}{draw(EXCLUDES)}"
    if kind == "range":
        start = draw(st.sampled_from(["UNBOUNDED PRECEDING", "CURRENT ROW"]))
        end = draw(st.sampled_from(["CURRENT ROW", "UNBOUNDED FOLLOWING"]))
        return f"{partition} {order} RANGE BETWEEN {start} AND {end}{draw(EXCLUDES)}"
    return f"{partition} {order}"


@st.composite
def calls(draw: st.DrawFn) -> str:
    unique = draw(st.booleans())
    functions = [*PEERED, *RANKS, *SHIFTS, *PICKS] if unique else [*PEERED, "rank()", "dense_rank()", "cume_dist()"]
    function = draw(st.sampled_from(functions))
    window = draw(windows(unique))
    if function in PEERED and draw(st.integers(0, 4)) == 0:
        function += " FILTER (WHERE h >= 1)"
    return f"{function} OVER ({window})"


@given(tables(), st.lists(calls(), min_size=1, max_size=5))
def test_every_analytic_function_agrees_with_duckdb(rows: Rows, chosen: list[str]) -> None:
    agree(rows, "SELECT o, " + ", ".join(chosen) + " FROM {e} ORDER BY o")


@given(tables(), calls(), st.sampled_from(["h > 0", "g = 'a'", "s IS NULL", "x >= 0"]))
def test_a_filter_over_a_window_keeps_the_rows_of_duckdb(rows: Rows, call: str, condition: str) -> None:
    """Also where the filter can move below the window: its columns are what it is partitioned by."""
    agree(rows, f"SELECT * FROM (SELECT o, g, h, s, x, {call} AS w FROM {{e}}) WHERE {condition} ORDER BY o")


@given(tables(), st.integers(0, 3))
def test_windows_over_groups_and_qualify_agree_with_duckdb(rows: Rows, most: int) -> None:
    rank = "rank() OVER (ORDER BY sum(i) DESC NULLS LAST, count(*))"
    columns = f"g, sum(i), {rank} AS r, sum(sum(h)) OVER ()"
    agree(rows, f"SELECT {columns} FROM {{e}} GROUP BY g QUALIFY r <= {most} ORDER BY g, r")
    windows = "WINDOW v AS (PARTITION BY g), w AS (v ORDER BY x, o)"
    condition = f"n <= {most} AND count(*) OVER v > 1"
    agree(rows, f"SELECT o, row_number() OVER w AS n FROM {{e}} {windows} QUALIFY {condition} ORDER BY o")


BETWEEN = [
    "UNBOUNDED PRECEDING AND {a} PRECEDING",
    "{b} PRECEDING AND {a} PRECEDING",
    "{a} PRECEDING AND CURRENT ROW",
    "{a} PRECEDING AND {b} FOLLOWING",
    "CURRENT ROW AND {a} FOLLOWING",
    "{a} FOLLOWING AND {b} FOLLOWING",
    "{a} FOLLOWING AND UNBOUNDED FOLLOWING",
]


@pytest.mark.parametrize("frame", ["", *(f"ROWS BETWEEN {between.format(a=1, b=3)}" for between in BETWEEN)])
def test_every_function_agrees_with_duckdb_in_every_frame_of_rows(frame: str) -> None:
    exclude = {"": ""}.get(frame, " EXCLUDE TIES" if "FOLLOWING AND" in frame else " EXCLUDE CURRENT ROW")
    for window in (f"PARTITION BY g ORDER BY h NULLS FIRST, o {frame}", f"ORDER BY o {frame}{exclude}"):
        columns = ", ".join(f"{f} OVER ({window})" for f in [*PEERED, *RANKS, *SHIFTS, *PICKS])
        agree(FIXED, f"SELECT o, {columns} FROM {{e}} ORDER BY o")


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("exclude", ["", "EXCLUDE CURRENT ROW", "EXCLUDE GROUP", "EXCLUDE TIES"])
def test_frames_of_ranges_and_groups_agree_with_duckdb_at_every_bound(between: str, exclude: str) -> None:
    near, far = "INTERVAL '2 hours'", "INTERVAL '9 hours'"
    columns = []
    for way in (" NULLS FIRST", " NULLS LAST", " DESC NULLS FIRST", " DESC NULLS LAST"):
        for partition in ("", "PARTITION BY g"):
            for key, a, b in (("h", "1", "3"), ("x", "0.25", "2"), ("d", "0.75", "2.5"), ("t", near, far)):
                edges = between.format(a=a, b=b)
                columns.append(f"sum(o) OVER ({partition} ORDER BY {key}{way} RANGE BETWEEN {edges} {exclude})")
            edges = between.format(a=1, b=2)
            columns.append(f"count(x) OVER ({partition} ORDER BY h{way} GROUPS BETWEEN {edges} {exclude})")
    agree(FIXED, f"SELECT o, {', '.join(columns)} FROM {{e}} ORDER BY o")


def test_long_partitions_take_the_same_sums_as_short_ones() -> None:
    """Running folds go another way in partitions of more rows than frame_folds._LONG."""
    rows: Rows = [
        (o, "a" if o % 10 else "b", o % 7, o * 3 % 11, float(o % 13) - 3, Decimal(o % 5), "x", START)
        for o in range(2000)
    ]
    for frame in ("", "ROWS BETWEEN 10 PRECEDING AND 3 FOLLOWING", "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"):
        functions = ["sum(x)", "min(x)", "max(h)", "sum(i)", "var_samp(x)", "count(*)"]
        columns = ", ".join(f"{f} OVER (PARTITION BY g ORDER BY o {frame})" for f in functions)
        agree(rows, f"SELECT o, {columns} FROM {{e}} ORDER BY o")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ntile(h - 9) OVER (ORDER BY o)", "ntile\\(\\) needs a positive number"),
        ("sum(i) OVER (ORDER BY o ROWS h - 9 PRECEDING)", "must not be negative"),
        ("sum(i) OVER (ORDER BY o ROWS nullif(h, 2) PRECEDING)", "is NULL"),
        ("sum(h + 9223372036854775800) OVER (ORDER BY o)", "sum overflow: .* is outside the range of BIGINT"),
    ],
)
def test_a_value_that_breaks_a_window_is_named(call: str, message: str) -> None:
    rows: Rows = [(o, "a", o, 0, 0.0, Decimal(0), "x", START) for o in (1, 2, 3)]
    with pytest.raises(EvaluationError, match=message):
        databases()[0].sql(f"SELECT {call} FROM {stored(rows)}").fetchall()


@pytest.mark.parametrize("call", ["median(i)", "count(DISTINCT i)", "arg_max(i, i)"])
def test_frames_that_are_written_out_take_a_share_of_the_memory_limit(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregate, written = over_aggregates.aggregate_rows, list[int]()

    def note(aggregation: Any, columns: list[Any], ids: Any, count: int) -> Any:
        written.append(len(ids))
        return aggregate(aggregation, columns, ids, count)

    monkeypatch.setattr(over_aggregates, "aggregate_rows", note)
    sql = f"SELECT {call} OVER (ORDER BY i) FROM t"
    with eventdb.open(":memory:") as db:
        db.sql("CREATE TOPIC t (i BIGINT)")
        db.topic("t").append_many([{"i": i} for i in range(2_000)])
        expected = db.sql(sql).fetchall()
        written.clear()
        db.sql("SET memory_limit = '4MB'")
        assert db.sql(sql).fetchall() == expected
    assert sum(written) == 2_000 * 2_001 // 2
    assert max(written) * 80 <= (1 << 20) + 2_000 * 80  # a quarter of the limit, and one frame
