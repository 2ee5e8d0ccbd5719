"""Values known at plan time: text to values, casts and operators of literals, exactly as the executions do them.

Everything here is pure Python over physical values (see expressions.py). What cannot be computed safely is left to the
execution: the functions return None instead of raising, so an expression that no row reaches never fails at plan time.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

from eventdb.logical.expressions import Call, Expression, Literal
from eventdb.logical.parameters import Slot
from eventdb.schema import BOOLEAN, INTEGER_RANGES, DataType
from eventdb.values import date_to_days, datetime_to_us, days_to_date, us_to_datetime
from eventdb.wide_decimals import pack, unpack

DAY_US = 86_400_000_000

_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]\s*(\d{1,2}):(\d{2})"
    r"(?::(\d{2})(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.IGNORECASE,
)
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))
_EXACT = Context(prec=80)


def parse_date_days(text: str) -> int | None:
    """Days since 1970-01-01 of YYYY-MM-DD, None if it is no date."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return date_to_days(dt.date(*map(int, match.groups())))
    except ValueError:
        return None


def parse_timestamp_us(text: str) -> int | None:
    """Microseconds since 1970-01-01 UTC of an ISO date or timestamp (no zone = UTC), None if it is none."""
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = dt.datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
    except ValueError:
        return None
    us = datetime_to_us(moment) + int(((fraction or "") + "000000")[:6])
    if zone and zone not in "zZ":
        digits = zone[1:].replace(":", "")
        offset = int(digits[:2]) * 60 + int(digits[2:] or 0)
        us -= (offset if zone[0] == "+" else -offset) * 60_000_000
    return us


def cast_literal(literal: Literal, target: DataType) -> Literal | None:
    """The literal in another type as CAST gives it; None if the value does not fit or the cast is left to execution."""
    if literal.type == target:
        return literal
    if isinstance(literal, Slot):
        return literal.stepped("cast", target, lambda found: cast_literal(found, target))
    if literal.value is None or literal.type.name == "NULL":
        return Literal(target, None)
    try:
        value = _cast(literal.value, literal.type, target)
    except (ValueError, OverflowError, InvalidOperation, ArithmeticError):
        return None
    return None if value is None else Literal(target, value)


def exact_literal(literal: Literal, target: DataType) -> Literal | None:
    """The literal in another type if that changes no value, else None."""
    if literal.type != target and isinstance(literal, Slot):
        return literal.stepped("exact", target, lambda found: exact_literal(found, target))
    exact = cast_literal(literal, target)
    return exact if exact is not None and cast_literal(exact, literal.type) == literal else None


def _cast(value: Any, source: DataType, target: DataType) -> Any:
    name = target.name
    if source.is_wide:
        value = unpack(value)
    if name == "VARCHAR":
        return _to_text(value, source)
    if source.name == "VARCHAR":
        return _from_text(value.strip() if name != "BLOB" else value, target)
    if name in ("DATE", "TIMESTAMP"):
        if source.name == "DATE" and name == "TIMESTAMP":
            return value * DAY_US
        return value // DAY_US if source.name == "TIMESTAMP" and name == "DATE" else None
    if not (source.is_numeric or source.name == "BOOLEAN") or not (target.is_numeric or name == "BOOLEAN"):
        return None
    if name == "BOOLEAN":
        return value != 0
    number: int | float | Decimal = Decimal(value).scaleb(-source.scale, _EXACT) if source.name == "DECIMAL" else value
    if source.name == "BOOLEAN":
        number = int(value)
    if target.is_wide and source.is_float:
        if source.name == "FLOAT" or not math.isfinite(value):
            return None
        number = Decimal(repr(value))
    return _to_number(number, target)


