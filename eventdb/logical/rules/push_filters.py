"""Filters move towards the scans, so fewer rows reach everything above.

Through Project (its expressions put in), Sort, Distinct, UnionAll, the keys of an Aggregate, the columns an Over is
partitioned by, those a TimeWindow only passes on, and into the sides of a Join. A term that may raise moves only where
it is evaluated on the same values as before, and never past a term in front of it that stays.

Which side of a join takes a term: a WHERE term over the left columns may go left unless the left side can be missing
(full); over the right columns it may go right in an inner join only, since an outer join would turn the rows it removes
into NULLs. An ON term over the right columns may go right unless a right row without a partner is kept (full); over the
left columns only where a left row without a partner is dropped (inner, semi).
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import ColumnRef, Expression, columns_of, remap, substitute
from eventdb.logical.functions import may_raise
from eventdb.logical.over import Over
from eventdb.logical.plan import Aggregate, Distinct, Filter, Join, Plan, Project, Sort, TimeWindow, UnionAll
from eventdb.logical.predicates import all_of, terms_of
from eventdb.logical.python_functions import calls_python


def push_filters(plan: Plan) -> Plan:
    if isinstance(plan, Filter):
        plan = _push(plan)
    if isinstance(plan, Join):
        plan = _push_residual(plan)
    children = plan.children
    changed = tuple(push_filters(child) for child in children)
    if any(new is not old for new, old in zip(changed, children, strict=True)):
        plan = plan.with_children(changed)
    return plan


def _filtered(plan: Plan, terms: list[Expression]) -> Plan:
    predicate = all_of(terms)
    return plan if predicate is None else Filter(plan, predicate)


def _push(plan: Filter) -> Plan:
    below = plan.input
    if isinstance(below, Filter):
        return _push(
            Filter(below.input, all_of([*terms_of(below.predicate), *terms_of(plan.predicate)]) or plan.predicate)
        )
    if isinstance(below, Project):
        if any(calls_python(below.expressions[i]) for i in columns_of(plan.predicate)):
            return plan
        moved = substitute(plan.predicate, below.expressions)
        return replace(below, input=Filter(below.input, moved))
    if isinstance(below, (Sort, Distinct)):
        return below.with_children((Filter(below.input, plan.predicate),))
    if isinstance(below, UnionAll):
        return replace(below, inputs=tuple(Filter(child, plan.predicate) for child in below.inputs))
    if isinstance(below, Aggregate):
        return _push_into_aggregate(plan, below)
    if isinstance(below, TimeWindow):
        return _push_into_window(plan, below)
    if isinstance(below, Join):
        return _push_into_join(plan, below)
    if isinstance(below, Over):
        return _push_into_over(plan, below)
    return plan


def _split(terms: list[Expression], width: range, same_values: bool) -> tuple[list[Expression], list[Expression]]:
    """Terms that may move below (they read only columns in `width`), and those that stay."""
    moved: list[Expression] = []
    kept: list[Expression] = []
    for term in terms:
        fits = columns_of(term) <= set(width)
        if fits and (not may_raise(term) or (same_values and not kept)):
            moved.append(term)
        else:
            kept.append(term)
    return moved, kept


def _push_into_aggregate(plan: Filter, below: Aggregate) -> Plan:
    """A term over the keys holds for all rows of a group or for none. Without keys there is always one row."""
    if not below.keys or any(map(calls_python, below.keys)):
        return plan
    moved, kept = _split(terms_of(plan.predicate), range(len(below.keys)), same_values=True)
    if not moved:
        return plan
    rows = [substitute(term, below.keys) for term in moved]
    return _filtered(replace(below, input=_filtered(below.input, rows)), kept)


def _push_into_over(plan: Filter, below: Over) -> Plan:
    """A term over columns that every call is partitioned by holds for whole partitions or for none of their rows.

    Not over floats: -0.0 and 0.0 are in one partition but not one value to every function.
    """
    shared = {e.index for e in below.calls[0].partition if isinstance(e, ColumnRef) and not e.type.is_float}
    for call in below.calls[1:]:
        shared &= {e.index for e in call.partition if isinstance(e, ColumnRef)}
    moved: list[Expression] = []
    kept: list[Expression] = []
    for term in terms_of(plan.predicate):
        columns = columns_of(term)
        (moved if columns and columns <= shared and not may_raise(term) else kept).append(term)
    return plan if not moved else _filtered(replace(below, input=_filtered(below.input, moved)), kept)


def _push_into_window(plan: Filter, below: TimeWindow) -> Plan:
    moved, kept = _split(terms_of(plan.predicate), range(len(below.input.fields)), same_values=False)
    return plan if not moved else _filtered(replace(below, input=_filtered(below.input, moved)), kept)


def _push_into_join(plan: Filter, below: Join) -> Plan:
    width = len(below.left.fields)
    total = width + len(below.right.fields)
    if below.kind == "full":
        return plan
    left, rest = _split(terms_of(plan.predicate), range(width), same_values=False)
    right: list[Expression] = []
    if below.kind == "inner":
        right, rest = _split(rest, range(width, total), same_values=False)
    if not left and not right:
        return plan
    below_right = [_to_right(term, width) for term in right]
    joined = replace(below, left=_filtered(below.left, left), right=_filtered(below.right, below_right))
    return _filtered(joined, rest)


def _push_residual(plan: Join) -> Join:
    """Terms of ON that read one side."""
    if plan.residual is None or plan.kind == "full":
        return plan
    width = len(plan.left.fields)
    total = width + len(plan.right.fields)
    right, rest = _split(terms_of(plan.residual), range(width, total), same_values=False)
    left: list[Expression] = []
    if plan.kind in ("inner", "semi"):
        left, rest = _split(rest, range(width), same_values=False)
    if not left and not right:
        return plan
    below_right = [_to_right(term, width) for term in right]
    return replace(
        plan, left=_filtered(plan.left, left), right=_filtered(plan.right, below_right), residual=all_of(rest)
    )


def _to_right(term: Expression, width: int) -> Expression:
    return remap(term, {i: i - width for i in columns_of(term)})
