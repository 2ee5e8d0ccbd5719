"""Views: the materialized views of one open database, between the catalog and the stream layer.

The catalog keeps a view as its SQL; here it is bound again into a spec, once per process and change of the catalog.
A view of one topic is a ViewSpec: it has a stored part, which a thread maintains from the first view on
(stream/runner.py); reading and subscribing never wait for it. A view of any other shape is a CircuitSpec: all of its
state is stored, and kept in memory by who reads it.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import (
    CatalogError,
    InternalError,
    QueryError,
    TopicExists,
    TopicNotFound,
    UnsupportedSQL,
    UsageError,
    ViewFailed,
)
from eventdb.event import Position
from eventdb.logical.expressions import ColumnRef
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import Plan, Project, Scan, Values, ViewScan, transform_plan
from eventdb.schema import Field, Schema
from eventdb.sinks import make_sink
from eventdb.sql import statements as st
from eventdb.sql.binder import bind
from eventdb.stream.circuit.bounded import refuse_unbounded
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.query import CircuitReader, CircuitSpec, wait_for_circuit
from eventdb.stream.circuit.subscribe import unique_columns
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
    from eventdb.stream.sink import Sink

LEASE_NAME = "VIEWS"
Spec = ViewSpec | CircuitSpec
_LEFT_OUT = frozenset({"key_lookups", "scan_ranges"})  # rules that answer from the index what a circuit must follow


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
        self._specs: dict[int, Spec] = {}
        self._circuits = CircuitReader()
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
                self._circuits.forget(view_id)

    def stored(self) -> list[tuple[ViewInfo, Spec]]:
        """All views and what they are."""
        return [(info, self.spec(info)) for info in self._database._catalog.views()]

    def _running(self) -> list[Spec]:
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

    def _on_failure(self, name: str, error: ViewFailed) -> None:
        self._database._catalog.fail_view(name, str(error))

    # --- definitions --------------------------------------------------------------------------------------------------

    def spec(self, info: ViewInfo) -> Spec:
        """The bound form of a view."""
        with self._lock:
            spec = self._specs.get(info.id)
        if spec is None:
            # Binding takes the database's lock, whose holders take this one: it must not be held meanwhile.
            made = self._spec(self._bind(info.sql), info)
            with self._lock:
                spec = self._specs.setdefault(info.id, made)
        return spec

    def _spec(self, statement: st.CreateView, info: ViewInfo) -> Spec:
        if self._is_circuit(statement.topic, statement.emit, statement.into):
            spec = self.circuit(statement.query, info.id, info.name, statement.state_limit_bytes)
            return spec if statement.into is None else replace(spec, sink=self._circuit_sink(spec, statement.into))
        assert statement.topic is not None
        plan = continuous_plan(statement.query)
        sink = None if statement.into is None else self._append_sink(info.name, plan, statement)
        return view_spec(
            info.id,
            info.name,
            plan,
            self._facts(statement.topic.id),
            self._database._log_by_id,
            emit=statement.emit,
            grace_us=statement.grace_us,
            output_topic_id=info.output_topic_id,
            sink=sink,
        )

    def _circuit_sink(self, spec: CircuitSpec, into: st.TableInfo) -> Sink:
        circuit = Circuit(spec.plan, lambda topic_id: not spec.primary_key(topic_id))
        unique = unique_columns(spec.plan, spec.primary_key)
        return make_sink(self._database, into, spec.name, spec.fields, unique, grows=circuit.grows)

    def _append_sink(self, name: str, plan: Plan, statement: st.CreateView) -> Sink:
        """Of a view whose rows only come."""
        assert statement.into is not None
        unique = unique_columns(plan, lambda topic_id: ())
        return make_sink(self._database, statement.into, name, plan.fields, unique, grows=True)

    def writers_of(self, topic_id: int) -> list[str]:
        """The names of the views that write into a topic or table."""
        found = []
        for info in self._database._catalog.views():
            with suppress(CatalogError, QueryError, UsageError):
                sink = self.spec(info).sink
                if sink is not None and sink.topic_id == topic_id:
                    found.append(info.name)
        return found

    def _refuse_cycle(self, inputs: Iterable[int], into: st.TableInfo) -> None:
        """UsageError if what a view writes would come back to it."""
        reached, added = {into.id}, True
        specs = [spec for _, spec in self.stored() if spec.sink is not None]
        while added:
            more = {spec.sink.topic_id for spec in specs if spec.sink is not None and reached & spec.inputs.keys()}
            added = not more <= reached
            reached |= more
        if reached & set(inputs):
            raise UsageError(f"INTO {into.name}: the view reads what comes of its own rows: write into another topic")

    def _is_circuit(self, topic: st.TableInfo | None, emit: str | None, into: st.TableInfo | None = None) -> bool:
        """Whether a query is maintained as a circuit: it is of another shape, its topic has no order of all rows, or
        revised rows go into a table."""
        if topic is None or (into is not None and emit == "update"):
            return True
        info = self._database._catalog.topic_by_id(topic.id)
        return emit != "window_close" and info is not None and info.partitions > 1

    def circuit(self, query: Plan, id: int = -1, name: str = "", limit_bytes: int | None = None) -> CircuitSpec:
        """The spec of a query of any shape; views in it are put in as their queries. UnsupportedSQL where it cannot be
        maintained, or could keep more and more rows without `limit_bytes` of a STATE LIMIT."""
        database = self._database
        plan = optimize(query, _LEFT_OUT)
        with database._store.snapshot() as snapshot:
            plan = optimize(transform_plan(plan, lambda node: self._put_in(node, snapshot)), _LEFT_OUT)
        if limit_bytes is None:
            refuse_unbounded(plan, lambda topic_id: bool(database._log_by_id(topic_id).primary_key))
        limit = database._memory_limit_bytes if limit_bytes is None else limit_bytes
        return CircuitSpec(id, name, plan, database._logs_by_id, self._topic_key, limit)

    def _topic_key(self, topic_id: int) -> str | None:
        info = self._database._catalog.topic_by_id(topic_id)
        return None if info is None else info.key

    def _put_in(self, node: Plan, snapshot: Any) -> Plan:
        """The query of a view in place of the scan of the view."""
        if not isinstance(node, ViewScan):
            return node
        info = self._database._catalog.view_by_id(node.view_id)
        if info is None:
            raise TopicNotFound(f"the view {node.name!r} was dropped", name=node.name)
        spec = self.spec(info)
        if isinstance(spec, CircuitSpec):
            plan = spec.plan
        elif spec.program.window is not None:
            raise UnsupportedSQL(
                f"a continuous query over the view {node.name!r}, whose windows close, is not supported: it would need "
                "the same rows to be late for both; query the view's topic",
                construct="a continuous query over a view of windows",
            )
        else:
            start = spec.keys.start(snapshot)
            query = continuous_plan(self._bind(info.sql).query)
            plan = transform_plan(query, lambda n: replace(n, start_offset=start) if isinstance(n, Scan) else n)
        names = [field.name.lower() for field in plan.fields]
        columns = [(names.index(name.lower()), field) for name, field in zip(node.columns, node.output, strict=True)]
        return Project(plan, tuple(ColumnRef(plan.fields[i].type, i, f.name) for i, f in columns), node.output)

    def statement(self, info: ViewInfo) -> st.CreateView:
        """What created a view, bound."""
        return self._bind(info.sql)

    def _bind(self, sql: str) -> st.CreateView:
        from eventdb.names import Names

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
        circuit: CircuitSpec | None = None
        facts: TopicFacts | None = None
        if self._is_circuit(statement.topic, statement.emit, statement.into):
            circuit = self.circuit(statement.query, limit_bytes=statement.state_limit_bytes)
            if statement.start != "beginning":
                raise UnsupportedSQL(
                    "START FROM of a view with joins, subqueries, several GROUP BY, tables or partitions is not "
                    "supported: filter by time in its query",
                    construct="START FROM",
                )
            Circuit(circuit.plan)  # refuses what it cannot maintain
            if statement.into is not None:
                self._circuit_sink(circuit, statement.into)
                self._refuse_cycle(circuit.inputs, statement.into)
            fields, stores_rows = circuit.fields, False
        else:
            assert statement.topic is not None
            if statement.state_limit_bytes is not None:
                raise UnsupportedSQL(
                    "STATE LIMIT of a view of one topic through one GROUP BY is not supported: leave it out",
                    construct="STATE LIMIT",
                )
            facts = self._facts(statement.topic.id)
            plan = continuous_plan(statement.query)
            program = analyse(plan, facts, statement.emit, statement.grace_us)
            if statement.into is not None:
                self._append_sink(statement.name, plan, statement)
                self._refuse_cycle([facts.id], statement.into)
            fields, stores_rows = program.fields, output_schema(program) is not None
        schema = Schema(Field(field.name, field.type, True) for field in fields)
        try:
            info = database._catalog.create_view(statement.name, statement.sql, schema, stores_rows=stores_rows)
        except TopicExists:
            if not statement.if_not_exists or self._find(statement.name) is None:
                raise
            return
        if facts is not None:
            log = database._log_by_id(facts.id)
            with database._store.snapshot() as snapshot:
                first = resolve_start(snapshot, log, facts, statement.start)
            with database._store.write() as transaction:
                start_view(transaction, info.id, first)
        database._refresh_catalog()
        self.start()

    def drop(self, name: str, if_exists: bool) -> None:
        """Removes a view, its state and its stored rows."""
        info = self._find(name)
        if info is not None:
            self.unlist(info)
            self.clear(info)
            return
        if if_exists:
            return
        database = self._database
        for topic in database._catalog.topics():
            if topic.name.lower() == name.lower():
                raise UsageError(f"{name!r} is a {topic.kind}: DROP {topic.kind.upper()} {name}")
        near = database._catalog.near(name)
        raise TopicNotFound(
            f"no view {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""), name=name, near=near
        )

    def unlist(self, info: ViewInfo) -> None:
        """Takes a view out of the catalog; `clear` must follow."""
        self._database._catalog.drop_view(info.name)

    def clear(self, info: ViewInfo) -> None:
        """Removes the state and the stored rows of a view that is out of the catalog. It writes, so the caller must not
        hold the database's lock: who writes may ask for that."""
        database = self._database
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
        """The names of the views that read a topic or table. Those that cannot be bound read nothing."""
        found = []
        for info in self._database._catalog.views():
            with suppress(CatalogError, QueryError, UsageError):
                if topic_id in self.spec(info).inputs:
                    found.append(info.name)
        return found

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
        spec = self.spec(info)
        reader = self._circuits if isinstance(spec, CircuitSpec) else self._reader
        return reader.content(spec, snapshot, columns)  # type: ignore[arg-type]

    def wait(self, view: str, position: Position | int, timeout: float | None) -> None:
        """Returns once the stored content includes the event at `position`; TimeoutError after `timeout` seconds."""
        info = self._find(view)
        if info is None:
            near = self._database._catalog.near(view)
            raise TopicNotFound(f"no view {view!r}", name=view, near=near)
        offset = position.offset if isinstance(position, Position) else position
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise UsageError(f"a position is what append returned, or an offset, not {position!r}")
        spec = self.spec(info)
        if isinstance(spec, CircuitSpec) and spec.sink is None:
            return  # it has no stored part: each read takes in all there is
        self.start()
        runner = self._runner
        if runner is not None:
            runner.hurry()

        def failure() -> str | None:
            found = self._database._catalog.view_by_id(info.id)
            return None if found is None or found.state == "running" else found.error

        if isinstance(spec, CircuitSpec):
            done = wait_for_circuit(self._database._store, spec, timeout, failure)
        else:
            done = wait_for_view(self._database._store, spec, offset, timeout, failure)
        if not done:
            raise TimeoutError(f"view {info.name!r} had not stored offset {offset} after {timeout} s")

    def stats(self) -> dict[str, dict[str, object]]:
        """Per view: state, input offset, watermark (naive UTC), late rows, its maintainer and problem."""
        found: dict[str, dict[str, object]] = {}
        with self._database._store.snapshot() as snapshot:
            for info in self._database._catalog.views():
                spec = self.spec(info)
                runner = self._runner
                problem = None if runner is None else runner.problems.get(info.name)
                if isinstance(spec, CircuitSpec):
                    kept = spec.keys.progress(snapshot)
                    found[info.name] = {
                        "state": info.state,
                        "topic": ", ".join(spec.inputs.values()),
                        "emit": "update",
                        "state_bytes": self._circuits.state_bytes(info.id),
                        "stored_bytes": 0 if kept is None else kept.added_bytes + kept.whole_bytes,
                        "lag_rows": spec.lag_rows(snapshot, kept),
                        "maintained_here": runner is not None and runner.is_maintaining,
                        "error": info.error or (None if problem is None else str(problem)),
                    }
                    continue
                progress = spec.keys.progress(snapshot)
                end = snapshot.offsets(spec.input_log)[1]
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
