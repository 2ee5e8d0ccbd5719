"""Each optimiser rule before and after, as EXPLAIN prints the plan."""

from __future__ import annotations

import pytest

from eventdb.logical.optimizer import RULES, optimize
from eventdb.logical.plan import explain_lines
from tests.sql.tables import explain, optimized, plan_of


def only(rule: str, sql: str) -> list[str]:
    """The plan with every rule but one switched off."""
    return optimized(sql, frozenset(RULES) - {rule})


def test_fold_constants_computes_what_cannot_raise() -> None:
    sql = "SELECT 1 + 2 AS a, x / (1 - 1) AS b, CASE WHEN 1 = 2 THEN x ELSE 5 END AS c, coalesce(NULL, x, 3) AS d"
    assert only("fold_constants", f"{sql} FROM plain")[0] == "Project 3 AS a, (x / 0) AS b, 5 AS c, coalesce(x, 3) AS d"


@pytest.mark.parametrize(
    ("where", "first"),
    [
        ("TRUE AND x > 1 AND x > 1", "  Filter (x > 1)"),
        ("x > 1 OR TRUE", "  Scan plain [x, at]"),
        ("x > 1 AND 1 = 2", "  Values 0 rows"),
        ("NULL", "  Values 0 rows"),
        ("x = 1 OR FALSE OR x = 2", "  Filter ((x = 1) OR (x = 2))"),
        ("3 IN (1, 2)", "  Values 0 rows"),
        ("NOT (1 > 2)", "  Scan plain [x, at]"),
    ],
)
def test_fold_constants_decides_filters(where: str, first: str) -> None:
    assert only("fold_constants", f"SELECT x FROM plain WHERE {where}")[1] == first


def test_folding_never_raises_at_plan_time() -> None:
    for expression in (
        "1 / 0",
        "2147483647 + 1",
        "CAST('x' AS INTEGER)",
        "1 % 0",
        "-(-9223372036854775808)",
        "sqrt(-1)",
    ):
        assert optimized(f"SELECT CASE WHEN x > 1 THEN {expression} END FROM plain")


def test_merge_filters_keeps_the_inner_terms_first() -> None:
    sql = "SELECT * FROM (SELECT * FROM plain WHERE x <> 0) q WHERE 10 / x > 1"
    merged = optimized(sql, frozenset(RULES) - {"push_filters", "merge_filters"})
    assert merged[2] == "    Filter ((x <> 0) AND ((10 / x) > 1))"


def test_merge_projects_does_not_compute_twice() -> None:
    once = "SELECT m * 2 AS k FROM (SELECT x + 1 AS m FROM plain) q"
    assert only("merge_projects", once) == ["Project ((x + 1) * 2) AS k", "  Scan plain [x, at]"]
    twice = "SELECT m * m AS k FROM (SELECT x + 1 AS m FROM plain) q"
    assert only("merge_projects", twice) == explain(twice)
    nothing = "SELECT x, at FROM plain"
    assert only("merge_projects", nothing) == ["Scan plain [x, at]"]
    renamed = "SELECT x AS y, at FROM plain"
    assert only("merge_projects", renamed)[0] == "Project x AS y, at"


