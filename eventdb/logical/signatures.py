"""How a function says its argument and result types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventdb.logical.types import as_decimal, common_type, comparable_type, number_type
from eventdb.schema import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    DOUBLE,
    FLOAT,
    INTERVAL,
    MAX_DECIMAL_DIGITS,
    NARROW_DECIMAL_DIGITS,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    decimal_type,
)

Resolution = tuple[tuple[DataType, ...], DataType]
Resolver = Callable[[Sequence[DataType]], Resolution | None]


@dataclass(frozen=True, slots=True)
class Function:
    """`resolve(argument types)` gives the types the arguments are cast to and the result type, or None if they do not
    fit.

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


def overloads(*signatures: str) -> Resolver:
    """A resolver from texts such as 'VARCHAR, BIGINT -> VARCHAR'; the first that fits wins.

    Kinds: a type name (with the widening casts integer -> BIGINT, number -> DOUBLE, DATE -> TIMESTAMP), integer,
    float and decimal
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


def comparison(types: Sequence[DataType]) -> Resolution | None:
    type = comparable_type(*types) if len(types) == 2 else None
    if type is None:
        return None
    type = BOOLEAN if type == NULL else type
    return (type, type), BOOLEAN


def unified(types: Sequence[DataType]) -> Resolution | None:
    type = _common(types, 1)
    return None if type is None else ((type,) * len(types), type)


def logic(types: Sequence[DataType]) -> Resolution | None:
    if len(types) < 2 or any(t.name not in ("BOOLEAN", "NULL") for t in types):
        return None
    return (BOOLEAN,) * len(types), BOOLEAN


TIME_ADD = overloads("DATE, BIGINT -> DATE", "TIMESTAMP, INTERVAL -> TIMESTAMP", "INTERVAL, INTERVAL -> INTERVAL")
TIME_SUBTRACT = overloads(
    "DATE, BIGINT -> DATE",
    "DATE, DATE -> BIGINT",
    "TIMESTAMP, INTERVAL -> TIMESTAMP",
    "TIMESTAMP, TIMESTAMP -> INTERVAL",
    "INTERVAL, INTERVAL -> INTERVAL",
)


def additive(other: Resolver) -> Resolver:
    def resolve(types: Sequence[DataType]) -> Resolution | None:
        if len(types) != 2:
            return None
        type = number_type(types)
        if type is None:
            return other(types)
        if type.name == "DECIMAL" and type.is_wide:
            return _decimals(types, type), decimal_type(min(MAX_DECIMAL_DIGITS, type.precision + 1), type.scale)
        if type.name == "DECIMAL":
            digits = min(NARROW_DECIMAL_DIGITS, type.precision + 1)
            wide = decimal_type(digits, type.scale)
            return (wide, wide), wide
        return (type, type), type

    return resolve


def _decimals(types: Sequence[DataType], type: DataType) -> tuple[DataType, ...]:
    """Each as the DECIMAL that holds its values; `type` for NULL."""
    return tuple(as_decimal(t) or type for t in types)


def multiply(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return None
    type = number_type(types)
    if type is None:
        return overloads("INTERVAL, BIGINT -> INTERVAL", "INTERVAL, DOUBLE -> INTERVAL")(types)
    if type.name == "DECIMAL":
        left, right = _decimals(types, type)
        scale = left.scale + right.scale
        if scale > MAX_DECIMAL_DIGITS:
            return None
        narrow = not left.is_wide and not right.is_wide and scale <= NARROW_DECIMAL_DIGITS
        most = NARROW_DECIMAL_DIGITS if narrow else MAX_DECIMAL_DIGITS
        return (left, right), decimal_type(min(most, left.precision + right.precision), scale)
    return (type, type), type


def divide(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return None
    type = number_type(types)
    if type is None:
        return overloads("INTERVAL, DOUBLE -> INTERVAL")(types)
    type = DOUBLE if type.name == "DECIMAL" else type
    return (type, type), type


def modulo(types: Sequence[DataType]) -> Resolution | None:
    type = number_type(types) if len(types) == 2 else None
    if type is None:
        return None
    return (_decimals(types, type) if type.is_wide else (type, type)), type


def same_number(types: Sequence[DataType]) -> Resolution | None:
    """One number (or INTERVAL), kept as it is."""
    if len(types) != 1 or not (types[0].is_numeric or types[0].name in ("INTERVAL", "NULL")):
        return None
    type = BIGINT if types[0] == NULL else types[0]
    return (type,), type


def whole(types: Sequence[DataType]) -> Resolution | None:
    """floor, ceil, trunc, round: floats and integers keep their type, DECIMAL(p,s) loses its scale."""
    if not 1 <= len(types) <= 1 or not (types[0].is_numeric or types[0] == NULL):
        return None
    type = types[0]
    if type.name == "DECIMAL":
        most = MAX_DECIMAL_DIGITS if type.is_wide else NARROW_DECIMAL_DIGITS
        return (type,), decimal_type(min(most, type.precision - type.scale + 1), 0)
    return ((DOUBLE,), DOUBLE) if type == NULL else ((type,), type)


def round_(types: Sequence[DataType]) -> Resolution | None:
    if len(types) != 2:
        return whole(types)
    return overloads("integer, BIGINT -> first", "float, BIGINT -> first", "decimal, BIGINT -> first")(types)


def define(functions: Sequence[Function]) -> dict[str, Function]:
    return {function.name: function for function in functions}
