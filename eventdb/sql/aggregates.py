"""Calls of aggregates: DISTINCT, ORDER BY, FILTER, WITHIN GROUP, and the names that are spelled out in others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from eventdb.logical.expressions import Aggregation, Call, Case, ColumnRef, Expression, Literal, SortKey, walk
from eventdb.logical.functions import AGGREGATES
from eventdb.logical.python_functions import PythonAggregate
from eventdb.logical.rankings import SKIPS_NULLS
from eventdb.logical.subqueries import OuterRef
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, VARCHAR
from eventdb.sql import functions
from eventdb.sql.context import Context
from eventdb.sql.python_calls import python_aggregation
from eventdb.sql.references import AggregateRef
from eventdb.sql.subqueries import inside
from eventdb.sql.tokens import FUNCTION_PREFIX

if TYPE_CHECKING:
    from eventdb.sql.expressions import ExpressionBinder

Bind = Callable[[exp.Expr], Expression]

_COUNT_IF = ("count_if", "countif")
_EXTREMES = {
    "arg_min": False, "argmin": False, "min_by": False, "arg_max": True, "argmax": True, "max_by": True,
    "arg_min_null": False, "min_by_null": False, "arg_max_null": True, "max_by_null": True,
    "arg_min_nulls_last": False, "arg_max_nulls_last": True,
}  # fmt: skip
_MEDIANS = ("median", "percentile_cont", "percentile_disc", "quantile")
_QUANTILES = ("approx_quantile", "reservoir_quantile")
_AS_DOUBLE = {"fsum": "sum", "kahan_sum": "sum", "sumkahan": "sum", "favg": "avg"}
_IN_ORDER = ("string_agg", "first", "last", "any_value", "mode")  # ORDER BY changes nothing for the others
_SAME_WHEN_DISTINCT = ("min", "max", "bool_and", "bool_or", "any_value", "first", "last", "bit_and", "bit_or")


@dataclass(slots=True)
class CallParts:
    """A call taken apart."""

    name: str
    arguments: list[exp.Expr]
    node: exp.Expr
    distinct: bool = False
    order: list[exp.Ordered] = field(default_factory=list)
    within: list[exp.Ordered] = field(default_factory=list)
    condition: exp.Expr | None = None
    ignore_nulls: bool = False

    def only_plain(self, context: Context) -> None:
        """BindError unless it is a call of a scalar function."""
        if self.condition is not None:
            context.fail(f"FILTER is for aggregates; {self.name}() is not one", self.node)
        special = [a for a in self.arguments if isinstance(a, (exp.Kwarg, exp.PropertyEQ, exp.Star))]
        if special or self.distinct or self.order or self.within or self.ignore_nulls:
            context.fail(f"{self.name}() takes plain arguments", special[0] if special else self.node)


def parts_of(context: Context, node: exp.Expr) -> CallParts:
    """The parts of f(DISTINCT x ORDER BY y) IGNORE NULLS, f(x) WITHIN GROUP (ORDER BY y), ... FILTER (WHERE z)."""
    condition: exp.Expr | None = None
    within: list[exp.Ordered] = []
    ignore = False
    inner = node
    while not isinstance(inner, exp.Anonymous):
        if isinstance(inner, exp.Filter):
            condition = inner.expression.this
        elif isinstance(inner, exp.WithinGroup):
            within = inner.expression.expressions
        elif isinstance(inner, (exp.IgnoreNulls, exp.RespectNulls)):
            ignore = isinstance(inner, exp.IgnoreNulls)
        else:
            context.unsupported(f"{type(node).__name__.upper()} of anything but a function", node)
        inner = inner.this
    call = CallParts(str(inner.this).removeprefix(FUNCTION_PREFIX).lower(), [], node)
    call.condition, call.within, call.ignore_nulls = condition, within, ignore
    for argument in inner.expressions:
        _take_argument(call, argument)
    return call


def _take_argument(call: CallParts, argument: exp.Expr) -> None:
    if isinstance(argument, exp.Distinct):
        call.distinct = True
        for part in argument.expressions:
            _take_argument(call, part)
    elif isinstance(argument, exp.Order):
        call.order = argument.expressions
        _take_argument(call, argument.this)
    elif isinstance(argument, (exp.IgnoreNulls, exp.RespectNulls)):
        call.ignore_nulls = isinstance(argument, exp.IgnoreNulls)
        _take_argument(call, argument.this)
    else:
        call.arguments.append(argument)


def is_aggregate(name: str) -> bool:
    return functions.aggregate_name(name) is not None or name in functions.AGGREGATE_SPELLINGS


def bind_aggregate(binder: ExpressionBinder, call: CallParts) -> Expression:
    """A reference to the aggregation, which is added to the binder's unless it is there."""
    if call.name in ("weighted_avg", "wavg"):
        return _weighted(binder, call)
    outer = _of_outer_query(binder, call)
    if outer is not None:
        return outer
    aggregations = binder.check_aggregate(call.name, call.node)
    found = aggregation_of(binder, call, binder.aggregate_argument)
    if found not in aggregations:
        aggregations.append(found)
    reference = AggregateRef(found.type, aggregations.index(found))
    binder.places.setdefault(reference, call.node)
    return reference


