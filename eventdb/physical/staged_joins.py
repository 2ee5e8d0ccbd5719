"""StagedJoins: first the held sides of a chain of joins, then the rest of the plan, which knows them.

The right sides of the joins on the way from an Aggregate, Filter, Project or Join down to the leftmost input run from
the bottom up, and stand in the plan as Built leaves from then on. What is planned after that can use what they hold:
joins that find one row at most become lookups of a fused pipeline, and the least and greatest key let a scan skip
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from eventdb.batch import RecordBatch
from eventdb.kernels.cache import has_numba
from eventdb.kernels.family import joins_are_ready
from eventdb.logical.expressions import ColumnRef, Expression
from eventdb.logical.functions import may_raise
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.plan import Aggregate, Filter, Join, Plan, Project, Scan
from eventdb.physical.built import Built, build
from eventdb.physical.context import QueryContext
from eventdb.physical.fused import LEAST_COMPILED_ROWS, scanned_below, scanned_rows
from eventdb.physical.operator import Operator
from eventdb.physical.pairs import TooMany, fitting_rows
from eventdb.physical.spilled_join import Parted, part_right
from eventdb.physical.spilled_parts import SpilledParts

_KINDS = ("inner", "left", "single", "semi", "anti")

Planner = Callable[[Plan, QueryContext], Operator]


def stage_joins(plan: Plan, context: QueryContext, staged: Planner, plain: Planner) -> Operator | None:
    """The operator of a plan with joins to stage, None for others. `staged` plans what is left, `plain` a plan whose
    root is not staged."""
    if context.execution == "interpreted" or not has_numba() or _next(plan) is None:
        return None
    rows = partial(scanned_rows, context=context)
    if context.execution == "auto" and scanned_below(plan, rows) < LEAST_COMPILED_ROWS:
        return None
    return StagedJoins(plan, context, staged, plain)


def _next(plan: Plan) -> Join | None:
    """The lowest join of the chain whose right side has not run."""
    node = plan.input if isinstance(plan, Aggregate) else plan
    found = None
    while isinstance(node, Filter | Project | Join):
        if isinstance(node, Join) and _is_staged(node):
            found = node
        node = node.children[0]
    return found


def _is_staged(join: Join) -> bool:
    return join.kind in _KINDS and bool(join.left_keys) and not isinstance(join.right, Built | Parted)


def _exchange(plan: Plan, old: Plan, new: Plan) -> Plan:
    """The chain with one of its nodes exchanged."""
    if plan is old:
        return new
    return plan.with_children((_exchange(plan.children[0], old, new), *plan.children[1:]))


class StagedJoins(Operator):
    """Shows the plan it will run, or has run."""

    def __init__(self, plan: Plan, context: QueryContext, staged: Planner, plain: Planner) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan
        self._staged = staged
        self._shown = plain(plan, context)
        self.children = self._shown.children
        self.engine = self._shown.engine
        self._parts: list[SpilledParts] = []  # right sides on disk

    def label(self) -> str:
        return self._shown.label()

    def locate(self, row: int) -> int | None:
        return self._shown.locate(row)

    def produce(self) -> Iterator[RecordBatch]:
        try:
            if joins_are_ready(wait=self.context.execution == "compiled"):
                self._shown, held = self._build()
                self.children = (*self._shown.children, *held)
            yield from self._shown.batches()
            self.engine = self._shown.engine
        finally:
            for parts in self._parts:
                parts.close()
        self.release()

    def _build(self) -> tuple[Operator, list[Operator]]:
        plan, held = self.plan, []
        held_bytes = 0
        join = _next(plan)
        while join is not None:
            side = self._staged(join.right, self.context)
            rows = fitting_rows(self, side, "the right side of a JOIN", held_bytes)
            held.append(side)
            if isinstance(rows, TooMany):
                self._parts.append(part_right(join, rows, self.context))
                parted = Parted(join.right.label(), join.right.fields, self._parts[-1])
                plan = _exchange(plan, join, replace(join, right=parted))
                join = _next(plan)
                continue
            built = build(join, rows)
            held_bytes += built.nbytes
            self.context.hold(self, "the right side of a JOIN", held_bytes, spills=True)
            plan = _exchange(plan, join, narrowed(replace(join, right=built), built))
            join = _next(plan)
        return self._staged(plan, self.context), held


def narrowed(join: Join, built: Built) -> Join:
    """The join with the least and greatest key of the held side as hints of the scan its left rows come from."""
    if join.kind not in ("inner", "semi") or built.table is None:
        return join
    left = join.left
    for key, digit in zip(join.left_keys, built.table.digits, strict=True):
        if digit.dictionary is None and isinstance(key, ColumnRef):
            bounds = (("ge", digit.low), ("le", digit.low + digit.span - 1))
            left = _hinted(left, key.index, bounds) or left
    return replace(join, left=left)


def _hinted(plan: Plan, index: int, bounds: tuple[tuple[str, int], ...]) -> Plan | None:
    """The chain over a scan with bounds of column `index` as hints; None where that is no column of a scan, or skipping
    rows might hide an error."""
    if isinstance(plan, Scan):
        name = plan.columns[index]
        if plan.keys is not None or name.startswith("_"):
            return None
        return replace(plan, hints=(*plan.hints, *((name, function, value) for function, value in bounds)))
    if not isinstance(plan, Filter | Project | Join) or any(map(may_raise, expressions_of(plan))):
        return None
    if isinstance(plan, Project):
        source: Expression = plan.expressions[index]
        if not isinstance(source, ColumnRef):
            return None
        index = source.index
    if isinstance(plan, Join) and (plan.kind == "full" or index >= len(plan.left.fields)):
        return None
    below = _hinted(plan.children[0], index, bounds)
    return None if below is None else plan.with_children((below, *plan.children[1:]))
