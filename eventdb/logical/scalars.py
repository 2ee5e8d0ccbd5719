"""Every scalar function and operator. The rules that hold for all are in functions.py."""

from __future__ import annotations

from eventdb.logical.signatures import (
    TIME_ADD,
    TIME_SUBTRACT,
    Function,
    additive,
    comparison,
    define,
    divide,
    logic,
    modulo,
    multiply,
    overloads,
    round_,
    same_number,
    unified,
    whole,
)

DATE_PARTS = (
    "year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond",
    "dow", "isodow", "doy", "isoyear",
)  # fmt: skip
TRUNC_UNITS = (
    "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year",
)  # fmt: skip

_S = overloads
_TEXT2 = _S("VARCHAR, VARCHAR -> BOOLEAN")
_FLOAT1 = _S("DOUBLE -> DOUBLE")

_OPERATORS = [
    Function(
        "add",
        "number, number | DATE, BIGINT | TIMESTAMP, INTERVAL | INTERVAL, INTERVAL",
        "sum; DATE + days -> DATE",
        additive(TIME_ADD),
        raises=True,
    ),
    Function(
        "subtract",
        "as add, and TIMESTAMP, TIMESTAMP -> INTERVAL | DATE, DATE -> BIGINT days",
        "difference",
        additive(TIME_SUBTRACT),
        raises=True,
    ),
    Function(
        "multiply",
        "number, number | INTERVAL, BIGINT | INTERVAL, DOUBLE (rounds half to even)",
        "product; DECIMAL arguments keep their own scales, the result's scale is the sum",
        multiply,
        raises=True,
    ),
    Function(
        "divide",
        "integer, integer | float, float | INTERVAL, DOUBLE",
        "integers truncate toward zero; a zero divisor raises for every type; BIGINT min / -1 raises",
        divide,
        raises=True,
    ),
    Function(
        "modulo",
        "number, number of one type",
        "remainder with the dividend's sign; a zero divisor raises; min % -1 is 0",
        modulo,
        raises=True,
    ),
    Function("negate", "number | INTERVAL", "the smallest integer raises", same_number, raises=True),
    Function("eq", "common, common -> BOOLEAN", "equal", comparison),
    Function("ne", "common, common -> BOOLEAN", "not equal", comparison),
    Function("lt", "common, common -> BOOLEAN", "less; false < true; BLOB by bytes", comparison),
    Function("le", "common, common -> BOOLEAN", "less or equal", comparison),
    Function("gt", "common, common -> BOOLEAN", "greater", comparison),
    Function("ge", "common, common -> BOOLEAN", "greater or equal", comparison),
    Function(
        "is_distinct_from",
        "common, common -> BOOLEAN",
        "ne where NULL equals NULL; never NULL",
        comparison,
        strict=False,
    ),
    Function(
        "is_not_distinct_from",
        "common, common -> BOOLEAN",
        "eq where NULL equals NULL; never NULL",
        comparison,
        strict=False,
    ),
    Function(
        "and",
        "BOOLEAN, BOOLEAN, ... -> BOOLEAN",
        "three-valued; a later argument is not evaluated for rows where an earlier one is false",
        logic,
        strict=False,
    ),
    Function(
        "or",
        "BOOLEAN, BOOLEAN, ... -> BOOLEAN",
        "three-valued; a later argument is not evaluated for rows where an earlier one is true",
        logic,
        strict=False,
    ),
    Function("not", "BOOLEAN -> BOOLEAN", "NULL stays NULL", _S("BOOLEAN -> BOOLEAN")),
    Function("is_null", "any -> BOOLEAN", "never NULL", _S("any -> BOOLEAN"), strict=False),
    Function("is_not_null", "any -> BOOLEAN", "never NULL", _S("any -> BOOLEAN"), strict=False),
    Function(
        "like",
        "VARCHAR, VARCHAR pattern -> BOOLEAN",
        "% any run, _ one code point, backslash quotes the next character; matches the whole "
        "string, newlines included; a pattern that ends in a lone backslash raises",
        _TEXT2,
        raises=True,
    ),
    Function(
        "ilike", "VARCHAR, VARCHAR pattern -> BOOLEAN", "like without case (both sides lowered)", _TEXT2, raises=True
    ),
    Function("concat_op", "VARCHAR, VARCHAR -> VARCHAR", "the || operator", _S("text, text -> VARCHAR")),
]

