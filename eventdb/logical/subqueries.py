"""Subqueries before they are unnested: expressions that hold a plan, and a FROM item that reads the items before it.

A plan inside refers to the row outside by OuterRef(i), which stands for `args[i]`, an expression over the input of
whatever holds the subquery. The arguments are the only children, so rewriting an expression rewrites them. The rule
unnest_subqueries replaces all of this by joins: no other rule and no operator sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eventdb.logical.expressions import Expression, transform, walk
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.plan import Fields, Plan


@dataclass(frozen=True, slots=True)
class OuterRef(Expression):
    """Argument `index` of the subquery this stands in."""

    index: int
    name: str

    def __str__(self) -> str:
        return f"outer.{self.name}"


@dataclass(frozen=True, slots=True)
class Subquery(Expression):
    """A query as a value.

    `scalar`: the value of its one row, NULL for none, an error for two. `exists`: whether it has a row. `any`: whether
    `test` (over its columns, and arguments as OuterRef) is true for a row; NULL if it is for none but is NULL for one.
    """

    kind: str
    plan: Plan
    args: tuple[Expression, ...]
    test: Expression | None = None

    def children(self) -> tuple[Expression, ...]:
        return self.args

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        return replace(self, args=children)

    def __str__(self) -> str:
        if self.kind == "exists":
            return "EXISTS(subquery)"
        return "subquery" if self.test is None else f"ANY(subquery: {self.test})"


@dataclass(frozen=True, slots=True)
class Apply(Plan):
    """LATERAL: for each left row, the right plan's rows with `args` of that row. `kind`: inner, or left.

    `condition` (over left, then right fields) is the join's ON.
    """

    kind: str
    left: Plan
    right: Plan
    args: tuple[Expression, ...]
    condition: Expression | None = None

    @property
    def fields(self) -> Fields:
        right = self.right.fields
        if self.kind == "left":
            right = tuple(replace(field, nullable=True) for field in right)
        return self.left.fields + right

    @property
    def children(self) -> tuple[Plan, ...]:
        return (self.left, self.right)

    def with_children(self, children: tuple[Plan, ...]) -> Plan:
        return replace(self, left=children[0], right=children[1])

    def label(self) -> str:
        return f"Apply {self.kind}" + ("" if self.condition is None else f" on {self.condition}")


def holds_subquery(expression: Expression) -> bool:
    return any(isinstance(node, Subquery) for node in walk(expression))


def has_subqueries(plan: Plan) -> bool:
    """Whether a plan still holds a subquery or an Apply."""
    return isinstance(plan, Apply) or any(map(holds_subquery, expressions_of(plan))) or any(
        map(has_subqueries, plan.children))  # fmt: skip


def outer_refs(expression: Expression) -> bool:
    """Whether an expression (without subqueries in it) reads the row outside."""
    return any(isinstance(node, OuterRef) for node in walk(expression))


def is_correlated(plan: Plan) -> bool:
    """Whether a plan (without subqueries in it) reads the row outside."""
    return any(map(outer_refs, expressions_of(plan))) or any(map(is_correlated, plan.children))


def bind_outer(expression: Expression, args: tuple[Expression, ...]) -> Expression:
    """The expression with each OuterRef(i) replaced by args[i]."""
    return transform(expression, lambda node: args[node.index] if isinstance(node, OuterRef) else node)