def _of_outer_query(binder: ExpressionBinder, call: CallParts) -> Expression | None:
    """An aggregate that reads columns of the query around and none of its own belongs to that query, as in SQL:2016."""
    context = binder.context
    enclosing = context.enclosing[-1] if context.enclosing else None
    if enclosing is None or enclosing.binder is None:
        return None
    taken = [len(around.args) for around in context.enclosing]
    found = aggregation_of(binder, call, binder.aggregate_argument)
    parts = [part for expression in found.expressions() for part in walk(expression)]
    if any(isinstance(part, ColumnRef) for part in parts) or not any(isinstance(part, OuterRef) for part in parts):
        return None
    for around, count in zip(context.enclosing, taken, strict=True):
        del around.args[count:]
    with inside(context, -1):
        value = bind_aggregate(enclosing.binder, call)
    return enclosing.argument(value, call.name)


def aggregation_of(binder: ExpressionBinder, call: CallParts, bind: Bind) -> Aggregation:
    """The aggregation a call means; `bind` binds its arguments, filter and order."""
    if call.ignore_nulls and call.name not in SKIPS_NULLS and call.name != "arbitrary":
        binder.context.fail(
            f"{call.name}() skips NULLs anyway; IGNORE NULLS is for first, last, lag and lead", call.node
        )
    clause, binder.clause = binder.clause, "FILTER"
    try:
        condition = None
        if call.condition is not None:
            tested = bind(call.condition)
            if tested.type.name not in ("BOOLEAN", "NULL"):
                binder.context.fail(f"FILTER needs a BOOLEAN, not {tested.type}", call.condition)
            condition = binder.coerce(tested, BOOLEAN, call.condition)
    finally:
        binder.clause = clause
    return _unfiltered(binder, call, bind, condition)


