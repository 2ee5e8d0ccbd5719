"""Kernels of DECIMAL where an argument or the result has more than 18 digits, by function name.

They compute with scaled integers: int64 while nothing can leave it, Python's otherwise (decimal_columns.py). A result
is right, or EvaluationError names the operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from eventdb.batch import Array, Column
from eventdb.decimal_columns import column_of_numbers, numbers_of
from eventdb.errors import EvaluationError, InternalError
from eventdb.logical.expressions import Call, Cast, Expression
from eventdb.logical.functions import as_decimal, cast_may_fail
from eventdb.physical.arithmetic import INT64_MAX, SYMBOLS, extremes
from eventdb.physical.decimal_arithmetic import decimal_range, outside, scale_down, scale_up, shown
from eventdb.physical.evaluate_numeric import NUMERIC
from eventdb.physical.operands import Kernel, KernelBuilder, first_bad, joint_validity, refuse, result_length
from eventdb.schema import BOOLEAN, DataType


def decimal_kernel(call: Call) -> KernelBuilder | None:
    """What computes a call with a wide argument or result; None for other calls. Functions that look at no more than
    order and equality have no kernel of their own."""
    if not call.type.is_wide and not any(arg.type.is_wide for arg in call.args):
        return None
    builder = _KERNELS.get(call.function)
    if builder is None:
        raise InternalError(f"no kernel of {call.function} for {', '.join(str(arg.type) for arg in call.args)}")
    return builder


def without_widening(call: Call) -> Call:
    """A comparison of wide numbers as one of what they were before they were widened: the kernel compares any two."""
    if call.function not in _COMPARE or not call.args[0].type.is_wide:
        return call
    return replace(call, args=tuple(map(_before_widening, call.args)))


def _before_widening(arg: Expression) -> Expression:
    if isinstance(arg, Cast) and as_decimal(arg.operand.type) and not cast_may_fail(arg.operand.type, arg.type):
        return arg.operand
    return arg


def fitted(type: DataType, numbers: Array, valid: Array | None, describe: Callable[[int], str]) -> Column:
    """The column of the numbers; EvaluationError '`describe(row)` is outside ...' where one has too many digits."""
    limit = 10**type.precision - 1
    bad = outside(numbers, limit)
    if bad is not None:
        row = first_bad(bad, valid)
        if row >= 0:
            raise EvaluationError(f"{type} overflow: {describe(row)} is outside {decimal_range(type)}")
        numbers = np.where(bad, 0, numbers)
    return column_of_numbers(type, numbers, valid)


def _operands(args: Sequence[Column]) -> tuple[Array, Array, Array | None]:
    """The numbers of two operands and where both are present."""
    return numbers_of(args[0]), numbers_of(args[1]), joint_validity(args, result_length(args))


# --- arithmetic ---------------------------------------------------------------------------------------------------


def _arithmetic(call: Call) -> Kernel:
    name, type = call.function, call.type
    apply: Callable[..., Array] = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[name]

    def run(args: Sequence[Column]) -> Column:
        left, right, valid = _operands(args)
        if name != "multiply":
            left, right = (scale_up(n, type.scale - c.type.scale) for n, c in zip((left, right), args, strict=True))
        if len(left) and len(right) and not _stays_narrow(name, left, right):
            left, right = left.astype(object), right.astype(object)
        numbers = apply(left, right)
        return fitted(type, numbers, valid, lambda row: f"{shown(args[0], row)} {SYMBOLS[name]} {shown(args[1], row)}")

    return run


def _stays_narrow(name: str, left: Array, right: Array) -> bool:
    if left.dtype == object or right.dtype == object:
        return False
    a, b = (max(-low, high) for low, high in (extremes(left), extremes(right)))
    return (a * b if name == "multiply" else a + b) <= INT64_MAX


def _modulo(call: Call) -> Kernel:
    type = call.type

    def run(args: Sequence[Column]) -> Column:
        left, right, valid = _operands(args)
        left, right = (scale_up(n, type.scale - c.type.scale) for n, c in zip((left, right), args, strict=True))
        zero = (right == 0).astype(bool)
        if zero.any():
            bad = zero if valid is None else np.broadcast_to(zero, valid.shape)
            if len(left):
                refuse(bad, valid, lambda row: (
                    f"division by zero: {shown(args[0], row)} is divided by 0; guard it, for example with CASE WHEN "
                    "divisor <> 0 THEN ... END or nullif(divisor, 0)"
                ))  # fmt: skip
            right = np.where(zero, 1, right)
        rest = np.abs(left) % np.abs(right)
        return column_of_numbers(type, np.where(left < 0, -rest, rest), valid)

    return run


def _of_one(apply: Callable[[Array, DataType], Array], word: str) -> KernelBuilder:
    """A function of one number, whose result is at the scale of the call's type."""

    def build(call: Call) -> Kernel:
        type, source = call.type, call.args[0].type

        def run(args: Sequence[Column]) -> Column:
            numbers = apply(numbers_of(args[0]), source)
            return fitted(type, numbers, args[0].validity, lambda row: f"{word} {shown(args[0], row)}")

        return run

    return build


