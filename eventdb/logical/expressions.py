"""Bound expressions: every name resolved to a column position, every node typed.

Nodes are frozen and hashable, so equal expressions compare equal (common subexpressions, GROUP BY matching, cache
keys). A Literal holds a physical value: int for DECIMAL (scaled), DATE (days) and TIMESTAMP (microseconds); str,
bytes, bool, int, float as they are; IntervalValue for INTERVAL; None for NULL. `function` names come from
logical/functions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from eventdb.schema import DataType
from eventdb.values import decode_value


class IntervalValue(NamedTuple):
    """A calendar part and an exact part; `months` is 0 for everything that can be a column."""

    months: int
    microseconds: int

    def __str__(self) -> str:
        parts = [f"{self.months} months"] if self.months else []
        if self.microseconds or not parts:
            days, rest = divmod(abs(self.microseconds), 86_400_000_000)
            sign = "-" if self.microseconds < 0 else ""
            if days:
                parts.append(f"{sign}{days} days")
            if rest or not days:
                text = f"{rest / 1_000_000:.6f}".rstrip("0").rstrip(".")
                parts.append(f"{sign}{text} seconds")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Expression:
    type: DataType

    def children(self) -> tuple[Expression, ...]:
        return ()

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return self


@dataclass(frozen=True, slots=True)
class ColumnRef(Expression):
    """Column `index` of the input batch. `name` is for people: equality ignores nothing, so keep it as bound."""

    index: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    value: Any

    @property
    def is_null(self) -> bool:
        return self.value is None

    def __str__(self) -> str:
        if self.value is None:
            return "NULL"
        if self.type.name == "INTERVAL":
            return f"INTERVAL '{self.value}'"
        if self.type.is_numeric or self.type.name == "BOOLEAN":
            return (
                str(decode_value(self.type, self.value)).upper()
                if self.type.name == "BOOLEAN"
                else str(decode_value(self.type, self.value))
            )
        if self.type.name == "BLOB":
            return f"x'{self.value.hex()}'"
        if self.type.name in ("DATE", "TIMESTAMP"):
            return f"{self.type} '{decode_value(self.type, self.value)}'"
        return "'" + str(self.value).replace("'", "''") + "'"


_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "modulo": "%", "concat_op": "||",
    "eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "AND", "or": "OR",
    "like": "LIKE", "ilike": "ILIKE", "is_distinct_from": "IS DISTINCT FROM", "is_not_distinct_from":
    "IS NOT DISTINCT FROM",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """A scalar function or operator. `and` and `or` take two or more arguments and follow SQL's three-valued logic."""

    function: str
    args: tuple[Expression, ...]

    def children(self) -> tuple[Expression, ...]:
        return self.args

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return replace(self, args=children)

    def __str__(self) -> str:
        if self.function in _INFIX and len(self.args) >= 2:
            return "(" + f" {_INFIX[self.function]} ".join(map(str, self.args)) + ")"
        if self.function == "not":
            return f"(NOT {self.args[0]})"
        if self.function in ("is_null", "is_not_null"):
            return f"({self.args[0]} {'IS NULL' if self.function == 'is_null' else 'IS NOT NULL'})"
        return f"{self.function}({', '.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    """CAST(operand AS type); `safe` is TRY_CAST: NULL where the value does not fit."""

    operand: Expression
    safe: bool = False

    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return replace(self, operand=children[0])

    def __str__(self) -> str:
        return f"{'TRY_CAST' if self.safe else 'CAST'}({self.operand} AS {self.type})"


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """The result of the first true condition, else `otherwise` (NULL literal if none was written).

    A branch is evaluated only for the rows that reach it: CASE WHEN b <> 0 THEN a / b END never divides by zero.
    """

    conditions: tuple[Expression, ...]
    results: tuple[Expression, ...]
    otherwise: Expression

    def children(self) -> tuple[Expression, ...]:
        return (*self.conditions, *self.results, self.otherwise)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        n = len(self.conditions)
        return replace(self, conditions=children[:n], results=children[n : 2 * n], otherwise=children[-1])

    def __str__(self) -> str:
        arms = " ".join(f"WHEN {c} THEN {r}" for c, r in zip(self.conditions, self.results, strict=True))
        return f"CASE {arms} ELSE {self.otherwise} END"


@dataclass(frozen=True, slots=True)
class InList(Expression):
    """operand [NOT] IN (literals of the operand's type). A NULL among them makes a non-match NULL."""

    operand: Expression
    values: tuple[Literal, ...]
    negated: bool = False

    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return replace(self, operand=children[0])

    def __str__(self) -> str:
        return f"({self.operand} {'NOT ' if self.negated else ''}IN ({', '.join(map(str, self.values))}))"


@dataclass(frozen=True, slots=True)
class SortKey:
    expression: Expression
    descending: bool = False
    nulls_first: bool = False

    def __str__(self) -> str:
        return f"{self.expression}{' DESC' if self.descending else ''}{' NULLS FIRST' if self.nulls_first else ''}"


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One aggregate of an Aggregate node: count_star, count, sum, avg, min, max, stddev_samp, ... of `args`.

    `order` is the order in which rows are aggregated, where that matters (string_agg, first, quantiles).
    """

    function: str
    args: tuple[Expression, ...]
    type: DataType
    distinct: bool = False
    filter: Expression | None = None
    order: tuple[SortKey, ...] = ()

    def expressions(self) -> Iterator[Expression]:
        """All it reads."""
        yield from self.args
        if self.filter is not None:
            yield self.filter
        for key in self.order:
            yield key.expression

    def map(self, change: Callable[[Expression], Expression]) -> Aggregation:
        """The aggregation with `change` applied to each of those; itself if nothing changes."""
        args = tuple(map(change, self.args))
        keep = None if self.filter is None else change(self.filter)
        order = tuple(replace(key, expression=change(key.expression)) for key in self.order)
        same = args == self.args and keep == self.filter and order == self.order
        return self if same else replace(self, args=args, filter=keep, order=order)

    def __str__(self) -> str:
        inner = "*" if self.function == "count_star" else ", ".join(map(str, self.args))
        if self.order:
            inner += f" ORDER BY {', '.join(map(str, self.order))}"
        name = "count" if self.function == "count_star" else self.function
        text = f"{name}({'DISTINCT ' if self.distinct else ''}{inner})"
        return text if self.filter is None else f"{text} FILTER (WHERE {self.filter})"


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and everything below it, parents first."""
    yield expression
    for child in expression.children():
        yield from walk(child)


def transform(expression: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """The expression rebuilt bottom-up with `change` applied to every node."""
    children = expression.children()
    if children:
        changed = tuple(transform(child, change) for child in children)
        if changed != children:
            expression = expression.with_children(changed)
    return change(expression)


def columns_of(expression: Expression) -> set[int]:
    """The input positions an expression reads."""
    return {node.index for node in walk(expression) if isinstance(node, ColumnRef)}


def remap(expression: Expression, position: dict[int, int]) -> Expression:
    """The expression over another input, old position -> new position."""

    def move(node: Expression) -> Expression:
        return replace(node, index=position[node.index]) if isinstance(node, ColumnRef) else node

    return transform(expression, move)


def substitute(expression: Expression, inputs: tuple[Expression, ...]) -> Expression:
    """The expression with each ColumnRef(i) replaced by inputs[i]: how a projection is merged into what it feeds."""
    return transform(expression, lambda node: inputs[node.index] if isinstance(node, ColumnRef) else node)
