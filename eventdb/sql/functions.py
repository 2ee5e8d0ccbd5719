"""SQL function names: which registry function each one means, and the ones that are spelled out in others.

Nothing of sqlglot here: the expression binder passes bound arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventdb.logical.constants import DAY_US
from eventdb.logical.expressions import Case, Expression, IntervalValue, Literal
from eventdb.logical.functions import AGGREGATES, DATE_PARTS, RANKINGS, SCALARS, TRUNC_UNITS
from eventdb.schema import BIGINT, BOOLEAN, DATE, DOUBLE, INTERVAL, TIMESTAMP, VARCHAR
from eventdb.sql.intervals import parse_interval

if TYPE_CHECKING:
    from eventdb.sql.expressions import ExpressionBinder

Builder = Callable[["ExpressionBinder", list[Expression], Any], Expression]

# SQL name -> registry name, arguments as written
_PLAIN = {
    "abs": "abs", "sign": "sign", "floor": "floor", "ceil": "ceil", "ceiling": "ceil", "trunc": "trunc",
    "round": "round", "sqrt": "sqrt", "power": "power", "pow": "power", "exp": "exp", "ln": "ln", "log10": "log10",
    "log2": "log2", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "atan2": "atan2", "isnan": "isnan", "isfinite": "isfinite", "mod": "modulo", "fmod": "modulo",
    "add": "add", "subtract": "subtract", "multiply": "multiply", "divide": "divide",
    "greatest": "greatest", "least": "least", "coalesce": "coalesce", "ifnull": "coalesce", "nvl": "coalesce",
    "upper": "upper", "ucase": "upper", "lower": "lower", "lcase": "lower", "length": "length", "len": "length",
    "char_length": "length", "character_length": "length", "octet_length": "length", "substr": "substr",
    "substring": "substr",
    "trim": "trim", "btrim": "trim", "ltrim": "ltrim", "rtrim": "rtrim", "replace": "replace", "concat": "concat",
    "concat_ws": "concat_ws", "starts_with": "starts_with", "startswith": "starts_with", "prefix": "starts_with",
    "ends_with": "ends_with", "suffix": "ends_with", "contains": "contains", "strpos": "strpos", "instr": "strpos",
    "left": "left", "right": "right", "reverse": "reverse", "repeat": "repeat", "split_part": "split_part",
    "md5": "md5", "now": "now", "transaction_timestamp": "now", "get_current_timestamp": "now",
    "current_timestamp": "now", "epoch": "epoch", "epoch_us": "epoch_us", "to_timestamp": "to_timestamp",
    "make_timestamp": "make_timestamp", "make_date": "make_date", "strptime": "strptime",
    "date_add": "add",
}  # fmt: skip

_AGGREGATE_NAMES = {name: name for name in AGGREGATES if name != "count_star"} | {
    "mean": "avg", "average": "avg", "stddev": "stddev_samp", "std": "stddev_samp", "variance": "var_samp",
    "var": "var_samp", "every": "bool_and", "logical_and": "bool_and", "logical_or": "bool_or",
    "arbitrary": "first", "count_star": "count_star",
}  # fmt: skip

_PART_NAMES = {
    "dayofweek": "dow", "weekday": "dow", "dayofmonth": "day", "dayofyear": "doy", "weekofyear": "week",
    "years": "year", "months": "month", "days": "day", "hours": "hour", "minutes": "minute", "seconds": "second",
    "milliseconds": "millisecond", "microseconds": "microsecond", "ms": "millisecond", "us": "microsecond",
    "weeks": "week", "quarters": "quarter", "y": "year", "d": "day", "h": "hour", "m": "minute", "s": "second",
    "min": "minute", "sec": "second", "hr": "hour", "mon": "month", "w": "week",
}  # fmt: skip

KNOWN_ELSEWHERE = frozenset(
    """list array_agg approx_top_k histogram
    regexp_matches regexp_replace
    regexp_extract regexp_full_match regexp_like json_extract json_value json_query json_object json_array unnest
    generate_series range struct_pack list_value map array_length format printf levenshtein soundex sha1 sha256 hash
    random uuid gen_random_uuid age to_char to_date timezone encode decode session cumulate session_start
    session_end generate_subscripts""".split()
)
FIXES = {

    "list": "there is no type LIST; string_agg(x, ',') gives text",
    "array_agg": "there is no type LIST; string_agg(x, ',') gives text",
    "histogram": "there is no type MAP; GROUP BY x with count(*)",
}  # fmt: skip


def date_unit(binder: ExpressionBinder, argument: Expression, allowed: tuple[str, ...], node: Any) -> Literal:
    """The canonical unit an argument names."""
    if not isinstance(argument, Literal) or not isinstance(argument.value, str):
        binder.context.fail("the unit must be a string literal such as 'hour'", node)
    name = argument.value.strip().lower()
    name = name if name in allowed else _PART_NAMES.get(name, name)
    if name not in allowed:
        binder.context.fail(f"unknown unit {argument.value!r}; the units are {', '.join(allowed)}", node)
    return Literal(VARCHAR, name)


def date_part(binder: ExpressionBinder, part: str, moment: Expression, node: Any) -> Expression:
    """year(x), extract(year from x): 'epoch' is DOUBLE seconds, the others BIGINT."""
    if part.lower() == "epoch":
        return binder.call("epoch", [moment], node)
    unit = date_unit(binder, Literal(VARCHAR, part), DATE_PARTS, node)
    return binder.call("date_part", [unit, moment], node)


def width_of(binder: ExpressionBinder, argument: Expression, node: Any) -> IntervalValue:
    """The positive interval an argument ('5 minutes', INTERVAL, 5m) means."""
    value = argument.value if isinstance(argument, Literal) else None
    interval = parse_interval(value) if isinstance(value, str) else value
    if not isinstance(interval, IntervalValue):
        binder.context.fail(
            "the width must be a constant interval such as INTERVAL '5 minutes', '5 minutes' or 5m", node
        )
    if (interval.months > 0) == (interval.microseconds > 0) or min(interval) < 0:
        binder.context.fail(f"the width must be positive and either months or exact, not {str(interval)!r}", node)
    return interval


def _counted(binder: ExpressionBinder, args: list[Expression], node: Any, counts: tuple[int, ...], name: str) -> None:
    if len(args) not in counts:
        wanted = " or ".join(map(str, counts))
        binder.context.fail(f"{name}() takes {wanted} argument{'s' if wanted != '1' else ''}, not {len(args)}", node)


def _date_trunc(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (2,), "date_trunc")
    return binder.call("date_trunc", [date_unit(binder, args[0], TRUNC_UNITS, node), args[1]], node)


def _date_part(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (2,), "date_part")
    if isinstance(args[0], Literal) and isinstance(args[0].value, str):
        return date_part(binder, args[0].value, args[1], node)
    binder.context.fail("the part must be a string literal such as 'hour'", node)


def _part(name: str) -> Builder:
    def build(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
        _counted(binder, args, node, (1,), name)
        return date_part(binder, name, args[0], node)

    return build


def _time_bucket(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    if len(args) == 3:
        binder.context.unsupported("time_bucket with an origin", node)
    _counted(binder, args, node, (2,), "time_bucket")
    width = width_of(binder, args[0], node)
    if width.months:
        return binder.call("month_bucket", [Literal(BIGINT, width.months), args[1]], node)
    return binder.call("time_bucket", [Literal(INTERVAL, width), args[1]], node)


def _epoch_ms(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (1,), "epoch_ms")
    if args[0].type.is_integer:  # DuckDB's other epoch_ms: milliseconds -> TIMESTAMP
        return binder.call("make_timestamp", [binder.call("multiply", [args[0], Literal(BIGINT, 1_000)], node)], node)
    return binder.call("epoch_ms", args, node)


def _log(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (1, 2), "log")
    if len(args) == 1:
        return binder.call("log10", args, node)
    return binder.call("divide", [binder.call("ln", [arg], node) for arg in (args[1], args[0])], node)


def _scaled(factor: float) -> Builder:
    def build(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
        _counted(binder, args, node, (1,), "this function")
        return binder.call("multiply", [binder.coerce(args[0], DOUBLE, node), Literal(DOUBLE, factor)], node)

    return build


def _pad(name: str) -> Builder:
    def build(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
        _counted(binder, args, node, (2, 3), name)
        return binder.call(name, args if len(args) == 3 else [*args, Literal(VARCHAR, " ")], node)

    return build


def _if(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (2, 3), "if")
    otherwise = args[2] if len(args) == 3 else binder.null()
    return binder.case([binder.coerce(args[0], BOOLEAN, node)], [args[1]], otherwise, node)


def _nullif(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (2,), "nullif")
    equal = binder.call("eq", args, node)
    kept = args[0]
    return Case(kept.type, (equal,), (Literal(kept.type, None),), kept)


def _typeof(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (1,), "typeof")
    return Literal(VARCHAR, str(args[0].type))


def _pi(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (0,), "pi")
    return Literal(DOUBLE, math.pi)


def _as_date(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (1,), "date")
    return binder.cast(args[0], DATE, node)


def _today(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    _counted(binder, args, node, (0,), "current_date")
    return binder.cast(binder.call("now", [], node), DATE, node)


FORMAT_CODES = frozenset("YymdHIMSfpjaAbBuwVGFTs%")


def _strftime(name: str) -> Builder:
    def build(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
        _counted(binder, args, node, (2,), name)
        layout = args[1]
        if not isinstance(layout, Literal) or not isinstance(layout.value, str):
            binder.context.fail(f"the format of {name}() must be a string literal", node)
        codes = layout.value.split("%%")
        for code in (
            part[i + 1 : i + 2] for text in codes for i, part in [(j, text) for j, c in enumerate(text) if c == "%"]
        ):
            if code not in FORMAT_CODES or not code:
                known = " ".join("%" + known for known in sorted(FORMAT_CODES))
                binder.context.fail(f"{name}() does not know %{code}; the codes are {known}", node)
        return binder.call(name, args, node)

    return build


def _name_of(layout: str) -> Builder:
    def build(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
        _counted(binder, args, node, (1,), "this function")
        return binder.call("strftime", [args[0], Literal(VARCHAR, layout)], node)

    return build


_DIFFERENCE_US = {
    "microsecond": 1, "millisecond": 1_000, "second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000,
    "day": DAY_US, "week": 7 * DAY_US,
}  # fmt: skip


def _date_diff(binder: ExpressionBinder, args: list[Expression], node: Any) -> Expression:
    """Unit boundaries between two times, as in DuckDB."""
    _counted(binder, args, node, (3,), "date_diff")
    unit = str(date_unit(binder, args[0], TRUNC_UNITS, node).value)
    start, end = (binder.coerce(arg, TIMESTAMP, node) for arg in args[1:])
    if unit in _DIFFERENCE_US:
        whole = [
            binder.call("epoch_us", [binder.call("date_trunc", [Literal(VARCHAR, unit), moment], node)], node)
            for moment in (end, start)
        ]
        return binder.call(
            "divide", [binder.call("subtract", whole, node), Literal(BIGINT, _DIFFERENCE_US[unit])], node
        )
    per_year = {"year": 1, "quarter": 4, "month": 12}[unit]
    counted = []
    for moment in (end, start):
        count = binder.call("multiply", [date_part(binder, "year", moment, node), Literal(BIGINT, per_year)], node)
        counted.append(
            count if unit == "year" else binder.call("add", [count, date_part(binder, unit, moment, node)], node)
        )
    return binder.call("subtract", counted, node)


_BUILDERS: dict[str, Builder] = {
    "date_trunc": _date_trunc, "datetrunc": _date_trunc, "date_part": _date_part, "datepart": _date_part,
    "time_bucket": _time_bucket, "epoch_ms": _epoch_ms, "log": _log, "pi": _pi,
    "radians": _scaled(math.pi / 180), "degrees": _scaled(180 / math.pi), "lpad": _pad("lpad"), "rpad": _pad("rpad"),
    "if": _if, "iff": _if, "nullif": _nullif, "typeof": _typeof, "date": _as_date, "current_date": _today,
    "today": _today, "strftime": _strftime("strftime"), "strptime": _strftime("strptime"),
    "dayname": _name_of("%A"), "monthname": _name_of("%B"), "date_diff": _date_diff, "datediff": _date_diff,
    **{name: _part(name) for name in (*DATE_PARTS, "dayofweek", "weekday", "dayofmonth", "dayofyear", "weekofyear")},
}  # fmt: skip

WINDOW_FUNCTIONS = ("tumble", "hop", "window", "tumble_start", "tumble_end", "hop_start", "hop_end")
AGGREGATE_SPELLINGS = frozenset(
    """count_if countif arg_min argmin min_by arg_max argmax max_by arg_min_null min_by_null arg_max_null max_by_null
    approx_count_distinct approx_quantile reservoir_quantile arg_min_nulls_last arg_max_nulls_last weighted_avg wavg
    median quantile percentile_cont percentile_disc fsum kahan_sum sumkahan favg group_concat listagg""".split()
)
"""Aggregates that are spelled out in others (aggregates.py)."""
FUNCTION_NAMES = frozenset((*_PLAIN, *_AGGREGATE_NAMES, *AGGREGATE_SPELLINGS, *_BUILDERS, *WINDOW_FUNCTIONS, *RANKINGS))


def aggregate_name(name: str) -> str | None:
    """The registry's aggregate for a SQL name."""
    return _AGGREGATE_NAMES.get(name)


def scalar(binder: ExpressionBinder, name: str, args: list[Expression], node: Any) -> Expression | None:
    """The bound call of a SQL function name, None if there is no such function."""
    builder = _BUILDERS.get(name)
    if builder is not None:
        return builder(binder, args, node)
    plain = _PLAIN.get(name)
    if plain is None or plain not in SCALARS:
        return None
    if plain == "now" and args:
        binder.context.fail(f"{name}() takes no arguments", node)
    return binder.call(plain, args, node, shown=name)