_CONDITIONAL = [
    Function(
        "coalesce",
        "common, ... -> common",
        "first argument that is not NULL; later ones are evaluated only for rows that reach them",
        unified,
        strict=False,
    ),
    Function(
        "greatest", "common, ... -> common", "largest argument that is not NULL, NULL if all are", unified, strict=False
    ),
    Function(
        "least", "common, ... -> common", "smallest argument that is not NULL, NULL if all are", unified, strict=False
    ),
]

_MATH = [
    Function("abs", "number | INTERVAL -> same", "the smallest integer raises", same_number, raises=True),
    Function("sign", "number -> same", "-1, 0 or 1 in the argument's type (DECIMAL: at its scale)", same_number),
    Function(
        "floor", "float -> same | DECIMAL(p,s) -> DECIMAL(p-s+1,0) | integer (unchanged)", "toward -infinity", whole
    ),
    Function("ceil", "as floor", "toward +infinity", whole),
    Function("trunc", "as floor", "toward zero", whole),
    Function(
        "round",
        "as floor | number, BIGINT digits -> same",
        "half away from zero; negative digits round before the point; an integer or DECIMAL that "
        "leaves its range raises",
        round_,
        raises=True,
    ),
    Function("sqrt", "DOUBLE -> DOUBLE", "a negative argument raises", _FLOAT1, raises=True),
    Function(
        "power",
        "DOUBLE, DOUBLE -> DOUBLE",
        "raises where the result is NaN though no argument is, and for 0 to a negative power",
        _S("DOUBLE, DOUBLE -> DOUBLE"),
        raises=True,
    ),
    Function("exp", "DOUBLE -> DOUBLE", "e to the argument; overflows to infinity", _FLOAT1),
    Function("ln", "DOUBLE -> DOUBLE", "zero or less raises", _FLOAT1, raises=True),
    Function("log10", "DOUBLE -> DOUBLE", "zero or less raises", _FLOAT1, raises=True),
    Function("log2", "DOUBLE -> DOUBLE", "zero or less raises", _FLOAT1, raises=True),
    Function("sin", "DOUBLE -> DOUBLE", "radians", _FLOAT1),
    Function("cos", "DOUBLE -> DOUBLE", "radians", _FLOAT1),
    Function("tan", "DOUBLE -> DOUBLE", "radians", _FLOAT1),
    Function("asin", "DOUBLE -> DOUBLE", "outside [-1, 1] raises", _FLOAT1, raises=True),
    Function("acos", "DOUBLE -> DOUBLE", "outside [-1, 1] raises", _FLOAT1, raises=True),
    Function("atan", "DOUBLE -> DOUBLE", "radians", _FLOAT1),
    Function("atan2", "DOUBLE y, DOUBLE x -> DOUBLE", "radians", _S("DOUBLE, DOUBLE -> DOUBLE")),
    Function("isnan", "float -> BOOLEAN", "whether it is NaN", _S("float -> BOOLEAN")),
    Function("isfinite", "float -> BOOLEAN", "whether it is neither NaN nor infinite", _S("float -> BOOLEAN")),
]

