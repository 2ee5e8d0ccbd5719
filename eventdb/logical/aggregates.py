"""Every aggregate function. The rules that hold for all are in functions.py."""

from __future__ import annotations

from collections.abc import Sequence

from eventdb.logical.expressions import Aggregation
from eventdb.logical.python_functions import PythonAggregation
from eventdb.logical.signatures import Function, Resolution, define, overloads
from eventdb.schema import (
    BIGINT,
    DATE,
    DOUBLE,
    INTERVAL,
    MAX_DECIMAL_DIGITS,
    NULL,
    TIMESTAMP,
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
        return (type,), decimal_type(MAX_DECIMAL_DIGITS, type.scale)
    return ((type,), type) if type == INTERVAL else None


def _average(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    return (DOUBLE if types[0] == NULL else types[0],), DOUBLE


def _spread(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    return (types[0] if types[0].is_float or types[0].is_integer else DOUBLE,), DOUBLE


def _median(types: Sequence[DataType]) -> Resolution | None:
    """quantile_cont and median: between two values there is another one."""
    if not types or (len(types) == 2 and not types[1].is_numeric):
        return None
    value = types[0]
    value = DOUBLE if value.is_integer or value == NULL else TIMESTAMP if value == DATE else value
    if not (value.is_numeric or value in (TIMESTAMP, INTERVAL)):
        return None
    return (value, DOUBLE)[: len(types)], value


def _quantile(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2 or not types[1].is_numeric:
        return None
    return (types[0], DOUBLE), types[0]


def _bits(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 1 or not (types[0].is_integer or types[0] == NULL):
        return None
    type = BIGINT if types[0] == NULL else types[0]
    return (type,), type


_PAIR = _S("DOUBLE, DOUBLE -> DOUBLE")
_PAIRS = {
    "corr": "Pearson's correlation; NULL where a side does not vary",
    "covar_pop": "covariance, divided by n; NULL for no pair",
    "covar_samp": "covariance, divided by n - 1; NULL for fewer than two pairs",
    "regr_avgx": "average of x over the pairs",
    "regr_avgy": "average of y over the pairs",
    "regr_sxx": "n * var_pop(x)",
    "regr_syy": "n * var_pop(y)",
    "regr_sxy": "n * covar_pop(y, x)",
    "regr_slope": "covar_pop(y, x) / var_pop(x)",
    "regr_intercept": "avg(y) - slope * avg(x)",
    "regr_r2": "square of the correlation; 1 where y does not vary, NULL where x does not",
}

_SHAPES = {
    "skewness": "corrected for bias; NULL for fewer than three values or equal ones",
    "kurtosis": "excess, corrected for bias; NULL for fewer than four values or equal ones",
    "kurtosis_pop": "excess; NULL for fewer than two values or equal ones",
    "sem": "standard error of the mean; NULL for no value",
    "mad": "median of the distances from the median; NULL for no value",
}

_ANY1 = _S("any -> first")
_BOOL1 = _S("BOOLEAN -> BOOLEAN")

AGGREGATES: dict[str, Function] = define(
    [
        Function("count_star", "-> BIGINT", "rows; 0 for none", _S(" -> BIGINT"), strict=False),
        Function("count", "any -> BIGINT", "values that are not NULL; 0 for none", _S("any -> BIGINT")),
        Function(
            "sum",
            "integer -> BIGINT | float -> DOUBLE | DECIMAL(p,s) -> DECIMAL(38,s) | INTERVAL",
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
        Function("bit_and", "integer -> same", "bitwise AND; NULL for no value", _bits),
        Function("bit_or", "integer -> same", "bitwise OR; NULL for no value", _bits),
        Function("bit_xor", "integer -> same", "bitwise XOR; NULL for no value", _bits),
        Function("product", "number -> DOUBLE", "product in DOUBLE; NULL for no value", _S("DOUBLE -> DOUBLE")),
        Function(
            "string_agg",
            "VARCHAR[, VARCHAR separator] -> VARCHAR",
            "values with the separator (',') between them; NULL for no value",
            _S("text, VARCHAR -> VARCHAR"),
            literals=(1,),
        ),
        Function(
            "quantile_cont",
            "number, TIMESTAMP or INTERVAL, fraction -> same, integers as DOUBLE, DATE as TIMESTAMP",
            "value at (n - 1) * fraction of the sorted values, interpolated; NULL for no value",
            _median,
            literals=(1,),
        ),
        Function(
            "quantile_disc",
            "any, fraction -> same",
            "least value that at least that fraction of the values does not exceed; NULL for no value",
            _quantile,
            literals=(1,),
        ),
        Function("mode", "any -> same", "most frequent value, the first of several; NULL for no value", _ANY1),
        Function("entropy", "any -> DOUBLE", "log2 entropy of the values; 0 for none", _S("any -> DOUBLE")),
        *(Function(name, "number -> DOUBLE", meaning, _S("DOUBLE -> DOUBLE")) for name, meaning in _SHAPES.items()),
        Function("regr_count", "y, x -> BIGINT", "pairs without a NULL", _S("DOUBLE, DOUBLE -> BIGINT")),
        *(Function(name, "y, x -> DOUBLE", meaning, _PAIR) for name, meaning in _PAIRS.items()),
    ]
)

COLLECTED = frozenset(
    ("string_agg", "quantile_cont", "quantile_disc", "mode", "entropy", "regr_count", *_SHAPES, *_PAIRS)
)
"""Aggregates that need the rows of a group together: they are kept until the group is whole."""


def is_collected(aggregation: Aggregation) -> bool:
    """Whether the rows of a group must be kept: for these functions and those written in Python, and where an order
    decides (first, last)."""
    return aggregation.function in COLLECTED or bool(aggregation.order) or isinstance(aggregation, PythonAggregation)
