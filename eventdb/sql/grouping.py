"""Expressions over the input of a GROUP BY -> expressions over its groups."""

from __future__ import annotations

from eventdb.logical.expressions import Aggregation, ColumnRef, Expression
from eventdb.logical.functions import may_be_null
from eventdb.logical.plan import Aggregate, OutputField, Plan
from eventdb.sql.context import Context
from eventdb.sql.expressions import AggregateRef, ExpressionBinder


class OverGroups:
    """Rewrites expressions over the input into expressions over an Aggregate's output."""

    def __init__(self, context: Context, binder: ExpressionBinder, keys: list[Expression], plan: Plan) -> None:
        self.context = context
        self.binder = binder
        self.keys = keys
        self.fields = plan.fields

    def rewrite(self, expression: Expression) -> Expression:
        """BindError for a column that is neither grouped nor inside an aggregate."""
        if expression in self.keys:
            index = self.keys.index(expression)
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, AggregateRef):
            index = len(self.keys) + expression.index
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, ColumnRef):
            self.context.fail(
                f"column {expression.name!r} must be in GROUP BY or inside an aggregate such as max({expression.name})",
                self.binder.places.get(expression),
            )
        children = expression.children()
        if not children:
            return expression
        return expression.with_children(tuple(self.rewrite(child) for child in children))


def aggregate(plan: Plan, keys: list[Expression], aggregations: list[Aggregation]) -> Aggregate:
    nullable = [f.nullable for f in plan.fields]
    fields = [OutputField(str(key), key.type, may_be_null(key, nullable)) for key in keys]
    fields += [OutputField(str(a), a.type, a.function not in ("count", "count_star")) for a in aggregations]
    return Aggregate(plan, tuple(keys), tuple(aggregations), tuple(fields))