@pytest.mark.parametrize(
    ("sql", "lines"),
    [
        (
            "SELECT m FROM (SELECT x + 1 AS m FROM plain) q WHERE m > 3",
            ["Project m", "  Project (x + 1) AS m", "    Filter ((x + 1) > 3)", "      Scan plain [x, at]"],
        ),
        (
            "SELECT x, count(*) FROM plain GROUP BY x HAVING x > 1 AND count(*) > 2",
            [
                "Project x, count(*)",
                "  Filter (count(*) > 2)",
                "    Aggregate count(*) by x",
                "      Filter (x > 1)",
                "        Scan plain [x, at]",
            ],
        ),
        (
            "SELECT count(*) FROM plain HAVING 1 = 2",
            ["Project count(*)", "  Filter FALSE", "    Aggregate count(*)", "      Scan plain [x, at]"],
        ),
        (
            "SELECT x FROM HOP(plain, at, 1m, 5m) WHERE x > 1 AND window_end > '2020-01-01' AND 10 / x > 1",
            [
                "Project x",
                "  Filter ((window_end > TIMESTAMP '2020-01-01 00:00:00') AND ((10 / x) > 1))",
                "    Hop at size 300000000 us slide 60000000 us",
                "      Filter (x > 1)",
                "        Scan plain [x, at]",
            ],
        ),
        (
            "SELECT x FROM plain JOIN devices ON x = rank AND site = 'a' WHERE x > 1 AND id = 'b' AND 1 / x > 0",
            [
                "Project x",
                "  Filter ((1 / x) > 0)",
                "    Join inner on x = CAST(rank AS INTEGER)",
                "      Filter (x > 1)",
                "        Scan plain [x, at]",
                "      Filter ((id = 'b') AND (site = 'a'))",
                "        Scan devices [*]",
            ],
        ),
        (
            "SELECT x FROM plain LEFT JOIN devices ON x = rank AND site = 'a' AND x > 5 WHERE x > 1 AND id IS NULL",
            [
                "Project x",
                "  Filter (id IS NULL)",
                "    Join left on x = CAST(rank AS INTEGER) AND (x > 5)",
                "      Filter (x > 1)",
                "        Scan plain [x, at]",
                "      Filter (site = 'a')",
                "        Scan devices [*]",
            ],
        ),
        (
            "SELECT * FROM (SELECT x FROM plain UNION ALL SELECT x + 1 FROM plain) u WHERE x > 1",
            [
                "Project x",
                "  UnionAll",
                "    Project x",
                "      Filter (x > 1)",
                "        Scan plain [x, at]",
                "    Project (x + 1) AS x + 1",
                "      Filter ((x + 1) > 1)",
                "        Scan plain [x, at]",
            ],
        ),
        (
            "SELECT * FROM (SELECT x FROM plain ORDER BY x LIMIT 5) q WHERE x > 1",
            [
                "Project x",
                "  Filter (x > 1)",
                "    Limit 5",
                "      Sort x",
                "        Project x",
                "          Scan plain [x, at]",
            ],
        ),
    ],
)  # fmt: skip
def test_push_filters_moves_terms_down_but_never_where_they_could_newly_raise(sql: str, lines: list[str]) -> None:
    found = only("push_filters", sql)
    assert found == lines, "\n".join(found)


def test_push_limit_goes_below_projections_and_into_unions() -> None:
    assert only("push_limit", "SELECT x + 1 AS y FROM plain LIMIT 3") == [
        "Project (x + 1) AS y",
        "  Limit 3",
        "    Scan plain [x, at]",
    ]
    union = "SELECT x FROM plain UNION ALL SELECT x FROM plain LIMIT 3 OFFSET 2"
    assert [line.strip() for line in only("push_limit", union)][:4] == [
        "Limit 3 skip 2",
        "UnionAll",
        "Project x",
        "Limit 5",
    ]


def test_tumble_becomes_a_projection_that_drops_null_times() -> None:
    assert only("tumble_to_bucket", "SELECT window_start FROM TUMBLE(plain, at, '1m')") == [
        "Project window_start",
        "  Project x, at, time_bucket(INTERVAL '60 seconds', at) AS window_start,"
        " (time_bucket(INTERVAL '60 seconds', at) + INTERVAL '60 seconds') AS window_end,"
        " (time_bucket(INTERVAL '60 seconds', at) + INTERVAL '59.999999 seconds') AS window_time",
        "    Filter (at IS NOT NULL)",
        "      Scan plain [x, at]",
    ]


def test_dependent_keys_are_computed_after_grouping() -> None:
    assert only("drop_dependent_keys", "SELECT x, x + 1 AS y, count(*) AS c FROM plain GROUP BY x, x + 1") == [
        "Project x, (x + 1) AS y, count(*) AS c",
        "  Project x, (x + 1), count(*)",
        "    Aggregate count(*) by x",
        "      Scan plain [x, at]",
    ]
    floats = "SELECT temp, CAST(temp AS VARCHAR) AS t FROM readings GROUP BY temp, t"
    assert only("drop_dependent_keys", floats) == explain(floats), "0.0 and -0.0 are one group with two texts"


