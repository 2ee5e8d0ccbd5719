"""What a program says of its own functions: names, types from annotations or given, checked before SQL meets them."""

from __future__ import annotations

import datetime as dt
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from eventdb.errors import UsageError
from eventdb.logical.aggregates import AGGREGATES
from eventdb.logical.python_functions import PythonAggregate, PythonFunction, PythonTable
from eventdb.schema import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTERVAL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    Schema,
    parse_type,
)

_PYTHON_TYPES: dict[Any, DataType] = {
    bool: BOOLEAN, int: BIGINT, float: DOUBLE, str: VARCHAR, bytes: BLOB, dt.datetime: TIMESTAMP, dt.date: DATE,
    dt.timedelta: INTERVAL,
}  # fmt: skip
REPEATED = "..."

Types = Sequence[str | DataType] | None


def scalar_function(
    name: str, function: Callable[..., Any], args: Types, returns: str | DataType | None, vectorized: bool,
    null_handling: str, exception_handling: str, volatile: bool,
) -> PythonFunction:  # fmt: skip
    """The declaration of a scalar function. UsageError naming what is missing or wrong."""
    _require_callable(name, function)
    parameters, least, repeats = _parameters(name, function, args, drop_self=False)
    sees_nulls = _choice(name, "null_handling", null_handling, ("default", "special")) == "special"
    null_on_error = _choice(name, "exception_handling", exception_handling, ("default", "return_null")) != "default"
    if vectorized and not parameters:
        raise UsageError(f"{name}(): a vectorized function takes at least one argument, whose length is the rows'")
    if vectorized and null_on_error:
        raise UsageError(f"{name}(): exception_handling = 'return_null' is for functions of one row")
    result = _result(name, function, returns)
    return PythonFunction(
        _named(name), function, parameters, result, least, repeats, vectorized, sees_nulls, null_on_error, volatile
    )


def aggregate_function(
    name: str, aggregate: Callable[..., Any], args: Types, returns: str | DataType | None, vectorized: bool,
    null_handling: str,
) -> PythonAggregate:  # fmt: skip
    """The declaration of an aggregate. UsageError naming what is missing or wrong."""
    _require_callable(name, aggregate)
    step, finalize = getattr(aggregate, "step", None), getattr(aggregate, "finalize", None)
    whole = step is None and finalize is None
    if not whole and (not callable(step) or not callable(finalize)):
        raise UsageError(f"{name}(): an aggregate is a class with step(...) and finalize(), or a function of lists")
    if vectorized and not whole:
        raise UsageError(f"{name}(): a vectorized aggregate is a function of Arrow arrays, not a class")
    if whole and args is None:
        raise UsageError(f"{name}(): args says the types of the lists' values, such as ['DOUBLE']")
    parameters, least, repeats = _parameters(name, aggregate if whole else step, args, drop_self=not whole)
    if not parameters:
        raise UsageError(f"{name}(): an aggregate takes at least one argument")
    result = _result(name, aggregate if whole else finalize, returns)
    sees_nulls = _choice(name, "null_handling", null_handling, ("default", "special")) == "special"
    return PythonAggregate(_named(name), aggregate, parameters, result, least, repeats, whole, vectorized, sees_nulls)


def table_function(
    name: str, function: Callable[..., Any], args: Types, returns: Mapping[str, str | DataType] | Schema | None
) -> PythonTable:
    """The declaration of a table function. UsageError naming what is missing or wrong."""
    _require_callable(name, function)
    parameters, least, repeats = _parameters(name, function, args, drop_self=False)
    if not isinstance(returns, Schema):
        if not isinstance(returns, Mapping) or not returns:
            raise UsageError(f"{name}(): returns maps columns to types, such as {{'id': 'BIGINT'}}, not {returns!r}")
        returns = Schema.from_mapping(returns)
    return PythonTable(_named(name), function, parameters, returns, least, repeats)


