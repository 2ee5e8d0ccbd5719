"""GROUP BY: its keys and grouping sets, TUMBLE and HOP in it, and expressions over the groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

from sqlglot import exp

from eventdb.logical.expressions import Aggregation, Case, ColumnRef, Expression, InList, Literal
from eventdb.logical.functions import EMPTY_IS_ZERO, may_be_null
from eventdb.logical.plan import Aggregate, GroupSets, OutputField, Plan
from eventdb.schema import BIGINT, BOOLEAN
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.references import AggregateRef, GroupingRef
from eventdb.sql.relation import Relation
from eventdb.sql.relations import WINDOW_COLUMNS, RelationBinder
from eventdb.sql.tokens import FUNCTION_PREFIX

MAX_SETS = 4_096

Sets = list[tuple[int, ...]]


@dataclass(slots=True)
class Groups:
    """The keys of a GROUP BY; `sets` are positions of them, one per grouping set."""

    keys: list[Expression] = field(default_factory=list)
    sets: Sets = field(default_factory=lambda: [()])

    def place(self, key: Expression) -> int:
        """The position of a key, added if it is new."""
        if key not in self.keys:
            self.keys.append(key)
        return self.keys.index(key)


class GroupBinder:
    """Reads a GROUP BY. `bind_key` binds one of its expressions (an alias or ordinal, too)."""

    def __init__(
        self, context: Context, bind_key: Callable[[exp.Expr], Expression], window: dict[str, Expression]
    ) -> None:
        self.context = context
        self.bind_key = bind_key
        self.window = window

    def groups(self, group: exp.Group) -> Groups:
        """The grouping sets of `[DISTINCT] a, ROLLUP (b, c), ...`: every combination of what the items give, with
        DISTINCT each once."""
        found = Groups()
        windows = [tree for tree in group.expressions if window_function(tree) is not None]
        if len(windows) > 1:
            self.context.unsupported("two windows in GROUP BY", windows[1])
        for tree in group.expressions:
            sets = self._sets(tree, found)
            if len(found.sets) * len(sets) > MAX_SETS:
                self.context.fail(f"GROUP BY has more than {MAX_SETS:,} grouping sets", tree)
            found.sets = [tuple(dict.fromkeys(a + b)) for a in found.sets for b in sets]
        if group.args.get("all") is False:  # how sqlglot tells GROUP BY DISTINCT
            found.sets = list({frozenset(one): one for one in found.sets}.values())
        return found

    def _sets(self, tree: exp.Expr, groups: Groups) -> Sets:
        """The sets one item of GROUP BY stands for."""
        if window_function(tree) is not None:
            return [tuple(groups.place(self.window[name]) for name in self._window_keys())]
        if isinstance(tree, (exp.Rollup, exp.Cube)):
            parts = [self._columns(part, groups) for part in tree.expressions]
            if isinstance(tree, exp.Rollup):
                chosen = [parts[:n] for n in range(len(parts), -1, -1)]
            else:
                if 1 << len(parts) > MAX_SETS:
                    self.context.fail(f"CUBE of {len(parts)} columns has more than {MAX_SETS:,} grouping sets", tree)
                chosen = [list(c) for n in range(len(parts), -1, -1) for c in combinations(parts, n)]
            return [tuple(dict.fromkeys(i for part in some for i in part)) for some in chosen]
        if isinstance(tree, exp.GroupingSets):
            return [one for part in tree.expressions for one in self._sets(part, groups)]
        return [self._columns(tree, groups)]

    def _columns(self, tree: exp.Expr, groups: Groups) -> tuple[int, ...]:
        """The keys of `a`, `(a)`, `(a, b)` or `()`."""
        if isinstance(tree, exp.Tuple):
            return tuple(dict.fromkeys(i for part in tree.expressions for i in self._columns(part, groups)))
        key = self.bind_key(tree)
        if isinstance(key, Literal):
            self.context.fail("GROUP BY a constant", tree)
        return (groups.place(key),)

    def _window_keys(self) -> list[str]:
        """The window columns a statement that groups by TUMBLE or HOP uses; the start always."""
        words = self.context.words
        ends = any(word.endswith(("tumble_end", "hop_end")) for word in words)
        return [
            name
            for name in WINDOW_COLUMNS
            if name == "window_start" or name in words or (name == "window_end" and ends)
        ]


def window_function(tree: exp.Expr) -> str | None:
    """tumble or hop, if the tree calls one (or Spark's window)."""
    if not isinstance(tree, exp.Anonymous):
        return None
    name = str(tree.this).removeprefix(FUNCTION_PREFIX).lower()
    return {"tumble": "tumble", "hop": "hop", "window": "tumble"}.get(name)


def put_in_windows(
    context: Context, node: exp.Select, relation: Relation, relations: RelationBinder
) -> tuple[Relation, dict[str, Expression]]:
    """GROUP BY TUMBLE(ts, '1m') or HOP(ts, slide, size): the input put into windows, and the window columns."""
    group = node.args.get("group")
    for tree in group.expressions if group is not None else []:
        name = window_function(tree)
        if name is None:
            continue
        order = ["slide", "size"] if name == "hop" else ["size"]
        if len(tree.expressions) != len(order) + 1:
            wanted = "HOP(ts, slide, size)" if name == "hop" else "TUMBLE(ts, size)"
            context.fail(f"in GROUP BY write {wanted}", tree)
        binder = ExpressionBinder(context, relation.scope, "GROUP BY")
        time = binder.bind(tree.expressions[0])
        for key, value in zip(order, tree.expressions[1:], strict=True):
            if isinstance(value, (exp.Kwarg, exp.PropertyEQ)) and value.this.name.lower() != key:
                context.fail(f"{name}(): expected {key} here; the order is {', '.join(order)}", value)
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


class OverGroups:
    """Rewrites expressions over the input into expressions over the groups."""

    def __init__(self, context: Context, binder: ExpressionBinder, groups: Groups, plan: Plan) -> None:
        self.context = context
        self.binder = binder
        self.groups = groups
        self.fields = plan.fields

    def rewrite(self, expression: Expression) -> Expression:
        """BindError for a column that is neither grouped nor inside an aggregate."""
        keys = self.groups.keys
        if expression in keys:
            index = keys.index(expression)
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, AggregateRef):
            index = len(keys) + expression.index
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, GroupingRef):
            return self._grouping(expression)
        if isinstance(expression, ColumnRef):
            self.context.fail(
                f"column {expression.name!r} must be in GROUP BY or inside an aggregate such as max({expression.name})",
                self.binder.places.get(expression),
            )
        children = expression.children()
        if not children:
            return expression
        return expression.with_children(tuple(self.rewrite(child) for child in children))

    def _grouping(self, reference: GroupingRef) -> Expression:
        """GROUPING(a, b): for each grouping set a number whose bits, a's first, say which keys it leaves out."""
        places = []
        for arg in reference.args:
            if arg not in self.groups.keys:
                self.context.fail(f"GROUPING({arg}): not in GROUP BY", self.binder.places.get(reference))
            places.append(self.groups.keys.index(arg))
        bits = [
            sum((key not in one) << (len(places) - 1 - i) for i, key in enumerate(places)) for one in self.groups.sets
        ]
        if len(set(bits)) == 1:
            return Literal(BIGINT, bits[0])
        number = ColumnRef(BIGINT, len(self.fields) - 1, self.fields[-1].name)
        values = sorted(set(bits))
        sets = {value: tuple(Literal(BIGINT, i) for i, bit in enumerate(bits) if bit == value) for value in values}
        tests = tuple(InList(BOOLEAN, number, sets[value]) for value in values[:-1])
        return Case(BIGINT, tests, tuple(Literal(BIGINT, v) for v in values[:-1]), Literal(BIGINT, values[-1]))


def aggregate(plan: Plan, groups: Groups, aggregations: list[Aggregation]) -> Plan:
    """The groups of a plan's rows: an Aggregate, or GroupSets where there are several grouping sets."""
    nullable = [f.nullable for f in plan.fields]
    several = len(groups.sets) > 1
    keys, found = tuple(groups.keys), tuple(aggregations)
    fields = [OutputField(str(key), key.type, several or may_be_null(key, nullable)) for key in keys]
    fields += [OutputField(str(a), a.type, a.function not in EMPTY_IS_ZERO) for a in aggregations]
    if not several:
        return Aggregate(plan, keys, found, tuple(fields))
    return GroupSets(plan, keys, tuple(groups.sets), found, (*fields, OutputField("grouping set", BIGINT, False)))
