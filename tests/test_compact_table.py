"""Compaction of tables: space comes back, and nothing else changes: not a row, not an offset, not an old snapshot."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.storage import Store
from eventdb.storage.index.entries import segments_of
from tests.limits import SEGMENT_ROWS

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"k": "INTEGER", "s": "VARCHAR", "x": "DOUBLE", "b": "BLOB", "flag": "BOOLEAN NOT NULL"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 16 rows; strings beyond four go plain."""
    for name in SEGMENT_ROWS:
        monkeypatch.setattr(f"eventdb.storage.{name}", 16)
    monkeypatch.setattr("eventdb.storage.segment.cells.DICTIONARY_LIMIT", 6)


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


def test_full_compaction_leaves_the_current_rows_only(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        for n in range(12):
            table.put_many([{"k": k, "n": n} for k in range(100)])
        table.delete(7)
        before = everything(db)
        report = db.compact(full=True)
        assert (report["versions_removed"], report["tables_held"]) == (1_201 - 99, 0)
        assert everything(db) == before
        assert [change.offset for change in table.read()] == [row[0] for row in before]
        assert db.compact(full=True)["versions_removed"] == 0
        table.put({"k": 7, "n": -1})
        assert everything(db) == [*before, everything(db)[-1]]
        assert db.check(deep=True) == []
    with eventdb.open(tmp_path / "db") as db:
        assert db.table("t").get(7) == {"k": 7, "n": -1}
        assert len(db.table("t")) == 100


def test_a_helper_process_compacts_in_the_background_while_rows_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventdb.storage.sealed.seal_process.SEAL_INTERVAL_MS", 50)
    monkeypatch.setattr("eventdb.storage.care.maintenance.CHECKPOINT_INTERVAL_MS", 200)
    path = tmp_path / "db"
    with eventdb.open(path, durability="interval:50ms") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        for n in range(10):
            table.put_many([{"k": k, "n": n} for k in range(20_000)])
        before = size_bytes(path)
        expected = dict.fromkeys(range(20_000), 9)
        deadline = time.monotonic() + 60
        while size_bytes(path) > 0.8 * before and time.monotonic() < deadline:
            for k in range(50):
                table.put({"k": k, "n": k + 100})
                expected[k] = k + 100
            time.sleep(0.02)
        assert size_bytes(path) <= 0.8 * before
        assert dict(db.sql("SELECT k, n FROM t").fetchall()) == expected
        assert db.check(deep=True) == []


KILLED = """
import sys, eventdb
with eventdb.open(sys.argv[1], durability="os") as db:
    print("ready", flush=True)
    while True:
        db.table("t").compact(full=True)
        db.table("t").put({"k": 0, "n": 0})
"""


def test_a_process_killed_while_it_compacts_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    draw = random.Random(5)
    model: dict[int, int] = {}
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        for turn in range(4):
            process = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=ROOT, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            started, stop = time.monotonic(), draw.uniform(0.1, 0.6)
            while time.monotonic() < started + stop:
                rows = [{"k": k, "n": turn} for k in draw.sample(range(1, 200), 40)]
                table.put_many(rows)
                model |= {row["k"]: row["n"] for row in rows}
            process.kill()
            process.wait()
            process.stdout.close()
            found = dict(db.sql("SELECT k, n FROM t WHERE k > 0").fetchall())
            assert found == model
            assert {k: table.get(k) for k in range(1, 200)} == {
                k: {"k": k, "n": model[k]} if k in model else None for k in range(1, 200)
            }
            assert db.check(deep=True) == []
        assert table.compact(full=True)["held"] == 0
    assert not list((tmp_path / "db" / "topics").rglob("*.tmp"))


def test_rows_that_never_were_stay_unseen_when_the_segment_behind_a_short_one_goes(tmp_path: Path) -> None:
    """A segment that was left before it was full ends where the next one begins; that one may be compacted away."""
    with eventdb.open(tmp_path / "db", durability="os") as db:
        for name, retire in (("t", True), ("u", False)):
            table = db.create_table(name, {"k": "BIGINT", "s": "VARCHAR"}, primary_key="k")
            table.put_many([{"k": k, "s": "x"} for k in range(10)])
            table.compact(full=retire)
            table.put({"k": 100, "s": "y" * 3_000})  # too long for a dictionary: the column goes plain in a new segment
            for _ in range(3):
                table.put_many([{"k": k, "s": "z"} for k in range(100, 2_130)])
                table.compact(full=retire)
            assert table.compact(full=retire)["held"] == 0
            keys = [*range(10), *range(100, 2_130)]
            assert sorted(db.sql(f"SELECT k FROM {name}").fetchall()) == [(k,) for k in keys]
        assert db.check(deep=True) == []


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("compacted", [False, True])
def test_a_flipped_bit_of_a_table_is_found_and_no_backup_takes_it(tmp_path: Path, compacted: bool) -> None:
    path = tmp_path / "db"
    with eventdb.open(path, durability="os") as db:
        table = db.create_table("t", {"k": "BIGINT", "s": "VARCHAR", "x": "DOUBLE"}, primary_key="k")
        for n in range(2):
            table.put_many([{"k": k, "s": "long" * 999 if k == 3 else None, "x": n + k / 8} for k in range(600)])
            if compacted:
                db.compact(full=True)
        table.put_many([{"k": k, "s": "", "x": -1.0} for k in range(50)])  # marks change behind a checkpoint
        db.checkpoint()
        table.put({"k": 1, "s": "", "x": -2.0})
        assert db.check(deep=True) == []
    store = Store.open(str(path), read_only=True, live_topics=lambda: {})
    with store.snapshot() as snapshot:
        entries = segments_of(snapshot.transaction())
    segments: list[Any] = [(entry, entry.open(store._files, str(path), store.uuid)) for entry in entries]
    store.close()
    assert any(segment.layout.offsets >= 0 for _, segment in segments) == compacted
    tried = 0
    for entry, segment in segments:
        for (position, length), name in zip(segment.regions(0, entry.rows), segment.region_names(), strict=True):
            if not length:
                continue
            flip(path / entry.path, position + length // 2)
            found = eventdb.check(path, deep=True)
            assert any(f"{name} of rows 0..{entry.rows} does not verify" in text for text in found), (name, found)
            flip(path / entry.path, position + length // 2)
            tried += 1
    assert tried > 8
    assert eventdb.check(path, deep=True) == []
    entry, segment = segments[0]
    with eventdb.open(path) as db:
        db.backup(tmp_path / "good")
        flip(path / entry.path, segment.layout.columns[2].value_position + 8 * 100)
        with pytest.raises(eventdb.CorruptionError):
            db.backup(tmp_path / "bad")
    assert eventdb.check(tmp_path / "good", deep=True) == []
    flip(tmp_path / "good" / entry.path, segment.layout.columns[2].value_position + 8 * 100)
    assert eventdb.check(tmp_path / "good", deep=True) != []
