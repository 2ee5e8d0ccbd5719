"""A repaired database opens, holds everything that was not named as lost, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_segment_costs_the_shorter_side_and_is_named(tmp_path: Path, number: int) -> None:
    path = tmp_path / "db"
    fill(path)
    files = segments(path)
    bases = [int(file.stem) for file in files]
    assert len(files) == 3
    files[number].unlink()
    assert eventdb.check(path) != []
    before = {p: p.read_bytes() for p in (path / "topics").rglob("*.seg")}
    with pytest.raises(CorruptionError, match=r"topic 1/0: offsets .*accept_loss"):
        eventdb.repair(path)
    assert {p: p.read_bytes() for p in (path / "topics").rglob("*.seg")} == before
    report = eventdb.repair(path, accept_loss=True)
    (lost,) = report["lost"]
    named = re.search(r"topic 1/0: offsets (\d+)\.\.(\d+), because (\S+) is missing", lost)
    assert named is not None
    start, end = int(named[1]), int(named[2])
    assert named[3].endswith(files[number].name)
    assert start <= bases[number] < end
    assert offsets(path) == [row for row in WHOLE if not start <= row[0] < end]
    assert (end - start) <= 7000 / 2 + [*bases, 7000][number + 1] - bases[number]
    assert len(offsets(path, "other")) == 50


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
        assert db.topic("log").append({"n": 120, "word": "w0"}).offset == 120


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
