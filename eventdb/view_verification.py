"""VERIFY VIEW: a view's stored state, brought up to a snapshot, against its query over the same snapshot as a batch.

A view whose windows close holds the rows of the windows that are closed. Where rows were too late for theirs, or were
left out because they break an expression, the batch query has them, and the view is compared with itself, computed anew
from its first row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError, ViewFailed
from eventdb.logical.plan import Plan, Scan, transform_plan
from eventdb.physical.planner import run
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import difference, weights_of
from eventdb.stream.circuit.query import CircuitQuery, CircuitReader, CircuitSpec
from eventdb.stream.program import UPDATE, WINDOW_CLOSE
from eventdb.stream.reader import ViewReader, brought_up
from eventdb.stream.steps import Steps
from eventdb.stream.view import ViewSpec, new_query
from eventdb.stream.windows import is_closed

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.logical.plan import Fields
    from eventdb.physical.context import QueryContext

_RELATIVE, _ABSOLUTE = 1e-9, 1e-12  # sums of floats depend on the order of their rows


def verify(database: Database, name: str, context: QueryContext) -> tuple[str, int | None, bool | None, str | None]:
    """(view, rows of it, whether they are those of the query, what differs or why that cannot be told). None for
    whether: events that the view may have counted were removed."""
    info = database._catalog.view(name)
    spec = database._views_of().spec(info)
    gone = _gone(spec, context)
    if gone is not None and isinstance(spec, ViewSpec):
        return info.name, None, None, gone
    try:
        if isinstance(spec, CircuitSpec):
            held = list(CircuitReader().content(spec, context.snapshot, spec.names))
        else:
            held = list(ViewReader().content(spec, context.snapshot, spec.program.names))
    except ViewFailed as error:
        return info.name, None, False, str(error)
    rows = sum(batch.row_count for batch in held)
    try:
        wanted = _of_circuit(spec, context) if isinstance(spec, CircuitSpec) else _of_topic(spec, context)
    except EvaluationError as error:
        return info.name, rows, False, f"the query fails, the view does not: {error.message}"
    fields = spec.fields if isinstance(spec, CircuitSpec) else spec.program.fields
    found = differing(fields, held, wanted)
    if found is None:
        return info.name, rows, True, None
    return (info.name, rows, False, found) if gone is None else (info.name, rows, None, gone)


def _gone(spec: CircuitSpec | ViewSpec, context: QueryContext) -> str | None:
    """What was removed of the topics, if the view may have taken it in."""
    if isinstance(spec, ViewSpec):
        start = spec.keys.start(context.snapshot)
        spans = [(spec.topic_name, start, context.snapshot.offsets(spec.input_log)[0])]
        if not spec.keys.has_begun(context.snapshot):
            return None
    else:
        topics = [(name, id) for id, name in spec.inputs.items() if not spec.primary_key(id)]
        spans = [(name, 0, context.snapshot.offsets(log)[0]) for name, id in topics for log in spec.logs(id)]
    for name, start, first in spans:
        if start < first:
            removed = f"offsets {start} to {first} (exclusive) of {name} were removed"
            return f"cannot be told: {removed}; REFRESH VIEW leaves them out"
    return None


def _of_circuit(spec: CircuitSpec, context: QueryContext) -> list[RecordBatch]:
    if spec.dead_letter is None and spec.closing is None:
        return list(run(spec.plan, context))
    anew = CircuitQuery(spec)
    deque(anew.advance(context.snapshot), 0)
    return list(anew.content(context.snapshot))


def _of_topic(spec: ViewSpec, context: QueryContext) -> list[RecordBatch]:
    """What the query gives over the rows the view has accepted."""
    program, snapshot = spec.program, context.snapshot
    first, end = snapshot.offsets(spec.input_log)
    start = max(spec.keys.start(snapshot), first)
    query = brought_up(spec, snapshot)
    if query.late_row_count or program.skips_broken_rows:
        anew, outputs = new_query(spec, start), []
        for rows in spec.read(snapshot, start, end):
            output = anew.advance(rows)
            if output is not None:
                outputs.append(output.batch)
        return [anew.content()] if program.emission == UPDATE else outputs

    def begun(plan: Plan) -> Plan:
        return transform_plan(plan, lambda node: replace(node, start_offset=start) if isinstance(node, Scan) else node)

    if program.aggregate is None:
        plan: Plan = program.before[-1] if program.before else program.scan
        return list(run(begun(plan), context))
    steps, made = Steps(program.after), []
    for batch in run(begun(program.aggregate), context):
        if program.emission == WINDOW_CLOSE:
            assert program.window is not None
            key = batch.columns[program.window.position]
            closed = is_closed(program.window.ends(key.values), query.watermark_us, program.grace_us)
            batch = batch.filter(closed if key.validity is None else closed & key.validity)
        if batch.row_count:
            made.append(steps.run(batch)[0])
    return made


def differing(fields: Fields, held: Sequence[RecordBatch], wanted: Sequence[RecordBatch]) -> str | None:
    """The first row that only one of two sets of rows has, and how many there are; None if they are equal, but for
    what the order of additions makes of floats."""
    names = [field.name for field in fields]
    codec = RowCodec([field.type for field in fields], Interner())
    change = difference(names, codec, held, wanted)
    if change is None:
        return None
    floats = {i for i, field in enumerate(fields) if field.type.name in ("DOUBLE", "FLOAT")}
    rows, weights = change.to_pylist(), weights_of(change).tolist()
    sides = [sorted((row for row, weight in zip(rows, weights, strict=True) for _ in range(sign * weight)),
                    key=lambda row: _order(row, floats)) for sign in (-1, 1)]  # fmt: skip
    left = [pair for pair in zip_longest(*sides) if not _is_close(pair[0], pair[1], floats)]
    if not left:
        return None
    ours, theirs = left[0]
    parts = [f"{who} has {_shown(names, row)}" for who, row in (("the view", ours), ("the query", theirs)) if row]
    return f"{', '.join(parts)}; {len(left)} row{'' if len(left) == 1 else 's'} differ{'s' * (len(left) == 1)}"


def _order(row: Sequence[Any], floats: set[int]) -> tuple[list[Any], list[Any]]:
    """Rows by what is exact first."""
    exact = [(value is not None, str(value)) for i, value in enumerate(row) if i not in floats]
    return exact, [(row[i] is not None, 0.0 if row[i] is None else row[i]) for i in sorted(floats)]


def _is_close(ours: Any, theirs: Any, floats: set[int]) -> bool:
    if ours is None or theirs is None:
        return False
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if i in floats and one is not None and other is not None:
            if not math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
                return False
        elif one != other:
            return False
    return True


def _shown(names: Sequence[str], row: Sequence[Any]) -> str:
    return "(" + ", ".join(f"{name} = {value!r}" for name, value in zip(names, row, strict=True)) + ")"
