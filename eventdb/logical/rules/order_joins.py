"""Inner joins in the order that suits lookups: the largest relation streams, the others are held, most selective first.

A tree of inner joins (with filters, renamings and semi joins in it) is taken apart into relations and conditions. The
relation with most rows becomes the root. Every other one hangs below the relation it is connected to, by an edge whose
key may find one row of it at most if there is one: so a star or a snowflake becomes its fact table with a held side for
each dimension, which is itself such a tree. A semi join of one relation's columns goes to that relation. Trees with a
product in them, or with conditions that can raise, stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from eventdb.logical.cardinality import Statistics, may_be_unique, row_count, whole_count
from eventdb.logical.expressions import Call, ColumnRef, Expression, columns_of, remap
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Filter, Join, Plan, Project
from eventdb.logical.predicates import all_of, split_pairs, terms_of
from eventdb.schema import BOOLEAN


def order_joins(plan: Plan, statistics: Statistics) -> Plan:
    """An equivalent plan; rows may come in another order."""
    if _is_tree(plan):
        ordered = _ordered(plan, statistics)
        if ordered is not None:
            return ordered
    children = plan.children
    changed = tuple(order_joins(child, statistics) for child in children)
    return plan.with_children(changed) if any(a is not b for a, b in zip(changed, children, strict=True)) else plan


def _is_tree(plan: Plan) -> bool:
    """Whether an inner join is at the top, perhaps below filters, renamings and semi joins."""
    while True:
        if isinstance(plan, Join):
            if plan.kind == "inner":
                return True
            if not _is_plain_semi(plan):
                return False
            plan = plan.left
        elif isinstance(plan, Filter) or _is_renaming(plan):
            plan = plan.children[0]
        else:
            return False


def _is_plain_semi(join: Join) -> bool:
    return join.kind in ("semi", "anti") and join.residual is None and bool(join.left_keys)


def _is_renaming(plan: Plan) -> bool:
    return isinstance(plan, Project) and all(isinstance(e, ColumnRef) for e in plan.expressions)


@dataclass(slots=True)
class _Tree:
    """Relations, and conditions over their columns: column c of relation r is `starts[r] + c`."""

    relations: list[Plan] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    terms: list[Expression] = field(default_factory=list)

    def take(self, plan: Plan) -> list[int]:
        """Takes a plan apart; the columns that are its fields."""
        if isinstance(plan, Join) and plan.kind == "inner":
            columns = self.take(plan.left)
            width = len(columns)
            columns = columns + self.take(plan.right)
            nulls = plan.null_matches or (False,) * len(plan.left_keys)
            for a, b, null in zip(plan.left_keys, plan.right_keys, nulls, strict=True):
                moved = remap(b, {i: i + width for i in columns_of(b)})
                equal = Call(BOOLEAN, "is_not_distinct_from" if null else "eq", (a, moved))
                self._add(equal, columns)
            for term in terms_of(plan.residual):
                self._add(term, columns)
            return columns
        if isinstance(plan, Filter) and _is_tree(plan.input):
            columns = self.take(plan.input)
            for term in terms_of(plan.predicate):
                self._add(term, columns)
            return columns
        if isinstance(plan, Project) and _is_renaming(plan) and _is_tree(plan.input):
            below = self.take(plan.input)
            return [below[e.index] for e in plan.expressions if isinstance(e, ColumnRef)]
        if isinstance(plan, Join) and _is_plain_semi(plan) and _is_tree(plan.left):
            before = self.relations[:], self.starts[:], self.terms[:]
            columns = self.take(plan.left)
            if self._push_semi(plan, columns):
                return columns
            self.relations, self.starts, self.terms = before
        start = self.starts[-1] + len(self.relations[-1].fields) if self.starts else 0
        self.relations.append(plan)
        self.starts.append(start)
        return list(range(start, start + len(plan.fields)))

    def _add(self, term: Expression, columns: list[int]) -> None:
        self.terms.append(remap(term, dict(enumerate(columns))))

    def _push_semi(self, join: Join, columns: list[int]) -> bool:
        keys = [remap(key, dict(enumerate(columns))) for key in join.left_keys]
        owners = {self.owner(c) for key in keys for c in columns_of(key)}
        if len(owners) != 1 or any(map(may_raise, keys)):
            return False
        (owner,) = owners
        start = self.starts[owner]
        own = tuple(remap(key, {c: c - start for c in columns_of(key)}) for key in keys)
        self.relations[owner] = replace(join, left=self.relations[owner], left_keys=own)
        return True

    def owner(self, column: int) -> int:
        """The relation of a column."""
        return next(r for r in reversed(range(len(self.starts))) if self.starts[r] <= column)

    def owners(self, expression: Expression) -> frozenset[int]:
        return frozenset(self.owner(c) for c in columns_of(expression))


def _ordered(plan: Plan, statistics: Statistics) -> Plan | None:
    tree = _Tree()
    columns = tree.take(plan)
    if len(tree.relations) < 2 or any(map(may_raise, tree.terms)):
        return None
    tree.terms += [term for r in range(len(tree.relations)) for term in _implied(tree, r) if term not in tree.terms]
    tree.relations = [order_joins(relation, statistics) for relation in tree.relations]
    sizes = [row_count(_own(tree, r), statistics) for r in range(len(tree.relations))]
    root = max(range(len(sizes)), key=lambda r: (sizes[r], -r))
    below = _span(tree, root, sizes, statistics)
    if below is None:
        return None
    shares = [
        size / max(1.0, whole_count(relation, statistics)) for size, relation in zip(sizes, tree.relations, strict=True)
    ]
    joined, held = _join(tree, root, below, sizes, shares)
    joined = _filtered(tree, joined, held, [term for term in tree.terms if not columns_of(term)])
    places = {column: i for i, column in enumerate(held)}
    expressions = tuple(ColumnRef(f.type, places[c], f.name) for f, c in zip(plan.fields, columns, strict=True))
    return Project(joined, expressions, plan.fields)


def _implied(tree: _Tree, relation: int) -> list[Expression]:
    """What terms over several relations say about one: (a AND x) OR (b AND y) implies a OR b."""
    implied: list[Expression] = []
    for term in tree.terms:
        if isinstance(term, Call) and term.function == "or" and len(tree.owners(term)) > 1:
            parts = [all_of(t for t in terms_of(arg) if tree.owners(t) == {relation}) for arg in term.args]
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                implied.append(Call(BOOLEAN, "or", tuple(known)))
    return implied


def _own(tree: _Tree, relation: int) -> Plan:
    """A relation below the conditions that read nothing else."""
    start = tree.starts[relation]
    columns = list(range(start, start + len(tree.relations[relation].fields)))
    return _filtered(tree, tree.relations[relation], columns, [t for t in tree.terms if tree.owners(t) == {relation}])


def _span(tree: _Tree, root: int, sizes: list[float], statistics: Statistics) -> dict[int, list[int]] | None:
    """The relations below each relation; None if some are not connected by equalities."""
    below: dict[int, list[int]] = {r: [] for r in range(len(sizes))}
    edges: dict[tuple[int, int], list[Expression]] = {}  # (parent, child) -> the child's side of the equalities
    for term in tree.terms:
        if isinstance(term, Call) and term.function in ("eq", "is_not_distinct_from"):
            for a, b in (term.args, term.args[::-1]):
                owners = tree.owners(a), tree.owners(b)
                if len(owners[0]) == 1 and len(owners[1]) == 1 and owners[0] != owners[1]:
                    (parent,), (child,) = owners
                    start = tree.starts[child]
                    edges.setdefault((parent, child), []).append(remap(b, {c: c - start for c in columns_of(b)}))
    unique = {edge: may_be_unique(tree.relations[edge[1]], keys, statistics) for edge, keys in edges.items()}
    inside = {root}
    while len(inside) < len(sizes):
        open_ = [edge for edge in edges if edge[0] in inside and edge[1] not in inside]
        if not open_:
            return None
        parent, child = min(open_, key=lambda e: (not unique[e], sizes[e[1]], sizes[e[0]], e))
        below[parent].append(child)
        inside.add(child)
    return below


def _join(
    tree: _Tree, relation: int, below: dict[int, list[int]], sizes: list[float], shares: list[float]
) -> tuple[Plan, list[int]]:
    """A relation with all that hangs below it, and the columns that are its fields. A condition is put where all its
    columns are there first; what drops most rows comes first, of sides alike the smallest."""

    def share(child: int) -> float:
        return shares[child] * math.prod(map(share, below[child]))

    start = tree.starts[relation]
    columns = list(range(start, start + len(tree.relations[relation].fields)))
    done = {relation}
    plan = _own(tree, relation)
    for child in sorted(below[relation], key=lambda r: (share(r), sizes[r], r)):
        right, more = _join(tree, child, below, sizes, shares)
        added = done | {tree.owner(c) for c in more}
        ready = [
            t for t in tree.terms
            if (o := tree.owners(t)) <= added and not o <= done and not o <= added - done
        ]  # fmt: skip
        both = columns + more
        places = {c: i for i, c in enumerate(both)}
        pairs, nulls, rest = split_pairs([remap(t, places) for t in ready], len(columns))
        plan = Join(
            "inner", plan, right, tuple(a for a, _ in pairs), tuple(b for _, b in pairs), all_of(rest), tuple(nulls)
        )
        columns, done = both, added
    return plan, columns


def _filtered(tree: _Tree, plan: Plan, columns: list[int], terms: list[Expression]) -> Plan:
    places = {c: i for i, c in enumerate(columns)}
    predicate = all_of(remap(term, places) for term in terms)
    return plan if predicate is None else Filter(plan, predicate)
