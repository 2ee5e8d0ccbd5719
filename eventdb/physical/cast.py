"""CAST and TRY_CAST: one kernel per pair of types. The rules are those of the function registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import EvaluationError, InternalError
from eventdb.physical.arithmetic import INT64_MAX, round_half_away, value_range
from eventdb.physical.cast_decimal import decimal_cast, decimal_text
from eventdb.physical.civil import DAY_US
from eventdb.physical.decimal_arithmetic import decimal_range
from eventdb.physical.dictionary_memo import DictionaryMemo
from eventdb.physical.operands import Kernel, at, first_bad, map_distinct, null_column, show
from eventdb.physical.text_values import EXPECTED, FORMATTERS, PARSERS, parse_decimal
from eventdb.schema import BOOLEAN, DataType
from eventdb.wide_decimals import pack

# values, valid -> values of the target and where they do not fit (None: they all do)
_Convert = Callable[[Array], tuple[Array, Array | None]]


def cast_kernel(source: DataType, target: DataType, safe: bool) -> Kernel:
    """The kernel of CAST(source AS target); safe: values that do not fit become NULL."""
    if source == target:
        return lambda args: args[0]
    if source.name == "NULL":
        return lambda args: null_column(target, len(args[0]))
    if source.is_wide:
        return decimal_text(source, target) if target.name == "VARCHAR" else decimal_cast(source, target, safe)
    if target.is_wide and source.name != "VARCHAR":
        return decimal_cast(source, target, safe)
    if source.is_coded:
        return _from_coded(source, target, safe)
    if target.name == "VARCHAR":
        formatter = FORMATTERS[source.name]
        return lambda args: map_distinct(lambda value: formatter(value, source), args, target)
    convert = _numeric(source, target)
    return _guarded(convert, source, target, safe)


def _guarded(convert: _Convert, source: DataType, target: DataType, safe: bool) -> Kernel:
    def run(args: Sequence[Column]) -> Column:
        column = args[0]
        valid = column.validity
        values, bad = convert(column.values)
        if bad is not None and bad.any():
            if safe:
                valid = ~bad if valid is None else valid & ~bad
            else:
                row = first_bad(bad, valid)
                if row >= 0:
                    raise EvaluationError(_misfit(source, target, at(column.values, row)))
        return Column(target, values, valid)

    return run


def _wrong_number(text: str, target: DataType) -> str:
    """What a text is not, '' if it is a number of the right kind, and so out of range."""
    try:
        number = Decimal(text.strip())
        whole = number == number.to_integral_value()
    except ArithmeticError:
        return "a number"
    return "a whole number" if target.is_integer and not whole else ""


def _misfit(source: DataType, target: DataType, value: Any) -> str:
    text = f"cannot cast {source} {show(source, value)} to {target}"
    wrong = _wrong_number(value, target) if source.name == "VARCHAR" and target.is_numeric else ""
    if wrong:
        text += f": {show(source, value)} is not {wrong}"
    elif target.is_wide:
        text += f": it must lie between {decimal_range(target).replace(' to ', ' and ')}"
    elif target.is_integer or target.name == "DECIMAL":
        low, high = value_range(target)
        text += f": it must lie between {show(target, low)} and {show(target, high)}"
    elif target.name in EXPECTED:
        text += f": expected {EXPECTED[target.name]}"
    return text + " (TRY_CAST gives NULL instead)"


# --- text ---------------------------------------------------------------------------------------------------------


def _from_coded(source: DataType, target: DataType, safe: bool) -> Kernel:
    if source.name == "BLOB":
        if target.name != "VARCHAR":
            raise InternalError(f"no cast from BLOB to {target}")
        parse: Callable[[Any], Any] = _decode
    elif target.name == "BLOB":
        parse = _encode
    elif target.is_wide:

        def parse(text: Any) -> Any:
            number = parse_decimal(text, target)
            return None if number is None else pack(number)
    else:
        parser = PARSERS[target.name]

        def parse(text: Any) -> Any:
            return parser(text, target)

    def strictly(value: Any) -> Any:
        result = parse(value)
        if result is None:
            raise EvaluationError(_misfit(source, target, value))
        return result

    memo = DictionaryMemo(parse if safe else strictly, target)
    return lambda args: memo(args[0])


def _decode(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- numbers and times --------------------------------------------------------------------------------------------


def _numeric(source: DataType, target: DataType) -> _Convert:
    if source.name == "DATE" and target.name == "TIMESTAMP":
        return lambda values: (values.astype(np.int64) * DAY_US, None)
    if source.name == "TIMESTAMP" and target.name == "DATE":
        return lambda values: ((values // DAY_US).astype(np.int32), None)
    if target == BOOLEAN:
        return lambda values: (values != 0, None)
    if source.is_float:
        return _from_float(target)
    if target.is_float:
        return _to_float(source, target)
    return _between_integers(source, target)


def _to_float(source: DataType, target: DataType) -> _Convert:
    dtype = np.dtype(target.physical)
    if source.name == "DECIMAL" and source.scale:
        unit = float(10**source.scale)
        return lambda values: ((values / unit).astype(dtype), None)
    return lambda values: (values.astype(dtype), None)


def _from_float(target: DataType) -> _Convert:
    dtype = np.dtype(target.physical)
    if target.is_float:

        def resize(values: Array) -> tuple[Array, Array | None]:
            result = values.astype(dtype)
            return result, np.isinf(result) & np.isfinite(values)

        return resize
    low, high = value_range(target)
    scale = 10.0**target.scale

    def convert(values: Array) -> tuple[Array, Array | None]:
        wide = values.astype(np.float64)
        if target.name == "DECIMAL":
            scaled = wide * scale
            whole = np.trunc(scaled)
            whole += np.copysign(np.abs(scaled - whole) >= 0.5, scaled)
        else:
            whole = np.rint(wide)
        # high + 1 is a power of two or of ten, which a float holds exactly; high itself it may not.
        bad = ~((whole > float(low - 1) if target.name == "DECIMAL" else whole >= low) & (whole < float(high + 1)))
        if bad.any():
            whole = np.where(bad, 0.0, whole)
        return whole.astype(dtype), bad

    return convert


def _between_integers(source: DataType, target: DataType) -> _Convert:
    """BOOLEAN, integers and DECIMAL among each other: rescale exactly, then check the range."""
    dtype = np.dtype(target.physical)
    low, high = value_range(target)
    shift = target.scale - source.scale
    unit = 10 ** abs(shift)

    def convert(values: Array) -> tuple[Array, Array | None]:
        wide = values.astype(np.int64, copy=False)
        if shift < 0:
            wide = round_half_away(wide, unit)
        elif shift > 0:
            bad = (wide < -(-low // unit)) | (wide > high // unit)
            if bad.any():
                return (np.where(bad, 0, wide) * np.int64(unit)).astype(dtype), bad
            return (wide * np.int64(unit)).astype(dtype), None
        if low <= -INT64_MAX - 1 and high >= INT64_MAX:
            return wide, None
        bad = (wide < low) | (wide > high)
        if bad.any():
            return np.where(bad, 0, wide).astype(dtype), bad
        return wide.astype(dtype, copy=False), None

    return convert
