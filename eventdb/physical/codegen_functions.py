"""Scalar functions and casts as lines of a generated pipeline. A name that is missing here is not generated.

Where a value could break an expression the row is marked bad, sometimes more widely than needed (a result outside the
years 1 to 9999): the interpreted engine then looks at the morsel and decides.
"""

from __future__ import annotations

from collections.abc import Callable

from eventdb.logical.expressions import Call, Cast, Expression, Literal
from eventdb.physical.arithmetic import value_range
from eventdb.physical.codegen import CannotCompile, Value, integer_text, register_kind
from eventdb.physical.codegen_expression import DAY_US, SECOND_US, UNIT_US, ExpressionWriter
from eventdb.schema import DataType

Writer = Callable[[ExpressionWriter, Call], Value]


def write_fixed(writer: ExpressionWriter, code: str, type: DataType, *valid: str | None) -> None:
    """Marks the row bad where an int64 register leaves the range of its type."""
    low, high = value_range(type)
    if high - low < (1 << 64) - 1:
        writer.text.fail_if(f"({code} < {low}) | ({code} > {high})", *valid)


_CHECKED = {"add": "checked_add", "subtract": "checked_sub", "multiply": "checked_mul"}
_SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*"}


def _integer_operation(writer: ExpressionWriter, name: str, left: str, right: str, type: DataType, bits: int,
                       valid: str | None) -> str:  # fmt: skip
    """left name right in int64; `bits` bounds the width of both operands, so that narrow ones need no overflow flag."""
    text = writer.text
    if bits <= 32:
        code = text.assign(f"{left} {_SYMBOLS[name]} {right}")
    else:
        code, wrapped = text.name(), text.name()
        text.emit(f"{code}, {wrapped} = {_CHECKED[name]}({left}, {right})")
        text.fail_if(wrapped, valid)
    if type.name != "BIGINT":
        write_fixed(writer, code, type, valid)
    return code


def _arithmetic(writer: ExpressionWriter, call: Call) -> Value:
    left, right = (writer.value(arg) for arg in call.args)
    valid = writer.both(left.valid, right.valid)
    kind = register_kind(call.type)
    if kind == "i":
        if left.kind != "i" or right.kind != "i":
            raise CannotCompile(f"{call.function} of an interval and a float")
        bits = max(8 * arg.type.width_bytes for arg in call.args)
        return Value(
            _integer_operation(writer, call.function, left.code, right.code, call.type, bits, valid), "i", valid
        )
    if left.kind != kind or right.kind != kind:
        raise CannotCompile(f"{call.function} of mixed types")
    return Value(writer.text.assign(f"{left.code} {_SYMBOLS[call.function]} {right.code}"), kind, valid)


def _divisor(writer: ExpressionWriter, expression: Expression, value: Value, valid: str | None) -> tuple[str, bool]:
    """(register that is never 0, whether it may be -1). The row is marked bad where the divisor is 0."""
    if isinstance(expression, Literal) and expression.value is not None and expression.value > 0:
        return value.code, False
    zero = "0" if value.kind == "i" else "0.0"
    writer.text.fail_if(f"{value.code} == {zero}", valid)
    return value.code, True


def _divide(writer: ExpressionWriter, call: Call) -> Value:
    left, right = (writer.value(arg) for arg in call.args)
    text = writer.text
    valid = writer.both(left.valid, right.valid)
    if left.kind != right.kind or left.kind == "b" or call.type.name == "INTERVAL":
        raise CannotCompile("this division")
    divisor, unsafe = _divisor(writer, call.args[1], right, valid)
    if left.kind != "i":
        return Value(text.assign(f"{left.code} / {divisor}"), left.kind, valid)
    if unsafe:
        # The processor traps on x / 0 and min / -1; both are marked bad (min / -1 leaves every integer type).
        low = integer_text(value_range(call.type)[0])
        text.fail_if(f"({divisor} == -1) & ({left.code} == {low})", valid)
        divisor, negated = text.assign(f"1 if ({divisor} == 0) | ({divisor} == -1) else {divisor}"), divisor
    floor = text.assign(f"{left.code} // {divisor}")
    code = text.assign(f"{floor} + 1 if ({floor} < 0) & ({floor} * {divisor} != {left.code}) else {floor}")
    if unsafe:
        code = text.assign(f"0 - {left.code} if {negated} == -1 else {code}")
    return Value(code, "i", valid)