@pytest.mark.parametrize(
    ("sql", "scan"),
    [
        ("SELECT count(*) FROM readings", "Scan readings []"),
        ("SELECT device FROM readings WHERE temp > 1 ORDER BY n", "Scan readings [device, temp, n]"),
        (
            "SELECT c FROM (SELECT device, count(*) AS c, max(temp) FROM readings GROUP BY device) q",
            "Scan readings [device]",
        ),
        ("SELECT x FROM (SELECT DISTINCT x, at FROM plain) q", "Scan plain [x, at]"),
        ("SELECT a FROM 'x.csv'", "FileScan x.csv [a]"),
        ("SELECT 1 FROM hourly", "ViewScan hourly []"),
    ],
)  # fmt: skip
def test_prune_columns_reads_only_what_is_used(sql: str, scan: str) -> None:
    assert only("prune_columns", sql)[-1].strip() == scan


def test_prune_columns_keeps_the_sides_of_joins_and_unions_in_step() -> None:
    sql = "SELECT site FROM (SELECT n, device, ok FROM readings) r JOIN devices ON device = id WHERE n > rank"
    assert [line.strip() for line in optimized(sql) if "Scan" in line] == [
        "Scan readings [device, n]",
        "Scan devices [*]",
    ]
    union = "SELECT b FROM (SELECT n AS a, big AS b FROM readings UNION ALL SELECT rank, rank FROM devices) u"
    assert [line.strip() for line in optimized(union) if "Scan" in line] == [
        "Scan readings [big]",
        "Scan devices [rank]",
    ]


@pytest.mark.parametrize(
    ("where", "scan", "has_filter"),
    [
        ("_offset >= 10 AND _offset < 20", "offsets [10, 20)", False),
        ("_offset > 10 AND 20 >= _offset", "offsets [11, 21)", False),
        ("_offset = 7", "offsets [7, 8)", False),
        ("_offset >= -5", "Scan plain [x, at, _offset]", False),
        ("at >= '1970-01-01 00:00:01'", "time (1000000, None)", True),
        ("at > '1970-01-01 00:00:01' AND at < '1970-01-01 00:00:02'", "time (1000001, 1999999)", True),
        ("at = '1970-01-01 00:00:01'", "time (1000000, 1000000)", True),
        ("time_bucket('1 minute', at) = '1970-01-01 00:01:00'", "time (60000000, 119999999)", True),
        ("at >= '1970-01-01 00:00:01' OR x = 1", "Scan plain [x, at, _offset]", True),
        ("x >= 5", "Scan plain [x, at, _offset]", True),
    ],
)
def test_scan_ranges_come_from_offsets_and_event_time(where: str, scan: str, has_filter: bool) -> None:
    found = only("scan_ranges", f"SELECT x, _offset FROM plain WHERE {where}")
    assert found[-1].endswith(scan), found
    assert any("Filter" in line for line in found) is has_filter


def test_contradicting_ranges_read_nothing() -> None:
    assert only("scan_ranges", "SELECT x FROM plain WHERE _offset > 5 AND _offset < 3")[-1] == "  Values 0 rows"
    assert (
        only("scan_ranges", "SELECT x FROM plain WHERE at > '2021-01-01' AND at < '2020-01-01'")[-1]
        == "  Values 0 rows"
    )


def test_the_design_query_groups_by_bucket_and_key_only() -> None:
    assert optimized(
        "SELECT window_start, window_end, device, avg(temp) AS t FROM TUMBLE(readings, ts, INTERVAL '1 minute') "
        "WHERE window_start >= '2020-01-01' GROUP BY window_start, window_end, device"
    ) == [
        "Project window_start, (window_start + INTERVAL '60 seconds') AS window_end, device, avg(temp) AS t",
        "  Aggregate avg(temp) by window_start, device",
        "    Project device, temp, time_bucket(INTERVAL '60 seconds', ts) AS window_start",
        "      Filter ((ts IS NOT NULL) AND (time_bucket(INTERVAL '60 seconds', ts) >= TIMESTAMP "
        "'2020-01-01 00:00:00'))",
        "        Scan readings [device, temp, ts] time (1577836800000000, None)",
    ]


def test_disabling_every_rule_changes_nothing() -> None:
    plan = plan_of("SELECT x + 1 FROM plain WHERE 1 = 1 LIMIT 3")
    assert explain_lines(optimize(plan, frozenset(RULES))) == explain_lines(plan)