def _sign(numbers: Array, source: DataType) -> Array:
    return scale_up((numbers > 0).astype(np.int64) - (numbers < 0).astype(np.int64), source.scale)


def _floor(numbers: Array, source: DataType) -> Array:
    unit = 10**source.scale
    if unit > INT64_MAX:
        numbers = numbers.astype(object)
    result: Array = numbers // unit
    return result


def _ceil(numbers: Array, source: DataType) -> Array:
    return -_floor(-numbers, source)


def _trunc(numbers: Array, source: DataType) -> Array:
    return np.where(numbers < 0, _ceil(numbers, source), _floor(numbers, source))


def _round_whole(numbers: Array, source: DataType) -> Array:
    return scale_down(numbers, source.scale)


def _round(call: Call) -> Kernel:
    if len(call.args) == 1:
        return _of_one(_round_whole, "round of")(call)
    type = call.type

    def run(args: Sequence[Column]) -> Column:
        numbers, valid = numbers_of(args[0]), joint_validity(args, result_length(args))
        digits = args[1].values
        result = np.broadcast_to(numbers, (result_length(args),)).astype(object)
        for places in np.unique(digits).tolist():
            drop = type.scale - places
            if drop <= 0:
                continue
            rows = slice(None) if len(digits) == 1 else digits == places
            if drop > type.precision:
                result[rows] = 0
            else:
                result[rows] = scale_down(result[rows], drop) * 10**drop
        return fitted(type, result, valid, lambda row: f"round of {shown(args[0], row)}")

    return run


# --- comparison ---------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[..., Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def compare_numbers(name: str, columns: Sequence[Column]) -> Column:
    """The comparison of two columns of numbers, each with its own digits and scale."""
    scale = max(column.type.scale for column in columns)
    left, right = (scale_up(numbers_of(column), scale - column.type.scale) for column in columns)
    values = _COMPARE[name](left, right).astype(bool, copy=False)
    return Column(BOOLEAN, values, joint_validity(columns, len(values)))


def _comparison(call: Call) -> Kernel:
    return lambda args: compare_numbers(call.function, args)


_KERNELS: dict[str, KernelBuilder] = {
    "add": _arithmetic, "subtract": _arithmetic, "multiply": _arithmetic, "modulo": _modulo,
    "negate": _of_one(lambda numbers, _: -numbers, "-"), "abs": _of_one(lambda numbers, _: np.abs(numbers), "abs of"),
    "sign": _of_one(_sign, "sign of"), "floor": _of_one(_floor, "floor of"), "ceil": _of_one(_ceil, "ceil of"),
    "trunc": _of_one(_trunc, "trunc of"), "round": _round,
    **dict.fromkeys(_COMPARE, _comparison),
    **{
        name: NUMERIC[name]
        for name in (
            "is_distinct_from", "is_not_distinct_from", "is_null", "is_not_null", "greatest", "least",
        )
    },
}  # fmt: skip
