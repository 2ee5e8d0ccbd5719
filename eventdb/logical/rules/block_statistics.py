"""count(*), and count, min and max of columns, over a scan and comparisons with constants: statistics may know."""

from __future__ import annotations

from eventdb.logical.expressions import Aggregation, Call, ColumnRef, Expression, Literal, substitute
from eventdb.logical.plan import Aggregate, Filter, Plan, Project, Scan, transform_plan
from eventdb.logical.predicates import terms_of
from eventdb.logical.relational import BlockAggregate

_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}


def block_statistics(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, Aggregate) or plan.keys or not all(map(_is_known, plan.aggregations)):
        return plan
    below, aggregations = plan.input, plan.aggregations
    while isinstance(below, Project):  # it computes nothing that is asked for, or it ends this
        inputs = below.expressions
        aggregations = tuple(a.map(lambda e, inputs=inputs: substitute(e, inputs)) for a in aggregations)  # type: ignore[misc]
        below = below.input
    if not all(map(_is_known, aggregations)):
        return plan
    terms: list[tuple[int, str, object]] = []
    scan = below
    if isinstance(below, Filter):
        for term in terms_of(below.predicate):
            found = _comparison(term)
            if found is None:
                return plan
            terms.append(found)
        scan = below.input
    if not isinstance(scan, Scan) or scan.keys is not None:
        return plan
    return BlockAggregate(below, aggregations, plan.output, tuple(terms))


def _is_known(aggregation: Aggregation) -> bool:
    if aggregation.distinct and aggregation.function == "count":
        return False
    if aggregation.function not in ("count_star", "count", "min", "max"):
        return False
    return (
        aggregation.filter is None and not aggregation.order and all(isinstance(a, ColumnRef) for a in aggregation.args)
    )


def _comparison(term: Expression) -> tuple[int, str, object] | None:
    """(field, function, constant) of a term that block statistics may decide."""
    if not isinstance(term, Call):
        return None
    if term.function == "is_not_null" and isinstance(term.args[0], ColumnRef):
        return term.args[0].index, term.function, None
    if term.function not in _MIRRORED:
        return None
    left, right = term.args
    function = term.function
    if isinstance(left, Literal):
        left, right, function = right, left, _MIRRORED[function]
    if not isinstance(left, ColumnRef) or not isinstance(right, Literal) or right.value is None:
        return None
    alike = left.type == right.type or (left.type.is_integer and right.type.is_integer)
    return (left.index, function, right.value) if alike else None
