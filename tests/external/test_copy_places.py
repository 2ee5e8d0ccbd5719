"""Where COPY TO writes: what stands there before, links, pipes, modes, the disk, the database's own folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest

import eventdb
from eventdb.errors import BindError, StorageError, UsageError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(str(tmp_path / "own.eventdb")) as database:
        database.sql("CREATE TABLE t (a BIGINT, b BIGINT)")
        database.sql("INSERT INTO t VALUES (1, 10), (2, 20)")
        yield database


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("registered", [False, True])
def test_a_folder_that_cannot_be_replaced_stays(
    db: eventdb.Database, out: Path, monkeypatch: pytest.MonkeyPatch, registered: bool
) -> None:
    if registered:
        db.register_filesystem("mem", pa_fs.SubTreeFileSystem(str(out), pa_fs.LocalFileSystem()))
    target = "mem://parts" if registered else str(out / "parts")
    db.sql(f"COPY t TO '{target}' (FORMAT parquet, PARTITION_BY a)")
    rename, moves = os.rename, []

    def second_fails(source: Any, place: Any) -> None:
        moves.append(source)
        if len(moves) == 2:
            raise OSError(5, "Input/output error")
        rename(source, place)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(StorageError, match="Input/output error"):
        db.sql(f"COPY (SELECT a + 5 AS a, b FROM t) TO '{target}' (FORMAT parquet, PARTITION_BY a, OVERWRITE)")
    assert len(moves) == 3
    assert sorted(os.listdir(out / "parts")) == ["a=1", "a=2"]
    assert os.listdir(out) == ["parts"]


def test_a_folder_that_cannot_be_moved_back_is_named(
    db: eventdb.Database, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.sql(f"COPY t TO '{out}/parts' (FORMAT parquet, PARTITION_BY a)")
    rename, moves = os.rename, []

    def others_fail(source: Any, place: Any) -> None:
        moves.append(place)
        if len(moves) > 1:
            raise OSError(5, "Input/output error")
        rename(source, place)

    monkeypatch.setattr(os, "rename", others_fail)
    with pytest.raises(StorageError, match="Input/output error") as raised:
        db.sql(f"COPY t TO '{out}/parts' (FORMAT parquet, PARTITION_BY a, OVERWRITE)")
    (kept,) = os.listdir(out)
    assert str(out / kept) in str(raised.value)
    assert sorted(os.listdir(out / kept)) == ["a=1", "a=2"]


def test_what_is_written_is_flushed_with_the_folder_that_names_it(
    db: eventdb.Database, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note(file: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    def noted(source: Any, place: Any) -> None:
        flushed.append(f"-> {place}")
        rename(source, place)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", noted)
    db.sql(f"COPY t TO '{out}/x.csv'")
    assert flushed[1:] == [f"-> {out}/x.csv", str(out)]
    assert os.path.dirname(flushed[0]) == str(out)
    flushed.clear()
    db.sql(f"COPY t TO '{out}/parts' (FORMAT parquet, PARTITION_BY a)")
    draft = flushed[-3]
    assert flushed[-2:] == [f"-> {out}/parts", str(out)]
    names = ["a=1/data_0.parquet", "a=1", "a=2/data_0.parquet", "a=2"]
    assert sorted(flushed[:-3]) == sorted(f"{draft}/{name}" for name in names)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "arrow", "json"])
def test_a_pipe_is_written_through(db: eventdb.Database, out: Path, ending: str) -> None:
    pipe = out / f"x.{ending}"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    db.sql(f"COPY t TO '{pipe}'")
    reader.join(30)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    db.sql(f"COPY t TO '{out}/same.{ending}'")
    if ending == "parquet":
        assert pq.read_table(pa.BufferReader(found[0])).to_pylist() == [{"a": 1, "b": 10}, {"a": 2, "b": 20}]
    else:
        assert found == [(out / f"same.{ending}").read_bytes()]


def test_a_device_is_written_to(db: eventdb.Database) -> None:
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    db.sql(f"COPY t TO '{name}' (FORMAT csv)")
    assert stat.S_ISCHR(os.stat(name).st_mode)
    assert os.read(ours, 100) == b'"a","b"\r\n1,10\r\n2,20\r\n'
    os.close(ours)
    os.close(theirs)


def test_a_device_that_is_full_is_named(db: eventdb.Database) -> None:
    with open("/dev/full", "wb", buffering=0) as device:
        place = f"/proc/self/fd/{device.fileno()}"  # where nothing can be renamed
        with pytest.raises(StorageError, match=f"'{place}'.*No space left"):
            db.sql(f"COPY t TO '{place}' (FORMAT csv)")


@pytest.mark.parametrize("place", ["/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("piped", [True, False])
def test_rows_go_to_standard_output_in_turn(out: Path, place: str, piped: bool) -> None:
    program = (
        "import eventdb\nwith eventdb.open(':memory:') as db:\n    print('first')\n"
        f"    db.sql(\"COPY (SELECT 1 AS a) TO '{place}' (FORMAT csv)\")\n    print('last')\n"
    )
    command, wanted = [sys.executable, "-c", program], b'first\n"a"\n1\nlast\n'
    if piped:
        assert subprocess.run(command, capture_output=True, check=True).stdout == wanted
        return
    with open(out / "x", "wb") as file:
        file.write(b"before\n")
        file.flush()
        subprocess.run(command, stdout=file, check=True)
    assert (out / "x").read_bytes() == b"before\n" + wanted


def test_a_link_is_followed_and_stays_one(db: eventdb.Database, out: Path) -> None:
    real = out / "real"
    real.mkdir()
    (real / "x.csv").write_text("before\n")
    (out / "x.csv").symlink_to(real / "x.csv")
    (out / "y.csv").symlink_to("real/new.csv")  # nothing is there
    (out / "parts").symlink_to(real / "p")
    (real / "p").mkdir()
    for name in ("x.csv", "y.csv"):
        db.sql(f"COPY t TO '{out}/{name}'")
        assert (out / name).is_symlink()
        assert (out / name).read_text() == '"a","b"\n1,10\n2,20\n'
    for _ in range(2):
        db.sql(f"COPY t TO '{out}/parts' (FORMAT parquet, PARTITION_BY a, OVERWRITE)")
        assert (out / "parts").is_symlink()
        assert sorted(os.listdir(real / "p")) == ["a=1", "a=2"]
    assert sorted(os.listdir(real)) == ["new.csv", "p", "x.csv"]
    assert sorted(os.listdir(out)) == ["parts", "real", "x.csv", "y.csv"]


def test_a_file_and_a_folder_keep_their_modes(db: eventdb.Database, out: Path) -> None:
    path = out / "x.csv"
    path.write_text("before\n")
    for mode in (0o600, 0o640, 0o755):
        path.chmod(mode)
        db.sql(f"COPY t TO '{path}'")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.read_text() == '"a","b"\n1,10\n2,20\n'
    (out / "parts").mkdir()
    (out / "parts").chmod(0o750)
    db.sql(f"COPY t TO '{out}/parts' (FORMAT parquet, PARTITION_BY a)")
    assert stat.S_IMODE((out / "parts").stat().st_mode) == 0o750


def test_a_name_as_long_as_names_may_be_is_written(db: eventdb.Database, out: Path) -> None:
    path = out / ("x" * 251 + ".csv")
    db.sql(f"COPY t TO '{path}'")
    assert path.read_text() == '"a","b"\n1,10\n2,20\n'


def test_the_database_is_not_written_over(db: eventdb.Database, out: Path) -> None:
    own = Path(db.path)
    before = sorted(os.listdir(own))
    (out / "link").symlink_to(own)
    db.register_filesystem("mem", pa_fs.SubTreeFileSystem(str(own), pa_fs.LocalFileSystem()))
    for target in (
        own / "x.csv",
        own / "catalog.sqlite",
        out / "link" / "x.csv",
        own,
        f"file://{own}/x.csv",
        "mem://x",
    ):
        with pytest.raises(UsageError, match="lies in the database's own folder"):
            db.sql(f"COPY t TO '{target}' (FORMAT csv)")
    for target in (own, own.parent, own / "parts"):
        with pytest.raises(UsageError, match="the database"):
            db.sql(f"COPY t TO '{target}' (FORMAT csv, PARTITION_BY a, OVERWRITE)")
    assert sorted(os.listdir(own)) == before
    db.sql(f"COPY t TO '{own.parent}/own.eventdb.csv'")
    assert db.sql("SELECT count(*) FROM t").fetchall() == [(2,)]


def test_a_pipe_cannot_be_read_from(db: eventdb.Database, out: Path) -> None:
    os.mkfifo(out / "x.csv")
    with pytest.raises(BindError, match=r"x.csv' is a pipe or a device: .*save it to a file first"):
        db.sql(f"SELECT * FROM '{out}/x.csv'").fetchall()
