"""Who may touch a database, what may lie in its directory, and what a child process gets of it."""

from __future__ import annotations

import gc
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import ReadOnlyError, StorageError, UsageError
from eventdb.storage import Store
from eventdb.storage import store as store_module
from eventdb.storage.device.files import Files
from tests.storage.simulation import SCHEMAS
from tests.storage.test_recovery import append

ROOT = Path(__file__).resolve().parent.parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the owner of a file needs root")
NOBODY = 65534
NAMES = ("LOCK", "ALIVE", "shared", "FORMAT", "index/checkpoint", "index/data.mdb", "catalog.sqlite", "topics/1/0/SEG")
FOLDERS = ("index", "journal", "topics", "spill")


def make(path: Path) -> Path:
    with eventdb.open(path) as db:
        log = db.create_topic("log", {"n": "BIGINT", "s": "VARCHAR"})
        log.append_many([{"n": n, "s": f"s{n}"} for n in range(3)])
    return path


def named(path: Path, name: str) -> Path:
    return path / name.replace("SEG", f"{0:020d}.seg")


def use(path: Path) -> None:
    with eventdb.open(path) as db:
        db.topic("log").append({"n": 9, "s": "x"})


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "db"
    for store in list(store_module._stores.values()):
        store.close()


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_every_file_is_the_owners_alone_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with eventdb.open(path) as db:
            log = db.create_topic("log", {"n": "BIGINT", "s": "VARCHAR"})
            log.append_many([{"n": n, "s": f"s{n}"} for n in range(3000)])
            db.sql("CREATE MATERIALIZED VIEW v AS SELECT s, count(*) AS n FROM log GROUP BY s")
            db.wait("v", 2999, timeout=20)
            db.backup(path.parent / "backup")
            found = [path, *path.rglob("*"), path.parent / "backup", *(path.parent / "backup").rglob("*")]
            modes = {str(one): stat.S_IMODE(one.stat().st_mode) for one in found}
            folders = {str(one) for one in found if one.is_dir()}
    finally:
        os.umask(before)
    wanted = {"data.mdb", "lock.mdb", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "VIEWS"}
    assert wanted <= {os.path.basename(name) for name in modes}
    assert {name: oct(mode) for name, mode in modes.items() if mode != (0o700 if name in folders else 0o600)} == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["hard link", "link", "pipe", "socket", "directory"])
def test_anything_but_a_plain_file_is_refused_by_name(path: Path, name: str, kind: str) -> None:
    file = named(make(path), name)
    moved = path.parent / "elsewhere"
    if kind == "hard link":
        os.link(file, moved)
    else:
        file.rename(moved)
        if kind == "link":
            file.symlink_to(moved)
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as end:
                here = os.getcwd()
                os.chdir(file.parent)  # the path of a socket is short
                try:
                    end.bind(file.name)
                finally:
                    os.chdir(here)
        else:
            file.mkdir()
    content = moved.read_bytes()
    with pytest.raises(StorageError, match=file.name.split(".")[0]):
        use(path)
    assert moved.read_bytes() == content


@needs_root
@pytest.mark.parametrize("name", NAMES)
def test_a_device_or_the_file_of_another_user_is_refused(path: Path, name: str) -> None:
    file = named(make(path), name)
    os.chown(file, NOBODY, -1)
    with pytest.raises(StorageError, match=f"user {NOBODY}"):
        use(path)
    os.chown(file, 0, -1)
    file.rename(path.parent / "elsewhere")
    os.mknod(file, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with pytest.raises(StorageError, match=file.name.split(".")[0]):
        use(path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_or_open_to_others_is_refused(path: Path, name: str) -> None:
    folder = make(path) / name
    folder.rename(path.parent / "elsewhere")
    folder.symlink_to(path.parent / "elsewhere")
    with pytest.raises(StorageError, match=f"{name} is a symbolic link"):
        use(path)
    folder.unlink()
    (path.parent / "elsewhere").rename(folder)
    folder.chmod(0o770)
    with pytest.raises(StorageError, match="chmod 700"):
        use(path)
    folder.chmod(0o700)
    path.chmod(0o777)
    with pytest.raises(StorageError, match="chmod 700"):
        use(path)
    path.chmod(0o700)
    use(path)


def test_an_empty_directory_is_made_the_owners_alone(path: Path) -> None:
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "a\0b", "CON/", ".hidden", "", "é", "x" * 250, "/etc/passwd"])
def test_a_topic_name_is_never_a_path(path: Path, name: str) -> None:
    with eventdb.open(path) as db:
        with pytest.raises(UsageError):
            db.create_topic(name, {"n": "BIGINT"})
        db.create_topic("CON.aux", {"n": "BIGINT"}).append({"n": 1})
        assert not [found for found in path.rglob("*") if "CON" in found.name]
    assert {found.name for found in path.parent.iterdir()} == {"db"}


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "virtiofs", "fuse", "fuse.sshfs", "fuse.rclone"]
)
def test_a_network_file_system_is_refused_by_its_name(path: Path, kind: str) -> None:
    class Elsewhere(Files):
        asked = 0

        def file_system(self, path: str) -> str:
            self.asked += 1
            return kind

    files = Elsewhere()
    for read_only in (False, True):
        if read_only:
            make(path)
        with pytest.raises(StorageError, match=f"lies on a {kind.replace('.', '[.]')} file system"):
            Store.open(str(path), files=files, read_only=read_only, live_topics=lambda: SCHEMAS)
    assert files.asked == 2


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "fuseblk", ""])
def test_a_local_file_system_is_not(path: Path, kind: str) -> None:
    class Here(Files):
        def file_system(self, path: str) -> str:
            return kind

    store = Store.open(str(path), files=Here(), live_topics=lambda: SCHEMAS)
    append(store, 2)
    store.close()


