"""A repaired database opens, holds everything that was not named as lost, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import CorruptionError, DatabaseLocked, EventDBError, NotADatabase
from tests.storage.test_live_pages import reached
from tests.storage.test_rot import lose_power


def fill(path: Path) -> None:
    with eventdb.open(path) as db:
        log = db.create_topic("log", {"n": "BIGINT NOT NULL", "word": "VARCHAR"})
        for start in range(0, 7000, 500):
            log.append_many([{"n": n, "word": f"w{n % 40}"} for n in range(start, start + 500)])
        db.create_topic("other", {"n": "BIGINT"}).append_many([{"n": n} for n in range(50)])


def offsets(path: Path, topic: str = "log") -> list[tuple[int, int, str]]:
    with eventdb.open(path) as db:
        assert db._store.check(deep=True) == []
        return [(event.offset, event["n"], event.row.get("word", "")) for event in db.topic(topic).read()]


WHOLE = [(n, n, f"w{n % 40}") for n in range(7000)]


def flip(file: Path, position: int, length: int = 1) -> None:
    data = bytearray(file.read_bytes())
    for at in range(position, position + length):
        data[at] ^= 0x55
    file.write_bytes(data)


def segments(path: Path) -> list[Path]:
    return sorted((path / "topics" / "1" / "0").iterdir())


def no_format(path: Path) -> None:
    (path / "FORMAT").unlink()


def bad_format(path: Path) -> None:
    flip(path / "FORMAT", 20)


def no_checkpoint(path: Path) -> None:
    (path / "index" / "checkpoint").unlink()


def bad_checkpoint(path: Path) -> None:
    (path / "index" / "checkpoint").write_bytes(bytes(24576))


def bad_metas(path: Path) -> None:
    flip(path / "index" / "data.mdb", 16, 100)
    flip(path / "index" / "data.mdb", 4096 + 16, 100)


def bad_header(path: Path) -> None:
    flip(segments(path)[0], 30)


def no_shared(path: Path) -> None:
    (path / "shared").unlink()
    (path / "reserve").unlink()


@pytest.mark.parametrize("part", range(6))
def test_a_damaged_page_of_the_checkpoints_is_named_and_mended(tmp_path: Path, part: int) -> None:
    path = tmp_path / "db"
    fill(path)
    file = path / "index" / "checkpoint"
    piece = len(file.read_bytes()) // 6
    whole = not any(file.read_bytes()[part * piece : (part + 1) * piece])
    flip(file, part * piece, piece)
    assert whole or any("index/checkpoint" in problem for problem in eventdb.check(path))
    assert eventdb.repair(path)["lost"] == []
    assert eventdb.check(path, deep=True) == []
    assert offsets(path) == WHOLE


@pytest.mark.parametrize(
    "harm", [no_format, bad_format, no_checkpoint, bad_checkpoint, bad_metas, bad_header, no_shared]
)
def test_what_can_be_rebuilt_is_rebuilt_without_loss(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "db"
    fill(path)
    harm(path)
    if harm is not no_shared:
        assert eventdb.check(path, deep=True) != []
    report = eventdb.repair(path)
    assert report["lost"] == []
    assert offsets(path) == WHOLE
    assert len(offsets(path, "other")) == 50
    with eventdb.open(path) as db:
        assert db.topic("log").append({"n": 7000, "word": "w0"}).offset == 7000


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_missing_segments_cost_their_own_events_and_are_named(tmp_path: Path, gone: tuple[int, ...]) -> None:
    path = tmp_path / "db"
    fill(path)
    files = segments(path)
    ends = [*[int(file.stem) for file in files[1:]], 7000]
    assert len(files) == 3
    for number in gone:
        files[number].unlink()
    assert eventdb.check(path) != []
    before = {p: p.read_bytes() for p in (path / "topics").rglob("*.seg")}
    with pytest.raises(CorruptionError, match=r"topic 1/0: offsets .*accept_loss"):
        eventdb.repair(path)
    assert {p: p.read_bytes() for p in (path / "topics").rglob("*.seg")} == before
    report = eventdb.repair(path, accept_loss=True)
    (lost,) = report["lost"]
    ranges = [(int(files[number].stem), ends[number]) for number in gone]
    named = ", ".join(f"{first}..{end}" for first, end in ranges)
    names = ", ".join(f"topics/1/0/{files[number].name}" for number in gone)
    assert lost == f"topic 1/0: offsets {named}, because {names} is missing or unreadable"
    left = [row for row in WHOLE if not any(first <= row[0] < end for first, end in ranges)]
    assert offsets(path) == left
    assert len(offsets(path, "other")) == 50
    assert eventdb.repair(path) == {"repaired": [], "lost": []}


def test_a_damaged_record_in_the_middle_costs_what_follows_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "live"
    with eventdb.open(path) as db:
        log = db.create_topic("log", {"n": "BIGINT NOT NULL", "word": "VARCHAR"})
        log.append_many([{"n": n, "word": f"w{n % 40}"} for n in range(100)])
        db.checkpoint()
        for n in range(100, 140):
            log.append({"n": n, "word": f"w{n % 40}"})
        shutil.copytree(path, tmp_path / "db", ignore=shutil.ignore_patterns("lock.mdb"))
    path = tmp_path / "db"
    lose_power(path)
    (file,) = (
        (path / "journal").iterdir()
        if len(list((path / "journal").iterdir())) == 1
        else [max((path / "journal").iterdir())]
    )
    data = file.read_bytes()
    records = [at for at in range(0, len(data) - 4, 8) if data[at : at + 4] == b"EDJ1"]
    flip(file, records[-20] + 70)
    with pytest.raises(CorruptionError, match="run repair"):
        eventdb.open(path)
    before = {p: p.read_bytes() for p in (path / "journal").iterdir()}
    with pytest.raises(CorruptionError, match=r"lost are the commits of records \d+\.\.\d+, of topic 1/0 offsets"):
        eventdb.repair(path)
    assert {p: p.read_bytes() for p in (path / "journal").iterdir()} == before
    report = eventdb.repair(path, accept_loss=True)
    assert "offsets up to 140" in report["lost"][0]
    assert offsets(path) == WHOLE[:120]
    assert [found for found in (path / "quarantine").iterdir() if "journal" in found.name]
    with eventdb.open(path) as db:
        assert len(db.topic("log")) == 120
        assert db.topic("log").append({"n": 120, "word": "w0"}).offset == 140  # none is given twice
    assert offsets(path) == [*WHOLE[:120], (140, 120, "w0")]


def test_a_damaged_index_page_is_salvaged_around_and_nothing_wrong_comes_out(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    size = (tmp_path / "whole" / "index" / "data.mdb").stat().st_size
    mended = 0
    live = reached(tmp_path / "whole" / "index" / "data.mdb")  # damage to other pages harms nothing
    for page in range(2, size // 4096):
        path = tmp_path / f"db{page}"
        shutil.copytree(tmp_path / "whole", path)
        flip(path / "index" / "data.mdb", page * 4096, 4096)
        if not any(live[page : page + 1]):
            eventdb.repair(path)
            with eventdb.open(path) as db:
                assert [(event.offset, event["n"], event["word"]) for event in db.topic("log").read()] == WHOLE
            mended += 1
            shutil.rmtree(path)
            continue
        try:
            with pytest.raises(CorruptionError):
                eventdb.repair(path)
            report = eventdb.repair(path, accept_loss=True)
        except CorruptionError as error:
            assert "backup" in str(error)  # noqa: PT017
            continue
        assert report["lost"]
        try:
            with eventdb.open(path) as db:
                found = [(event.offset, event["n"], event["word"]) for event in db.topic("log").read()]
        except EventDBError:
            continue
        assert found == WHOLE[: len(found)] or found == []
        mended += found == WHOLE
        shutil.rmtree(path)
    assert mended >= size // 4096 // 2


def test_damaged_rows_are_kept_and_named(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    flip(segments(path)[0], 4096 + 100)
    with pytest.raises(CorruptionError, match=r"topic 1/0: offsets 0\.\.\d+: .*column 0"):
        eventdb.repair(path)
    report = eventdb.repair(path, accept_loss=True)
    assert "the rows are kept" in report["lost"][0]
    assert eventdb.repair(path)["lost"] == []


def nulls_of_words(path: Path) -> tuple[Path, int]:
    """The first segment of the log, and where the validity of its second column begins."""
    with eventdb.open(path) as db, db._store.snapshot() as snapshot:
        segment: Any = next(iter(snapshot._parts(db.topic("log")._log, 0, 10)))[0]
        return Path(segment.path), segment.layout.columns[1].null_position


def test_check_and_repair_judge_validity_alike_with_and_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    file, position = nulls_of_words(path)
    for _ in range(2):  # after the first repair there is no checksum of the rows any more
        flip(file, position + 7)
        assert any("column 1 has null bytes other than 0 and 1" in text for text in eventdb.check(path, deep=True))
        with pytest.raises(CorruptionError, match="column 1 has null bytes other than 0 and 1"):
            eventdb.repair(path)
        assert "the rows are kept" in eventdb.repair(path, accept_loss=True)["lost"][0]
        assert eventdb.check(path, deep=True) == []
        assert eventdb.repair(path) == {"repaired": [], "lost": []}
        with eventdb.open(path) as db:
            assert [e["word"] for e in db.topic("log").read(5, limit=4)] == ["w5", "w6", None, "w8"]
            assert db.sql("SELECT count(*), count(word) FROM log").fetchall() == [(7000, 6999)]


def test_every_file_in_a_report_is_named_as_it_lies_in_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path)
    with eventdb.open(path) as db:
        db.compact(full=True)
        db.topic("log").append({"n": 1})
    (sealed, raw) = segments(path)
    data = bytearray(sealed.read_bytes())
    flip(sealed, len(data) // 2, 64)
    flip(raw, 30)
    report = eventdb.repair(path, accept_loss=True)
    assert any(f"topics/1/0/{raw.name}: its header" in text for text in report["repaired"])
    assert any(f"topics/1/0/{sealed.name}" in text for text in report["lost"])
    assert not [text for texts in report.values() for text in texts if re.search(r"(^|[\s(,])/", text)]


def test_an_open_database_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADatabase):
        eventdb.repair(tmp_path / "nothing")
    with pytest.raises(NotADatabase):
        eventdb.check(tmp_path / "nothing")
    fill(tmp_path / "db")
    with eventdb.open(tmp_path / "db"), pytest.raises(DatabaseLocked):
        eventdb.repair(tmp_path / "db")
    assert eventdb.check(tmp_path / "db", deep=True) == []
    assert eventdb.repair(tmp_path / "db") == {"repaired": [], "lost": []}
