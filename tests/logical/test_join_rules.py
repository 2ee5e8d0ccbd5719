"""The rules about joins before and after, each alone, as EXPLAIN prints the plan."""

from __future__ import annotations

import pytest

from eventdb.logical.optimizer import RULES
from tests.sql.tables import optimized


def only(rule: str, sql: str) -> list[str]:
    """The plan with every rule but one switched off; subqueries are unnested always."""
    lines = optimized(sql, frozenset(RULES) - {rule})
    return [line.partition(" [")[0] if "Scan" in line else line for line in lines]


@pytest.mark.parametrize(
    ("rule", "sql", "lines"),
    [
        (
            "join_filters",
            "SELECT x FROM plain p, devices d WHERE p.x = d.rank AND p.x < d.rank AND p.x > 1",
            [
                "Project x",
                "  Filter (x > 1)",
                "    Join inner on x = CAST(rank AS INTEGER) AND (x < CAST(rank AS INTEGER))",
                "      Scan plain",
                "      Scan devices",
            ],
        ),
        (
            "join_filters",
            "SELECT x FROM plain p, devices d WHERE p.x > 1 AND p.x = d.rank + 1",
            [
                "Project x",
                "  Filter ((x > 1) AND (x = (CAST(rank AS INTEGER) + 1)))",
                "    Join inner",
                "      Scan plain",
                "      Scan devices",
            ],
        ),
        (
            "join_filters",
            "SELECT x FROM plain p, devices d WHERE d.rank + 1 = p.x AND p.x > 1",
            [
                "Project x",
                "  Filter (x > 1)",
                "    Join inner on x = (CAST(rank AS INTEGER) + 1)",
                "      Scan plain",
                "      Scan devices",
            ],
        ),
        (
            "join_filters",
            "SELECT x FROM plain p LEFT JOIN devices d ON TRUE WHERE p.x = d.rank",
            [
                "Project x",
                "  Filter (x = CAST(rank AS INTEGER))",
                "    Join left on TRUE",
                "      Scan plain",
                "      Scan devices",
            ],
        ),
        (
            "connect_joins",
            "SELECT x FROM plain p CROSS JOIN devices d JOIN readings r ON r.n = p.x AND r.device = d.id",
            [
                "Project x",
                "  Project x, at, id, site, rank, device, temp, n, big, small, price, ok, day, ts",
                "    Filter (id = device)",
                "      Join inner",
                "        Filter (x = n)",
                "          Join inner",
                "            Scan plain",
                "            Scan readings",
                "        Scan devices",
            ],
        ),
        (
            "connect_joins",
            "SELECT x FROM plain p CROSS JOIN devices d JOIN readings r ON r.n > p.x AND r.device = d.id",
            [
                "Project x",
                "  Join inner on id = device AND (n > x)",
                "    Join inner",
                "      Scan plain",
                "      Scan devices",
                "    Scan readings",
            ],
        ),
        (
            "connect_joins",
            "SELECT x FROM plain p JOIN readings r ON r.n = p.x JOIN devices d ON r.device = d.id",
            [
                "Project x",
                "  Join inner on device = id",
                "    Join inner on x = n",
                "      Scan plain",
                "      Scan readings",
                "    Scan devices",
            ],
        ),
        (
            "marks_to_semi_joins",
            "SELECT x FROM plain WHERE x IN (SELECT rank FROM devices)",
            [
                "Project x",
                "  Project x, at",
                "    Project x, at, TRUE AS mark",
                "      Join semi on x = CAST(rank AS INTEGER)",
                "        Scan plain",
                "        Project rank",
                "          Scan devices",
            ],
        ),
        (
            "marks_to_semi_joins",
            "SELECT x FROM plain WHERE NOT EXISTS (SELECT 1 FROM devices WHERE rank = x)",
            [
                "Project x",
                "  Project x, at",
                "    Project x, at, FALSE AS mark",
                "      Join anti on x = CAST(rank AS INTEGER)",
                "        Scan plain",
                "        Scan devices",
            ],
        ),
        (
            "marks_to_semi_joins",
            "SELECT device FROM readings WHERE device NOT IN (SELECT id FROM devices)",
            [
                "Project device",
                "  Project device, temp, n, big, small, price, ok, day, ts",
                "    Project device, temp, n, big, small, price, ok, day, ts, FALSE AS mark",
                "      Join anti on device = id",
                "        Scan readings",
                "        Project id",
                "          Scan devices",
            ],
        ),
        (
            "marks_to_semi_joins",
            "SELECT x FROM plain WHERE x NOT IN (SELECT rank FROM devices)",
            [
                "Project x",
                "  Project x, at",
                "    Filter (NOT mark)",
                "      Join mark any (x = CAST(rank AS INTEGER))",
                "        Scan plain",
                "        Project rank",
                "          Scan devices",
            ],
        ),
        (
            "marks_to_semi_joins",
            "SELECT x FROM plain WHERE x IN (SELECT rank FROM devices) OR x = 1",
            [
                "Project x",
                "  Project x, at",
                "    Filter (mark OR (x = 1))",
                "      Join mark any (x = CAST(rank AS INTEGER))",
                "        Scan plain",
                "        Project rank",
                "          Scan devices",
            ],
        ),
        (
            "push_filters",
            "SELECT x FROM plain FULL JOIN devices ON rank = x AND x > 1 AND rank > 2 WHERE x > 2 AND rank > 3",
            [
                "Project x",
                "  Filter ((x > 2) AND (rank > 3))",
                "    Join full on x = CAST(rank AS INTEGER) AND ((x > 1) AND (rank > 2))",
                "      Scan plain",
                "      Scan devices",
            ],
        ),
        (
            "push_filters",
            "SELECT x FROM plain RIGHT JOIN devices ON rank = x AND x > 1 AND rank > 2 WHERE x > 2 AND rank > 3",
            [
                "Project x",
                "  Project x, at, id, site, rank",
                "    Filter (x > 2)",
                "      Join left on CAST(rank AS INTEGER) = x AND (rank > 2)",
                "        Filter (rank > 3)",
                "          Scan devices",
                "        Filter (x > 1)",
                "          Scan plain",
            ],
        ),
        (
            "push_filters",
            "SELECT x FROM plain SEMI JOIN devices ON rank < x AND x > 1 AND rank > 2 WHERE x > 2",
            [
                "Project x",
                "  Join semi on (CAST(rank AS INTEGER) < x)",
                "    Filter ((x > 2) AND (x > 1))",
                "      Scan plain",
                "    Filter (rank > 2)",
                "      Scan devices",
            ],
        ),
        (
            "push_filters",
            "SELECT x FROM plain ANTI JOIN devices ON rank < x AND x > 1 AND rank > 2 WHERE x > 2",
            [
                "Project x",
                "  Join anti on ((CAST(rank AS INTEGER) < x) AND (x > 1))",
                "    Filter (x > 2)",
                "      Scan plain",
                "    Filter (rank > 2)",
                "      Scan devices",
            ],
        ),
    ],
)
def test_a_rule_changes_a_plan_to(rule: str, sql: str, lines: list[str]) -> None:
    assert only(rule, sql) == lines