def _modulo(writer: ExpressionWriter, call: Call) -> Value:
    left, right = (writer.value(arg) for arg in call.args)
    text = writer.text
    valid = writer.both(left.valid, right.valid)
    if left.kind != "i" or right.kind != "i":
        raise CannotCompile("modulo of floats")
    divisor, unsafe = _divisor(writer, call.args[1], right, valid)
    if unsafe:  # x % -1 is 0, and so is x % 1
        divisor = text.assign(f"1 if ({divisor} == 0) | ({divisor} == -1) else {divisor}")
    rest = text.assign(f"{left.code} % {divisor}")  # with the divisor's sign
    return Value(
        text.assign(f"{rest} - {divisor} if ({rest} != 0) & (({rest} < 0) != ({left.code} < 0)) else {rest}"),
        "i",
        valid,
    )


def _negate(writer: ExpressionWriter, call: Call) -> Value:
    value = writer.value(call.args[0])
    if value.kind == "i":
        if call.type.name != "DECIMAL":  # whose range is symmetric
            writer.text.fail_if(f"{value.code} == {integer_text(value_range(call.type)[0])}", value.valid)
        return Value(writer.text.assign(f"0 - {value.code}"), "i", value.valid)
    return Value(writer.text.assign(f"-{value.code}"), value.kind, value.valid)


def _absolute(writer: ExpressionWriter, call: Call) -> Value:
    value = writer.value(call.args[0])
    if value.kind == "i":
        if call.type.name != "DECIMAL":  # whose range is symmetric
            writer.text.fail_if(f"{value.code} == {integer_text(value_range(call.type)[0])}", value.valid)
        return Value(writer.text.assign(f"0 - {value.code} if {value.code} < 0 else {value.code}"), "i", value.valid)
    return Value(writer.text.assign(f"abs({value.code})"), value.kind, value.valid)


def _comparison(symbol: str) -> Writer:
    def write(writer: ExpressionWriter, call: Call) -> Value:
        left, right = (writer.value(arg) for arg in call.args)
        if left.kind != right.kind:
            raise CannotCompile("a comparison of mixed types")
        code = writer.text.assign(f"{left.code} {symbol} {right.code}")
        return Value(code, "b", writer.both(left.valid, right.valid))

    return write


def _distinct(equal: bool) -> Writer:
    def write(writer: ExpressionWriter, call: Call) -> Value:
        left, right = (writer.value(arg) for arg in call.args)
        if left.kind != right.kind:
            raise CannotCompile("IS DISTINCT FROM of these types")
        text = writer.text
        same = f"({left.code} == {right.code})"
        if left.valid is not None or right.valid is not None:
            a, b = left.valid or "True", right.valid or "True"
            same = f"(({a} & {b} & {same}) | ((not {a}) & (not {b})))"
        return Value(text.assign(same if equal else f"not {same}"), "b")

    return write


def _not(writer: ExpressionWriter, call: Call) -> Value:
    value = writer.value(call.args[0])
    return Value(writer.text.assign(f"not {value.code}"), "b", value.valid)


def _presence(wanted: bool) -> Writer:
    def write(writer: ExpressionWriter, call: Call) -> Value:
        valid = writer.value(call.args[0]).valid
        if valid is None:
            return Value(str(wanted), "b")
        return Value(valid if wanted else writer.text.assign(f"not {valid}"), "b")

    return write


def _float_step(name: str) -> Writer:
    """floor, ceil, trunc: exact in every library. Integers pass unchanged."""

    def write(writer: ExpressionWriter, call: Call) -> Value:
        value = writer.value(call.args[0])
        type = call.args[0].type
        if type.is_integer:
            return value
        if not type.is_float:
            raise CannotCompile(f"{name} of {type}")
        return Value(writer.text.assign(f"np.{name}({value.code})"), value.kind, value.valid)

    return write


