"""The shape of a fused pipeline, the base of its operators, and which engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from eventdb.batch import RecordBatch
from eventdb.config import COMPILE_MIN_ROWS
from eventdb.kernels.cache import has_numba
from eventdb.kernels.service import SERVICE, Request, build_now
from eventdb.logical.expressions import (
    Aggregation,
    Call,
    Cast,
    ColumnRef,
    Expression,
    IntervalValue,
    Literal,
    substitute,
    walk,
)
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Aggregate, Filter, Join, Plan, Project, Scan, TimeWindow, transform_plan
from eventdb.physical.built import Built
from eventdb.physical.codegen import CannotCompile, PipelineText
from eventdb.physical.codegen_expression import ExpressionWriter
from eventdb.physical.codegen_group import value_bounds
from eventdb.physical.codegen_join import write_partner
from eventdb.physical.compiled_input import ScanInput
from eventdb.physical.context import QueryContext
from eventdb.physical.lookup import JoinedInput, Lookup, is_lookup
from eventdb.physical.morsels import Morsel
from eventdb.physical.operands import GREATEST_TIMESTAMP, LEAST_TIMESTAMP
from eventdb.physical.operator import Operator
from eventdb.physical.skipping import count_rows
from eventdb.schema import BOOLEAN, INTERVAL, TIMESTAMP

_MAX_NODES = 2_000


@dataclass(frozen=True, slots=True)
class Step:
    """A predicate that keeps rows, or a lookup, or expressions that must be computed here because they can raise.

    `window_us` marks the guard of a TimeWindow: windows around the first time must lie in the years 1 to 9999.
    """

    expressions: tuple[Expression, ...]
    keeps: bool
    window_us: int = 0
    lookup: Lookup | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A fused pipeline: everything is an expression over the scan's columns and those of its lookups."""

    plan: Plan
    scan: Scan
    steps: tuple[Step, ...]
    outputs: tuple[Expression, ...]
    keys: tuple[Expression, ...]
    aggregations: tuple[Aggregation, ...] | None

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        return tuple(step.lookup for step in self.steps if step.lookup is not None)

    def input(self, context: QueryContext, in_flight: int = 0) -> ScanInput:
        """The columns its expressions read."""
        if not self.lookups:
            return ScanInput(self.scan, context, in_flight)
        return JoinedInput(self.scan, self.lookups, context, in_flight)


def recognise(plan: Plan) -> Shape | None:
    """The shape of a plan, None if it is not a pipeline over a topic."""
    node: Plan = plan.input if isinstance(plan, Aggregate) else plan
    chain: list[Plan] = []
    while isinstance(node, Filter | Project | TimeWindow) or (isinstance(node, Join) and is_lookup(node)):
        chain.append(node)
        node = node.children[0]
    if not isinstance(node, Scan) or node.keys is not None:
        return None
    outputs: tuple[Expression, ...] = tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(node.output))
    steps: list[Step] = []
    width = len(outputs)
    for step in reversed(chain):
        if isinstance(step, Filter):
            steps.append(Step((substitute(step.predicate, outputs),), True))
        elif isinstance(step, Project):
            outputs = tuple(substitute(e, outputs) for e in step.expressions)
            raising = tuple(e for e in outputs if may_raise(e))
            if raising:
                steps.append(Step(raising, False))
        elif isinstance(step, Join):
            built = step.right
            assert isinstance(built, Built)
            keys = tuple(substitute(key, outputs) for key in step.left_keys)
            lookup = Lookup(sum(1 for s in steps if s.lookup is not None), step, built, keys, width)
            steps.append(Step((), False, lookup=lookup))
            if lookup.adds_columns:
                outputs += tuple(ColumnRef(f.type, width + i, f.name) for i, f in enumerate(built.fields))
                width += len(built.fields)
            if step.residual is not None:
                steps.append(Step((substitute(step.residual, outputs),), True))
        elif isinstance(step, TimeWindow):
            if step.size_us != step.slide_us:
                return None
            time = substitute(step.time, outputs)
            time = time if time.type == TIMESTAMP else Cast(TIMESTAMP, time)
            steps.append(Step((Call(BOOLEAN, "is_not_null", (time,)),), True))
            steps.append(Step(_window_guards(time, step.size_us), False, step.size_us))
            outputs = (*outputs, *_window_columns(time, step.size_us))
        if sum(1 for e in outputs for _ in walk(e)) > _MAX_NODES:
            return None
    if not isinstance(plan, Aggregate):
        return Shape(plan, node, tuple(steps), outputs, (), None)
    keys = tuple(substitute(key, outputs) for key in plan.keys)
    aggregations = tuple(a.map(lambda e: substitute(e, outputs)) for a in plan.aggregations)
    return Shape(plan, node, tuple(steps), outputs, keys, aggregations)


def _window_columns(time: Expression, size_us: int) -> tuple[Expression, ...]:
    start = Call(TIMESTAMP, "time_bucket", (Literal(INTERVAL, IntervalValue(0, size_us)), time))
    end = Call(TIMESTAMP, "add", (start, Literal(INTERVAL, IntervalValue(0, size_us))))
    last = Call(TIMESTAMP, "add", (start, Literal(INTERVAL, IntervalValue(0, size_us - 1))))
    return start, end, last


