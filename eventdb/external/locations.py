"""Where files lie: paths, globs and URLs to a file system and the paths in it.

A path without scheme is local, and `~` is the home directory. `file://`, `s3://`, `gs://`, `hdfs://` and `abfs://` are
pyarrow's file systems, which take credentials from their usual environment variables and the URL's query
(`s3://bucket/x.csv?region=eu-central-1`); a registered file system has its scheme for itself. In a pattern `*` and `?`
stand for anything but `/`, `**` for any number of folders, `[ab]` for one of the characters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pa_fs

from eventdb.errors import UnsupportedError, UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_REMOTE = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
_MAGIC = re.compile(r"[*?\[]")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}


@dataclass(frozen=True)
class Location:
    """One file: `path` inside `filesystem`, and the `name` people know it by."""

    filesystem: Any
    path: str
    name: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pa_fs.LocalFileSystem)

    @property
    def local_path(self) -> str | None:
        """The path in the local file system, of which the file system may be a part; None elsewhere."""
        system, path = self.filesystem, self.path
        while isinstance(system, pa_fs.SubTreeFileSystem):
            system, path = system.base_fs, os.path.join(system.base_path, path.lstrip("/"))
        return path if isinstance(system, pa_fs.LocalFileSystem) else None

    @property
    def size_bytes(self) -> int:
        """As stored; 0 where the file system does not say."""
        return int(self.filesystem.get_file_info(self.path).size or 0)

    def open_stream(self, compression: str | None = None) -> Any:
        """The bytes from the start, decompressed: as `compression` says, or by the file's ending if it is None."""
        found = compression or ending(self.path)[1]
        return self.filesystem.open_input_stream(self.path, compression=None if found == "uncompressed" else found)

    def open_file(self) -> Any:
        """The file for reading anywhere in it."""
        return self.filesystem.open_input_file(self.path)


def ending(path: str) -> tuple[str, str | None]:
    """('.csv', 'gzip') of 'x.csv.gz': the ending in lower case, and the codec that one behind it names."""
    stem, last = os.path.splitext(path.lower())
    codec = COMPRESSIONS.get(last)
    return (last if codec is None else os.path.splitext(stem)[1]), codec


def locate(patterns: Sequence[str], filesystems: Mapping[str, Any]) -> list[Location]:
    """The files of paths and patterns: in the order of the list, those of a pattern by name.

    UsageError if there is none, UnsupportedError for an unknown scheme.
    """
    found: list[Location] = []
    for pattern in patterns:
        try:
            found.extend(_located(pattern, filesystems))
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"cannot reach {pattern!r}: {error}") from None
    if not found:
        raise UsageError("a list of files names none")
    return found


def resolve(name: str, filesystems: Mapping[str, Any]) -> Location:
    """The place of one file, which may be missing."""
    filesystem, path, prefix = _system(name, filesystems)
    return Location(filesystem, path, prefix + path)


