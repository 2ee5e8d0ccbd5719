"""Care of everything there is to store: sealed and raw segments, partitions, headers, trimmed topics, tables."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import CorruptionError, OffsetOutOfRange, UnsupportedError, UsageError
from tests.limits import SEGMENT_ROWS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 64 rows, blocks of 32."""
    for name in SEGMENT_ROWS:
        monkeypatch.setattr(f"eventdb.storage.{name}", 64)
    monkeypatch.setattr("eventdb.storage.sealed.seal.SEALED_BLOCK_ROWS", 32)
    for name in ("sealed.sealer.MAX_SEGMENT_ROWS", "tables.compact.MAX_SEGMENT_ROWS"):
        monkeypatch.setattr(f"eventdb.storage.{name}", 256)


def row(n: int) -> dict[str, Any]:
    return {"k": f"k{n % 11}", "n": n, "text": None if n % 5 == 0 else f"some text {n * 7919}"}


COLUMNS = {"k": "VARCHAR", "n": "BIGINT NOT NULL", "text": "VARCHAR"}


def build(path: Path) -> eventdb.Database:
    db = eventdb.open(path, durability="os")
    log = db.create_topic("log", COLUMNS)
    log.append_many([row(n) for n in range(500)])
    parts = db.create_topic("parts", COLUMNS, key="k", partitions=3)
    for n in range(400):
        parts.append(row(n), headers={"h": b"%d" % n} if n % 3 == 0 else None)
    trimmed = db.create_topic("trimmed", {"n": "BIGINT"})
    trimmed.append_many([{"n": n} for n in range(400)])
    trimmed.delete_before(150)
    table = db.create_table("t", {"id": "INTEGER", "s": "VARCHAR", "x": "DOUBLE"}, primary_key="id")
    change(table, 0, 300)
    db.compact(full=True)
    table.compact()
    change(table, 300, 340)
    more(db, 1000)
    return db


def change(table: Any, start: int, stop: int) -> None:
    for n in range(start, stop):
        table.put({"id": n % 90, "s": f"s{n % 7}", "x": n / 2})
        if n % 10 == 3:
            table.delete((n * 3) % 90)


def more(db: eventdb.Database, first: int) -> None:
    db.topic("log").append_many([row(n) for n in range(first, first + 100)])
    for n in range(first, first + 40):
        db.topic("parts").append(row(n), headers={"h": b"%d" % n})
    db.topic("trimmed").append_many([{"n": n} for n in range(first, first + 20)])


def content(db: eventdb.Database) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("log", "parts", "trimmed"):
        found[name] = sorted(
            (e.partition, e.offset, e.append_time, tuple(e.row.values()), e.headers) for e in db.topic(name).read()
        )
        found[name, "sql"] = sorted(db.sql(f"SELECT _partition, _offset, n FROM {name}").fetchall())
    found["t"] = sorted(db.sql("SELECT _offset, id, s, x FROM t").fetchall())
    found["keys"] = [(i, r and dict(r)) for i in range(90) for r in [db.table("t").get(i)]]
    return found


def opened(path: Path) -> dict[str, Any]:
    with eventdb.open(path, read_only=True) as db:
        assert db._store.check(deep=True) == []
        return content(db)


def stored(path: Path) -> set[str]:
    return {p.relative_to(path).as_posix() for p in (path / "topics").rglob("*") if p.is_file()}


