"""Any correlated subquery, computed for each distinct set of its arguments at once.

The arguments become columns (the domain), which every node of the subquery carries along: a filter reads them, an
aggregate groups by them, a limit holds within each set of them.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.errors import UnsupportedError
from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal, remap, transform
from eventdb.logical.functions import may_be_null
from eventdb.logical.node_expressions import expressions_of, map_expressions
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    DistinctOn,
    Fields,
    Filter,
    GroupSets,
    Join,
    Limit,
    OutputField,
    Plan,
    Project,
    Sort,
    TimeWindow,
    UnionAll,
)
from eventdb.logical.relational import LimitBy, SetOperation
from eventdb.logical.rules.correlation import over_groups
from eventdb.logical.series import Series
from eventdb.logical.subqueries import OuterRef, is_correlated, outer_refs
from eventdb.schema import BIGINT, BOOLEAN


def depend(outer: Plan, plan: Plan, args: tuple[Expression, ...]) -> tuple[Plan, list[Expression]]:
    """The subquery's rows for all outer rows, and the terms that find those of one outer row.

    The plan has the subquery's fields, then the arguments; the terms are over the outer fields, then those.
    """
    nullable = [f.nullable for f in outer.fields]
    fields = tuple(OutputField(f"argument {i}", a.type, may_be_null(a, nullable)) for i, a in enumerate(args))
    domain = _Domain(Distinct(Project(outer, args, fields)))
    inner = domain.carried(plan)
    first = len(outer.fields) + len(plan.fields)
    terms: list[Expression] = [
        Call(BOOLEAN, "is_not_distinct_from", (arg, ColumnRef(arg.type, first + i, fields[i].name)))
        for i, arg in enumerate(args)
    ]
    return inner, terms


class _Domain:
    """The distinct arguments as a relation. `carried(plan)` has the plan's fields, then the domain's."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.width = len(plan.fields)

    def carried(self, plan: Plan) -> Plan:
        if not is_correlated(plan):
            return Join("inner", plan, self.plan)
        if isinstance(plan, Filter):
            below = self.carried(plan.input)
            return Filter(below, self._over(plan.predicate, len(plan.fields)))
        if isinstance(plan, Project):
            below = self.carried(plan.input)
            width = len(plan.input.fields)
            expressions = tuple(self._over(e, width) for e in plan.expressions)
            return Project(below, (*expressions, *self._columns(width)), (*plan.output, *self.plan.fields))
        if isinstance(plan, Aggregate):
            return self._aggregate(plan)
        if isinstance(plan, GroupSets):
            return self.carried(_sets_apart(plan))
        if isinstance(plan, Over | Series):
            return self._added(plan)
        if isinstance(plan, Join):
            return self._join(plan)
        if isinstance(plan, UnionAll):
            return UnionAll(tuple(map(self.carried, plan.inputs)), (*plan.output, *self.plan.fields))
        if isinstance(plan, SetOperation):
            output = (*plan.output, *self.plan.fields)
            return replace(plan, left=self.carried(plan.left), right=self.carried(plan.right), output=output)
        if isinstance(plan, Distinct | Sort):
            return plan.with_children((self.carried(plan.input),))
        if isinstance(plan, Limit):
            below = self.carried(plan.input)
            return LimitBy(below, self._columns(len(plan.fields)), plan.row_count, plan.skip_count)
        if isinstance(plan, LimitBy | DistinctOn):
            return replace(plan, input=self.carried(plan.input), keys=(*plan.keys, *self._columns(len(plan.fields))))
        if isinstance(plan, TimeWindow):
            below = self.carried(plan.input)
            width = len(plan.input.fields)
            windowed = replace(plan, input=below, time=self._over(plan.time, width))
            order = [
                *range(width),
                *range(width + self.width, width + self.width + 3),
                *range(width, width + self.width),
            ]
            return _ordered(windowed, order)
        raise UnsupportedError(
            f"a subquery that reads columns of the query around it from inside {plan.label()} is not supported; "
            "write it as a join",
            construct="correlated subquery",
        )

    def _columns(self, first: int) -> tuple[Expression, ...]:
        return tuple(ColumnRef(f.type, first + i, f.name) for i, f in enumerate(self.plan.fields))

    def _over(self, expression: Expression, first: int) -> Expression:
        """The expression with the domain's columns, which begin at `first`, in place of OuterRefs."""
        columns = self._columns(first)
        return transform(expression, lambda node: columns[node.index] if isinstance(node, OuterRef) else node)

    def _aggregate(self, plan: Aggregate) -> Plan:
        below = self.carried(plan.input)
        width = len(plan.input.fields)
        keys = tuple(self._over(key, width) for key in plan.keys)
        aggregations = tuple(a.map(lambda e: self._over(e, width)) for a in plan.aggregations)
        count, size = len(keys), self.width
        output = (*plan.output[:count], *self.plan.fields, *plan.output[count:])
        grouped = Aggregate(below, (*keys, *self._columns(width)), aggregations, output)
        if keys:
            total = len(output)
            return _ordered(grouped, [*range(count), *range(count + size, total), *range(count, count + size)])
        # Without GROUP BY there is a row for every argument, also where the input has none.
        domain = self._columns(0)
        joined = Join("left", self.plan, grouped, domain, domain, None, (True,) * size)
        values = tuple(
            over_groups(ColumnRef(a.type, i, plan.output[i].name), plan, 2 * size)
            for i, a in enumerate(plan.aggregations)
        )
        return Project(joined, (*values, *domain), (*plan.output, *self.plan.fields))

    def _added(self, plan: Over | Series) -> Plan:
        width, size = len(plan.input.fields), self.width
        count = len(plan.fields) - width
        computed = map_expressions(plan, lambda e: self._over(e, width))
        if isinstance(computed, Over):
            calls = (replace(call, partition=(*call.partition, *self._columns(width))) for call in computed.calls)
            computed = replace(computed, calls=tuple(calls))
        order = [*range(width), *range(width + size, width + size + count), *range(width, width + size)]
        return _ordered(computed.with_children((self.carried(plan.input),)), order)

    def _join(self, plan: Join) -> Plan:
        """The left side carries the domain; the right side too if it reads it, and then both must agree."""
        conditions = any(map(outer_refs, expressions_of(plan)))
        left_reads, right_reads = is_correlated(plan.left), is_correlated(plan.right)
        size, old, right_old = self.width, len(plan.left.fields), len(plan.right.fields)
        if plan.kind == "inner" and right_reads and not left_reads and not conditions:
            return replace(plan, right=self.carried(plan.right))
        left = self.carried(plan.left)
        both = right_reads or plan.kind == "full" or any(map(outer_refs, plan.right_keys))
        right = self.carried(plan.right) if both else plan.right
        places = {i: i for i in range(old)} | {old + i: old + size + i for i in range(right_old)}

        def over(expression: Expression | None) -> Expression | None:
            return None if expression is None else self._over(remap(expression, places), old)

        left_keys = tuple(self._over(key, old) for key in plan.left_keys)
        right_keys: tuple[Expression, ...] = plan.right_keys
        residual, compared = over(plan.residual), over(plan.compared)
        nulls = plan.null_matches or (False,) * len(left_keys)
        if both:
            right_keys = tuple(self._over(key, right_old) for key in right_keys)
            left_keys = (*left_keys, *self._columns(old))
            right_keys = (*right_keys, *self._columns(right_old))
            nulls = (*nulls, *(True,) * size)
        joined = Join(plan.kind, left, right, left_keys, right_keys, residual, nulls, compared)
        if plan.kind in ("semi", "anti"):
            return joined
        if plan.kind == "mark":
            return _ordered(joined, [*range(old), old + size, *range(old, old + size)])
        right_first = old + size
        order = [*range(old), *range(right_first, right_first + right_old), *range(old, old + size)]
        if plan.kind != "full":
            return _ordered(joined, order)
        arranged = _ordered(joined, order)
        expressions = list(arranged.expressions)
        for i in range(size):
            mine = expressions[old + right_old + i]
            other = ColumnRef(mine.type, right_first + right_old + i, "argument")
            expressions[old + right_old + i] = Call(mine.type, "coalesce", (mine, other))
        return replace(arranged, expressions=tuple(expressions))


def _sets_apart(plan: GroupSets) -> UnionAll:
    """An Aggregate for each grouping set."""
    count = len(plan.keys)
    parts: list[Plan] = []
    for number, chosen in enumerate(plan.sets):
        output = (*(plan.output[i] for i in chosen), *plan.output[count:-1])
        grouped = Aggregate(plan.input, tuple(plan.keys[i] for i in chosen), plan.aggregations, output)
        columns = [ColumnRef(f.type, i, f.name) for i, f in enumerate(output)]
        keys = (columns[chosen.index(i)] if i in chosen else Literal(key.type, None) for i, key in enumerate(plan.keys))
        parts.append(Project(grouped, (*keys, *columns[len(chosen) :], Literal(BIGINT, number)), plan.output))
    return UnionAll(tuple(parts), plan.output)


def _ordered(plan: Plan, order: list[int]) -> Project:
    fields: Fields = tuple(plan.fields[i] for i in order)
    return Project(plan, tuple(ColumnRef(f.type, i, f.name) for i, f in zip(order, fields, strict=True)), fields)
