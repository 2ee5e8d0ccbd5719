"""Subqueries become joins. Afterwards no plan holds a Subquery, an OuterRef or an Apply.

A node whose expressions hold subqueries gets them as columns of its input: EXISTS and ANY as the mark of a mark join,
a scalar subquery as the column of a single join. What a correlated subquery asks of the outer row is pulled up into the
join's condition where that is possible (rules/correlation.py); otherwise the subquery is computed for each distinct set
of arguments and joined back (rules/dependent.py).
Source: Neumann & Kemper, Unnesting Arbitrary Queries (BTW 2015).
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import ColumnRef, Expression, columns_of, remap, transform
from eventdb.logical.functions import may_be_null, may_raise
from eventdb.logical.node_expressions import expressions_of, map_expressions
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    Filter,
    GroupSets,
    Join,
    Limit,
    OutputField,
    Plan,
    Project,
    Sort,
    transform_plan,
)
from eventdb.logical.predicates import all_of, split_pairs, terms_of
from eventdb.logical.rules.correlation import pull_aggregate, pull_up
from eventdb.logical.rules.dependent import depend
from eventdb.logical.rules.pair_conditions import over_pairs, reads_both
from eventdb.logical.series import Series
from eventdb.logical.subqueries import Apply, Subquery, bind_outer, holds_subquery, is_correlated


def unnest_subqueries(plan: Plan) -> Plan:
    return transform_plan(plan, _expand)


def _expand(plan: Plan) -> Plan:
    if isinstance(plan, Apply):
        return _lateral(plan)
    if not any(map(holds_subquery, expressions_of(plan))):
        return plan
    width = len(plan.fields)
    if isinstance(plan, Filter):
        return _first_columns(_filter(plan), width)
    if isinstance(plan, Project):
        attached = _Attached(plan.input)
        expressions = tuple(map(attached.rewrite, plan.expressions))
        return Project(attached.plan, expressions, plan.output)
    if isinstance(plan, Aggregate | GroupSets):
        attached = _Attached(plan.input)
        rewritten = map_expressions(plan, attached.rewrite)
        return rewritten.with_children((attached.plan,))
    if isinstance(plan, Over | Series):
        return _added(plan)
    if isinstance(plan, Join) and plan.kind == "inner":
        terms = terms_of(plan.residual)
        plain = [term for term in terms if not holds_subquery(term)]
        kept = [term for term in terms if holds_subquery(term)]
        condition = all_of(kept)
        if condition is not None:
            return _expand(Filter(replace(plan, residual=all_of(plain)), condition))
    if isinstance(plan, Join):
        return _join_condition(plan)
    return plan


def _added(plan: Over | Series) -> Plan:
    attached = _Attached(plan.input)
    rewritten = map_expressions(plan, attached.rewrite)
    computed = rewritten.with_children((attached.plan,))
    old, new = len(plan.input.fields), len(attached.plan.fields)
    places = [*range(old), *range(new, new + len(plan.fields) - old)]
    refs = tuple(ColumnRef(computed.fields[i].type, i, computed.fields[i].name) for i in places)
    return Project(computed, refs, plan.fields)


def _first_columns(plan: Plan, width: int) -> Plan:
    """The first columns of a plan: those that were there before subqueries added theirs."""
    fields = plan.fields[:width]
    return Project(plan, tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(fields)), fields)


def _filter(plan: Filter) -> Plan:
    """The terms without subqueries go first where that changes no error: fewer rows reach the joins."""
    before: list[Expression] = []
    after: list[Expression] = []
    for term in terms_of(plan.predicate):
        plain = not holds_subquery(term) and (not after or not may_raise(term))
        (before if plain else after).append(term)
    first = all_of(before)
    attached = _Attached(plan.input if first is None else Filter(plan.input, first))
    predicate = all_of([attached.rewrite(term) for term in after])
    assert predicate is not None
    return Filter(attached.plan, predicate)


def _join_condition(plan: Join) -> Plan:
    """A subquery in the ON of an outer join: computed on the side whose columns it reads."""
    width = len(plan.left.fields)
    if any(reads_both(node, width) for term in expressions_of(plan) for node in _subqueries(term)):
        return unnest_subqueries(over_pairs(plan))
    left, right = _Attached(plan.left), _Attached(plan.right)
    found: list[tuple[Subquery, int, Expression]] = []  # the subquery, its side, its column there
    for term in expressions_of(plan):
        for node in _subqueries(term):
            read = columns_of(node)
            if read and max(read) < width:
                found.append((node, 0, left.rewrite(node)))
            else:
                found.append((node, 1, right.rewrite(remap(node, {i: i - width for i in read}))))
    new_width = len(left.plan.fields)
    places = {i: i for i in range(width)} | {width + i: new_width + i for i in range(len(plan.right.fields))}

    def swap(node: Expression) -> Expression:
        for subquery, side, column in found:
            if node == subquery:
                return column if side == 0 else remap(column, {i: new_width + i for i in columns_of(column)})
        children = node.children()
        if isinstance(node, ColumnRef):
            return replace(node, index=places[node.index])
        return node.with_children(tuple(map(swap, children))) if children else node

    residual = None if plan.residual is None else swap(plan.residual)
    joined = replace(plan, left=left.plan, right=right.plan, residual=residual)
    order = list(places.values()) if len(plan.fields) > width else list(range(width))
    return Project(
        joined, tuple(ColumnRef(joined.fields[i].type, i, joined.fields[i].name) for i in order), plan.fields
    )


def _subqueries(expression: Expression) -> list[Subquery]:
    if isinstance(expression, Subquery):
        return [expression]
    return [found for child in expression.children() for found in _subqueries(child)]


class _Attached:
    """An input to which subqueries add a column each; equal ones share it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._columns: dict[Subquery, Expression] = {}

    def rewrite(self, expression: Expression) -> Expression:
        """The expression with columns in place of its subqueries."""
        return transform(expression, lambda node: self._column(node) if isinstance(node, Subquery) else node)

    def _column(self, node: Subquery) -> Expression:
        known = self._columns.get(node)
        if known is None:
            plan = unnest_subqueries(node.plan)
            self.plan, known = attach(self.plan, replace(node, plan=plan))
            self._columns[node] = known
        return known


