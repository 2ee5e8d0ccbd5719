"""What a bound SQL statement says, one class per statement, and what the binder asks of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventdb.external.source import Source
from eventdb.logical.expressions import Expression, Literal, columns_of
from eventdb.logical.plan import Plan
from eventdb.logical.python_functions import Callee, PythonTable
from eventdb.schema import Schema


@dataclass(frozen=True, slots=True)
class TableInfo:
    """Something FROM can name. `kind` is 'topic', 'table' (`primary_key` is the positions of its key columns,
    `defaults` physical values by position; without a key both are ()), 'view' (materialized), 'query' (a plain view:
    `query` is its text), 'file' or 'object' (with a `source`)."""

    kind: str
    id: int
    name: str
    schema: Schema
    event_time: str | None = None
    watermark_delay_us: int | None = None
    source: Source | None = None
    key: str | None = None
    primary_key: tuple[int, ...] = ()
    defaults: tuple[tuple[int, object], ...] = ()
    query: str | None = None

    def default(self, position: int) -> object:
        """The physical value a column has that a row does not name; None for NULL."""
        return dict(self.defaults).get(position)


class Resolver(Protocol):
    """The names a statement may use."""

    def table(self, name: str) -> TableInfo:
        """The topic or view, found without case. TopicNotFound with near names if missing."""
        ...

    def file(self, path: str) -> TableInfo:
        """The file, or the files of a pattern, with the columns they have. A typed error if they cannot be read."""
        ...

    def files(self, reader: str, paths: Sequence[str], options: Mapping[str, Any]) -> TableInfo:
        """The files of a call of a reader (READERS in external/options.py), as `file`."""
        ...

    def format_of(self, path: str) -> str:
        """csv, json, parquet or arrow, by the file's name."""
        ...

    def function(self, name: str) -> Callee | None:
        """The function written in Python of a lower-case name."""
        ...

    def call(self, function: PythonTable, arguments: Sequence[Any]) -> TableInfo:
        """The rows a table function gives for these values."""
        ...

    def function_names(self) -> list[str]:
        """Of all functions written in Python, for suggestions."""
        ...

    def names(self) -> list[str]:
        """Every topic and view, for suggestions."""
        ...


class Statement:
    """Base of all statements."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Query(Statement):
    """Rows: SELECT, VALUES, WITH ... SELECT, UNION ALL. The plan is bound and not yet optimised."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class CreateTopic(Statement):
    """`options` are WITH (...) as lower-case name -> text; the database checks their names and values."""

    name: str
    schema: Schema
    key: str | None = None
    event_time: str | None = None
    watermark_delay_us: int | None = None
    idle_after_us: int | None = None
    max_future_us: int | None = None
    if_not_exists: bool = False
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AlterTopic(Statement):
    """SET (...): `options` as in CreateTopic; the text NULL takes one away."""

    name: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DropTopic(Statement):
    name: str
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class CreateTable(Statement):
    """`primary_key` are positions in the schema, in the order of the key, () if there is none; `defaults` (position,
    physical value)."""

    name: str
    schema: Schema
    primary_key: tuple[int, ...]
    if_not_exists: bool = False
    defaults: tuple[tuple[int, object], ...] = ()
    or_replace: bool = False


@dataclass(frozen=True, slots=True)
class DropTable(Statement):
    name: str
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class Describe(Statement):
    """Columns of a topic, view or file, or of a query when `plan` is set (DESCRIBE SELECT ...; `name` is then '')."""

    name: str
    table: TableInfo | None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class ShowTopics(Statement):
    """`kind` is 'topics', 'views' or 'tables' (everything FROM can name)."""

    kind: str


