"""Joins of every kind, set operations and recursion as operators, against a plain model over lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, RecordBatch
from eventdb.errors import EvaluationError, MemoryLimitExceeded, QueryCancelled, QueryTimeout
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Filter, Join, OutputField, Plan, Project
from eventdb.logical.relational import LimitBy, RecursiveUnion, SetOperation, WorkingTable
from eventdb.physical.context import CancelToken
from eventdb.physical.planner import plan_physical, run
from eventdb.schema import BIGINT
from tests.physical.building import MemoryLog, batch_of, call, col, context_of, lit, rows_of, scan_of, split

Row = tuple[Any, ...]
KINDS = ("inner", "left", "full", "semi", "anti")
_cells = st.tuples(st.none() | st.sampled_from("ab"), st.none() | st.integers(0, 2))
_rows = st.lists(_cells, max_size=7)
_cuts = st.lists(st.integers(0, 7), max_size=2)


def table_of(rows: list[Row], names: str) -> RecordBatch:
    return batch_of({names[0]: ("VARCHAR", [r[0] for r in rows]), names[1]: ("BIGINT", [r[1] for r in rows])})


def le(x: int | None, y: int | None) -> bool | None:
    return None if x is None or y is None else x <= y


def model(kind: str, left: list[Row], right: list[Row], pairs: Callable[[Row, Row], bool], mark: Any) -> list[Row]:
    """The rows of a join; `mark` is the comparison of a mark join."""
    result: list[Row] = []
    for x in left:
        partners = [y for y in right if pairs(x, y)]
        if kind in ("semi", "anti"):
            result += [x] if bool(partners) is (kind == "semi") else []
        elif kind == "mark":
            verdicts = [mark(x, y) for y in partners]
            result.append((*x, True if True in verdicts else None if None in verdicts else False))
        else:
            result += [(*x, *y) for y in partners]
            if not partners and kind in ("left", "full"):
                result.append((*x, None, None))
    if kind == "full":
        result += [(None, None, *y) for y in right if not any(pairs(x, y) for x in left)]
    return result


@pytest.mark.parametrize(("kind", "comparison"), [*((kind, "") for kind in KINDS), ("mark", "eq"), ("mark", "le")])
@pytest.mark.parametrize("key_count", [0, 1, 2])
@given(_rows, _rows, _cuts, st.booleans(), st.booleans())
def test_a_join_gives_the_rows_of_the_model(
    kind: str, comparison: str, key_count: int, left: list[Row], right: list[Row], cuts: list[int], nulls: bool,
    residual: bool,
) -> None:  # fmt: skip
    a, b = table_of(left, "kn"), table_of(right, "lm")
    logs = MemoryLog(split(a, cuts)), MemoryLog(split(b, cuts))
    names = [("k", "l"), ("n", "m")][:key_count]
    n, m = col(a, "n"), replace(col(b, "m"), index=3)
    condition = call("le", n, m) if residual else None
    compared = call(comparison, n, m) if kind == "mark" else None
    plan = Join(
        kind, scan_of(logs[0]), scan_of(logs[1], 2), tuple(col(a, x) for x, _ in names),
        tuple(col(b, y) for _, y in names), condition, (nulls,) * key_count, compared,
    )  # fmt: skip

    def pairs(x: Row, y: Row) -> bool:
        same = all((nulls or x[i] is not None) and x[i] == y[i] for i in range(key_count))
        return same and (not residual or le(x[1], y[1]) is True)

    def mark(x: Row, y: Row) -> bool | None:
        if comparison == "le":
            return le(x[1], y[1])
        return None if x[1] is None or y[1] is None else x[1] == y[1]

    expected = model(kind, left, right, pairs, mark)
    assert sorted(rows_of(plan, context_of(*logs)), key=repr) == sorted(expected, key=repr)


@given(_rows, _rows, _cuts, st.sampled_from(("intersect", "except")), st.booleans())
def test_a_set_operation_gives_the_rows_of_the_model(
    left: list[Row], right: list[Row], cuts: list[int], kind: str, keep_all: bool
) -> None:
    a, b = table_of(left, "kn"), table_of(right, "lm")
    logs = MemoryLog(split(a, cuts)), MemoryLog(split(b, cuts))
    scans = scan_of(logs[0]), scan_of(logs[1], 2)
    plan = SetOperation(kind, scans[0], scans[1], keep_all, scans[0].fields)
    mine, others = Counter(left), Counter(right)
    if keep_all:
        expected = mine & others if kind == "intersect" else mine - others
    else:
        expected = Counter({row for row in mine if (row in others) is (kind == "intersect")})
    assert Counter(rows_of(plan, context_of(*logs))) == expected


@given(_rows, _cuts, st.none() | st.integers(0, 3), st.integers(0, 2))
def test_limit_by_counts_within_each_group(rows: list[Row], cuts: list[int], most: int | None, skip: int) -> None:
    batch = table_of(rows, "kn")
    log = MemoryLog(split(batch, cuts))
    plan = LimitBy(scan_of(log), (col(batch, "k"),), most, skip)
    stop = None if most is None else skip + most
    expected = [row for i, row in enumerate(rows) if row in select(rows, row[0], skip, stop, i)]
    assert rows_of(plan, context_of(log)) == expected


def select(rows: list[Row], key: Any, skip: int, stop: int | None, at: int) -> list[Row]:
    """The row at a position, if it is one of those its group keeps."""
    places = [i for i, row in enumerate(rows) if row[0] == key][skip:stop]
    return [rows[at]] if at in places else []


def numbers(count: int) -> RecordBatch:
    return RecordBatch(("n",), [Column(BIGINT, np.arange(count))])


def test_a_single_join_refuses_a_second_partner_also_in_a_later_piece() -> None:
    left, right = numbers(2), numbers(200_000)
    logs = MemoryLog([left]), MemoryLog([right])
    n, m = col(left, "n"), replace(col(right, "n"), index=1)
    two = call("or", call("eq", m, lit("BIGINT", 3)), call("eq", m, lit("BIGINT", 199_999)))
    both = Join("single", scan_of(logs[0]), scan_of(logs[1], 2), (), (), call("and", call("eq", n, n), two))
    with pytest.raises(EvaluationError, match="more than one row"):
        rows_of(both, context_of(*logs))
    one = replace(both, residual=call("eq", n, m))
    assert rows_of(one, context_of(*logs)) == [(0, 0), (1, 1)]
    none = replace(both, residual=call("lt", m, lit("BIGINT", 0)))
    assert rows_of(none, context_of(*logs)) == [(0, None), (1, None)]


def test_a_nested_loop_gives_its_pairs_in_morsels() -> None:
    batch = numbers(1_000)
    logs = MemoryLog([batch]), MemoryLog([batch])
    sizes = [b.row_count for b in run(Join("inner", scan_of(logs[0]), scan_of(logs[1], 2)), context_of(*logs))]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 131_072


@pytest.mark.parametrize("kind", ["inner", "full", "semi", "mark"])
def test_a_nested_loop_stops_when_it_is_told_to(kind: str) -> None:
    batch = numbers(20_000)
    logs = MemoryLog([batch]), MemoryLog([batch])
    n, m = col(batch, "n"), replace(col(batch, "n"), index=1)
    never = call("lt", call("add", n, m), lit("BIGINT", 0))
    plan = Join(kind, scan_of(logs[0]), scan_of(logs[1], 2), (), (), never)
    context = context_of(*logs)
    context.cancel = CancelToken(0.05)
    with pytest.raises(QueryTimeout):
        rows_of(plan, context)


def counting(distinct: bool, stop: int | None) -> Plan:
    """The numbers from 0, modulo 10 if `distinct`; the recursive part ends at `stop`."""
    fields = (OutputField("n", BIGINT),)
    table = WorkingTable(1, "r", fields)
    n: Expression = col(RecordBatch(("n",), [Column(BIGINT, np.zeros(1, np.int64))]), "n")
    following = call("add", n, lit("BIGINT", 1))
    below: Plan = table if stop is None else Filter(table, call("lt", n, lit("BIGINT", stop)))
    step = Project(below, (call("modulo", following, lit("BIGINT", 10)) if distinct else following,), fields)
    return RecursiveUnion(1, "r", scan_of(MemoryLog([numbers(1)])), step, distinct, fields)


def test_recursion_goes_on_until_a_round_adds_nothing() -> None:
    context = context_of(MemoryLog([numbers(1)]))
    assert rows_of(counting(False, 5), context) == [(i,) for i in range(6)]
    assert rows_of(counting(True, None), context) == [(i,) for i in range(10)]
    assert context.held_bytes == 0
    assert context.working == {}


def test_recursion_ends_at_its_limit_and_when_it_is_told_to() -> None:
    context = context_of(MemoryLog([numbers(1)]))
    context.recursion_limit = 7
    with pytest.raises(EvaluationError, match="went on for 7 rounds"):
        rows_of(counting(False, None), context)
    context = context_of(MemoryLog([numbers(1)]))
    rounds = plan_physical(counting(False, None), context).batches()
    assert [next(rounds).row_count for _ in range(100)] == [1] * 100
    context.cancel.cancel()
    with pytest.raises(QueryCancelled):
        next(rounds)


def holding_plans() -> list[tuple[str, Any]]:
    n = col(numbers(1), "n")
    fields = (OutputField("n", BIGINT),)
    return [
        ("JOIN", lambda a, b: Join("full", a, b, (n,), (n,))),
        ("a subquery", lambda a, b: Join("semi", a, b, (n,), (n,))),
        ("a subquery", lambda a, b: Join("mark", a, b, (), (), None, (), call("eq", n, replace(n, index=1)))),
        ("EXCEPT", lambda a, b: SetOperation("except", a, b, False, fields)),
        ("LIMIT in a subquery", lambda a, b: LimitBy(a, (n,), 1)),
    ]


@pytest.mark.parametrize(("what", "make"), holding_plans())
def test_what_is_held_is_counted_and_refused_beyond_the_limit(what: str, make: Any) -> None:
    logs = MemoryLog([numbers(200_000)]), MemoryLog([numbers(200_000)])
    plan = make(scan_of(logs[0]), scan_of(logs[1], 2))
    with pytest.raises(MemoryLimitExceeded, match=rf"{what}.*memory_limit"):
        rows_of(plan, context_of(*logs, memory_limit_bytes=1_000_000))
    context = context_of(*logs, memory_limit_bytes=200_000_000)
    rows_of(plan, context)
    assert context.held_bytes == 0, "everything was released"