def attach(outer: Plan, node: Subquery) -> tuple[Plan, Expression]:
    """The outer plan with a column more, and the value of the subquery over it."""
    width = len(outer.fields)
    plan = node.plan
    if node.kind == "scalar":
        joined = _scalar(outer, plan, node.args)
        if joined is not None:
            return joined
    else:
        plan = _rows_only(plan, node.kind)
    correlated = is_correlated(plan)
    pulled = pull_up(plan, any_copies=node.kind != "scalar") if correlated else (plan, [])
    if pulled is None:
        right, terms = depend(outer, plan, node.args)
    else:
        right = pulled[0]
        terms = [_over_pair(term, node.args, width) for term in pulled[1]]
    if node.kind == "exists" and not terms:
        right = Limit(right, 1)
    pairs, nulls, rest = split_pairs(terms, width)
    compared = None if node.test is None else _over_pair(node.test, node.args, width)
    joined_plan = Join(
        "single" if node.kind == "scalar" else "mark", outer, right, tuple(a for a, _ in pairs),
        tuple(b for _, b in pairs), all_of(rest), tuple(nulls), compared,
    )  # fmt: skip
    added = joined_plan.fields[width]
    kept = _first_columns(joined_plan, width + 1) if node.kind == "scalar" else joined_plan
    return kept, ColumnRef(added.type, width, added.name)


def _rows_only(plan: Plan, kind: str) -> Plan:
    """A subquery without what changes neither whether it has a row nor which values there are."""
    exists = kind == "exists"
    while True:
        idle_limit = exists and isinstance(plan, Limit) and not plan.skip_count and plan.row_count != 0
        if not isinstance(plan, Sort | Distinct) and not (exists and isinstance(plan, Project)) and not idle_limit:
            return plan
        (plan,) = plan.children


def _scalar(outer: Plan, plan: Plan, args: tuple[Expression, ...]) -> tuple[Plan, Expression] | None:
    """A correlated aggregate without GROUP BY, as a join with its groups; None for anything else."""
    grouped = pull_aggregate(plan)
    if grouped is None:
        return None
    width = len(outer.fields)
    right, terms, value = grouped
    pairs, nulls, rest = split_pairs([_over_pair(term, args, width) for term in terms], width)
    if rest:
        return None
    keys = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    joined = Join("single", outer, right, keys[0], keys[1], None, tuple(nulls))
    result = _over_pair(value, args, width)
    nullable = may_be_null(result, [f.nullable for f in joined.fields])
    field = OutputField(plan.fields[0].name, plan.fields[0].type, nullable)
    passed = tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(outer.fields))
    return Project(joined, (*passed, result), (*outer.fields, field)), ColumnRef(field.type, width, field.name)


def _over_pair(term: Expression, args: tuple[Expression, ...], width: int) -> Expression:
    """A term over a subquery's columns and OuterRefs, over the outer columns and then the subquery's."""
    return bind_outer(remap(term, {i: i + width for i in columns_of(term)}), args)


def _lateral(plan: Apply) -> Plan:
    width = len(plan.left.fields)
    total = len(plan.fields)
    pulled = pull_up(plan.right, any_copies=False) if is_correlated(plan.right) else (plan.right, [])
    if pulled is None:
        right, terms = depend(plan.left, plan.right, plan.args)
    else:
        right, terms = pulled[0], [_over_pair(term, plan.args, width) for term in pulled[1]]
    pairs, nulls, rest = split_pairs([*terms, *terms_of(plan.condition)], width)
    keys = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    joined = Join(plan.kind, plan.left, right, keys[0], keys[1], all_of(rest), tuple(nulls))
    return _expand_condition(_first_columns(joined, total))


def _expand_condition(plan: Plan) -> Plan:
    """The join below with the subqueries of its ON unnested, too."""
    child = plan.children[0]
    return plan.with_children((_expand(child),))
