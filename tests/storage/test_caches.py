"""What a process keeps of a log in memory never outlives its truth, nor the file's."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.storage import snapshot as snapshot_module


def rows_of(snapshot: Any, log: Any, start: int, stop: int) -> list[tuple[int, int]]:
    return [(offset, row[0]) for chunk in snapshot.rows(log, start, stop) for offset, _, row in chunk]


@pytest.mark.parametrize("how", ["replaced", "forgotten"])
def test_the_newest_segment_changes_under_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"a": "BIGINT"})
        topic.append_many([{"a": i} for i in range(500)])
        log, overlap = topic._log, snapshot_module._overlap
        with topic._store.snapshot() as old:
            assert rows_of(old, log, 0, 3) == [(0, 0), (1, 1), (2, 2)]

            def between(*arguments: Any) -> bool:
                monkeypatch.setattr(snapshot_module, "_overlap", overlap)
                if how == "forgotten":
                    log.newest = None
                else:
                    topic.append_many([{"a": 10_000 + i} for i in range(3_000)])
                    with topic._store.snapshot() as new:
                        assert rows_of(new, log, 3_400, 3_402) == [(3_400, 12_900), (3_401, 12_901)]
                return overlap(*arguments)

            monkeypatch.setattr(snapshot_module, "_overlap", between)
            assert rows_of(old, log, 0, 3) == [(0, 0), (1, 1), (2, 2)]


def test_removed_files_are_not_kept_mapped(tmp_path: Path) -> None:
    def unlinked() -> set[str]:
        gc.collect()
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line for line in lines if str(tmp_path) in line and "(deleted)" in line and ".seg" in line}

    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"k": "BIGINT", "v": "BIGINT"}, key="k")
        for _ in range(3):
            topic.append_batch({"k": list(range(70_000)), "v": [0] * 70_000})
        for key in (5, 6, 7):
            assert db.sql("SELECT count(*) FROM t WHERE k = $k", k=key).fetchone() == (3,)
        topic.delete_before(topic.offsets()[1] - 1)
        db.checkpoint()
        assert not unlinked()
        table = db.create_table("u", {"k": "BIGINT", "v": "BIGINT"}, primary_key="k")
        for round_number in range(3):
            for _ in range(4):
                table.put_many([{"k": k, "v": round_number} for k in range(9_000)])
            for k in range(0, 9_000, 500):
                table.put({"k": k, "v": -1})
                assert table.get(k) == {"k": k, "v": -1}
            table.compact(full=True)
        table.put({"k": 1, "v": 1})
        assert table.get(1) == {"k": 1, "v": 1}
        assert table.get(2) == {"k": 2, "v": 2}
        assert table.get(3) == {"k": 3, "v": 2}
        held = len(unlinked())
        assert held <= 2, held


def test_scrap_behind_the_tail_is_looked_at_once(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"a": "BIGINT"})
        topic.append({"a": 1})
        writer: Any = topic._store._writer
        writer.files.pwrite(writer.journal.file.fd, b"EVJ!scrapscrapscrap" * 3, writer.tail.position)
        db.checkpoint()
        before = writer.checkpoints
        db.checkpoint()
        assert writer.checkpoints == before
        topic.append({"a": 2})
        assert [event["a"] for event in topic.read()] == [1, 2]