def _to_number(number: int | float | Decimal, target: DataType) -> int | float | bytes | None:
    """ValueError or OverflowError if it does not fit."""
    if target.is_float:
        result = float(number)
        if target.name == "FLOAT":
            import struct

            result = struct.unpack("f", struct.pack("f", result))[0]
        return result
    if isinstance(number, float) and not math.isfinite(number):
        raise OverflowError
    if target.name == "DECIMAL":
        scaled = int(
            Decimal(number).scaleb(target.scale, _EXACT).quantize(Decimal(1), rounding=ROUND_HALF_UP, context=_EXACT)
        )
        if abs(scaled) >= 10**target.precision:
            raise OverflowError
        return pack(scaled) if target.is_wide else scaled
    if isinstance(number, Decimal):
        whole = int(number.quantize(Decimal(1), rounding=ROUND_HALF_UP, context=_EXACT))
    else:
        whole = round(number)
    low, high = INTEGER_RANGES[target.name]
    if not low <= whole <= high:
        raise OverflowError
    return whole


def _to_text(value: Any, source: DataType) -> str | None:
    name = source.name
    if name == "BOOLEAN":
        return "true" if value else "false"
    if name == "DECIMAL":
        return f"{Decimal(value).scaleb(-source.scale, _EXACT):f}"
    if name == "DATE":
        return days_to_date(value).isoformat()
    if name == "TIMESTAMP":
        moment = us_to_datetime(value)
        text = moment.strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0")
        return f"{text}.{moment.microsecond:06d}".rstrip("0") if moment.microsecond else text
    if source.is_integer or name == "DOUBLE":
        return str(value)
    if name == "BLOB":
        return bytes(value).decode()
    return None


def _from_text(text: str, target: DataType) -> Any:
    name = target.name
    if name == "TIMESTAMP":
        return parse_timestamp_us(text)
    if name == "DATE":
        days = parse_date_days(text)
        if days is None:
            us = parse_timestamp_us(text)
            days = None if us is None else us // DAY_US
        return days
    if name == "BOOLEAN":
        lowered = text.lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else None
    if name == "BLOB":
        return text.encode()
    if "_" in text or not text:
        return None
    if target.is_integer:
        return _to_number(int(text), target)
    if target.is_float:
        return _to_number(float(text), target)
    if name == "DECIMAL":
        number = Decimal(text)
        return _to_number(number, target) if number.is_finite() else None
    return None


# --- operators of literals ----------------------------------------------------------------------------------------


def _truncated_quotient(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
}


def fold_call(call: Call) -> Expression | None:
    """The literal an operator of literals always gives, None if it is left to the execution (or would raise there)."""
    args = call.args
    if call.function in ("is_null", "is_not_null") and isinstance(args[0], Literal):
        return Literal(BOOLEAN, args[0].is_null == (call.function == "is_null"))
    literals = [arg for arg in args if isinstance(arg, Literal)]
    if len(literals) != len(args) or not literals:
        return None
    values = [literal.value for literal in literals]
    strict = call.function in _COMPARE or call.function in _ARITHMETIC or call.function in _STRICT
    if not strict:
        return None
    if any(value is None for value in values):
        return Literal(call.type, None)
    if call.function in _COMPARE and literals[0].type.name != "INTERVAL":
        return Literal(BOOLEAN, _COMPARE[call.function](values[0], values[1]))
    if call.function == "not":
        return Literal(BOOLEAN, not values[0])
    return _fold_arithmetic(call, literals, values)


_STRICT = frozenset(("not", "negate", "divide", "modulo"))


def _fold_arithmetic(call: Call, literals: list[Literal], values: list[Any]) -> Literal | None:
    type = call.type
    if not type.is_numeric or any(literal.type.is_numeric is False for literal in literals):
        return None
    result: Any
    if type.is_wide or any(literal.type.is_wide for literal in literals):
        return Literal(type, pack(-unpack(values[0]))) if call.function == "negate" else None
    if call.function == "negate":
        result = -values[0]
    elif call.function in ("divide", "modulo"):
        if values[1] == 0:
            return None
        if type.is_float:
            result = values[0] / values[1] if call.function == "divide" else math.fmod(values[0], values[1])
        else:
            quotient = _truncated_quotient(values[0], values[1])
            result = quotient if call.function == "divide" else values[0] - quotient * values[1]
    else:
        result = _ARITHMETIC[call.function](values[0], values[1])
    if type.name == "FLOAT":
        return None
    if type.is_integer:
        low, high = INTEGER_RANGES[type.name]
        if not low <= result <= high:
            return None
    elif type.name == "DECIMAL" and abs(result) >= 10**type.precision:
        return None
    return Literal(type, result)
