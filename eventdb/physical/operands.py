"""What kernels share: operands of length n or 1, their validity, and errors that name the value.

A kernel takes its argument columns and returns one column. Every operand has as many rows as the batch, or exactly one
row when it is constant; NumPy broadcasts the two, and the result is constant when all operands are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, Literal
from eventdb.physical.grouping import factorize
from eventdb.schema import DataType
from eventdb.values import decode_value

Kernel = Callable[[Sequence[Column]], Column]
KernelBuilder = Callable[[Call], Kernel]

LEAST_DAY, GREATEST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
DAY_US = 86_400_000_000
LEAST_TIMESTAMP, GREATEST_TIMESTAMP = LEAST_DAY * DAY_US, (GREATEST_DAY + 1) * DAY_US - 1


def joint_validity(args: Sequence[Column], row_count: int) -> Array | None:
    """Where every argument is present, as long as the result; None when nothing is NULL."""
    valid: Array | None = None
    for arg in args:
        if arg.validity is not None:
            valid = arg.validity if valid is None else valid & arg.validity
    if valid is not None and len(valid) != row_count:
        valid = np.broadcast_to(valid, (row_count,))
    return valid


def result_length(args: Sequence[Column]) -> int:
    """Rows of the result: those of the operands that are not constant."""
    for arg in args:
        if len(arg) != 1:
            return len(arg)
    return 1


def stretch(column: Column, row_count: int) -> Column:
    """A constant column repeated to `row_count` rows; others as they are."""
    if len(column) == row_count:
        return column
    values = np.repeat(column.values, row_count)
    validity = None if column.validity is None else np.repeat(column.validity, row_count)
    return Column(column.type, values, validity, column.dictionary)


def constant(type: DataType, value: Any) -> Column:
    """One row holding a physical value, NULL for None."""
    validity = np.zeros(1, dtype=bool) if value is None else None
    if type.is_coded:
        empty: Any = "" if type.name == "VARCHAR" else b""
        return Column(type, np.zeros(1, np.int32), validity, Dictionary([empty if value is None else value]))
    return Column(type, np.array([0 if value is None else value], dtype=type.physical), validity)


def null_column(type: DataType, row_count: int) -> Column:
    """`row_count` NULLs."""
    dictionary = Dictionary(["" if type.name == "VARCHAR" else b""]) if type.is_coded else None
    return Column(type, np.zeros(row_count, dtype=type.physical), np.zeros(row_count, dtype=bool), dictionary)


def show(type: DataType, value: Any) -> str:
    """A physical value as a person writes it, for error messages; long texts are cut."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str | bytes) and not type.is_wide:
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:76]}...{text[0]}"
    try:
        found = decode_value(type, value)
        return f"{found:f}" if type.is_wide else str(found)
    except (OverflowError, ValueError):
        return str(value)


def first_bad(bad: Array, valid: Array | None) -> int:
    """The first row that is both bad and present, -1 if there is none."""
    if valid is not None:
        bad = bad & valid
    return int(np.argmax(bad)) if bad.any() else -1


def at(array: Array, row: int) -> Any:
    """The value of a row of an operand that may be constant."""
    return array[row if len(array) > 1 else 0]


def refuse(bad: Array, valid: Array | None, describe: Callable[[int], str]) -> None:
    """EvaluationError with describe(row) when a present row is bad."""
    row = first_bad(bad, valid)
    if row >= 0:
        raise EvaluationError(describe(row))


def plain(function: Callable[..., Array]) -> KernelBuilder:
    """A strict function of physical values that never raises."""

    def build(call: Call) -> Kernel:
        type = call.type

        def run(args: Sequence[Column]) -> Column:
            values = function(*[arg.values for arg in args])
            return Column(type, values, joint_validity(args, len(values)))

        return run

    return build


def literal_value(call: Call, position: int) -> Any:
    """The value of an argument the registry declares literal."""
    arg = call.args[position]
    if not isinstance(arg, Literal):
        raise EvaluationError(f"{call.function}: argument {position + 1} must be a constant, not {arg}")
    return arg.value


def python_values(column: Column, rows: Array) -> list[Any]:
    """Physical values of some rows as Python objects, None for NULL."""
    chosen = column.take(rows)
    raw: list[Any]
    if chosen.dictionary is None:
        raw = chosen.values.tolist()
    else:
        values = chosen.dictionary.values
        raw = [values[code] for code in chosen.values.tolist()] if values else [None] * len(chosen)
    if chosen.validity is None:
        return raw
    return [v if ok else None for v, ok in zip(raw, chosen.validity.tolist(), strict=True)]


def from_values(type: DataType, values: Sequence[Any]) -> Column:
    """A column of physical Python values; None is NULL."""
    if type.is_coded:
        return Column.encode(type, values)
    present = np.array([v is not None for v in values], dtype=bool)
    array = np.array([0 if v is None else v for v in values], dtype=type.physical)
    return Column(type, array, None if present.all() else present)


def map_distinct(
    function: Callable[..., Any], args: Sequence[Column], type: DataType, *, strict: bool = True
) -> Column:
    """function(values of the row) for every row, called once per distinct combination of arguments.

    strict: rows with a NULL argument give NULL without a call; otherwise the function sees None.
    """
    count = result_length(args)
    columns = [stretch(arg, count) for arg in args]
    valid = joint_validity(columns, count) if strict else None
    rows = np.arange(count) if valid is None or valid.all() else np.flatnonzero(valid)
    chosen = columns if len(rows) == count else [column.take(rows) for column in columns]
    groups = factorize(chosen, len(rows))
    inputs = [python_values(column, groups.first) for column in chosen]
    results = from_values(type, [function(*row) for row in zip(*inputs, strict=True)])
    if len(rows) == count:
        return results.take(groups.ids)
    positions = np.zeros(count, dtype=np.int64)
    positions[rows] = groups.ids
    if not groups.count:
        return null_column(type, count)
    spread = results.take(positions)
    assert valid is not None
    present = valid if spread.validity is None else valid & spread.validity
    return Column(type, spread.values, present, spread.dictionary)
