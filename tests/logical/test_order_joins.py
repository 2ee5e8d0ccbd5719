"""The order of joins, before and after, by row counts and numbers of distinct values that the test says."""

from __future__ import annotations

from typing import Any

import pytest

from eventdb.logical.cardinality import may_be_unique, row_count
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import Join, Plan, Scan, explain_lines
from eventdb.logical.rules.order_joins import order_joins
from tests.sql.tables import optimized, plan_of

ROWS = {"readings": 1_000_000, "devices": 1_000, "plain": 10, "stock": 100_000}
DISTINCT = {("readings", "n"): 1_000, ("devices", "rank"): 1_000, ("plain", "x"): 10, ("stock", "v"): 50,
            ("stock", "k"): 100_000}  # fmt: skip


class Known:
    def row_count(self, scan: Scan) -> int:
        return ROWS[scan.name]

    def distinct_count(self, scan: Scan, column: int) -> int | None:
        return DISTINCT.get((scan.name, scan.columns[column]))


def ordered(sql: str) -> list[str]:
    """The scans and joins of the ordered plan."""
    plan = order_joins(optimize(plan_of(sql)), Known())
    return [line.partition(" [")[0] for line in explain_lines(plan) if "Scan" in line or "Join" in line]


def scans(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines if "Scan" in line]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 FROM plain p JOIN readings r ON p.x = r.n", ["readings", "plain"]),
        ("SELECT 1 FROM readings r JOIN plain p ON p.x = r.n", ["readings", "plain"]),
        (  # a snowflake: what hangs below the stock is joined to it first
            "SELECT 1 FROM plain p JOIN stock s ON p.x = s.v JOIN readings r ON r.n = s.k",
            ["readings", "stock", "plain"],
        ),
        (  # a star: the smallest held side first
            "SELECT 1 FROM stock s JOIN readings r ON r.n = s.k JOIN plain p ON p.x = r.n",
            ["readings", "plain", "stock"],
        ),
        (  # v has 50 values in 100,000 rows: stock hangs below the reading whose key finds one of it
            "SELECT 1 FROM plain p JOIN stock s ON p.x = s.v JOIN readings r ON r.n = s.k AND r.n = p.x",
            ["readings", "plain", "stock"],
        ),
        (  # a star: what drops most rows first
            "SELECT 1 FROM stock s JOIN readings r ON r.n = s.k JOIN plain p ON p.x = r.n WHERE s.v = 3",
            ["readings", "stock", "plain"],
        ),
        ("SELECT 1 FROM plain p LEFT JOIN readings r ON p.x = r.n", ["plain", "readings"]),
        ("SELECT 1 FROM plain p, readings r", ["plain", "readings"]),
    ],
)
def test_the_relation_with_most_rows_streams_and_the_others_are_held(sql: str, expected: list[str]) -> None:
    assert scans(ordered(sql)) == expected


def test_a_semi_join_goes_to_the_relation_it_reads() -> None:
    lines = ordered(
        "SELECT 1 FROM stock s JOIN readings r ON r.n = s.k WHERE s.k IN (SELECT x FROM plain WHERE x IS NOT NULL)"
    )
    assert [line.strip() for line in lines] == [
        "Join inner on n = k", "Scan readings", "Join semi on k = x", "Scan stock", "Scan plain",
    ]  # fmt: skip


def test_a_condition_that_can_raise_keeps_the_order() -> None:
    sql = "SELECT 1 FROM plain p JOIN readings r ON p.x = r.n AND 10 / r.small > p.x"
    assert scans(ordered(sql)) == ["plain", "readings"]


def test_a_condition_over_three_relations_is_kept() -> None:
    lines = ordered("SELECT 1 FROM plain p JOIN stock s ON p.x = s.v JOIN readings r ON r.n = s.k AND r.n <> p.x")
    assert any("<>" in line for line in lines)


def test_a_condition_that_reads_no_column_is_kept() -> None:
    plan = plan_of("SELECT 1 FROM plain p JOIN readings r ON p.x = r.n AND 1 = 2")
    changed = order_joins(plan, Known())
    assert changed != plan
    assert sum("FALSE" in line for line in explain_lines(changed)) == 1


def test_what_an_or_over_two_relations_says_about_one_filters_it() -> None:
    plan = optimize(plan_of(
        "SELECT 1 FROM plain p JOIN readings r ON p.x = r.n WHERE (p.x = 1 AND r.small = 2)"
        " OR (p.x = 3 AND r.small = 4)"
    ))  # fmt: skip
    found = [line.strip() for line in explain_lines(order_joins(plan, Known()))]
    assert any(line.startswith("Filter") and "(x = 1) OR (x = 3)" in line for line in found)
    assert any(line.startswith("Filter") and "OR" in line and "small" in line for line in found)
    assert any(line.startswith("Join") and "OR" in line for line in found)


def test_fields_and_their_order_stay() -> None:
    plan = optimize(plan_of("SELECT p.*, s.*, r.n FROM plain p JOIN stock s ON p.x = s.v JOIN readings r ON r.n = s.k"))
    assert order_joins(plan, Known()).fields == plan.fields


def test_filters_limits_and_groups_lessen_the_estimate() -> None:
    def estimate(sql: str) -> float:
        return row_count(optimize(plan_of(sql)), Known())

    whole = estimate("SELECT n FROM readings")
    assert whole == ROWS["readings"]
    assert estimate("SELECT n FROM readings WHERE n = 3") < estimate("SELECT n FROM readings WHERE n > 3") < whole
    assert estimate("SELECT n, count(*) FROM readings GROUP BY n") < whole
    assert estimate("SELECT count(*) FROM readings") == 1
    assert estimate("SELECT n FROM readings LIMIT 7") == 7


def test_a_key_with_far_fewer_values_than_rows_is_not_unique() -> None:
    def unique(sql: str) -> bool:
        def join_of(plan: Plan) -> Any:
            return plan if isinstance(plan, Join) else join_of(plan.children[0])

        join = join_of(optimize(plan_of(sql)))
        return may_be_unique(join.right, join.right_keys, Known())

    assert unique("SELECT 1 FROM readings r JOIN stock s ON r.n = s.k")
    assert not unique("SELECT 1 FROM readings r JOIN stock s ON r.n = s.v")
    assert unique("SELECT 1 FROM readings r JOIN stock s ON r.n = s.v AND r.n = s.k")


def test_terms_of_all_branches_become_keys_of_a_join() -> None:
    sql = "SELECT 1 FROM plain p, stock s WHERE (p.x = s.k AND s.v = 1) OR (p.x = s.k AND s.v = 2 AND p.x > 5)"
    join = next(line.strip() for line in optimized(sql) if "Join" in line)
    assert join.startswith("Join inner on x = k AND")
    absorbed = optimized("SELECT 1 FROM plain p, stock s WHERE (p.x = s.k AND s.v = 1) OR p.x = s.k")
    assert [line.strip() for line in absorbed if "Join" in line] == ["Join inner on x = k"]
    guarded = optimized("SELECT 1 FROM plain p, stock s WHERE (p.x = s.k AND s.v = 1) OR (p.x = s.k AND 1 / s.v > 2)")
    assert any("OR" in line and "x = k" in line for line in guarded)
