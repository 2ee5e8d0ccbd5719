"""Three-valued logic, comparison, and which rows an argument is evaluated for."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, Dictionary, RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Case, Expression, InList, Literal
from eventdb.physical.dictionary_memo import DictionaryMemo
from eventdb.physical.evaluate import Evaluator
from eventdb.schema import BIGINT, BOOLEAN, VARCHAR, DataType

from .building import batch_of, call, cast_to, col, lit, type_of, value_of

THREE = (True, False, None)


def python_and(*values: bool | None) -> bool | None:
    return False if False in values else None if None in values else True


def python_or(*values: bool | None) -> bool | None:
    return True if True in values else None if None in values else False


def test_and_or_not_follow_the_truth_tables_of_three_values() -> None:
    rows = list(itertools.product(THREE, repeat=3))
    batch = batch_of({n: ("BOOLEAN", [row[i] for row in rows]) for i, n in enumerate("abc")})
    a, b, c = (col(batch, n) for n in "abc")
    assert value_of(call("and", a, b, c), batch) == [python_and(*row) for row in rows]
    assert value_of(call("or", a, b, c), batch) == [python_or(*row) for row in rows]
    assert value_of(call("not", a), batch) == [None if row[0] is None else not row[0] for row in rows]
    assert value_of(call("and", a, call("or", b, lit("BOOLEAN", None))), batch) == [
        python_and(row[0], python_or(row[1], None)) for row in rows
    ]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_constants_mix_with_columns(rows: int) -> None:
    batch = batch_of({"a": ("BOOLEAN", [None] * rows)})
    for constant in THREE:
        expected = [python_and(None, constant)] * rows
        assert value_of(call("and", col(batch, "a"), lit("BOOLEAN", constant)), batch) == expected
        assert (
            value_of(call("or", lit("BOOLEAN", constant), col(batch, "a")), batch) == [python_or(constant, None)] * rows
        )


def divided(batch: RecordBatch) -> Expression:
    """10 / b > 1: raises where b is 0."""
    return call("gt", call("divide", lit("BIGINT", 10), col(batch, "b")), lit("BIGINT", 1))


def test_and_and_or_do_not_evaluate_what_is_decided() -> None:
    batch = batch_of({"b": ("BIGINT", [0, 2, 20, None, 0])})
    b, guard = col(batch, "b"), divided(batch)
    nonzero, zero = call("ne", b, lit("BIGINT", 0)), call("eq", b, lit("BIGINT", 0))
    assert value_of(call("and", nonzero, guard), batch) == [False, True, False, None, False]
    assert value_of(call("or", zero, guard), batch) == [True, True, False, None, True]
    with pytest.raises(EvaluationError):
        value_of(call("and", guard, nonzero), batch)
    with pytest.raises(EvaluationError):  # NULL AND error: the row is undecided, so it is evaluated
        value_of(call("and", lit("BOOLEAN", None), guard), batch)


def case(*arms: tuple[Expression, Expression], otherwise: Expression) -> Case:
    return Case(otherwise.type, tuple(c for c, _ in arms), tuple(r for _, r in arms), otherwise)


def test_case_evaluates_a_branch_only_for_its_rows() -> None:
    batch = batch_of({"b": ("BIGINT", [0, 5, None, 0, 2])})
    b = col(batch, "b")
    expression = case(
        (call("eq", b, lit("BIGINT", 0)), lit("BIGINT", -1)),
        (call("gt", call("divide", lit("BIGINT", 100), b), lit("BIGINT", 30)), call("divide", lit("BIGINT", 100), b)),
        otherwise=call("modulo", lit("BIGINT", 7), b),
    )
    assert value_of(expression, batch) == [-1, 2, None, -1, 50]


def test_nested_guards_reach_only_their_rows() -> None:
    batch = batch_of({"b": ("BIGINT", [0, 1, 2, 3]), "s": ("VARCHAR", ["x", "1", "2", "y"])})
    b, s = col(batch, "b"), col(batch, "s")
    number = cast_to(s, BIGINT)
    inner = case((call("eq", b, lit("BIGINT", 3)), lit("BIGINT", 33)), otherwise=number)
    outer = case((call("eq", b, lit("BIGINT", 0)), lit("BIGINT", 0)), otherwise=inner)
    assert value_of(outer, batch) == [0, 1, 2, 33]


def test_case_of_constants_and_strings_with_null_results() -> None:
    batch = batch_of({"b": ("BIGINT", [1, 2, None]), "s": ("VARCHAR", ["p", None, "q"])})
    b = col(batch, "b")
    one = call("eq", b, lit("BIGINT", 1))
    two = call("eq", b, lit("BIGINT", 2))
    assert value_of(case((one, lit("BIGINT", 5)), otherwise=lit("BIGINT", None)), batch) == [5, None, None]
    text = case((one, lit("VARCHAR", "one")), (two, col(batch, "s")), otherwise=lit("VARCHAR", "else"))
    assert value_of(text, batch) == ["one", None, "else"]
    assert value_of(case((one, lit("VARCHAR", "q")), otherwise=col(batch, "s")), batch) == ["q", None, "q"]


def test_coalesce_stops_at_the_first_value() -> None:
    batch = batch_of({"a": ("BIGINT", [1, None, None]), "b": ("BIGINT", [0, 5, None])})
    a, b = col(batch, "a"), col(batch, "b")
    ten = lit("BIGINT", 10)
    assert value_of(call("coalesce", a, call("divide", ten, b), lit("BIGINT", 7)), batch) == [1, 2, 7]
    with pytest.raises(EvaluationError):
        value_of(call("coalesce", call("divide", ten, b), a), batch)
    texts = batch_of({"s": ("VARCHAR", ["x", None]), "t": ("VARCHAR", ["y", "z"])})
    assert value_of(call("coalesce", col(texts, "s"), col(texts, "t")), texts) == ["x", "z"]
    assert value_of(call("coalesce", col(texts, "s"), lit("VARCHAR", "d")), texts) == ["x", "d"]


COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BIGINT": st.integers(-3, 3),
    "DOUBLE": st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 2.5, math.inf, math.nan]),
    "VARCHAR": st.sampled_from(["", "a", "A", "ab", "ä", "z", "\U0001f600", "\uffff"]),
    "BLOB": st.sampled_from([b"", b"\x00", b"a", b"\xff"]),
    "BOOLEAN": st.booleans(),
    "TIMESTAMP": st.integers(-2, 2),
}


@given(st.data(), st.sampled_from(list(VALUES)), st.sampled_from(COMPARE))
def test_comparisons_are_pythons_and_null_with_null(data: st.DataObject, type: str, name: str) -> None:
    values = st.one_of(st.none(), VALUES[type])
    left = data.draw(st.lists(values, min_size=1, max_size=12))
    right = data.draw(st.lists(values, min_size=len(left), max_size=len(left)))
    compare = getattr(operator, name)
    batch = batch_of({"a": (type, left), "b": (type, right)})
    a, b = col(batch, "a"), col(batch, "b")
    pairs = list(zip(left, right, strict=True))
    expected = [None if x is None or y is None else compare(x, y) for x, y in pairs]
    assert value_of(call(name, a, b), batch) == expected
    constant = right[0]
    with_constant = [None if x is None or constant is None else compare(x, constant) for x in left]
    assert value_of(call(name, a, Literal(a.type, constant)), batch) == with_constant
    from_constant = [None if x is None or constant is None else compare(constant, x) for x in left]
    assert value_of(call(name, Literal(a.type, constant), a), batch) == from_constant
    same = [x == y if x is not None and y is not None else (x is None and y is None) for x, y in pairs]
    assert value_of(call("is_not_distinct_from", a, b), batch) == same
    assert value_of(call("is_distinct_from", a, b), batch) == [not x for x in same]
    assert value_of(call("is_null", a), batch) == [x is None for x in left]
    assert value_of(call("is_not_null", a), batch) == [x is not None for x in left]


@given(st.data(), st.sampled_from(list(VALUES)), st.booleans(), st.integers(1, 12))
def test_in_list_is_or_of_equalities(data: st.DataObject, type: str, negated: bool, size: int) -> None:
    values = st.one_of(st.none(), VALUES[type])
    rows = data.draw(st.lists(values, min_size=1, max_size=10))
    members = data.draw(st.lists(values, min_size=size, max_size=size))
    batch = batch_of({"a": (type, rows)})
    a = col(batch, "a")
    expected = []
    for x in rows:
        found = python_or(*[None if x is None or m is None else x == m for m in members], False)
        expected.append(found if not negated or found is None else not found)
    expression = InList(BOOLEAN, a, tuple(Literal(a.type, m) for m in members), negated)
    assert value_of(expression, batch) == expected


def test_a_predicate_looks_at_distinct_codes_not_at_a_large_dictionary() -> None:
    seen: list[str] = []

    def note(value: str) -> bool:
        seen.append(value)
        return value == "v7"

    dictionary = Dictionary([f"v{i}" for i in range(60_000)])
    column = batch_of({"x": ("INTEGER", [7, 7, 9])}).columns[0]
    memo = DictionaryMemo(note, BOOLEAN)
    small = Column(VARCHAR, column.values, None, dictionary)
    assert memo(small).values.tolist() == [True, True, False]
    assert sorted(seen) == ["v7", "v9"]
    memo(small)
    assert len(seen) == 2, "values met before are not evaluated again"
    dictionary.values.append("late")
    grown = Column(VARCHAR, batch_of({"x": ("INTEGER", [60_000, 7])}).columns[0].values, None, dictionary)
    assert memo(grown).values.tolist() == [False, True]
    assert seen[2:] == ["late"]


def test_values_no_row_uses_cannot_raise() -> None:
    dictionary = Dictionary(["12", "not a number", "13"])
    codes = batch_of({"x": ("INTEGER", [0, 2, None])}).columns[0]
    codes.values[2] = 1  # what lies under the NULL
    column = Column(VARCHAR, codes.values, codes.validity, dictionary)
    batch = RecordBatch(("s",), (column,), 3)
    assert value_of(cast_to(col(batch, "s"), BIGINT), batch) == [12, 13, None]


def test_an_empty_batch_gives_empty_columns_for_every_kind_of_expression() -> None:
    batch = batch_of({"a": ("BIGINT", []), "s": ("VARCHAR", []), "t": ("TIMESTAMP", [])})
    a, s, t = (col(batch, n) for n in "ast")
    one = lit("BIGINT", 1)
    for expression in (
        call("add", a, one), call("divide", a, a), call("upper", s), call("concat", s, lit("VARCHAR", "x")),
        call("eq", s, s),
        case((call("eq", a, one), s), otherwise=lit("VARCHAR", "n")), call("coalesce", a, one), one,
        call("date_trunc", lit("VARCHAR", "day"), t), cast_to(a, VARCHAR), cast_to(s, BIGINT),
        call("and", call("eq", a, one), call("gt", call("divide", one, a), one)), call("round", a, a),
    ):  # fmt: skip
        assert value_of(expression, batch) == []


def test_one_evaluator_serves_batches_with_different_dictionaries() -> None:
    expression_batch = batch_of({"s": ("VARCHAR", ["x"])})
    upper = Evaluator(call("upper", col(expression_batch, "s")))
    first = upper(batch_of({"s": ("VARCHAR", ["a", "b", None])}))
    second = upper(batch_of({"s": ("VARCHAR", ["b", "c"])}))
    assert first.dictionary is second.dictionary, "results of one expression share a dictionary"
    assert (first.to_pylist(), second.to_pylist()) == (["A", "B", None], ["B", "C"])
    for number in range(40):
        assert upper(batch_of({"s": ("VARCHAR", [f"k{number}", "a"])})).to_pylist() == [f"K{number}", "A"]


def test_a_null_typed_literal_is_null_everywhere() -> None:
    null = DataType("NULL")
    assert value_of(Literal(null, None)) == [None]
    assert value_of(cast_to(Literal(type_of("BIGINT"), None), VARCHAR)) == [None]
