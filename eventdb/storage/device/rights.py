"""What a file or directory of a database may be: plain, its own, and on a disk of this machine.

A name in the directory that leads elsewhere, or that somebody else can change, is refused with the reason. There is no
option that allows it: what these rules forbid cannot be made safe by asking for it.
"""

from __future__ import annotations

import os
import stat

from eventdb.errors import NotADatabase, StorageError

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
# Locks, or maps shared with other processes, do not work there as on a disk; FUSE may do either.
_NETWORK_TYPES = frozenset(
    "nfs nfs4 cifs smb3 smbfs ncpfs 9p ceph afs lustre gfs2 ocfs2 gpfs beegfs pvfs2 virtiofs vboxsf fuse".split()
)


def check_file(status: os.stat_result, path: str, *, write: bool) -> None:
    """The open file is a regular one with one name, and belongs to whoever writes to it. NotADatabase, StorageError."""
    if not stat.S_ISREG(status.st_mode):
        raise NotADatabase(f"{path} is not a regular file but {_kind(status.st_mode)}", path=path)
    if status.st_nlink > 1:
        raise StorageError(
            f"{path} has {status.st_nlink} names (hard links): a change through another one would damage the database; "
            "remove the others, or copy the file",
            path=path,
        )
    if write:
        _check_owner(status, path)


def check_folder(path: str, *, write: bool) -> None:
    """The path is a directory, not a link to one; to write, it is ours and nobody else may change it. StorageError."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(
            f"{path} is {_kind(status.st_mode)}, not a directory; EventDB does not follow links inside a database",
            path=path,
        )
    if write:
        check_directory(status, path)


def check_directory(status: os.stat_result, path: str) -> None:
    """The directory is ours and nobody else may change what is in it. StorageError."""
    _check_owner(status, path)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(
            f"{path} can be changed by others (mode {stat.S_IMODE(status.st_mode):04o}): chmod 700 it, then open again",
            path=path,
        )


def _check_owner(status: os.stat_result, path: str) -> None:
    me = os.geteuid()
    if status.st_uid != me:
        raise StorageError(
            f"{path} belongs to user {status.st_uid}, this process runs as {me}: open it as its owner, "
            "or with read_only=True to look at it",
            path=path,
        )


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "a regular file")


def network_type(kind: str) -> str | None:
    """The file system's type if a database cannot live on it, None if it can or the type is not known ('')."""
    return kind if kind in _NETWORK_TYPES or kind.startswith("fuse.") else None
