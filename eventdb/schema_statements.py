"""Statements about what there is: CREATE, ALTER and DROP of topics, tables and views, DESCRIBE and SHOW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Column, RecordBatch
from eventdb.definitions import check_name
from eventdb.dropping import drop_named, drop_view, kept_readers, refuse_readers, refuse_writers
from eventdb.errors import TopicExists, UsageError
from eventdb.making import made_aside, new_table, new_topic, replace_table, store_all
from eventdb.options import checked_options, described_options, shown_options
from eventdb.result import Result
from eventdb.schema import BIGINT, BOOLEAN, TIMESTAMP, VARCHAR, DataType, Field
from eventdb.sql import statements as st
from eventdb.transaction import refuse_beside
from eventdb.values import decode_value
from eventdb.view_changes import pause, refresh, replace, resume

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.definitions import TopicInfo
    from eventdb.session import Session


class SchemaStatements:
    """Carries them out for one Session."""

    def __init__(self, database: Database, session: Session) -> None:
        self._database = database
        self._session = session

    def create_topic(self, statement: st.CreateTopic, snapshot: Any, timeout: float | None) -> Result:
        options = checked_options(dict(statement.options))
        delays = (statement.watermark_delay_us, statement.idle_after_us, statement.max_future_us)
        self._database._create_topic(
            statement.name, statement.schema, statement.key, statement.event_time, delays, statement.if_not_exists,
            options,
        )  # fmt: skip
        return Result([], [], [])

    def alter_topic(self, statement: st.AlterTopic, snapshot: Any, timeout: float | None) -> Result:
        self._database.alter_topic(statement.name, **dict(statement.options))
        return Result([], [], [])

    def drop_topic(self, statement: st.DropTopic, snapshot: Any, timeout: float | None) -> Result:
        drop_named(self._database, statement.name, "topic", statement.if_exists, statement.cascade)
        return Result([], [], [])

    def create_table(self, statement: st.CreateTable, snapshot: Any, timeout: float | None) -> Result:
        database, defaults = self._database, dict(statement.defaults)
        if statement.or_replace:
            key = statement.primary_key
            with made_aside(database, lambda: new_table(database, statement.schema, key, defaults)) as made:
                replace_table(database, statement.name, made)
        else:
            database._create_table(
                statement.name, statement.schema, statement.primary_key, if_not_exists=statement.if_not_exists,
                defaults=defaults,
            )  # fmt: skip
        return Result([], [], [])

    def create_as(self, statement: st.CreateAs, snapshot: Any, timeout: float | None) -> Result:
        """The table or topic has its name once it has all its rows."""
        database = self._database
        database._check_writable()
        refuse_beside(database, "CREATE ... AS", "tx.append or tx.put")
        taken = self._taken(statement.name)
        if taken and not statement.or_replace:
            if statement.if_not_exists:
                return Result([], [], [])
            raise TopicExists(f"there is a {taken} named {statement.name!r} already", name=statement.name)
        check_name(statement.name)
        batches: Sequence[RecordBatch] = []
        if statement.with_data:
            batches = self._session.rows(statement.plan, timeout)
        schema = statement.schema

        def make() -> TopicInfo:
            return new_table(database, schema, (), {}) if statement.kind == "table" else new_topic(database, schema)

        with made_aside(database, make) as made:
            count = store_all(database, made, batches)
            replace_table(database, statement.name, made, only=statement.or_replace)
        return Result([], [], [], rowcount=count)

    def _taken(self, name: str) -> str:
        """What has the name; '' if it is free."""
        catalog = self._database._catalog
        if name.lower() in catalog.plain_views() or any(v.name.lower() == name.lower() for v in catalog.views()):
            return "view"
        return next((info.kind for info in catalog.topics() if info.name.lower() == name.lower()), "")

    def create_plain_view(self, statement: st.CreatePlainView, snapshot: Any, timeout: float | None) -> Result:
        database = self._database
        database._check_writable()
        if statement.if_not_exists and statement.name.lower() in database._catalog.plain_views():
            return Result([], [], [])
        if statement.or_replace:
            refuse_readers("view", statement.name, kept_readers(database, {statement.name}), "drop that first")
        database._catalog.create_plain_view(
            statement.name, statement.query, statement.schema, or_replace=statement.or_replace
        )
        database._refresh_catalog()
        return Result([], [], [])

    def rename(self, statement: st.Rename, snapshot: Any, timeout: float | None) -> Result:
        database = self._database
        database._check_writable()
        info = database._catalog.topic(statement.name)
        if info.kind != statement.kind:
            raise UsageError(f"{info.name!r} is a {info.kind}: ALTER {info.kind.upper()} {info.name}")
        readers = database._views_of().readers_of(info.id) if database._catalog.views() else []
        if readers:
            raise UsageError(
                f"{info.kind} {info.name!r} feeds the view {readers[0]!r}, which names it: drop that first"
            )
        refuse_writers(database, info.kind, info.name, info.id)
        database._catalog.rename_topic(info, statement.to)
        database._refresh_catalog()
        return Result([], [], [])

    def drop_table(self, statement: st.DropTable, snapshot: Any, timeout: float | None) -> Result:
        drop_named(self._database, statement.name, "table", statement.if_exists, statement.cascade)
        return Result([], [], [])

    def create_view(self, statement: st.CreateView, snapshot: Any, timeout: float | None) -> Result:
        self._database._check_writable()
        if statement.or_replace:
            replace(self._database, statement)
        else:
            self._database._views_of().create(statement)
        return Result([], [], [])

    def alter_view(self, statement: st.AlterView, snapshot: Any, timeout: float | None) -> Result:
        self._database._check_writable()
        self._check_materialized(statement.name)
        if statement.action == "pause":
            pause(self._database, statement.name, timeout)
        else:
            resume(self._database, statement.name)
        return Result([], [], [])

    def refresh_view(self, statement: st.RefreshView, snapshot: Any, timeout: float | None) -> Result:
        self._database._check_writable()
        self._check_materialized(statement.name)
        refresh(self._database, statement.name, timeout)
        return Result([], [], [])

    def verify_view(self, statement: st.VerifyView, snapshot: Any, timeout: float | None) -> Result:
        from eventdb.view_verification import verify

        self._check_materialized(statement.name)
        with self._session.context(snapshot, timeout) as context:
            view, rows, ok, difference = verify(self._database, statement.name, context)
        return text_result(
            {
                "view": (VARCHAR, [view]),
                "rows": (BIGINT, [rows]),
                "ok": (BOOLEAN, [ok]),
                "difference": (VARCHAR, [difference]),
            }
        )

    def _check_materialized(self, name: str) -> None:
        if name.lower() in self._database._catalog.plain_views():
            raise UsageError(f"view {name!r} is not materialized: it is its query, run when it is read")

    def drop_view(self, statement: st.DropView, snapshot: Any, timeout: float | None) -> Result:
        drop_view(self._database, statement.name, statement.if_exists, statement.cascade)
        return Result([], [], [])

    def describe(self, statement: st.Describe, snapshot: Any, timeout: float | None) -> Result:
        roles: dict[str, str] = {}
        settings: str | None = None
        if statement.plan is not None:
            fields = [Field(f.name, f.type, f.nullable) for f in statement.plan.fields]
        else:
            assert statement.table is not None
            fields = list(statement.table.schema)
            if statement.table.kind == "topic":
                settings = described_options(self._database._catalog.topic(statement.name))
            if statement.table.key:
                roles[statement.table.key] = "key"
            for position in statement.table.primary_key:
                roles[fields[position].name] = "primary key"
            for position, value in statement.table.defaults:
                shown = f"default {decode_value(fields[position].type, value)!r}"
                known = roles.get(fields[position].name)
                roles[fields[position].name] = shown if known is None else f"{known}, {shown}"
            if statement.table.event_time:
                delay = statement.table.watermark_delay_us
                watermark = "" if delay is None else f", watermark {delay / 1e6:g} s behind"
                role = f"event time{watermark}"
                known = roles.get(statement.table.event_time)
                roles[statement.table.event_time] = role if known is None else f"{known}, {role}"
        return text_result(
            {
                "column_name": (VARCHAR, [f.name for f in fields]),
                "column_type": (VARCHAR, [str(f.type) for f in fields]),
                "nullable": (BOOLEAN, [f.nullable for f in fields]),
                "role": (VARCHAR, [roles.get(f.name) for f in fields]),
                "settings": (VARCHAR, [settings, *[None] * (len(fields) - 1)]),  # of the topic, not of a column
            }
        )

    def show_tables(self, statement: st.ShowTopics, snapshot: Any, timeout: float | None) -> Result:
        catalog = self._database._catalog
        names: list[str] = []
        kinds: list[str] = []
        rows: list[int | None] = []
        created: list[int] = []
        partitions: list[int | None] = []
        options: list[str | None] = []
        with self._session.context(snapshot, timeout) as context:
            if statement.kind in ("topics", "tables"):
                for info in sorted(catalog.topics(), key=lambda i: i.name):
                    if info.is_hidden:
                        continue
                    if info.kind == "topic" or (info.kind == "table" and statement.kind == "tables"):
                        names.append(info.name)
                        kinds.append(info.kind)
                        partitions.append(info.partitions)
                        options.append(shown_options(info.options))
                        rows.append(self._database._row_count(info, context.snapshot))
                        created.append(info.created_us)
            if statement.kind in ("views", "tables"):
                for view in sorted([*catalog.views(), *catalog.plain_views().values()], key=lambda v: v.name):
                    names.append(view.name)
                    kinds.append("view" if view.state == "running" else f"view ({view.state})")
                    rows.append(None)
                    partitions.append(None)
                    options.append(None)
                    created.append(view.created_us)
        return text_result(
            {
                "name": (VARCHAR, names),
                "kind": (VARCHAR, kinds),
                "rows": (BIGINT, rows),
                "created": (TIMESTAMP, created),
                "partitions": (BIGINT, partitions),
                "options": (VARCHAR, options),
            }
        )


def text_result(columns: Mapping[str, tuple[DataType, list[Any]]]) -> Result:
    """A result from Python lists of str, int, bool or None."""
    made = []
    for type, values in columns.values():
        if type.is_coded:
            made.append(Column.encode(type, values))
            continue
        present = np.array([v is not None for v in values], dtype=bool)
        numbers = np.array([0 if v is None else v for v in values], dtype=type.physical)
        made.append(Column(type, numbers, None if present.all() else present))
    names = list(columns)
    return Result(names, [type for type, _ in columns.values()], [RecordBatch(names, made)])
