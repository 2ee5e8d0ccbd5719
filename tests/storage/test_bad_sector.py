"""Bad sectors below mapped files: the first touch of such a page would end the process, whoever it is."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eventdb
from eventdb.errors import CorruptionError
from eventdb.storage.device.readable import Readable
from tests.storage.disks import bad_sectors

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS = 60_000
LOOK = """
import json, sys
import eventdb
from eventdb.errors import EventDBError

def told(call):
    try:
        return call()
    except EventDBError as error:
        return f"{type(error).__name__}: {error}"

with eventdb.open(sys.argv[1]) as db:
    good, bad = db.topic("good"), db.topic("bad")
    found = {
        "good": told(lambda: sum(event["n"] for event in good.read())),
        "good sql": told(lambda: db.sql("SELECT sum(n) FROM good").fetchone()[0]),
        "bad sql": told(lambda: db.sql("SELECT sum(x) FROM bad").fetchone()[0]),
        "bad read": told(lambda: len(list(bad.read()))),
        "bad time": told(lambda: [event.offset for event in bad.read(start=30_000, limit=1)]),
        "backup": told(lambda: db.backup(sys.argv[2])),
        "append": told(lambda: good.append({"n": 0, "x": 0.5}).offset),
        "check": told(lambda: db.check(deep=True)),
    }
print(json.dumps(found))
"""


@pytest.mark.parametrize("kind", ["seg", "col"])
def test_a_bad_sector_is_a_typed_error_where_it_is_and_nowhere_else(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    with eventdb.open(source, durability="os") as db:
        for name in ("good", "bad"):
            log = db.create_topic(name, {"n": "BIGINT", "x": "DOUBLE"})
            log.append_batch({"n": np.arange(ROWS), "x": np.random.default_rng(1).random(ROWS)})
        if kind == "col":
            db.compact(full=True)
    victim = max(source.glob(f"topics/2/0/*.{kind}"), key=lambda file: file.stat().st_size)
    with bad_sectors(tmp_path / "disk", source, victim, good_bytes=4 * 4096) as copy:
        with pytest.raises(OSError, match="Input/output"):  # the fault is there
            (copy / victim.relative_to(source)).read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(copy), str(tmp_path / "backup")], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout)
    total = ROWS * (ROWS - 1) // 2
    assert (found["good"], found["good sql"], found["append"]) == (total, total, ROWS)
    for name in ("bad sql", "bad read", "bad time", "backup"):
        assert victim.name in found[name], found
        assert found[name].startswith(("CorruptionError", "Unreadable", "StorageError")), found
    assert any(victim.name in problem for problem in found["check"]), found["check"]
    assert all(victim.name in problem or "topic 2/0" in problem for problem in found["check"]), found["check"]


def test_a_file_cut_short_below_a_mapping_is_an_error_once_and_for_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 18))
    with open(path, "rb") as file:
        readable = Readable(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path))
    readable.require(0, 10)
    os.truncate(path, 1 << 17)
    readable.require(70_000, 50_000)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="131072 to 196608 cannot be read"):
            readable.require(100_000, 100_000)
    readable.require(0, 1 << 17)


def test_a_kernel_that_cannot_be_asked_is_not_asked_again(tmp_path: Path) -> None:
    class OldMap(mmap.mmap):
        asked = 0

        def madvise(self, *arguments: int) -> None:
            OldMap.asked += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    readable = Readable(OldMap(-1, 1 << 18), "map")
    for _ in range(3):
        readable.require(0, 1 << 18)
    assert OldMap.asked == 4
