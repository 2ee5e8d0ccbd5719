"""Extensions: what a program lends to the SQL of one open database: objects, functions, file systems. Nothing of it is
stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Extensions:
    """Part of Database."""

    _check_open: Callable[[], None]

    def _start_extensions(self) -> None:
        self._filesystems: dict[str, Any] = {}  # by scheme

    def register_filesystem(self, scheme: str, filesystem: Any) -> None:
        """Files under `scheme://` are read and written through a pyarrow.fs.FileSystem, or an fsspec one, from now on.

        What follows `scheme://` is the path in it. It goes before the file system the scheme has otherwise, so that
        `register_filesystem("s3", S3FileSystem(...))` brings credentials. UsageError for what is none.
        """
        from eventdb.external.locations import checked_filesystem

        self._check_open()
        self._filesystems[scheme.lower().removesuffix("://")] = checked_filesystem(scheme, filesystem)
