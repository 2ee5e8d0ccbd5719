"""JOIN: every kind, with ON, USING, NATURAL or nothing, and LATERAL items.

A right join is a left join with its sides exchanged. The column that USING merges is the left one, the right one (right
join), or whichever is there (full join).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from eventdb.errors import BindError
from eventdb.logical.expressions import ColumnRef, Expression, columns_of, remap
from eventdb.logical.plan import Filter, Join, Plan
from eventdb.logical.predicates import all_of, split_pairs, terms_of
from eventdb.logical.subqueries import Apply, holds_subquery
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import project
from eventdb.sql.relation import Relation
from eventdb.sql.scope import Name, Scope
from eventdb.sql.series import bind_series, series_call
from eventdb.sql.subqueries import bind_nested

if TYPE_CHECKING:
    from eventdb.sql.relations import RelationBinder


class JoinBinder:
    """Binds one JOIN of a FROM."""

    def __init__(self, relations: RelationBinder) -> None:
        self.relations = relations
        self.context = relations.context

    def bind(self, left: Relation, node: exp.Join) -> Relation:
        kind = self._kind(node)
        natural = (node.args.get("method") or "").upper() == "NATURAL"
        right = self.relations.alone(node.this)
        if not isinstance(right, Relation):
            return self._lateral(left, node, kind, natural, right)
        self._check_names(left, right, node.this)
        using: list[exp.Expr | str] = list(node.args.get("using") or [])
        if natural:
            using = list(self._shared(left.scope, right.scope))
        if using:
            return self._using(left, right, using, kind, node)
        on = node.args.get("on")
        if on is None and kind != "inner" and not natural:
            self.context.fail(f"{kind.upper()} JOIN needs ON or USING", node.this)
        terms = [] if on is None else self._terms(left, right, on, kind)
        return self._relation(left, right, kind, terms)

    def product(self, left: Relation, right: Relation, node: exp.Expr) -> Relation:
        """What a comma joins: every pair."""
        self._check_names(left, right, node)
        return self._relation(left, right, "inner", [])

    def _kind(self, node: exp.Join) -> str:
        side = (node.args.get("side") or "").upper()
        kind = (node.args.get("kind") or "").upper()
        method = (node.args.get("method") or "").upper()
        if method not in ("", "NATURAL"):
            fix = "ON a.t >= b.t in a LATERAL subquery with ORDER BY and LIMIT 1" if method == "ASOF" else ""
            self.context.unsupported(f"{method} JOIN", node, fix)
        if kind in ("SEMI", "ANTI") and side in ("", "LEFT"):
            return kind.lower()
        if side not in ("", "LEFT", "RIGHT", "FULL") or kind not in ("", "INNER", "OUTER", "CROSS"):
            self.context.unsupported(f"{side} {kind} JOIN".strip(), node)
        return side.lower() or "inner"

    def _check_names(self, left: Relation, right: Relation, node: exp.Expr) -> None:
        for table in right.scope.tables:
            if table.lower() in (known.lower() for known in left.scope.tables):
                self.context.fail(f"two tables are called {table!r}; give one an alias", node)

    # -- conditions ------------------------------------------------------------------------------------------------

    def _terms(self, left: Relation, right: Relation, on: exp.Expr, kind: str) -> list[Expression]:
        width = len(left.plan.fields)
        scope = left.scope.joined(right.scope, width)
        return terms_of(ExpressionBinder(self.context, scope, "ON").predicate(on))

    def _relation(self, left: Relation, right: Relation, kind: str, terms: list[Expression]) -> Relation:
        """The join over left, then right fields. Terms read them in that order."""
        plan = join_plan(left.plan, right.plan, kind, terms)
        if kind in ("semi", "anti"):
            return Relation(plan, left.scope)
        return Relation(plan, left.scope.joined(right.scope, len(left.plan.fields)))

    # -- USING and NATURAL -----------------------------------------------------------------------------------------

    @staticmethod
    def _shared(left: Scope, right: Scope) -> list[str]:
        """The names both sides show, in the order of the left one."""
        others = {name.name.lower() for name in right.star()}
        return [name.name for name in left.star() if name.name.lower() in others]

    def _using(
        self, left: Relation, right: Relation, using: list[exp.Expr | str], kind: str, node: exp.Join
    ) -> Relation:
        width = len(left.plan.fields)
        terms: list[Expression] = []
        merged: dict[str, tuple[Expression, Expression]] = {}
        for part in using:
            name = part if isinstance(part, str) else part.name
            tree = node.this if isinstance(part, str) else part
            mine = ExpressionBinder(self.context, left.scope, "USING")
            other = ExpressionBinder(self.context, right.scope, "USING").column(name, "", tree)
            other = remap(other, {i: i + width for i in columns_of(other)})
            first = mine.column(name, "", tree)
            terms.append(mine.call("eq", [first, other], tree))
            merged[name.lower()] = (first, other)
        joined = self._relation(left, right, kind, terms)
        if kind in ("semi", "anti"):
            return joined
        return self._merged(joined, left, right, merged, kind)

    def _merged(
        self, joined: Relation, left: Relation, right: Relation,
        merged: dict[str, tuple[Expression, Expression]], kind: str,
    ) -> Relation:  # fmt: skip
        """The columns of USING once in `*` and under their bare names; both are there under their tables' names."""
        plan, width = joined.plan, len(left.plan.fields)
        binder = ExpressionBinder(self.context, joined.scope, "USING")
        values: dict[str, ColumnRef] = {}
        added: list[Expression] = []
        total = len(plan.fields)
        for name, (first, other) in merged.items():
            value = other if kind == "right" else first
            if kind == "full":
                both = binder.unify([first, other], None, "USING")
                added.append(binder.call("coalesce", both, None))
                value = ColumnRef(added[-1].type, total + len(added) - 1, name)
            assert isinstance(value, ColumnRef)
            values[name] = value
        if added:
            refs: list[Expression] = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
            plan = project(plan, [*refs, *added], [*(f.name for f in plan.fields), *merged])
        names: list[Name] = []
        for known in left.scope.names:
            found = values.get(known.name.lower()) if known.bare else None
            if found is not None:
                names.append(Name("", known.name, found.type, found.index))
                known = replace(known, in_star=False, bare=False)
            names.append(known)
        for known in right.scope.names:
            moved = replace(known, index=known.index + width)
            names.append(replace(moved, in_star=False, bare=False) if known.name.lower() in merged else moved)
        return Relation(plan, Scope(names, [*left.scope.tables, *right.scope.tables]))

    # -- LATERAL ---------------------------------------------------------------------------------------------------

    def _lateral(
        self, left: Relation, node: exp.Join, kind: str, natural: bool, error: BindError | None
    ) -> Relation:  # fmt: skip
        """LATERAL, or a subquery that cannot be bound without the items before it, which said `error`."""
        lateral = node.this
        if kind not in ("inner", "left") or natural or node.args.get("using"):
            if error is not None:
                raise error
            self.context.unsupported("LATERAL in this join", node, "use CROSS, INNER or LEFT JOIN LATERAL ... ON")
        call = series_call(lateral)
        if call is not None:
            return self._series(left, node, kind, call)
        query = lateral if error is not None else lateral.this
        if not isinstance(query, exp.Subquery):
            self.context.unsupported("LATERAL of anything but a subquery", lateral)
        binder = ExpressionBinder(self.context, left.scope, "LATERAL")
        try:
            plan, enclosing = bind_nested(self.context, binder.known, query)
        except BindError:
            if error is not None:
                raise error from None
            raise
        right = self.relations.named(plan, lateral, "")
        self._check_names(left, right, lateral)
        on = node.args.get("on")
        if on is None and kind == "left":
            self.context.fail("LEFT JOIN needs ON; write ON TRUE", node.this)
        terms = [] if on is None else self._terms(left, right, on, kind)
        if not enclosing.args:
            return self._relation(left, right, kind, terms)
        applied = Apply(kind, left.plan, plan, tuple(enclosing.args), all_of(terms))
        return Relation(applied, left.scope.joined(right.scope, len(left.plan.fields)))

    def _series(self, left: Relation, node: exp.Join, kind: str, call: exp.Anonymous) -> Relation:
        if kind != "inner":
            self.context.unsupported("LEFT JOIN of a series that reads the row before it", node, "use a subquery")
        found = bind_series(self.context, call, node.this, left)
        on = node.args.get("on")
        if on is None:
            return found
        condition = ExpressionBinder(self.context, found.scope, "ON").predicate(on)
        return Relation(Filter(found.plan, condition), found.scope)


def join_plan(left: Plan, right: Plan, kind: str, terms: list[Expression]) -> Plan:
    """The join of two plans on terms over left, then right fields; a right join by exchanging the sides."""
    width, other_width = len(left.fields), len(right.fields)
    plain = [term for term in terms if not holds_subquery(term)]
    pairs, nulls, rest = split_pairs(plain, width)
    residual = all_of([*rest, *(term for term in terms if holds_subquery(term))])
    mine, others = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    null_matches = tuple(nulls) if any(nulls) else ()
    if kind != "right":
        return Join(kind, left, right, mine, others, residual, null_matches)
    places = {i: i + other_width for i in range(width)} | {width + i: i for i in range(other_width)}
    residual = None if residual is None else remap(residual, places)
    swapped = Join("left", right, left, others, mine, residual, null_matches)
    order = [places[i] for i in range(width + other_width)]
    refs = [ColumnRef(swapped.fields[i].type, i, swapped.fields[i].name) for i in order]
    return project(swapped, refs, [ref.name for ref in refs])
