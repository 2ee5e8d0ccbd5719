"""Compaction of tables: space comes back, and nothing else changes: not a row, not an offset, not an old snapshot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"k": "INTEGER", "s": "VARCHAR", "x": "DOUBLE", "b": "BLOB", "flag": "BOOLEAN NOT NULL"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 16 rows; strings beyond four go plain."""
    for name in ("segment.FIRST_SEGMENT_ROWS", "segment.MAX_SEGMENT_ROWS", "transaction.MAX_SEGMENT_ROWS"):
        monkeypatch.setattr(f"eventdb.storage.{name}", 16)
    monkeypatch.setattr("eventdb.storage.transaction.DICTIONARY_LIMIT", 6)


def row(k: int, n: int) -> dict[str, Any]:
    return {
        "k": k, "s": None if n % 7 == 0 else f"s{n % 9}", "x": None if n % 5 == 0 else n / 4,
        "b": None if n % 3 == 0 else bytes([n % 256]) * (n % 40), "flag": n % 2 == 0,
    }  # fmt: skip


def everything(source: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = source.sql("SELECT _offset, _append_time, * FROM t ORDER BY _offset").fetchall()
    return found


def size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "topics").rglob("*.seg"))


@pytest.mark.usefixtures("small")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(st.integers(0, 20), min_size=1, max_size=30)),
            st.tuples(st.just("delete"), st.lists(st.integers(0, 20), min_size=1, max_size=10)),
            st.tuples(st.just("compact"), st.just([0])),
            st.tuples(st.just("snapshot"), st.just([0])),
            st.tuples(st.just("release"), st.just([0])),
        ),
        max_size=25,
    )
)
def test_compaction_changes_no_row_no_offset_and_no_snapshot(steps: list[tuple[str, list[int]]]) -> None:
    with eventdb.open(":memory:") as db:
        table = db.create_table("t", COLUMNS, primary_key="k")
        snapshots: list[tuple[Any, list[tuple[Any, ...]]]] = []
        serial = 0
        for what, keys in steps:
            if what == "put":
                table.put_many([row(k, serial + i) for i, k in enumerate(keys)])
                serial += len(keys)
            elif what == "delete":
                table.delete_many(keys)
            elif what == "snapshot":
                snapshots.append((db.snapshot(), everything(db)))
            elif what == "release" and snapshots:
                snapshots.pop(0)[0].close()
            elif what == "compact":
                before, by_key = everything(db), {k: table.get(k) for k in range(21)}
                table.compact()
                assert everything(db) == before
                assert {k: table.get(k) for k in range(21)} == by_key
                db.sql("SET execution = compiled")
                assert everything(db) == before
                assert db.sql("SELECT count(*), sum(_offset), max(_offset) FROM t").fetchall()[0][0] == len(before)
                db.sql("SET execution = auto")
                assert db.check(deep=True) == []
        for snapshot, expected in snapshots:
            assert everything(snapshot) == expected
            snapshot.close()


def test_space_comes_back_once_no_snapshot_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "x": "DOUBLE"}, primary_key="k")
        for number in range(40):
            table.put_many([{"k": k, "x": k + number} for k in range(1_000)])
        before, expected = size_bytes(path), everything(db)
        old = db.snapshot()
        seen = everything(old)
        table.put({"k": 0, "x": -1.0})
        assert table.compact()["held"] == 1
        assert size_bytes(path) == before
        assert everything(old) == seen
        old.close()
        found = table.compact()
        assert found["removed"] > 15_000
        assert found["held"] == 0
        assert size_bytes(path) < before - 20_000 * 25  # of 21,504 rows in full segments; the newest stays as it is
        assert [r for r in everything(db) if r[2]] == [r for r in expected if r[2]]
        assert [change.offset for change in table.read()][-1] == 40_000
        assert table.compact()["segments"] == 0
    with eventdb.open(path) as db:
        assert [r for r in everything(db) if r[2]] == [r for r in expected if r[2]]
        assert db.check(deep=True) == []
        assert db.table("t").get(0) == {"k": 0, "x": -1.0}


def test_a_changelog_without_its_removed_versions_still_gives_the_table(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        for n in range(30):
            table.put_many([{"k": k, "n": n} for k in range(100)])
            table.delete_many(range(0, 100, 3))
        before = {change.offset: (change.op, change.row) for change in table.read()}
        assert table.compact()["removed"] > 0
        after = {change.offset: (change.op, change.row) for change in table.read()}
        assert len(after) < len(before)
        assert after.items() <= before.items()
        replayed: dict[int, int] = {}
        for op, found in after.values():
            if op == "put":
                replayed[found["k"]] = found["n"]
            else:
                replayed.pop(found["k"], None)
        assert replayed == {r["k"]: r["n"] for r in table.rows()}
        assert next(table.read(start=3_000)).offset >= 3_000


WRITER = """
import sys, eventdb
with eventdb.open(sys.argv[1], durability="os") as db:
    table = db.table("t")
    for n in range(1, 60):
        table.put_many([{"k": k, "n": n} for k in range(100)])
        db.sql("UPDATE t SET m = m + 1 WHERE k = 1000")
"""


def test_one_process_compacts_while_another_updates(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT", "m": "BIGINT"}, primary_key="k")
        table.put_many([{"k": k, "n": 0} for k in range(100)])
        table.put({"k": 1000, "m": 0})
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT)
        removed = 0
        while writer.poll() is None:
            removed += table.compact()["removed"]
            assert db.sql("SELECT count(*), count(DISTINCT k) FROM t").fetchall() == [(101, 101)]
        assert writer.wait() == 0
        removed += table.compact()["removed"]
        assert removed > 3_000
        assert db.sql("SELECT k, n, m FROM t WHERE k = 1000 OR n <> 59").fetchall() == [(1000, None, 59)]
        assert db.check(deep=True) == []


@pytest.mark.usefixtures("small")
def test_repair_keeps_rows_that_the_index_of_keys_finds_through_a_lost_segment(tmp_path: Path) -> None:
    """The index names an old version of a row; its file is lost, the newest version is not."""
    with eventdb.open(tmp_path / "db") as db:
        table = db.create_table("t", {"k": "INTEGER", "n": "INTEGER"}, primary_key="k")
        table.put_many([{"k": k, "n": 0} for k in range(16)])
        table.put_many([{"k": k, "n": 1} for k in range(100, 110)])
        table.put_many([{"k": 0, "n": 2}])
        for n in (3, 4):
            table.put({"k": 1, "n": n})  # by marks alone
    (file,) = (tmp_path / "db" / "topics").rglob("0" * 20 + ".seg")
    file.unlink()
    with pytest.raises(eventdb.CorruptionError):
        eventdb.repair(tmp_path / "db")
    report = eventdb.repair(tmp_path / "db", accept_loss=True)
    assert "14 of its 26 rows" in report["lost"][0]
    with eventdb.open(tmp_path / "db") as db:
        expected = [{"k": k, "n": 1} for k in range(100, 110)] + [{"k": 0, "n": 2}, {"k": 1, "n": 4}]
        assert list(db.table("t").rows()) == expected
        assert [db.table("t").get(k) for k in (0, 1, 2)] == [{"k": 0, "n": 2}, {"k": 1, "n": 4}, None]
        assert db.check(deep=True) == []
