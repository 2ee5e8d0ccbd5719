"""EXPLAIN (FORMAT JSON): the fields, what they say, and that they agree with EXPLAIN and with the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import eventdb

NODE = {"operator", "label", "columns", "most_rows", "children"}


@pytest.fixture(scope="module")
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as opened:
        opened.create_topic("t", {"a": "BIGINT NOT NULL", "b": "VARCHAR"}, partitions=2)
        opened.topic("t").append_many([{"a": i, "b": f"b{i % 7}"} for i in range(1000)])
        opened.create_table("k", {"id": "BIGINT", "name": "VARCHAR"}, primary_key="id")
        opened.table("k").put_many([{"id": i, "name": f"b{i}"} for i in range(5)])
        yield opened


def explained(db: eventdb.Database, text: str) -> Any:
    result = db.sql(text)
    assert (result.columns, len(result)) == (["plan"], 1)
    return json.loads(result.fetchall()[0][0])


def nodes(tree: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    yield depth, tree
    for child in tree["children"]:
        yield from nodes(child, depth + 1)


QUERIES = [
    "SELECT b, count(*) AS n, avg(a) FROM t WHERE a > 10 GROUP BY b ORDER BY n DESC LIMIT 3",
    "SELECT t.a FROM t JOIN k ON t.b = k.name WHERE k.id = 3",
    "SELECT DISTINCT b FROM t UNION ALL SELECT name FROM k LIMIT 9 OFFSET 2",
    "SELECT a FROM t WHERE b IN (SELECT name FROM k) AND a < 0",
    "SELECT count(*) FROM t LEFT JOIN k ON k.id = t.a",
    "VALUES (1), (2)",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
]


@pytest.mark.parametrize("execution", ["interpreted", "compiled"])
@pytest.mark.parametrize("query", QUERIES)
def test_the_json_says_what_the_text_says_and_what_was_run(db: eventdb.Database, query: str, execution: str) -> None:
    db.sql(f"SET execution = '{execution}'")
    plain = explained(db, f"EXPLAIN (FORMAT JSON) {query}")
    assert plain.keys() == {"version", "logical", "physical"}
    assert plain["version"] == 1
    text = [line for (line,) in db.sql(f"EXPLAIN {query}")]
    cut = text.index("physical plan")
    assert [f"{'  ' * (depth + 1)}{node['label']}" for depth, node in nodes(plain["logical"])] == text[1:cut]
    physical = [f"{'  ' * (d + 1)}{node['label']} [{node['engine']}]" for d, node in nodes(plain["physical"])]
    assert physical == text[cut + 1 :]
    assert all(node.keys() == NODE for _, node in nodes(plain["logical"]))
    assert all(node.keys() == NODE | {"engine", "actual"} for _, node in nodes(plain["physical"]))
    assert all(node["actual"] is None for _, node in nodes(plain["physical"]))

    rows = db.sql(query)
    run = explained(db, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
    assert run.keys() == {"version", "logical", "physical", "row_count", "elapsed_ms"}
    assert run["row_count"] == len(rows)
    assert run["elapsed_ms"] >= run["physical"]["actual"]["total_ms"] > 0
    assert [(c["name"], c["type"]) for c in run["physical"]["columns"]] == [
        (name, str(type)) for name, type in zip(rows.columns, rows.types, strict=True)
    ]
    for _, node in nodes(run["physical"]):
        actual = node["actual"]
        assert actual.keys() == {"row_count", "batch_count", "own_ms", "total_ms", "memory_bytes"}
        assert node["most_rows"] is None or actual["row_count"] <= node["most_rows"]
    assert run["physical"]["actual"]["row_count"] == len(rows)


def test_bounds_follow_from_what_is_known(db: eventdb.Database) -> None:
    def bound(query: str) -> Any:
        return explained(db, f"EXPLAIN (FORMAT JSON) {query}")["logical"]["most_rows"]

    assert bound("SELECT a FROM t") == 1000
    assert bound("SELECT a FROM t WHERE b = 'x' ORDER BY a LIMIT 5") == 5
    assert bound("SELECT count(*) FROM t") == 1
    assert bound("SELECT * FROM k WHERE id IN (1, 2)") == 2
    assert bound("SELECT a FROM t OFFSET 990") == 10
    assert bound("SELECT t.a FROM t, k") == 5000
    assert bound("SELECT a FROM t UNION ALL SELECT id FROM k WHERE id = 1") == 1001
    assert bound("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n FROM r) SELECT * FROM r") is None


def test_options_stand_in_any_order_and_a_query_may_stand_in_parentheses(db: eventdb.Database) -> None:
    for options in ("(FORMAT JSON, ANALYZE)", "(analyze true, format json)", "ANALYZE (FORMAT JSON)"):
        assert explained(db, f"EXPLAIN {options} SELECT 1")["row_count"] == 1
    assert "row_count" not in explained(db, "EXPLAIN (ANALYZE FALSE, FORMAT JSON) SELECT 1")
    assert db.sql("EXPLAIN (FORMAT TEXT) SELECT 1").fetchone() == db.sql("EXPLAIN (SELECT 1)").fetchone()
    assert explained(db, "EXPLAIN (FORMAT JSON) UPDATE k SET name = 'x' WHERE id = 1")["logical"]["most_rows"] == 1
    for wrong in ("(FORMAT XML)", "(FORMAT JSON ANALYZE)", "(FORMAT JSON, COSTS)", "(FORMAT"):
        with pytest.raises(eventdb.ParseError):
            db.sql(f"EXPLAIN {wrong} SELECT 1")
