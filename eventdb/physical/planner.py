"""Logical plan -> operators. Pipelines over topics are compiled where that is asked for and possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from eventdb.batch import RecordBatch
from eventdb.errors import InternalError
from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal, transform
from eventdb.logical.node_expressions import expressions_of, map_expressions
from eventdb.logical.over import Over
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    DistinctOn,
    ExternalScan,
    Filter,
    GroupSets,
    Join,
    Limit,
    Plan,
    Project,
    Scan,
    Sort,
    TimeWindow,
    UnionAll,
    Values,
    ViewScan,
    transform_plan,
)
from eventdb.logical.relational import (
    BlockAggregate,
    LimitBy,
    LimitValue,
    RecursiveUnion,
    SetOperation,
    Shared,
    WorkingTable,
)
from eventdb.logical.rules.block_statistics import block_statistics
from eventdb.logical.rules.common_subplans import common_subplans
from eventdb.logical.rules.order_joins import order_joins
from eventdb.logical.rules.prune_columns import prune_columns
from eventdb.logical.series import Series
from eventdb.physical.aggregate import GroupRows, GroupSetRows
from eventdb.physical.block_statistics import BlockStatistics
from eventdb.physical.built import Built, BuiltRows
from eventdb.physical.context import QueryContext
from eventdb.physical.distinct import DistinctRows, FirstRows
from eventdb.physical.exists_join import ExistsJoin
from eventdb.physical.external_scan import ExternalRows
from eventdb.physical.filter import FilterRows
from eventdb.physical.fused import LEAST_COMPILED_ROWS, scanned_below
from eventdb.physical.join import HashJoin
from eventdb.physical.limit import LimitRows, LimitRowsByValue
from eventdb.physical.limit_by import LimitRowsBy
from eventdb.physical.operator import Operator
from eventdb.physical.over import OverRows
from eventdb.physical.project import ProjectColumns
from eventdb.physical.recursive import RecursiveRows, WorkingRows
from eventdb.physical.scan import KeyLookup, LogScan
from eventdb.physical.scan_statistics import ScanStatistics
from eventdb.physical.series import SeriesRows
from eventdb.physical.set_operation import SetRows
from eventdb.physical.shared import SharedRows
from eventdb.physical.short import short_rows
from eventdb.physical.sort import SortRows, TopRows
from eventdb.physical.spilled_join import Parted, PartedRows
from eventdb.physical.staged_joins import stage_joins
from eventdb.physical.time_window import WindowRows
from eventdb.physical.top_scan import top_of_scan
from eventdb.physical.union import UnionRows
from eventdb.physical.values import ConstantRows
from eventdb.physical.view_scan import ViewRows
from eventdb.physical.visible import visible_rows
from eventdb.schema import TIMESTAMP

TOP_ROWS_LIMIT = 1 << 20
"""ORDER BY ... LIMIT beyond so many rows sorts everything: keeping the best would keep most rows anyway."""

_PIPELINE_ENDS = (Aggregate, Filter, Join, Project, TimeWindow)


def plan_physical(plan: Plan, context: QueryContext) -> Operator:
    """The operators that give the plan's rows. Nothing is read before the first batch is asked for."""
    plan = fix_now(visible_rows(_ordered(plan, context), context))
    for rule in (common_subplans, block_statistics):
        if rule.__name__ not in context.disabled_rules:
            plan = rule(plan)
    return _build(plan, context)


def _ordered(plan: Plan, context: QueryContext) -> Plan:
    """The plan with its joins ordered by what is known of the rows; as it is where few rows are read."""
    if context.execution == "interpreted" or "order_joins" in context.disabled_rules or not _has_join(plan):
        return plan
    statistics = ScanStatistics(context)
    if context.execution == "auto" and scanned_below(plan, statistics.row_count) < LEAST_COMPILED_ROWS:
        return plan
    ordered = order_joins(plan, statistics)
    return plan if ordered is plan else prune_columns(ordered)


def _has_join(plan: Plan) -> bool:
    return isinstance(plan, Join) or any(map(_has_join, plan.children))


def run(plan: Plan, context: QueryContext) -> Iterator[RecordBatch]:
    """The plan's rows, as non-empty batches."""
    plan = fix_now(plan)
    short = short_rows(plan, context)
    return plan_physical(plan, context).batches() if short is None else iter(short)


def _build(plan: Plan, context: QueryContext) -> Operator:
    return stage_joins(plan, context, _build, _build_plain) or _build_plain(plan, context)


