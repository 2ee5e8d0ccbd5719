"""What a select item stands on, until the query binder knows its column: an aggregate, an analytic call, GROUPING."""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.logical.expressions import Expression


@dataclass(frozen=True, slots=True)
class AggregateRef(Expression):
    """The value of aggregation `index`."""

    index: int

    def __str__(self) -> str:
        return f"aggregate {self.index}"


@dataclass(frozen=True, slots=True)
class OverRef(Expression):
    """The value of analytic call `index`."""

    index: int

    def __str__(self) -> str:
        return f"over {self.index}"


@dataclass(frozen=True, slots=True)
class GroupingRef(Expression):
    """GROUPING(args)."""

    args: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"grouping({', '.join(map(str, self.args))})"
