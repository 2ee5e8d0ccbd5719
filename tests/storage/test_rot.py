"""Rot: whatever a flipped bit or a cut file does to a database at rest, nobody gets other rows or a dead process."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import CorruptionError, EventDBError
from eventdb.storage.commit.checkpoint import CheckpointFile
from eventdb.storage.device.files import Files
from tests.crash.zygote import Zygote
from tests.limits import SEGMENT_ROWS

FLIPS = int(os.environ.get("EVENTDB_FLIPS", "250"))
KINDS = ("FORMAT", "shared", "catalog.sqlite", "index/data.mdb", "index/checkpoint", "*.seg", "journal/J-*")


def fill(path: Path) -> None:
    """Two topics with every kind of column, a view, enough rows for several segments, most of it checkpointed."""
    with eventdb.open(path, durability="os") as db:
        columns = {"n": "BIGINT NOT NULL", "word": "VARCHAR", "x": "DOUBLE", "blob": "BLOB", "ts": "TIMESTAMP"}
        log = db.create_topic("log", columns, event_time="ts")
        log.append_many([row(n) for n in range(1500)])
        db.create_topic("other", {"s": "VARCHAR"}).append_many([{"s": f"o{n % 30}"} for n in range(200)])
        db.checkpoint()
        for n in range(1500, 1520):
            log.append(row(n))


def row(n: int) -> dict[str, Any]:
    import datetime as dt

    return {
        "n": n, "word": None if n % 7 == 3 else f"w{n % 40}", "x": n / 3, "blob": b"b" * (n % 9),
        "ts": dt.datetime(2026, 1, 1) + dt.timedelta(seconds=n),
    }  # fmt: skip


def content(db: eventdb.Database) -> list[Any]:
    return [
        [list(map(str, event.row.values())) for name in ("other", "log") for event in db.topic(name).read()],
        [list(map(str, found)) for found in db.sql("SELECT word, count(*), sum(n) FROM log GROUP BY word").fetchall()],
    ]


def main(arguments: list[str]) -> int:
    """In a process of its own: what becomes of each directory named on a line of a file, as JSON lines."""
    names, out = arguments
    for line in Path(names).read_text().splitlines():
        found: dict[str, Any] = {"path": line}
        try:
            with eventdb.open(line, durability="os") as db:
                found["content"] = content(db)
                found["problems"] = db._store.check(deep=True)
                found["cut"] = db.recovery_report.get("bytes_cut", 0)
        except EventDBError as error:
            found["error"] = f"{type(error).__name__}: {error}"
        with open(out, "a") as file:
            file.write(json.dumps(found) + "\n")
    return 0


def damage(random_: random.Random, file: Path) -> str:
    """One bit flipped, a block zeroed or moved, or the file cut; says which."""
    data = bytearray(file.read_bytes())
    what = random_.choice(("flip", "flip", "flip", "flip", "zero", "swap", "cut"))
    at = random_.randrange(len(data.rstrip(b"\0")) or 1)  # journal files and segments are zeros to their end
    if what == "flip":
        data[at] ^= 1 << random_.randrange(8)
    elif what == "cut":
        del data[at:]
    else:
        block = at - at % 4096
        other = random_.randrange(0, len(data), 4096)
        if what == "zero":
            data[block : block + 4096] = bytes(len(data[block : block + 4096]))
        else:
            first, second = data[block : block + 4096], data[other : other + 4096]
            if len(first) == len(second):
                data[block : block + 4096], data[other : other + 4096] = second, first
    file.write_bytes(data)
    return f"{what} at {at} of {file.name}"


def lose_power(path: Path) -> None:
    """The checkpoint says that the machine has started again since: the journal counts, not the page cache."""
    files = Files()
    slots = CheckpointFile(files, str(path / "index"), write=True)
    slot = slots.newest()
    assert slot is not None
    slot.boot_id = "an earlier one"
    slots.write(slot)
    slots.close()


class Corpus:
    """A database as it lies after a clean close, as a killed process leaves it, and with nothing but its journal."""

    def __init__(self, root: Path, zygote: Zygote) -> None:
        self.root = root
        self.whole = {"closed": root / "closed", "killed": root / "killed"}
        fill(self.whole["closed"])
        pid = zygote.run("tests.storage.rot_victim", [self.whole["killed"]], str(root / "victim.txt"))
        assert zygote.wait(pid, 60) == -9, (root / "victim.txt").read_text()
        shutil.copytree(self.whole["killed"], root / "cut")
        self.whole["cut"] = root / "cut"
        lose_power(root / "cut")
        self.content = {}
        for state, path in self.whole.items():
            shutil.copytree(path, root / "copy")
            with eventdb.open(root / "copy") as db:
                self.content[state] = content(db)
            shutil.rmtree(root / "copy")

    def files(self, kind: str) -> list[Path]:
        pattern = f"topics/*/*/{kind}" if kind == "*.seg" else kind
        return [f for f in sorted(self.whole[self.state(kind)].glob(pattern)) if f.stat().st_size]

    def state(self, kind: str) -> str:
        return {"j": "cut", "s": "killed"}.get(kind[0], "closed")


@pytest.fixture(scope="module")
def zygote() -> Any:
    with Zygote() as found:
        yield found


@pytest.fixture
def corpus(tmp_path: Path, zygote: Zygote) -> Corpus:
    return Corpus(tmp_path, zygote)


def sweep(corpus: Corpus, zygote: Zygote, kind: str, count: int, seed: int) -> dict[str, int]:
    random_ = random.Random(f"{kind} {seed}")
    tally = {"same": 0, "refused": 0, "reported": 0}
    state = corpus.state(kind)
    waiting: list[tuple[Path, str]] = []
    for number in range(count):
        copy = corpus.root / f"{kind.replace('/', '-').replace('*', 'x')}-{number}"
        shutil.copytree(corpus.whole[state], copy)
        file = random_.choice(corpus.files(kind))
        waiting.append((copy, damage(random_, copy / file.relative_to(corpus.whole[state]))))
    while waiting:
        names, out = corpus.root / "names", corpus.root / "answers"
        names.write_text("".join(f"{copy}\n" for copy, _ in waiting))
        out.unlink(missing_ok=True)
        log = corpus.root / "log"
        status = zygote.wait(zygote.run("tests.storage.test_rot", [names, out], str(log)), 600)
        answers = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        assert status == 0, f"{status} after {waiting[len(answers)][1]}: {log.read_text()[-2000:]}"
        for (copy, what), answer in zip(waiting, answers, strict=True):
            if "error" in answer:
                assert not answer["error"].startswith(("InternalError", "UsageError")), (what, answer)
                tally["refused"] += 1
            elif answer["content"] == corpus.content[state]:
                tally["reported" if answer["problems"] else "same"] += 1
            elif answer["cut"] or (kind.startswith("journal") and not what.startswith("flip")):
                # The last group of records: a torn tail, said so. If nothing at all is left of it, not even a torn
                # record, nobody can tell that it was ever written.
                rows = answer["content"][0]
                assert rows == corpus.content[state][0][: len(rows)], what
                tally["reported"] += 1
            else:
                assert answer["problems"], f"{what}: other rows, and check found nothing"
                tally["reported"] += 1
            shutil.rmtree(copy)
        waiting = []
    return tally


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_reported_or_harmless(corpus: Corpus, zygote: Zygote, kind: str) -> None:
    tally = sweep(corpus, zygote, kind, max(FLIPS // len(KINDS), 12), 1)
    assert sum(tally.values()) >= 12
    if kind not in ("shared",):
        assert tally["refused"] + tally["reported"] > 0, tally


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_campaign_of_damage(corpus: Corpus, zygote: Zygote, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    total: dict[str, int] = {}
    wanted = int(os.environ.get("EVENTDB_FLIPS", "100000")) // len(KINDS)
    for seed in range(2, 2 + -(-wanted // 500)):
        for name, count in sweep(corpus, zygote, kind, min(500, wanted), seed).items():
            total[name] = total.get(name, 0) + count
    with capsys.disabled():
        print(f"\n{kind}: {total}")


def test_a_flip_in_any_region_of_a_segment_is_found_by_a_deep_check_and_stops_a_backup(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    file = next((tmp_path / "db").glob("topics/1/0/*.seg"))
    with eventdb.open(tmp_path / "db") as db:
        info = db._catalog.topic("log")
        with db._store.snapshot() as snapshot:
            segment = next(iter(snapshot._parts(db._log_of(info), 0, 10)))[0]
        regions = [position for position, length in segment.regions(0, 900) if length]
    assert len(regions) > 8
    for number, position in enumerate(regions):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "db", copy)
        data = bytearray(file.read_bytes())
        data[position + 5] ^= 4
        (copy / file.relative_to(tmp_path / "db")).write_bytes(data)
        with eventdb.open(copy) as db:
            assert db._store.check(deep=True) != []
            with pytest.raises(CorruptionError, match="damaged"):
                db.backup(tmp_path / f"backup{number}")


def test_a_deep_check_finds_every_flip_in_cold_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty segments, raw and sealed ones, a flipped bit in each: one check names all twenty."""
    for name in (*SEGMENT_ROWS, "sealed.sealer.MAX_SEGMENT_ROWS"):
        monkeypatch.setattr(f"eventdb.storage.{name}", 64)
    path = tmp_path / "db"
    with eventdb.open(path) as db:
        for topic, sealed in (("sealed", True), ("raw", False)):
            log = db.create_topic(topic, {"n": "BIGINT NOT NULL", "blob": "BLOB"})
            for first in range(0, 640, 64):
                log.append_many([{"n": n, "blob": b"%d" % n * 20} for n in range(first, first + 64)])
            if sealed:
                db.compact(full=True)
        db.checkpoint()
    draw = random.Random(1)
    flipped = []
    for topic, kind in ((1, "col"), (2, "seg")):
        for file in sorted((path / f"topics/{topic}/0").glob(f"*.{kind}")):
            data = bytearray(file.read_bytes())
            written = [i for i, byte in enumerate(data) if byte]  # padding between regions means nothing
            data[draw.choice(written[len(written) // 4 :])] ^= 1 << draw.randrange(8)
            file.write_bytes(data)
            flipped.append((f"topic {topic}/0: segment {int(file.name[:20])}:", f"/{topic}/0/{file.name}:"))
    assert len(flipped) == 20
    for found in (eventdb.check(path, deep=True), eventdb.check(path, deep=True)):
        text = "\n".join(found)
        assert [names for names in flipped if not any(name in text for name in names)] == [], text


def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two databases of the same shape with other rows."""
    for name, first in (("mine", 0), ("other", 10_000)):
        with eventdb.open(tmp_path / name, durability="os") as db:
            for topic in ("log", "sealed"):
                log = db.create_topic(topic, {"n": "BIGINT NOT NULL", "w": "VARCHAR"})
                log.append_many([{"n": n, "w": f"w{n}"} for n in range(first, first + 900)])
                if topic == "sealed":
                    db.compact(full=True)
                    db.topic("log").append_many([{"n": first + 900, "w": None}])
    return tmp_path / "mine", tmp_path / "other"


def outcome(path: Path) -> tuple[str, object]:
    """("refused", error), ("reported", problems), or ("read", rows)."""
    try:
        with eventdb.open(path) as db:
            read = [[list(event.row.values()) for event in db.topic(name).read()] for name in ("log", "sealed")]
            problems = db._store.check(deep=True)
    except (CorruptionError, EventDBError) as error:
        return "refused", error
    return ("reported", problems) if problems else ("read", read)


def test_a_file_of_another_database_is_refused_or_means_nothing(tmp_path: Path) -> None:
    mine, other = pair(tmp_path)
    whole = outcome(mine)
    assert whole[0] == "read"
    refused = 0
    assert outcome(other)[0] == "read"
    names = [file.relative_to(mine) for file in sorted(mine.rglob("*")) if file.is_file()]
    for name in [name for name in names if (other / name).exists()]:
        copy = tmp_path / "copy"
        shutil.copytree(mine, copy)
        shutil.copy(other / name, copy / name)
        found = outcome(copy)
        if str(name) in ("ALIVE", "LOCK", "shared", "reserve", "catalog.sqlite", "index/lock.mdb", "SEAL",
                         "RETENTION"):  # fmt: skip
            assert found == whole, name  # locks, room, and catalogs that say the same
        else:
            assert found[0] == "refused", (name, found)
            refused += 1
        shutil.rmtree(copy)
    assert refused >= 5, names


def test_a_block_that_belongs_elsewhere_is_found(tmp_path: Path) -> None:
    """A misdirected write: 4 KiB of the other database's file of that name, or of another place of the same file."""
    mine, other = pair(tmp_path)
    whole = outcome(mine)
    draw, found = random.Random(3), {"refused": 0, "reported": 0, "read": 0}
    names = [file.relative_to(mine) for file in mine.rglob("*") if file.suffix in (".seg", ".col", ".mdb")]
    for name in [name for name in names if name.name != "lock.mdb"] * 6:
        data, source = bytearray((mine / name).read_bytes()), (draw.choice((mine, other)) / name).read_bytes()
        blocks = range(0, min(len(data), len(source)), 4096)
        at, start = draw.choice(blocks), draw.choice(blocks)
        block = source[start : start + 4096]
        if block == data[at : at + 4096]:
            continue
        data[at : at + len(block)] = block
        copy = tmp_path / "copy"
        shutil.copytree(mine, copy)
        (copy / name).write_bytes(data)
        kind, what = outcome(copy)
        assert kind != "read" or what == whole[1], (name, at, start)
        found[kind] += 1
        shutil.rmtree(copy)
    assert found["refused"] + found["reported"] > 5, found


def test_a_heap_end_far_beyond_the_file_is_named_by_check_and_stops_neither_it_nor_a_checkpoint(tmp_path: Path) -> None:
    """A block of numbers swapped into a heap's end positions: a checksum over 2^60 bytes would never end."""
    path = tmp_path / "db"
    with eventdb.open(path, durability="os") as db:
        log = db.create_topic("log", {"n": "BIGINT NOT NULL", "blob": "BLOB"})
        log.append_many([{"n": n, "blob": b"%d" % n} for n in range(100)])
        db.checkpoint()
    file = next(path.glob("topics/1/0/*.seg"))
    with eventdb.open(path, durability="os") as db:
        with db._store.snapshot() as snapshot:
            segment = next(iter(snapshot._parts(db._log_of(db._catalog.topic("log")), 0, 10)))[0]
        place = segment.layout.columns[1].value_position + 99 * 8
    data = bytearray(file.read_bytes())
    data[place : place + 8] = (1 << 60).to_bytes(8, "little")
    file.write_bytes(data)
    with eventdb.open(path, durability="os") as db:
        assert any("heap positions" in problem for problem in db._store.check(deep=True))
        with pytest.raises(CorruptionError, match="impossible"):
            list(db.topic("log").read())
        with pytest.raises(CorruptionError, match="impossible"):
            db.sql("SELECT max(blob) FROM log").fetchall()
        db.create_topic("other", {"n": "BIGINT"}).append({"n": 1})
        db.checkpoint()
        with pytest.raises(CorruptionError):
            db.backup(tmp_path / "backup")