def test_the_files_of_an_open_index_are_not_opened_again(path: Path) -> None:
    """Closing a second descriptor would drop LMDB's locks: another process could reuse pages under a reader."""
    store = Store.open(str(path), live_topics=lambda: SCHEMAS)
    files = Files()
    gc.collect()  # descriptors of what nobody refers to go before they are counted
    before = set(os.listdir("/proc/self/fd"))
    for name in ("data.mdb", "lock.mdb"):
        with pytest.raises(StorageError, match="LMDB's locks"):
            files.open(f"{path}/index/{name}")
        with pytest.raises(StorageError, match="LMDB's locks"):
            files.read_all(f"{path}/index/{name}")
    assert set(os.listdir("/proc/self/fd")) == before
    store.close()
    assert files.read_all(f"{path}/index/data.mdb")


LIST = """
import os
for fd in os.listdir("/proc/self/fd"):
    if os.path.lexists(f"/proc/self/fd/{fd}"):
        print(os.readlink(f"/proc/self/fd/{fd}"))
"""


def test_a_child_process_inherits_no_descriptor(path: Path) -> None:
    make(path)
    with eventdb.open(path) as db:
        use_it = db.topic("log")
        use_it.append_many([{"n": n, "s": "t" * (n % 9)} for n in range(3000)])
        db.sql("SELECT count(*) FROM log").fetchall()
        with db.subscribe("log"):
            own = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
            assert sum(str(path) in name for name in own) >= 6
            seen = subprocess.run([sys.executable, "-c", LIST], close_fds=False, capture_output=True, text=True).stdout
    leaked = [line for line in seen.splitlines() if str(path) in line or ("socket" in line and line in own)]
    assert leaked == []


def _is_link(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# --- those who may only look ------------------------------------------------------------------------------------------

LOOK = """
import os, sys
import eventdb

def look(path):
    with eventdb.open(path, read_only=True) as db:
        return db.sql("SELECT count(*), sum(n) FROM log").fetchall(), db.check(deep=True)

look(sys.argv[2])  # everything is imported: another user may not read this interpreter
with eventdb.open(sys.argv[2], read_only=True) as db:
    db._store.check(deep=True)  # what the deep check of another process needs, too: where none starts, this one does it
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*look(sys.argv[1]))
try:
    eventdb.open(sys.argv[1])
except eventdb.EventDBError as error:
    print(type(error).__name__, error)
"""


def _open_to_all(path: Path) -> None:
    for found in [path, *path.rglob("*")]:
        found.chmod(0o755 if found.is_dir() else 0o644)


@needs_root
def test_a_user_who_may_only_read_reads_a_closed_database(path: Path, tmp_path: Path) -> None:
    make(path)
    _open_to_all(path)
    folder = path.parent
    while folder != folder.parent and not folder.stat().st_mode & 1:
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    command = [sys.executable, "-c", LOOK, str(path), str(make(tmp_path / "other"))]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    looked, refused = found.stdout.splitlines()
    assert looked == "[(3, 3)] []", found.stderr
    assert refused.startswith("StorageError")
    assert "read_only=True" in refused


@needs_root
def test_a_read_only_medium_is_read_without_a_lock(path: Path, tmp_path: Path) -> None:
    make(path)
    mount = tmp_path / "medium"
    mount.mkdir()
    if subprocess.run(["mount", "--bind", str(path.parent), str(mount)], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        with eventdb.open(mount / "db", read_only=True) as db:
            assert db.sql("SELECT count(*), sum(n) FROM log").fetchall() == [(3, 3)]
            assert db.check(deep=True) == []
            db.backup(tmp_path / "backup")
        with pytest.raises(ReadOnlyError, match="read_only=True"):
            eventdb.open(mount / "db")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    with eventdb.open(tmp_path / "backup") as db:
        assert db.sql("SELECT count(*), sum(n) FROM log").fetchall() == [(3, 3)]
