"""Large heaps go past the page cache; nobody who reads the file, mapped or not, can tell."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

import eventdb
from eventdb.storage.device import direct
from eventdb.storage.device.direct import PastCache
from eventdb.storage.device.files import Files
from eventdb.storage.format import PAGE_BYTES

PAGES = 40


@pytest.fixture
def past_cache(tmp_path: Path) -> PastCache:
    found = PastCache(Files(), str(tmp_path))
    if not found.usable():
        pytest.skip(f"{Files().file_system(str(tmp_path))} is not written past the cache")
    return found


def test_the_bytes_are_where_they_belong_whatever_the_alignment(
    past_cache: PastCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "BUFFER_BYTES", 3 * PAGE_BYTES)
    chance = random.Random(3)
    path = str(tmp_path / "file")
    files = Files()
    fd = files.create(path)
    files.allocate(fd, PAGES * PAGE_BYTES)
    mapping = files.mmap(fd, PAGES * PAGE_BYTES, write=True)
    model = bytearray(PAGES * PAGE_BYTES)
    edges = (-1, 0, 1, 100)
    for _ in range(300):
        start = max(0, chance.randrange(PAGES) * PAGE_BYTES + chance.choice(edges))
        stop = min(len(model), max(start, chance.randrange(PAGES + 1) * PAGE_BYTES + chance.choice(edges)))
        data = chance.randbytes(stop - start)
        if chance.random() < 0.3:  # as small columns are stored: in the cache only, until now
            mapping[start:stop] = data
        else:
            past_cache.write(fd, path, memoryview(data), start)
        model[start:stop] = data
        assert mapping[:] == model
    files.fdatasync(fd)
    files.drop_cache(fd)
    assert files.pread(fd, len(model), 0) == model
    files.close(fd)


def test_a_batch_of_large_values_is_read_back_by_every_way_of_reading(tmp_path: Path, past_cache: PastCache) -> None:
    chance = random.Random(5)
    direct_opens = 0
    whole = Files.open_direct

    def counted(self: Files, path: str) -> int:
        nonlocal direct_opens
        direct_opens += 1
        return whole(self, path)

    bodies: list[bytes | None] = []
    with pytest.MonkeyPatch.context() as patch, eventdb.open(tmp_path / "db", durability="commit") as db:
        patch.setattr(Files, "open_direct", counted)
        topic = db.create_topic("events", {"n": "BIGINT NOT NULL", "body": "BLOB"})
        for _ in range(4):
            batch = [None if chance.random() < 0.05 else chance.randbytes(chance.randrange(3000)) for _ in range(700)]
            numbers = range(len(bodies), len(bodies) + len(batch))
            topic.append_batch(pa.table({"n": pa.array(numbers, pa.int64()), "body": pa.array(batch, pa.binary())}))
            bodies += batch
            topic.append({"n": len(bodies), "body": b"one"})
            bodies.append(b"one")
        assert direct_opens >= 4  # one a batch, and one more for a batch that ends a segment
        assert [event["body"] for event in topic.read()] == bodies
        assert db.sql("SELECT body FROM events ORDER BY n").arrow().column(0).to_pylist() == bodies
    with eventdb.open(tmp_path / "db") as db:
        assert [event["body"] for event in db.topic("events").read()] == bodies
        assert db.check(deep=True) == []
