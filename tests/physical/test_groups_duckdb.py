"""Grouping sets, aggregates over whole groups, DISTINCT ON and ORDER BY against DuckDB, on rows full of NULLs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import BindError, EvaluationError
from tests.physical.duckdb_pair import FIXED, Rows, agree, databases, stored, tables

AGGREGATES = [
    "median(x)",
    "median(h)",
    "median(t)",
    "median(s)",
    "quantile_cont(x, 0.3)",
    "quantile_cont(h, 0.75)",
    "quantile_disc(s, 0.4)",
    "quantile_disc(d, 0.0)",
    "quantile(t, 1.0)",
    "percentile_cont(0.25) WITHIN GROUP (ORDER BY x DESC)",
    "percentile_disc(0.6) WITHIN GROUP (ORDER BY h)",
    "mode(h ORDER BY h)",
    "mode() WITHIN GROUP (ORDER BY s)",
    "string_agg(s, '|' ORDER BY o)",
    "string_agg(s ORDER BY s DESC NULLS LAST, o)",
    "string_agg(DISTINCT s, ',' ORDER BY s)",
    "group_concat(s, ';' ORDER BY x NULLS FIRST, o DESC)",
    "first(x ORDER BY o DESC)",
    "last(s ORDER BY h NULLS FIRST, o)",
    "any_value(h ORDER BY o)",
    "arg_min(o, x + o)",
    "max_by(s, o)",
    "arg_max_null(h, o)",
    "bit_and(h)",
    "bit_or(i)",
    "bit_xor(h)",
    "product(h)",
    "product(x)",
    "covar_pop(x, h)",
    "covar_samp(x, h)",
    "regr_count(x, h)",
    "regr_avgx(x, h)",
    "regr_avgy(x, h)",
    "regr_sxx(x, h)",
    "regr_syy(x, h)",
    "regr_sxy(x, h)",
    "sum(d)",
    "avg(d)",
    "sum(DISTINCT d)",
    "count(DISTINCT s)",
    "count(DISTINCT x)",
    "sum(h > 1)",
    "mad(x)",
    "sem(x)",
    "entropy(h)",
    "stddev_pop(h)",
    "var_samp(DISTINCT h)",
    "median(DISTINCT x)",
]
GROUPINGS = [
    "GROUP BY g",
    "GROUP BY ALL",
    "GROUP BY ROLLUP (g, h)",
    "GROUP BY CUBE (g, h)",
    "GROUP BY GROUPING SETS ((g, h), (g), ())",
    "GROUP BY GROUPING SETS ((), ())",
    "GROUP BY g, ROLLUP (h, s)",
    "GROUP BY CUBE (g, (h, s))",
    "GROUP BY GROUPING SETS (ROLLUP (g, h), CUBE (s))",
    "GROUP BY ()",
]


@given(
    tables(),
    st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=6, unique=True),
    st.sampled_from(["", "", " FILTER (WHERE h > 0)"]),
    st.sampled_from(["", "g", "g, h"]),
)
def test_aggregates_of_whole_groups_agree_with_duckdb(rows: Rows, chosen: list[str], keep: str, keys: str) -> None:
    columns = ", ".join(f"{aggregate}{keep}" for aggregate in chosen)
    if keys:
        agree(rows, f"SELECT {keys}, {columns} FROM {{e}} GROUP BY {keys} ORDER BY {keys}")
    else:
        agree(rows, f"SELECT {columns} FROM {{e}}")


@pytest.mark.parametrize("keep", ["", " FILTER (WHERE h > 0)"])
@pytest.mark.parametrize("keys", ["", "g", "g, h"])
def test_every_aggregate_agrees_with_duckdb(keep: str, keys: str) -> None:
    columns = ", ".join(f"{aggregate}{keep}" for aggregate in AGGREGATES)
    select = f"{keys}, {columns}" if keys else columns
    agree(FIXED, f"SELECT {select} FROM {{e}}" + (f" GROUP BY {keys} ORDER BY {keys}" if keys else ""))


@pytest.mark.parametrize("grouping", GROUPINGS[2:-1])
def test_every_grouping_set_agrees_with_duckdb(grouping: str) -> None:
    names = [name for name in "ghs" if re.search(rf"\b{name}\b", grouping)]
    bits = [f"GROUPING({', '.join(names)})", f"GROUPING({', '.join(names[::-1])})"] if names else []
    columns = [*names, *bits, "count(*)", "sum(o)", "string_agg(s, '' ORDER BY o)", "count(DISTINCT x)"]
    order = ", ".join(str(i + 1) for i in range(len(columns)))
    agree(FIXED, f"SELECT {', '.join(columns)} FROM {{e}} {grouping} ORDER BY {order}")


@given(tables(), st.sampled_from(GROUPINGS), st.sampled_from(["", "HAVING count(*) > 1", "HAVING GROUPING(g) = 1"]))
def test_grouping_sets_agree_with_duckdb(rows: Rows, grouping: str, having: str) -> None:
    names = [name for name in "ghs" if f"{name}," in grouping or f"{name})" in grouping or grouping.endswith(name)]
    names = ["g"] if "ALL" in grouping else names
    if "g" not in names:
        having = having if "GROUPING" not in having else ""
    bits = [f"GROUPING({name})" for name in names] + [f"GROUPING({', '.join(names)})"] if names else []
    columns = [*names, "count(*)", "sum(i)", "count(DISTINCT x)", "max(s)", "median(d::DOUBLE)"]
    order = ", ".join(str(i + 1) for i in range(len(columns) + (0 if "ALL" in grouping else len(bits))))
    columns += [] if "ALL" in grouping else bits
    agree(rows, f"SELECT {', '.join(columns)} FROM {{e}} {grouping} {having} ORDER BY {order}")


KEYS = st.lists(st.sampled_from(["g", "h", "x", "s", "h % 2", "-h", "d"]), min_size=1, max_size=2, unique=True)
DIRECTIONS = st.sampled_from([" NULLS FIRST", " NULLS LAST", " DESC NULLS FIRST", " DESC NULLS LAST"])


@given(tables(), KEYS, DIRECTIONS, st.data())
def test_distinct_on_keeps_the_row_duckdb_keeps(rows: Rows, on: list[str], way: str, data: st.DataObject) -> None:
    order = ", ".join(f"{key}{data.draw(DIRECTIONS)}" for key in on)
    agree(rows, f"SELECT DISTINCT ON ({', '.join(on)}) g, o, x FROM {{e}} ORDER BY {order}, s{way}, o")


@given(tables(), KEYS, st.integers(0, 10), st.integers(0, 6), st.data())
def test_order_by_any_expression_agrees_with_duckdb(
    rows: Rows, keys: list[str], limit: int, skip: int, data: st.DataObject
) -> None:
    order = ", ".join(f"{key}{data.draw(DIRECTIONS)}" for key in keys)
    tail = f"{order}, alias DESC NULLS LAST, o LIMIT {limit} + 1 OFFSET {skip}"
    agree(rows, f"SELECT s AS alias, x + 1 FROM {{e}} ORDER BY {tail}")
    agree(rows, f"SELECT o FROM {{e}} ORDER BY {order}, o LIMIT {limit * 10}%")


def test_star_takes_exclude_replace_and_rename_as_in_duckdb() -> None:
    rows: Rows = [(0, "a", 1, 2, 0.5, 1, "x", None), (1, None, None, 3, 1.5, 2, "y", None)]
    for columns in (
        "* EXCLUDE (t, d)",
        "* EXCLUDE (t, d) REPLACE (h + 1 AS h)",
        "* EXCLUDE (t, d) REPLACE (h + 1 AS h) RENAME (g AS gg)",
        "COLUMNS('[gh]')",
        "min(COLUMNS('[hix]')), max(COLUMNS('[hix]')) + 1",
        "COLUMNS(* EXCLUDE (t, d, s, g)) + 1",
        "o, x AS y, y + 1 AS z, z * 2,",
    ):
        agree(rows, f"SELECT {columns} FROM {{e}} {'' if 'min' in columns else 'ORDER BY o'}")
        db, connection = databases()
        query = f"SELECT {columns} FROM {stored(rows)}"
        if "(COLUMNS" not in columns and "COLUMNS(* EXCLUDE" not in columns and "," not in columns[-1]:
            assert db.sql(query).columns == [name for name, *_ in connection.execute(query).description or []]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("h FROM {e} GROUP BY ROLLUP (g)", "column 'h' must be in GROUP BY"),
        ("GROUPING(h) FROM {e} GROUP BY g", "not in GROUP BY"),
        ("GROUPING(g) FROM {e}", "not in GROUP BY"),
        ("quantile_cont(x, 1.5) FROM {e}", "constant between 0 and 1"),
        ("string_agg(s, g) FROM {e}", "separator of string_agg\\(\\) must be a constant"),
        ("string_agg(DISTINCT s, ',' ORDER BY o) FROM {e}", "ORDER BY must name the argument"),
        ("percentile_cont(0.5) FROM {e}", "WITHIN GROUP"),
        ("sum(x) IGNORE NULLS FROM {e}", "skips NULLs anyway"),
        ("g FROM {e} ORDER BY 'g'", "a constant changes nothing"),
        ("g FROM {e} ORDER BY 2", "the select list has 1 columns"),
        ("g FROM {e} QUALIFY g = 'a'", "QUALIFY is for window functions"),
        ("g FROM {e} LIMIT -1", "must not be negative"),
        ("g FROM {e} LIMIT 101%", "between 0 and 100"),
        ("* RENAME (nothing AS n) FROM {e}", "no column nothing"),
        ("COLUMNS('q.*') FROM {e}", "no column matches"),
        ("sum(x) OVER (ORDER BY g, h RANGE 1 PRECEDING) FROM {e}", "RANGE with an offset needs one ORDER BY"),
        ("sum(x) OVER nothing FROM {e}", "no window 'nothing'"),
        ("sum(x) OVER (w ORDER BY h) FROM {e} WINDOW w AS (ORDER BY g)", "has an ORDER BY already"),
        ("lag(x) FILTER (WHERE h > 1) OVER (ORDER BY o) FROM {e}", "FILTER is for aggregates"),
        ("rank() OVER (ORDER BY sum(count(*)) OVER ()) FROM {e}", "not allowed in a window function"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(select: str, message: str) -> None:
    with pytest.raises(BindError, match=message):
        databases()[0].sql(f"SELECT {select}".replace("{e}", stored([])))


def test_a_decimal_sum_is_exact_and_says_when_it_leaves_its_digits() -> None:
    db, _ = databases()
    total = "SELECT sum(x) FROM (VALUES (CAST('9999999999999.9999' AS DECIMAL(18,4))), (0.0001)) v(x)"
    assert str(db.sql(total).fetchall()[0][0]) == "10000000000000.0000"
    half = "SELECT avg(x) FROM (VALUES (CAST('0.1' AS DECIMAL(2,1))), (0.2)) v(x)"
    assert db.sql(half).fetchall()[0][0] == 0.15
    wide = "SELECT sum(x) FROM (VALUES (CAST('999999999999999999' AS DECIMAL(18,0))), (1)) v(x)"
    assert db.sql(wide).fetchall() == [(10**18,)]
    wider = "SELECT sum(x) FROM (VALUES (CAST('99999999999999999999999999999999999999' AS DECIMAL(38,0))), (1)) v(x)"
    with pytest.raises(EvaluationError, match="sum overflow"):
        db.sql(wider).fetchall()


def test_count_if_of_no_rows_is_zero_as_count_is() -> None:
    """DuckDB gives NULL there, and for rows whose conditions are all NULL."""
    columns = "g, count_if(h > 1), count_if(h > 1) FILTER (WHERE o < 0)"
    rows = databases()[0].sql(f"SELECT {columns} FROM {stored(FIXED)} GROUP BY g ORDER BY g").fetchall()
    counted = {g: sum(1 for row in FIXED if row[1] == g and row[2] is not None and row[2] > 1) for g, *_ in rows}
    assert rows == [(g, counted[g], 0) for g, *_ in rows]
