"""Joins, subqueries and set operations give DuckDB's rows on generated tables full of NULLs."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb

from .queries import queries, set_operations
from .tables import Rows, contents, filled, ours, theirs

duckdb = pytest.importorskip("duckdb", reason="DuckDB is the oracle of these tests; it is in the dev extra")

EXAMPLES = int(os.environ.get("EVENTDB_RELATIONAL_EXAMPLES", "12"))
given_many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


WITHOUT = "push_filters,join_filters,marks_to_semi_joins,connect_joins"


def check(tables: dict[str, Rows], sqls: list[str], *settings: str) -> None:
    """Each query gives DuckDB's rows after each of the settings."""
    db, duck = filled(eventdb.open(":memory:"), tables, "TOPIC"), filled(duckdb.connect(), tables, "TABLE")
    try:
        for sql in sqls:
            expected = theirs(duck, sql)
            for i, setting in enumerate(settings):
                db.sql(f"SET {setting}")
                assert ours(db, sql + " " * i) == expected, (setting, sql)  # another text: plans of a text are kept
    finally:
        db.close()
        duck.close()


@given_many
@given(tables=contents, sqls=st.lists(queries(), min_size=1, max_size=8))
def test_a_query_of_joins_and_subqueries_gives_the_rows_of_duckdb(tables: dict[str, Rows], sqls: list[str]) -> None:
    check(tables, sqls, f"disabled_optimizers = '{WITHOUT}'", "disabled_optimizers = ''")


@given_many
@given(tables=contents, sqls=st.lists(set_operations(), min_size=1, max_size=8))
def test_set_operations_give_the_rows_of_duckdb(tables: dict[str, Rows], sqls: list[str]) -> None:
    check(tables, sqls, f"disabled_optimizers = '{WITHOUT}'", "disabled_optimizers = ''")


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))  # each new shape is compiled
@given(tables=contents, sqls=st.lists(queries() | set_operations(), min_size=1, max_size=3))
def test_pipelines_around_joins_may_be_compiled(tables: dict[str, Rows], sqls: list[str]) -> None:
    check(tables, sqls, "execution = 'compiled'")


@pytest.mark.campaign
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables=contents, sqls=st.lists(queries() | set_operations(), min_size=1, max_size=8))
def test_many_queries_give_the_rows_of_duckdb_on_both_executions(tables: dict[str, Rows], sqls: list[str]) -> None:
    check(tables, sqls, "execution = 'compiled'", "execution = 'interpreted'")