@dataclass(frozen=True, slots=True)
class Returning:
    """RETURNING: one expression a column of the result, over the `width` columns of each row that was changed, its
    `_offset` and, in MERGE, what was done with it."""

    values: tuple[Expression, ...]
    names: tuple[str, ...]
    width: int

    @property
    def reads_offset(self) -> bool:
        """Whether `_offset` is among what is returned."""
        return any(self.width in columns_of(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Insert(Statement):
    """Append the plan's rows. Plan field i goes to schema position columns[i], already cast to that column's type.

    Columns not listed are NULL; the binder has refused a NOT NULL column that is left out, the NULL values themselves
    are found when rows are made.
    """

    topic: TableInfo
    columns: tuple[int, ...]
    plan: Plan
    returning: Returning | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """ON CONFLICT: what an inserted row does whose key is taken.

    `values` is None for DO NOTHING, else one expression a column of the table, in its type, over the columns of the row
    that is there followed by those of the row to insert. Rows where `where` is not true stay as they are.
    """

    values: tuple[Expression, ...] | None
    where: Expression | None = None


@dataclass(frozen=True, slots=True)
class InsertRows(Statement):
    """INSERT into a table. `columns` and `plan` as in Insert; without `conflict` a taken key is a ConstraintError."""

    table: TableInfo
    columns: tuple[int, ...]
    plan: Plan
    conflict: Conflict | None = None
    returning: Returning | None = None


@dataclass(frozen=True, slots=True)
class Update(Statement):
    """The plan gives, of each row to change: its columns, its `_offset`, and its columns as they shall be. Of several
    with one offset (UPDATE ... FROM) the first counts."""

    table: TableInfo
    plan: Plan
    returning: Returning | None = None


@dataclass(frozen=True, slots=True)
class Delete(Statement):
    """The plan gives, of each row to delete: its columns and its `_offset`, perhaps several times (USING)."""

    table: TableInfo
    plan: Plan
    returning: Returning | None = None


@dataclass(frozen=True, slots=True)
class MergeClause:
    """WHEN ... THEN. `when`: 'matched', 'unmatched' (no row of the target) or 'sourceless' (no row of the source).

    `action`: 'update' and 'insert' (`values`: the new row, one expression a column), 'delete', 'nothing' or 'error'
    (`values`: the message, if one is given). Expressions are over the plan's fields.
    """

    when: str
    condition: Expression | None
    action: str
    values: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Merge(Statement):
    """The plan gives pairs of rows: the target's columns and `_offset`, NULL if there is none; the source's columns and
    at position `mark` a field that is NULL if there is none. Of each the first clause that fits counts."""

    table: TableInfo
    plan: Plan
    mark: int
    clauses: tuple[MergeClause, ...]
    returning: Returning | None = None


@dataclass(frozen=True, slots=True)
class CopyTo(Statement):
    """The plan's rows into a file, or, with `partition_by` among the options, into the files of a folder."""

    plan: Plan
    path: str
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Explain(Statement):
    """`format` is 'text' or 'json'."""

    statement: Statement
    analyze: bool = False
    format: str = "text"


@dataclass(frozen=True, slots=True)
class Every:
    """EMIT EVERY: changes come at most once in `interval_us` (0: at once); with `repeat` all rows, if any changed."""

    interval_us: int = 0
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class CreateView(Statement):
    """A continuous query. `topic` is its one input, None for a query of another shape (sql/continuous.py).

    `emit`: 'window_close' (rows of a window appear once, when the watermark passes its end + grace_us), 'update' (the
    current row of every group, revised) or None (no aggregate: each event's row). `start`: 'beginning', 'now' or
    event time in us. `dead_letter` is the topic where rows that break an expression go.
    `every` is for its subscribers; its content is not touched. `into`: a topic or table that its rows go to, too.
    """

    name: str
    query: Plan
    topic: TableInfo | None
    emit: str | None
    grace_us: int
    start: str | int
    if_not_exists: bool
    sql: str
    state_limit_bytes: int | None = None
    late: str = "drop"
    or_replace: bool = False
    keep_state: bool = False
    dead_letter: str | None = None
    every: Every = Every()
    into: TableInfo | None = None


@dataclass(frozen=True, slots=True)
class DropView(Statement):
    name: str
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class AlterView(Statement):
    """`action` is 'pause' or 'resume'."""

    name: str
    action: str


@dataclass(frozen=True, slots=True)
class RefreshView(Statement):
    """Compute the view anew from its inputs."""

    name: str


@dataclass(frozen=True, slots=True)
class VerifyView(Statement):
    """Compare the view with its query."""

    name: str


@dataclass(frozen=True, slots=True)
class Subscribe(Statement):
    """Changes of a view, a topic or a query, for ever or until `limit` rows.

    `table` is set when the target is a bare name (`query` then scans it). A query follows the same rules as a view and
    has `topic` and `emit` as in CreateView. `mode`: 'snapshot' (current content, then
    changes), 'beginning' or 'now'; `after` a token to go on from instead. `progress`: how far everything was
    handed out is told.
    """

    query: Plan
    table: TableInfo | None
    mode: str
    topic: TableInfo | None = None
    emit: str | None = None
    grace_us: int = 0
    limit: int | None = None
    after: str | None = None
    every: Every = Every()
    progress: bool = False


@dataclass(frozen=True, slots=True)
class SetOption(Statement):
    """SET name = value; `value` is a str, int, float, bool or None (DEFAULT)."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class ShowSetting(Statement):
    name: str


@dataclass(frozen=True, slots=True)
class Begin(Statement):
    """A transaction of the session that runs it begins."""

    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Commit(Statement):
    """The end of a transaction: everything is stored."""


@dataclass(frozen=True, slots=True)
class Rollback(Statement):
    """The end of a transaction: nothing is."""


@dataclass(frozen=True, slots=True)
class CreateAs(Statement):
    """CREATE TABLE | TOPIC ... AS query: the rows of the plan, in columns of the schema; none of them without data."""

    kind: str
    name: str
    schema: Schema
    plan: Plan
    if_not_exists: bool = False
    or_replace: bool = False
    with_data: bool = True


@dataclass(frozen=True, slots=True)
class CreatePlainView(Statement):
    """A name for a query, whose text is kept."""

    name: str
    schema: Schema
    query: str
    if_not_exists: bool = False
    or_replace: bool = False


@dataclass(frozen=True, slots=True)
class Rename(Statement):
    """ALTER TABLE | TOPIC ... RENAME TO."""

    kind: str
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Prepare(Statement):
    """A statement's text under a name."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Execute(Statement):
    """A prepared statement with values, by position or by name."""

    name: str
    values: tuple[Literal, ...] = ()
    named: tuple[tuple[str, Literal], ...] = ()


@dataclass(frozen=True, slots=True)
class Deallocate(Statement):
    """Forget a prepared statement; all of them if `name` is ''."""

    name: str
