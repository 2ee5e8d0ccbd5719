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
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.dead_letters import check_letters, letters_log, make_letters
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
from eventdb.logical.plan import Fields, Plan, Project, Scan, Values, ViewScan, transform_plan
from eventdb.schema import Field, Schema
from eventdb.sinks import make_sink
from eventdb.sql import statements as st
from eventdb.sql.binder import bind
from eventdb.stream.circuit.bounded import refuse_unbounded
from eventdb.stream.circuit.broken import refuse_dead_letter
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.closing_plan import closing_plan
from eventdb.stream.circuit.query import CircuitReader, CircuitSpec, wait_for_circuit
from eventdb.stream.circuit.subscribe import unique_columns
from eventdb.stream.program import Program, TopicFacts, analyse
from eventdb.stream.reader import ViewReader
from eventdb.stream.runner import Runner
from eventdb.stream.view import (
    ViewSpec,
    output_schema,
    resolve_start,
    start_view,
    view_spec,
    wait_for_view,
)
from eventdb.stream.watermark import LOWEST_US
from eventdb.values import us_to_datetime
from eventdb.view_changes import ViewGone, begin, clear, finish, sweep
from eventdb.view_events import ViewEvents

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


@dataclass(frozen=True, slots=True)
class Definition:
    """What a view is: the plan of a circuit, or the program of a view of one topic."""

    schema: Schema
    plan: Plan | None
    program: Program | None
    stores_rows: bool = False


