"""SELECT: clauses in their logical order, to a plan.

FROM -> WHERE -> GROUP BY and aggregates -> HAVING -> select list, then the end of the query (ordering.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal, transform, walk
from eventdb.logical.plan import Filter, Plan
from eventdb.schema import BOOLEAN
from eventdb.sql.context import Context
from eventdb.sql.expressions import AggregateRef, ExpressionBinder
from eventdb.sql.grouping import OverGroups, aggregate
from eventdb.sql.ordering import TailBinder
from eventdb.sql.relations import WINDOW_COLUMNS, Relation, RelationBinder, conjunct_trees, conjuncts
from eventdb.sql.scope import Name, Scope
from eventdb.sql.tokens import FUNCTION_PREFIX


@dataclass(slots=True)
class Item:
    """One column of the select list: its tree, or a column of `*`."""

    name: str
    tree: exp.Expr | None
    column: Name | None = None
    origin: exp.Expr | None = None


@dataclass(slots=True)
class Selection:
    """What the clauses of one SELECT share."""

    relation: Relation
    items: list[Item]
    binder: ExpressionBinder
    keys: list[Expression] = field(default_factory=list)
    aggregated: bool = False
    having: Expression | None = None
    outputs: list[Expression] = field(default_factory=list)


class SelectBinder:
    """Binds one SELECT; `bind_query` binds the queries nested in it."""

    def __init__(self, context: Context, bind_query: Callable[[exp.Expr, dict[str, Plan]], Plan]) -> None:
        self.context = context
        self.bind_query = bind_query

    def bind(self, node: exp.Select, ctes: dict[str, Plan]) -> Plan:
        relations = RelationBinder(self.context, ctes, self.bind_query)
        where = conjunct_trees(node.args["where"].this) if node.args.get("where") is not None else []
        relation = relations.bind_from(node, where)
        aliases = _aliases(node)
        if where:
            binder = ExpressionBinder(self.context, relation.scope, "WHERE", aliases=aliases)
            terms = [binder.predicate(term) for term in where]
            flat = [part for term in terms for part in conjuncts(term)]
            predicate = flat[0] if len(flat) == 1 else Call(BOOLEAN, "and", tuple(flat))
            relation = Relation(Filter(relation.plan, predicate), relation.scope)
        relation, window = self._window_of_group(node, relation, relations)
        binder = ExpressionBinder(self.context, relation.scope, "SELECT", [], aliases)
        binder.replaced = window
        selection = Selection(relation, self._items(node, relation.scope), binder)
        self._group(node, selection)
        for item in selection.items:
            output = self._column(item) if item.tree is None else binder.bind(item.tree)
            if item.origin is not None:
                binder.places.setdefault(output, item.origin)
            item.name = item.name or self._name_of(item.tree, output, binder)
            selection.outputs.append(output)
        if node.args.get("having") is not None:
            binder.clause = "HAVING"
            selection.having = binder.predicate(node.args["having"].this)
        return self._finish(node, selection)

    @staticmethod
    def _column(item: Item) -> Expression:
        assert item.column is not None
        return ColumnRef(item.column.type, item.column.index, item.column.name)

    def _name_of(self, tree: exp.Expr | None, bound: Expression, binder: ExpressionBinder) -> str:
        """The output name of an expression without an alias: its column, its call as written, or its bound form."""
        if isinstance(tree, (exp.Cast, exp.TryCast)) and not isinstance(tree.this, exp.Literal):
            return self._name_of(tree.this, bound.children()[0] if bound.children() else bound, binder)
        inner = tree
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.Column):
            return inner.name
        if isinstance(tree, (exp.Placeholder, exp.Parameter)):
            return f"${tree.name}"
        written = self.context.written(tree)
        if written is not None:
            return written
        aggregations = binder.aggregations or []

        def named(part: Expression) -> Expression:
            return ColumnRef(part.type, 0, str(aggregations[part.index])) if isinstance(part, AggregateRef) else part

        text = str(transform(bound, named))
        return text[1:-1] if text.startswith("(") and text.endswith(")") and isinstance(bound, Call) else text

    def _items(self, node: exp.Select, scope: Scope) -> list[Item]:
        items: list[Item] = []
        for tree in node.expressions:
            star = tree if isinstance(tree, exp.Star) else tree.this if isinstance(tree, exp.Column) else None
            if isinstance(star, exp.Star):
                items.extend(self._star(tree, star, scope))
            elif isinstance(tree, exp.Alias):
                items.append(Item(tree.alias, tree.this))
            elif isinstance(tree, exp.Aliases):
                self.context.unsupported("several aliases for one expression", tree)
            else:
                items.append(Item("", tree))
        if not items:
            self.context.fail("the select list is empty", node)
        return items

    def _star(self, tree: exp.Expr, star: exp.Star, scope: Scope) -> list[Item]:
        table = tree.table if isinstance(tree, exp.Column) else ""
        if table and table.lower() not in (known.lower() for known in scope.tables):
            scope.find("*", table, self.context, tree)
        columns = list(scope.star(table))
        if not columns:
            self.context.fail("* needs a FROM", tree)
        removed = {part.name.lower(): part for part in star.args.get("except_") or []}
        replaced = {part.alias.lower(): part for part in star.args.get("replace") or []}
        present = {column.name.lower() for column in columns}
        for name, part in (removed | replaced).items():
            if name not in present:
                scope.missing(part.alias_or_name, table, [], self.context, part)
        return [
            Item(c.name, replaced[c.name.lower()].this) if c.name.lower() in replaced else Item(c.name, None, c, tree)
            for c in columns
            if c.name.lower() not in removed
        ]

    # -- GROUP BY --------------------------------------------------------------------------------------------------

    def _window_of_group(
        self, node: exp.Select, relation: Relation, relations: RelationBinder
    ) -> tuple[Relation, dict[str, Expression]]:
        """GROUP BY TUMBLE(ts, '1m') or HOP(ts, slide, size): the input put into windows, and the window columns."""
        group = node.args.get("group")
        for tree in group.expressions if group is not None else []:
            name = _window_function(tree)
            if name is None:
                continue
            order = ["slide", "size"] if name == "hop" else ["size"]
            if len(tree.expressions) != len(order) + 1:
                wanted = "HOP(ts, slide, size)" if name == "hop" else "TUMBLE(ts, size)"
                self.context.fail(f"in GROUP BY write {wanted}", tree)
            binder = ExpressionBinder(self.context, relation.scope, "GROUP BY")
            time = binder.bind(tree.expressions[0])
            for key, value in zip(order, tree.expressions[1:], strict=True):
                if isinstance(value, (exp.Kwarg, exp.PropertyEQ)) and value.this.name.lower() != key:
                    self.context.fail(f"{name}(): expected {key} here; the order is {', '.join(order)}", value)
            widths = {
                key: value.expression if isinstance(value, (exp.Kwarg, exp.PropertyEQ)) else value
                for key, value in zip(order, tree.expressions[1:], strict=True)
            }
            base = len(relation.plan.fields)
            windowed = relations.windowed(relation, time, widths, name, tree, binder)
            fields = windowed.plan.fields[base:]
            refs: dict[str, Expression] = {f.name: ColumnRef(f.type, base + i, f.name) for i, f in enumerate(fields)}
            return Relation(windowed.plan, relation.scope), refs
        return relation, {}

    def _group(self, node: exp.Select, selection: Selection) -> None:
        group = node.args.get("group")
        if group is None:
            return
        selection.aggregated = True
        if group.args.get("all"):
            self._group_all(selection)
            return
        keys = selection.keys
        for tree in group.expressions:
            if _window_function(tree) is not None:
                if sum(_window_function(other) is not None for other in group.expressions) > 1:
                    self.context.unsupported("two windows in GROUP BY", tree)
                keys.extend(selection.binder.replaced[name] for name in self._window_keys())
                continue
            key = self._group_key(tree, selection)
            if isinstance(key, Literal):
                self.context.fail("GROUP BY a constant", tree)
            if key not in keys:
                keys.append(key)

    def _window_keys(self) -> list[str]:
        """The window columns a statement that groups by TUMBLE or HOP uses; the start always."""
        words = self.context.words
        ends = any(word.endswith(("tumble_end", "hop_end")) for word in words)
        return [
            name
            for name in WINDOW_COLUMNS
            if name == "window_start" or name in words or (name == "window_end" and ends)
        ]

    def _group_key(self, tree: exp.Expr, selection: Selection) -> Expression:
        binder = ExpressionBinder(self.context, selection.relation.scope, "GROUP BY", aliases=selection.binder.aliases)
        binder.replaced = selection.binder.replaced
        if isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
            item = self._ordinal(tree, selection, "GROUP BY")
            return self._column(item) if item.tree is None else binder.bind(item.tree)
        key = binder.bind(tree)
        selection.binder.places.update(binder.places)
        return key

    def _ordinal(self, tree: exp.Literal, selection: Selection, clause: str) -> Item:
        number = int(tree.this)
        if not 1 <= number <= len(selection.items):
            self.context.fail(f"{clause} {number}: the select list has {len(selection.items)} columns", tree)
        return selection.items[number - 1]

    def _group_all(self, selection: Selection) -> None:
        """Every select item without an aggregate is a key."""
        probe = ExpressionBinder(self.context, selection.relation.scope, "SELECT", [], selection.binder.aliases)
        for item in selection.items:
            bound = self._column(item) if item.tree is None else probe.bind(item.tree)
            has_aggregate = any(isinstance(part, AggregateRef) for part in walk(bound))
            if not has_aggregate and not isinstance(bound, Literal) and bound not in selection.keys:
                selection.keys.append(bound)

    # -- the rest of the clauses -----------------------------------------------------------------------------------

    def _finish(self, node: exp.Select, selection: Selection) -> Plan:
        binder = selection.binder
        distinct = node.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            self.context.unsupported("DISTINCT ON", node)
        order = self._order(node, selection)
        aggregations = binder.aggregations or []
        plan = selection.relation.plan
        aggregated = selection.aggregated or bool(aggregations) or selection.having is not None
        outputs = selection.outputs
        if aggregated:
            plan = aggregate(plan, selection.keys, aggregations)
            over = OverGroups(self.context, binder, selection.keys, plan)
            if selection.having is not None:
                plan = Filter(plan, over.rewrite(selection.having))
            outputs = [over.rewrite(output) for output in outputs]
            order = [(over.rewrite(e) if not isinstance(e, int) else e, o) for e, o in order]
        names = [item.name for item in selection.items]
        return TailBinder(self.context).ordered(node, plan, outputs, names, order, distinct is not None)

    def _order(self, node: exp.Select, selection: Selection) -> list[tuple[Expression | int, exp.Expr]]:
        """Each ORDER BY item as a position of the select list or an expression over the input."""
        order = node.args.get("order")
        result: list[tuple[Expression | int, exp.Expr]] = []
        binder = selection.binder
        binder.clause = "ORDER BY"
        for item in order.expressions if order is not None else []:
            tree = item.this
            if isinstance(tree, exp.Var) and tree.name.upper() == "ALL":
                result.extend((i, item) for i in range(len(selection.items)))
            elif isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
                result.append((selection.items.index(self._ordinal(tree, selection, "ORDER BY")), item))
            else:
                named = self._output_named(tree, selection)
                result.append((named if named is not None else binder.bind(tree), item))
        return result

    @staticmethod
    def _output_named(tree: exp.Expr, selection: Selection) -> int | None:
        """The one select item a bare name stands for."""
        if not isinstance(tree, exp.Column) or tree.table:
            return None
        found = [i for i, item in enumerate(selection.items) if item.name.lower() == tree.name.lower()]
        return found[0] if found and len({selection.outputs[i] for i in found}) == 1 else None


def _aliases(node: exp.Select) -> dict[str, exp.Expr]:
    return {tree.alias.lower(): tree.this for tree in node.expressions if isinstance(tree, exp.Alias)}


def _window_function(tree: exp.Expr) -> str | None:
    """tumble or hop, if the tree calls one (or Spark's window)."""
    if not isinstance(tree, exp.Anonymous):
        return None
    name = str(tree.this).removeprefix(FUNCTION_PREFIX).lower()
    return {"tumble": "tumble", "hop": "hop", "window": "tumble"}.get(name)
