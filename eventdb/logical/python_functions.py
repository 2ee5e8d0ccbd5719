"""Functions written in Python: what the binder knows of them, and their calls in a plan.

A function is itself (two are equal only if they are one object), so a plan that calls one holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eventdb.logical.expressions import Aggregation, Expression, walk
from eventdb.logical.types import common_type
from eventdb.schema import DataType, Schema


@dataclass(frozen=True, slots=True, eq=False)
class PythonFunction:
    """A scalar function. `arguments` are the types of its parameters, the last one's for all that follow if it
    `repeats`; at least `least` must be given.

    `vectorized`: it takes Arrow arrays of equal length and gives an array of that length, else it takes the values of
    a row. `sees_nulls`: it is called for rows with a NULL argument too, NULL otherwise. `null_on_error`: an exception
    is NULL. `volatile`: it may give another value for the same arguments.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[DataType, ...]
    returns: DataType
    least: int
    repeats: bool = False
    vectorized: bool = False
    sees_nulls: bool = False
    null_on_error: bool = False
    volatile: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PythonAggregate:
    """An aggregate. `factory` makes an object with step(*arguments) and finalize();
    or, if `whole`, it takes one list (Arrow array if `vectorized`) a parameter, of all rows of a group."""

    name: str
    factory: Callable[..., Any]
    arguments: tuple[DataType, ...]
    returns: DataType
    least: int
    repeats: bool = False
    whole: bool = False
    vectorized: bool = False
    sees_nulls: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PythonTable:
    """A table function: it takes values and gives rows of `schema`: anything FROM reads, or an iterable of rows."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[DataType, ...]
    schema: Schema
    least: int
    repeats: bool = False


Callee = PythonFunction | PythonAggregate | PythonTable


@dataclass(frozen=True, slots=True)
class PythonCall(Expression):
    """A call of a scalar function, the arguments in its types."""

    function: PythonFunction
    args: tuple[Expression, ...]

    def children(self) -> tuple[Expression, ...]:
        return self.args

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return replace(self, args=children)

    def __str__(self) -> str:
        return f"{self.function.name}({', '.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonAggregation(Aggregation):
    """An aggregation by a function written in Python."""

    aggregate: PythonAggregate


def resolve(callee: Callee, types: Sequence[DataType]) -> tuple[DataType, ...] | None:
    """The types that arguments of these types are cast to, None if they do not fit."""
    wanted = list(callee.arguments)
    if callee.repeats and len(types) > len(wanted):
        wanted += [wanted[-1]] * (len(types) - len(wanted))
    if not callee.least <= len(types) <= len(wanted):
        return None
    for type, target in zip(types, wanted, strict=False):
        both_decimal = type.name == target.name == "DECIMAL"
        if type != target and type.name != "NULL" and not both_decimal and common_type(type, target) != target:
            return None
    return tuple(wanted[: len(types)])


def signature(callee: Callee) -> str:
    """What it takes, for messages: `name(BIGINT, [VARCHAR])`."""
    shown = [str(t) if i < callee.least else f"[{t}]" for i, t in enumerate(callee.arguments)]
    return f"{callee.name}({', '.join(shown)}{', ...' if callee.repeats else ''})"


def calls_python(expression: Expression) -> bool:
    """Whether it calls a function written in Python: not to be computed twice."""
    return any(isinstance(node, PythonCall) for node in walk(expression))


Functions = Mapping[str, Callee]
