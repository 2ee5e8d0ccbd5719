"""Where compiled kernels lie on disk, and whether one is there. Imports nothing heavy: asked before Numba is loaded.

A kernel file is a pickle and machine code: whoever can write it can run code as the user. So the directory is the
user's own (`$XDG_CACHE_HOME` or `~/.cache`, then eventdb/kernels-<versions>), made 0700, and trusted only if it is a
real directory, owned by the user, closed to everybody else, below directories nobody else can replace. It is never
inside a database, and NUMBA_CACHE_DIR is not looked at. Without a trusted directory nothing is cached.

One file a kernel: `<sha256 of what it was compiled from>.kernel` = magic, sha256 of the rest, the rest. Written under
another name, then renamed, so a reader sees a whole file or none.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from functools import lru_cache

MAGIC = b"EventDB kernel 1\n"
_DIGEST_BYTES = 32


@lru_cache(maxsize=1)
def versions() -> str:
    """Names everything a stored kernel depends on, except the processor (which is inside the file)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        numba, numpy = version("numba"), version("numpy")
    except PackageNotFoundError:
        return ""
    name = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}-numba{numba}-numpy{numpy}"
    if os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0"):
        name += "-boundscheck"  # compiled with other code: a warm cache would hide the flag
    return name


def has_numba() -> bool:
    return bool(versions())


def _closed_to_others(path: str, *, private: bool) -> bool:
    """Whether nobody but the user and root can change what `path` names. `private`: nobody else may even look."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if private:
        return found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if found.st_uid not in (0, os.geteuid()):
        return False
    # In a sticky directory (/tmp) others can add names but not replace ours.
    return not found.st_mode & 0o022 or bool(found.st_mode & stat.S_ISVTX)


def _trusted(directory: str) -> bool:
    if not hasattr(os, "geteuid"):  # Windows: the profile directory is the user's own
        return os.path.isdir(directory)
    if not _closed_to_others(directory, private=True):
        return False
    parent = os.path.dirname(directory)
    if not _closed_to_others(parent, private=False) or os.lstat(parent).st_uid != os.geteuid():
        return False
    # Links above our own two directories are the administrator's or the user's choice: judge what they lead to.
    above = os.path.realpath(os.path.dirname(parent))
    while True:
        if not _closed_to_others(above, private=False):
            return False
        if os.path.dirname(above) == above:
            return True
        above = os.path.dirname(above)


@lru_cache(maxsize=8)
def _directory_below(base: str) -> str | None:
    if not os.path.isabs(base) or not versions():
        return None
    directory = os.path.join(base, "eventdb", f"kernels-{versions()}")
    try:
        os.makedirs(base, exist_ok=True)
        for path in (os.path.dirname(directory), directory):
            if not os.path.lexists(path):
                os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # another process was faster; it is judged below
    except OSError:
        return None
    return directory if _trusted(directory) else None


def directory() -> str | None:
    """The trusted kernel directory, made if missing; None when there is none (nothing is cached then)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return _directory_below(base)


def kernel_key(*parts: str) -> str:
    """The file name of a kernel compiled from `parts` (source text, signature, options)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def intrinsics_stamp() -> str:
    """The hash of intrinsics.py and tiles.py: part of every generated source, because those are compiled with it."""
    found = hashlib.sha256()
    for name in ("intrinsics.py", "tiles.py"):
        with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def path_of(key: str) -> str | None:
    folder = directory()
    return None if folder is None else os.path.join(folder, f"{key}.kernel")


def exists(key: str) -> bool:
    """Whether a kernel of that key is stored (perhaps for another processor: loading decides)."""
    path = path_of(key)
    return path is not None and os.path.exists(path)


def read(key: str) -> bytes | None:
    """The stored bytes of a kernel; None if missing, damaged, or not a private file of this user."""
    path = path_of(key)
    if path is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            return None
        try:
            data = file.read()
        except OSError:
            return None
    start = len(MAGIC) + _DIGEST_BYTES
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
        return None
    return data[start:]


def write(key: str, data: bytes) -> bool:
    """Stores a kernel. False (and nothing stored) when there is no trusted directory or no space."""
    path = path_of(key)
    if path is None:
        return False
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=key[:16], suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                return False
        return False
    return True
