"""OVER: analytic functions, their windows and frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from eventdb.logical.expressions import Expression, IntervalValue, Literal, SortKey
from eventdb.logical.functions import RANKINGS, common_type
from eventdb.logical.over import (
    CURRENT_ROW,
    DEFAULT_FRAME,
    UNBOUNDED_FOLLOWING,
    UNBOUNDED_PRECEDING,
    Bound,
    Frame,
    OverCall,
)
from eventdb.logical.python_functions import PythonAggregate
from eventdb.logical.rankings import FRAMELESS, SKIPS_NULLS
from eventdb.schema import BIGINT, TIMESTAMP
from eventdb.sql.aggregates import CallParts, aggregation_of, is_aggregate, parts_of
from eventdb.sql.parser import position_of
from eventdb.wide_decimals import unpack

if TYPE_CHECKING:
    from eventdb.sql.expressions import ExpressionBinder


def bind_over(binder: ExpressionBinder, node: exp.Window) -> OverCall:
    """The analytic call of a tree `f(...) OVER window`."""
    call = parts_of(binder.context, node.this)
    partition, order_by, spec = _window(binder, node)
    keys = tuple(binder.bind(tree) for tree in partition)
    order = tuple(
        SortKey(binder.bind(item.this), bool(item.args.get("desc")), bool(item.args.get("nulls_first")))
        for item in order_by
    )
    frame = DEFAULT_FRAME if spec is None else _frame(binder, spec, order)
    if is_aggregate(call.name):
        return _aggregate(binder, call, keys, order, frame)
    if isinstance(binder.context.resolver.function(call.name), PythonAggregate):
        binder.context.unsupported(f"{call.name}() with OVER", node, "aggregates written in Python go with GROUP BY")
    if call.name not in RANKINGS:
        binder.context.fail(f"{call.name}() is not an aggregate or window function, so it takes no OVER", node)
    return _ranking(binder, call, keys, order, frame)


def _aggregate(
    binder: ExpressionBinder, call: CallParts, keys: tuple[Expression, ...], order: tuple[SortKey, ...], frame: Frame
) -> OverCall:
    if call.name in ("weighted_avg", "wavg"):
        binder.context.unsupported(f"{call.name}() with OVER", call.node, "divide sum(x * w) by sum(w)")
    found = aggregation_of(binder, call, binder.bind)
    if found.order and found.function not in ("first", "last", "quantile_cont", "quantile_disc"):
        binder.context.unsupported("ORDER BY inside an aggregate with OVER", call.node, "order the window instead")
    return OverCall(
        found.function, found.args, found.type, keys, order, frame, distinct=found.distinct, filter=found.filter,
        inner=found.order,
    )  # fmt: skip


def _ranking(
    binder: ExpressionBinder, call: CallParts, keys: tuple[Expression, ...], order: tuple[SortKey, ...], frame: Frame
) -> OverCall:
    context, name = binder.context, call.name
    for given, what in ((call.distinct, "DISTINCT"), (call.condition, "FILTER"), (call.within, "WITHIN GROUP")):
        if given:
            context.fail(f"{what} is for aggregates; {name}() is not one", call.node)
    if call.order and name in ("first_value", "last_value"):
        call.name = name.removesuffix("_value")
        return _aggregate(binder, call, keys, order, frame)
    if call.order:
        context.unsupported(f"ORDER BY inside {name}()", call.node, "order the window: OVER (ORDER BY ...)")
    if call.ignore_nulls and name not in SKIPS_NULLS:
        context.fail(f"IGNORE NULLS means nothing for {name}()", call.node)
    if name in FRAMELESS:
        frame = DEFAULT_FRAME
    args = [binder.bind(argument) for argument in call.arguments]
    if len(args) == 3 and isinstance(args[2], Literal):
        args[2] = binder.unify([args[0], args[2]], call.node, f"{name}()")[1]
    resolved = RANKINGS[name].resolve([arg.type for arg in args])
    if resolved is None:
        context.fail(binder.mismatch(name, RANKINGS[name].signature, args), call.node)
    bound = tuple(binder.coerce(arg, type, call.node) for arg, type in zip(args, resolved[0], strict=True))
    return OverCall(name, bound, resolved[1], keys, order, frame, ignore_nulls=call.ignore_nulls)


def _window(
    binder: ExpressionBinder, node: exp.Window, before: list[str] | None = None
) -> tuple[list[exp.Expr], list[exp.Ordered], exp.WindowSpec | None]:
    """PARTITION BY, ORDER BY and frame of a window, with what it takes from the window it names.

    before: the windows it may name, None for all: one of the WINDOW clause may name those in front of it.
    """
    partition = list(node.args.get("partition_by") or [])
    order = node.args["order"].expressions if node.args.get("order") is not None else []
    spec = node.args.get("spec")
    base = node.args.get("alias")
    if base is None:
        return partition, order, spec
    name = base.name.lower()
    if name not in binder.windows or (before is not None and name not in before):
        known = ", ".join(binder.windows) or "none"
        binder.context.fail(f"no window {base.name!r} before this; the WINDOW clause defines {known}", node)
    names = list(binder.windows)
    taken, taken_order, taken_spec = _window(binder, binder.windows[name], names[: names.index(name)])
    if partition:
        binder.context.fail(f"window {base.name!r} has a PARTITION BY already, or none for good", node)
    if order and taken_order:
        binder.context.fail(f"window {base.name!r} has an ORDER BY already", node)
    if taken_spec is not None and (order or spec is not None):
        binder.context.fail(f"window {base.name!r} has a frame, so nothing can be added to it", node)
    if taken_spec is not None and _in_brackets(binder, base):
        fix = f"write OVER {base.name}"
        binder.context.fail(f"window {base.name!r} has a frame, so none can be made of it in brackets: {fix}", node)
    return taken, order or taken_order, spec or taken_spec


def _in_brackets(binder: ExpressionBinder, name: exp.Expr) -> bool:
    """Whether a window is named as OVER (name), and not as OVER name."""
    source = binder.context.source
    at = source.token_at(position_of(name))
    return at is not None and at > 0 and source.tokens[at - 1].text == "("


# --- frames -------------------------------------------------------------------------------------------------------


def _frame(binder: ExpressionBinder, spec: exp.WindowSpec, order: tuple[SortKey, ...]) -> Frame:
    unit = str(spec.args.get("kind")).lower()
    start = _bound(binder, spec, "start", unit, order)
    end = CURRENT_ROW if spec.args.get("end") is None else _bound(binder, spec, "end", unit, order)
    if start == UNBOUNDED_FOLLOWING or end == UNBOUNDED_PRECEDING:
        binder.context.fail(f"a frame from {start} to {end} holds no rows", spec)
    exclude = spec.args.get("exclude")
    excluded = exclude.name.lower() if exclude is not None else "no others"
    key: Expression | None = None
    values = [bound.value for bound in (start, end) if bound.value is not None]
    if values:
        key = order[0].expression
        for value in values:
            shared = common_type(key.type, value.type)
            if shared is None:
                binder.context.fail(f"RANGE: {value.type} cannot be compared with {key.type}", spec)
            key = binder.coerce(key, shared, spec)
        start, end = (
            bound
            if bound.value is None
            else Bound(bound.kind, bound.offset, binder.coerce(bound.value, key.type, spec))
            for bound in (start, end)
        )
    return Frame(unit, start, end, excluded, key)


def _bound(binder: ExpressionBinder, spec: exp.WindowSpec, which: str, unit: str, order: tuple[SortKey, ...]) -> Bound:
    tree = spec.args.get(which)
    side = str(spec.args.get(f"{which}_side") or "").lower()
    if isinstance(tree, str):
        if tree.upper() == "CURRENT ROW":
            return CURRENT_ROW
        return UNBOUNDED_PRECEDING if side == "preceding" else UNBOUNDED_FOLLOWING
    assert tree is not None
    offset = binder.bind(tree)
    if isinstance(offset, Literal) and (offset.value is None or _is_negative(offset)):
        what = "is NULL" if offset.value is None else "must not be negative"
        binder.context.fail(f"the offset of a frame {what}", tree)
    if unit != "range":
        if not offset.type.is_integer:
            binder.context.fail(f"{unit.upper()} counts with whole numbers, not {offset.type}", tree)
        return Bound(side, binder.coerce(offset, BIGINT, tree))
    if len(order) != 1:
        binder.context.fail("RANGE with an offset needs one ORDER BY expression", spec)
    key = order[0].expression
    if key.type.name == "DATE" and offset.type.name == "INTERVAL":
        key = binder.coerce(key, TIMESTAMP, tree)
    function = "subtract" if (side == "preceding") != order[0].descending else "add"
    return Bound(side, offset, binder.call(function, [key, offset], tree))


def _is_negative(literal: Literal) -> bool:
    value = literal.value
    if isinstance(value, IntervalValue):
        return value.months < 0 or value.microseconds < 0
    if literal.type.is_wide:
        value = unpack(value)
    return isinstance(value, int | float) and value < 0
