"""Parts of a plan that stand in it several times run once, and change no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventdb
from eventdb.errors import MemoryLimitExceeded
from eventdb.logical.plan import explain_lines
from eventdb.logical.rules.common_subplans import common_subplans
from eventdb.physical.aggregate import GroupRows
from eventdb.physical.compiled_aggregate import FusedAggregate
from tests.sql.tables import plan_of

G = "SELECT k, sum(v) AS s, count(*) AS n FROM t GROUP BY k"
QUERIES = (
    f"WITH g AS ({G}) SELECT k, s FROM g WHERE s = (SELECT max(s) FROM g) ORDER BY k",
    f"WITH g AS ({G}) SELECT a.k, b.n FROM g a JOIN g b ON a.n = b.n ORDER BY 1, 2",
    f"WITH g AS ({G}) SELECT a.k, count(*) FROM g a JOIN g b ON a.s < b.s GROUP BY a.k ORDER BY 1 LIMIT 7",
    f"WITH g AS ({G}) SELECT k, s FROM g UNION ALL SELECT k, s FROM g UNION ALL SELECT k, n FROM g ORDER BY 1, 2",
    f"WITH g AS ({G}), h AS (SELECT k % 5 AS m, max(s) AS s FROM g GROUP BY 1) "
    "SELECT h.m, h.s, g.k FROM h JOIN g ON h.s = g.s JOIN h x ON x.m = h.m ORDER BY 1, 2, 3",
    f"SELECT * FROM ({G}) q WHERE k IN (SELECT k FROM ({G}) r WHERE s > 100) ORDER BY k",
    "WITH d AS (SELECT DISTINCT word FROM t) SELECT a.word || b.word FROM d a, d b ORDER BY 1",
    "WITH w AS (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v, _offset) AS r FROM t) "
    "SELECT a.k, a.v - b.v FROM w a JOIN w b ON a.k = b.k AND a.r = b.r + 1 WHERE b.r < 3 ORDER BY 1, 2",
    f"WITH l AS (SELECT k, s FROM ({G}) q ORDER BY s, k LIMIT 9) SELECT a.k, b.s FROM l a, l b ORDER BY 1, 2",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9) "
    "SELECT a.x, b.x FROM c a JOIN c b ON a.x = b.x + 1 ORDER BY 1",
    f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < (SELECT count(*) / 50 FROM ({G}) q) AND "
    f"x < (SELECT count(*) / 50 FROM ({G}) q) + 2) SELECT count(*), max(x) FROM c",
    f"WITH g AS ({G}) SELECT (SELECT k FROM g ORDER BY k LIMIT 1), (SELECT count(*) FROM g), max(s) FROM g",
    f"WITH g AS ({G}) SELECT k FROM g EXCEPT SELECT k FROM g WHERE s > 50 ORDER BY 1",
)


def fill(db: Any, rows: int = 4_000) -> None:
    draw = np.random.default_rng(8)
    k = draw.integers(0, 500, rows)
    topic = db.create_topic("t", {"k": "BIGINT", "v": "BIGINT", "word": "VARCHAR"})
    topic.append_batch({"k": k, "v": draw.integers(-50, 90, rows), "word": [f"w{n % 7}" for n in k]})


@pytest.fixture
def db(tmp_path: Path) -> Any:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        fill(db)
        yield db


def test_rows_are_those_of_the_parts_run_by_themselves(db: Any) -> None:
    shared = 0
    for execution in ("interpreted", "compiled"):
        db.sql(f"SET execution = '{execution}'")
        for sql in QUERIES:
            db.sql("SET disabled_optimizers = 'common_subplans'")
            expected = db.sql(sql).fetchall()
            assert "Shared" not in explained(db, sql)
            db.sql("SET disabled_optimizers = DEFAULT")
            assert db.sql(sql).fetchall() == expected, sql
            assert db.sql(sql).fetchall() == expected, sql
            shared += "Shared" in explained(db, sql)

    assert shared >= 20  # of some each place reads other columns


def explained(db: Any, sql: str) -> str:
    return "\n".join(row[0] for row in db.sql(f"EXPLAIN {sql}").fetchall())


def test_a_part_runs_once(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for kind in (GroupRows, FusedAggregate):
        whole = kind.produce
        monkeypatch.setattr(kind, "produce", lambda self, whole=whole: (ran.append(self), whole(self))[1])
    sql = f"WITH g AS ({G}) SELECT a.k FROM g a JOIN g b ON a.k = b.k JOIN g c ON c.k = b.k"
    assert len(db.sql(sql).fetchall()) == 498
    assert len(ran) == 1
    db.sql("SET disabled_optimizers = 'common_subplans'")
    assert len(db.sql(sql).fetchall()) == 498
    assert len(ran) == 1 + 3


def test_rows_beyond_the_budget_go_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.physical.shared._SHARE", 1 << 16)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        fill(db, 200_000)
        sql = (
            "WITH g AS (SELECT _offset AS o, word, sum(v) AS s FROM t GROUP BY 1, 2) "
            "SELECT count(*), sum(s), max(word) FROM (SELECT * FROM g UNION ALL SELECT * FROM g) q"
        )
        found = db.sql(sql).fetchall()
        text = "\n".join(row[0] for row in db.sql(f"EXPLAIN ANALYZE {sql}").fetchall())
        assert "Shared 2 uses (" in text, text
        assert "MB spilled)" in text
        db.sql("SET disabled_optimizers = 'common_subplans'")
        assert db.sql(sql).fetchall() == found


def test_without_a_disk_the_budget_refuses_the_rows(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        fill(db, 100_000)
    sql = (
        "WITH d AS (SELECT DISTINCT _offset AS o, v FROM t) "
        "SELECT count(*) FROM d a JOIN d b ON a.o = b.o AND a.v = b.v"
    )
    with (
        eventdb.open(tmp_path / "a.eventdb", read_only=True, memory_limit="1MB") as db,
        pytest.raises(MemoryLimitExceeded),
    ):
        db.sql(sql)


@pytest.mark.parametrize(
    ("sql", "shared"),
    [
        ("WITH g AS (SELECT x, count(*) AS n FROM plain GROUP BY x) SELECT * FROM g a, g b", 2),
        ("WITH g AS (SELECT x, count(*) AS n FROM plain GROUP BY x) SELECT * FROM g a, g b, g c", 3),
        ("WITH g AS (SELECT x, count(*) AS n FROM plain GROUP BY x) SELECT * FROM g", 0),
        ("WITH g AS (SELECT x FROM plain WHERE x > 1) SELECT * FROM g a, g b", 0),
        ("SELECT * FROM (SELECT max(x) AS m FROM plain) a, (SELECT min(x) AS m FROM plain) b", 0),
        ("SELECT * FROM (SELECT max(x) AS m FROM plain WHERE at < now()) a, "
         "(SELECT max(x) AS m FROM plain WHERE at < now()) b", 0),
        ("SELECT * FROM (SELECT DISTINCT x FROM plain) a, (SELECT DISTINCT x FROM plain) b", 2),
    ],
)  # fmt: skip
def test_common_subplans_shares_what_is_equal_and_costs(sql: str, shared: int) -> None:
    plan = common_subplans(plan_of(sql))
    lines = [line.strip() for line in explain_lines(plan) if "Shared" in line]
    assert lines == [f"Shared {shared} uses"] * shared
    assert common_subplans(plan) == plan
    assert plan.fields == plan_of(sql).fields
