"""Joins inside fused pipelines give DuckDB's rows, whatever the keys hold; and what they make of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import EvaluationError
from eventdb.physical import fused
from eventdb.physical.compiled_input import ScanInput
from eventdb.physical.lookup import JoinedInput
from tests.physical.engines import plain_kernel

duckdb = pytest.importorskip("duckdb", reason="DuckDB is the oracle of these tests; it is in the dev extra")

BIG = 1 << 40
COLUMNS = "k BIGINT, far BIGINT, s VARCHAR, x DOUBLE, n INTEGER"
FIRST: list[tuple[Any, ...]] = [(1, BIG, "a", 0.5, 1), (None, None, None, None, None), (3, 3 * BIG, "c", 2.5, 3)]
"""Rows of every table, so that each query has one shape: every column has a NULL, and more than one value."""
_key = st.none() | st.integers(-1, 6)
_rows = st.lists(
    st.tuples(
        _key,
        st.none() | st.integers(-1, 4).map(lambda n: n * BIG),
        st.none() | st.sampled_from(["", "a", "b", "c"]),
        st.none() | st.sampled_from([-0.0, 0.5, 1e9, math.nan]),
        _key,
    ),
    max_size=12,
)
_once = _rows.map(lambda rows: list({row[0]: row for row in rows if row[0] not in (1, 3, None)}.values()))
QUERIES = (
    "SELECT d.s, count(*), sum(f.n), min(d.k) FROM f JOIN d ON f.k = d.k GROUP BY d.s",
    "SELECT f.k, d.s, d.x FROM f LEFT JOIN d ON f.k = d.k WHERE f.n > 0",
    "SELECT count(*), count(d.x), max(d.n) FROM f LEFT JOIN d ON f.s = d.s AND f.k = d.k",
    "SELECT count(*), sum(e.n) FROM f JOIN d ON f.k = d.k JOIN e ON d.n = e.k AND f.far < e.far",
    "SELECT f.s, d.n + f.n FROM f JOIN d ON f.far = d.far AND f.k = d.k WHERE f.k < 5",
    "SELECT count(*), min(f.s) FROM f WHERE f.far IN (SELECT far FROM e WHERE n < 4)",
    "SELECT f.k FROM f WHERE NOT EXISTS (SELECT 1 FROM e WHERE e.s = f.s) AND f.n > 0",
    "SELECT v, (SELECT max(n) FROM d WHERE d.k = v) FROM (SELECT f.k + 1 AS v FROM f LIMIT 20) AS q "
    "WHERE v IN (SELECT k FROM e)",
    "SELECT f.k, e.n, f.n FROM f JOIN e ON f.k = e.k AND f.n <> e.n",
    "SELECT f.k, (SELECT sum(e.n) FROM e WHERE e.k = f.k) AS total FROM f WHERE f.n > 1",
)


def key(row: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple("nan" if isinstance(v, float) and math.isnan(v) else repr(0.0 + v if isinstance(v, float) else v)
                 for v in row)  # fmt: skip


def normal(rows: list[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    plain = [tuple(int(v) if hasattr(v, "is_integer") and not isinstance(v, float) else v for v in row) for row in rows]
    return sorted(map(key, plain))


def fill(run: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    def literal(value: Any) -> str:
        if value is None:
            return "NULL"
        return f"'{value}'" + ("::DOUBLE" if isinstance(value, float) else "")

    run(f"INSERT INTO {table} VALUES " + ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(f=_rows, d=_once, e=_rows, threads=st.sampled_from([1, 2]))
def test_joins_of_fused_pipelines_give_the_rows_of_duckdb(f: Any, d: Any, e: Any, threads: int) -> None:
    db, duck = eventdb.open(":memory:", threads=threads), duckdb.connect()
    try:
        for name, rows in (("f", f), ("d", d), ("e", e)):
            db.sql(f"CREATE TOPIC {name} ({COLUMNS})")
            duck.execute(f"CREATE TABLE {name} ({COLUMNS})")
            for run in (db.sql, duck.execute):
                fill(run, name, [*FIRST, *rows])
        for sql in QUERIES:
            expected = normal(duck.execute(sql).fetchall())
            for execution in ("interpreted", "compiled"):
                db.sql(f"SET execution = '{execution}'")
                assert normal(db.sql(sql).fetchall()) == expected, (execution, sql)
    finally:
        db.close()
        duck.close()


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        database.sql(f"CREATE TOPIC f ({COLUMNS})")
        database.sql(f"CREATE TOPIC d ({COLUMNS})")
        database.sql("SET execution = 'compiled'")
        yield database


def lines(db: eventdb.Database, sql: str) -> list[str]:
    return [row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall()]


def test_a_join_to_a_side_of_different_keys_runs_inside_the_fused_pipeline(db: eventdb.Database) -> None:
    fill(db.sql, "f", FIRST * 3)
    fill(db.sql, "d", FIRST)
    found = lines(db, "SELECT d.s, count(*) FROM f JOIN d ON f.k = d.k GROUP BY d.s")
    assert any(line.strip().startswith("Fused Aggregate") and "Join inner" in line and "[compiled]" in line
               for line in found)  # fmt: skip


def test_a_join_to_a_side_whose_keys_repeat_probes_its_table(db: eventdb.Database) -> None:
    fill(db.sql, "f", FIRST * 5)
    fill(db.sql, "d", FIRST * 3)
    found = lines(db, "SELECT f.k, d.n FROM f JOIN d ON f.k = d.k")
    assert any("HashJoin inner" in line for line in found)
    assert any("Built 9 rows" in line for line in found)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*), count(d.k), count(d.s) FROM f LEFT JOIN d ON f.s = d.s", (12, 6, 6)),
        ("SELECT count(*), sum(d.k) FROM f JOIN d ON f.n = d.n AND f.s = d.s", (6, 12)),
        ("SELECT sum(length(s)), count(*) FROM f WHERE upper(s) <> 'C' OR s IS NULL", (6, 9)),
        ("SELECT count(*), count(d.s) FROM f LEFT JOIN d ON f.k = d.k WHERE coalesce(upper(d.s), '') <> 'C'", (9, 3)),
    ],
)
def test_strings_that_are_new_while_a_pipeline_is_written_move_no_code(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch, sql: str, expected: tuple[int, ...]
) -> None:
    """A dictionary that was asked for its size twice had grown between: tables were read past their end."""
    fill(db.sql, "f", [*FIRST, (5, 5, "e", 5.0, 1)] * 3)
    fill(db.sql, "d", FIRST)
    asked = list[int]()

    def grow_after(ask: Any) -> Any:
        def ask_and_append(source: Any, index: int) -> Any:
            found = ask(source, index)
            for table in "fd":
                words = ["e", *(f"new {len(asked)} {n}" for n in range(100))]
                db.topic(table).append_many([{"k": 1, "far": 1, "s": word, "x": 1.0, "n": 1} for word in words])
            asked.append(index)
            return found

        return ask_and_append

    for input in (ScanInput, JoinedInput):
        monkeypatch.setattr(input, "dictionary", grow_after(input.dictionary))
    monkeypatch.setattr(fused, "build_now", plain_kernel)
    assert db.sql(sql).fetchall() == [expected]
    assert asked


def test_an_expression_that_breaks_on_a_partners_value_says_so(db: eventdb.Database) -> None:
    fill(db.sql, "f", FIRST)
    fill(db.sql, "d", [(1, 1, "a", 1.0, 2147483647)])
    with pytest.raises(EvaluationError, match="2147483647"):
        db.sql("SELECT sum(d.n + f.n) FROM f JOIN d ON f.k = d.k").fetchall()


def test_a_held_side_beyond_the_memory_limit_goes_to_disk(db: eventdb.Database) -> None:
    db.sql("SET memory_limit = '8MB'")
    fill(db.sql, "f", FIRST)
    db.topic("d").append_many([{"k": n, "far": n, "s": "a", "x": 0.5, "n": 1} for n in range(200_000)])
    sql = "SELECT f.k, d.n, d.x, d.far FROM f LEFT JOIN d ON f.k = d.k ORDER BY f.k"
    assert "spilled" in "\n".join(lines(db, sql))
    found = [row for row in db.sql(sql).fetchall() if row[0] is not None]
    assert found == [(row[0], 1, 0.5, row[0]) for row in sorted(row for row in FIRST if row[0] is not None)]


def test_the_least_and_greatest_key_of_a_held_side_become_hints_of_the_scan() -> None:
    from eventdb.logical.expressions import ColumnRef
    from eventdb.logical.plan import Join, Scan
    from eventdb.physical.built import build
    from eventdb.physical.staged_joins import narrowed
    from tests.physical.building import MemoryLog, batch_of, scan_of

    batch = batch_of({"k": ("BIGINT", [5, 9, None])})
    scan = scan_of(MemoryLog([batch]))
    type = scan.output[0].type
    for kind, hinted in (("inner", True), ("semi", True), ("left", False), ("anti", False)):
        join = Join(kind, scan, scan, (ColumnRef(type, 0, "k"),), (ColumnRef(type, 0, "k"),))
        left = narrowed(join, build(join, batch)).left
        assert isinstance(left, Scan)
        assert left.hints == ((("k", "ge", 5), ("k", "le", 9)) if hinted else ())


def test_joins_stay_as_written_where_the_rule_is_disabled(db: eventdb.Database) -> None:
    fill(db.sql, "f", FIRST)
    fill(db.sql, "d", FIRST * 3)

    def scanned(sql: str) -> list[str]:
        found = [row[0].strip() for row in db.sql(f"EXPLAIN {sql}").fetchall()]
        physical = found[found.index("physical plan") :]
        return [line.split()[1] for line in physical if line.startswith("Scan")]

    sql = "SELECT f.k, d.n FROM f JOIN d ON f.k = d.k"
    assert scanned(sql) == ["d", "f"]
    db.sql("SET disabled_optimizers = 'order_joins'")
    assert scanned(sql + " ") == ["f", "d"]
