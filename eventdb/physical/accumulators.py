"""The accumulator of each aggregate of the registry, and aggregates over distinct values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import InternalError
from eventdb.logical.expressions import Aggregation
from eventdb.physical.accumulate_numbers import (
    CountAccumulator,
    FoldAccumulator,
    SpreadAccumulator,
    SumDecimals,
    SumFloats,
    SumIntegers,
)
from eventdb.physical.accumulate_values import ExtremeAccumulator, PositionAccumulator, TextExtreme
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.operands import from_values
from eventdb.schema import BIGINT, BOOLEAN, DataType

_NAN = math.nan


def canonical(value: Any) -> Any:
    """A physical value that equals itself in sets and dictionaries: one NaN, one zero."""
    if isinstance(value, float):
        return _NAN if value != value else value + 0.0
    return value


class DistinctAccumulator(Accumulator):
    """count, sum, avg and spreads over distinct values: each slot holds the set of its values."""

    dtypes = (object,)

    def __init__(self, type: DataType, argument: DataType, function: str) -> None:
        super().__init__(type, argument)
        self.function = function

    def empty(self) -> Sequence[Any]:
        return (None,)

    def _values(self, column: Column | None) -> list[Any]:
        assert column is not None
        assert self.argument is not None
        values: list[Any] = column.decoded().tolist() if column.dictionary is not None else column.values.tolist()
        return [canonical(v) for v in values] if self.argument.is_float else values

    def add(self, slot: int, column: Column | None, row_count: int) -> None:
        held = self.arrays[0]
        if held[slot] is None:
            held[slot] = set()
        held[slot].update(self._values(column))

    def reduce(self, ids: Array, count: int, column: Column | None, row_count: int) -> list[Array]:
        sets: Array = np.full(count, None, dtype=object)
        for group, value in set(zip(ids.tolist(), self._values(column), strict=True)):
            if sets[group] is None:
                sets[group] = set()
            sets[group].add(value)
        return [sets]

    def combine(self, slots: Array, partial: Sequence[Array]) -> None:
        held = self.arrays[0]
        for slot, values in zip(slots.tolist(), partial[0], strict=True):
            if values is None:
                continue
            if held[slot] is None:
                held[slot] = set(values)
            else:
                held[slot] |= values

    def result(self, slots: Array) -> Column:
        assert self.argument is not None
        sets = [() if values is None else values for values in self.arrays[0][slots]]
        if self.function == "count":
            return Column(BIGINT, np.array([len(values) for values in sets], dtype=np.int64))
        inner = accumulator(self.function, self.type, self.argument)
        inner.resize(len(sets))
        ids = np.repeat(np.arange(len(sets)), [len(values) for values in sets])
        members = [value for values in sets for value in sorted(values)]
        if members:
            column = from_values(self.argument, members)
            inner.update(np.arange(len(sets)), ids if len(sets) > 1 else None, column, len(members))
        return inner.result(np.arange(len(sets)))

    def dump(self, slot: int) -> list[Any]:
        values = self.arrays[0][slot]
        return [None if values is None else tuple(sorted(values))]

    def load(self, slot: int, values: Sequence[Any]) -> None:
        self.arrays[0][slot] = None if values[0] is None else {canonical(v) for v in values[0]}

    @property
    def nbytes(self) -> int:
        return sum(100 * len(values) for values in self.arrays[0] if values is not None) if self.arrays else 0


_SPREADS = ("stddev_samp", "stddev_pop", "var_samp", "var_pop")
_SAME_WHEN_DISTINCT = ("min", "max", "bool_and", "bool_or", "first", "last", "any_value", "bit_and", "bit_or")


def accumulator(function: str, type: DataType, argument: DataType | None, distinct: bool = False) -> Accumulator:
    """A fresh accumulator without slots."""
    if function in ("count_star", "count") and not distinct:
        return CountAccumulator(type, argument)
    assert argument is not None
    if distinct and function not in _SAME_WHEN_DISTINCT:
        return DistinctAccumulator(type, argument, function)
    if function in ("sum", "avg"):
        kind = SumFloats if argument.is_float else SumDecimals if argument.is_wide else SumIntegers
        return kind(type, argument, function == "avg")
    if function in _SPREADS:
        return SpreadAccumulator(type, argument, function)
    if function in ("min", "max"):
        extreme = TextExtreme if type.is_coded else ExtremeAccumulator
        return extreme(type, argument, function == "max")
    if function in ("bit_and", "bit_or", "bit_xor", "product"):
        return FoldAccumulator(type, argument, function)
    if function in ("bool_and", "bool_or"):
        return ExtremeAccumulator(BOOLEAN, argument, function == "bool_or")
    if function in ("first", "last", "any_value"):
        return PositionAccumulator(type, argument, function)
    raise InternalError(f"no accumulator for aggregate {function}")


def is_distinct_set(aggregation: Aggregation) -> bool:
    """Whether DISTINCT changes the aggregation's value, so that the distinct values must be kept."""
    return aggregation.distinct and aggregation.function not in _SAME_WHEN_DISTINCT


def accumulator_of(aggregation: Aggregation) -> Accumulator:
    argument = aggregation.args[0].type if aggregation.args else None
    return accumulator(aggregation.function, aggregation.type, argument, aggregation.distinct)
