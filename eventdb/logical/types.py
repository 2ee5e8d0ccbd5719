"""Which types meet in which, and which casts exist and may fail."""

from __future__ import annotations

from collections.abc import Sequence

from eventdb.schema import (
    BIGINT,
    DOUBLE,
    MAX_DECIMAL_DIGITS,
    NULL,
    TIMESTAMP,
    DataType,
    decimal_type,
)

_DIGITS = {"TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19}


def common_type(left: DataType, right: DataType, most_digits: int = MAX_DECIMAL_DIGITS) -> DataType | None:
    """The type in which both are unified in CASE, COALESCE, IN and UNION; None if there is none. A DECIMAL that needs
    more than `most_digits` keeps its scale, and has fewer before the point."""
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
        return DataType("DECIMAL", min(digits, most_digits), scale)
    if {left.name, right.name} == {"DATE", "TIMESTAMP"}:
        return TIMESTAMP
    return None


def comparable_type(left: DataType, right: DataType) -> DataType | None:
    """The type in which both are compared, exactly: perhaps a DECIMAL of more digits than a column has."""
    return common_type(left, right, 2 * MAX_DECIMAL_DIGITS)


def as_decimal(type: DataType) -> DataType | None:
    """The DECIMAL that holds every value of an integer or DECIMAL type; None for others."""
    if type.name == "DECIMAL":
        return type
    return decimal_type(_DIGITS[type.name], 0) if type.name in _DIGITS else None


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
    if source.name == "BOOLEAN" and target.name == "DECIMAL":
        return target.precision == target.scale  # no digit before the point for true
    if source == target or (
        source.name in ("NULL", "BOOLEAN", "DATE", "TIMESTAMP", "INTERVAL") and target.name != "BLOB"
    ):
        return False
    if target.name == "BOOLEAN":
        return source.name == "VARCHAR"
    if target.name == "VARCHAR":
        return source.name == "BLOB"
    if target.name == "BLOB":
        return False
    if target.name == "DOUBLE" or (source.is_integer and target.name == "FLOAT"):
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


def number_type(types: Sequence[DataType]) -> DataType | None:
    """The numeric type of an arithmetic result over these types; NULLs alone are BIGINT."""
    result: DataType | None = NULL
    for type in types:
        if not (type.is_numeric or type.name == "NULL") or result is None:
            return None
        result = common_type(result, type)
    return BIGINT if result == NULL else result