class Views:
    """The views of `database`: created, dropped, read, waited for. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = ViewReader()
        self._specs: dict[int, tuple[str, Spec]] = {}  # and the texts they are of
        self._dropped: dict[int, list[ViewInfo]] = {}  # what would have taken a dropped view's place
        self._circuits = CircuitReader()
        self.events = ViewEvents()
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
                    database._store, lease, self._running, database._catalog.generation, self._on_failure,
                    self._on_current, self._notice,
                )  # fmt: skip
                self._runner.start()
        self.refresh()

    def stop(self) -> None:
        """Ends maintenance in this process; another one takes it over."""
        with self._lock:
            runner, self._runner = self._runner, None
        self.events.close()
        if runner is not None:
            runner.close()
            if runner.error is not None:
                raise InternalError(f"the views' thread failed: {runner.error!r}") from runner.error

    def refresh(self) -> None:
        """Forgets views that the catalog no longer has."""
        live = {info.id for info in self._all()}
        with self._lock:
            for view_id in [view_id for view_id in self._specs if view_id not in live]:
                del self._specs[view_id]
                self._reader.forget(view_id)
                self._circuits.forget(view_id)

    def stored(self) -> list[tuple[ViewInfo, Spec]]:
        """All views and what they are."""
        return [(info, self.spec(info)) for info in self._all()]

    def _all(self) -> list[ViewInfo]:
        """All views, and those that will take the places of others."""
        catalog = self._database._catalog
        return [*catalog.views(), *catalog.rebuilds()]

    def _running(self) -> list[Spec]:
        """What the maintainer keeps up. A view that no longer binds stops, with its reason; the others go on."""
        found = []
        self._notice()
        sweep(self._database)
        infos = [info for info in self._all() if info.state in ("running", "pausing")]
        for info in infos:
            try:
                spec = self.spec(info)
                if info.is_rebuild:
                    begin(self._database, info)
                found.append(spec)
            except (CatalogError, QueryError, UsageError) as error:
                self._database._catalog.fail_view(info.id, f"view {info.name!r} cannot be bound: {error}")
        if self._runner is not None:
            self._runner.awaited = {info.id for info in infos if info.is_rebuild or info.state == "pausing"}
        return found

    def _notice(self) -> None:
        self.events.notice(self._database._catalog.views())

    def _on_failure(self, view_id: int, error: ViewFailed) -> None:
        self._database._catalog.fail_view(view_id, str(error))

    def _on_current(self, view_id: int) -> None:
        finish(self._database, view_id)

    def hurry(self) -> None:
        """Lets the maintainer, if it is this process, look for work at once."""
        self.start()
        if self._runner is not None:
            self._runner.hurry()

    # --- definitions --------------------------------------------------------------------------------------------------

    def spec(self, info: ViewInfo) -> Spec:
        """The bound form of a view."""
        with self._lock:
            text, spec = self._specs.get(info.id, ("", None))
        if spec is None or text != info.sql:
            # Binding takes the database's lock, whose holders take this one: it must not be held meanwhile.
            made = self._spec(self.bind(info.sql), info)
            with self._lock:
                text, spec = self._specs.get(info.id, ("", None))
                if spec is None or text != info.sql:
                    spec = made
                    self._specs[info.id] = info.sql, made
        return spec

    def _spec(self, statement: st.CreateView, info: ViewInfo) -> Spec:
        letters = None if statement.dead_letter is None else letters_log(self._database, statement.dead_letter)
        if self._is_circuit(statement.topic, statement.emit, statement.into):
            spec = self.circuit(
                statement.query, info.id, statement.name, statement.state_limit_bytes, emit=statement.emit,
                grace_us=statement.grace_us, output_topic_id=info.output_topic_id,
            )  # fmt: skip
            sink = None if statement.into is None else self._circuit_sink(spec, statement.into)
            return replace(spec, dead_letter=letters, sink=sink)
        assert statement.topic is not None
        plan = continuous_plan(statement.query)
        sink = None if statement.into is None else self._append_sink(plan, statement)
        return view_spec(
            info.id,
            statement.name,
            plan,
            self._facts(statement.topic.id),
            self._database._log_by_id,
            emit=statement.emit,
            grace_us=statement.grace_us,
            output_topic_id=info.output_topic_id,
            dead_letter=letters,
            sink=sink,
        )

    def _circuit_sink(self, spec: CircuitSpec, into: st.TableInfo) -> Sink:
        if spec.closing is not None:
            return make_sink(self._database, into, spec.name, spec.fields, None, grows=True)
        circuit = Circuit(spec.plan, lambda topic_id: not spec.primary_key(topic_id))
        unique = unique_columns(spec.plan, spec.primary_key)
        return make_sink(self._database, into, spec.name, spec.fields, unique, grows=circuit.grows)

    def _append_sink(self, plan: Plan, statement: st.CreateView) -> Sink:
        """Of a view whose rows only come."""
        assert statement.into is not None
        unique = unique_columns(plan, lambda topic_id: ())
        return make_sink(self._database, statement.into, statement.name, plan.fields, unique, grows=True)

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
        return info is not None and info.partitions > 1

    def circuit(
        self, query: Plan, id: int = -1, name: str = "", limit_bytes: int | None = None, *, emit: str | None = None,
        grace_us: int = 0, output_topic_id: int | None = None,
    ) -> CircuitSpec:  # fmt: skip
        """The spec of a query of any shape; views in it are put in as their queries. UnsupportedSQL where it cannot be
        maintained, or could keep more and more rows without `limit_bytes` of a STATE LIMIT."""
        database = self._database
        left_out = _LEFT_OUT | {"tumble_to_bucket"} if emit == "window_close" else _LEFT_OUT
        plan = optimize(query, left_out)
        with database._store.snapshot() as snapshot:
            plan = optimize(transform_plan(plan, lambda node: self._put_in(node, snapshot)), left_out)
        closing = None
        if emit == "window_close":
            output_log = None if output_topic_id is None else database._log_by_id(output_topic_id)
            plan, closing = closing_plan(plan, database._catalog.topic_by_id, grace_us, output_log)
        elif limit_bytes is None:
            refuse_unbounded(plan, lambda topic_id: bool(database._log_by_id(topic_id).primary_key))
        limit = database._memory_limit_bytes if limit_bytes is None else limit_bytes
        return CircuitSpec(id, name, plan, database._logs_by_id, self._topic_key, limit, closing=closing)

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
        if spec.dead_letter is not None:
            raise UnsupportedSQL(
                f"a continuous query over the view {node.name!r}, which goes on without rows it cannot take in, is not "
                "supported: query its topics, with a dead_letter of its own",
                construct="a continuous query over a view with dead_letter",
            )
        if isinstance(spec, CircuitSpec) and spec.closing is None:
            plan = spec.plan
        elif isinstance(spec, CircuitSpec) or spec.program.window is not None:
            raise UnsupportedSQL(
                f"a continuous query over the view {node.name!r}, whose windows close, is not supported: it would need "
                "the same rows to be late for both; query the view's topic",
                construct="a continuous query over a view of windows",
            )
        else:
            start = spec.keys.start(snapshot)
            query = continuous_plan(self.bind(info.sql).query)
            plan = transform_plan(query, lambda n: replace(n, start_offset=start) if isinstance(n, Scan) else n)
        names = [field.name.lower() for field in plan.fields]
        columns = [(names.index(name.lower()), field) for name, field in zip(node.columns, node.output, strict=True)]
        return Project(plan, tuple(ColumnRef(plan.fields[i].type, i, f.name) for i, f in columns), node.output)

    def statement(self, info: ViewInfo) -> st.CreateView:
        """What created a view, bound."""
        return self.bind(info.sql)

    def bind(self, sql: str) -> st.CreateView:
        """The statement of a view's text."""
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

    def define(self, statement: st.CreateView) -> Definition:
        """What a view of that statement is. UnsupportedSQL for what cannot be maintained."""
        if self._is_circuit(statement.topic, statement.emit, statement.into):
            circuit = self.circuit(
                statement.query, limit_bytes=statement.state_limit_bytes, emit=statement.emit,
                grace_us=statement.grace_us,
            )  # fmt: skip
            if statement.start != "beginning":
                raise UnsupportedSQL(
                    "START FROM of a view with joins, subqueries, several GROUP BY, tables or partitions is not "
                    "supported: filter by time in its query",
                    construct="START FROM",
                )
            Circuit(circuit.plan)  # refuses what it cannot maintain
            if statement.dead_letter is not None:
                if circuit.closing is not None:
                    raise UnsupportedSQL(
                        "dead_letter of a view with joins, subqueries, several GROUP BY or partitions, whose windows "
                        "close, is not supported: write EMIT ON UPDATE",
                        construct="dead_letter",
                    )
                refuse_dead_letter(circuit.plan, lambda topic_id: bool(circuit.primary_key(topic_id)))
                check_letters(self._database, statement.dead_letter, circuit.inputs)
            if statement.into is not None:
                self._circuit_sink(replace(circuit, name=statement.name), statement.into)
                self._refuse_cycle(circuit.inputs, statement.into)
            return Definition(_schema(circuit.fields), circuit.plan, None, circuit.closing is not None)
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
            self._append_sink(plan, statement)
            self._refuse_cycle([facts.id], statement.into)
        stores_rows = output_schema(program) is not None
        if statement.dead_letter is not None:
            check_letters(self._database, statement.dead_letter, {facts.id: facts.name})
        return Definition(_schema(program.fields), None, program, stores_rows)

    def first_offset(self, definition: Definition, start: str | int) -> int:
        """Where a view of one topic begins that is made now with START FROM `start`."""
        if definition.program is None:
            return 0
        facts = definition.program.facts
        with self._database._store.snapshot() as snapshot:
            return resolve_start(snapshot, self._database._log_by_id(facts.id), facts, start)

    def create(self, statement: st.CreateView) -> None:
        """Creates the view; its content includes the topic's history from START on at once."""
        database = self._database
        made = self.define(statement)
        make_letters(database, statement.dead_letter)
        try:
            info = database._catalog.create_view(
                statement.name, statement.sql, made.schema, stores_rows=made.stores_rows
            )
        except TopicExists:
            if not statement.if_not_exists or self.find(statement.name) is None:
                raise
            return
        if made.program is not None:
            first = self.first_offset(made, statement.start)
            with database._store.write() as transaction:
                start_view(transaction, info.id, first)
        database._refresh_catalog()
        self.start()

    def drop(self, name: str, if_exists: bool) -> None:
        """Removes a view, its state and its stored rows."""
        info = self.find(name)
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
        rebuilds = self._database._catalog.rebuilds()
        self._dropped[info.id] = [other for other in rebuilds if other.replaces[0] == info.id]
        self._database._catalog.drop_view(info.name)

    def clear(self, info: ViewInfo) -> None:
        """Removes the state and the stored rows of a view that is out of the catalog. It writes, so the caller must not
        hold the database's lock: who writes may ask for that."""
        database = self._database
        for one in (info, *self._dropped.pop(info.id, ())):
            clear(database, one)
        database._refresh_catalog()
        self.refresh()

    def find(self, name: str) -> ViewInfo | None:
        """The view of that name."""
        for info in self._database._catalog.views():
            if info.name.lower() == name.lower():
                return info
        return None

    def is_paused(self, name: str) -> bool:
        info = self.find(name)
        return info is not None and info.state == "paused"

    def readers_of(self, topic_id: int) -> list[str]:
        """The names of the views that read a topic or table, or note broken rows in it; those that cannot be bound do
        not."""
        found = []
        for info in self._database._catalog.views():
            with suppress(CatalogError, QueryError, UsageError):
                spec = self.spec(info)
                letters = spec.dead_letter
                if topic_id in spec.inputs or (letters is not None and letters.topic_id == topic_id):
                    found.append(info.name)
        return found

    # --- reading ------------------------------------------------------------------------------------------------------

    def content(self, view_id: int, snapshot: Any, columns: Sequence[str]) -> Iterator[RecordBatch]:
        """The view's rows at the snapshot: stored ones and those nobody has maintained yet.

        ViewFailed if it stopped.
        """
        info = self._database._catalog.view_by_id(view_id)
        if info is None:
            raise ViewGone(f"the view with id {view_id} was dropped")
        if info.state == "failed":
            raise ViewFailed(info.error or f"view {info.name!r} failed", view=info.name)
        spec = self.spec(info)
        reader = self._circuits if isinstance(spec, CircuitSpec) else self._reader
        if info.state == "paused":
            return reader.stored(spec, snapshot, columns)  # type: ignore[arg-type]
        return reader.content(spec, snapshot, columns)  # type: ignore[arg-type]

    def wait(self, view: str, position: Position | int, timeout: float | None) -> None:
        """Returns once the stored content includes the event at `position`; TimeoutError after `timeout` seconds."""
        offset = position.offset if isinstance(position, Position) else position
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise UsageError(f"a position is what append returned, or an offset, not {position!r}")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            info = self._running_view(view)
            spec = self.spec(info)
            if isinstance(spec, CircuitSpec) and spec.sink is None:
                return  # it has no stored part: each read takes in all there is
            self.hurry()
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            with suppress(ViewGone):  # another one has taken its place: that one is waited for
                store, failure = self._database._store, partial(self._failure_of, info.id)
                if isinstance(spec, CircuitSpec):
                    done = wait_for_circuit(store, spec, left, failure)
                else:
                    done = wait_for_view(store, spec, offset, left, failure)
                if not done:
                    raise TimeoutError(f"view {info.name!r} had not stored offset {offset} after {timeout} s")
                return

    def _running_view(self, name: str) -> ViewInfo:
        info = self._database._catalog.view(name)
        if info.state == "paused":
            raise UsageError(f"view {info.name!r} is paused: ALTER VIEW {info.name} RESUME before waiting for it")
        return info

    def _failure_of(self, view_id: int) -> str | None:
        """Why a view that is waited for has stopped."""
        info = self._database._catalog.view_by_id(view_id)
        if info is None:
            raise ViewGone(f"the view with id {view_id} was dropped")
        self._running_view(info.name)
        return info.error

    def stats(self) -> dict[str, dict[str, object]]:
        """Per view: state, input offset, watermark (naive UTC), late rows, its maintainer and problem."""
        found: dict[str, dict[str, object]] = {}
        with self._database._store.snapshot() as snapshot:
            for info in self._database._catalog.views():
                spec = self.spec(info)
                runner = self._runner
                problem = None if runner is None else runner.problems.get(info.id)
                if isinstance(spec, CircuitSpec):
                    kept = spec.keys.progress(snapshot)
                    found[info.name] = {
                        "state": info.state,
                        "topic": ", ".join(spec.inputs.values()),
                        "emit": "update" if spec.closing is None else "window_close",
                        "state_bytes": self._circuits.state_bytes(info.id),
                        "stored_bytes": 0 if kept is None else kept.added_bytes + kept.whole_bytes,
                        "lag_rows": spec.lag_rows(snapshot, kept),
                        "maintained_here": runner is not None and runner.is_maintaining,
                        "error": info.error or (None if problem is None else str(problem)),
                    }
                    if spec.closing is not None:
                        output = spec.output(snapshot)
                        found[info.name]["watermark"] = _watermark(output.mark_us)
                        found[info.name]["late_rows"] = output.late_row_count
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


def _schema(fields: Fields) -> Schema:
    return Schema(Field(field.name, field.type, True) for field in fields)


def _watermark(watermark_us: int) -> dt.datetime | None:
    """None while no row has moved it."""
    return None if watermark_us == LOWEST_US else us_to_datetime(watermark_us)
