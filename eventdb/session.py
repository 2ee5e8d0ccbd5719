"""Session: from SQL text to a Result. Binds, optimises, opens a snapshot, runs, and carries out what is not a query."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.aside import run_aside
from eventdb.batch import Column, RecordBatch
from eventdb.config import DEFAULT_RECURSION_ROUNDS, MIB
from eventdb.errors import (
    ClosedError,
    MemoryLimitExceeded,
    QueryError,
    QueryTimeout,
    SchemaMismatch,
    UnsupportedError,
    UsageError,
)
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import ExternalScan, Plan, explain_lines
from eventdb.names import Names
from eventdb.physical.bounds import is_small
from eventdb.physical.budget import MemoryBudget
from eventdb.physical.context import CancelToken, QueryContext
from eventdb.physical.fused import LEAST_COMPILED_ROWS
from eventdb.physical.operands import null_column
from eventdb.physical.planner import fix_now, plan_physical, run
from eventdb.physical.short import short_rows
from eventdb.physical.spill import OwnBytes, SpilledRows
from eventdb.plan_cache import PlanCache
from eventdb.result import Result
from eventdb.schema import BIGINT, VARCHAR, Schema
from eventdb.schema_statements import SchemaStatements, text_result
from eventdb.sql import statements as st
from eventdb.sql.parser import has_parameters
from eventdb.transaction import refuse_beside
from eventdb.values import parse_duration_us, parse_size_bytes
from eventdb.view_changes import ViewGone

if TYPE_CHECKING:
    import datetime as dt

    from eventdb.database import Database
    from eventdb.sql_session import SqlSession
    from eventdb.sql_transaction import SqlTransaction
    from eventdb.subscription import Subscription

CLOSE_WAIT_S = 5.0
LEFT_WAIT_S = 0.02  # between two looks at the time
_READING = (st.Query, st.CopyTo, st.Explain, st.Describe, st.ShowTopics, st.VerifyView)
EXECUTIONS = ("auto", "interpreted", "compiled")


class Session:
    """Runs statements for one Database. Threads may run statements at the same time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names = Names(database)
        self._plans = PlanCache()
        self._prepared: dict[str, str] = {}  # texts of PREPARE, of all threads
        self._running: dict[CancelToken, Any] = {}  # queries, and the snapshot of each that was given one
        self._budget = MemoryBudget()
        self._ended = threading.Condition()  # a query that was cancelled has
        self._closed = False
        self.settings: dict[str, Any] = {
            "execution": "auto",
            "threads": database._threads,
            "memory_limit": database._memory_limit_bytes,
            "timeout": None,
            "recursion_limit": DEFAULT_RECURSION_ROUNDS,
            "disabled_optimizers": frozenset(),
            "python_enable_replacements": True,
        }
        self._schema = SchemaStatements(database, self)
        self._execute: dict[type, Callable[[Any, Any, float | None], Result]] = {
            st.Query: self._query,
            st.CreateTopic: self._schema.create_topic,
            st.AlterTopic: self._schema.alter_topic,
            st.DropTopic: self._schema.drop_topic,
            st.CreateTable: self._schema.create_table,
            st.DropTable: self._schema.drop_table,
            st.InsertRows: self._change_table,
            st.Update: self._change_table,
            st.Delete: self._change_table,
            st.Merge: self._change_table,
            st.Describe: self._schema.describe,
            st.ShowTopics: self._schema.show_tables,
            st.Insert: self._insert,
            st.CopyTo: self._copy_to,
            st.Explain: self._explain,
            st.CreateView: self._schema.create_view,
            st.DropView: self._schema.drop_view,
            st.AlterView: self._schema.alter_view,
            st.RefreshView: self._schema.refresh_view,
            st.VerifyView: self._schema.verify_view,
            st.CreateAs: self._schema.create_as,
            st.CreatePlainView: self._schema.create_plain_view,
            st.Rename: self._schema.rename,
            st.Prepare: self._prepare_statement,
            st.Deallocate: self._deallocate,
            st.SetOption: self._set_option,
            st.ShowSetting: self._show_setting,
        }

    # --- entry points -------------------------------------------------------------------------------------------------

    def run(
        self, text: str, parameters: Any, timeout: float | None, snapshot: Any,
        owner: SqlSession | SqlTransaction | None = None,
    ) -> Result:  # fmt: skip
        """One statement: over `snapshot`, in the transaction of its owner, or over a new snapshot."""
        timeout = checked_timeout(timeout)
        statement = self.bind(text, parameters)
        if isinstance(statement, st.Execute):
            text, parameters = self._prepared_text(statement.name), statement.values or dict(statement.named) or None
            statement = self.bind(text, parameters)
        if isinstance(statement, st.Subscribe):
            raise UsageError("SUBSCRIBE never ends: use db.subscribe(...), or the shell")
        if snapshot is not None and not isinstance(statement, _READING):
            raise UsageError(f"a snapshot is read-only: {type(statement).__name__} needs db.sql")
        execute = None if owner is None else owner.takes(statement)
        execute = execute or self._execute[type(statement)]
        timeout = timeout or self.settings["timeout"]
        try:
            try:
                return execute(statement, snapshot, timeout)
            except ViewGone:  # another one has its place by now, or the binder says that it is gone
                self._database._refresh_catalog()
                return execute(self.bind(text, parameters), snapshot, timeout)
        except BaseException as error:
            if isinstance(error, QueryError) and not error.sql:
                error.sql = text
            if owner is not None:
                owner.failed(text, error)
            if not isinstance(error, MemoryError):
                raise
            raise MemoryLimitExceeded(
                "the machine, or a limit of this process, has no memory left for this query, though it is below "
                "memory_limit: reduce the rows first, or open with a smaller memory_limit to be told earlier",
                sql=text,
            ) from error

    def bind(self, text: str, parameters: Any = None) -> st.Statement:
        """The bound and optimised statement; see PlanCache."""
        if not isinstance(text, str):
            raise UsageError(f"SQL is a string, not {type(text).__name__}")
        database, disabled = self._database, self.settings["disabled_optimizers"]
        names = Names(database, self.settings["python_enable_replacements"])
        generation = (database._generation, database._functions_generation)
        return self._plans.statement(text, parameters, names, generation, disabled)

    def _prepared_text(self, name: str) -> str:
        text = self._prepared.get(name)
        if text is None:
            known = ", ".join(sorted(self._prepared)) or "none"
            raise UsageError(f"no prepared statement {name!r}; there are: {known}. PREPARE {name} AS ... makes it")
        return text

    def _prepare_statement(self, statement: st.Prepare, snapshot: Any, timeout: float | None) -> Result:
        if not has_parameters(statement.text):
            self.bind(statement.text)  # what is wrong with it is said now
        self._prepared[statement.name] = statement.text
        return Result([], [], [])

    def _deallocate(self, statement: st.Deallocate, snapshot: Any, timeout: float | None) -> Result:
        if statement.name:
            self._prepared_text(statement.name)
            self._prepared.pop(statement.name, None)
        else:
            self._prepared.clear()
        return Result([], [], [])

    def _optimize(self, plan: Plan) -> Plan:
        return optimize(plan, self.settings["disabled_optimizers"])

    def interrupt(self) -> None:
        for token in self._running.copy():
            token.cancel()

    def close(self) -> None:
        """No query begins any more; those that run are cancelled, and have let go of their snapshots when this returns.
        QueryTimeout if that takes more than a few seconds: call it again."""
        with self._ended:
            self._closed = True
            for token in self._running.copy():
                token.why = "the query was cancelled: its database was closed"
                token.cancel()
            if not self._ended.wait_for(lambda: not self._running, CLOSE_WAIT_S):
                raise QueryTimeout(
                    f"{len(self._running)} queries were cancelled, but still run after {CLOSE_WAIT_S:g} s (in a "
                    "function written in Python, say): the database cannot be closed under them. It takes no "
                    "statements any more; close it again when they have ended"
                )

    def subscribe(
        self, text: str, start: str | int | dt.datetime | None, after: str | None, progress: bool
    ) -> Subscription:
        from eventdb.subscription import open_subscription

        if not isinstance(text, str):
            raise UsageError(f"a subscription is a name or SQL text, not {type(text).__name__}")
        head = text.strip().partition(" ")[0].upper()
        if text.strip().lower() in (name.lower() for name in self._names.names()):
            text = f'SUBSCRIBE TO "{text.strip()}"'
        elif head == text.strip().upper():
            self._names.table(text.strip())  # raises TopicNotFound with near names
        elif head in ("SELECT", "WITH", "FROM") and "EMIT" not in text.upper():
            text = f"SUBSCRIBE TO ({text.strip().rstrip(';')})"
        statement = self.bind(text)
        if not isinstance(statement, st.Subscribe):
            raise UsageError("db.subscribe takes a name, a SELECT or a SUBSCRIBE statement")
        return open_subscription(self._database, statement, start, after, progress)

    # --- queries ------------------------------------------------------------------------------------------------------

    @contextmanager
    def context(self, snapshot: Any, timeout: float | None) -> Iterator[QueryContext]:
        """A context over `snapshot`, or over a new one that is closed at the end; interruptible meanwhile."""
        database = self._database
        token = CancelToken(timeout)
        if snapshot is not None:
            snapshot.keep()
        current = snapshot
        try:
            self._enter(token, snapshot)
            if snapshot is None:
                current = database._store.snapshot()
            context = QueryContext(
                snapshot=current,
                logs=database._log_by_id,
                partitions=database._logs_by_id,
                view_content=lambda view, columns: database._views_of().content(view, current, columns),
                topic_key=self._topic_key,
                memory_limit_bytes=self.settings["memory_limit"],
                threads=self.settings["threads"],
                cancel=token,
                execution=self.settings["execution"],
                disabled_rules=self.settings["disabled_optimizers"],
                recursion_limit=self.settings["recursion_limit"],
                budget=self._budget,
                spill_folder=None if database.read_only else os.path.join(database.path, "spill"),
            )
            try:
                yield context
            finally:
                context.release_all()
        finally:
            try:
                if snapshot is not None:
                    snapshot.let_go()
                elif current is not None:
                    current.close()
            finally:
                self._running.pop(token, None)  # at once: Ctrl-C may come anywhere here, and `close` waits for this
                if token.cancelled:
                    with self._ended:
                        self._ended.notify_all()

    def _enter(self, token: CancelToken, snapshot: Any) -> None:
        """A query runs. Over a snapshot that was given to it, it waits for those that their callers have left there:
        one thread at a time reads a snapshot. ClosedError."""
        with self._ended:
            if self._closed:
                raise ClosedError(f"the database {self._database.path!r} is closed; open it again")
            self._running[token] = snapshot
            while snapshot is not None and any(
                other.cancelled and over is snapshot for other, over in self._running.copy().items()
            ):
                token.check()
                self._ended.wait(LEFT_WAIT_S)

    def _topic_key(self, topic_id: int) -> str | None:
        info = self._database._catalog.topic_by_id(topic_id)
        return None if info is None else info.key

    def _collect(self, plan: Plan, context: QueryContext) -> Sequence[RecordBatch]:
        return self._bounded(run(plan, context), context)

    @staticmethod
    def _bounded(rows: Iterable[RecordBatch], context: QueryContext) -> Sequence[RecordBatch]:
        """All batches. Rows beyond memory_limit that are not views of mapped files go to disk; MemoryLimitExceeded
        where nothing may be written."""
        if context.spill_folder is not None:
            kept = SpilledRows(context.spill_folder, context.memory_limit_bytes // 4)
            for batch in rows:
                kept.append(batch)
            return kept if kept.is_spilled else list(kept)
        batches = []
        held, own_bytes = 0, OwnBytes()
        for batch in rows:
            batches.append(batch)
            held += own_bytes(batch)
            if held > context.memory_limit_bytes:
                raise MemoryLimitExceeded(
                    f"the result holds more than memory_limit ({context.memory_limit_bytes / MIB:.0f} MB): add LIMIT, "
                    "aggregate, read the topic with topic.read(), or open with a larger memory_limit"
                )
        return batches

    @staticmethod
    def _first(batches: Iterator[RecordBatch], context: QueryContext) -> list[RecordBatch]:
        """The next batches, about a quarter of the memory limit; [] after the last."""
        found: list[RecordBatch] = []
        held = 0
        for batch in batches:
            found.append(batch)
            held += batch.nbytes
            if held > context.memory_limit_bytes // 4:
                break
        return found

    def _query(self, statement: st.Query, snapshot: Any, timeout: float | None) -> Result:
        plan = statement.plan
        batches = self.rows(plan, timeout, snapshot)
        return Result([f.name for f in plan.fields], [f.type for f in plan.fields], batches)

    def rows(
        self, plan: Plan, timeout: float | None, snapshot: Any = None,
        change: Callable[[Plan, QueryContext], Plan] | None = None,
    ) -> Sequence[RecordBatch]:  # fmt: skip
        """All batches of a query over `snapshot`, or over a new one; of the plan that `change` makes of it, if given.
        If it is not done in a moment, another thread runs it, which keeps the snapshot open as long as it needs it."""
        opened = ExitStack()
        with opened:
            context = opened.enter_context(self.context(snapshot, timeout))
            plan = fix_now(plan)
            if change is not None:
                plan = change(plan, context)
            short = short_rows(plan, context)
            if short is not None:
                return self._bounded(short, context)
            if is_small(plan, context, LEAST_COMPILED_ROWS):
                return self._bounded(plan_physical(plan, context).batches(), context)
            closing = opened.pop_all()

        def rows() -> Sequence[RecordBatch]:
            with closing:
                return self._bounded(plan_physical(plan, context).batches(), context)

        return run_aside(rows, context.cancel, closing.close)

    def _explain(self, statement: st.Explain, snapshot: Any, timeout: float | None) -> Result:
        inner = statement.statement
        changes = st.Insert | st.InsertRows | st.Update | st.Delete | st.Merge | st.CopyTo
        plan = inner.plan if isinstance(inner, st.Query | changes) else None
        if isinstance(inner, st.CreateView):
            plan = inner.query
        if plan is None:
            raise UnsupportedError(f"EXPLAIN {type(inner).__name__} shows nothing: it has no plan", construct="EXPLAIN")
        if statement.analyze and not isinstance(inner, st.Query):
            raise UnsupportedError("EXPLAIN ANALYZE runs the statement: only queries", construct="EXPLAIN ANALYZE")
        lines = self._explained(self._optimize(plan), statement, snapshot, timeout)
        return text_result({"plan": (VARCHAR, lines)})

    def _explained(self, plan: Plan, statement: st.Explain, snapshot: Any, timeout: float | None) -> list[str]:
        """The lines of a plan, or its JSON."""
        from eventdb.physical.explain import analyzed_lines, physical_lines
        from eventdb.physical.explain_json import plan_json

        started = time.perf_counter()
        with self.context(snapshot, timeout) as context:
            if not statement.analyze:
                operator = plan_physical(plan, context)
                if statement.format == "json":
                    return [plan_json(plan, operator, context)]
                lines = ["logical plan", *explain_lines(plan, 1), "physical plan"]
                return lines + ["  " + line for line in physical_lines(operator)]
            context.measure()
            operator = plan_physical(plan, context)
            rows = sum(len(batch) for batch in operator.batches())
            elapsed_ms = (time.perf_counter() - started) * 1e3
            if statement.format == "json":
                return [plan_json(plan, operator, context, rows, elapsed_ms)]
            return [*analyzed_lines(operator, context), f"{rows} rows in {elapsed_ms:.2f} ms"]

    # --- inserting ----------------------------------------------------------------------------------------------------

    def _insert(self, statement: st.Insert, snapshot: Any, timeout: float | None) -> Result:
        database = self._database
        database._check_writable()
        refuse_beside(self._database, "a statement that writes", "tx.append or tx.put")
        topic = database.topic(statement.topic.name)
        offsets: list[Any] = []
        kept: list[list[Column]] = []
        rest: Iterator[RecordBatch] | None = None
        with ExitStack() as opened:
            if _is_external(statement.plan):
                # Rows from outside that memory does not hold are read on while the writer lock is held.
                context = opened.enter_context(self.context(None, timeout))
                rest = run(statement.plan, context)
                first: Sequence[RecordBatch] = self._first(rest, context)
            else:
                first = self.rows(statement.plan, timeout)
            prepared = [self._prepare(topic.schema, statement.columns, batch) for batch in first if len(batch)]
            with database._store.write() as transaction:
                while prepared:
                    for columns in prepared:
                        found = topic._place_columns(transaction, columns, None, None)
                        offsets.append(np.asarray(found if isinstance(found, range) else found.offsets, dtype=np.int64))
                    kept += prepared if statement.returning is not None else []
                    more = self._first(rest, context) if rest is not None else []
                    prepared = [self._prepare(topic.schema, statement.columns, batch) for batch in more]
        count = sum(len(part) for part in offsets)
        if statement.returning is None:
            return Result([], [], [], rowcount=count)
        from eventdb.table_changes import returned_batches

        parts = [[*columns, Column(BIGINT, part)] for columns, part in zip(kept, offsets, strict=True)]
        return returned_batches(statement.returning, [RecordBatch([""] * len(part), part) for part in parts])

    def _copy_to(self, statement: st.CopyTo, snapshot: Any, timeout: float | None) -> Result:
        from eventdb.copies import copy_to

        with self.context(snapshot, timeout) as context:
            return copy_to(statement, context, self._database._filesystems, self._database.path)

    @staticmethod
    def _prepare(schema: Schema, positions: Sequence[int], batch: RecordBatch) -> list[Column]:
        """The batch's columns in schema order, absent ones NULL. SchemaMismatch for a NULL in a NOT NULL column."""
        given = dict(zip(positions, batch.columns, strict=True))
        columns = []
        for index, field in enumerate(schema):
            column = given.get(index)
            if column is None:
                column = null_column(field.type, len(batch))
            elif column.validity is not None and column.validity.all():
                column = Column(column.type, column.values, None, column.dictionary)
            if column.validity is not None and not field.nullable:
                raise SchemaMismatch(
                    f"column {field.name!r} is {field.type} NOT NULL: row {int(np.argmin(column.validity))} holds NULL",
                    column=field.name,
                    expected=f"{field.type} NOT NULL",
                )
            columns.append(column)
        return columns

    # --- topics, views and settings -----------------------------------------------------------------------------------

    def _change_table(
        self, statement: st.InsertRows | st.Update | st.Delete | st.Merge, snapshot: Any, timeout: float | None
    ) -> Result:
        from eventdb.table_changes import TableChange

        self._database._check_writable()
        refuse_beside(self._database, "a statement that writes", "tx.append or tx.put")
        change = TableChange(self._database.table(statement.table.name), statement)
        plan = statement.plan
        # The rows are found without the lock, and once more with it if anything they come from has changed meanwhile:
        # the statement does what it would do alone.
        logs = self._database._log_by_id
        with self._database._store.snapshot() as snapshot:
            change.read(self.rows(plan, timeout, snapshot))
            change.depend_on(plan, snapshot, logs)
        with self._database._store.write() as transaction:
            if not change.is_current(transaction, logs):
                with self.context(None, timeout) as context:
                    change.read(self._collect(plan, context))
            return change.apply(transaction)

    def _set_option(self, statement: st.SetOption, snapshot: Any, timeout: float | None) -> Result:
        name, value = statement.name.lower(), statement.value
        if name not in self.settings:
            raise UsageError(f"no setting {name!r}; the settings are {', '.join(sorted(self.settings))}")
        self.settings[name] = self._checked_setting(name, value)
        return Result([], [], [])

    def _checked_setting(self, name: str, value: Any) -> Any:
        if name == "execution":
            chosen = "auto" if value is None else str(value).lower()
            if chosen not in EXECUTIONS:
                raise UsageError(f"execution is one of {', '.join(EXECUTIONS)}, not {value!r}")
            return chosen
        if name == "threads":
            chosen_threads = os.cpu_count() or 1 if value is None else value
            if (
                isinstance(chosen_threads, bool)
                or not isinstance(chosen_threads, int)
                or not 1 <= chosen_threads <= 1024
            ):
                raise UsageError(f"threads is an integer from 1 to 1024, not {value!r}")
            return chosen_threads
        if name == "memory_limit":
            return self._database._memory_limit_bytes if value is None else parse_size_bytes(value, "memory_limit")
        if name == "timeout":
            return checked_timeout(value)
        if name == "recursion_limit":
            rounds = DEFAULT_RECURSION_ROUNDS if value is None else value
            if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
                raise UsageError(f"recursion_limit is a whole number of rounds from 1, not {value!r}")
            return rounds
        if name == "python_enable_replacements":
            if value not in (None, True, False):
                raise UsageError(f"python_enable_replacements is true or false, not {value!r}")
            return value is None or bool(value)
        names = "" if value is None else str(value)
        return frozenset(part.strip() for part in names.split(",") if part.strip())

    def _show_setting(self, statement: st.ShowSetting, snapshot: Any, timeout: float | None) -> Result:
        name = statement.name.lower()
        shown = self.settings if name == "all" else {name: self.settings[name]} if name in self.settings else None
        if shown is None:
            raise UsageError(f"no setting {name!r}; the settings are {', '.join(sorted(self.settings))}")
        values = [None if v is None else ", ".join(sorted(v)) if isinstance(v, frozenset) else str(v)
                  for v in shown.values()]  # fmt: skip
        return text_result({"name": (VARCHAR, list(shown)), "value": (VARCHAR, values)})


def _is_external(plan: Plan) -> bool:
    """Whether all rows come from files and Python objects."""
    if plan.children:
        return all(map(_is_external, plan.children))
    return isinstance(plan, ExternalScan)


def checked_timeout(value: Any) -> float | None:
    """Seconds, of a number of seconds or any other duration; None: no limit."""
    if value is None:
        return None
    seconds = parse_duration_us(value, "timeout") / 1e6
    if not seconds:
        raise UsageError(f"timeout is more than 0, not {value!r}; SET timeout = DEFAULT for no limit")
    return seconds
