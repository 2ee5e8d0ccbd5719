"""Subqueries before and after they are unnested, as EXPLAIN prints the plan."""

from __future__ import annotations

import pytest

from eventdb.errors import UnsupportedError
from eventdb.logical.plan import explain_lines
from eventdb.logical.rules.unnest_subqueries import unnest_subqueries
from eventdb.logical.subqueries import has_subqueries
from tests.sql.tables import explain, plan_of


def shortened(lines: list[str]) -> list[str]:
    return [line.partition(" [")[0] if "Scan" in line else line for line in lines]


@pytest.mark.parametrize(
    ("sql", "lines"),
    [
        (  # EXISTS is a mark join on what the outer row is compared with
            "SELECT x FROM plain WHERE EXISTS (SELECT 1 FROM devices WHERE rank = x)",
            [
                "Project x",
                "  Project x, at",
                "    Filter mark",
                "      Join mark on x = CAST(rank AS INTEGER)",
                "        Scan plain",
                "        Scan devices",
            ],
        ),
        (  # NOT IN compares under SQL's rules for NULL
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
        (  # a count over no rows is 0
            "SELECT x, (SELECT count(*) FROM devices WHERE rank = x) AS n FROM plain",
            [
                "Project x, count(*) AS n",
                "  Project x, at, coalesce(count(*), 0) AS count(*)",
                "    Join single on x = CAST(rank AS INTEGER)",
                "      Scan plain",
                "      Aggregate count(*) by CAST(rank AS INTEGER)",
                "        Scan devices",
            ],
        ),
        (  # other columns are compared in the pairs
            "SELECT x FROM plain WHERE EXISTS (SELECT 1 FROM devices WHERE rank < x AND site = 'a')",
            [
                "Project x",
                "  Project x, at",
                "    Filter mark",
                "      Join mark on (CAST(rank AS INTEGER) < x)",
                "        Scan plain",
                "        Filter (site = 'a')",
                "          Scan devices",
            ],
        ),
        (  # LIMIT holds for each argument
            "SELECT x, (SELECT site FROM devices WHERE rank < x ORDER BY site LIMIT 1) AS n FROM plain",
            [
                "Project x, site AS n",
                "  Project x, at, site",
                "    Join single on x IS NOT DISTINCT FROM argument 0",
                "      Scan plain",
                "      LimitBy argument 0: 1",
                "        Sort site",
                "          Project site, argument 0",
                "            Filter (CAST(rank AS INTEGER) < argument 0)",
                "              Join inner",
                "                Scan devices",
                "                Distinct",
                "                  Project x AS argument 0",
                "                    Scan plain",
            ],
        ),
        (  # without correlation it is computed once
            "SELECT x FROM plain WHERE x > (SELECT max(rank) FROM devices)",
            [
                "Project x",
                "  Project x, at",
                "    Filter (x > CAST(max(rank) AS INTEGER))",
                "      Project x, at, max(rank)",
                "        Join single",
                "          Scan plain",
                "          Project max(rank)",
                "            Aggregate max(rank)",
                "              Scan devices",
            ],
        ),
        (  # LATERAL is a join
            "SELECT x, k.n FROM plain, LATERAL (SELECT rank AS n FROM devices WHERE rank = x) k",
            [
                "Project x, n",
                "  Project x, at, n",
                "    Join inner on x = CAST(rank AS INTEGER)",
                "      Scan plain",
                "      Project rank AS n, rank",
                "        Scan devices",
            ],
        ),
        (  # terms without a subquery go first
            "SELECT x FROM plain WHERE EXISTS (SELECT 1 FROM devices) AND x > 1",
            [
                "Project x",
                "  Project x, at",
                "    Filter mark",
                "      Join mark",
                "        Filter (x > 1)",
                "          Scan plain",
                "        Limit 1",
                "          Scan devices",
            ],
        ),
        (  # in GROUP BY it is a column of the input
            "SELECT count(*) FROM plain GROUP BY x IN (SELECT rank FROM devices)",
            [
                "Project count(*)",
                "  Aggregate count(*) by mark",
                "    Join mark any (x = CAST(rank AS INTEGER))",
                "      Scan plain",
                "      Project rank",
                "        Scan devices",
            ],
        ),
        (  # in HAVING it is a column of the groups
            "SELECT x FROM plain GROUP BY x HAVING count(*) > (SELECT max(rank) FROM devices)",
            [
                "Project x",
                "  Project x, count(*)",
                "    Filter (count(*) > CAST(max(rank) AS BIGINT))",
                "      Project x, count(*), max(rank)",
                "        Join single",
                "          Aggregate count(*) by x",
                "            Scan plain",
                "          Project max(rank)",
                "            Aggregate max(rank)",
                "              Scan devices",
            ],
        ),
        (  # in ON of an outer join it is a column of the side it reads
            "SELECT x FROM plain LEFT JOIN devices ON rank = x AND EXISTS (SELECT 1 FROM readings WHERE device = id)",
            [
                "Project x",
                "  Project x, at, id, site, rank",
                "    Join left on x = CAST(rank AS INTEGER) AND mark",
                "      Scan plain",
                "      Join mark on id = device",
                "        Scan devices",
                "        Scan readings",
            ],
        ),
    ],
)
def test_subqueries_become_joins(sql: str, lines: list[str]) -> None:
    plan = plan_of(sql)
    assert has_subqueries(plan)
    unnested = unnest_subqueries(plan)
    assert shortened(explain_lines(unnested)) == lines
    assert not has_subqueries(unnested)
    assert [(f.name, f.type) for f in unnested.fields] == [(f.name, f.type) for f in plan.fields]


def test_a_bound_plan_shows_its_subqueries() -> None:
    assert (
        explain("SELECT x FROM plain WHERE EXISTS (SELECT 1 FROM devices WHERE rank = x)")[1]
        == "  Filter EXISTS(subquery)"
    )
    assert explain("SELECT x < ALL (SELECT n FROM readings) AS k FROM plain")[0] == (
        "Project (NOT ANY(subquery: (NOT (outer.x < n)))) AS k"
    )
    assert explain("SELECT x FROM plain, LATERAL (SELECT x AS y) k")[1] == "  Apply inner"


def test_recursion_that_reads_the_outer_row_is_refused_by_name() -> None:
    sql = (
        "SELECT (WITH RECURSIVE r(n) AS (SELECT plain.x UNION ALL SELECT n + 1 FROM r WHERE n < 3) "
        "SELECT count(*) FROM r) FROM plain"
    )
    with pytest.raises(UnsupportedError, match="from inside RecursiveUnion r"):
        unnest_subqueries(plan_of(sql))