def _sqrt(writer: ExpressionWriter, call: Call) -> Value:
    value = writer.value(call.args[0])
    writer.text.fail_if(f"{value.code} < 0.0", value.valid)
    return Value(writer.text.assign(f"np.sqrt({value.code})"), value.kind, value.valid)


def _float_test(condition: str) -> Writer:
    def write(writer: ExpressionWriter, call: Call) -> Value:
        value = writer.value(call.args[0])
        return Value(writer.text.assign(condition.format(value.code)), "b", value.valid)

    return write


# --- times --------------------------------------------------------------------------------------------------------


def _literal_text(expression: Expression) -> str:
    if not isinstance(expression, Literal) or not isinstance(expression.value, str):
        raise CannotCompile("a unit that is not a constant")
    return expression.value.lower()


def write_bucket(writer: ExpressionWriter, time: Value, width_us: int, origin_us: int = 0) -> Value:
    """The start of the bucket [origin + n * width, ...) that holds the time."""
    text = writer.text
    width = text.integer(width_us)
    if origin_us:
        shifted = text.assign(f"{time.code} - {origin_us}")
        code = text.assign(f"{shifted} // {width} * {width} + {origin_us}")
    else:
        code = text.assign(f"{time.code} // {width} * {width}")
    return Value(code, "i", time.valid)


def _time_bucket(writer: ExpressionWriter, call: Call) -> Value:
    width = call.args[0]
    if not isinstance(width, Literal) or width.value is None or width.value.months or width.value.microseconds <= 0:
        raise CannotCompile("time_bucket of this width")
    time = writer.value(call.args[1])
    value = write_bucket(writer, time, width.value.microseconds)
    writer.text.fail_if(f"{value.code} < {integer_text(value_range(call.type)[0])}", time.valid)
    return value


def _date_trunc(writer: ExpressionWriter, call: Call) -> Value:
    unit = _literal_text(call.args[0])
    time = writer.value(call.args[1])
    if unit == "microsecond":
        return time
    if unit == "week":  # 1970-01-01 was a Thursday: weeks start three days before
        value = write_bucket(writer, time, 7 * DAY_US, -3 * DAY_US)
    elif unit in UNIT_US:
        value = write_bucket(writer, time, UNIT_US[unit])
    else:
        raise CannotCompile(f"date_trunc to {unit}")
    writer.text.fail_if(f"{value.code} < {integer_text(value_range(call.type)[0])}", time.valid)
    return value


# part -> (microseconds of the unit, how many of it make a cycle)
_CYCLES = {
    "hour": (3_600 * SECOND_US, 24), "minute": (60 * SECOND_US, 60), "second": (SECOND_US, 60),
    "millisecond": (1_000, 60_000), "microsecond": (1, 60 * SECOND_US),
}  # fmt: skip


def _date_part(writer: ExpressionWriter, call: Call) -> Value:
    part = _literal_text(call.args[0])
    time = writer.value(call.args[1])
    text = writer.text
    if part in _CYCLES:
        unit, cycle = _CYCLES[part]
        return Value(text.assign(f"{time.code} // {unit} % {cycle}"), "i", time.valid)
    day = text.assign(f"{time.code} // {DAY_US}")
    if part == "dow":
        return Value(text.assign(f"({day} + 4) % 7"), "i", time.valid)
    if part == "isodow":
        return Value(text.assign(f"({day} + 3) % 7 + 1"), "i", time.valid)
    if part not in ("year", "quarter", "month", "day"):
        raise CannotCompile(f"date_part {part}")
    # Howard Hinnant's civil_from_days: eras of 400 years that begin on 1 March.
    shifted = text.assign(f"{day} + 719468")
    era = text.assign(f"{shifted} // 146097")
    of_era = text.assign(f"{shifted} - {era} * 146097")
    year = text.assign(f"({of_era} - {of_era} // 1460 + {of_era} // 36524 - {of_era} // 146096) // 365")
    of_year = text.assign(f"{of_era} - (365 * {year} + {year} // 4 - {year} // 100)")
    march = text.assign(f"(5 * {of_year} + 2) // 153")
    month = text.assign(f"{march} + 3 if {march} < 10 else {march} - 9")
    result = {
        "day": f"{of_year} - (153 * {march} + 2) // 5 + 1",
        "month": month,
        "quarter": f"({month} + 2) // 3",
        "year": f"{year} + {era} * 400 + (1 if {month} <= 2 else 0)",
    }[part]
    return Value(text.assign(result), "i", time.valid)


