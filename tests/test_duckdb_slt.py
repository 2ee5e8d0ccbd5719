"""DuckDB's own scripts for what EventDB has: a small draw in the suite, whole folders with `pytest -m corpus`.

The scripts are not part of the repository: duckdb_slt.corpus() says where they are looked for.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eventdb.errors import BindError, ConstraintError, EvaluationError, EventDBError, ParseError, UnsupportedSQL

from .duckdb_slt import (
    FOLDERS,
    Outcome,
    Record,
    Skips,
    compare,
    corpus,
    is_expected,
    records,
    report,
    run_scripts,
    scripts,
    translated,
)

LEAST_PASSED = {
    "aggregate": 0.97, "window": 0.95, "order": 0.96, "topn": 1.0, "projection": 0.95, "conjunction": 1.0,
    "filter": 1.0, "select": 0.96, "subquery": 0.97, "setops": 0.95, "cte": 0.97, "join": 0.98, "overflow": 0.98,
    "error": 1.0, "limit": 1.0, "insert": 1.0, "merge": 1.0, "returning": 1.0, "update": 1.0, "delete": 0.98,
    "upsert": 0.97, "prepared": 0.97,
}  # fmt: skip
"""The share of the records that are not skipped which pass at least, by folder."""
DRAWN = (
    "window/test_basic_window.test",
    "window/test_boundary_expr.test",
    "window/test_negative_range.test",
    "window/test_window_clause.test",
    "aggregate/aggregates/test_median.test",
    "aggregate/aggregates/test_any_value.test",
    "aggregate/grouping_sets/grouping_sets_filter.test",
    "aggregate/qualify/test_qualify.test",
    "order/test_order_by.test",
    "projection/select_star_rename.test",
    "conjunction/or_comparison.test",
    "insert/insert_by_name.test",
    "merge/merge_into.test",
    "merge/merge_into_by_source.test",
    "returning/returning_insert.test",
    "update/test_update_from.test",
    "delete/test_using_delete.test",
    "upsert/upsert_set_expressions.test",
    "prepared/prepare_mixed_types.test",
)


def _root() -> Path:
    root = corpus()
    if root is None:
        pytest.skip("DuckDB's scripts are not here: EVENTDB_DUCKDB_SLT names their folder")
    return root


def _check(name: str, outcomes: list[Outcome], least: float) -> None:
    internal = [outcome for outcome in outcomes if "InternalError" in outcome.reason]
    assert not internal
    counts = Counter(outcome.kind for outcome in outcomes)
    failed = [f"{o.file}:{o.line}: {o.reason}" for o in outcomes if o.kind == "failed"]
    assert counts["passed"] >= least * (counts["passed"] + counts["failed"]), (report(name, outcomes), failed)


def test_a_draw_of_the_scripts_passes() -> None:
    root = _root()
    drawn = [root / name for name in DRAWN if (root / name).exists()]
    assert len(drawn) >= len(DRAWN) // 2
    outcomes = run_scripts(root, drawn)
    assert sum(outcome.kind == "passed" for outcome in outcomes) > 100
    _check("draw", outcomes, 0.93)


@pytest.mark.corpus
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_the_scripts_passes(folder: str) -> None:
    root = _root()
    outcomes = run_scripts(root, scripts(root, folder))
    print(report(folder, outcomes))
    _check(folder, outcomes, LEAST_PASSED[folder])


# --- the runner itself --------------------------------------------------------------------------------------------

SCRIPT = """
# a comment
statement ok
CREATE TABLE t(i {type});

loop i 0 2

foreach agg min max

query I
SELECT ${agg}(${i}) FROM t
----
${i}

endloop

endloop

skipif nothing
statement error
SELECT boom
----
message of the error

require vector_size 512

