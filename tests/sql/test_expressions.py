"""Expressions: types, implicit casts, literals, functions, parameters."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import BindError, QueryError, UnsupportedSQL, UsageError
from eventdb.logical.expressions import Literal
from tests.sql.tables import bound, plan_of, shown, types

EASTERN = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("1, 3000000000, 1.50, 1e3, 99999999999999999999", "INTEGER BIGINT DECIMAL(3,2) DOUBLE DECIMAL(38,0)"),
        (
            "'a', TRUE, NULL, x'ff', DATE '2020-01-01', TIMESTAMP '2020-01-01 10:00:00'",
            "VARCHAR BOOLEAN NULL BLOB DATE TIMESTAMP",
        ),
        ("n + n, n + big, small + 1, small + small", "INTEGER BIGINT INTEGER SMALLINT"),
        ("n / 2, n % 2, temp / 2, price / 2", "INTEGER INTEGER DOUBLE DOUBLE"),
        (
            "price + 1, price + price, price * price, price * 2, price * temp",
            "DECIMAL(11,2) DECIMAL(11,2) DECIMAL(18,4) DECIMAL(11,2) DOUBLE",
        ),
        ("big + 0.5, n + 0.5", "DECIMAL(21,1) DECIMAL(12,1)"),
        (
            "ts - ts, day - day, ts - INTERVAL '5m', day + 1, day + INTERVAL '1 day'",
            "INTERVAL BIGINT TIMESTAMP DATE TIMESTAMP",
        ),
        ("n = 1, ok AND NOT ok, n IS NULL, n IN (1, 2)", "BOOLEAN BOOLEAN BOOLEAN BOOLEAN"),
        ("CASE WHEN ok THEN 1 ELSE 2.5 END, CASE WHEN ok THEN n END, coalesce(n, big)", "DECIMAL(11,1) INTEGER BIGINT"),
        (
            "count(*), sum(n), sum(temp), sum(price), avg(n), min(device), stddev(n)",
            "BIGINT BIGINT DOUBLE DECIMAL(38,2) DOUBLE VARCHAR DOUBLE",
        ),
        ("year(ts), epoch(ts), epoch_ms(ts), date_trunc('hour', day), date(ts)", "BIGINT DOUBLE BIGINT TIMESTAMP DATE"),
        ("round(temp, 1), round(price), floor(n), abs(small), sqrt(n)", "DOUBLE DECIMAL(9,0) INTEGER SMALLINT DOUBLE"),
        ("n || 'x', concat(n, temp), length(device), nullif(n, 0)", "VARCHAR VARCHAR BIGINT INTEGER"),
        ("CAST(n AS VARCHAR), n::DOUBLE, TRY_CAST(device AS DECIMAL(4, 1))", "VARCHAR DOUBLE DECIMAL(4,1)"),
        ("now(), current_date, current_timestamp", "TIMESTAMP DATE TIMESTAMP"),
    ],
)  # fmt: skip
def test_expressions_have_the_documented_types(sql: str, expected: str) -> None:
    assert " ".join(types(sql)) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("n + temp", "(CAST(n AS DOUBLE) + temp)"),
        ("temp > 5", "(temp > 5.0)"),
        ("small = 5", "(small = 5)"),
        ("small = 70000", "(CAST(small AS INTEGER) = 70000)"),
        ("ts >= '2013-01-01'", "(ts >= TIMESTAMP '2013-01-01 00:00:00')"),
        ("'2013-01-01' < day", "(DATE '2013-01-01' < day)"),
        ("ts + '5 minutes'", "(ts + INTERVAL '300 seconds')"),
        ("ts + INTERVAL '1 month 2 days'", "(add_months(ts, 1) + INTERVAL '2 days')"),
        ("ts - INTERVAL 1 YEAR", "add_months(ts, -12)"),
        ("2 * INTERVAL '1 hour'", "(INTERVAL '3600 seconds' * 2)"),
        ("ts - 90s", "(ts - INTERVAL '90 seconds')"),
        ("n BETWEEN 1 AND 5", "((n >= 1) AND (n <= 5))"),
        ("n NOT IN (1, 2, 2)", "(n NOT IN (1, 2))"),
        ("n IN (1, n + 1)", "((n = 1) OR (n = (n + 1)))"),
        ("NOT n IS NULL", "(n IS NOT NULL)"),
        ("n IS DISTINCT FROM 3", "(n IS DISTINCT FROM 3)"),
        ("ok IS TRUE", "(ok IS NOT DISTINCT FROM TRUE)"),
        ("device LIKE 'a!%%' ESCAPE '!'", "(device LIKE 'a\\%%')"),
        ("device NOT ILIKE 'a%'", "(NOT (device ILIKE 'a%'))"),
        ("device LIKE 'a\\b%' ESCAPE ''", "(device LIKE 'a\\\\b%')"),
        ("CASE device WHEN 'a' THEN 1 END", "CASE WHEN (device = 'a') THEN 1 ELSE NULL END"),
        ("if(ok, 1, 2)", "CASE WHEN ok THEN 1 ELSE 2 END"),
        ("nullif(n, 0)", "CASE WHEN (n = 0) THEN NULL ELSE n END"),
        ("year(ts)", "date_part('year', ts)"),
        ("extract(dow FROM ts)", "date_part('dow', ts)"),
        ("extract(epoch FROM ts)", "epoch(ts)"),
        ("trim(BOTH 'x' FROM device)", "trim(device, 'x')"),
        ("position('a' IN device)", "strpos(device, 'a')"),
        ("substring(device FROM 2 FOR 3)", "substr(device, 2, 3)"),
        ("lpad(device, 5)", "lpad(device, 5, ' ')"),
        ("time_bucket('1 month', ts)", "month_bucket(1, ts)"),
        ("time_bucket(5m, ts)", "time_bucket(INTERVAL '300 seconds', ts)"),
        ("log(2, temp)", "(ln(temp) / ln(2.0))"),
        ("typeof(n)", "'INTEGER'"),
        ("1 + 2 * 3", "7"),
        ("1 / 0", "(1 / 0)"),
        ("2147483647 + 1", "(2147483647 + 1)"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("CAST('12' AS INTEGER)", "12"),
        ("CAST('abc' AS INTEGER)", "CAST('abc' AS INTEGER)"),
        ("TRY_CAST('abc' AS DATE)", "NULL"),
    ],
)
def test_expressions_bind_to(sql: str, expected: str) -> None:
    assert shown(sql) == expected


@pytest.mark.parametrize(
    ("sql", "message", "column"),
    [
        ("tmp", "no column tmp; did you mean temp?", 8),
        ("readings.tmp", "no column readings.tmp; did you mean temp?", 8),
        ("r.temp", "no table 'r' in this FROM; in scope: readings", 8),
        ("avgg(temp)", "no function avgg(); did you mean avg()?", 8),
        ("device + 1", "VARCHAR + INTEGER does not exist; write CAST", 8),
        ("upper(n)", "upper(INTEGER) does not exist", 8),
        ("temp = 'warm'", "'warm' is not a valid DOUBLE", 8),
        ("DATE '2020-13-01'", "'2020-13-01' is not a valid DATE", 13),
        ("coalesce(n, device)", "coalesce(INTEGER, VARCHAR) does not exist", 8),
        ("CASE WHEN n THEN 1 END", "WHEN needs a BOOLEAN, not INTEGER", 18),
        ("n AND TRUE", "AND needs BOOLEAN, not INTEGER", 8),
        ("sum(sum(n))", "an aggregate cannot be inside an aggregate", 12),
        ("date_trunc('fortnight', ts)", "unknown unit 'fortnight'", 8),
        ("strftime(ts, '%Q')", "does not know %Q", 8),
        ("time_bucket('0 minutes', ts)", "the width must be positive", 8),
        ("device LIKE 'a\\'", "ends in its escape character", 8),
        ("CAST(ok AS DATE)", "there is no cast from BOOLEAN to DATE", 13),
        ("CAST(n AS money)", "unknown type 'money'", 13),
        ("1e999", "out of the range of DOUBLE", 8),
        ("lpad(device)", "lpad() takes 2 or 3 arguments, not 1", 8),
    ],
)
def test_a_wrong_expression_says_what_and_where(sql: str, message: str, column: int) -> None:
    with pytest.raises(BindError) as caught:
        bound(f"SELECT {sql} FROM readings")
    assert message in str(caught.value)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert caught.value.sql == f"SELECT {sql} FROM readings"


@pytest.mark.parametrize(
    ("sql", "construct"),
    [
        ("list(device)", "the function list()"),
        ("string_agg(device ORDER BY n) OVER (PARTITION BY device)", "ORDER BY inside an aggregate with OVER"),
        ("n[1]", "indexing with []"),
        ("[1, 2]", "a list value"),
        ("{'a': 1}", "a struct value"),
        ("device -> 'a'", "the JSON operator ->"),
        ("n & 1", "the operator &"),
        ("ts AT TIME ZONE 'UTC'", "AT TIME ZONE"),
        ("CAST(n AS INTEGER[])", "type ARRAY"),
        ("INTERVAL '1 month'", "a calendar interval (months, years) as a value"),
        ("arg_min(n, n, 3)", "arg_min() of the n best"),
    ],
)
def test_an_unsupported_expression_is_named_with_its_place(sql: str, construct: str) -> None:
    with pytest.raises(UnsupportedSQL) as caught:
        bound(f"SELECT {sql} FROM readings")
    assert caught.value.construct == construct
    assert caught.value.line == 1
    assert caught.value.column > 0


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (5, "INTEGER 5"),
        (1 << 40, "BIGINT 1099511627776"),
        (2.5, "DOUBLE 2.5"),
        (True, "BOOLEAN TRUE"),
        ("x", "VARCHAR 'x'"),
        (b"\x01", "BLOB x'01'"),
        (None, "NULL NULL"),
        (Decimal("1.50"), "DECIMAL(3,2) 1.50"),
        (dt.date(2020, 1, 2), "DATE DATE '2020-01-02'"),
        (dt.datetime(2020, 1, 2, 3), "TIMESTAMP TIMESTAMP '2020-01-02 03:00:00'"),
        (dt.datetime(2020, 1, 2, 3, tzinfo=EASTERN), "TIMESTAMP TIMESTAMP '2020-01-02 01:00:00'"),
        (dt.timedelta(minutes=1), "INTERVAL INTERVAL '60 seconds'"),
        (np.int32(7), "INTEGER 7"),
        (np.float64(0.5), "DOUBLE 0.5"),
        (np.datetime64("2020-01-01T00:00:00.000000001"), "TIMESTAMP TIMESTAMP '2020-01-01 00:00:00'"),
    ],
)  # fmt: skip
def test_a_python_value_becomes_a_literal(value: object, literal: str) -> None:
    for sql, parameters in (("$p", {"p": value}), ("?", [value]), ("$1", (value,))):
        plan = plan_of(f"SELECT {sql} AS x", parameters)
        expression = plan.expressions[0]  # type: ignore[attr-defined]
        assert f"{expression.type} {expression}" == literal


def test_question_marks_count_in_the_order_of_the_text() -> None:
    assert shown("CASE WHEN n = ? THEN ? ELSE ? END", [1, 2, 3]) == "CASE WHEN (n = 1) THEN 2 ELSE 3 END"
    plan = plan_of("SELECT ? FROM readings WHERE n = ? LIMIT ?", ["a", 2, 3])
    assert plan.label() == "Limit 3"


@pytest.mark.parametrize(
    ("sql", "parameters", "error", "message"),
    [
        ("SELECT $dvice", {"device": 1}, BindError, r"no value for parameter \$dvice; did you mean \$device"),
        ("SELECT $a", None, BindError, "given: none"),
        ("SELECT ?, ?", [1], BindError, "no value for parameter 2: 1 given"),
        ("SELECT $a", [1], BindError, "given by position"),
        ("SELECT $a", {"a": 1, "b": 2}, UsageError, r"no parameter \$b"),
        ("SELECT ?", [1, 2], UsageError, "no parameter number 2"),
        ("SELECT $a", {"a": object()}, BindError, "a object has no SQL type"),
        ("SELECT 1 LIMIT $n", {"n": -1}, BindError, "must not be negative"),
        ("SELECT 1 LIMIT $n", {"n": "x"}, BindError, "needs a whole number"),
    ],
)
def test_a_wrong_parameter_is_named(sql: str, parameters: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bound(sql, parameters)


@given(
    st.one_of(
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.booleans(),
        st.dates(),
        st.datetimes(),
        st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    )
)
def test_a_literal_written_as_sql_reads_back_as_itself(value: object) -> None:
    first = plan_of("SELECT ? AS x", [value]).expressions[0]  # type: ignore[attr-defined]
    assert isinstance(first, Literal)
    again = plan_of(f"SELECT {first} AS x").expressions[0]  # type: ignore[attr-defined]
    assert (again.value, again.type.name) == (first.value, first.type.name)


LEAVES = st.sampled_from(["n", "temp", "1", "7", "big", "NULL"])


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%"]), inner).map(lambda t: f"({' '.join(t)})")


@given(st.recursive(LEAVES, combined, max_leaves=12))
def test_every_arithmetic_expression_binds_and_its_bound_form_binds_to_the_same(sql: str) -> None:
    first = shown(sql)
    try:
        assert shown(first) == first
    except QueryError:  # a literal folded beyond what can be written, such as -(1) or inf
        assert "-" in first or "e" in first
