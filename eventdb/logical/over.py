"""Over: SQL's analytic functions (OVER), a value per row from the rows of its partition.

The rows stay as they are, in their order; each call adds a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from eventdb.logical.expressions import Expression, SortKey
from eventdb.logical.plan import Fields, Unary
from eventdb.schema import DataType


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a frame: 'unbounded preceding', 'preceding', 'current row', 'following' or 'unbounded following'.

    `offset` is the distance of 'preceding' and 'following' (rows, peer groups, or a distance of the order key).
    `value`, for RANGE, is the order key moved by it, in the type of the frame's `key`.
    """

    kind: str
    offset: Expression | None = None
    value: Expression | None = None

    def __str__(self) -> str:
        return self.kind.upper() if self.offset is None else f"{self.offset} {self.kind.upper()}"


UNBOUNDED_PRECEDING = Bound("unbounded preceding")
UNBOUNDED_FOLLOWING = Bound("unbounded following")
CURRENT_ROW = Bound("current row")


@dataclass(frozen=True, slots=True)
class Frame:
    """The rows around a row that a call sees. `unit`: rows, range or groups; `exclude`: no others, current row, group
    or ties. `key` is the order key in the type it is compared in with the values of RANGE bounds."""

    unit: str = "range"
    start: Bound = UNBOUNDED_PRECEDING
    end: Bound = CURRENT_ROW
    exclude: str = "no others"
    key: Expression | None = None

    def __str__(self) -> str:
        text = f"{self.unit.upper()} BETWEEN {self.start} AND {self.end}"
        return text if self.exclude == "no others" else f"{text} EXCLUDE {self.exclude.upper()}"


DEFAULT_FRAME = Frame()


@dataclass(frozen=True, slots=True)
class OverCall:
    """One analytic function or aggregate over a window. Names are of RANKINGS or AGGREGATES.

    `order` is the window's, `inner` the aggregate's own.
    """

    function: str
    args: tuple[Expression, ...]
    type: DataType
    partition: tuple[Expression, ...] = ()
    order: tuple[SortKey, ...] = ()
    frame: Frame = DEFAULT_FRAME
    ignore_nulls: bool = False
    distinct: bool = False
    filter: Expression | None = None
    inner: tuple[SortKey, ...] = ()

    def expressions(self) -> Iterator[Expression]:
        """All it reads."""
        yield from self.args
        yield from self.partition
        for key in (*self.order, *self.inner):
            yield key.expression
        parts = (
            self.filter,
            self.frame.key,
            *[e for b in (self.frame.start, self.frame.end) for e in (b.offset, b.value)],
        )
        yield from (part for part in parts if part is not None)

    def map(self, change: Callable[[Expression], Expression]) -> OverCall:
        """The call with `change` applied to each of those."""

        def maybe(e: Expression | None) -> Expression | None:
            return None if e is None else change(e)

        start, end = (Bound(b.kind, maybe(b.offset), maybe(b.value)) for b in (self.frame.start, self.frame.end))
        return replace(
            self,
            args=tuple(map(change, self.args)),
            partition=tuple(map(change, self.partition)),
            order=tuple(replace(key, expression=change(key.expression)) for key in self.order),
            frame=replace(self.frame, start=start, end=end, key=maybe(self.frame.key)),
            filter=maybe(self.filter),
            inner=tuple(replace(key, expression=change(key.expression)) for key in self.inner),
        )

    def __str__(self) -> str:
        inner = "*" if self.function == "count_star" else ", ".join(map(str, self.args))
        if self.inner:
            inner += f" ORDER BY {', '.join(map(str, self.inner))}"
        name = "count" if self.function == "count_star" else self.function
        text = f"{name}({'DISTINCT ' if self.distinct else ''}{inner}{' IGNORE NULLS' if self.ignore_nulls else ''})"
        if self.filter is not None:
            text += f" FILTER (WHERE {self.filter})"
        window = []
        if self.partition:
            window.append(f"PARTITION BY {', '.join(map(str, self.partition))}")
        if self.order:
            window.append(f"ORDER BY {', '.join(map(str, self.order))}")
        if self.frame != DEFAULT_FRAME:
            window.append(str(self.frame))
        return f"{text} OVER ({' '.join(window)})"


@dataclass(frozen=True, slots=True)
class Over(Unary):
    """The input's fields, then a column per call."""

    calls: tuple[OverCall, ...]
    added: Fields

    @property
    def fields(self) -> Fields:
        return self.input.fields + self.added

    def label(self) -> str:
        return f"Over {', '.join(map(str, self.calls))}"