def _unfiltered(binder: ExpressionBinder, call: CallParts, bind: Bind, condition: Expression | None) -> Aggregation:
    """The aggregation of a call whose filter is bound."""
    name, node = call.name, call.node
    if call.within:
        call = _within_group(binder, call)
    if name == "approx_count_distinct":  # exact: there is no sketch that would be faster and not be kept whole
        name, call = "count", replace(call, distinct=True)
    if name in _QUANTILES:
        name, call = "quantile_disc", replace(call, name="quantile_disc", arguments=call.arguments[:2])
    if name in ("count", "count_star") and (not call.arguments or isinstance(call.arguments[0], exp.Star)):
        return _count_rows(binder, call, condition)
    order = tuple(_sort_key(bind, item) for item in call.order)
    args = [bind(argument) for argument in call.arguments]
    callee = binder.context.function(name, node)
    if isinstance(callee, PythonAggregate):
        return python_aggregation(binder, callee, args, call.distinct, condition, order, node)
    if name in _COUNT_IF:
        if len(args) != 1:
            binder.context.fail(f"{name}() takes one condition", node)
        return Aggregation("count_star", (), BIGINT, False, _both(condition, binder.coerce(args[0], BOOLEAN, node)))
    if name in _EXTREMES:
        return _extreme(binder, call, args, condition)
    function = functions.aggregate_name(name) or name
    if name in _AS_DOUBLE and len(args) == 1:
        function, args = _AS_DOUBLE[name], [binder.coerce(args[0], DOUBLE, node)]
    if name in _MEDIANS or function in ("quantile_cont", "quantile_disc"):
        function, args = _quantile(binder, call, args)
    if name in ("string_agg", "group_concat", "listagg"):
        function, args = "string_agg", _with_separator(binder, call, args)
    if function == "sum" and len(args) == 1 and args[0].type == BOOLEAN:
        args = [binder.cast(args[0], BIGINT, node)]
    if function in ("first", "last") and call.ignore_nulls and len(args) == 1:
        condition = _both(condition, binder.call("is_not_null", args, node))
    resolved = AGGREGATES[function].resolve([arg.type for arg in args])
    if resolved is None:
        binder.context.fail(binder.mismatch(name, AGGREGATES[function].signature, args), node)
    if call.distinct and function in _IN_ORDER and any(key.expression != args[0] for key in order):
        binder.context.fail(f"in {name}(DISTINCT ...) ORDER BY must name the argument", node)
    bound = tuple(binder.coerce(arg, type, node) for arg, type in zip(args, resolved[0], strict=True))
    if function not in _IN_ORDER and function not in ("quantile_cont", "quantile_disc"):
        order = ()
    distinct = call.distinct and function not in _SAME_WHEN_DISTINCT
    return Aggregation(function, bound, resolved[1], distinct, condition, order)


def _both(left: Expression | None, right: Expression) -> Expression:
    return right if left is None else Call(BOOLEAN, "and", (left, right))


def _sort_key(bind: Bind, item: exp.Ordered) -> SortKey:
    expression = bind(item.this)
    return SortKey(expression, bool(item.args.get("desc")), bool(item.args.get("nulls_first")))


def _count_rows(binder: ExpressionBinder, call: CallParts, condition: Expression | None) -> Aggregation:
    if call.distinct:
        binder.context.unsupported("count(DISTINCT *)", call.node, "name the columns")
    if call.arguments and (len(call.arguments) > 1 or any(call.arguments[0].args.values())):
        binder.context.unsupported("count() of anything but * or one expression", call.node)
    return Aggregation("count_star", (), BIGINT, False, condition)


def _within_group(binder: ExpressionBinder, call: CallParts) -> CallParts:
    """f(x) WITHIN GROUP (ORDER BY y) as a plain call: the order is what a quantile or mode is of."""
    if call.name in ("string_agg", "listagg", "group_concat"):
        return replace(call, order=call.within)
    if call.name not in ("percentile_cont", "percentile_disc", "quantile_cont", "quantile_disc", "mode"):
        binder.context.unsupported(f"{call.name}() WITHIN GROUP", call.node)
    if len(call.within) != 1 or len(call.arguments) != (call.name != "mode"):
        shape = f"{call.name}({'' if call.name == 'mode' else 'fraction'}) WITHIN GROUP (ORDER BY x)"
        binder.context.fail(f"write {shape}", call.node)
    return replace(call, arguments=[call.within[0].this, *call.arguments], order=call.within)


