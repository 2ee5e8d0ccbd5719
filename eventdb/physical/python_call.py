"""Calls of functions and aggregates written in Python, over the rows of a frame or a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import FunctionError, SchemaMismatch
from eventdb.logical.python_functions import PythonAggregate, PythonCall, PythonFunction
from eventdb.physical.operands import joint_validity, null_column, stretch
from eventdb.schema import DataType

Node = Callable[[Any], Column]


def python_call(call: PythonCall, nodes: Sequence[Node]) -> Node:
    """The call as a function of frames. One row for all where nothing depends on the row."""
    function = call.function
    run = _vectorized if function.vectorized else _by_row

    def node(frame: Any) -> Column:
        columns = [argument(frame) for argument in nodes]
        same = not function.volatile and all(len(column) == 1 for column in columns)
        count = 1 if same else frame.row_count
        columns = [stretch(column, count) for column in columns]
        present = None if function.sees_nulls else joint_validity(columns, count)
        if present is None or present.all():
            return run(function, columns, count)
        rows = np.flatnonzero(present)
        if not len(rows):
            return null_column(function.returns, count)
        return _spread(run(function, [column.take(rows) for column in columns], len(rows)), rows, count)

    return node


def _spread(column: Column, rows: Array, count: int) -> Column:
    """The values at their rows, NULL between them."""
    values = np.zeros(count, dtype=column.values.dtype)
    values[rows] = column.values
    valid = np.zeros(count, dtype=bool)
    valid[rows] = True if column.validity is None else column.validity
    return Column(column.type, values, valid, column.dictionary)


def _by_row(function: PythonFunction, columns: Sequence[Column], count: int) -> Column:
    call = function.function
    rows = zip(*[column.to_pylist() for column in columns], strict=True) if columns else iter([()] * count)
    results: list[Any] = []
    for row in rows:
        try:
            results.append(call(*row))
        except Exception as error:
            if not function.null_on_error:
                raise failure(function.name, error, row, not function.volatile) from error
            results.append(None)
    return column_of(results, function.returns, function.name, not function.volatile)


def _vectorized(function: PythonFunction, columns: Sequence[Column], count: int) -> Column:
    from eventdb.arrow import array_of, column_from_arrow, column_to_arrow

    arrays = [column_to_arrow(column) for column in columns]
    try:
        result = function.function(*arrays)
    except Exception as error:
        raise failure(function.name, error, None, not function.volatile) from error
    repeatable = not function.volatile
    try:
        array = array_of(result)
    except (ValueError, TypeError) as error:
        raise FunctionError(f"{function.name}() gave no array: {error}", function.name, repeatable) from None
    if len(array) != count:
        raise FunctionError(f"{function.name}() gave {len(array)} values for {count} rows", function.name, repeatable)
    try:
        return column_from_arrow(array, function.returns, f"{function.name}()")
    except SchemaMismatch as error:
        raise FunctionError(str(error), function.name, repeatable) from None


def failure(name: str, error: Exception, row: Sequence[Any] | None, repeatable: bool) -> FunctionError:
    """What a function raised, with the arguments it was given."""
    shown = "..." if row is None else ", ".join(f"{value!r:.60}" for value in row)
    return FunctionError(f"{name}({shown}) raised {type(error).__name__}: {error}", name, repeatable, error)


def column_of(values: list[Any], type: DataType, name: str, repeatable: bool) -> Column:
    """A column of Python values. FunctionError naming the first that is none of the type."""
    from eventdb.external.python_values import column_of_values

    try:
        return column_of_values(values, type, name)
    except SchemaMismatch as error:
        what = f"{name}() returns {type}: it gave {error.value!r:.60} ({error.value.__class__.__name__})"
        raise FunctionError(f"{what}: {error}", name, repeatable) from None


def python_aggregate(
    aggregate: PythonAggregate, columns: Sequence[Column], starts: Sequence[int], stops: Sequence[int]
) -> Column:
    """The aggregate of each stretch [start, stop) of rows."""
    values = [_of_rows(aggregate, columns, start, stop) for start, stop in zip(starts, stops, strict=True)]
    return column_of(values, aggregate.returns, aggregate.name, True)


def _of_rows(aggregate: PythonAggregate, columns: Sequence[Column], start: int, stop: int) -> Any:
    from eventdb.arrow import column_to_arrow

    parts = [column.slice(start, stop) for column in columns]
    row: Sequence[Any] | None = None
    try:
        if aggregate.whole:
            return aggregate.factory(*map(column_to_arrow if aggregate.vectorized else Column.to_pylist, parts))
        state = aggregate.factory()
        for row in zip(*map(Column.to_pylist, parts), strict=True):
            state.step(*row)
        row = None
        return state.finalize()
    except Exception as error:
        raise failure(aggregate.name, error, row, True) from error
