"""Held sides of EXISTS and IN are reduced by the keys of few rows, by row counts that the test says."""

from __future__ import annotations

import pytest

from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import explain_lines
from eventdb.logical.rules.reduce_held_sides import reduce_held_sides
from tests.logical.test_order_joins import Known
from tests.sql.tables import plan_of

FEW = "FROM stock s WHERE s.k < 9 AND s.v > 1 AND"


@pytest.mark.parametrize(
    ("sql", "reduced"),
    [
        (f"SELECT k {FEW} EXISTS (SELECT 1 FROM readings r WHERE r.n = s.k AND r.n > s.v)", True),
        (f"SELECT k {FEW} NOT EXISTS (SELECT 1 FROM readings r WHERE r.n = s.k AND r.n + s.v > 3)", True),
        (f"SELECT k {FEW} k IN (SELECT n FROM readings WHERE n > 7)", False),  # keys alone: no rows are held
        (
            f"SELECT k {FEW} now() > TIMESTAMP '2020-01-01' AND "  # now(): the few rows are not the same each time
            "EXISTS (SELECT 1 FROM readings r WHERE r.n = s.k AND r.n > s.v)",
            False,
        ),
        (f"SELECT k {FEW} EXISTS (SELECT 1 FROM plain WHERE x = s.k AND x > s.v)", False),  # the held side is small
        ("SELECT n FROM readings r WHERE EXISTS (SELECT 1 FROM stock s WHERE s.k = r.n AND s.v > r.n)", False),
    ],
)
def test_held_sides_are_reduced_where_few_rows_ask(sql: str, reduced: bool) -> None:
    before = optimize(plan_of(sql))
    after = reduce_held_sides(before, Known())
    assert after.fields == before.fields
    lines = [line.strip() for line in explain_lines(after)]
    assert lines.count("Shared 2 uses") == (2 if reduced else 0), lines
    assert any(line.startswith("Join semi on n = key_0") for line in lines) == reduced
    assert reduced or after == before
