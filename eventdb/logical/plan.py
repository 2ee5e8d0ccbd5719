"""The logical plan: what rows a query means.

Every node has `fields` (its output columns) and `children`. Expressions inside a node refer to positions of its child's
fields (a Join's residual: left fields, then right fields). Nodes are frozen; rules build new ones. `explain_lines` and
`label` make EXPLAIN a test surface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from eventdb.external.source import Source, Terms
from eventdb.logical.expressions import Aggregation, Expression, Literal, SortKey
from eventdb.schema import BOOLEAN, TIMESTAMP, DataType


@dataclass(frozen=True, slots=True)
class OutputField:
    """A column of a node's output. Names may repeat (SELECT a, a)."""

    name: str
    type: DataType
    nullable: bool = True


Fields = tuple[OutputField, ...]


@dataclass(frozen=True, slots=True)
class Plan(ABC):
    @property
    @abstractmethod
    def fields(self) -> Fields:
        """Of its rows."""

    @property
    def children(self) -> tuple[Plan, ...]:
        return ()

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return self

    def label(self) -> str:
        """One line for EXPLAIN."""
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Unary(Plan):
    """A node over one other. Its rows have the fields of those below, unless it says otherwise."""

    input: Plan

    @property
    def fields(self) -> Fields:
        return self.input.fields

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.input,)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, input=children[0])


@dataclass(frozen=True, slots=True)
class Scan(Plan):
    """Rows of a topic in offset order.

    `columns` are names of the topic's schema or system columns (_offset, _partition, _time, _append_time, _key,
    _headers), one per field. `partition` is the only one read (None = all, one after the other).
    `start_offset`/`stop_offset` bound the offsets ([start, stop), None = open); `time_range` bounds the topic's event
    time in microseconds ([low, high], None = open) and only lets whole segments be skipped: the Filter above stays.
    `event_time` names the column that holds the topic's event time, if it has one. `hints` are comparisons
    (column, eq | lt | le | gt | ge, physical value of its type) that every row kept above satisfies: blocks whose
    statistics say that none does may be skipped. `primary_key` names the key columns of a table; `keys`, physical
    values in that order, are the only ones whose rows are wanted (None = all): they are looked up, not scanned for.
    """

    topic_id: int
    name: str
    columns: tuple[str, ...]
    output: Fields
    start_offset: int | None = None
    stop_offset: int | None = None
    time_range: tuple[int | None, int | None] = (None, None)
    event_time: str | None = None
    partition: int | None = None
    hints: tuple[tuple[str, str, object], ...] = ()
    primary_key: tuple[str, ...] = ()
    keys: tuple[tuple[object, ...], ...] | None = None

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        if self.keys is not None:
            wanted = self.keys[0] if len(self.keys) == 1 else f"{len(self.keys)} keys"
            return f"KeyLookup {self.name} [{', '.join(self.columns)}] ({', '.join(self.primary_key)}) = {wanted}"
        text = f"Scan {self.name} [{', '.join(self.columns)}]"
        if self.start_offset is not None or self.stop_offset is not None:
            text += f" offsets [{self.start_offset or 0}, {'end' if self.stop_offset is None else self.stop_offset})"
        if self.time_range != (None, None):
            text += f" time {self.time_range}"
        return text


