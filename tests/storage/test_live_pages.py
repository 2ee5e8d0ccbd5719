"""What of an index file is verified when it is opened: all that LMDB reads, and nothing that it will write first."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmdb import verify

import eventdb
from eventdb.errors import CorruptionError
from eventdb.storage.device.files import Files
from eventdb.storage.index.live_pages import live_crc

PAGE = 4_096
LIMIT = 1 << 26


def write_index(folder: str, seed: int, steps: int) -> Path:
    """An index with a past: keys came, grew over many pages and went."""
    draw = random.Random(seed)
    with lmdb.open(folder, map_size=1 << 26) as env:
        for _ in range(steps):
            with env.begin(write=True) as txn:
                for _ in range(draw.randrange(60)):
                    key = b"%03d" % draw.randrange(300)
                    txn.delete(key)  # a shorter value in its place keeps all its pages: the verifier objects to that
                    if draw.random() < 0.5:
                        txn.put(key, draw.randbytes(draw.choice([10, 1_000, 20_000])))
    return Path(folder) / "data.mdb"


def reached(path: Path) -> list[bool]:
    """Of each page, whether py-lmdb's verifier gets there; both meta pages are read."""
    with open(path, "rb") as file:
        walk = verify._Verifier(file, path.stat().st_size)
        assert walk.verify() == []
    return [True, True, *(bool(live) for live in walk.live[2:])]


def crc_of(path: Path, limit: int = LIMIT) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return live_crc(Files(), fd, limit)
    finally:
        os.close(fd)


@given(seed=st.integers(0, 1 << 30), steps=st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_changed_bit_of_a_live_page_changes_the_crc_and_one_of_a_free_page_does_not(seed: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_index(folder, seed, steps)
        live, whole = reached(path), crc_of(path)
        assert whole
        draw, data = random.Random(seed), bytearray(path.read_bytes())
        for page in draw.sample(range(len(live)), min(len(live), 40)):
            at = page * PAGE + draw.randrange(PAGE)
            data[at] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            assert (crc_of(path) != whole) == live[page], page
            if live[page]:
                break  # from here on the file is damaged


@given(seed=st.integers(0, 1 << 30), at=st.integers(0, 2 * PAGE - 1), byte=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_damaged_meta_pages_are_a_different_crc_never_an_exception(seed: int, at: int, byte: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_index(folder, seed % 5, 4)
        whole, data = crc_of(path), bytearray(path.read_bytes())
        data[at] ^= byte
        path.write_bytes(data)
        assert crc_of(path) != whole


def test_a_cut_or_empty_file_has_no_crc_and_the_limit_counts_live_pages(tmp_path: Path) -> None:
    path = write_index(str(tmp_path), 1, 20)
    live_bytes = sum(reached(path)) * PAGE
    assert path.stat().st_size > live_bytes
    assert crc_of(path, live_bytes)
    assert not crc_of(path, live_bytes - 1)
    for size in (path.stat().st_size // 2, 2 * PAGE, 100, 0):
        os.truncate(path, size)
        assert crc_of(path) == 0


def test_a_damaged_live_page_is_refused_when_the_database_is_opened(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb") as db:
        db.create_topic("t", {"n": "BIGINT"}).append({"n": 1})
    path = tmp_path / "a.eventdb" / "index" / "data.mdb"
    data = bytearray(path.read_bytes())
    page = max(i for i, live in enumerate(reached(path)) if live)
    data[page * PAGE + PAGE // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"does not verify.*damaged"):
        eventdb.open(tmp_path / "a.eventdb")
