"""A session: an open database, a display mode, and the ways to run text against them."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import eventdb
from eventdb.errors import EventDBError, UsageError

from .commands import COMMANDS, run_command
from .completion import Catalog
from .describe import list_tables, read_catalog
from .interrupt import run_cancellable
from .render import MODES, Layout, distinct_names, format_value, json_value
from .statements import Statement, all_statements, is_blank, split_statements
from .streams import Streams
from .tokens import tokenize

MAX_SCRIPT_DEPTH = 16


class Session:
    """What the prompt, -c and a pipe have in common. `finished` asks the caller's loop to stop.

    A failing statement raises; the caller decides whether that ends the run. Only the opening thread calls in; a
    statement runs in a thread of its own so that Ctrl-C can cancel it.
    """

    def __init__(
        self, streams: Streams, path: str, *, mode: str, read_only: bool = False, durability: str = "commit"
    ) -> None:
        self.streams = streams
        self.mode = mode
        self.timer = False
        self.finished = False
        self._read_only = read_only
        self._durability = durability
        self._script_depth = 0
        self._stopping = threading.Event()
        self._subscription: eventdb.Subscription | None = None
        self.path = path
        self.database = eventdb.open(path, read_only=read_only, durability=durability)
        self._session = self.database.session()  # statements run in threads of their own

    def close(self) -> None:
        self.database.close()

    def open(self, path: str) -> None:
        """Switch to another database; the present one stays open if that fails."""
        opened = eventdb.open(path, read_only=self._read_only, durability=self._durability)
        self.database.close()
        self.database, self.path, self._session = opened, path, opened.session()

    # --- what there is ------------------------------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """Topics, views, functions and commands, as completion wants them."""
        return read_catalog(self.database, {c.name: c.summary for c in COMMANDS.values()}, tuple(MODES))

    def table_rows(self) -> list[tuple[str, str, int | None]]:
        """(name, kind, number of events) of everything that can be queried."""
        return list_tables(self.database)

    # --- running ------------------------------------------------------------------------------------------------------

    def run_lines(self, lines: Iterable[str], source: str = "") -> None:
        """Run SQL and dot commands as their lines arrive (a live pipe too); the last statement need not end in `;`.

        The first failure raises; `source` (a file name) then tells where the statement began.
        """
        pending, first = "", 1
        for number, line in enumerate(lines, 1):
            if is_blank(pending):
                pending, first = "", number
                if line.lstrip().startswith("."):
                    self._run_located(partial(run_command, self, line), source, number)
                    if self.finished:
                        return
                    continue
            pending += line
            if ";" in line:
                statements, pending = split_statements(pending)
                self._run_statements(statements, source, first)
                first = number
        if not is_blank(pending):
            self._run_statements(all_statements(pending), source, first)

    def run_text(self, text: str, source: str = "") -> None:
        """As run_lines, for a whole text."""
        self.run_lines(text.splitlines(keepends=True), source)

    def _run_statements(self, statements: Sequence[Statement], source: str, first_line: int) -> None:
        for statement in statements:
            line = first_line + statement.line - 1
            self._run_located(partial(self.run_statement, statement.text), source, line)

    def _run_located(self, action: Callable[[], None], source: str, line: int) -> None:
        try:
            action()
        except EventDBError as error:
            if source and not hasattr(error, "script_place"):
                error.script_place = f"{source}:{line}"  # type: ignore[attr-defined]
            raise

    def read_script(self, path: str) -> None:
        """Run a file of statements and commands."""
        if self._script_depth >= MAX_SCRIPT_DEPTH:
            raise UsageError(f"{path}: scripts may read scripts {MAX_SCRIPT_DEPTH} deep; does one read itself?")
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}") from None
        self._script_depth += 1
        try:
            self.run_text(text, path)
        finally:
            self._script_depth -= 1

    def run_statement(self, sql: str) -> None:
        """Run one statement and print what it returns. Ctrl-C cancels it (QueryCancelled); it ends a subscription."""
        self._stopping.clear()
        started = time.perf_counter()
        work = self._subscribe if is_subscription(sql) else self._query
        run_cancellable(lambda: work(sql), self.cancel)
        if self.timer:
            self.streams.print(f"time {format_duration(time.perf_counter() - started)}")
        self.streams.stdout.flush()

    def cancel(self) -> None:
        """Make the running statement end: called when Ctrl-C is pressed."""
        self._stopping.set()
        subscription = self._subscription
        if subscription is not None:
            subscription.close()
        else:
            self.database.interrupt()

    def _query(self, sql: str) -> None:
        result = self._session.sql(sql)
        if result.columns:
            self.show(result.columns, [str(type) for type in result.types], self._stoppable(result))
        elif self.streams.interactive:
            changed = result.rowcount
            self.streams.print(f"{changed:,} row{'' if changed == 1 else 's'} changed" if changed > 0 else "ok")

    def _stoppable(self, rows: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """The rows until Ctrl-C: printing many of them can take longer than the query."""
        for row in rows:
            if self._stopping.is_set():
                raise eventdb.QueryCancelled("the query was interrupted while its rows were printed")
            yield row

    def _subscribe(self, sql: str) -> None:
        """Print changes as they come, until Ctrl-C."""
        with self.database.subscribe(sql) as changes:
            self._subscription = changes
            try:
                self._print_changes(changes)
            finally:
                self._subscription = None

    def _print_changes(self, changes: eventdb.Subscription) -> None:
        names = distinct_names(changes.columns)
        if self.streams.interactive:
            self.streams.note("changes follow; Ctrl-C ends the subscription")
        for change in changes:
            if self._stopping.is_set():
                return
            if change.op == "progress":
                message = cast("eventdb.ProgressMessage", change)
                row = {"token": message.token, "commit": message.offset, "watermark": message.watermark}
            else:
                row = dict(zip(names, change.row, strict=True))
            self.streams.print(format_change(change.op, row, self.mode))
            self.streams.stdout.flush()

    def show(self, names: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Print rows in the session's mode; returns how many."""
        return MODES[self.mode](names, types, rows, self.streams.stdout, self.layout())

    def layout(self) -> Layout:
        """Fit to the terminal for a person; everything, at any width, for a program."""
        out = self.streams.stdout
        encoding = getattr(out, "encoding", None) or "utf-8"
        plain = not encoding.lower().replace("-", "").startswith("utf")
        if not out.isatty():
            return Layout(width=0, max_rows=0, ascii=plain)
        return Layout(width=shutil.get_terminal_size().columns, max_rows=40, ascii=plain)


