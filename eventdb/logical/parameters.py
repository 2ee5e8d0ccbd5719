"""Plans that hold for every value of their parameters.

While a statement is bound and simplified its parameters stand in it as Slots: literals that notice whether anybody asks
for their value. Where nobody did, only types decided what the plan looks like, and other values of the same types may
be filled in; where somebody did, the plan is for these values alone. What is done to a slot on the way (a cast to the
type of the column beside it) is noted, and done again to each value that is filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from eventdb.logical.expressions import Literal
from eventdb.schema import DataType

Fill = Callable[[Mapping[str, Literal]], Any]
"""Parameters by name -> what was made into a Fill, with their values in it. OtherPlan if one does not fit."""
Step = Callable[[Literal], Literal | None]


class OtherPlan(Exception):
    """A value leads to another plan than the one that was to be filled in: bind the statement with it."""


class Watch:
    """Whether the value of any slot of one bind was asked for."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = False


class Slot(Literal):
    """The place of a parameter that is not NULL, as a literal. Equal to a slot of the same parameter in the same type
    after the same steps, whatever the values."""

    __slots__ = ("_value", "parameter", "steps", "watch")

    _value: Any
    parameter: str
    steps: tuple[tuple[str, DataType, Step], ...]
    watch: Watch

    def __init__(
        self, literal: Literal, parameter: str, watch: Watch, steps: tuple[tuple[str, DataType, Step], ...] = ()
    ) -> None:
        for name, value in (("type", literal.type), ("_value", literal.value), ("parameter", parameter),
                            ("watch", watch), ("steps", steps)):  # fmt: skip
            object.__setattr__(self, name, value)

    @property
    def value(self) -> Any:
        self.watch.seen = True
        return self._value

    @property
    def is_null(self) -> bool:
        return False

    def _identity(self) -> tuple[Any, ...]:
        return self.type, self.parameter, tuple(step[:2] for step in self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def stepped(self, name: str, target: DataType, step: Step) -> Slot | None:
        """The slot after a step to `target`, one of a name for each function; None, which depends on the value, where
        the present value does not pass it."""
        result = step(Literal(self.type, self._value))
        if result is None:
            self.watch.seen = True
            return None
        return Slot(result, self.parameter, self.watch, (*self.steps, (name, target, step)))

    def filled(self, values: Mapping[str, Literal]) -> Literal:
        """The literal for these values. OtherPlan if a step refuses its value."""
        literal: Literal | None = values[self.parameter]
        for _, _, step in self.steps:
            assert literal is not None
            literal = step(literal)
            if literal is None:
                raise OtherPlan
        assert literal is not None
        return literal


def fill_of(node: Any, finish: Mapping[type, Callable[[Any], Any]] | None = None) -> Fill | None:
    """How to fill a statement, a plan, an expression or a tuple of such; None if no slot is in it. `finish` is called
    for each node of the given types that was filled in."""
    if isinstance(node, Slot):
        return node.filled
    if type(node) is tuple:
        parts = [(part, fill_of(part, finish)) for part in node]
        return _tuple_fill(parts) if any(fill is not None for _, fill in parts) else None
    if not is_dataclass(node) or isinstance(node, type):
        return None
    parts = [(part, fill_of(part, finish)) for part in (getattr(node, field.name) for field in fields(node))]
    if all(fill is None for _, fill in parts):
        return None
    kind, done = type(node), (finish or {}).get(type(node))
    arguments = _tuple_fill(parts)
    if done is None:
        return lambda values: kind(*arguments(values))
    return lambda values: done(kind(*arguments(values)))


def _tuple_fill(parts: list[tuple[Any, Fill | None]]) -> Callable[[Mapping[str, Literal]], tuple[Any, ...]]:
    kept = [part for part, _ in parts]
    places = [(i, fill) for i, (_, fill) in enumerate(parts) if fill is not None]

    def fill_in(values: Mapping[str, Literal]) -> tuple[Any, ...]:
        result = kept.copy()
        for i, fill in places:
            result[i] = fill(values)
        return tuple(result)

    return fill_in
