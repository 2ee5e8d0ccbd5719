"""WHERE EXISTS (...), x IN (...) and their negations: a filter on the mark of a mark join becomes a semi or anti join.

NOT x IN (...) only if no NULL can be compared: a mark that is NULL is no partner found, but no TRUE either.
"""

from __future__ import annotations

from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal, columns_of
from eventdb.logical.functions import may_be_null
from eventdb.logical.plan import Filter, Join, Plan, Project, transform_plan
from eventdb.logical.predicates import all_of, split_pairs, terms_of
from eventdb.schema import BOOLEAN


def marks_to_semi_joins(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, Filter) or not isinstance(plan.input, Join) or plan.input.kind != "mark":
        return plan
    join = plan.input
    mark = len(join.left.fields)
    kind: str | None = None
    rest: list[Expression] = []
    for term in terms_of(plan.predicate):
        wanted = _kind_of(term, mark, join)
        if wanted is not None and kind in (None, wanted):
            kind = wanted
        elif mark in columns_of(term):
            return plan
        else:
            rest.append(term)
    if kind is None:
        return plan
    pairs, nulls, others = split_pairs([*terms_of(join.residual), *terms_of(join.compared)], mark)
    found = Join(
        kind, join.left, join.right, (*join.left_keys, *(a for a, _ in pairs)),
        (*join.right_keys, *(b for _, b in pairs)), all_of(others),
        (*(join.null_matches or (False,) * len(join.left_keys)), *nulls),
    )  # fmt: skip
    predicate = all_of(rest)
    rows: Plan = found if predicate is None else Filter(found, predicate)
    kept: list[Expression] = [ColumnRef(f.type, i, f.name) for i, f in enumerate(join.left.fields)]
    return Project(rows, (*kept, Literal(BOOLEAN, kind == "semi")), join.fields)


def _kind_of(term: Expression, mark: int, join: Join) -> str | None:
    """semi for the mark itself, anti for NOT mark where that is never NULL, None for any other term."""
    if isinstance(term, ColumnRef) and term.index == mark:
        return "semi"
    if not isinstance(term, Call) or term.function != "not":
        return None
    inner = term.args[0]
    if not isinstance(inner, ColumnRef) or inner.index != mark:
        return None
    if join.compared is None:
        return "anti"
    nullable = [f.nullable for f in (*join.left.fields, *join.right.fields)]
    return None if may_be_null(join.compared, nullable) else "anti"
