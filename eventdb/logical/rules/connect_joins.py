"""Inner joins in another order where the written one would make a product: FROM a, b, c WHERE a.x = c.x AND c.y = b.y.

A tree of inner joins with a product in it is taken apart into its relations and conditions. From the first relation on,
the next one in the written order that an equality connects to those before is joined; a product remains only where
nothing connects. Trees that are connected as written stay as they are.
"""

from __future__ import annotations

from eventdb.logical.expressions import Call, ColumnRef, Expression, columns_of, remap
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Filter, Join, Plan, Project
from eventdb.logical.predicates import all_of, terms_of
from eventdb.schema import BOOLEAN


def connect_joins(plan: Plan) -> Plan:
    if _is_tree(plan) and _has_product(plan):
        return _connected(plan)
    children = plan.children
    changed = tuple(connect_joins(child) for child in children)
    return plan.with_children(changed) if any(a is not b for a, b in zip(changed, children, strict=True)) else plan


def _is_tree(plan: Plan) -> bool:
    """An inner join, perhaps under a filter."""
    node = plan.input if isinstance(plan, Filter) else plan
    return isinstance(node, Join) and node.kind == "inner"


def _has_product(plan: Plan) -> bool:
    if not _is_tree(plan):
        return False
    node = plan.input if isinstance(plan, Filter) else plan
    assert isinstance(node, Join)
    return not node.left_keys or _has_product(node.left) or _has_product(node.right)


def _connected(plan: Plan) -> Plan:
    relations: list[Plan] = []
    terms: list[Expression] = []
    _take_apart(plan, 0, relations, terms)
    starts = [0]
    for relation in relations:
        starts.append(starts[-1] + len(relation.fields))
    sets = [
        {i for i in range(len(relations)) if any(starts[i] <= c < starts[i + 1] for c in columns_of(term))}
        for term in terms
    ]
    order = _order(len(relations), terms, sets)
    if len(relations) < 3 or order == list(range(len(relations))) or any(map(may_raise, terms)):
        children = tuple(map(connect_joins, relations))
        rebuilt = {id(old): new for old, new in zip(relations, children, strict=True)}
        return _replaced(plan, rebuilt)
    return _join_up([connect_joins(r) for r in relations], order, starts, terms, sets, plan)


def _replaced(plan: Plan, rebuilt: dict[int, Plan]) -> Plan:
    """The tree with its relations exchanged."""
    if id(plan) in rebuilt:
        return rebuilt[id(plan)]
    return plan.with_children(tuple(_replaced(child, rebuilt) for child in plan.children))


def _take_apart(plan: Plan, first: int, relations: list[Plan], terms: list[Expression]) -> None:
    """The relations of a tree and its conditions, over the columns of all of them; `first` is where its own begin."""
    if not _is_tree(plan):
        relations.append(plan)
        return
    node = plan.input if isinstance(plan, Filter) else plan
    assert isinstance(node, Join)
    width = len(node.left.fields)
    _take_apart(node.left, first, relations, terms)
    _take_apart(node.right, first + width, relations, terms)
    nulls = node.null_matches or (False,) * len(node.left_keys)
    for a, b, null in zip(node.left_keys, node.right_keys, nulls, strict=True):
        function = "is_not_distinct_from" if null else "eq"
        terms.append(Call(BOOLEAN, function, (_moved(a, first), _moved(b, first + width))))
    terms.extend(_moved(term, first) for term in terms_of(node.residual))
    if isinstance(plan, Filter):
        terms.extend(_moved(term, first) for term in terms_of(plan.predicate))


def _moved(expression: Expression, by: int) -> Expression:
    return remap(expression, {i: i + by for i in columns_of(expression)})


def _order(count: int, terms: list[Expression], sets: list[set[int]]) -> list[int]:
    links = [s for t, s in zip(terms, sets, strict=True) if isinstance(t, Call) and t.function == "eq" and len(s) > 1]
    order = [0]
    while len(order) < count:
        waiting = [i for i in range(count) if i not in order]
        linked = (i for i in waiting if any(i in s and s <= {*order, i} for s in links))
        order.append(next(linked, waiting[0]))
    return order


def _join_up(
    relations: list[Plan],
    order: list[int],
    starts: list[int],
    terms: list[Expression],
    sets: list[set[int]],
    plan: Plan,
) -> Plan:
    """The relations joined in an order, each condition as soon as its columns are there; columns as in `plan`."""
    joined = relations[order[0]]
    places = {starts[order[0]] + i: i for i in range(len(joined.fields))}
    done: set[int] = set()
    for count, index in enumerate(order):
        if count:
            width = len(joined.fields)
            joined = Join("inner", joined, relations[index])
            places |= {starts[index] + i: width + i for i in range(len(relations[index].fields))}
        present = set(order[: count + 1])
        ready = [n for n, s in enumerate(sets) if n not in done and s <= present]
        done.update(ready)
        predicate = all_of(remap(terms[n], places) for n in ready)
        joined = joined if predicate is None else Filter(joined, predicate)
    fields = plan.fields
    return Project(joined, tuple(ColumnRef(f.type, places[i], f.name) for i, f in enumerate(fields)), fields)
