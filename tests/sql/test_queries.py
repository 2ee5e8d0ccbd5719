"""Queries to plans, shown as EXPLAIN prints them before optimising."""

from __future__ import annotations

import pytest

from eventdb.errors import BindError, UnsupportedSQL
from tests.sql.tables import bound, explain, plan_of

R = "Scan readings [*]"


@pytest.mark.parametrize(
    ("sql", "lines"),
    [
        ("SELECT 1 AS x", ["Project 1 AS x", "  Values 1 rows"]),
        ("SELECT device, temp FROM readings WHERE n = 1", ["Project device, temp", "  Filter (n = 1)", f"    {R}"]),
        ("FROM readings SELECT n", ["Project n", f"  {R}"]),
        (
            "SELECT r.* EXCLUDE (temp, n, big, small, price, ok, day) FROM readings r",
            ["Project device, ts", f"  {R}"],
        ),
        (
            "SELECT device, count(*), avg(temp) AS t FROM readings GROUP BY 1 HAVING max(n) > 3",
            [
                "Project device, count(*), avg(temp) AS t",
                "  Filter (max(n) > 3)",
                "    Aggregate count(*), avg(temp), max(n) by device",
                f"      {R}",
            ],
        ),
        (
            "SELECT n + 1 AS m, sum(temp) FROM readings GROUP BY m",
            ["Project (n + 1) AS m, sum(temp)", "  Aggregate sum(temp) by (n + 1)", f"    {R}"],
        ),
        (
            "SELECT device, ok, 1, max(n) FROM readings GROUP BY ALL",
            ["Project device, ok, 1, max(n)", "  Aggregate max(n) by device, ok", f"    {R}"],
        ),
        (
            "SELECT count(DISTINCT n) FILTER (WHERE ok), count_if(n > 1) FROM readings",
            [
                "Project count(DISTINCT n) FILTER (WHERE ok), count(*) FILTER (WHERE (n > 1)) AS count_if(n > 1)",
                "  Aggregate count(DISTINCT n) FILTER (WHERE ok), count(*) FILTER (WHERE (n > 1))",
                f"    {R}",
            ],
        ),
        (
            "SELECT max(n) - min(n) AS spread FROM readings ORDER BY spread",
            [
                "Sort spread",
                "  Project (max(n) - min(n)) AS spread",
                "    Aggregate max(n), min(n)",
                f"      {R}",
            ],
        ),
        (
            "SELECT device FROM readings ORDER BY temp DESC, 1 NULLS FIRST LIMIT 3 OFFSET 2",
            [
                "Project device",
                "  Limit 3 skip 2",
                "    Sort temp DESC NULLS FIRST, device NULLS FIRST",
                "      Project device, temp",
                f"        {R}",
            ],
        ),
        (
            "SELECT DISTINCT device FROM readings ORDER BY device DESC NULLS LAST",
            ["Sort device DESC", "  Distinct", "    Project device", f"      {R}"],
        ),
        (
            "SELECT device, site FROM readings r JOIN devices d ON r.device = d.id AND r.n > d.rank",
            [
                "Project device, site",
                "  Join inner on device = id AND (n > CAST(rank AS INTEGER))",
                f"    {R}",
                "    Scan devices [*]",
            ],
        ),
        (
            "SELECT * FROM (SELECT device AS id FROM readings) LEFT JOIN devices USING (id)",
            [
                "Project id, site, rank",
                "  Join left on id = id",
                "    Project device AS id",
                f"      {R}",
                "    Scan devices [*]",
            ],
        ),
        (
            "SELECT n FROM readings, devices WHERE id = device AND n > 1",
            [
                "Project n",
                "  Filter ((id = device) AND (n > 1))",
                "    Join inner",
                f"      {R}",
                "      Scan devices [*]",
            ],
        ),
        (
            "WITH a AS (SELECT n FROM readings), b AS (SELECT n + 1 AS m FROM a) SELECT m FROM b",
            ["Project m", "  Project (n + 1) AS m", "    Project n", f"      {R}"],
        ),
        (
            "SELECT id, rank FROM devices UNION ALL SELECT device, n FROM readings ORDER BY rank LIMIT 1",
            [
                "Limit 1",
                "  Sort rank",
                "    Project id, rank",
                "      UnionAll",
                "        Project id, CAST(rank AS INTEGER) AS rank",
                "          Project id, rank",
                "            Scan devices [*]",
                "        Project device, n",
                f"          {R}",
            ],
        ),
        ("SELECT x FROM (VALUES (1, 'a'), (2.5, NULL)) v(x, y)", ["Project x", "  Values 2 rows"]),
        ("SELECT a FROM 'logs/x.csv'", ["Project a", "  FileScan logs/x.csv [a, b]"]),
        ("SELECT x.a FROM 'logs/x.parquet'", ["Project a", "  FileScan logs/x.parquet [a, b]"]),
        ("SELECT total FROM hourly", ["Project total", "  ViewScan hourly [device, total]"]),
        (
            "SELECT _offset, _time, _key FROM readings",
            [
                "Project _offset, _time, _key",
                "  Scan readings [device, temp, n, big, small, price, ok, day, ts, _offset]",
            ],
        ),
        (
            "SELECT window_start, avg(temp) FROM TUMBLE(readings, ts, INTERVAL '1' MINUTE) GROUP BY window_start",
            [
                "Project window_start, avg(temp)",
                "  Aggregate avg(temp) by window_start",
                "    Tumble ts size 60000000 us slide 60000000 us",
                f"      {R}",
            ],
        ),
        (
            "SELECT window_end FROM HOP(readings, ts, slide => 5m, size => '15 minutes') h WHERE h.n = 1",
            [
                "Project window_end",
                "  Filter (n = 1)",
                "    Hop ts size 900000000 us slide 300000000 us",
                f"      {R}",
            ],
        ),
        (
            "WITH hot AS (SELECT ts, n FROM readings WHERE temp > 1) SELECT * FROM TUMBLE(hot, ts, 1h)",
            [
                "Project ts, n, window_start, window_end, window_time",
                "  Tumble ts size 3600000000 us slide 3600000000 us",
                "    Project ts, n",
                "      Filter (temp > 1.0)",
                f"        {R}",
            ],
        ),
        (
            "SELECT window_start, count(*) FROM readings WHERE n = 1 GROUP BY TUMBLE(ts, '1m'), device",
            [
                "Project window_start, count(*)",
                "  Aggregate count(*) by window_start, device",
                "    Tumble ts size 60000000 us slide 60000000 us",
                "      Filter (n = 1)",
                f"        {R}",
            ],
        ),
        (
            "SELECT TUMBLE_END(ts, '1m') AS e FROM readings GROUP BY TUMBLE(ts, '1m')",
            [
                "Project window_end AS e",
                "  Aggregate by window_start, window_end",
                "    Tumble ts size 60000000 us slide 60000000 us",
                f"      {R}",
            ],
        ),
    ],
)
def test_a_query_binds_to(sql: str, lines: list[str]) -> None:
    found = explain(sql)
    assert found == lines, "\n".join(found)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT n, n + 1, (n), count(*), COUNT( n ), n::DOUBLE, CAST(n AS DOUBLE) FROM readings GROUP BY n",
         ["n", "n + 1", "n", "count(*)", "count( n )", "n", "n"]),
        ("SELECT 'a', 1, -n, n AS \"A b\", $p FROM readings", ["'a'", "1", "-n", "A b", "$p"]),
        ("SELECT CASE WHEN ok THEN 1 END, n IN (1, 2), r.n FROM readings r",
         ["CASE WHEN ok THEN 1 END", "n IN (1, 2)", "n"]),
        ("VALUES (1, 2)", ["col0", "col1"]),
    ],
)  # fmt: skip
def test_columns_without_an_alias_are_named_as_they_were_written(sql: str, names: list[str]) -> None:
    plan = plan_of(sql, {"p": 1} if "$p" in sql else None)
    assert [f.name for f in plan.fields] == names


