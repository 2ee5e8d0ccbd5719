"""Outer, semi and anti joins whose ON holds a subquery over both sides: it becomes a column of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eventdb.logical.expressions import Call, Case, ColumnRef, Expression, Literal, columns_of, remap
from eventdb.logical.over import Over, OverCall
from eventdb.logical.plan import Filter, Join, OutputField, Plan, Project, UnionAll
from eventdb.logical.predicates import all_of, terms_of
from eventdb.logical.subqueries import holds_subquery
from eventdb.schema import BIGINT, BOOLEAN


def over_pairs(plan: Join) -> Plan:
    """The join as a selection of its pairs. Of a left row without a true pair the first pair stays, with NULLs."""
    if plan.kind == "full":
        rest = _without_partner(plan)
        return UnionAll((over_pairs(replace(plan, kind="left")), rest), plan.fields)
    width, count = len(plan.left.fields), len(plan.right.fields)
    number = OverCall("row_number", (), BIGINT)
    left = Over(plan.left, (number,), (OutputField(str(number), BIGINT, False),))
    present = (*_columns(plan.right), Literal(BOOLEAN, True))
    right = Project(plan.right, present, (*plan.right.fields, OutputField("present", BOOLEAN, False)))
    places = {i: i for i in range(width)} | {width + i: width + 1 + i for i in range(count)}
    terms = [remap(term, places) for term in terms_of(plan.residual)]
    plain = all_of(term for term in terms if not holds_subquery(term))
    pairs = replace(plan, kind="left", left=left, right=right, residual=plain)
    flag = ColumnRef(BOOLEAN, width + 1 + count, "present")
    condition = Call(BOOLEAN, "and", (flag, *(term for term in terms if holds_subquery(term))))
    chosen = Project(pairs, (*_columns(pairs), condition), (*pairs.fields, OutputField("chosen", BOOLEAN)))
    total = len(pairs.fields)
    is_chosen: Expression = ColumnRef(BOOLEAN, total, "chosen")
    own = (ColumnRef(BIGINT, width, str(number)),)
    calls = (OverCall("count_star", (), BIGINT, own, filter=is_chosen), OverCall("row_number", (), BIGINT, own))
    numbered = Over(chosen, calls, tuple(OutputField(str(call), BIGINT, False) for call in calls))
    kept, place = (ColumnRef(BIGINT, total + 1 + i, str(call)) for i, call in enumerate(calls))
    first = Call(BOOLEAN, "eq", (place, Literal(BIGINT, 1)))
    alone = Call(BOOLEAN, "and", (Call(BOOLEAN, "eq", (kept, Literal(BIGINT, 0))), first))
    columns: Sequence[Expression] = _columns(numbered)
    if plan.kind == "semi":
        found = Call(BOOLEAN, "and", (Call(BOOLEAN, "gt", (kept, Literal(BIGINT, 0))), first))
        return Project(Filter(numbered, found), tuple(columns[:width]), plan.fields)
    if plan.kind == "anti":
        return Project(Filter(numbered, alone), tuple(columns[:width]), plan.fields)
    partner = tuple(
        Case(column.type, (is_chosen,), (column,), Literal(column.type, None))
        for column in columns[width + 1 : width + 1 + count]
    )
    rows = Filter(numbered, Call(BOOLEAN, "or", (is_chosen, alone)))
    return Project(rows, (*columns[:width], *partner), plan.fields)


def reads_both(expression: Expression, width: int) -> bool:
    """Whether an expression reads columns before and from `width`."""
    read = columns_of(expression)
    return bool(read) and min(read) < width <= max(read)


def _without_partner(plan: Join) -> Plan:
    """The right rows of a full join that are in no pair, with NULLs for the left side."""
    width, count = len(plan.left.fields), len(plan.right.fields)
    places = {i: i + count for i in range(width)} | {width + i: i for i in range(count)}
    residual = None if plan.residual is None else remap(plan.residual, places)
    swapped = Join(
        "anti", plan.right, plan.left, plan.right_keys, plan.left_keys, residual, plan.null_matches
    )  # fmt: skip
    alone = over_pairs(swapped)
    nulls = tuple(Literal(field.type, None) for field in plan.left.fields)
    return Project(alone, (*nulls, *_columns(alone)), plan.fields)


def _columns(plan: Plan) -> tuple[ColumnRef, ...]:
    return tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields))