def _epoch_ms(writer: ExpressionWriter, call: Call) -> Value:
    time = writer.value(call.args[0])
    return Value(writer.text.assign(f"{time.code} // 1000"), "i", time.valid)


def _epoch_us(writer: ExpressionWriter, call: Call) -> Value:
    return writer.value(call.args[0])


FUNCTIONS: dict[str, Writer] = {
    "add": _arithmetic, "subtract": _arithmetic, "multiply": _arithmetic, "divide": _divide, "modulo": _modulo,
    "negate": _negate, "abs": _absolute, "not": _not,
    "eq": _comparison("=="), "ne": _comparison("!="), "lt": _comparison("<"), "le": _comparison("<="),
    "gt": _comparison(">"), "ge": _comparison(">="),
    "is_distinct_from": _distinct(False), "is_not_distinct_from": _distinct(True),
    "is_null": _presence(False), "is_not_null": _presence(True),
    "floor": _float_step("floor"), "ceil": _float_step("ceil"), "trunc": _float_step("trunc"), "sqrt": _sqrt,
    "isnan": _float_test("{0} != {0}"), "isfinite": _float_test("({0} - {0}) == 0.0"),
    "time_bucket": _time_bucket, "date_trunc": _date_trunc, "date_part": _date_part,
    "epoch_ms": _epoch_ms, "epoch_us": _epoch_us,
}  # fmt: skip


# --- casts --------------------------------------------------------------------------------------------------------


def write_cast(writer: ExpressionWriter, cast: Cast) -> Value:
    """Number to number, BOOLEAN, DATE and TIMESTAMP. A failing TRY_CAST is NULL, a failing CAST marks the row bad."""
    source, target = cast.operand.type, cast.type
    value = writer.value(cast.operand)
    text = writer.text
    from_, to = register_kind(source), register_kind(target)
    if source == target:
        return value
    if source.name == "NULL":
        raise CannotCompile("a cast of NULL")
    if source.name in ("DATE", "TIMESTAMP") or target.name in ("DATE", "TIMESTAMP"):
        pair = (source.name, target.name)
        if pair == ("DATE", "TIMESTAMP"):
            return Value(text.assign(f"{value.code} * {DAY_US}"), "i", value.valid)
        if pair == ("TIMESTAMP", "DATE"):
            return Value(text.assign(f"{value.code} // {DAY_US}"), "i", value.valid)
        raise CannotCompile(f"a cast from {source} to {target}")
    if "INTERVAL" in (source.name, target.name):
        raise CannotCompile(f"a cast from {source} to {target}")
    if target.name == "BOOLEAN":
        return Value(text.assign(f"{value.code} != {'0' if from_ == 'i' else '0.0'}"), "b", value.valid)
    if from_ == "b":
        if target.name == "DECIMAL":
            raise CannotCompile("BOOLEAN to DECIMAL")
        ones = {"i": ("1", "0"), "f": ("1.0", "0.0"), "e": ("np.float32(1.0)", "np.float32(0.0)")}[to]
        return Value(text.assign(f"{ones[0]} if {value.code} else {ones[1]}"), to, value.valid)
    if from_ == "i" and to == "i":
        return _integer_cast(writer, cast, value)
    if source.name == "DECIMAL" and to in "fe":
        number = text.assign(
            f"np.float64({value.code}) / {float(10**source.scale)!r}" if source.scale else f"np.float64({value.code})"
        )
        return Value(number if to == "f" else text.assign(f"np.float32({number})"), to, value.valid)
    if from_ == "i":
        return Value(text.assign(f"{'np.float64' if to == 'f' else 'np.float32'}({value.code})"), to, value.valid)
    if to == "f":
        return Value(text.assign(f"np.float64({value.code})"), "f", value.valid)
    if to == "e":
        return _shrink(writer, cast, value)
    return _round_to_integer(writer, cast, value)