def test_nullability_follows_the_columns() -> None:
    plan = plan_of("SELECT device, temp, count(*), max(n), device || 'x' FROM readings GROUP BY device, temp")
    assert [f.nullable for f in plan.fields] == [False, True, False, True, False]
    joined = plan_of("SELECT id FROM readings LEFT JOIN devices ON id = device")
    assert joined.fields[0].nullable


@pytest.mark.parametrize(
    ("sql", "message", "column"),
    [
        ("SELECT * FROM reading", "no topic, table or view 'reading'; did you mean readings?", 15),
        ("SELECT device, count(*) FROM readings", "column 'device' must be in GROUP BY", 8),
        ("SELECT *, count(*) FROM readings", "column 'device' must be in GROUP BY", 8),
        ("SELECT n FROM readings WHERE temp", "WHERE needs a BOOLEAN, not DOUBLE", 30),
        ("SELECT n FROM readings WHERE sum(n) > 1", "sum() is an aggregate and not allowed in WHERE", 30),
        ("SELECT n FROM readings ORDER BY 9", "ORDER BY 9: the select list has 1 columns", 33),
        ("SELECT n FROM readings GROUP BY 2", "GROUP BY 2: the select list has 1 columns", 33),
        ("SELECT DISTINCT n FROM readings ORDER BY temp", "with DISTINCT, ORDER BY must name selected", 42),
        ("SELECT device FROM readings a, readings b WHERE a.n = b.n", "column 'device' is ambiguous", 8),
        ("SELECT 1 FROM readings a JOIN devices a ON a.n = a.id", "two tables are called 'a'", 31),
        ("SELECT n FROM readings UNION ALL SELECT n, n FROM readings", "1 columns above, 2 here", 41),
        ("SELECT n FROM readings UNION ALL SELECT device FROM readings", "INTEGER above and VARCHAR here", 41),
        ("SELECT * FROM TUMBLE(readings, n, '1m')", "tumble() needs a TIMESTAMP, not INTEGER", 15),
        ("SELECT * FROM HOP(readings, ts, '5m', '1m')", "slide must not be longer than size", 15),
        ("SELECT * FROM TUMBLE(readings, ts)", "size missing; write TUMBLE(topic, time column", 15),
        ("VALUES (1), (1, 2)", "this row has 2 values, expected 1", 14),
        ("SELECT * EXCLUDE (zz) FROM readings", "no column zz", 19),
        ("SELECT _key FROM devices", "no column _key", 8),
    ],
)
def test_a_wrong_query_says_what_and_where(sql: str, message: str, column: int) -> None:
    with pytest.raises(BindError) as caught:
        bound(sql)
    assert message in str(caught.value)
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("sql", "construct"),
    [
        ("SELECT * FROM readings POSITIONAL JOIN devices", "POSITIONAL JOIN"),
        ("SELECT * FROM readings r ASOF JOIN devices d ON r.n >= d.rank", "ASOF JOIN"),
        ("SELECT * FROM readings r RIGHT JOIN LATERAL (SELECT r.n) x ON true", "LATERAL in this join"),
        ("SELECT (n, n) > ALL (SELECT n, n FROM readings) FROM readings", "a comparison of rows with ANY or ALL"),
        ("SELECT n = ANY ([1]) FROM readings", "ANY over a list value"),
        ("SELECT 1 EXCEPT BY NAME SELECT 1", "EXCEPT BY NAME"),
        ("SELECT * FROM readings PIVOT (sum(n) FOR device IN ('a'))", "PIVOT in FROM"),
        ("SELECT * FROM unnest([1])", "UNNEST in FROM"),
        ("SELECT * FROM glob('*')", "the table function glob()"),
        ("UPDATE readings SET n = 1", "UPDATE of a topic"),
        ("DELETE FROM readings", "DELETE of a topic"),
        ("MERGE INTO readings USING devices ON true WHEN MATCHED THEN DELETE", "MERGE of a topic"),
    ],
)
def test_an_unsupported_query_is_named_with_its_place(sql: str, construct: str) -> None:
    with pytest.raises(UnsupportedSQL) as caught:
        bound(sql)
    assert caught.value.construct == construct
    assert (caught.value.line, caught.value.column > 0) == (1, True)
