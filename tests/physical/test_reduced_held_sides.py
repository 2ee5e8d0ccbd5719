"""Semi and anti joins whose held side is reduced first give the rows DuckDB gives, and those without the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import eventdb

QUERIES = (
    "SELECT id FROM few WHERE g < 4 AND EXISTS (SELECT 1 FROM many m WHERE m.k = few.k AND m.v > few.g)",
    "SELECT id FROM few WHERE g < 4 AND NOT EXISTS (SELECT 1 FROM many m WHERE m.k = few.k AND m.v <> few.g)",
    "SELECT id FROM few WHERE g < 4 AND EXISTS (SELECT 1 FROM many m WHERE m.k = few.k AND m.v > 3 AND m.v <> few.g) "
    "AND NOT EXISTS (SELECT 1 FROM many m WHERE m.k = few.k AND m.v > few.g + 5)",
    "SELECT id, name FROM few WHERE g = 2 AND "
    "EXISTS (SELECT 1 FROM many m WHERE word = name AND v < 8 AND v + id > 300)",
    "SELECT count(*), sum(id) FROM few WHERE g < 3 AND "
    "EXISTS (SELECT 1 FROM many m WHERE word = name AND m.k = few.k AND v <> g)",
)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("eventdb.logical.rules.reduce_held_sides.COMPILE_MIN_ROWS", 100)
    draw = np.random.default_rng(4)
    k, v = draw.integers(0, 900, 9_000), draw.integers(0, 10, 9_000)
    many = pa.table({"k": pa.array(k, mask=k % 50 == 0), "v": v, "word": [f"n{n % 41}" for n in k]})
    k = draw.integers(0, 1_200, 700)
    few = pa.table(
        {
            "id": np.arange(700), "g": draw.integers(0, 10, 700), "k": pa.array(k, mask=k % 7 == 0),
            "name": pa.array([None if n % 9 == 0 else f"n{n % 60}" for n in k]),
        }
    )  # fmt: skip
    peer = duckdb.connect()
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        for name, table in (("many", many), ("few", few)):
            db.create_topic(name, like=table).append_batch(table)
            peer.register(name, table)
        db.sql("SET execution = 'compiled'")
        yield db, peer


def test_rows_are_those_of_duckdb(both: Any) -> None:
    db, peer = both
    for sql in QUERIES:
        expected = sorted(peer.execute(sql).fetchall(), key=repr)
        plan = "\n".join(row[0] for row in db.sql(f"EXPLAIN {sql}").fetchall())
        assert "Shared 2 uses" in plan, sql
        assert sorted(db.sql(sql).fetchall(), key=repr) == expected, sql
        db.sql("SET disabled_optimizers = 'reduce_held_sides'")
        assert "Shared" not in "\n".join(row[0] for row in db.sql(f"EXPLAIN {sql}").fetchall())
        assert sorted(db.sql(sql).fetchall(), key=repr) == expected, sql
        db.sql("SET disabled_optimizers = DEFAULT")
