"""The one registry of scalar and aggregate functions: names, argument types, result types, NULLs, errors.

The binder resolves every SQL operator and function to a name of SCALARS or AGGREGATES and casts the arguments to the
types `resolve` returns, so an implementation sees exactly the listed types and never mixes them. Rules that hold for all:

* **Types.** `common` arguments have one equal type. Integer arithmetic has both arguments and the result in the wider
  integer type; float arithmetic in DOUBLE (FLOAT only if both are FLOAT); DECIMAL add/subtract/modulo have both arguments
  and the result at one scale, DECIMAL multiply keeps the arguments' scales and the result's scale is their sum.
  A DECIMAL that would need more than 18 digits, DECIMAL with a float, and every DECIMAL division become DOUBLE.
* **NULL.** `strict`: NULL in any argument gives NULL, and the function is not evaluated there (no error from such rows).
  The others say what they do.
* **Errors.** `raises`: some values make an EvaluationError (integer and DECIMAL overflow, a zero divisor of any numeric type,
  sqrt of a negative). Floats follow IEEE otherwise: they overflow to infinity. Rows that a filter, CASE, COALESCE, AND or
  OR keeps away must not raise.
* **Literals.** `literals` are the argument positions that are always a Literal in a plan (units, formats, widths).
* **Intervals** in a plan are exact microseconds: the binder turns months into `add_months` and `month_bucket`.
* **Strings** are counted in code points and compared by code point. NaN compares as in IEEE, but sorts last, equals
  itself in GROUP BY and DISTINCT, and is the greatest value for min and max.

Casts (`Cast`, the failing ones raise, TRY_CAST gives NULL): number to number (out of range fails; float to integer rounds half to even,
DECIMAL to integer or to a smaller scale rounds half away from zero; float to DECIMAL rounds half away; NaN and infinity fail); BOOLEAN to
numbers 0/1 and numbers to BOOLEAN (not zero); DATE to TIMESTAMP (midnight) and back (floor); every type to VARCHAR: 'true'/'false', shortest
round-trip floats as Python prints them, DECIMAL with all its scale, `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS[.ffffff without trailing zeros]`, BLOB as
UTF-8 (invalid fails), INTERVAL as `[-]H:MM:SS[.f]` hours unbounded; VARCHAR (spaces around it ignored) to numbers ('1e3' only to floats and
DECIMAL; 'inf', 'nan' to floats), to BOOLEAN (true/false/t/f/yes/no/on/off/1/0 in any case), DATE (YYYY-MM-DD), TIMESTAMP (date, then optional
'T' or space, HH:MM[:SS[.f]], then optional Z or +HH[:MM], result in UTC), BLOB (UTF-8). The NULL type casts to everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventdb.logical.expressions import Aggregation, Call, Case, Cast, ColumnRef, Expression, InList, Literal, walk
from eventdb.schema import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    DOUBLE,
    FLOAT,
    INTEGER,
    INTERVAL,
    NULL,
    SMALLINT,
    TIMESTAMP,
    TINYINT,
    VARCHAR,
    DataType,
    decimal_type,
)

Resolution = tuple[tuple[DataType, ...], DataType]
Resolver = Callable[[Sequence[DataType]], Resolution | None]

_INTEGERS = (TINYINT, SMALLINT, INTEGER, BIGINT)
_DIGITS = {"TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19}

DATE_PARTS = (
    "year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond",
    "dow", "isodow", "doy", "isoyear",
)  # fmt: skip
TRUNC_UNITS = (
    "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """`resolve(argument types)` gives the types the arguments are cast to and the result type, or None if they do not fit.

    `volatile` functions (only `now`) have one value per statement but are not a function of the row alone.
    """

    name: str
    signature: str
    meaning: str
    resolve: Resolver
    strict: bool = True
    raises: bool = False
    volatile: bool = False
    literals: tuple[int, ...] = ()


# --- types --------------------------------------------------------------------------------------------------------


def common_type(left: DataType, right: DataType) -> DataType | None:
    """The type in which both are compared, unified in CASE, COALESCE, IN and UNION; None if there is none."""
    if left == right:
        return left
    if left.name == "NULL":
        return right
    if right.name == "NULL":
        return left
    if left.is_integer and right.is_integer:
        return max(left, right, key=lambda t: t.width_bytes)
    if left.is_numeric and right.is_numeric:
        if left.is_float or right.is_float:
            return DOUBLE
        a, b = as_decimal(left), as_decimal(right)
        if a is None or b is None:
            return DOUBLE
        scale = max(a.scale, b.scale)
        digits = max(a.precision - a.scale, b.precision - b.scale) + scale
        return decimal_type(digits, scale) if digits <= 18 else DOUBLE
    if {left.name, right.name} == {"DATE", "TIMESTAMP"}:
        return TIMESTAMP
    return None


def as_decimal(type: DataType) -> DataType | None:
    """The DECIMAL that holds every value of an integer or DECIMAL type; None for BIGINT (19 digits) and others."""
    if type.name == "DECIMAL":
        return type
    digits = _DIGITS.get(type.name, 99)
    return decimal_type(digits, 0) if digits <= 18 else None


def castable(source: DataType, target: DataType) -> bool:
    """Whether CAST(source AS target) exists."""
    if source == target or source.name == "NULL" or target.name == "VARCHAR":
        return True
    if target.name in ("NULL", "INTERVAL"):
        return False
    if source.name == "VARCHAR":
        return True
    numbers = source.is_numeric or source.name == "BOOLEAN"
    if numbers and (target.is_numeric or target.name == "BOOLEAN"):
        return True
    return source.name in ("DATE", "TIMESTAMP") and target.name in ("DATE", "TIMESTAMP")


def cast_may_fail(source: DataType, target: DataType) -> bool:
    """Whether some value of `source` does not fit `target`."""
    if (
        source == target
        or source.name in ("NULL", "BOOLEAN", "DATE", "TIMESTAMP", "INTERVAL")
        and target.name != "BLOB"
    ):
        return False
    if target.name == "BOOLEAN":
        return source.name == "VARCHAR"
    if target.name == "VARCHAR":
        return source.name == "BLOB"
    if target.name == "BLOB":
        return False
    if target.name == "DOUBLE" or source.is_integer and target.name == "FLOAT":
        return not source.is_numeric
    if source.is_integer and target.is_integer:
        return source.width_bytes > target.width_bytes
    if target.name == "DECIMAL":
        exact = as_decimal(source)
        return (
            exact is None
            or exact.precision - exact.scale > target.precision - target.scale
            or exact.scale > target.scale
        )
    return True


def _number(types: Sequence[DataType]) -> DataType | None:
    """The numeric type of an arithmetic result over these types; NULLs alone are BIGINT."""
    result: DataType | None = NULL
    for type in types:
        if not (type.is_numeric or type.name == "NULL") or result is None:
            return None
        result = common_type(result, type)
    return BIGINT if result == NULL else result


# --- overloads ----------------------------------------------------------------------------------------------------

_KINDS: dict[str, tuple[DataType, Callable[[DataType], bool]]] = {
    "BOOLEAN": (BOOLEAN, lambda t: False),
    "BIGINT": (BIGINT, lambda t: t.is_integer),
    "DOUBLE": (DOUBLE, lambda t: t.is_numeric),
    "FLOAT": (FLOAT, lambda t: False),
    "VARCHAR": (VARCHAR, lambda t: False),
    "BLOB": (BLOB, lambda t: False),
    "DATE": (DATE, lambda t: False),
    "TIMESTAMP": (TIMESTAMP, lambda t: t.name == "DATE"),
    "INTERVAL": (INTERVAL, lambda t: False),
}


def _accept(kind: str, type: DataType) -> DataType | None:
    """The type an argument of `type` is cast to for a parameter of `kind`, None if it does not fit."""
    if kind == "any":
        return type
    if kind == "text":
        return VARCHAR
    if kind == "integer":
        return type if type.is_integer else BIGINT if type.name == "NULL" else None
    if kind == "float":
        return type if type.is_float else DOUBLE if type.name == "NULL" else None
    if kind == "decimal":
        return type if type.name == "DECIMAL" else None
    exact, converts = _KINDS[kind]
    return exact if type == exact or type.name == "NULL" or converts(type) else None


def _overloads(*signatures: str) -> Resolver:
    """A resolver from texts such as 'VARCHAR, BIGINT -> VARCHAR'; the first that fits wins.

    Kinds: a type name (with the widening casts integer -> BIGINT, number -> DOUBLE, DATE -> TIMESTAMP), integer, float and decimal
    (kept as they are), text (anything, cast to VARCHAR), any. `...` repeats the last kind. Result: a type name, or
    `first` = the first argument's type.
    """
    parsed = []
    for signature in signatures:
        left, result = signature.split(" -> ")
        kinds = [kind for kind in left.replace(" ", "").split(",") if kind]
        repeated = bool(kinds) and kinds[-1] == "..."
        parsed.append((kinds[:-1] if repeated else kinds, repeated, result))

    def resolve(types: Sequence[DataType]) -> Resolution | None:
        for kinds, repeated, result in parsed:
            if len(types) < len(kinds) or (len(types) > len(kinds) and not repeated):
                continue
            wanted = []
            for i, type in enumerate(types):
                accepted = _accept(kinds[min(i, len(kinds) - 1)], type)
                if accepted is None:
                    break
                wanted.append(accepted)
            else:
                return tuple(wanted), wanted[0] if result == "first" else _KINDS[result][0]
        return None

    return resolve


def _common(types: Sequence[DataType], least: int = 2) -> DataType | None:
    """The common type of at least `least` types; NULLs alone stay NULL."""
    if len(types) < least:
        return None
    result: DataType | None = types[0]
    for type in types[1:]:
        if result is None:
            return None
        result = common_type(result, type)
    return result


def _comparison(types: Sequence[DataType]) -> Resolution | None:
    type = _common(types) if len(types) == 2 else None
    if type is None:
        return None
    type = BOOLEAN if type == NULL else type
    return (type, type), BOOLEAN


def _unified(types: Sequence[DataType]) -> Resolution | None:
    type = _common(types, 1)
    return None if type is None else ((type,) * len(types), type)


def _logic(types: Sequence[DataType]) -> Resolution | None:
    if len(types) < 2 or any(t.name not in ("BOOLEAN", "NULL") for t in types):
        return None
    return (BOOLEAN,) * len(types), BOOLEAN


_TIME_ADD = _overloads("DATE, BIGINT -> DATE", "TIMESTAMP, INTERVAL -> TIMESTAMP", "INTERVAL, INTERVAL -> INTERVAL")
_TIME_SUBTRACT = _overloads(
    "DATE, BIGINT -> DATE",
    "DATE, DATE -> BIGINT",
    "TIMESTAMP, INTERVAL -> TIMESTAMP",
    "TIMESTAMP, TIMESTAMP -> INTERVAL",
    "INTERVAL, INTERVAL -> INTERVAL",
)


def _additive(other: Resolver) -> Resolver:
    def resolve(types: Sequence[DataType]) -> Resolution | None:
        if len(types) != 2:
            return None
        type = _number(types)
        if type is None:
            return other(types)
        if type.name == "DECIMAL":
            digits = min(18, type.precision + 1)
            wide = decimal_type(digits, type.scale)
            return (wide, wide), wide
        return (type, type), type

    return resolve


def _multiply(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return None
    type = _number(types)
    if type is None:
        return _overloads("INTERVAL, BIGINT -> INTERVAL", "INTERVAL, DOUBLE -> INTERVAL")(types)
    if type.name == "DECIMAL":
        left, right = (as_decimal(t) or type for t in types)
        scale = left.scale + right.scale
        if scale > 18:
            return (DOUBLE, DOUBLE), DOUBLE
        return (left, right), decimal_type(min(18, left.precision + right.precision), scale)
    return (type, type), type


def _divide(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return None
    type = _number(types)
    if type is None:
        return _overloads("INTERVAL, DOUBLE -> INTERVAL")(types)
    type = DOUBLE if type.name == "DECIMAL" else type
    return (type, type), type


def _modulo(types: Sequence[DataType]) -> Resolution | None:
    type = _number(types) if len(types) == 2 else None
    return None if type is None else ((type, type), type)


def _same_number(types: Sequence[DataType]) -> Resolution | None:
    """One number (or INTERVAL), kept as it is."""
    if len(types) != 1 or not (types[0].is_numeric or types[0].name in ("INTERVAL", "NULL")):
        return None
    type = BIGINT if types[0] == NULL else types[0]
    return (type,), type


def _whole(types: Sequence[DataType]) -> Resolution | None:
    """floor, ceil, trunc, round: floats and integers keep their type, DECIMAL(p,s) loses its scale."""
    if not 1 <= len(types) <= 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    type = types[0]
    if type.name == "DECIMAL":
        return (type,), decimal_type(min(18, type.precision - type.scale + 1), 0)
    return ((DOUBLE,), DOUBLE) if type == NULL else ((type,), type)


def _round(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return _whole(types)
    return _overloads("integer, BIGINT -> first", "float, BIGINT -> first", "decimal, BIGINT -> first")(types)


# --- scalar functions ---------------------------------------------------------------------------------------------


def _define(functions: Sequence[Function]) -> dict[str, Function]:
    return {function.name: function for function in functions}


_S = _overloads
_TEXT2 = _S("VARCHAR, VARCHAR -> BOOLEAN")
_FLOAT1 = _S("DOUBLE -> DOUBLE")

_OPERATORS = [
    Function("add", "number, number | DATE, BIGINT | TIMESTAMP, INTERVAL | INTERVAL, INTERVAL",
             "sum; DATE + days -> DATE", _additive(_TIME_ADD), raises=True),
    Function("subtract", "as add, and TIMESTAMP, TIMESTAMP -> INTERVAL | DATE, DATE -> BIGINT days",
             "difference", _additive(_TIME_SUBTRACT), raises=True),
    Function("multiply", "number, number | INTERVAL, BIGINT | INTERVAL, DOUBLE (rounds half to even)",
             "product; DECIMAL arguments keep their own scales, the result's scale is the sum", _multiply, raises=True),
    Function("divide", "integer, integer | float, float | INTERVAL, DOUBLE",
             "integers truncate toward zero; a zero divisor raises for every type; BIGINT min / -1 raises",
             _divide, raises=True),
    Function("modulo", "number, number of one type",
             "remainder with the dividend's sign; a zero divisor raises; min % -1 is 0", _modulo, raises=True),
    Function("negate", "number | INTERVAL", "the smallest integer raises", _same_number, raises=True),
    Function("eq", "common, common -> BOOLEAN", "equal", _comparison),
    Function("ne", "common, common -> BOOLEAN", "not equal", _comparison),
    Function("lt", "common, common -> BOOLEAN", "less; false < true; BLOB by bytes", _comparison),
    Function("le", "common, common -> BOOLEAN", "less or equal", _comparison),
    Function("gt", "common, common -> BOOLEAN", "greater", _comparison),
    Function("ge", "common, common -> BOOLEAN", "greater or equal", _comparison),
    Function("is_distinct_from", "common, common -> BOOLEAN", "ne where NULL equals NULL; never NULL", _comparison, strict=False),
    Function("is_not_distinct_from", "common, common -> BOOLEAN", "eq where NULL equals NULL; never NULL", _comparison, strict=False),
    Function("and", "BOOLEAN, BOOLEAN, ... -> BOOLEAN",
             "three-valued; a later argument is not evaluated for rows where an earlier one is false", _logic, strict=False),
    Function("or", "BOOLEAN, BOOLEAN, ... -> BOOLEAN",
             "three-valued; a later argument is not evaluated for rows where an earlier one is true", _logic, strict=False),
    Function("not", "BOOLEAN -> BOOLEAN", "NULL stays NULL", _S("BOOLEAN -> BOOLEAN")),
    Function("is_null", "any -> BOOLEAN", "never NULL", _S("any -> BOOLEAN"), strict=False),
    Function("is_not_null", "any -> BOOLEAN", "never NULL", _S("any -> BOOLEAN"), strict=False),
    Function("like", "VARCHAR, VARCHAR pattern -> BOOLEAN",
             "% any run, _ one code point, backslash quotes the next character; matches the whole string, newlines included; "
             "a pattern that ends in a lone backslash raises", _TEXT2, raises=True),
    Function("ilike", "VARCHAR, VARCHAR pattern -> BOOLEAN", "like without case (both sides lowered)", _TEXT2, raises=True),
    Function("concat_op", "VARCHAR, VARCHAR -> VARCHAR", "the || operator", _S("text, text -> VARCHAR")),
]  # fmt: skip

_CONDITIONAL = [
    Function("coalesce", "common, ... -> common",
             "first argument that is not NULL; later ones are evaluated only for rows that reach them", _unified, strict=False),
    Function("greatest", "common, ... -> common", "largest argument that is not NULL, NULL if all are", _unified, strict=False),
    Function("least", "common, ... -> common", "smallest argument that is not NULL, NULL if all are", _unified, strict=False),
]  # fmt: skip

_MATH = [
    Function("abs", "number | INTERVAL -> same", "the smallest integer raises", _same_number, raises=True),
    Function("sign", "number -> same", "-1, 0 or 1 in the argument's type (DECIMAL: at its scale)", _same_number),
    Function("floor", "float -> same | DECIMAL(p,s) -> DECIMAL(p-s+1,0) | integer (unchanged)", "toward -infinity", _whole),
    Function("ceil", "as floor", "toward +infinity", _whole),
    Function("trunc", "as floor", "toward zero", _whole),
    Function("round", "as floor | number, BIGINT digits -> same",
             "half away from zero; negative digits round before the point; an integer or DECIMAL that leaves its range raises", _round, raises=True),
    Function("sqrt", "DOUBLE -> DOUBLE", "a negative argument raises", _FLOAT1, raises=True),
    Function("power", "DOUBLE, DOUBLE -> DOUBLE",
             "raises where the result is NaN though no argument is, and for 0 to a negative power", _S("DOUBLE, DOUBLE -> DOUBLE"), raises=True),
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
]  # fmt: skip

_STRINGS = [
    Function("upper", "VARCHAR -> VARCHAR", "Unicode upper case", _S("VARCHAR -> VARCHAR")),
    Function("lower", "VARCHAR -> VARCHAR", "Unicode lower case", _S("VARCHAR -> VARCHAR")),
    Function("length", "VARCHAR -> BIGINT | BLOB -> BIGINT", "code points, or bytes of a BLOB", _S("VARCHAR -> BIGINT", "BLOB -> BIGINT")),
    Function("substr", "VARCHAR, BIGINT start[, BIGINT count] -> VARCHAR",
             "from the 1-based start; as in PostgreSQL positions before 1 are empty but count (substr('abc', 0, 2) = 'a'); a negative count raises",
             _S("VARCHAR, BIGINT -> VARCHAR", "VARCHAR, BIGINT, BIGINT -> VARCHAR"), raises=True),
    Function("trim", "VARCHAR[, VARCHAR characters] -> VARCHAR", "removes those characters (default: space) at both ends",
             _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR")),
    Function("ltrim", "as trim", "at the start", _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR")),
    Function("rtrim", "as trim", "at the end", _S("VARCHAR -> VARCHAR", "VARCHAR, VARCHAR -> VARCHAR")),
    Function("replace", "VARCHAR, VARCHAR from, VARCHAR to -> VARCHAR", "every occurrence; an empty `from` changes nothing",
             _S("VARCHAR, VARCHAR, VARCHAR -> VARCHAR")),
    Function("concat", "VARCHAR, ... -> VARCHAR", "NULL arguments are skipped; '' if all are NULL", _S("text, ... -> VARCHAR"), strict=False),
    Function("concat_ws", "VARCHAR separator, VARCHAR, ... -> VARCHAR",
             "NULL arguments are skipped with their separator; a NULL separator gives NULL", _S("VARCHAR, text, ... -> VARCHAR"), strict=False),
    Function("starts_with", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string starts every string", _TEXT2),
    Function("ends_with", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string ends every string", _TEXT2),
    Function("contains", "VARCHAR, VARCHAR -> BOOLEAN", "the empty string is in every string", _TEXT2),
    Function("strpos", "VARCHAR, VARCHAR part -> BIGINT", "1-based place of the first occurrence, 0 if none, 1 for ''", _S("VARCHAR, VARCHAR -> BIGINT")),
    Function("left", "VARCHAR, BIGINT n -> VARCHAR", "first n; negative n: all but the last |n|", _S("VARCHAR, BIGINT -> VARCHAR")),
    Function("right", "VARCHAR, BIGINT n -> VARCHAR", "last n; negative n: all but the first |n|", _S("VARCHAR, BIGINT -> VARCHAR")),
    Function("lpad", "VARCHAR, BIGINT n, VARCHAR fill -> VARCHAR",
             "filled on the left to n, cut to its first n if longer; empty fill leaves it; n <= 0 gives ''; more than 64 MiB raises",
             _S("VARCHAR, BIGINT, VARCHAR -> VARCHAR"), raises=True),
    Function("rpad", "as lpad", "filled on the right", _S("VARCHAR, BIGINT, VARCHAR -> VARCHAR"), raises=True),
    Function("reverse", "VARCHAR -> VARCHAR", "code points backwards", _S("VARCHAR -> VARCHAR")),
    Function("repeat", "VARCHAR, BIGINT n -> VARCHAR", "n <= 0 gives ''; more than 64 MiB raises", _S("VARCHAR, BIGINT -> VARCHAR"), raises=True),
    Function("split_part", "VARCHAR, VARCHAR separator, BIGINT n -> VARCHAR",
             "the n-th part from 1 (negative: from the end), '' beyond; n = 0 raises; an empty separator has one part: the string",
             _S("VARCHAR, VARCHAR, BIGINT -> VARCHAR"), raises=True),
    Function("md5", "VARCHAR -> VARCHAR", "lower-case hex digest of the UTF-8 bytes", _S("VARCHAR -> VARCHAR", "BLOB -> VARCHAR")),
]  # fmt: skip

_TIMES = [
    Function("now", "-> TIMESTAMP", "the moment the statement began; the same everywhere in it", _S(" -> TIMESTAMP"), volatile=True),
    Function("date_trunc", "VARCHAR unit, TIMESTAMP -> TIMESTAMP",
             f"start of the unit ({', '.join(TRUNC_UNITS)}) that holds it; weeks start on Monday", _S("VARCHAR, TIMESTAMP -> TIMESTAMP"), literals=(0,)),
    Function("date_part", "VARCHAR part, TIMESTAMP -> BIGINT",
             f"{', '.join(DATE_PARTS)}: second is 0-59 without fraction, millisecond and microsecond include the seconds; week and isoyear are ISO; "
             "dow Sunday = 0, isodow Monday = 1 to Sunday = 7, doy from 1", _S("VARCHAR, TIMESTAMP -> BIGINT"), literals=(0,)),
    Function("epoch", "TIMESTAMP -> DOUBLE | INTERVAL -> DOUBLE", "seconds with fraction", _S("TIMESTAMP -> DOUBLE", "INTERVAL -> DOUBLE")),
    Function("epoch_ms", "TIMESTAMP -> BIGINT | INTERVAL -> BIGINT", "milliseconds, floor", _S("TIMESTAMP -> BIGINT", "INTERVAL -> BIGINT")),
    Function("epoch_us", "TIMESTAMP -> BIGINT | INTERVAL -> BIGINT", "microseconds", _S("TIMESTAMP -> BIGINT", "INTERVAL -> BIGINT")),
    Function("to_timestamp", "DOUBLE seconds -> TIMESTAMP", "rounded half to even to microseconds; NaN, infinity and out of range raise",
             _S("DOUBLE -> TIMESTAMP"), raises=True),
    Function("make_timestamp", "BIGINT us -> TIMESTAMP | BIGINT year, month, day, hour, minute, DOUBLE second -> TIMESTAMP",
             "a field out of range raises (year 1 to 9999, second [0, 60))",
             _S("BIGINT -> TIMESTAMP", "BIGINT, BIGINT, BIGINT, BIGINT, BIGINT, DOUBLE -> TIMESTAMP"), raises=True),
    Function("make_date", "BIGINT year, month, day -> DATE", "a field out of range raises", _S("BIGINT, BIGINT, BIGINT -> DATE"), raises=True),
    Function("strftime", "TIMESTAMP, VARCHAR format -> VARCHAR",
             "%Y %y %m %d %H %I %M %S %f %p %j %a %A %b %B %u %w %V %G %F %T %s %%, English names; others raise at bind time",
             _S("TIMESTAMP, VARCHAR -> VARCHAR"), literals=(1,)),
    Function("strptime", "VARCHAR, VARCHAR format -> TIMESTAMP", "the inverse of strftime; text that does not fit raises",
             _S("VARCHAR, VARCHAR -> TIMESTAMP"), raises=True, literals=(1,)),
    Function("time_bucket", "INTERVAL width, TIMESTAMP -> TIMESTAMP",
             "start of the bucket of that width (> 0) that holds it; buckets start at multiples of the width since 1970-01-01",
             _S("INTERVAL, TIMESTAMP -> TIMESTAMP"), literals=(0,)),
    Function("month_bucket", "BIGINT months, TIMESTAMP -> TIMESTAMP", "time_bucket by months (> 0) since 1970-01",
             _S("BIGINT, TIMESTAMP -> TIMESTAMP"), literals=(0,)),
    Function("add_months", "TIMESTAMP, BIGINT months -> TIMESTAMP",
             "same day and time that many months later, the day clipped to the month's last (Jan 31 + 1 = Feb 28); out of years 1 to 9999 raises",
             _S("TIMESTAMP, BIGINT -> TIMESTAMP"), raises=True),
]  # fmt: skip

SCALARS: dict[str, Function] = _define([*_OPERATORS, *_CONDITIONAL, *_MATH, *_STRINGS, *_TIMES])

# --- aggregates ---------------------------------------------------------------------------------------------------


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

AGGREGATES: dict[str, Function] = _define([
    Function("count_star", "-> BIGINT", "rows; 0 for none", _S(" -> BIGINT"), strict=False),
    Function("count", "any -> BIGINT", "values that are not NULL; 0 for none", _S("any -> BIGINT")),
    Function("sum", "integer -> BIGINT | float -> DOUBLE | DECIMAL(p,s) -> DECIMAL(18,s) | INTERVAL",
             "argument in its own type, accumulated in the result's; overflow raises; NULL for no value", _sum, raises=True),
    Function("avg", "number -> DOUBLE", "sum / count in DOUBLE, integers and DECIMAL summed exactly where they fit; NULL for no value", _average),
    Function("min", "any -> same", "least value; NULL for no value", _ANY1),
    Function("max", "any -> same", "greatest value; NULL for no value", _ANY1),
    Function("stddev_samp", "number -> DOUBLE", "square root of var_samp", _spread),
    Function("stddev_pop", "number -> DOUBLE", "square root of var_pop", _spread),
    Function("var_samp", "number -> DOUBLE", "divided by n - 1; NULL for fewer than two values; Welford or two-pass accuracy", _spread),
    Function("var_pop", "number -> DOUBLE", "divided by n; NULL for no value", _spread),
    Function("bool_and", "BOOLEAN -> BOOLEAN", "whether all values are true; NULL for no value", _BOOL1),
    Function("bool_or", "BOOLEAN -> BOOLEAN", "whether some value is true; NULL for no value", _BOOL1),
    Function("first", "any -> same", "value of the first row in input (offset) order, even if NULL; NULL for no row", _ANY1, strict=False),
    Function("last", "any -> same", "value of the last row in input (offset) order, even if NULL; NULL for no row", _ANY1, strict=False),
    Function("any_value", "any -> same", "first value that is not NULL", _ANY1),
])  # fmt: skip


# --- facts about expressions --------------------------------------------------------------------------------------


def may_raise(expression: Expression) -> bool:
    """Whether evaluating the expression on some row could raise, so that it must not be evaluated on more rows."""
    for node in walk(expression):
        if isinstance(node, Call):
            function = SCALARS[node.function]
            if function.raises and not _float_only(node):
                return True
        elif isinstance(node, Cast) and not node.safe and cast_may_fail(node.operand.type, node.type):
            return True
    return False


def _float_only(call: Call) -> bool:
    """Float add, subtract, multiply, negate and abs cannot raise, and neither can LIKE with a sound literal pattern."""
    if call.function in ("like", "ilike"):
        return isinstance(call.args[1], Literal) and not ends_in_escape(call.args[1].value)
    return call.function in ("add", "subtract", "multiply", "negate", "abs", "round") and call.type.is_float


def ends_in_escape(pattern: str | None) -> bool:
    """Whether a LIKE pattern ends in a backslash that quotes nothing."""
    return pattern is not None and (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def is_volatile(expression: Expression) -> bool:
    """Whether the value depends on more than the row (now())."""
    return any(isinstance(node, Call) and SCALARS[node.function].volatile for node in walk(expression))


def aggregation_type(aggregation: Aggregation) -> DataType:
    """The result type the registry gives an aggregation."""
    resolved = AGGREGATES[aggregation.function].resolve([arg.type for arg in aggregation.args])
    assert resolved is not None, aggregation
    return resolved[1]


def may_be_null(expression: Expression, nullable: Sequence[bool]) -> bool:
    """Whether the value can be NULL when input column i can be NULL only if nullable[i]."""
    if isinstance(expression, Literal):
        return expression.value is None
    if isinstance(expression, ColumnRef):
        return nullable[expression.index]
    if isinstance(expression, Case):
        return any(may_be_null(result, nullable) for result in (*expression.results, expression.otherwise))
    if isinstance(expression, InList):
        return any(value.value is None for value in expression.values) or may_be_null(expression.operand, nullable)
    if isinstance(expression, Cast):
        return expression.safe or may_be_null(expression.operand, nullable)
    if isinstance(expression, Call):
        if expression.function in _NEVER_NULL:
            return False
        nulls = [may_be_null(arg, nullable) for arg in expression.args]
        return all(nulls) if expression.function in ("coalesce", "greatest", "least") else any(nulls)
    return True


_NEVER_NULL = frozenset(("is_null", "is_not_null", "is_distinct_from", "is_not_distinct_from", "concat", "now"))
