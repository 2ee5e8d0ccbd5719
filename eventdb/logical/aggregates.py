"""Every aggregate function. The rules that hold for all are in functions.py."""

from __future__ import annotations

from collections.abc import Sequence

from eventdb.logical.signatures import Function, Resolution, define, overloads
from eventdb.schema import (
    BIGINT,
    DOUBLE,
    INTERVAL,
    NULL,
    DataType,
    decimal_type,
)

_S = overloads


def _sum(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1:
        return None
    type = types[0]
    if type.is_integer or type == NULL:
        return (BIGINT if type == NULL else type,), BIGINT
    if type.is_float:
        return (type,), DOUBLE
    if type.name == "DECIMAL":
        return (type,), decimal_type(18, type.scale)
    return ((type,), type) if type == INTERVAL else None


def _average(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    return (DOUBLE if types[0] == NULL else types[0],), DOUBLE


def _spread(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    return (types[0] if types[0].is_float or types[0].is_integer else DOUBLE,), DOUBLE


_ANY1 = _S("any -> first")
_BOOL1 = _S("BOOLEAN -> BOOLEAN")

AGGREGATES: dict[str, Function] = define(
    [
        Function("count_star", "-> BIGINT", "rows; 0 for none", _S(" -> BIGINT"), strict=False),
        Function("count", "any -> BIGINT", "values that are not NULL; 0 for none", _S("any -> BIGINT")),
        Function(
            "sum",
            "integer -> BIGINT | float -> DOUBLE | DECIMAL(p,s) -> DECIMAL(18,s) | INTERVAL",
            "argument in its own type, accumulated in the result's; overflow raises; NULL for no value",
            _sum,
            raises=True,
        ),
        Function(
            "avg",
            "number -> DOUBLE",
            "sum / count in DOUBLE, integers and DECIMAL summed exactly where they fit; NULL for no value",
            _average,
        ),
        Function("min", "any -> same", "least value; NULL for no value", _ANY1),
        Function("max", "any -> same", "greatest value; NULL for no value", _ANY1),
        Function("stddev_samp", "number -> DOUBLE", "square root of var_samp", _spread),
        Function("stddev_pop", "number -> DOUBLE", "square root of var_pop", _spread),
        Function(
            "var_samp",
            "number -> DOUBLE",
            "divided by n - 1; NULL for fewer than two values; Welford or two-pass accuracy",
            _spread,
        ),
        Function("var_pop", "number -> DOUBLE", "divided by n; NULL for no value", _spread),
        Function("bool_and", "BOOLEAN -> BOOLEAN", "whether all values are true; NULL for no value", _BOOL1),
        Function("bool_or", "BOOLEAN -> BOOLEAN", "whether some value is true; NULL for no value", _BOOL1),
        Function(
            "first",
            "any -> same",
            "value of the first row in input (offset) order, even if NULL; NULL for no row",
            _ANY1,
            strict=False,
        ),
        Function(
            "last",
            "any -> same",
            "value of the last row in input (offset) order, even if NULL; NULL for no row",
            _ANY1,
            strict=False,
        ),
        Function(
            "any_value",
            "any -> same",
            "first value that is not NULL",
            _ANY1,
        ),
    ]
)