def is_subscription(sql: str) -> bool:
    """Whether a statement runs for ever: SUBSCRIBE ..., or SELECT ... EMIT CHANGES | EVERY | ON ..."""
    words = [token.text.upper() for token in tokenize(sql) if not token.is_quiet]
    if not words or words[0] == "SUBSCRIBE":
        return bool(words)
    emits = {("EMIT", "CHANGES"), ("EMIT", "EVERY"), ("EMIT", "ON")}
    return words[0] in ("SELECT", "WITH", "FROM") and not emits.isdisjoint(pairwise(words))


def format_change(op: str, row: Mapping[str, Any], mode: str) -> str:
    """A change as one line: JSON in json mode, else `+I  station=EWR  temp=31.1`."""
    if mode == "json":
        items = (("_op", op), *row.items())
        return "{" + ",".join(f"{json_value(name)}:{json_value(value)}" for name, value in items) + "}"
    return f"{op:2}  " + "  ".join(f"{name}={format_value(value)}" for name, value in row.items())


def format_duration(seconds: float) -> str:
    """320 us, 1.25 ms, 3.4 s, 2 min 05 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def report(streams: Streams, error: BaseException) -> None:
    """Tell a failure of a session: place in the script, message, caret."""
    if isinstance(error, eventdb.QueryCancelled):
        streams.note("cancelled")
        return
    streams.fail(error, getattr(error, "script_place", ""))