@dataclass(frozen=True, slots=True)
class ViewScan(Plan):
    """The content of a materialized view at the query's snapshot. `columns` are names of the view's output."""

    view_id: int
    name: str
    columns: tuple[str, ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"ViewScan {self.name} [{', '.join(self.columns)}]"


@dataclass(frozen=True, slots=True)
class ExternalScan(Plan):
    """Rows from outside the database: files, Python objects. `columns` are names of the source's schema, one per field.

    Rows for which one of the `terms` is not true may be left out (the Filter above stays); of the others no more than
    `limit` are needed (None = all).
    """

    source: Source
    columns: tuple[str, ...]
    output: Fields
    terms: Terms = ()
    limit: int | None = None

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        text = f"{self.source.kind} {self.source.name} [{', '.join(self.columns)}]"
        if self.terms:
            signs = {"eq": "=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "in": "IN"}
            text += " where " + " AND ".join(f"{c} {signs[f]} {v!r}" for c, f, v in self.terms)
        return text + ("" if self.limit is None else f" limit {self.limit}")


@dataclass(frozen=True, slots=True)
class Values(Plan):
    """Constant rows. SELECT without FROM reads one row of no columns."""

    rows: tuple[tuple[Literal, ...], ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"Values {len(self.rows)} rows"


@dataclass(frozen=True, slots=True)
class Filter(Unary):
    """Rows for which the BOOLEAN predicate is true (neither false nor NULL)."""

    predicate: Expression

    def label(self) -> str:
        return f"Filter {self.predicate}"


@dataclass(frozen=True, slots=True)
class Project(Unary):
    expressions: tuple[Expression, ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        parts = [
            str(e) if str(e) == f.name else f"{e} AS {f.name}"
            for e, f in zip(self.expressions, self.output, strict=True)
        ]
        return f"Project {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Aggregate(Unary):
    """Groups by `keys`; output = the keys, then the aggregations. Without keys: exactly one row."""

    keys: tuple[Expression, ...]
    aggregations: tuple[Aggregation, ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        keys = f" by {', '.join(map(str, self.keys))}" if self.keys else ""
        return f"Aggregate {', '.join(map(str, self.aggregations))}{keys}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class GroupSets(Unary):
    """GROUPING SETS: as many Aggregates over the same rows, one after another; `sets` are positions of `keys`.

    Output = the keys (NULL where a set leaves one out), the aggregations, and the number of the set (BIGINT, from 0).
    The empty set gives exactly one row.
    """

    keys: tuple[Expression, ...]
    sets: tuple[tuple[int, ...], ...]
    aggregations: tuple[Aggregation, ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        sets = [f"({', '.join(str(self.keys[i]) for i in chosen)})" for chosen in self.sets]
        return f"GroupSets {', '.join(map(str, self.aggregations))} by {', '.join(sets)}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Join(Plan):
    """Pairs of rows with left_keys[i] = right_keys[i] and a true `residual`, which reads left, then right fields.

    A NULL key matches nothing, or another NULL where `null_matches[i]` (all False if empty). No keys and no residual:
    every pair. `kind` says what comes of the pairs:

    * inner: them; left, full: them, and the rows of one or both sides that are in none, with NULLs for the other side;
    * semi, anti: the left rows that are in some pair, in no pair;
    * single: as left, but a left row in two pairs is an error (a scalar subquery that gives two rows);
    * mark: each left row and a BOOLEAN: whether `compared` (over left, then right fields; TRUE if None) is true for one
      of its pairs; NULL if it is for none, but is NULL for one; else false. That is `= ANY` and IN.
    """

    kind: str
    left: Plan
    right: Plan
    left_keys: tuple[Expression, ...] = ()
    right_keys: tuple[Expression, ...] = ()
    residual: Expression | None = None
    null_matches: tuple[bool, ...] = ()
    compared: Expression | None = None

    @property
    def fields(self) -> Fields:
        left, right = self.left.fields, self.right.fields
        if self.kind in ("semi", "anti"):
            return left
        if self.kind == "mark":
            return (*left, OutputField("mark", BOOLEAN, self.compared is not None))
        if self.kind in ("left", "full", "single"):
            right = tuple(replace(field, nullable=True) for field in right)
        if self.kind == "full":
            left = tuple(replace(field, nullable=True) for field in left)
        return left + right

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.left, self.right)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, left=children[0], right=children[1])

    def label(self) -> str:
        nulls = self.null_matches or (False,) * len(self.left_keys)
        pairs = [
            f"{a} {'IS NOT DISTINCT FROM' if null else '='} {b}"
            for a, b, null in zip(self.left_keys, self.right_keys, nulls, strict=True)
        ]
        if self.residual is not None:
            pairs.append(str(self.residual))
        condition = f" on {' AND '.join(pairs)}" if pairs else ""
        return f"Join {self.kind}{condition}" + (f" any {self.compared}" if self.compared is not None else "")


@dataclass(frozen=True, slots=True)
class Sort(Unary):
    """Rows in order; equal rows keep their input order."""

    keys: tuple[SortKey, ...]

    def label(self) -> str:
        return f"Sort {', '.join(map(str, self.keys))}"


@dataclass(frozen=True, slots=True)
class Limit(Unary):
    """At most `row_count` rows (None = all) after skipping `skip_count`."""

    row_count: int | None
    skip_count: int = 0

    def label(self) -> str:
        skipped = f" skip {self.skip_count}" if self.skip_count else ""
        return f"Limit {'all' if self.row_count is None else self.row_count}{skipped}"


@dataclass(frozen=True, slots=True)
class Distinct(Unary):
    """Each row once; NULL equals NULL."""


@dataclass(frozen=True, slots=True)
class DistinctOn(Unary):
    """The first row of each combination of `keys`, in input order; NULL equals NULL."""

    keys: tuple[Expression, ...]

    def label(self) -> str:
        return f"DistinctOn {', '.join(map(str, self.keys))}"


@dataclass(frozen=True, slots=True)
class UnionAll(Plan):
    """Rows of every input, in order; the binder has cast them to the same types."""

    inputs: tuple[Plan, ...]
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    @property
    def children(self) -> tuple[Plan, ...]:
        return self.inputs

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, inputs=children)


@dataclass(frozen=True, slots=True)
class TimeWindow(Unary):
    """TUMBLE (slide = size) and HOP: each row once per window [start, start + size) that holds its time.

    Windows start at multiples of `slide_us` since 1970-01-01. Output = input fields, window_start, window_end,
    window_time (= window_end - 1 us). Rows whose time is NULL belong to no window and are dropped.
    """

    time: Expression
    size_us: int
    slide_us: int

    @property
    def fields(self) -> Fields:
        added = tuple(OutputField(name, TIMESTAMP, False) for name in ("window_start", "window_end", "window_time"))
        return self.input.fields + added

    def label(self) -> str:
        kind = "Tumble" if self.size_us == self.slide_us else "Hop"
        return f"{kind} {self.time} size {self.size_us} us slide {self.slide_us} us"


def transform_plan(plan: Plan, change: Callable[[Plan], Plan]) -> Plan:
    """The plan rebuilt bottom-up with `change` applied to every node."""
    children = plan.children
    if children:
        changed = tuple(transform_plan(child, change) for child in children)
        if any(new is not old for new, old in zip(changed, children, strict=True)):
            plan = plan.with_children(changed)
    return change(plan)


def explain_lines(plan: Plan, depth: int = 0) -> list[str]:
    """The plan as indented lines, root first."""
    lines = ["  " * depth + plan.label()]
    for child in plan.children:
        lines.extend(explain_lines(child, depth + 1))
    return lines
