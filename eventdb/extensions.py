"""Extensions: what a program lends to the SQL of one open database: objects, functions, file systems. Nothing of it is
stored."""

from __future__ import annotations

import sys

from eventdb.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.catalog import Catalog
    from eventdb.external.source import Source


class Extensions:
    """Part of Database."""

    _check_open: Callable[[], None]
    _refresh_catalog: Callable[[], None]
    _catalog: Catalog

    def _start_extensions(self) -> None:
        self._filesystems: dict[str, Any] = {}  # by scheme
        self._objects: dict[str, Source] = {}  # by lower-case name

    # --- objects ------------------------------------------------------------------------------------------------------

    def register(self, name: str, value: Any) -> None:
        """FROM `name` reads the object from now on: an Arrow table, batch or reader (once), a pandas or Polars frame,
        anything with the Arrow PyCapsule interface, a dict of columns, or a list of dicts.

        Columns are not copied where Arrow and EventDB lay them out alike; changing a frame afterwards may or may not be
        seen. Another object of that name is replaced. Nothing is stored: `INSERT INTO topic SELECT * FROM name` does.
        UsageError for what is no table, and for the name of a topic, table or view.
        """
        from eventdb.external.objects import object_source

        self._check_open()
        if not isinstance(name, str) or not name or "\0" in name:
            raise UsageError(f"an object's name is a non-empty string, not {name!r}")
        if self._is_stored(name):
            raise UsageError(f"{name!r} is a topic, table or view: register the object under another name")
        self._objects[name.lower()] = object_source(name, value)

    def unregister(self, name: str) -> None:
        """Forgets the object. UsageError if none is registered under the name."""
        self._check_open()
        if not isinstance(name, str) or self._objects.pop(name.lower(), None) is None:
            known = ", ".join(source.name for source in self._objects.values()) or "none"
            raise UsageError(f"no object is registered as {name!r}; registered: {known}")

    def _is_stored(self, name: str) -> bool:
        self._refresh_catalog()
        names = [info.name for info in self._catalog.topics()] + [view.name for view in self._catalog.views()]
        return name.lower() in map(str.lower, names)

    def _object(self, name: str, replacements: bool) -> Source | None:
        """The registered object of a name, or the table that a variable of the caller holds."""
        found = self._objects.get(name.lower())
        if found is not None or not replacements:
            return found
        value = caller_variable(name)
        if value is None:
            return None
        from eventdb.external.objects import is_table, object_source

        return object_source(name, value) if is_table(value) else None

    # --- file systems -------------------------------------------------------------------------------------------------

    def register_filesystem(self, scheme: str, filesystem: Any) -> None:
        """Files under `scheme://` are read and written through a pyarrow.fs.FileSystem, or an fsspec one, from now on.

        What follows `scheme://` is the path in it. It goes before the file system the scheme has otherwise, so that
        `register_filesystem("s3", S3FileSystem(...))` brings credentials. UsageError for what is none.
        """
        from eventdb.external.locations import checked_filesystem

        self._check_open()
        self._filesystems[scheme.lower().removesuffix("://")] = checked_filesystem(scheme, filesystem)


def caller_variable(name: str) -> Any:
    """What a local, else a global variable of the code that called into EventDB holds; None without one."""
    frame = sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame.f_globals.get("__name__", "").partition(".")[0] == package:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").partition(".")[0] == f"{package}_shell":
        return None  # its variables are none of the user's
    return frame.f_locals[name] if name in frame.f_locals else frame.f_globals.get(name)