def _build_plain(plan: Plan, context: QueryContext) -> Operator:
    compiled = _compiled(plan, context)
    if compiled is not None:
        return compiled
    if isinstance(plan, Limit):
        top = _top(plan, context)
        if top is not None:
            return top
    if isinstance(plan, Shared):
        return SharedRows(plan, _build, context)
    if isinstance(plan, BlockAggregate):
        return BlockStatistics(plan, _build, context)
    leaf = _LEAVES.get(type(plan))
    if leaf is not None:
        return leaf(plan, context)
    children = tuple(_build(child, context) for child in plan.children)
    inner = _INNER.get(type(plan))
    if inner is None:
        raise InternalError(f"no operator for {type(plan).__name__}")
    return inner(plan, children, context)


def _compiled(plan: Plan, context: QueryContext) -> Operator | None:
    """The fused operator of a pipeline, None where it must be interpreted."""
    if context.execution == "interpreted" or not isinstance(plan, _PIPELINE_ENDS):
        return None
    from eventdb.physical.pipeline import compile_pipeline

    return compile_pipeline(plan, context)


def _top(plan: Limit, context: QueryContext) -> Operator | None:
    """ORDER BY ... LIMIT as a top-N, also through a projection between the two."""
    if plan.row_count is None or plan.skip_count + plan.row_count > TOP_ROWS_LIMIT:
        return None
    below = plan.input
    if isinstance(below, Sort):
        of_scan = top_of_scan(plan, below, context)
        if of_scan is not None:
            return of_scan
        return TopRows(plan, below, _build(below.input, context), context)
    if isinstance(below, Project) and isinstance(below.input, Sort):
        inner = _top(replace(plan, input=below.input), context)
        return None if inner is None else ProjectColumns(below, inner, context)
    return None


def _join(plan: Join, children: tuple[Operator, ...], context: QueryContext) -> Operator:
    kind = ExistsJoin if plan.kind in ("semi", "anti", "mark") else HashJoin
    return kind(plan, children[0], children[1], context)


_LEAVES: dict[type[Plan], Callable[..., Operator]] = {
    Scan: lambda plan, context: (LogScan if plan.keys is None else KeyLookup)(plan, context),
    ExternalScan: ExternalRows, ViewScan: ViewRows, Built: BuiltRows, Parted: PartedRows, Values: ConstantRows,
    WorkingTable: WorkingRows,
}  # fmt: skip
_INNER: dict[type[Plan], Callable[..., Operator]] = {
    Filter: lambda plan, children, context: FilterRows(plan, children[0], context),
    Project: lambda plan, children, context: ProjectColumns(plan, children[0], context),
    Aggregate: lambda plan, children, context: GroupRows(plan, children[0], context),
    Join: lambda plan, children, context: _join(plan, children, context),
    Sort: lambda plan, children, context: SortRows(plan, children[0], context),
    Limit: lambda plan, children, context: LimitRows(plan, children[0], context),
    GroupSets: lambda plan, children, context: GroupSetRows(plan, children[0], context),
    Over: lambda plan, children, context: OverRows(plan, children[0], context),
    Distinct: lambda plan, children, context: DistinctRows(plan, children[0], context),
    DistinctOn: lambda plan, children, context: FirstRows(plan, children[0], context),
    UnionAll: lambda plan, children, context: UnionRows(plan, children, context),
    TimeWindow: lambda plan, children, context: WindowRows(plan, children[0], context),
    Series: lambda plan, children, context: SeriesRows(plan, children[0], context),
    SetOperation: lambda plan, children, context: SetRows(plan, children[0], children[1], context),
    LimitValue: lambda plan, children, context: LimitRowsByValue(plan, children[0], children[1], context),
    LimitBy: lambda plan, children, context: LimitRowsBy(plan, children[0], context),
    RecursiveUnion: lambda plan, children, context: RecursiveRows(plan, children[0], children[1], _build, context),
}


# --- now() --------------------------------------------------------------------------------------------------------


def fix_now(plan: Plan) -> Plan:
    """The plan with now() replaced by this moment: one value per statement, whatever runs it."""
    if not _mentions_now(plan):
        return plan
    moment: list[Literal] = []

    def fix(node: Expression) -> Expression:
        if isinstance(node, Call) and node.function == "now":
            if not moment:
                moment.append(Literal(TIMESTAMP, time.time_ns() // 1000))
            return moment[0]
        return node

    return transform_plan(plan, lambda node: map_expressions(node, lambda e: transform(e, fix)))


def _mentions_now(plan: Plan) -> bool:
    return any(map(_calls_now, expressions_of(plan))) or any(map(_mentions_now, plan.children))


def _calls_now(expression: Expression) -> bool:
    if isinstance(expression, ColumnRef | Literal):
        return False
    if isinstance(expression, Call) and expression.function == "now":
        return True
    return any(map(_calls_now, expression.children()))