def _window_guards(time: Expression, size_us: int) -> tuple[Expression, ...]:
    """Expressions that raise where a window cannot be represented; the time first."""
    before = Call(TIMESTAMP, "subtract", (time, Literal(INTERVAL, IntervalValue(0, 2 * size_us))))
    after = Call(TIMESTAMP, "add", (time, Literal(INTERVAL, IntervalValue(0, size_us))))
    return time, before, after


def write_steps(shape: Shape, text: PipelineText, writer: ExpressionWriter, stack: ExitStack) -> bool:
    """Writes filters and raising expressions; what follows runs for the rows kept. Returns whether rows are dropped."""
    drops = False
    for step in shape.steps:
        if step.lookup is not None:
            partner = write_partner(writer, step.lookup)
            if not step.lookup.keeps_all:
                stack.enter_context(text.only_if(f"{partner} {'<' if step.lookup.join.kind == 'anti' else '>='} 0"))
                drops = True
            continue
        if not step.keeps:
            if step.window_us and _is_safe(step, writer):
                continue
            for expression in step.expressions:
                writer.value(expression)
            continue
        condition = writer.is_true(step.expressions[0])
        if condition != "True":
            stack.enter_context(text.only_if(condition))
            drops = True
    return drops


def _is_safe(step: Step, writer: ExpressionWriter) -> bool:
    """Whether all times are known to be far from the edges, so that no row needs the guard."""
    bounds = value_bounds(step.expressions[0], writer.source.column_range)
    edge = 2 * step.window_us
    return bounds is not None and bounds[0] - edge >= LEAST_TIMESTAMP and bounds[1] + edge <= GREATEST_TIMESTAMP


LEAST_COMPILED_ROWS = 20_000  # below, generating the text costs more than interpreting the rows


def scanned_below(plan: Plan, rows: Callable[[Scan], int]) -> int:
    """The rows of all scans of a plan together."""
    return rows(plan) if isinstance(plan, Scan) else sum(scanned_below(child, rows) for child in plan.children)


def scanned_rows(scan: Scan, context: QueryContext) -> int:
    """How many rows a scan has at most. Cost: one look-up in the index, and those of the key or the time range; none
    when it is asked again."""
    found = context.scanned.get(id(scan))  # by identity: equality compares whole hints
    if found is None:
        found = context.scanned[id(scan)] = scan, _scanned_rows(scan, context)
    return found[1]


def _scanned_rows(scan: Scan, context: QueryContext) -> int:
    if scan.keys is not None:
        return len(scan.keys)
    if scan.time_range != (None, None) or any(function == "eq" for _, function, _ in scan.hints):
        return count_rows(scan, context)
    count = 0
    for low, high in map(context.snapshot.offsets, context.logs_of(scan.topic_id, scan.partition)):
        start = low if scan.start_offset is None else max(low, scan.start_offset)
        stop = high if scan.stop_offset is None else min(high, scan.stop_offset)
        count += max(0, int(stop) - int(start))
    return count


def request_kernel(text: PipelineText, context: QueryContext, row_count: int) -> Request:
    """The kernel of a text, or the promise of one. CannotCompile if this query should not wait for it."""
    source, tokens = text.source, text.tokens
    if context.execution == "compiled":
        if not has_numba():
            raise CannotCompile("Numba is not installed")
        request = Request(source, tokens)
        request.settle(build_now(source, tokens))
        return request
    if row_count < COMPILE_MIN_ROWS and (row_count < LEAST_COMPILED_ROWS or not SERVICE.is_in_memory(source, tokens)):
        raise CannotCompile("too few rows to compile for")
    request = SERVICE.find(source, tokens)
    if request.error is not None:
        raise CannotCompile(request.error)
    return request


class FusedPipeline(Operator):
    """Base of the fused operators: decides between the engines when it runs."""

    engine = "compiled"

    def __init__(self, shape: Shape, context: QueryContext) -> None:
        super().__init__(shape.plan.fields, context)
        self.shape = shape
        self.accepted_morsel_count = 0  # marked bad by the kernel, found sound by the interpreted engine

    def label(self) -> str:
        parts = [self.shape.plan.label()]
        node = self.shape.plan
        while node.children:
            node = node.children[0]
            parts.append(node.label())
        return "Fused " + " <- ".join(parts)

    def interpreted(self, plan: Plan | None = None) -> Iterator[RecordBatch]:
        """The rows of the plan (default: all of this pipeline) through the interpreted engine."""
        from eventdb.physical.planner import plan_physical

        yield from plan_physical(plan or self.shape.plan, replace(self.context, execution="interpreted")).batches()

    def only(self, source: ScanInput, morsel: Morsel, plan: Plan | None = None) -> Plan:
        """A plan (default: the pipeline's) over the rows of one morsel."""
        part = source.restricted(morsel)
        return transform_plan(plan or self.shape.plan, lambda node: part if isinstance(node, Scan) else node)
