"""A sound index is never called damaged: not by check, not by recovery, whatever was put, replaced and deleted."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmdb.verify import verify

import eventdb
from eventdb.storage.index.kv import structure_problems

PAGE = 4_096
SIZES = st.one_of(
    st.integers(0, 60),
    st.integers(1_000, 2_100),  # about where a value gets pages of its own
    st.integers(1, 6).flatmap(lambda pages: st.integers(pages * PAGE - 20, pages * PAGE + 20)),
    st.integers(0, 80_000),
)
STEP = st.one_of(
    st.tuples(st.sampled_from(["put", "replace"]), st.integers(0, 25), SIZES),
    st.tuples(st.just("delete"), st.integers(0, 25), st.just(0)),
    st.tuples(st.just("many"), st.integers(0, 25), st.integers(1, 400)),
    st.tuples(st.just("clear"), st.integers(0, 25), st.integers(1, 400)),
)
TRANSACTION = st.tuples(st.lists(STEP, max_size=12), st.sampled_from(["commit", "abort", "pin", "unpin"]))
Transaction = tuple[list[tuple[str, int, int]], str]


def play(folder: str, transactions: list[Transaction]) -> dict[bytes, bytes]:
    """The index of such a past, closed, and what is in it."""
    held: dict[bytes, bytes] = {}
    with lmdb.open(folder, map_size=1 << 28, sync=False) as env:
        pins = []
        for steps, end in transactions:
            after = dict(held)
            txn = env.begin(write=True)
            for what, key, size in steps:
                name = b"%03d" % key
                if what in ("put", "replace"):
                    value = bytes([key]) * size
                    (txn.put if what == "put" else txn.replace)(name, value)
                    after[name] = value
                elif what == "delete":
                    txn.delete(name)
                    after.pop(name, None)
                else:
                    for i in range(size):
                        small = name + b"/%05d" % i
                        if what == "many":
                            txn.put(small, name * 9)
                            after[small] = name * 9
                        else:
                            txn.delete(small)
                            after.pop(small, None)
            if end == "abort":
                txn.abort()
                continue
            txn.commit()
            held = after
            if end == "pin":
                pins.append(env.begin())
            elif pins:
                pins.pop(0).abort()
        for pin in pins:
            pin.abort()
        with env.begin() as txn:
            assert dict(txn.cursor()) == held
    return held


@settings(max_examples=60, deadline=None)
@given(st.lists(TRANSACTION, max_size=10))
def test_no_sound_index_is_called_damaged(transactions: list[Transaction]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(folder, transactions)
        assert structure_problems(folder) == []


@pytest.mark.parametrize(("before", "after"), [(5_000, 10), (9_000, 5_000), (80_000, 0), (80_000, 4_081)])
@pytest.mark.parametrize("how", ["put", "replace"])
def test_a_long_value_replaced_by_a_shorter_one_in_one_transaction_is_sound(
    tmp_path: Path, before: int, after: int, how: str
) -> None:
    steps = [("put", key, before) for key in range(5)] + [(how, 2, after)]
    play(str(tmp_path), [(steps, "commit")])
    assert verify(str(tmp_path)) != []  # py-lmdb objects: the value keeps all its pages
    assert structure_problems(str(tmp_path)) == []


CHILD = """
import os, signal, sys
import eventdb
db = eventdb.open(sys.argv[1])
db.create_topic("readings", {"n": "BIGINT"}).append({"n": 7})
with db._store._writer.index.begin_write() as txn:
    txn.put(b"zz", bytes(50_000))
    txn.put(b"zz", bytes(50))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_an_index_with_a_shortened_value_that_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "plant"
    assert subprocess.run([sys.executable, "-c", CHILD, str(path)], check=False).returncode == -signal.SIGKILL
    assert verify(str(path / "index")) != []
    with eventdb.open(path) as db:
        assert db.sql("SELECT n FROM readings").fetchall() == [(7,)]
        assert db.check(deep=True) == []


def test_free_lists_that_shrink_while_they_are_written_are_sound(tmp_path: Path) -> None:
    """Tens of thousands of free pages, taken again in transactions of many sizes."""
    with lmdb.open(str(tmp_path), map_size=1 << 30, sync=False) as env:
        for size in (3_000_000, 41_000_000, 5_000, 12_000_000, 900_000, 30_000_000):
            with env.begin(write=True) as txn:
                for i in range(12):
                    txn.put(b"%d" % i, bytes(size // 12))
            with env.begin(write=True) as txn:
                for i in range(0, 12, 2):
                    txn.delete(b"%d" % i)
            assert structure_problems(str(tmp_path)) == []


@pytest.mark.parametrize("pages", [1, 3, 1 << 20])
def test_a_page_header_that_names_fewer_or_far_too_many_pages_is_damage(tmp_path: Path, pages: int) -> None:
    play(str(tmp_path), [([("put", key, 5_000) for key in range(5)], "commit")])
    path = tmp_path / "data.mdb"
    data = bytearray(path.read_bytes())
    position = next(
        at for at in range(2 * PAGE, len(data), PAGE) if struct.unpack_from("<QHHI", data, at)[2:] == (4, 2)
    )  # fmt: skip
    struct.pack_into("<I", data, position + 12, pages)
    path.write_bytes(data)
    assert structure_problems(str(tmp_path)) != []
