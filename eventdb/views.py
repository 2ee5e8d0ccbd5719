"""Views: the materialized views of one open database, between the catalog and the stream layer.

The catalog keeps a view as its SQL; here it is bound again into a ViewSpec, once per process and change of the catalog.
A thread maintains views from the first one on (stream/runner.py); reading and subscribing never wait for it.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import CatalogError, InternalError, QueryError, TopicExists, TopicNotFound, UsageError, ViewFailed
from eventdb.event import Position
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import Plan, Values
from eventdb.schema import Field, Schema
from eventdb.sql import statements as st
from eventdb.sql.binder import bind
from eventdb.stream.program import TopicFacts, analyse
from eventdb.stream.reader import ViewReader
from eventdb.stream.runner import Runner
from eventdb.stream.view import (
    ViewSpec,
    drop_view_state,
    output_schema,
    resolve_start,
    start_view,
    view_spec,
    wait_for_view,
)
from eventdb.stream.watermark import LOWEST_US
from eventdb.values import us_to_datetime

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.definitions import ViewInfo

LEASE_NAME = "VIEWS"


def continuous_plan(query: Plan) -> Plan:
    """The optimised plan of a continuous query, which still reads its topic where a bounded one need not.

    WHERE false folds a scan away; a view of it is empty and stays so, but it has an input all the same.
    """
    plan = optimize(query)
    node = plan
    while node.children:
        node = node.children[0]
    return optimize(query, frozenset({"fold_constants"})) if isinstance(node, Values) else plan


class Views:
    """The views of `database`: created, dropped, read, waited for. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = ViewReader()
        self._specs: dict[int, ViewSpec] = {}
        self._runner: Runner | None = None
        self._lock = threading.RLock()

    # --- maintenance --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to maintain the views of the catalog in this process, unless another one does."""
        database = self._database
        with self._lock:
            if self._runner is None and not database.read_only:
                lease = os.path.join(database.path, LEASE_NAME)
                self._runner = Runner(
                    database._store, lease, self._running, database._catalog.generation, self._on_failure
                )
                self._runner.start()
        self.refresh()

    def stop(self) -> None:
        """Ends maintenance in this process; another one takes it over."""
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
            if runner.error is not None:
                raise InternalError(f"the views' thread failed: {runner.error!r}") from runner.error

    def refresh(self) -> None:
        """Forgets views that the catalog no longer has."""
        live = {info.id for info in self._database._catalog.views()}
        with self._lock:
            for view_id in [view_id for view_id in self._specs if view_id not in live]:
                del self._specs[view_id]
                self._reader.forget(view_id)

    def _running(self) -> list[ViewSpec]:
        """What the maintainer keeps up. A view that no longer binds stops, with its reason; the others go on."""
        found = []
        for info in self._database._catalog.views():
            if info.state != "running":
                continue
            try:
                found.append(self.spec(info))
            except (CatalogError, QueryError, UsageError) as error:
                self._database._catalog.fail_view(info.name, f"view {info.name!r} cannot be bound: {error}")
        return found

    def _on_failure(self, spec: ViewSpec, error: ViewFailed) -> None:
        self._database._catalog.fail_view(spec.name, str(error))

    # --- definitions --------------------------------------------------------------------------------------------------

    def spec(self, info: ViewInfo) -> ViewSpec:
        """The bound form of a view."""
        with self._lock:
            spec = self._specs.get(info.id)
        if spec is None:
            # Binding takes the database's lock, whose holders take this one: it must not be held meanwhile.
            statement = self._bind(info.sql)
            made = view_spec(
                info.id,
                info.name,
                continuous_plan(statement.query),
                self._facts(statement.topic.id),
                self._database._log_by_id,
                emit=statement.emit,
                grace_us=statement.grace_us,
                output_topic_id=info.output_topic_id,
            )
            with self._lock:
                spec = self._specs.setdefault(info.id, made)
        return spec

    def _bind(self, sql: str) -> st.CreateView:
        from eventdb.session import Names

        statement = bind(sql, Names(self._database))
        if not isinstance(statement, st.CreateView):
            raise InternalError(f"the catalog holds no view but: {sql}")
        return statement

    def _facts(self, topic_id: int) -> TopicFacts:
        info = self._database._catalog.topic_by_id(topic_id)
        if info is None:
            raise TopicNotFound(f"the topic with id {topic_id} was dropped")
        return TopicFacts.of(info)

    def create(self, statement: st.CreateView) -> None:
        """Creates the view; its content includes the topic's history from START on at once."""
        database = self._database
        facts = self._facts(statement.topic.id)
        program = analyse(continuous_plan(statement.query), facts, statement.emit, statement.grace_us)
        output = output_schema(program)
        schema = Schema(Field(field.name, field.type, True) for field in program.fields)
        try:
            info = database._catalog.create_view(statement.name, statement.sql, schema, stores_rows=output is not None)
        except TopicExists:
            if not statement.if_not_exists or self._find(statement.name) is None:
                raise
            return
        log = database._log_by_id(facts.id)
        with database._store.snapshot() as snapshot:
            first = resolve_start(snapshot, log, facts, statement.start)
        with database._store.write() as transaction:
            start_view(transaction, info.id, first)
        database._refresh_catalog()
        self.start()

    def drop(self, name: str, if_exists: bool) -> None:
        """Removes a view, its state and its stored rows."""
        database = self._database
        info = self._find(name)
        if info is None:
            if if_exists:
                return
            for topic in database._catalog.topics():
                if topic.name.lower() == name.lower():
                    raise UsageError(f"{name!r} is a {topic.kind}: DROP {topic.kind.upper()} {name}")
            near = database._catalog.near(name)
            raise TopicNotFound(
                f"no view {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""), name=name, near=near
            )
        database._catalog.drop_view(info.name)
        with database._store.write() as transaction:
            drop_view_state(transaction, info.id)
        if info.output_topic_id is not None:
            database._store.forget(info.output_topic_id)
        database._refresh_catalog()
        self.refresh()

    def _find(self, name: str) -> ViewInfo | None:
        for info in self._database._catalog.views():
            if info.name.lower() == name.lower():
                return info
        return None

    def readers_of(self, topic_id: int) -> list[str]:
        """The names of the views that read a topic."""
        return [i.name for i in self._database._catalog.views() if self.spec(i).program.facts.id == topic_id]

    # --- reading ------------------------------------------------------------------------------------------------------

    def content(self, view_id: int, snapshot: Any, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The view's rows at the snapshot: stored ones and those nobody has maintained yet.

        ViewFailed if it stopped.
        """
        info = self._database._catalog.view_by_id(view_id)
        if info is None:
            raise TopicNotFound(f"the view with id {view_id} was dropped")
        if info.state == "failed":
            raise ViewFailed(info.error or f"view {info.name!r} failed", view=info.name)
        return self._reader.content(self.spec(info), snapshot, columns)

    def wait(self, view: str, position: Position | int, timeout: float | None) -> None:
        """Returns once the stored content includes the event at `position`; TimeoutError after `timeout` seconds."""
        info = self._find(view)
        if info is None:
            near = self._database._catalog.near(view)
            raise TopicNotFound(f"no view {view!r}", name=view, near=near)
        offset = position.offset if isinstance(position, Position) else position
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise UsageError(f"a position is what append returned, or an offset, not {position!r}")
        self.start()
        runner = self._runner
        if runner is not None:
            runner.hurry()

        def failure() -> str | None:
            found = self._database._catalog.view_by_id(info.id)
            return None if found is None or found.state == "running" else found.error

        if not wait_for_view(self._database._store, self.spec(info), offset, timeout, failure):
            raise TimeoutError(f"view {info.name!r} had not stored offset {offset} after {timeout} s")

    def stats(self) -> dict[str, dict[str, object]]:
        """Per view: state, input offset, watermark (naive UTC), late rows, its maintainer and problem."""
        found: dict[str, dict[str, object]] = {}
        with self._database._store.snapshot() as snapshot:
            for info in self._database._catalog.views():
                spec = self.spec(info)
                progress = spec.keys.progress(snapshot)
                end = snapshot.offsets(spec.input_log)[1]
                runner = self._runner
                problem = None if runner is None else runner.problems.get(info.name)
                found[info.name] = {
                    "state": info.state,
                    "topic": spec.topic_name,
                    "emit": spec.program.emission,
                    "input_offset": progress.input_offset,
                    "lag_rows": end - progress.input_offset,
                    "watermark": _watermark(progress.watermark_us),
                    "late_rows": progress.late_row_count,
                    "maintained_here": runner is not None and runner.is_maintaining,
                    "error": info.error or (None if problem is None else str(problem)),
                }
        return found


def _watermark(watermark_us: int) -> dt.datetime | None:
    """None while no row has moved it."""
    return None if watermark_us == LOWEST_US else us_to_datetime(watermark_us)
