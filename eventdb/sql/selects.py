"""SELECT: clauses in their logical order, to a plan.

FROM -> WHERE -> GROUP BY and aggregates -> HAVING -> window functions -> QUALIFY -> select list, then the end of the
query (ordering.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef, Expression, Literal, transform, walk
from eventdb.logical.over import Over
from eventdb.logical.plan import Filter, OutputField, Plan
from eventdb.logical.predicates import all_of, terms_of
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.grouping import GroupBinder, Groups, OverGroups, aggregate, put_in_windows
from eventdb.sql.ordering import CONSTANT, TailBinder, Target, is_constant
from eventdb.sql.references import AggregateRef, GroupingRef, OverRef
from eventdb.sql.relation import Relation
from eventdb.sql.relations import RelationBinder, conjunct_trees
from eventdb.sql.select_list import Item, SelectList, aliases_of, column_of, name_of


@dataclass(slots=True)
class Selection:
    """What the clauses of one SELECT share."""

    relation: Relation
    items: list[Item]
    binder: ExpressionBinder
    groups: Groups | None = None
    having: Expression | None = None
    qualify: Expression | None = None
    outputs: list[Expression] = field(default_factory=list)


class SelectBinder:
    """Binds one SELECT; `bind_query` binds the queries nested in it."""

    def __init__(self, context: Context, bind_query: Callable[[exp.Expr, dict[str, Plan]], Plan]) -> None:
        self.context = context
        self.bind_query = bind_query

    def bind(self, node: exp.Select, ctes: dict[str, Plan]) -> Plan:
        relations = RelationBinder(self.context, ctes, self.bind_query)
        where = conjunct_trees(node.args["where"].this) if node.args.get("where") is not None else []
        relation = relations.bind_from(node)
        aliases = aliases_of(node)
        if where:
            binder = ExpressionBinder(self.context, relation.scope, "WHERE", aliases=aliases)
            terms = [binder.predicate(term) for term in where]
            predicate = all_of(part for term in terms for part in terms_of(term))
            assert predicate is not None
            relation = Relation(Filter(relation.plan, predicate), relation.scope)
        relation, window = put_in_windows(self.context, node, relation, relations)
        binder = ExpressionBinder(self.context, relation.scope, "SELECT", [], aliases)
        binder.replaced = window
        binder.overs = []
        binder.windows = self._windows(node)
        selection = Selection(relation, SelectList(self.context, relation.scope).items(node), binder)
        self._group(node, selection)
        for item in selection.items:
            output = column_of(item) if item.tree is None else binder.bind(item.tree)
            if item.origin is not None:
                binder.places.setdefault(output, item.origin)
            item.name = item.name or name_of(item.tree, output, binder)
            selection.outputs.append(output)
        self._filters(node, selection)
        return self._finish(node, selection)

    def _windows(self, node: exp.Select) -> dict[str, exp.Window]:
        """The WINDOW clause."""
        found: dict[str, exp.Window] = {}
        for window in node.args.get("windows") or []:
            if window.name.lower() in found:
                self.context.fail(f"WINDOW names {window.name!r} twice", window)
            found[window.name.lower()] = window
        return found

    def _filters(self, node: exp.Select, selection: Selection) -> None:
        """HAVING and QUALIFY."""
        binder = selection.binder
        if node.args.get("having") is not None:
            binder.clause = "HAVING"
            overs, binder.overs = binder.overs, None
            selection.having = binder.predicate(node.args["having"].this)
            binder.overs = overs
        if node.args.get("qualify") is not None:
            binder.clause = "QUALIFY"
            selection.qualify = binder.predicate(node.args["qualify"].this)
            if not binder.overs:
                self.context.fail(
                    "QUALIFY is for window functions, and there is none; use WHERE or HAVING", node.args["qualify"]
                )

    # -- GROUP BY --------------------------------------------------------------------------------------------------

    def _group(self, node: exp.Select, selection: Selection) -> None:
        group = node.args.get("group")
        if group is None:
            return
        if group.args.get("all"):
            if group.expressions:
                fix = "write GROUP BY ALL alone, or list every key"
                self.context.unsupported("GROUP BY ALL beside other keys", group.expressions[0], fix)
            selection.groups = self._group_all(selection)
            return
        bind_key = self._key_binder(selection)
        selection.groups = GroupBinder(self.context, bind_key, selection.binder.replaced).groups(group)

    def _key_binder(self, selection: Selection) -> Callable[[exp.Expr], Expression]:
        def bind_key(tree: exp.Expr) -> Expression:
            binder = ExpressionBinder(
                self.context, selection.relation.scope, "GROUP BY", None, selection.binder.aliases
            )
            binder.replaced = selection.binder.replaced
            if isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
                item = self._ordinal(tree, selection, "GROUP BY")
                return column_of(item) if item.tree is None else binder.bind(item.tree)
            key = binder.bind(tree)
            selection.binder.places.update(binder.places)
            return key

        return bind_key

    def _ordinal(self, tree: exp.Literal, selection: Selection, clause: str) -> Item:
        number = int(tree.this)
        if not 1 <= number <= len(selection.items):
            self.context.fail(f"{clause} {number}: the select list has {len(selection.items)} columns", tree)
        return selection.items[number - 1]

    def _group_all(self, selection: Selection) -> Groups:
        """Every select item without an aggregate or window function is a key."""
        probe = ExpressionBinder(self.context, selection.relation.scope, "SELECT", [], selection.binder.aliases)
        probe.overs, probe.windows = [], selection.binder.windows
        groups = Groups()
        for item in selection.items:
            bound = column_of(item) if item.tree is None else probe.bind(item.tree)
            computed = any(isinstance(part, AggregateRef | OverRef | GroupingRef) for part in walk(bound))
            if not computed and not isinstance(bound, Literal):
                groups.place(bound)
        groups.sets = [tuple(range(len(groups.keys)))]
        return groups

    # -- the rest of the clauses -----------------------------------------------------------------------------------

    def _finish(self, node: exp.Select, selection: Selection) -> Plan:
        """The plan above FROM and WHERE: each step rewrites what stands above it over its own columns."""
        binder = selection.binder
        order = self._order(node, selection)
        distinct = node.args.get("distinct")
        on = self._distinct_on(distinct, selection) if distinct is not None else None
        plan = selection.relation.plan
        calls = list(binder.overs or [])
        rest = [*selection.outputs, *(t for t, _ in order if not isinstance(t, int))]
        rest += [target for target in on or () if not isinstance(target, int)]
        if selection.qualify is not None:
            rest.append(selection.qualify)
        aggregations = binder.aggregations or []
        if selection.groups is not None or aggregations or selection.having is not None or _has_grouping(rest):
            groups = selection.groups or Groups()
            plan = aggregate(plan, groups, aggregations)
            over = OverGroups(self.context, binder, groups, plan)
            if selection.having is not None:
                plan = Filter(plan, over.rewrite(selection.having))
            calls = [call.map(over.rewrite) for call in calls]
            rest = [over.rewrite(expression) for expression in rest]
        if calls:
            width = len(plan.fields)
            plan = Over(plan, tuple(calls), tuple(OutputField(str(call), call.type) for call in calls))
            added = [ColumnRef(f.type, width + i, f.name) for i, f in enumerate(plan.fields[width:])]
            rest = [transform(e, lambda p: added[p.index] if isinstance(p, OverRef) else p) for e in rest]
        if selection.qualify is not None:
            plan = Filter(plan, rest.pop())
        names = [item.name for item in selection.items]
        outputs, later = rest[: len(names)], iter(rest[len(names) :])
        order = [(t if isinstance(t, int) else next(later), item) for t, item in order]
        if on is not None:
            on = [t if isinstance(t, int) else next(later) for t in on]
        return TailBinder(self.context).ordered(
            node, plan, outputs, names, order, distinct is not None and on is None, on
        )

    def _order(self, node: exp.Select, selection: Selection) -> list[tuple[Target, exp.Expr]]:
        """Each ORDER BY item as a position of the select list or an expression over the input."""
        order = node.args.get("order")
        result: list[tuple[Target, exp.Expr]] = []
        selection.binder.clause = "ORDER BY"
        for item in order.expressions if order is not None else []:
            if isinstance(item.this, exp.Var) and item.this.name.upper() == "ALL":
                result.extend((i, item) for i in range(len(selection.items)))
            else:
                result.append((self._target(item.this, selection, "ORDER BY"), item))
        return result

    def _distinct_on(self, distinct: exp.Distinct, selection: Selection) -> list[Target] | None:
        """The keys of DISTINCT ON; None for a plain DISTINCT."""
        on = distinct.args.get("on")
        if on is None:
            return None
        selection.binder.clause = "DISTINCT ON"
        trees = on.expressions if isinstance(on, exp.Tuple) else [on.this if isinstance(on, exp.Paren) else on]
        if not trees:
            self.context.fail("DISTINCT ON () needs at least one expression between its brackets", distinct)
        return [self._target(tree, selection, "DISTINCT ON") for tree in trees]

    def _target(self, tree: exp.Expr, selection: Selection, clause: str) -> Target:
        """An ordinal or the name of a select item as its position, anything else as an expression."""
        if isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
            return selection.items.index(self._ordinal(tree, selection, clause))
        if is_constant(tree):
            self.context.fail(f"{clause} {CONSTANT}", tree)
        named = self._output_named(tree, selection)
        return named if named is not None else selection.binder.bind(tree)

    @staticmethod
    def _output_named(tree: exp.Expr, selection: Selection) -> int | None:
        """The one select item a bare name stands for."""
        if not isinstance(tree, exp.Column) or tree.table:
            return None
        found = [i for i, item in enumerate(selection.items) if item.name.lower() == tree.name.lower()]
        return found[0] if found and len({selection.outputs[i] for i in found}) == 1 else None


def _has_grouping(expressions: list[Expression]) -> bool:
    return any(isinstance(part, GroupingRef) for expression in expressions for part in walk(expression))