def _named(name: object) -> str:
    """The lower-case name of a function. UsageError if SQL cannot call it, or has one of that name."""
    from eventdb.sql.functions import FUNCTION_NAMES
    from eventdb.sql.tokens import FUNCTION_PREFIX, tokenize

    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*", name):
        raise UsageError(f"a function's name is a word such as 'add_tax', not {name!r}")
    lower = name.lower()
    if lower in FUNCTION_NAMES or lower in AGGREGATES:
        raise UsageError(f"{lower}() is built in: choose another name")
    if not tokenize(f"SELECT {lower}(1)")[1].text.startswith(FUNCTION_PREFIX):
        raise UsageError(f"{lower} is a word of SQL: choose another name")
    return lower


def _require_callable(name: object, function: object) -> None:
    if not callable(function):
        raise UsageError(f"{name}(): a function is a callable, not {type(function).__name__}")


def _choice(name: str, option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UsageError(f"{name}(): {option} is {' or '.join(map(repr, known))}, not {value!r}")
    return value


def _parameters(name: str, function: Any, args: Types, *, drop_self: bool) -> tuple[tuple[DataType, ...], int, bool]:
    """(types, how many must be given, whether the last repeats)."""
    if args is not None:
        if isinstance(args, str | DataType) or not isinstance(args, Sequence):
            raise UsageError(f"{name}(): args is a list of types such as ['BIGINT', 'VARCHAR'], not {args!r}")
        repeats = len(args) > 1 and args[-1] == REPEATED
        given = args[:-1] if repeats else args
        found = tuple(_type(name, type) for type in given)
        return found, len(found) - repeats, repeats
    try:
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())[1 if drop_self else 0 :]
    except (TypeError, ValueError, NameError) as error:
        raise UsageError(f"{name}(): the types of its parameters are not known ({error}); give args") from None
    found_types: list[DataType] = []
    least, repeats = 0, False
    for parameter in parameters:
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            if parameter.kind == parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise UsageError(f"{name}(): the parameter {parameter.name!r} has no position; SQL passes by position")
            continue
        hint = hints.get(parameter.name)
        if hint is None:
            raise UsageError(f"{name}(): annotate the parameter {parameter.name!r}, or give args=['TYPE', ...]")
        found_types.append(_of_annotation(name, parameter.name, hint))
        repeats = parameter.kind == parameter.VAR_POSITIONAL
        if parameter.default is parameter.empty and not repeats:
            least += 1
    return tuple(found_types), least, repeats


def _result(name: str, function: Any, returns: str | DataType | None) -> DataType:
    if returns is not None:
        return _type(name, returns)
    try:
        hint = typing.get_type_hints(function).get("return")
    except (TypeError, ValueError, NameError) as error:
        raise UsageError(f"{name}(): the type of its result is not known ({error}); give returns") from None
    if hint is None:
        raise UsageError(f"{name}(): annotate what it returns, or give returns='TYPE'")
    return _of_annotation(name, "return", hint)


def _of_annotation(name: str, what: str, hint: Any) -> DataType:
    """The SQL type of int, str | None and the like."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [part for part in typing.get_args(hint) if part is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else hint
    found = _PYTHON_TYPES.get(hint)
    if found is None:
        more = " (a Decimal has digits: 'DECIMAL(10,2)')" if hint is Decimal else ""
        shown = getattr(hint, "__name__", hint)
        raise UsageError(f"{name}(): no SQL type for {shown} of {what!r}: give args and returns as SQL types{more}")
    return found


def _type(name: str, given: object) -> DataType:
    if isinstance(given, DataType):
        return given
    if isinstance(given, str):
        return INTERVAL if given.strip().upper() == "INTERVAL" else parse_type(given)
    if isinstance(given, type) and given in _PYTHON_TYPES:
        return _PYTHON_TYPES[given]
    raise UsageError(f"{name}(): a type is a string such as 'DOUBLE', not {given!r}")
