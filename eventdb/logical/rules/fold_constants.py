"""What is constant becomes a literal: (1 + 2) -> 3, x AND TRUE -> x, CASE WHEN FALSE ... -> the rest.

Only what cannot raise is computed (see constants.py); a filter that is never true becomes no rows.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.constants import cast_literal, fold_call
from eventdb.logical.expressions import Aggregation, Call, Case, Cast, Expression, InList, Literal, SortKey, transform
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    DistinctOn,
    Filter,
    GroupSets,
    Join,
    Plan,
    Project,
    Sort,
    TimeWindow,
    Values,
    transform_plan,
)
from eventdb.schema import BOOLEAN


def fold_constants(plan: Plan) -> Plan:
    return transform_plan(plan, _fold_node)


def fold(expression: Expression) -> Expression:
    """The expression with its constant parts computed."""
    return transform(expression, _fold)


def _fold(node: Expression) -> Expression:
    if isinstance(node, Cast) and isinstance(node.operand, Literal):
        return cast_literal(node.operand, node.type) or node
    if isinstance(node, Case):
        return _fold_case(node)
    if isinstance(node, InList) and isinstance(node.operand, Literal):
        return _fold_in(node, node.operand)
    if isinstance(node, Call):
        if node.function in ("and", "or"):
            return _fold_logic(node)
        if node.function == "coalesce":
            return _fold_coalesce(node)
        return fold_call(node) or node
    return node


def _fold_logic(node: Call) -> Expression:
    decisive = node.function == "or"  # TRUE decides an OR, FALSE an AND
    kept: list[Expression] = []
    for arg in node.args:
        if isinstance(arg, Literal) and arg.value is not None:
            if bool(arg.value) is decisive:
                return Literal(BOOLEAN, decisive)
            continue
        nested = arg.args if isinstance(arg, Call) and arg.function == node.function else (arg,)
        kept.extend(term for term in nested if term not in kept)
    if not kept:
        return Literal(BOOLEAN, not decisive)
    return kept[0] if len(kept) == 1 else Call(BOOLEAN, node.function, tuple(kept))


def _fold_coalesce(node: Call) -> Expression:
    kept: list[Expression] = []
    for arg in node.args:
        if isinstance(arg, Literal) and arg.is_null:
            continue
        kept.append(arg)
        if isinstance(arg, Literal):
            break
    if not kept:
        return Literal(node.type, None)
    return kept[0] if len(kept) == 1 else Call(node.type, "coalesce", tuple(kept))


def _fold_case(node: Case) -> Expression:
    conditions: list[Expression] = []
    results: list[Expression] = []
    otherwise = node.otherwise
    for condition, result in zip(node.conditions, node.results, strict=True):
        if isinstance(condition, Literal):
            if condition.value:
                otherwise = result
                break
            continue
        conditions.append(condition)
        results.append(result)
    return Case(node.type, tuple(conditions), tuple(results), otherwise) if conditions else otherwise


def _fold_in(node: InList, operand: Literal) -> Expression:
    if operand.value is None:
        return Literal(BOOLEAN, None)
    if any(value.value == operand.value for value in node.values if value.value is not None):
        return Literal(BOOLEAN, not node.negated)
    unknown = any(value.value is None for value in node.values)
    return Literal(BOOLEAN, None if unknown else node.negated)


def _fold_node(plan: Plan) -> Plan:
    if isinstance(plan, Filter):
        predicate = fold(plan.predicate)
        if isinstance(predicate, Literal):
            return plan.input if predicate.value else Values((), plan.fields)
        return plan if predicate == plan.predicate else replace(plan, predicate=predicate)
    if isinstance(plan, Project):
        expressions = tuple(map(fold, plan.expressions))
        return plan if _same(expressions, plan.expressions) else replace(plan, expressions=expressions)
    if isinstance(plan, Aggregate):
        aggregations, keys = tuple(map(_fold_aggregation, plan.aggregations)), tuple(map(fold, plan.keys))
        if _same(aggregations, plan.aggregations) and _same(keys, plan.keys):
            return plan
        return replace(plan, keys=keys, aggregations=aggregations)
    if isinstance(plan, GroupSets):
        return replace(
            plan, keys=tuple(map(fold, plan.keys)), aggregations=tuple(map(_fold_aggregation, plan.aggregations))
        )
    if isinstance(plan, Over):
        return replace(plan, calls=tuple(call.map(fold) for call in plan.calls))
    if isinstance(plan, DistinctOn):
        return replace(plan, keys=tuple(map(fold, plan.keys)))
    if isinstance(plan, Join):
        residual = None if plan.residual is None else fold(plan.residual)
        if isinstance(residual, Literal) and residual.value:
            residual = None
        left, right = tuple(map(fold, plan.left_keys)), tuple(map(fold, plan.right_keys))
        compared = None if plan.compared is None else fold(plan.compared)
        return replace(plan, left_keys=left, right_keys=right, residual=residual, compared=compared)
    if isinstance(plan, Sort):
        return replace(plan, keys=tuple(SortKey(fold(k.expression), k.descending, k.nulls_first) for k in plan.keys))
    return replace(plan, time=fold(plan.time)) if isinstance(plan, TimeWindow) else plan


def _same(new: tuple[object, ...], old: tuple[object, ...]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _fold_aggregation(aggregation: Aggregation) -> Aggregation:
    folded = aggregation.map(fold)
    always = isinstance(folded.filter, Literal) and folded.filter.value
    return replace(folded, filter=None) if always else folded
