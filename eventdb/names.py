"""Names: what FROM and calls may name in a database, for the binder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventdb.errors import TopicNotFound
from eventdb.logical.python_functions import Callee, PythonTable
from eventdb.sql import statements as st

if TYPE_CHECKING:
    from eventdb.database import Database


class Names:
    """What FROM may name: the catalog's topics, tables and views, then registered objects, then, if `replacements`,
    variables of the caller; and files. The binder's Resolver."""

    def __init__(self, database: Database, replacements: bool = False) -> None:
        self._database = database
        self._replacements = replacements
        self.read_files = False  # whether the statement's plan depends on files or objects

    def table(self, name: str) -> st.TableInfo:
        catalog = self._database._catalog
        if name.lower().startswith("eventdb."):
            from eventdb.system_tables import system_table

            self.read_files = True
            system = system_table(self._database, name)
            return st.TableInfo("system", 0, system.name, system.schema, source=system)
        for view in catalog.views():
            if view.name.lower() == name.lower():
                return st.TableInfo("view", view.id, view.name, view.schema)
        plain = catalog.plain_views().get(name.lower())
        if plain is not None:
            return st.TableInfo("query", plain.id, plain.name, plain.schema, query=plain.sql)
        try:
            info = catalog.topic(name)
        except TopicNotFound:
            source = self._database._object(name, self._replacements)
            if source is None:
                raise
            self.read_files = True
            return st.TableInfo("object", 0, source.name, source.schema, source=source)
        key = () if info.is_keyless else info.primary_key
        return st.TableInfo(
            info.kind, info.id, info.name, info.visible, info.event_time, info.watermark_delay_us, key=info.key,
            primary_key=key, defaults=tuple(info.defaults.items()),
        )  # fmt: skip

    def file(self, path: str) -> st.TableInfo:
        from eventdb.external.files import open_files

        self.read_files = True
        source = open_files([path], filesystems=self._database._filesystems)
        return st.TableInfo("file", 0, path, source.schema, source=source)

    def files(self, reader: str, paths: Sequence[str], options: Mapping[str, Any]) -> st.TableInfo:
        from eventdb.external.files import read_function

        self.read_files = True
        source = read_function(reader, paths, options, self._database._filesystems)
        return st.TableInfo("file", 0, source.name, source.schema, source=source)

    def format_of(self, path: str) -> str:
        from eventdb.external.files import detect_format

        return detect_format(path)

    def function(self, name: str) -> Callee | None:
        return self._database._functions.get(name)

    def call(self, function: PythonTable, arguments: Sequence[Any]) -> st.TableInfo:
        from eventdb.external.table_calls import CallSource

        self.read_files = True
        source = CallSource(function.name, function.function, arguments, function.schema)
        return st.TableInfo("object", 0, function.name, function.schema, source=source)

    def function_names(self) -> list[str]:
        return list(self._database._functions)

    def names(self) -> list[str]:
        catalog = self._database._catalog
        topics = [info.name for info in catalog.topics() if info.kind != "view" and not info.is_hidden]
        views = [*catalog.views(), *catalog.plain_views().values()]
        return topics + [view.name for view in views] + [s.name for s in self._database._objects.values()]


class RecordingNames(Names):
    """Names of the catalog and registered objects that also notes, lower-case, what it was asked for and had."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.seen: set[str] = set()

    def table(self, name: str) -> st.TableInfo:
        found = super().table(name)
        self.seen.add(found.name.lower())
        return found