def _quantile(binder: ExpressionBinder, call: CallParts, args: list[Expression]) -> tuple[str, list[Expression]]:
    """median and the quantiles: interpolated for numbers and times, else the value itself."""
    name, node = call.name, call.node
    if name.startswith("percentile") and not call.within:
        binder.context.fail(f"write {name}(fraction) WITHIN GROUP (ORDER BY x)", node)
    if call.order and not call.within:
        binder.context.fail(f"{name}() has an order of its own", node)
    if name == "median":
        if len(args) != 1:
            binder.context.fail(f"median() takes one argument, not {len(args)}", node)
        args = [args[0], Literal(DOUBLE, 0.5)]
    if len(args) != 2:
        binder.context.fail(f"{name}() takes a value and a fraction", node)
    fraction = args[1] = binder.coerce(args[1], DOUBLE, node)
    if not isinstance(fraction, Literal) or fraction.value is None or not 0 <= fraction.value <= 1:
        binder.context.fail(f"the fraction of {name}() must be a constant between 0 and 1", node)
    between = args[0].type.is_numeric or args[0].type.name in ("DATE", "TIMESTAMP", "INTERVAL", "NULL")
    if name == "median":
        return ("quantile_cont" if between else "quantile_disc"), args
    return ("quantile_cont" if name.endswith("_cont") else "quantile_disc"), args


def _with_separator(binder: ExpressionBinder, call: CallParts, args: list[Expression]) -> list[Expression]:
    if len(args) == 1:
        args = [*args, Literal(VARCHAR, ",")]
    if len(args) == 2:
        separator = binder.coerce(args[1], VARCHAR, call.node)
        if not isinstance(separator, Literal):
            binder.context.fail(f"the separator of {call.name}() must be a constant", call.node)
        args = [args[0], separator]
    return args


def _weighted(binder: ExpressionBinder, call: CallParts) -> Expression:
    """weighted_avg(x, w): sum(x * w) / sum(w) over the rows where x is not NULL; NULL if the weights are 0."""
    if len(call.arguments) != 2 or call.distinct or call.order:
        binder.context.fail(f"{call.name}() takes a value and a weight", call.node)
    value, weight = (argument.copy() for argument in call.arguments)  # trees are shared between binds
    present = exp.Not(this=exp.Is(this=value, expression=exp.Null()))
    chosen = present if call.condition is None else exp.And(this=call.condition.copy(), expression=present)
    products = CallParts("sum", [exp.Mul(this=value, expression=weight)], call.node, condition=chosen)
    weights = CallParts("sum", [weight], call.node, condition=chosen)
    parts = [binder.coerce(bind_aggregate(binder, part), DOUBLE, call.node) for part in (products, weights)]
    is_zero = binder.call("eq", [parts[1], Literal(DOUBLE, 0.0)], call.node)
    parts[1] = Case(DOUBLE, (is_zero,), (Literal(DOUBLE, None),), parts[1])
    return binder.call("divide", parts, call.node)


def _extreme(
    binder: ExpressionBinder, call: CallParts, args: list[Expression], condition: Expression | None
) -> Aggregation:
    """arg_min(x, y): the first x in the order of y, of rows where neither is NULL; with _null x may be, with
    _nulls_last both."""
    if len(args) == 3:
        binder.context.unsupported(f"{call.name}() of the n best", call.node, "use row_number() OVER and QUALIFY")
    if len(args) != 2:
        binder.context.fail(f"{call.name}() takes two arguments, not {len(args)}", call.node)
    key = SortKey(args[1], descending=_EXTREMES[call.name])
    if call.name.endswith("_nulls_last"):
        return Aggregation("first", (args[0],), args[0].type, False, condition, (key,))
    tested = args[1:] if call.name.endswith("_null") else args
    present = binder.call("is_not_null", tested[:1], call.node)
    if len(tested) == 2:
        present = _both(present, binder.call("is_not_null", tested[1:], call.node))
    return Aggregation("first", (args[0],), args[0].type, False, _both(condition, present), (key,))