query IT rowsort
SELECT 1, 'x'
----
2	b
1	x
"""


def test_loops_are_unrolled_and_their_variables_put_in() -> None:
    found = list(records(SCRIPT))
    assert [r.sql for r in found] == [
        "CREATE TABLE t(i {type})",
        *(f"SELECT {agg}({i}) FROM t" for i in (0, 1) for agg in ("min", "max")),
        "SELECT boom",
        "SELECT 1, 'x'",
    ]
    assert [r.expected for r in found[1:5]] == [["0"], ["0"], ["1"], ["1"]]
    assert [r.kind for r in found][-2:] == ["statement error", "query"]
    assert not any(r.skipped for r in found)


def test_a_script_that_needs_what_is_not_there_is_skipped_from_there_on() -> None:
    found = list(records("query I\nSELECT 1\n----\n1\n\nrequire tpch\n\nquery I\nSELECT 2\n----\n2\n"))
    assert [r.skipped for r in found] == ["", "script: require tpch"]


@pytest.mark.parametrize(
    ("types", "sort", "expected", "rows", "verdict"),
    [
        ("II", "nosort", ["1\tNULL", "2\t3"], [(1, None), (2, 3)], "passed"),
        ("II", "nosort", ["1", "NULL", "2", "3"], [(1, None), (2, 3)], "passed"),
        ("II", "rowsort", ["2\t3", "1\tNULL"], [(1, None), (2, 3)], "passed"),
        ("I", "nosort", ["1", "2"], [(2,), (1,)], "failed"),
        ("R", "nosort", ["0.333333"], [(0.33333333,)], "passed"),
        ("R", "nosort", ["0.34"], [(0.33333333,)], "failed"),
        ("T", "nosort", ["<REGEX>:a.*"], [("abc",)], "passed"),
        ("T", "nosort", ["<REGEX>:b.*"], [("abc",)], "failed"),
        ("I", "nosort", ["1"], [(1,), (1,)], "failed"),
        ("II", "nosort", ["1\t2"], [(1,)], "failed"),
        ("I", "nosort", ["2 values hashing to 6ddb4095eb719e2a9f0a3f95677d24e0"], [(1,), (2,)], "passed"),
        ("I", "nosort", ["2 values hashing to 6ddb4095eb719e2a9f0a3f95677d24e1"], [(1,), (2,)], "failed"),
    ],
)
def test_results_are_compared_as_the_dialect_says(
    types: str, sort: str, expected: list[str], rows: list[tuple[object, ...]], verdict: str
) -> None:
    record = Record(1, "query", "SELECT x FROM t ORDER BY x", types, sort, expected)
    assert compare(record, rows)[0] == verdict


def test_rows_without_an_order_are_compared_as_a_bag() -> None:
    record = Record(1, "query", "SELECT row_number() OVER (ORDER BY x) FROM t", "I", "nosort", ["1", "2"])
    assert compare(record, [(2,), (1,)])[0] == "passed"


def test_statements_get_the_words_of_eventdb() -> None:
    assert translated("SELECT x::HUGEINT FROM t WHERE rowid = 1") == "SELECT x::BIGINT FROM t WHERE _offset = 1"
    assert translated("SELECT a/2, b // 2, '/' /* / */ -- /") == "SELECT a* 1e0 /2, b // 2, '/' /* / */ -- /"


def test_every_skip_has_a_reason() -> None:
    skips = Skips.read()
    assert skips.sql
    assert skips.error
    assert all(len(reason) > 10 for _, reason in (*skips.sql, *skips.error))


@pytest.mark.parametrize(
    ("expected", "error", "passes"),
    [
        ([], BindError("no column x"), True),
        ([], UnsupportedSQL("PIVOT is not supported"), False),
        (["Parser Error: syntax error at or near"], UnsupportedSQL("PIVOT is not supported"), True),
        (["Not implemented Error: this"], UnsupportedSQL("PIVOT is not supported"), True),
        (["Binder Error: no such column"], UnsupportedSQL("PIVOT is not supported"), False),
        ([], BindError("no function list_sum()"), False),
        ([], BindError("no function funfunfun()"), True),
        (["Catalog Error: Scalar Function with name nope does not exist!"], BindError("no function nope()"), True),
        (["Conversion Error: Could not convert"], EvaluationError("not a number"), True),
        (["<REGEX>:.*Out of Range Error.*"], ParseError("syntax error at 'FROM'"), False),
        (["Constraint Error: Duplicate key"], ConstraintError("the key is taken"), True),
        (["Constraint Error: Duplicate key"], EvaluationError("division by zero"), False),
    ],
)
def test_a_statement_that_shall_fail_passes_with_the_kind_of_error_that_is_expected(
    expected: list[str], error: EventDBError, passes: bool
) -> None:
    pytest.importorskip("duckdb")
    assert is_expected(expected, error) is passes


def test_what_is_built_is_not_skipped() -> None:
    skips = Skips.read()
    for sql in (
        "EXPLAIN SELECT 1",
        "SELECT * FROM read_csv('x.csv')",
        "SELECT 'a' COLLATE NOCASE = 'A'",
        "SELECT (1, 2) = (1, 2)",
        "SELECT (a, b) IN (SELECT 1, 2)",
        "SELECT * FROM read_parquet('x.parquet')",
    ):
        assert not Skips.match(skips.sql, sql), sql


def test_the_text_of_a_plan_is_not_compared_but_the_statement_runs(tmp_path: Path) -> None:
    script = tmp_path / "x.test"
    script.write_text(
        "statement ok\nEXPLAIN SELECT 1\n\nstatement ok\nEXPLAIN SELECT nothing\n\n"
        "query II\nEXPLAIN SELECT 1\n----\nphysical_plan\t<REGEX>:.*X.*\n\n"
        "statement ok\nCOPY (SELECT 7 AS a) TO '{TEST_DIR}/a.csv'\n\n"
        "query I\nFROM read_csv('{TEST_DIR}/a.csv')\n----\n7\n"
    )
    kinds = [outcome.kind for outcome in run_scripts(tmp_path, [script])]
    assert kinds == ["passed", "failed", "skipped", "passed", "passed"]
