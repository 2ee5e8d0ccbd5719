"""The next journal file is made ahead: the same file in the end, and nothing of it if its turn never comes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import StorageError
from eventdb.storage.commit.journal import Journal, Tail, usual_bytes
from eventdb.storage.commit.spare import SpareFile
from eventdb.storage.device.files import Files

UUID = bytes(16)
SIZE = usual_bytes(1)


class Disk(Files):
    """Counts zeros that are written, and says how much room there is."""

    def __init__(self) -> None:
        self.zeros_bytes = 0
        self.room_bytes = 1 << 40
        self.fails: dict[str, int] = {}

    def fill_zeros(self, fd: int, length_bytes: int, piece_bytes: int = 4096, position_bytes: int = 0) -> None:
        self.zeros_bytes += length_bytes - position_bytes
        super().fill_zeros(fd, length_bytes, piece_bytes, position_bytes)

    def free_bytes(self, path: str) -> int:
        return self.room_bytes

    def create_unnamed(self, directory: str) -> int:
        if "create_unnamed" in self.fails:
            raise OSError(self.fails["create_unnamed"], "no")
        return super().create_unnamed(directory)

    def give_name(self, fd: int, path: str) -> None:
        if "give_name" in self.fails:
            raise OSError(self.fails["give_name"], "no")
        super().give_name(fd, path)

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        if "fdatasync" in self.fails:
            raise OSError(self.fails["fdatasync"], "no")
        Files.fdatasync(fd)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def journal(tmp_path: Path, disk: Disk) -> Iterator[Journal]:
    made = Journal(disk, str(tmp_path), UUID)
    yield made
    made.close()
    made.spare.close()


def begun(journal: Journal, number: int) -> bytes:
    """The bytes of a new file of the number."""
    file, tail = journal.create(Tail(), 7, number)
    assert tail.size == file.size == len(file.memory)
    assert journal.read(file, 0) is not None
    data = bytes(file.memory)
    journal.close_file(file)
    return data


def test_a_prepared_file_is_the_one_that_would_have_been_made(tmp_path: Path, journal: Journal, disk: Disk) -> None:
    on_the_spot = begun(journal, 1)
    (tmp_path / "J-7-1").unlink()
    journal.spare.prepare(SIZE)
    assert os.listdir(tmp_path) == []
    written = disk.zeros_bytes
    assert begun(journal, 1) == on_the_spot
    assert disk.zeros_bytes == written
    status = (tmp_path / "J-7-1").stat()
    assert (status.st_nlink, status.st_mode & 0o777, status.st_size) == (1, 0o600, SIZE)
    assert status.st_blocks * 512 >= SIZE


def test_a_prepared_file_replaces_a_leftover_of_its_name(tmp_path: Path, journal: Journal, disk: Disk) -> None:
    (tmp_path / "J-7-1").write_bytes(b"an interrupted roll")
    journal.spare.prepare(SIZE)
    written = disk.zeros_bytes
    assert len(begun(journal, 1)) == SIZE
    assert disk.zeros_bytes == written


def test_a_prepared_file_of_another_size_is_not_taken(tmp_path: Path, journal: Journal) -> None:
    journal.spare.prepare(SIZE)
    assert len(begun(journal, 2)) == usual_bytes(2)
    assert os.listdir(tmp_path) == ["J-7-2"]


def test_a_file_is_prepared_once(journal: Journal, disk: Disk) -> None:
    for _ in range(3):
        journal.spare.prepare(SIZE)
    assert disk.zeros_bytes == SIZE


def test_on_a_nearly_full_disk_no_file_is_prepared(journal: Journal, disk: Disk) -> None:
    disk.room_bytes = 4 * SIZE
    journal.spare.prepare(SIZE)
    assert disk.zeros_bytes == 0
    assert len(begun(journal, 1)) == SIZE


def test_without_files_that_have_no_name_they_are_made_on_the_spot(journal: Journal, disk: Disk) -> None:
    disk.fails = {"create_unnamed": errno.EOPNOTSUPP}
    journal.spare.prepare(SIZE)
    disk.fails = {}
    journal.spare.prepare(SIZE)  # it does not ask again
    assert disk.zeros_bytes == 0
    assert len(begun(journal, 1)) == SIZE


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EPERM, errno.EXDEV])
def test_where_a_file_gets_no_name_a_commit_makes_one_on_the_spot(journal: Journal, disk: Disk, code: int) -> None:
    """Without /proc every roll of the journal failed its commit."""
    journal.spare.prepare(SIZE)
    before = len(os.listdir("/proc/self/fd"))
    disk.fails["give_name"] = code
    begun(journal, 1)
    assert len(os.listdir("/proc/self/fd")) < before
    written = disk.zeros_bytes
    journal.spare.prepare(SIZE)
    assert disk.zeros_bytes == written  # not tried again


def test_a_file_that_is_being_prepared_when_the_store_closes_is_let_go(tmp_path: Path) -> None:
    spare: list[SpareFile] = []

    class Closing(Disk):
        def fill_zeros(self, fd: int, *arguments: Any) -> None:
            super().fill_zeros(fd, *arguments)
            spare[0].close()

    spare.append(SpareFile(Closing(), str(tmp_path)))
    before = len(os.listdir("/proc/self/fd"))
    spare[0].prepare(SIZE)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("call", ["create_unnamed", "fdatasync"])
def test_a_file_that_cannot_be_prepared_is_reported_and_made_on_the_spot(
    journal: Journal, disk: Disk, call: str
) -> None:
    disk.fails = {call: errno.EIO}
    with pytest.raises(StorageError, match="preparing"):
        journal.spare.prepare(SIZE)
    disk.fails = {}
    assert len(begun(journal, 1)) == SIZE


CHILD = """
import os, signal, sys
import eventdb
db = eventdb.open(sys.argv[1], durability="os")
events = db.create_topic("events", {"n": "BIGINT", "text": "VARCHAR"})
writer = db._store._writer
taken = 0
for n in range(20_000):
    events.append({"n": n, "text": "x%d" % (n % 50)})
    if n % 1_000 == 0:
        writer.fills_fast = True
        writer.prepare_spare()
print(sorted(os.listdir(sys.argv[1] + "/journal")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_files_of_its_journal_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "db"
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL
    names = sorted(os.listdir(path / "journal"))
    assert str(names) == child.stdout.strip()
    assert len(names) > 2
    with eventdb.open(path) as db:
        assert db.sql("SELECT count(*), sum(n) FROM events").fetchall() == [(20_000, sum(range(20_000)))]
        assert db.check(deep=True) == []
    assert os.listdir(path / "journal") == []


def test_a_writer_takes_the_files_that_its_maintenance_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, bool]] = []
    whole = Journal.create

    def create(self: Journal, *arguments: Any) -> Any:
        ready = bool(self.spare._ready)
        found = whole(self, *arguments)
        made.append((found[0].number, ready))
        return found

    monkeypatch.setattr(Journal, "create", create)
    with eventdb.open(tmp_path / "db", durability="os") as db:
        events = db.create_topic("events", {"n": "BIGINT"})
        events.append({"n": 0})
        writer: Any = db._store._writer
        while len(made) < 4:
            if len(made) > 1:
                writer.prepare_spare()  # maintenance does it, too, but in its own time
            number = len(made)
            while len(made) == number:
                events.append({"n": 1})
    assert [ready for number, ready in made if number >= 2] == [True, True]
