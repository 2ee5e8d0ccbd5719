"""The registry: signatures, types that meet, casts, and facts about expressions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.logical.expressions import Call, Case, Cast, ColumnRef, Expression, Literal
from eventdb.logical.functions import (
    AGGREGATES,
    SCALARS,
    cast_may_fail,
    castable,
    common_type,
    is_volatile,
    may_be_null,
    may_raise,
)
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

ALL = [BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, FLOAT, DOUBLE, VARCHAR, BLOB, DATE, TIMESTAMP, INTERVAL, NULL]
ALL += [decimal_type(4, 1), decimal_type(10, 2), decimal_type(18, 0), decimal_type(18, 18)]
TYPES = st.sampled_from(ALL)


def test_every_entry_is_documented_and_resolves_something() -> None:
    for registry in (SCALARS, AGGREGATES):
        for name, function in registry.items():
            assert function.name == name
            assert function.signature
            assert function.meaning
            counts = [0] if function.signature.startswith("->") else [1, 2, 3]
            tried = [types for count in counts for types in itertools.product([*ALL], repeat=count)]
            if name == "make_timestamp":
                tried.append((BIGINT,))
            assert any(function.resolve(types) is not None for types in tried), name


@given(st.sampled_from([*SCALARS.values(), *AGGREGATES.values()]), st.lists(TYPES, max_size=3))
def test_the_types_a_function_asks_for_can_be_cast_to_and_are_accepted_again(function, types: list[DataType]) -> None:  # type: ignore[no-untyped-def]
    resolved = function.resolve(types)
    if resolved is None:
        return
    wanted, result = resolved
    assert len(wanted) == len(types)
    assert all(castable(source, target) for source, target in zip(types, wanted, strict=True))
    again = function.resolve(wanted)
    assert again is not None
    if function.name not in ("add", "subtract"):  # a wider DECIMAL makes room for one more digit each time
        assert again == (wanted, result)


@given(TYPES, TYPES)
def test_the_common_type_does_not_depend_on_order_and_holds_both(a: DataType, b: DataType) -> None:
    common = common_type(a, b)
    assert common == common_type(b, a)
    if common is not None:
        assert castable(a, common)
        assert castable(b, common)
        assert common_type(a, common) == common
        if common.name != "DOUBLE":
            assert not cast_may_fail(a, common)


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (TINYINT, BIGINT, BIGINT),
        (INTEGER, DOUBLE, DOUBLE),
        (FLOAT, INTEGER, DOUBLE),
        (FLOAT, FLOAT, FLOAT),
        (INTEGER, decimal_type(4, 1), decimal_type(11, 1)),
        (BIGINT, decimal_type(4, 1), decimal_type(20, 1)),
        (decimal_type(10, 2), decimal_type(4, 3), decimal_type(11, 3)),
        (decimal_type(18, 0), decimal_type(18, 18), decimal_type(36, 18)),
        (decimal_type(38, 0), decimal_type(38, 38), decimal_type(38, 38)),
        (decimal_type(38, 0), DOUBLE, DOUBLE),
        (DATE, TIMESTAMP, TIMESTAMP),
        (NULL, VARCHAR, VARCHAR),
        (VARCHAR, INTEGER, None),
        (BOOLEAN, INTEGER, None),
    ],
)
def test_types_meet_as_documented(a: DataType, b: DataType, common: DataType | None) -> None:
    assert common_type(a, b) == common


def column(type: DataType, index: int = 0) -> ColumnRef:
    return ColumnRef(type, index, f"c{index}")


@pytest.mark.parametrize(
    ("expression", "raises"),
    [
        (Call(INTEGER, "add", (column(INTEGER), Literal(INTEGER, 1))), True),
        (Call(DOUBLE, "add", (column(DOUBLE), Literal(DOUBLE, 1.0))), False),
        (Call(DOUBLE, "divide", (column(DOUBLE), Literal(DOUBLE, 1.0))), True),
        (Call(BOOLEAN, "like", (column(VARCHAR), Literal(VARCHAR, "a%"))), False),
        (Call(BOOLEAN, "like", (column(VARCHAR), column(VARCHAR, 1))), True),
        (Cast(BIGINT, column(INTEGER)), False),
        (Cast(INTEGER, column(BIGINT)), True),
        (Cast(INTEGER, column(BIGINT), safe=True), False),
        (Cast(VARCHAR, column(DOUBLE)), False),
        (Cast(DATE, column(VARCHAR)), True),
        (Call(BOOLEAN, "eq", (column(INTEGER), Literal(INTEGER, 1))), False),
    ],
)
def test_may_raise_knows_what_cannot_fail(expression: Expression, raises: bool) -> None:
    assert may_raise(expression) is raises


def test_may_be_null_follows_strictness() -> None:
    strict = Call(INTEGER, "add", (column(INTEGER), column(INTEGER, 1)))
    assert may_be_null(strict, [True, False])
    assert not may_be_null(strict, [False, False])
    assert not may_be_null(Call(INTEGER, "coalesce", (column(INTEGER), Literal(INTEGER, 1))), [True])
    assert not may_be_null(Call(BOOLEAN, "is_null", (column(INTEGER),)), [True])
    assert may_be_null(Case(INTEGER, (column(BOOLEAN),), (Literal(INTEGER, 1),), Literal(INTEGER, None)), [False])
    assert may_be_null(Cast(INTEGER, column(VARCHAR), safe=True), [False])


def test_only_now_is_volatile() -> None:
    assert is_volatile(Call(DATE, "date_trunc", (Literal(VARCHAR, "day"), Call(TIMESTAMP, "now", ()))))
    assert [name for name, function in SCALARS.items() if function.volatile] == ["now"]
