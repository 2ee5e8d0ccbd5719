"""Extensions: what a program lends to the SQL of one open database: objects, functions, file systems. Nothing of it is
stored."""

from __future__ import annotations

import sys

from eventdb.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from eventdb.catalog import Catalog
    from eventdb.declare import Types
    from eventdb.external.source import Source
    from eventdb.logical.python_functions import Callee
    from eventdb.schema import DataType, Schema


class Extensions:
    """Part of Database."""

    _check_open: Callable[[], None]
    _refresh_catalog: Callable[[], None]
    _catalog: Catalog

    def _start_extensions(self) -> None:
        self._filesystems: dict[str, Any] = {}  # by scheme
        self._objects: dict[str, Source] = {}  # by lower-case name
        self._functions: dict[str, Callee] = {}  # by lower-case name
        self._functions_generation = 0  # counts changes of them

    # --- objects ------------------------------------------------------------------------------------------------------

    def register(self, name: str, value: Any) -> None:
        """FROM `name` reads the object from now on: an Arrow table, batch or reader (once), a pandas or Polars frame,
        anything with the Arrow PyCapsule interface, a dict of columns, or a list of dicts. The index of a pandas frame
        is a column where it has a name.

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
        catalog = self._catalog
        names = {*catalog.plain_views(), *(view.name.lower() for view in catalog.views())}
        return name.lower() in names.union(topic.name.lower() for topic in catalog.topics())

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

    # --- functions ----------------------------------------------------------------------------------------------------

    def create_function(
        self, name: str, function: Callable[..., Any], args: Types = None, returns: str | DataType | None = None, *,
        vectorized: bool = False, null_handling: str = "default", exception_handling: str = "default",
        volatile: bool = False, replace: bool = False,
    ) -> None:  # fmt: skip
        """SQL calls `function` by `name` from now on, wherever an expression may stand.

        `args` and `returns` are SQL types, or follow from annotations (int is BIGINT, float DOUBLE, str VARCHAR, bytes
        BLOB, datetime TIMESTAMP, date DATE, timedelta INTERVAL); "..." at the end of `args` repeats the last one, and
        parameters with defaults need not be given. It is called for each row with Python values (a datetime is naive
        UTC), or, if `vectorized`, with Arrow arrays of many rows, and gives an array of that length. A row with a NULL
        argument is NULL without a call, unless `null_handling` is "special". An exception is a FunctionError that shows
        the arguments, unless `exception_handling` is "return_null". A `volatile` function may give another value for
        the same arguments; others are called once where the arguments are constant. A view cannot call it: other
        processes keep it too.
        UsageError for types that are not known, a name that is taken (unless `replace`) or built in.
        """
        from eventdb.declare import scalar_function

        found = scalar_function(
            name, function, args, returns, vectorized, null_handling, exception_handling, volatile
        )  # fmt: skip
        self._add_function(found, replace)

    def create_aggregate(
        self, name: str, aggregate: Callable[..., Any], args: Types = None, returns: str | DataType | None = None, *,
        vectorized: bool = False, null_handling: str = "default", replace: bool = False,
    ) -> None:  # fmt: skip
        """SQL aggregates with `aggregate` by `name` from now on, with GROUP BY, DISTINCT and FILTER.

        A class, as in sqlite3: an object of it takes the rows of a group with step(*arguments) and gives the value with
        finalize(). Or a function: it takes a list of values for
        each of `args`, or an Arrow array if `vectorized`. The rest is as in create_function.
        """
        from eventdb.declare import aggregate_function

        self._add_function(aggregate_function(name, aggregate, args, returns, vectorized, null_handling), replace)

    def create_table_function(
        self, name: str, function: Callable[..., Any], args: Types = None,
        returns: Mapping[str, str | DataType] | Schema | None = None, *, replace: bool = False,
    ) -> None:  # fmt: skip
        """FROM `name(...)` reads what `function` gives from now on: anything `register` takes, or an iterable of dicts
        or tuples, which is streamed. `returns` names the columns and their types.

        It is called once for each time a query reads it. The rest is as in create_function.
        """
        from eventdb.declare import table_function

        self._add_function(table_function(name, function, args, returns), replace)

    def remove_function(self, name: str) -> None:
        """Forgets a function of one of the three kinds. UsageError if there is none of the name."""
        self._check_open()
        if not isinstance(name, str) or self._functions.pop(name.lower(), None) is None:
            raise UsageError(f"no function {name!r} was created; there are {', '.join(self._functions) or 'none'}")
        self._functions_generation += 1

    def _add_function(self, function: Callee, replace: bool) -> None:
        self._check_open()
        if function.name in self._functions and not replace:
            raise UsageError(f"{function.name}() exists: replace=True replaces it, remove_function takes it away")
        self._functions[function.name] = function
        self._functions_generation += 1

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