@pytest.mark.parametrize(
    ("where", "hints"),
    [
        ("x > 5 AND 3 >= x", (("x", "gt", 5), ("x", "le", 3))),
        ("x = 1 OR x = 2", ()),
        ("x <> 4", ()),
        ("x > 5 AND 10 / x > 1", ()),
        ("x > NULL", ()),
    ],
)
def test_comparisons_of_columns_become_hints_and_stay_in_the_filter(
    where: str, hints: tuple[tuple[str, str, object], ...]
) -> None:
    from eventdb.logical.plan import Filter, Scan

    def scan_of(plan: object) -> Scan | None:
        while not isinstance(plan, Scan):
            plan = getattr(plan, "input", None)
            if plan is None:
                return None
        return plan

    plan = optimize(plan_of(f"SELECT x FROM plain WHERE {where}"))
    scan = scan_of(plan)
    assert scan is None or scan.hints == hints
    if hints:
        node: object = plan
        while not isinstance(node, Filter):
            node = node.input  # type: ignore[attr-defined]


def test_a_filter_moves_below_a_window_only_where_it_chooses_whole_partitions() -> None:
    windows = "SELECT n, device, sum(n) OVER (PARTITION BY device, n) AS s, count(*) OVER (PARTITION BY device) AS c"
    lines = only("push_filters", f"SELECT * FROM ({windows} FROM readings) WHERE device = 'a' AND n > 1 AND s > 2")
    assert lines[2:] == [
        "    Filter ((n > 1) AND (sum(n) OVER (PARTITION BY device, n) > 2))",
        "      Over sum(n) OVER (PARTITION BY device, n), count(*) OVER (PARTITION BY device)",
        "        Filter (device = 'a')",
        "          Scan readings [*]",
    ]
    raises = "SELECT * FROM (SELECT n, count(*) OVER (PARTITION BY n) AS c FROM readings) WHERE 1 / n > 1"
    assert only("push_filters", raises)[2] == "    Filter ((1 / n) > 1)"
    floats = "SELECT * FROM (SELECT temp, count(*) OVER (PARTITION BY temp) AS c FROM readings) WHERE temp > 1"
    assert only("push_filters", floats)[2] == "    Filter (temp > 1.0)"


def test_a_window_that_nobody_reads_is_not_computed() -> None:
    windows = "SELECT n, temp, sum(big) OVER (ORDER BY small) AS a, rank() OVER (ORDER BY ok) AS b FROM readings"
    assert only("prune_columns", f"SELECT n, b FROM ({windows})") == [
        "Project n, b",
        "  Project n, rank() OVER (ORDER BY ok) AS b",
        "    Over rank() OVER (ORDER BY ok)",
        "      Scan readings [n, ok]",
    ]
    assert only("prune_columns", f"SELECT n FROM ({windows})")[-1] == "    Scan readings [n]"


def test_grouping_sets_and_distinct_on_read_only_their_columns() -> None:
    sets = "SELECT device, s FROM (SELECT device, n, sum(temp) AS s, max(big) FROM readings GROUP BY CUBE (device, n))"
    assert only("prune_columns", sets)[2:] == [
        "    GroupSets sum(temp) by (device, n), (device), (n), ()",
        "      Scan readings [device, temp, n]",
    ]
    first = "SELECT n FROM (SELECT DISTINCT ON (device) n, temp FROM readings ORDER BY device, ts)"
    assert only("prune_columns", first)[-1] == "          Scan readings [device, n, ts]"


def test_constants_inside_windows_and_grouping_sets_are_folded() -> None:
    sql = "SELECT sum(x + (1 + 2)) OVER (ORDER BY x ROWS 1 + 1 PRECEDING) FROM plain"
    assert only("fold_constants", sql)[1] == (
        "  Over sum((x + 3)) OVER (ORDER BY x ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"
    )
    sets = "SELECT count(*) FILTER (WHERE 1 = 1) FROM plain GROUP BY CUBE (x)"
    assert only("fold_constants", sets)[1] == "  GroupSets count(*) by (x), ()"


def test_prune_columns_leaves_out_of_a_held_side_what_only_its_filter_reads() -> None:
    sql = "SELECT r.temp FROM readings r JOIN stock s ON r.n = s.k WHERE s.v > 3"
    lines = [line.strip() for line in optimized(sql)]
    assert lines[lines.index("Filter (v > 3)") - 1] == "Project k"
