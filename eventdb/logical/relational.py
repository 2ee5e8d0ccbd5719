"""Plan nodes of set operations, recursion, and of limits within groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

from eventdb.logical.expressions import Aggregation, Expression
from eventdb.logical.plan import Fields, Plan, Unary


@dataclass(frozen=True, slots=True)
class SetOperation(Plan):
    """INTERSECT or EXCEPT of two plans of the same types; NULL equals NULL.

    `keep_all`: a row that the left side holds l times and the right side r times comes min(l, r) or l - r times;
    otherwise once or never.
    """

    kind: str  # intersect, except
    left: Plan
    right: Plan
    keep_all: bool
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.left, self.right)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, left=children[0], right=children[1])

    def label(self) -> str:
        return f"{self.kind.capitalize()}{' all' if self.keep_all else ''}"


@dataclass(frozen=True, slots=True)
class WorkingTable(Plan):
    """Inside the step of a RecursiveUnion: the rows the round before added. `number` tells nested ones apart."""

    number: int
    name: str
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"WorkingTable {self.name}"


@dataclass(frozen=True, slots=True)
class RecursiveUnion(Plan):
    """WITH RECURSIVE: the rows of `base`, then of `step` over them, then of `step` over those, until it adds none.

    `distinct` (UNION): rows that were there before are no new rows.
    """

    number: int
    name: str
    base: Plan
    step: Plan
    distinct: bool
    output: Fields

    @property
    def fields(self) -> Fields:
        return self.output

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.base, self.step)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, base=children[0], step=children[1])

    def label(self) -> str:
        return f"RecursiveUnion {self.name}{' distinct' if self.distinct else ''}"


@dataclass(frozen=True, slots=True)
class LimitValue(Plan):
    """Limit by what a plan of one row gives: how many rows and how many skipped, BIGINT; NULL is all and none."""

    input: Plan
    counts: Plan

    @property
    def fields(self) -> Fields:
        return self.input.fields

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.input, self.counts)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, input=children[0], counts=children[1])


@dataclass(frozen=True, slots=True)
class LimitBy(Unary):
    """Limit within the groups of equal `keys` (NULL equals NULL); rows keep their order."""

    keys: tuple[Expression, ...]
    row_count: int | None
    skip_count: int = 0

    def label(self) -> str:
        skipped = f" skip {self.skip_count}" if self.skip_count else ""
        return (
            f"LimitBy {', '.join(map(str, self.keys))}: {'all' if self.row_count is None else self.row_count}{skipped}"
        )


@dataclass(frozen=True, slots=True)
class BlockAggregate(Unary):
    """An Aggregate without keys that the statistics of blocks may answer: of count(*), and count, min and max of
    columns. Its input is a Scan, or a Filter of a Scan whose terms are `terms`: (field, eq | lt | le | gt | ge,
    physical value of its type), or (field, is_not_null, None)."""

    aggregations: tuple[Aggregation, ...]
    output: Fields
    terms: tuple[tuple[int, str, object], ...] = ()

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"BlockAggregate {', '.join(map(str, self.aggregations))}"


@dataclass(frozen=True, slots=True)
class Shared(Unary):
    """A part of a plan that stands in it `use_count` times, and is to be run once."""

    use_count: int

    def label(self) -> str:
        return f"Shared {self.use_count} uses"
