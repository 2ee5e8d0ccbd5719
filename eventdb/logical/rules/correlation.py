"""Correlated subqueries whose questions to the outer row can be asked after them: as the condition of a join."""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal, columns_of, remap, substitute, transform
from eventdb.logical.functions import EMPTY_IS_ZERO, may_be_null, may_raise
from eventdb.logical.plan import Aggregate, Distinct, Filter, Join, OutputField, Plan, Project, Sort
from eventdb.logical.predicates import all_of, terms_of
from eventdb.logical.subqueries import is_correlated, outer_refs

Pulled = tuple[Plan, list[Expression]]


def pull_up(plan: Plan, any_copies: bool) -> Pulled | None:
    """The plan without its correlated terms, and those terms over its fields: the old ones, then added ones.

    None where it cannot be done so. With `any_copies` only which rows there are matters, not how often.
    """
    if not is_correlated(plan):
        return plan, []
    if isinstance(plan, Filter):
        return _pull_filter(plan, any_copies)
    if isinstance(plan, Project):
        return _pull_project(plan, any_copies)
    if isinstance(plan, Join):
        return _pull_join(plan, any_copies)
    if isinstance(plan, Distinct) and any_copies:
        return pull_up(plan.input, any_copies)
    if isinstance(plan, Sort):
        below = pull_up(plan.input, any_copies)
        return None if below is None else (replace(plan, input=below[0]), below[1])
    return None


def _pull_filter(plan: Filter, any_copies: bool) -> Pulled | None:
    below = pull_up(plan.input, any_copies)
    if below is None:
        return None
    kept: list[Expression] = []
    pulled = list(below[1])
    for term in terms_of(plan.predicate):
        if outer_refs(term):
            pulled.append(term)
        elif pulled and may_raise(term):
            return None  # the correlated terms before it may keep away the rows it raises on
        else:
            kept.append(term)
    predicate = all_of(kept)
    return (below[0] if predicate is None else Filter(below[0], predicate)), pulled


def _pull_project(plan: Project, any_copies: bool) -> Pulled | None:
    if any(map(outer_refs, plan.expressions)):
        return None
    below = pull_up(plan.input, any_copies)
    if below is None:
        return None
    inner, terms = below
    if terms and any(map(may_raise, plan.expressions)):
        return None
    width = len(plan.expressions)
    read = sorted(set().union(*(columns_of(term) for term in terms)))
    extra = tuple(ColumnRef(inner.fields[i].type, i, inner.fields[i].name) for i in read)
    places = {old: width + new for new, old in enumerate(read)}
    output = (*plan.output, *(inner.fields[i] for i in read))
    return Project(inner, (*plan.expressions, *extra), output), [remap(term, places) for term in terms]


def _pull_join(plan: Join, any_copies: bool) -> Pulled | None:
    """From both sides of an inner join, from the left side of the others."""
    expressions = [*plan.left_keys, *plan.right_keys, *(e for e in (plan.residual, plan.compared) if e is not None)]
    if any(map(outer_refs, expressions)):
        return None
    left = pull_up(plan.left, any_copies)
    right = pull_up(plan.right, any_copies) if plan.kind == "inner" else (plan.right, [])
    if left is None or right is None or plan.kind == "full" or is_correlated(right[0]):
        return None
    old, new = len(plan.left.fields), len(left[0].fields)
    places = {i: i for i in range(old)} | {old + i: new + i for i in range(len(plan.right.fields))}
    moved = replace(
        plan, left=left[0], right=right[0],
        residual=None if plan.residual is None else remap(plan.residual, places),
        compared=None if plan.compared is None else remap(plan.compared, places),
    )  # fmt: skip
    terms = [*left[1], *(remap(term, {i: new + i for i in columns_of(term)}) for term in right[1])]
    # The old fields first, then what was added: that is what the callers count on.
    order = [places[i] for i in range(old)]
    order += [new + i for i in range(len(plan.fields) - old)]
    order += [i for i in range(len(moved.fields)) if i not in set(order)]
    fields = tuple(moved.fields[i] for i in order)
    arranged = Project(moved, tuple(ColumnRef(f.type, i, f.name) for i, f in zip(order, fields, strict=True)), fields)
    back = {old_place: place for place, old_place in enumerate(order)}
    return arranged, [remap(term, back) for term in terms]


def pull_aggregate(plan: Plan) -> tuple[Plan, list[Expression], Expression] | None:
    """For a correlated aggregate of all rows: its groups by what the outer row is compared with, the terms that find
    the outer row's group, and the value over the group's columns. Where there is no group, all columns are NULL."""
    value: Expression = ColumnRef(plan.fields[0].type, 0, plan.fields[0].name)
    node = plan
    while isinstance(node, Project):
        value = substitute(value, node.expressions)
        node = node.input
    if not isinstance(node, Aggregate) or node.keys or not is_correlated(node.input):
        return None
    inside = [e for a in node.aggregations for e in a.expressions()]
    pulled = pull_up(node.input, any_copies=False)
    if pulled is None or any(map(outer_refs, inside)) or any(map(may_raise, inside)):
        return None
    below, terms = pulled
    keys: list[Expression] = []
    for term in terms:
        key = _inner_side(term)
        if key is None:
            return None
        keys.append(key)
    nullable = [f.nullable for f in below.fields]
    key_fields = tuple(OutputField(str(key), key.type, may_be_null(key, nullable)) for key in keys)
    grouped = Aggregate(below, tuple(keys), node.aggregations, (*key_fields, *node.output))
    count = len(keys)
    matches: list[Expression] = []
    for i, (term, key) in enumerate(zip(terms, keys, strict=True)):
        assert isinstance(term, Call)
        column = ColumnRef(key.type, i, str(key))
        matches.append(replace(term, args=tuple(column if arg == key else arg for arg in term.args)))
    return grouped, matches, over_groups(value, node, count)


def over_groups(value: Expression, node: Aggregate, offset: int) -> Expression:
    """An expression over an aggregate's output, over a join with its groups in which they begin at `offset`: where the
    group is missing, counts are 0 and everything else NULL, as over no rows."""

    def moved(part: Expression) -> Expression:
        if not isinstance(part, ColumnRef):
            return part
        column = replace(part, index=part.index + offset)
        if node.aggregations[part.index - len(node.keys)].function not in EMPTY_IS_ZERO:
            return column
        return Call(part.type, "coalesce", (column, Literal(part.type, 0.0 if part.type.is_float else 0)))

    return transform(value, moved)


def _inner_side(term: Expression) -> Expression | None:
    """The side of an equality that reads only the subquery's columns while the other reads only the outer row."""
    if not isinstance(term, Call) or term.function not in ("eq", "is_not_distinct_from"):
        return None
    for inner, outer in (term.args, term.args[::-1]):
        if not outer_refs(inner) and columns_of(inner) and not columns_of(outer) and not may_raise(inner):
            return inner
    return None
