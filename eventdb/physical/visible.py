"""Which rows of a table a query sees: those that are current at its snapshot.

A scan of a table becomes a scan that also reads the hidden column of marks, a filter on it (storage/commit/marks.py
says why it is enough), and a projection to the columns that were asked for. So tables go through the same operators and
the same generated loops as topics do. Where the snapshot counts as many rows as the log holds, the scan stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Call, ColumnRef, Literal
from eventdb.logical.plan import Filter, OutputField, Plan, Project, Scan, transform_plan
from eventdb.physical.context import QueryContext
from eventdb.schema import BIGINT, BOOLEAN


def visible_rows(plan: Plan, context: QueryContext) -> Plan:
    """The plan with every scan of a table bound to the rows that are current at the context's snapshot."""
    return transform_plan(plan, lambda node: _current(node, context) if isinstance(node, Scan) else node)


def _current(scan: Scan, context: QueryContext) -> Plan:
    log = context.logs(scan.topic_id)
    if scan.keys is not None or not meets_superseded(scan, context):  # the index of keys names current rows only
        return scan
    end = context.snapshot.offsets(log)[1]
    width = len(scan.columns)
    marks = log.schema.fields[-1].name
    marked = replace(
        scan, columns=(*scan.columns, marks), output=(*scan.output, OutputField(marks, BIGINT, nullable=False))
    )
    mark = ColumnRef(BIGINT, width, marks)
    current = Call(BOOLEAN, "eq", (mark, Literal(BIGINT, 0)))
    later = Call(BOOLEAN, "gt", (mark, Literal(BIGINT, end)))
    rows = Filter(marked, Call(BOOLEAN, "or", (current, later)))
    kept = tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(scan.output))
    return Project(rows, kept, scan.output)


def meets_superseded(scan: Scan, context: QueryContext) -> bool:
    """Whether the scan meets rows of a table that are not current at the context's snapshot."""
    log = context.logs(scan.topic_id)
    return bool(getattr(log, "primary_key", ())) and context.snapshot.has_superseded(log)