def checked_filesystem(scheme: object, filesystem: Any) -> Any:
    """The file system as pyarrow's. UsageError for a scheme or object that cannot be one."""
    if not isinstance(scheme, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+(://)?", scheme):
        raise UsageError(f"a scheme is a word such as 's3', not {scheme!r}")
    if isinstance(filesystem, pa_fs.FileSystem):
        return filesystem
    if hasattr(filesystem, "protocol") and hasattr(filesystem, "open"):
        return pa_fs.PyFileSystem(pa_fs.FSSpecHandler(filesystem))
    raise UsageError(f"a file system is a pyarrow.fs.FileSystem or an fsspec one, not {type(filesystem).__name__}")


def _system(name: str, filesystems: Mapping[str, Any]) -> tuple[Any, str, str]:
    """(file system, path in it, what the name has before that path)."""
    if not name or "\0" in name:
        raise UsageError(f"{name!r} is not a path")
    scheme = _SCHEME.match(name)
    if scheme is None:
        return pa_fs.LocalFileSystem(), os.path.expanduser(name), ""
    kind, rest = scheme.group(1).lower(), name[scheme.end() :]
    if kind in filesystems:
        return filesystems[kind], rest, f"{kind}://"
    if kind == "file":
        return pa_fs.LocalFileSystem(), unquote(rest.removeprefix("localhost")), ""
    if kind not in _REMOTE:
        known = ", ".join(f"{k}://" for k in ("file", *_REMOTE, *filesystems))
        raise UnsupportedError(
            f"{name!r}: no file system for {kind}://; there are {known}, and db.register_filesystem(...) adds another",
            construct=f"{kind}://",
        )
    magic = _MAGIC.search(rest)
    pattern, _, query = rest.partition("?") if "?" in rest and "=" in rest.partition("?")[2] else (rest, "", "")
    base = pattern[: magic.start()] if magic is not None and magic.start() < len(pattern) else pattern
    uri = f"{kind}://{base.rpartition('/')[0] or base}" + (f"?{query}" if query else "")
    try:
        filesystem, _ = pa_fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"cannot reach {name!r}: {error}") from None
    return filesystem, pattern, f"{kind}://"


def _located(pattern: str, filesystems: Mapping[str, Any]) -> list[Location]:
    filesystem, path, prefix = _system(pattern, filesystems)
    info = filesystem.get_file_info(path)
    if info.type == pa_fs.FileType.File:
        return [Location(filesystem, path, prefix + path)]
    if info.type == pa_fs.FileType.Directory:
        raise UsageError(f"{pattern!r} is a directory, not a file; its files are '{pattern.rstrip('/')}/*.parquet'")
    if info.type == pa_fs.FileType.Unknown:
        raise UsageError(
            f"{pattern!r} is a pipe or a device: files are read more than once, so save it to a file first"
        )
    if not _MAGIC.search(path):
        folder = os.path.dirname(path)
        raise UsageError(f"file {pattern!r} does not exist{_near(filesystem, folder, path)}")
    fixed = path[: _MAGIC.search(path).start()]  # type: ignore[union-attr]
    folder = fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "")
    deep = "/" in path[len(fixed) :] or "**" in path
    selector = pa_fs.FileSelector(folder or ("." if not prefix else ""), recursive=deep, allow_not_found=True)
    try:
        match = re.compile(_translated(path), re.DOTALL)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no pattern: {error.msg}; [a-c] is one of the characters from a to c"
        ) from None
    names = [info.path for info in filesystem.get_file_info(selector) if info.type == pa_fs.FileType.File]
    if not folder:
        names = [name.removeprefix("./") for name in names]
    chosen = sorted(name for name in names if match.fullmatch(name) and not _is_hidden(name, path))
    if not chosen:
        raise UsageError(f"no file matches {pattern!r}")
    return [Location(filesystem, name, prefix + name) for name in chosen]


def _is_hidden(name: str, pattern: str) -> bool:
    return os.path.basename(name).startswith(".") and not os.path.basename(pattern).startswith(".")


def _near(filesystem: Any, folder: str, path: str) -> str:
    try:
        listed = filesystem.get_file_info(pa_fs.FileSelector(folder or "."))
    except (pa.ArrowException, OSError, ValueError):
        return ""
    names = [os.path.basename(info.path) for info in listed]
    near = get_close_matches(os.path.basename(path), names, 1)
    return f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""


def _translated(pattern: str) -> str:
    """The regular expression of a pattern."""
    result, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            result, i = result + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            result, i = result + ".*", i + 2
        elif pattern[i] == "*":
            result, i = result + "[^/]*", i + 1
        elif pattern[i] == "?":
            result, i = result + "[^/]", i + 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
            inner = re.sub(r"[\[\\&~|]", r"\\\g<0>", pattern[i + 1 : end])
            result, i = result + f"[{'^' + inner[1:] if inner[0] in '!^' else inner}]", end + 1
        else:
            result, i = result + re.escape(pattern[i]), i + 1
    return result