def _shrink(writer: ExpressionWriter, cast: Cast, value: Value) -> Value:
    """DOUBLE to FLOAT: a finite number that becomes infinite does not fit."""
    text = writer.text
    code = text.assign(f"np.float32({value.code})")
    lost = text.assign(f"(({code} - {code}) != np.float32(0.0)) & (({value.code} - {value.code}) == 0.0)")
    return Value(code, "e", _fitting(writer, cast, value, f"(not {lost})"))


def _fitting(writer: ExpressionWriter, cast: Cast, value: Value, fits: str) -> str | None:
    """The validity of a cast whose values fit where `fits` holds; a failing CAST marks the row bad."""
    if cast.safe:
        return writer.both(value.valid, writer.text.assign(fits))
    writer.text.fail_if(f"not {fits}", value.valid)
    return value.valid


def _round_to_integer(writer: ExpressionWriter, cast: Cast, value: Value) -> Value:
    """Float to integer (halves to the even neighbour) or to DECIMAL (halves away from zero). NaN fits nowhere."""
    text = writer.text
    low, high = value_range(cast.type)
    wide = text.assign(f"np.float64({value.code})")
    if cast.type.name == "DECIMAL":
        scaled = text.assign(f"{wide} * {10.0**cast.type.scale!r}")
        whole = text.assign(f"np.trunc({scaled})")
        step = text.assign(f"(1.0 if {scaled} > 0.0 else -1.0) if abs({scaled} - {whole}) >= 0.5 else 0.0")
        rounded = text.assign(f"{whole} + {step}")
        fits = text.assign(f"({rounded} > {float(low - 1)!r}) & ({rounded} < {float(high + 1)!r})")
    else:
        rounded = text.assign(f"np.rint({wide})")
        fits = text.assign(f"({rounded} >= {float(low)!r}) & ({rounded} < {float(high + 1)!r})")
    valid = _fitting(writer, cast, value, fits)
    return Value(text.assign(f"np.int64({rounded} if {fits} else 0.0)"), "i", valid)


def _integer_cast(writer: ExpressionWriter, cast: Cast, value: Value) -> Value:
    """Integers and DECIMAL among each other: rescale exactly, halves away from zero."""
    source, target = cast.operand.type, cast.type
    text = writer.text
    steps = target.scale - source.scale
    low, high = value_range(target)
    code = value.code
    if steps < 0:
        code = _round_half_away(writer, code, 10**-steps)
    unit = 10 ** max(0, steps)
    # The bounds before scaling up: what passes them cannot overflow the multiplication.
    low, high = -(-low // unit), high // unit
    least, greatest = value_range(source)
    valid = value.valid
    fits: str | None = None
    if steps < 0 or least < low or greatest > high:
        fits = text.assign(f"({code} >= {integer_text(low)}) & ({code} <= {high})")
        valid = _fitting(writer, cast, value, fits)
    if unit == 1:
        return Value(code, "i", valid)
    safe = code if fits is None else f"({code} if {fits} else 0)"
    return Value(text.assign(f"{safe} * {unit}"), "i", valid)


def _round_half_away(writer: ExpressionWriter, code: str, unit: int) -> str:
    text = writer.text
    quotient = text.assign(f"{code} // {unit}")
    rest = text.assign(f"{code} - {quotient} * {unit}")
    return text.assign(
        f"{quotient} + (1 if ({rest} > {unit} - {rest}) | (({rest} == {unit} - {rest}) & ({code} >= 0)) else 0)"
    )
