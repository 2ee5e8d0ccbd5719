"""Fused pipelines: Aggregate? over Filter, Project and TUMBLE over a topic's Scan, run as one generated loop.

`compile_pipeline` gives an operator for such plans, or None. Whether this query is compiled in the end is decided when
it runs and its columns are known: what has no generated form runs interpreted, with the same rows and errors.
"""

from __future__ import annotations

from eventdb.logical.plan import Plan
from eventdb.physical.compiled_aggregate import FusedAggregate
from eventdb.physical.compiled_select import FusedSelect, worth_fusing
from eventdb.physical.context import QueryContext
from eventdb.physical.fused import LEAST_COMPILED_ROWS, recognise, scanned_rows
from eventdb.physical.operator import Operator


def compile_pipeline(plan: Plan, context: QueryContext) -> Operator | None:
    """The fused operator of a plan, or None when the interpreted operators should run it."""
    if context.execution == "interpreted":
        return None
    shape = recognise(plan)
    if shape is None:
        return None
    if context.execution == "auto" and scanned_rows(shape.scan, context) < LEAST_COMPILED_ROWS:
        return None
    if shape.aggregations is not None:
        return FusedAggregate(shape, context)
    return FusedSelect(shape, context) if worth_fusing(shape) else None