_STRINGS = [
    Function("upper", "VARCHAR -> VARCHAR", "Unicode upper case", _S("VARCHAR -> VARCHAR")),
    Function("lower", "VARCHAR -> VARCHAR", "Unicode lower case", _S("VARCHAR -> VARCHAR")),
    Function(
        "length",
        "VARCHAR -> BIGINT | BLOB -> BIGINT",
        "code points, or bytes of a BLOB",
        _S("VARCHAR -> BIGINT", "BLOB -> BIGINT"),
    ),
    Function(
        "substr",
        "VARCHAR, BIGINT start[, BIGINT count] -> VARCHAR",
        "from the 1-based start; as in PostgreSQL positions before 1 are empty but count "
        "(substr('abc', 0, 2) = 'a'); a negative count raises",
        _S("VARCHAR, BIGINT -> VARCHAR", "VARCHAR, BIGINT, BIGINT -> VARCHAR"),
        raises=True,
    ),
    Function(
        "trim",
        "VARCHAR[, VARCHAR characters] -> VARCHAR",
        "removes those characters (default: space) at both ends",
        _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR"),
    ),
    Function("ltrim", "as trim", "at the start", _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR")),
    Function("rtrim", "as trim", "at the end", _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR")),
    Function(
        "replace",
        "VARCHAR, VARCHAR from, VARCHAR to -> VARCHAR",
        "every occurrence; an empty `from` changes nothing",
        _S("VARCHAR, VARCHAR, VARCHAR -> VARCHAR"),
    ),
    Function(
        "concat",
        "VARCHAR, ... -> VARCHAR",
        "NULL arguments are skipped; '' if all are NULL",
        _S("text, ... -> VARCHAR"),
        strict=False,
    ),
    Function(
        "concat_ws",
        "VARCHAR separator, VARCHAR, ... -> VARCHAR",
        "NULL arguments are skipped with their separator; a NULL separator gives NULL",
        _S("VARCHAR, text, ... -> VARCHAR"),
        strict=False,
    ),
    Function("starts_with", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string starts every string", _TEXT2),
    Function("ends_with", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string ends every string", _TEXT2),
    Function("contains", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string is in every string", _TEXT2),
    Function(
        "strpos",
        "VARCHAR, VARCHAR part -> BIGINT",
        "1-based place of the first occurrence, 0 if none, 1 for ''",
        _S("VARCHAR, VARCHAR -> BIGINT"),
    ),
    Function(
        "left",
        "VARCHAR, BIGINT n -> VARCHAR",
        "first n; negative n: all but the last |n|",
        _S("VARCHAR, BIGINT -> VARCHAR"),
    ),
    Function(
        "right",
        "VARCHAR, BIGINT n -> VARCHAR",
        "last n; negative n: all but the first |n|",
        _S("VARCHAR, BIGINT -> VARCHAR"),
    ),
    Function(
        "lpad",
        "VARCHAR, BIGINT n, VARCHAR fill -> VARCHAR",
        "filled on the left to n, cut to its first n if longer; empty fill leaves it; n <= 0 "
        "gives ''; more than 64 MiB raises",
        _S("VARCHAR, BIGINT, VARCHAR -> VARCHAR"),
        raises=True,
    ),
    Function("rpad", "as lpad", "filled on the right", _S("VARCHAR, BIGINT, VARCHAR -> VARCHAR"), raises=True),
    Function("reverse", "VARCHAR -> VARCHAR", "code points backwards", _S("VARCHAR -> VARCHAR")),
    Function(
        "repeat",
        "VARCHAR, BIGINT n -> VARCHAR",
        "n <= 0 gives ''; more than 64 MiB raises",
        _S("VARCHAR, BIGINT -> VARCHAR"),
        raises=True,
    ),
    Function(
        "split_part",
        "VARCHAR, VARCHAR separator, BIGINT n -> VARCHAR",
        "the n-th part from 1 (negative: from the end), '' beyond; n = 0 raises; an empty "
        "separator has one part: the string",
        _S("VARCHAR, VARCHAR, BIGINT -> VARCHAR"),
        raises=True,
    ),
    Function(
        "md5",
        "VARCHAR -> VARCHAR",
        "lower-case hex digest of the UTF-8 bytes",
        _S("VARCHAR -> VARCHAR", "BLOB -> VARCHAR"),
    ),
]

_TIMES = [
    Function(
        "now",
        "-> TIMESTAMP",
        "the moment the statement began; the same everywhere in it",
        _S(" -> TIMESTAMP"),
        volatile=True,
    ),
    Function(
        "date_trunc",
        "VARCHAR unit, TIMESTAMP -> TIMESTAMP",
        f"start of the unit ({', '.join(TRUNC_UNITS)}) that holds it; weeks start on Monday",
        _S("VARCHAR, TIMESTAMP -> TIMESTAMP"),
        literals=(0,),
    ),
    Function(
        "date_part",
        "VARCHAR part, TIMESTAMP -> BIGINT",
        f"{', '.join(DATE_PARTS)}: second is 0-59 without fraction, millisecond and microsecond include the "
        "seconds; week and isoyear are ISO; dow Sunday = 0, isodow Monday = 1 to Sunday = 7, doy from 1",
        _S("VARCHAR, TIMESTAMP -> BIGINT"),
        literals=(0,),
    ),
    Function(
        "epoch",
        "TIMESTAMP -> DOUBLE | INTERVAL -> DOUBLE",
        "seconds with fraction",
        _S("TIMESTAMP -> DOUBLE", "INTERVAL -> DOUBLE"),
    ),
    Function(
        "epoch_ms",
        "TIMESTAMP -> BIGINT | INTERVAL -> BIGINT",
        "milliseconds, floor",
        _S("TIMESTAMP -> BIGINT", "INTERVAL -> BIGINT"),
    ),
    Function(
        "epoch_us",
        "TIMESTAMP -> BIGINT | INTERVAL -> BIGINT",
        "microseconds",
        _S("TIMESTAMP -> BIGINT", "INTERVAL -> BIGINT"),
    ),
    Function(
        "to_timestamp",
        "DOUBLE seconds -> TIMESTAMP",
        "rounded half to even to microseconds; NaN, infinity and out of range raise",
        _S("DOUBLE -> TIMESTAMP"),
        raises=True,
    ),
    Function(
        "make_timestamp",
        "BIGINT us -> TIMESTAMP | BIGINT year, month, day, hour, minute, DOUBLE second -> TIMESTAMP",
        "a field out of range raises (year 1 to 9999, second [0, 60))",
        _S("BIGINT -> TIMESTAMP", "BIGINT, BIGINT, BIGINT, BIGINT, BIGINT, DOUBLE -> TIMESTAMP"),
        raises=True,
    ),
    Function(
        "make_date",
        "BIGINT year, month, day -> DATE",
        "a field out of range raises",
        _S("BIGINT, BIGINT, BIGINT -> DATE"),
        raises=True,
    ),
    Function(
        "strftime",
        "TIMESTAMP, VARCHAR format -> VARCHAR",
        "%Y %y %m %d %H %I %M %S %f %p %j %a %A %b %B %u %w %V %G %F %T %s %%, English names; "
        "others raise at bind time",
        _S("TIMESTAMP, VARCHAR -> VARCHAR"),
        literals=(1,),
    ),
    Function(
        "strptime",
        "VARCHAR, VARCHAR format -> TIMESTAMP",
        "the inverse of strftime; text that does not fit raises",
        _S("VARCHAR, VARCHAR -> TIMESTAMP"),
        raises=True,
        literals=(1,),
    ),
    Function(
        "time_bucket",
        "INTERVAL width, TIMESTAMP -> TIMESTAMP",
        "start of the bucket of that width (> 0) that holds it; buckets start at multiples of the "
        "width since 1970-01-01",
        _S("INTERVAL, TIMESTAMP -> TIMESTAMP"),
        literals=(0,),
    ),
    Function(
        "month_bucket",
        "BIGINT months, TIMESTAMP -> TIMESTAMP",
        "time_bucket by months (> 0) since 1970-01",
        _S("BIGINT, TIMESTAMP -> TIMESTAMP"),
        literals=(0,),
    ),
    Function(
        "add_months",
        "TIMESTAMP, BIGINT months -> TIMESTAMP",
        "same day and time that many months later, the day clipped to the month's last (Jan 31 + "
        "1 = Feb 28); out of years 1 to 9999 raises",
        _S("TIMESTAMP, BIGINT -> TIMESTAMP"),
        raises=True,
    ),
]

SCALARS: dict[str, Function] = define([*_OPERATORS, *_CONDITIONAL, *_MATH, *_STRINGS, *_TIMES])