def test_a_database_of_everything_checks_clean_and_counts_its_bytes(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        names = stored(tmp_path / "db")
        assert any(n.endswith(".col") for n in names)
        assert any(re.search(r"-\d+\.seg$", n) for n in names), names
        assert db._store.check(deep=True) == []
        db.checkpoint()
        assert db.check(deep=True) == []
        stats: Any = db.stats()
        assert stats["topics"]["parts"] == 440
        assert stats["topic_bytes"]["log"] > 0
        before = content(db)
        db.compact(full=True)
        db.checkpoint()
        db.topic("log").delete_before(300)
        db.topic("trimmed").append_many([{"n": n} for n in range(300)])
        db.checkpoint()
        db.topic("trimmed").delete_before(600)
        db.checkpoint()
        assert db._store.check(deep=True) == []
        with db._store.snapshot() as snapshot:
            from eventdb.storage.format import SEGMENT_KEY, segment_key
            from eventdb.storage.index.kv import scan
            from eventdb.storage.sealed.sealed import is_sealed

            txn = snapshot.transaction()
            for key, _ in scan(txn, b"c"):
                value = txn.get(segment_key(*SEGMENT_KEY.unpack(key)[1:]))
                assert value is not None
                assert not is_sealed(value)
        assert content(db)["parts"] == before["parts"]
    assert opened(tmp_path / "db")["log"] == [one for one in before["log"] if one[1] >= 300]


def test_a_backup_of_everything_equals_the_original_at_its_moment_also_an_incremental_one(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
        db.backup(tmp_path / "backup")
        assert opened(tmp_path / "backup") == expected
        assert db.backup(tmp_path / "backup")["bytes_copied"] == 0
        for turn in range(4):
            more(db, 2000 + turn * 100)
            change(db.table("t"), 400 + turn * 70, 450 + turn * 70)
            if turn % 2:
                db.compact(full=True)
            if turn == 2:
                db.table("t").compact()
                db.topic("log").delete_before(200)
                db.retain()
            expected = content(db)
            assert db.backup(tmp_path / "backup")["incremental"]
            assert opened(tmp_path / "backup") == expected, turn
        db.backup(tmp_path / "other")
        assert opened(tmp_path / "other") == expected
        assert stored(tmp_path / "other") == stored(tmp_path / "backup")
    with eventdb.open(tmp_path / "backup", durability="os") as db:
        more(db, 9000)
        change(db.table("t"), 900, 960)
        assert db._store.check(deep=True) == []


def test_marks_made_while_a_backup_runs_are_not_in_it(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        db.backup(tmp_path / "backup")
        change(db.table("t"), 500, 520)
        calls = 0

        def copy_catalog(path: str) -> set[int]:
            nonlocal calls
            calls += 1
            change(db.table("t"), 520, 620)
            if target == "compacted" and calls == 1:
                db.table("t").compact()
                db.compact(full=True)
            return db._catalog.copy_to(path)

        for target in ("backup", "fresh", "compacted"):
            calls = 0
            expected = content(db)
            db._store.backup(str(tmp_path / target), copy_catalog)
            with eventdb.open(tmp_path / target, durability="os") as copy:
                assert copy._store.check(deep=True) == []
                assert calls == 1 + (target == "compacted")
                assert calls == 2 or content(copy) == expected
                kept = copy.sql("SELECT * FROM t WHERE id < 90 ORDER BY id").fetchall()
                for n in range(400):  # beyond the offsets that later commits of the source marked rows with
                    copy.table("t").put({"id": 2000 + n, "s": "new", "x": 1.0})
                assert copy.sql("SELECT * FROM t WHERE id < 90 ORDER BY id").fetchall() == kept
                assert copy._store.check(deep=True) == []


@pytest.mark.parametrize("end", [0, 1, 31, 32, 100, 255, 256, 257, 499, 500, 550, 600])
def test_a_sealed_log_ends_at_the_offset_and_goes_on_from_it(tmp_path: Path, end: int) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
        db.backup(tmp_path / "backup")
    eventdb.restore(tmp_path / "backup", tmp_path / "again", to_offset={"log": end})
    expected["log"] = [one for one in expected["log"] if one[1] < end]
    expected["log", "sql"] = [one for one in expected["log", "sql"] if one[1] < end]
    assert opened(tmp_path / "again") == expected
    with eventdb.open(tmp_path / "again", durability="os") as db:
        assert db.topic("log").append(row(7)).offset == end
        more(db, 5000)
        db.compact(full=True)
        assert db._store.check(deep=True) == []
        found = [e.row["n"] for e in db.topic("log").read()]
        assert found == [one[3][1] for one in expected["log"]] + [7, *range(5000, 5100)]
        assert db.sql("SELECT count(*), max(n) FROM log").fetchall() == [(len(found), 5099)]
        db.backup(tmp_path / "next")
    assert [one[3][1] for one in opened(tmp_path / "next")["log"]] == found


def test_several_partitions_end_at_an_offset_each_with_their_headers(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
        db.backup(tmp_path / "backup")
    for wrong, error, words in (
        ({"parts": 5}, UsageError, "3 partitions"),
        ({"parts": {3: 5}}, UsageError, "partitions 0 to 2"),
        ({"parts": {1: 10_000}}, OffsetOutOfRange, "partition 1"),
        ({"parts": {1: "x"}}, UsageError, "not an integer"),
        ({"t": 5}, UnsupportedError, r"table 't' to its state at offset 5: .* compacted away"),
    ):
        with pytest.raises(error, match=words):
            eventdb.restore(tmp_path / "backup", tmp_path / "no", to_offset=wrong)
        assert not (tmp_path / "no").exists()
    ends = {0: 50, 2: 7}
    eventdb.restore(tmp_path / "backup", tmp_path / "again", to_offset={"parts": ends})
    for name in ("parts", ("parts", "sql")):
        expected[name] = [one for one in expected[name] if one[1] < ends.get(one[0], 10_000)]
    assert opened(tmp_path / "again") == expected
    with eventdb.open(tmp_path / "again") as db:
        for n in range(200):
            db.topic("parts").append(row(n), headers={"again": b"%d" % n})
        assert db._store.check(deep=True) == []
        seen = [e for e in db.topic("parts").read() if e.headers and e.headers[0][0] == "again"]
        assert [e.headers[0][1] for e in sorted(seen, key=lambda e: e.row["n"])] == [b"%d" % n for n in range(200)]
    eventdb.restore(tmp_path / "backup", tmp_path / "bare", to_offset={"parts": ends})
    with eventdb.open(tmp_path / "bare") as db:
        for n in range(50_000, 50_300):
            db.topic("parts").append(row(n))
        assert not [e for e in db.topic("parts").read() if e.row["n"] >= 50_000 and e.headers]


def test_a_time_cuts_every_partition_and_sealed_rows(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        before = content(db)
        newest = max(one[2] for one in before["log"])
        db.backup(tmp_path / "with_table")
        db.drop_table("t") if hasattr(db, "drop_table") else db.sql("DROP TABLE t")
        db.backup(tmp_path / "backup")
    times = sorted({one[2] for name in ("log", "parts", "trimmed") for one in before[name]})
    with pytest.raises(UnsupportedError, match=r"table 't' .* compacted away"):
        eventdb.restore(tmp_path / "with_table", tmp_path / "no", to_time=times[5])
    eventdb.restore(tmp_path / "with_table", tmp_path / "all", to_time=newest + dt.timedelta(hours=1))
    assert opened(tmp_path / "all") == before
    for i, moment in enumerate([times[0], times[len(times) // 3], times[len(times) // 2], times[-1]]):
        path = tmp_path / f"again{i}"
        eventdb.restore(tmp_path / "backup", path, to_time=moment)
        with eventdb.open(path) as db:
            assert db._store.check(deep=True) == []
            for name in ("log", "parts", "trimmed"):
                found = sorted((e.partition, e.offset, e.append_time, tuple(e.row.values()), e.headers)
                               for e in db.topic(name).read())  # fmt: skip
                assert found == [one for one in before[name] if one[2] <= moment], (name, i)


def test_a_time_cuts_raw_rows_that_were_appended_in_bulk(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        log = db.create_topic("log", COLUMNS)
        for start in range(0, 900, 300):
            log.append_many([row(n) for n in range(start, start + 300)])
        times = [event.append_time for event in log.read()]
        db.backup(tmp_path / "backup")
    for number, moment in enumerate(sorted(set(times))):
        eventdb.restore(tmp_path / "backup", tmp_path / f"at{number}", to_time=moment)
        with eventdb.open(tmp_path / f"at{number}") as db:
            assert [e.append_time for e in db.topic("log").read()] == [t for t in times if t <= moment]
            assert db._store.check(deep=True) == []


# --- damage -----------------------------------------------------------------------------------------------------------


def sealed_file(path: Path) -> Path:
    return sorted((path / "topics" / "1" / "0").glob("*.col"))[0]


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x55
    file.write_bytes(data)


def test_a_damaged_block_is_found_by_a_deep_check_stops_a_backup_and_is_named_by_repair(tmp_path: Path) -> None:
    build(tmp_path / "db").close()
    file = sealed_file(tmp_path / "db")
    flip(file, 1024)
    with eventdb.open(tmp_path / "db") as db:
        (problem,) = db._store.check(deep=True)
        assert problem.startswith("topic 1/0: segment 0:")
        with pytest.raises(CorruptionError, match="nothing was backed up"):
            db.backup(tmp_path / "backup")
    with pytest.raises(CorruptionError, match=r"topic 1/0: offsets 0\.\.\d+: .*block \d of"):
        eventdb.repair(tmp_path / "db")
    report = eventdb.repair(tmp_path / "db", accept_loss=True)
    assert "the rows are kept" in report["lost"][0]


def test_a_damaged_header_of_a_sealed_file_is_written_anew(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
    flip(sealed_file(tmp_path / "db"), 30)
    with eventdb.open(tmp_path / "db") as db:
        assert db._store.check() != []
    assert eventdb.repair(tmp_path / "db")["lost"] == []
    assert opened(tmp_path / "db") == expected


@pytest.mark.parametrize("harm", ["gone", "directory"])
def test_a_missing_sealed_file_costs_the_shorter_side_and_is_named(tmp_path: Path, harm: str) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
    file = sealed_file(tmp_path / "db")
    if harm == "gone":
        file.unlink()
    else:
        flip(file, len(file.read_bytes()) - 10)
    with pytest.raises(CorruptionError, match=r"topic 1/0: offsets 0\.\.256, because \S+\.col is missing"):
        eventdb.repair(tmp_path / "db")
    eventdb.repair(tmp_path / "db", accept_loss=True)
    for name in ("log", ("log", "sql")):
        expected[name] = [one for one in expected[name] if one[1] >= 256]
    assert opened(tmp_path / "db") == expected


def test_a_missing_segment_of_a_table_costs_its_rows_only(tmp_path: Path) -> None:
    with build(tmp_path / "db") as db:
        expected = content(db)
        topic_id = db._catalog.topic("t").id
    files = sorted((tmp_path / "db" / "topics" / str(topic_id) / "0").iterdir())
    for number, file in enumerate(files):
        path = tmp_path / f"db{number}"
        shutil.copytree(tmp_path / "db", path)
        (path / file.relative_to(tmp_path / "db")).unlink()
        with pytest.raises(CorruptionError, match=rf"topic {topic_id}/0: offsets .*a table, \d+ of its"):
            eventdb.repair(path)
        report = eventdb.repair(path, accept_loss=True)
        named = re.search(r"offsets (\d+)\.\.(\d+)", report["lost"][0])
        assert named is not None
        first, stop = int(named[1]), int(named[2])
        found = opened(path)
        assert found["t"] == [one for one in expected["t"] if not first <= one[0] < stop]
        assert found["log"] == expected["log"]
        with eventdb.open(path) as db:
            change(db.table("t"), 700, 800)
            assert db._store.check(deep=True) == []


def test_a_deep_check_is_made_in_this_process_where_no_other_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "db").close()
    copy = tmp_path / "python"
    copy.write_text("#!/bin/sh\nexit 1\n")
    for mode in (0o600, 0o700):
        copy.chmod(mode)
        if mode == 0o600 and os.geteuid() == 0 and os.access(copy, os.X_OK):
            continue
        monkeypatch.setattr(sys, "executable", str(copy))
        with eventdb.open(tmp_path / "db") as db:
            assert db.check(deep=True) == []
        assert eventdb.check(tmp_path / "db", deep=True) == []
        file = sealed_file(tmp_path / "db")
        flip(file, 1024)
        with eventdb.open(tmp_path / "db") as db:
            assert len(db.check(deep=True)) == 1
        flip(file, 1024)
    assert subprocess.run([str(copy)]).returncode == 1
