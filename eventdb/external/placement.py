"""Files and folders that come to be whole or not at all, and replace what stood at their place.

Each is made beside its place under a hidden name and renamed. On a local disk what was made is flushed first and the
folder that holds it last, links are followed, and a file or folder that is replaced leaves its mode. A pipe, a device
or standard output is written through as the rows come.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs

from eventdb.errors import StorageError, UsageError
from eventdb.external.locations import Location

_STREAM = re.compile(r"/dev/(?:stdout|stderr|fd/([0-9]+))|/proc/self/fd/([0-9]+)")


def refuse_own_folder(place: Location, own: str, whole: bool) -> None:
    """UsageError for a place inside the folder `own` of the database, and if `whole` for one that holds it."""
    if place.local_path is None:
        return
    path, own = os.path.realpath(place.local_path), os.path.realpath(own)
    common = os.path.commonpath([path, own])
    if common == own:
        raise UsageError(f"{place.name!r} lies in the database's own folder: COPY to a place outside of {own!r}")
    if whole and common == path:
        raise UsageError(f"{place.name!r} holds the database {own!r}, and PARTITION_BY replaces a folder as a whole")


def put_file(place: Location, write: Callable[[Any], None]) -> None:
    """`write` fills the sink it is given, and that is the file. UsageError, OSError; what `write` raises."""
    system, path, before = _found(place)
    if before is not None and stat.S_ISDIR(before):
        raise UsageError(f"{place.name!r} is a folder: COPY writes a file; PARTITION_BY (column) writes a folder")
    is_local = place.local_path is not None
    if is_local and (found := _STREAM.fullmatch(path)):
        sys.stdout.flush()
        number = found[1] or found[2] or ("1" if path.endswith("stdout") else "2")
        return _write_through(os.dup(int(number)), write)
    if is_local and before is not None and not stat.S_ISREG(before):
        return _write_through(os.open(path, os.O_WRONLY), write)
    path = os.path.realpath(path) if is_local else path
    draft = _beside(path)
    try:
        with system.open_output_stream(draft) as sink:
            write(sink)
        if is_local:
            _settle(draft, before)
        _move(system, draft, path)
    except BaseException:
        _forget(lambda: system.delete_file(draft))
        raise


def put_folder(place: Location, write: Callable[[Any, str], None], overwrite: bool) -> None:
    """`write` fills the folder it is given, a file system and the path in it, and that is the folder. UsageError for a
    place that is a file, or a folder with something in it unless `overwrite`; OSError; what `write` raises."""
    system, path, before = _found(place)
    if before is not None and not stat.S_ISDIR(before):
        raise UsageError(f"{place.name!r} is a file, and PARTITION_BY writes a folder")
    is_local = place.local_path is not None
    path = os.path.realpath(path) if is_local else path.rstrip("/")
    if before is not None and not overwrite and system.get_file_info(pa_fs.FileSelector(path)):
        raise UsageError(f"{place.name!r} is not empty: OVERWRITE replaces all that is in it")
    draft = _beside(path)
    try:
        system.create_dir(draft)
        write(system, draft)
        if is_local:
            for folder, _, names in os.walk(draft, topdown=False):
                for name in names:
                    _flush(os.path.join(folder, name))
                _settle(folder, before if folder == draft else None)
        if before is None:
            _move(system, draft, path)
        else:
            _exchange(system, draft, path, place)
    except BaseException:
        _forget(lambda: system.delete_dir(draft))
        raise


def _exchange(system: Any, draft: str, path: str, place: Location) -> None:
    """The draft in the place of a folder, which is deleted. OSError if it is there as before; StorageError if not."""
    old = _beside(path)
    _move(system, path, old)
    try:
        _move(system, draft, path)
    except BaseException as error:
        try:
            _move(system, old, path)
        except (pa.ArrowException, OSError):
            raise StorageError(
                f"cannot write {place.name!r}: {error}; what it held is in {old!r}: move it back", path=place.name
            ) from error
        raise
    try:
        system.delete_dir(old)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{place.name!r} is written, but what it held before cannot be deleted: {error}; delete {old!r}",
            path=place.name,
        ) from error


def _found(place: Location) -> tuple[Any, str, int | None]:
    """(file system, path in it, mode of what is there or None)."""
    local = place.local_path
    if local is not None:
        try:
            return pa_fs.LocalFileSystem(), local, os.stat(local).st_mode
        except FileNotFoundError:
            return pa_fs.LocalFileSystem(), local, None
    kind = place.filesystem.get_file_info(place.path).type
    mode = {pa_fs.FileType.NotFound: None, pa_fs.FileType.Directory: stat.S_IFDIR}.get(kind, stat.S_IFREG)
    return place.filesystem, place.path, mode


def _beside(path: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}.copy-{uuid.uuid4().hex[:12]}.tmp"


def _settle(draft: str, before: int | None) -> None:
    """The draft on the device, with the mode of what it replaces."""
    if before is not None:
        os.chmod(draft, stat.S_IMODE(before))
    _flush(draft)


def _move(system: Any, source: str, path: str) -> None:
    if not isinstance(system, pa_fs.LocalFileSystem):
        system.move(source, path)
        return
    os.rename(source, path)
    _flush(os.path.dirname(path) or ".")


def _flush(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _forget(delete: Callable[[], None]) -> None:
    """Takes a draft away, if it came to be."""
    try:
        delete()
    except (pa.ArrowException, OSError):
        return


def _write_through(file: int, write: Callable[[Any], None]) -> None:
    with _Stream(file) as stream, pa.PythonFile(stream, mode="w") as sink:
        write(sink)


class _Stream(io.RawIOBase):
    """A descriptor of something that has no position; Parquet wants to know one."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._size_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size_bytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(self._file, view[done:])
        self._size_bytes += done
        return done

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()
