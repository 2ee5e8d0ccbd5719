"""Kernels of arithmetic, comparison and math, by function name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, Literal
from eventdb.physical.arithmetic import (
    INT64_MIN,
    SYMBOLS,
    combine,
    divide_integers,
    extremes,
    fit,
    round_half_away,
    value_range,
)
from eventdb.physical.dictionary_memo import DictionaryMemo, DictionaryUnion
from eventdb.physical.grouping import shared_codes
from eventdb.physical.operands import (
    Kernel,
    KernelBuilder,
    at,
    constant,
    first_bad,
    joint_validity,
    plain,
    refuse,
    result_length,
    show,
    stretch,
)
from eventdb.physical.ordering import order_values, rank_codes
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, INTERVAL, TIMESTAMP, DataType

# --- arithmetic ---------------------------------------------------------------------------------------------------


def _arithmetic(call: Call) -> Kernel:
    """add, subtract, multiply of numbers, DATE, TIMESTAMP and INTERVAL."""
    operation, type = call.function, call.type
    types = (call.args[0].type, call.args[1].type)
    if type.is_float:
        return plain({"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[operation])(call)
    if operation == "multiply" and type.name == "INTERVAL" and types[1].is_float:
        return _scale_interval(call)

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        valid = joint_validity(args, result_length(args))
        values = combine(operation, left.values, right.values, valid, type, types)
        return Column(type, values, valid)

    return run


def _scale_interval(call: Call) -> Kernel:
    """INTERVAL * DOUBLE and INTERVAL / DOUBLE, rounded half to even."""
    symbol = SYMBOLS[call.function]
    divide = call.function == "divide"

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        valid = joint_validity(args, result_length(args))
        if divide:
            _refuse_zero(left, right, valid)
        exact = left.values / right.values if divide else left.values * right.values
        values = np.rint(exact)
        bad = ~((values >= -(2.0**63)) & (values < 2.0**63))
        if bad.any():
            refuse(bad, valid, lambda row: f"INTERVAL overflow: {show(INTERVAL, at(left.values, row))} {symbol} "
                                           f"{at(right.values, row)} is no interval")  # fmt: skip
            values = np.where(bad, 0.0, values)
        return Column(INTERVAL, values.astype(np.int64), valid)

    return run


def _refuse_zero(left: Column, right: Column, valid: Array | None) -> Array:
    """Where the divisor is zero (on NULL rows only); EvaluationError if a present row divides by zero."""
    zero = right.values == 0
    if zero.any():
        bad = zero if valid is None or len(zero) == len(valid) else np.broadcast_to(zero, valid.shape)
        row = first_bad(bad, valid)
        if row >= 0 and len(left):
            raise EvaluationError(
                f"division by zero: {show(left.type, at(left.values, row))} is divided by 0; guard it, for example "
                "with CASE WHEN divisor <> 0 THEN ... END or nullif(divisor, 0)"
            )
    return np.asarray(zero)


def _divide(call: Call) -> Kernel:
    type = call.type
    if type.name == "INTERVAL":
        return _scale_interval(call)

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        valid = joint_validity(args, result_length(args))
        zero = _refuse_zero(left, right, valid)
        if type.is_float:
            return Column(type, left.values / right.values, valid)
        divisor = np.where(zero, 1, right.values).astype(right.values.dtype) if zero.any() else right.values
        if (divisor == -1).any():
            low = value_range(type)[0]
            bad = (left.values == low) & (divisor == -1)
            refuse(bad, valid, lambda row: f"{type} overflow: {low} / -1 is outside the range of {type}")
            divisor = np.where(bad, 1, divisor).astype(right.values.dtype)
        return Column(type, divide_integers(left.values, divisor), valid)

    return run


def _modulo(call: Call) -> Kernel:
    type = call.type

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        valid = joint_validity(args, result_length(args))
        zero = _refuse_zero(left, right, valid)
        divisor = right.values
        if not type.is_float:
            # A remainder by -1 is 0, but the least integer by -1 traps in the processor.
            divisor = np.where(zero | (divisor == -1), 1, divisor).astype(divisor.dtype)
        return Column(type, np.fmod(left.values, divisor), valid)

    return run


def _negate(call: Call) -> Kernel:
    return _flip(call, np.negative, "-")


def _absolute(call: Call) -> Kernel:
    return _flip(call, np.abs, "abs of ")


def _flip(call: Call, apply: Callable[[Array], Array], word: str) -> Kernel:
    """negate and abs: the least integer has no counterpart."""
    type = call.type
    low = value_range(type)[0]
    trap = not type.is_float and low == np.iinfo(np.dtype(type.physical)).min

    def run(args: Sequence[Column]) -> Column:
        values, valid = args[0].values, args[0].validity
        if trap:
            bad = values == low
            if bad.any():
                least = show(type, low)
                refuse(bad, valid, lambda row: f"{type} overflow: {word}{least} is outside the range of {type}")
                values = np.where(bad, 0, values).astype(values.dtype)
        return Column(type, apply(values), valid)

    return run


# --- comparison ---------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[..., Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_PYTHON_COMPARE = {name: getattr(operator, name) for name in _COMPARE}
_MIRROR = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def compare_columns(name: str, left: Column, right: Column) -> Array:
    """The comparison of two columns row by row, NULLs ignored. Strings by code point."""
    if left.dictionary is None:
        result: Array = _COMPARE[name](left.values, right.values)
        return result
    if name in ("eq", "ne"):
        a, b = shared_codes(left, right)
    else:
        a, b = rank_codes([left, right])
    return np.asarray(_COMPARE[name](a, b))


def _comparison(call: Call) -> Kernel:
    name = call.function
    first, second = call.args
    if first.type.is_coded and isinstance(second, Literal) and second.value is not None:
        return _against(name, second.value, 0)
    if first.type.is_coded and isinstance(first, Literal) and first.value is not None:
        return _against(_MIRROR[name], first.value, 1)
    compare = _COMPARE[name]
    coded = first.type.is_coded

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        values = compare_columns(name, left, right) if coded else compare(left.values, right.values)
        return Column(BOOLEAN, values, joint_validity(args, len(values)))

    return run


def _against(name: str, value: object, position: int) -> Kernel:
    """A string column against a constant."""
    if name in ("eq", "ne"):
        compare_codes = _COMPARE[name]

        def run(args: Sequence[Column]) -> Column:
            column = args[position]
            assert column.dictionary is not None
            return Column(BOOLEAN, compare_codes(column.values, column.dictionary.code_of(value)), column.validity)

        return run
    compare = _PYTHON_COMPARE[name]
    memo = DictionaryMemo(lambda other: compare(other, value), BOOLEAN)
    return lambda args: memo(args[position])


def _distinctness(call: Call) -> Kernel:
    equal_wanted = call.function == "is_not_distinct_from"

    def run(args: Sequence[Column]) -> Column:
        left, right = args
        count = result_length(args)
        equal = np.broadcast_to(compare_columns("eq", left, right), (count,))
        if left.validity is not None or right.validity is not None:
            a, b = (np.ones(1, bool) if c.validity is None else c.validity for c in args)
            equal = np.broadcast_to((a & b & equal) | (~a & ~b), (count,))
        return Column(BOOLEAN, equal if equal_wanted else ~equal)

    return run


def _not(call: Call) -> Kernel:
    return lambda args: Column(BOOLEAN, ~args[0].values, args[0].validity)


def _is_null(call: Call) -> Kernel:
    wanted = call.function == "is_null"

    def run(args: Sequence[Column]) -> Column:
        valid = args[0].validity
        if args[0].type.name == "NULL":
            return Column(BOOLEAN, np.full(len(args[0]), wanted))
        if valid is None:
            return Column(BOOLEAN, np.full(len(args[0]), not wanted))
        return Column(BOOLEAN, ~valid if wanted else valid)

    return run


def _extreme(call: Call) -> Kernel:
    """greatest and least: NULLs are skipped, NaN is the greatest."""
    type = call.type
    largest = call.function == "greatest"
    union = DictionaryUnion(type) if type.is_coded else None

    def run(args: Sequence[Column]) -> Column:
        count = result_length(args)
        columns = [stretch(arg, count) for arg in args]
        if union is not None:
            columns = union(columns)
        best = columns[0]
        for other in columns[1:]:
            a, b = rank_codes([best, other]) if union is not None else (order_values(best), order_values(other))
            take = b > a if largest else b < a
            if best.validity is not None or other.validity is not None:
                here, there = ~best.is_null(), ~other.is_null()
                take = there & (take | ~here)
                valid: Array | None = here | there
            else:
                valid = None
            best = Column(type, np.where(take, other.values, best.values), valid, best.dictionary)
        return best

    return run


# --- rounding -----------------------------------------------------------------------------------------------------


def round_floats(values: Array) -> Array:
    """Halves away from zero; exact for every float (x + 0.5 would round 0.49999999999999994 up)."""
    whole = np.trunc(values)
    up = np.abs(values - whole) >= 0.5
    return np.where(up, whole + np.copysign(values.dtype.type(1), values), whole)


_WHOLE_FLOAT: dict[str, Callable[..., Array]] = {
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": round_floats,
}  # fmt: skip


def _whole(call: Call) -> Kernel:
    """floor, ceil, trunc and round without digits."""
    name, type = call.function, call.type
    source = call.args[0].type
    if source.is_float:
        return plain(_WHOLE_FLOAT[name])(call)
    if source.is_integer:
        return lambda args: args[0]
    unit = 10**source.scale

    def run(args: Sequence[Column]) -> Column:
        values, valid = args[0].values, args[0].validity
        if name == "round":
            result = round_half_away(values, unit)
        else:
            result = values // unit
            if name != "floor":
                inexact = result * unit != values
                result = result + (inexact & (values < 0) if name == "trunc" else inexact)
        return Column(type, fit(result, valid, type, name + " of", values, source), valid)

    return run


def _round(call: Call) -> Kernel:
    if len(call.args) == 1:
        return _whole(call)
    type = call.type

    def run(args: Sequence[Column]) -> Column:
        column, digits = args
        count = result_length(args)
        valid = joint_validity(args, count)
        if len(digits) == 1:
            values = _round_to(type, column.values, int(digits.values[0]), valid)
        else:
            source = stretch(column, count)
            values = np.zeros(count, dtype=type.physical)
            for places in np.unique(digits.values).tolist():
                rows = np.flatnonzero(digits.values == places)
                values[rows] = _round_to(type, source.values[rows], places, None if valid is None else valid[rows])
        return Column(type, values, valid)

    return run


def _round_to(type: DataType, values: Array, places: int, valid: Array | None) -> Array:
    """`values` rounded to decimal places (negative: before the point), in the same type."""
    if type.is_float:
        return _round_floats_to(values, places)
    drop = type.scale - places
    if drop <= 0:
        return values
    if drop > 19:
        return np.zeros_like(values)
    unit = 10**drop
    quotient = round_half_away(values.astype(np.int64, copy=False), unit)
    if not len(quotient):
        return values
    limit = max(abs(v) for v in extremes(quotient)) * unit
    if limit <= value_range(type)[1]:
        return (quotient * np.int64(unit)).astype(values.dtype) if unit < 2**63 else np.zeros_like(values)
    low, high = value_range(type)
    least, greatest = -(-low // unit), high // unit
    bad = (quotient < least) | (quotient > greatest)
    refuse(bad, valid, lambda row: f"round({show(type, at(values, row))}, {places}) is outside the range of {type}")
    if unit >= 2**63:
        return np.zeros_like(values)
    return (np.where(bad, 0, quotient) * np.int64(unit)).astype(values.dtype)


def _round_floats_to(values: Array, places: int) -> Array:
    """value * 10**places rounded and divided again in float64; values that would overflow are returned as they are."""
    if places == 0:
        return round_floats(values)
    wide = values.astype(np.float64)
    unit = 10.0 ** min(abs(places), 308)
    scaled = wide * unit if places > 0 else wide / unit
    rounded = round_floats(scaled)
    back = rounded / unit if places > 0 else rounded * unit
    result = np.where(np.isfinite(scaled), back, wide)
    return result.astype(values.dtype, copy=False)


# --- functions of floats ------------------------------------------------------------------------------------------


def _sign(call: Call) -> Kernel:
    type = call.type
    if type.name == "DECIMAL":
        unit = 10**type.scale
        if type.scale == type.precision:
            return _sign_fraction(type)
        return plain(lambda values: np.sign(values) * unit)(call)
    return plain(np.sign)(call)


def _sign_fraction(type: DataType) -> Kernel:
    """DECIMAL(p,p) cannot hold 1."""

    def run(args: Sequence[Column]) -> Column:
        values, valid = args[0].values, args[0].validity
        refuse(values != 0, valid, lambda row: f"sign of {show(type, values[row])} does not fit {type}")
        return Column(type, np.zeros_like(values), valid)

    return run


def _guarded(apply: Callable[[Array], Array], bad: Callable[[Array], Array], rule: str) -> KernelBuilder:
    """A function of one DOUBLE that raises where `bad`."""

    def build(call: Call) -> Kernel:
        name = call.function

        def run(args: Sequence[Column]) -> Column:
            values, valid = args[0].values, args[0].validity
            wrong = bad(values)
            if wrong.any():
                refuse(wrong, valid, lambda row: f"{name}({at(values, row)}): {rule}")
            return Column(DOUBLE, apply(values), valid)

        return run

    return build


def _power(call: Call) -> Kernel:
    def run(args: Sequence[Column]) -> Column:
        base, exponent = args[0].values, args[1].values
        values = np.power(base, exponent)
        valid = joint_validity(args, len(values))
        bad = (np.isnan(values) & ~np.isnan(base) & ~np.isnan(exponent)) | ((base == 0) & (exponent < 0))
        if bad.any():
            refuse(bad, valid, lambda row: f"power({at(base, row)}, {at(exponent, row)}) is not a number")
        return Column(DOUBLE, values, valid)

    return run


def _to_boolean(apply: Callable[[Array], Array]) -> KernelBuilder:
    return lambda call: lambda args: Column(BOOLEAN, apply(args[0].values), args[0].validity)


# --- epoch and interval numbers -----------------------------------------------------------------------------------


def _epoch(call: Call) -> Kernel:
    return plain(lambda us: us / 1e6)(call)


def _epoch_ms(call: Call) -> Kernel:
    return plain(lambda us: us // 1000)(call)


def _epoch_us(call: Call) -> Kernel:
    return lambda args: Column(BIGINT, args[0].values, args[0].validity)


def _to_timestamp(call: Call) -> Kernel:
    def run(args: Sequence[Column]) -> Column:
        seconds, valid = args[0].values, args[0].validity
        us = np.rint(seconds * 1e6)
        low, high = value_range(TIMESTAMP)
        bad = ~((us >= low) & (us <= high))
        if bad.any():
            refuse(bad, valid, lambda row: f"to_timestamp({at(seconds, row)}) is outside years 1 to 9999")
            us = np.where(bad, 0.0, us)
        return Column(TIMESTAMP, us.astype(np.int64), valid)

    return run


NUMERIC: dict[str, KernelBuilder] = {
    "add": _arithmetic, "subtract": _arithmetic, "multiply": _arithmetic, "divide": _divide, "modulo": _modulo,
    "negate": _negate, "abs": _absolute, "sign": _sign,
    **dict.fromkeys(_COMPARE, _comparison),
    "is_distinct_from": _distinctness, "is_not_distinct_from": _distinctness,
    "not": _not, "is_null": _is_null, "is_not_null": _is_null,
    "greatest": _extreme, "least": _extreme,
    "floor": _whole, "ceil": _whole, "trunc": _whole, "round": _round,
    "sqrt": _guarded(np.sqrt, lambda v: v < 0, "the argument must not be negative"),
    "power": _power, "exp": plain(np.exp),
    "ln": _guarded(np.log, lambda v: v <= 0, "the argument must be greater than zero"),
    "log10": _guarded(np.log10, lambda v: v <= 0, "the argument must be greater than zero"),
    "log2": _guarded(np.log2, lambda v: v <= 0, "the argument must be greater than zero"),
    "sin": plain(np.sin), "cos": plain(np.cos), "tan": plain(np.tan),
    "asin": _guarded(np.arcsin, lambda v: np.abs(v) > 1, "the argument must be between -1 and 1"),
    "acos": _guarded(np.arccos, lambda v: np.abs(v) > 1, "the argument must be between -1 and 1"),
    "atan": plain(np.arctan), "atan2": plain(np.arctan2),
    "isnan": _to_boolean(np.isnan), "isfinite": _to_boolean(np.isfinite),
    "epoch": _epoch, "epoch_ms": _epoch_ms, "epoch_us": _epoch_us, "to_timestamp": _to_timestamp,
}  # fmt: skip

__all__ = ["INT64_MIN", "NUMERIC", "compare_columns", "constant", "round_floats"]
