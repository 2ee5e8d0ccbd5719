"""Comparisons of _offset and of the event time with constants become the ranges a Scan reads.

Offsets are exact, so their terms leave the filter; a time range only skips segments, so its terms stay. Comparisons of
other columns are handed down as hints, and stay too.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Call, ColumnRef, Expression, InList, IntervalValue, Literal
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import ExternalScan, Filter, Plan, Scan, Values, transform_plan
from eventdb.logical.predicates import all_of, terms_of

_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}


def scan_ranges(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, Filter):
        return plan
    if isinstance(plan.input, ExternalScan):
        terms = list(terms_of(plan.predicate))
        found = (*_hints(terms, plan.input.columns), *_memberships(terms, plan.input.columns))
        return replace(plan, input=replace(plan.input, terms=found)) if found else plan
    if not isinstance(plan.input, Scan):
        return plan
    scan = plan.input
    start, stop = scan.start_offset, scan.stop_offset
    low, high = scan.time_range
    kept: list[Expression] = []
    for term in terms_of(plan.predicate):
        bounds = _bounds(term, scan)
        if bounds is None:
            kept.append(term)
            continue
        column, least, most = bounds
        if column == "_offset":
            start = _larger(start, least)
            stop = _smaller(stop, None if most is None else most + 1)
        else:
            low, high = _larger(low, least), _smaller(high, most)
            kept.append(term)
    start = None if start is not None and start <= 0 else start
    if (stop is not None and stop <= (start or 0)) or (low is not None and high is not None and low > high):
        return Values((), plan.fields)
    narrowed = replace(
        scan, start_offset=start, stop_offset=stop, time_range=(low, high), hints=_own(_hints(kept, scan.columns))
    )
    predicate = all_of(kept)
    return narrowed if predicate is None else Filter(narrowed, predicate)


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _own(hints: tuple[tuple[str, str, object], ...]) -> tuple[tuple[str, str, object], ...]:
    """Those of stored columns."""
    return tuple(hint for hint in hints if not hint[0].startswith("_"))


def _memberships(terms: list[Expression], columns: tuple[str, ...]) -> tuple[tuple[str, str, object], ...]:
    """The terms `column IN (constants)`, as _hints gives the others."""
    if any(may_raise(term) for term in terms):
        return ()
    return tuple(
        (columns[term.operand.index], "in", tuple(v.value for v in term.values if v.value is not None))
        for term in terms
        if isinstance(term, InList) and not term.negated and isinstance(term.operand, ColumnRef)
    )


def _hints(terms: list[Expression], columns: tuple[str, ...]) -> tuple[tuple[str, str, object], ...]:
    """The terms that compare a column with a constant. None if some term can raise: skipping rows would hide
    its error."""
    if any(may_raise(term) for term in terms):
        return ()
    found: list[tuple[str, str, object]] = []
    for term in terms:
        if not isinstance(term, Call) or term.function not in _MIRRORED:
            continue
        left, right = term.args
        function = term.function
        if isinstance(left, Literal):
            left, right, function = right, left, _MIRRORED[function]
        if not isinstance(left, ColumnRef) or not isinstance(right, Literal) or right.value is None:
            continue
        alike = left.type == right.type or (left.type.is_integer and right.type.is_integer)
        if alike:
            found.append((columns[left.index], function, right.value))
    return tuple(found)


def _bounds(term: Expression, scan: Scan) -> tuple[str, int | None, int | None] | None:
    """(column, least, most) of a term `column op constant`, bounds inclusive; None if it is no such term."""
    if not isinstance(term, Call) or term.function not in _MIRRORED:
        return None
    left, right = term.args
    function = term.function
    if isinstance(left, Literal):
        left, right, function = right, left, _MIRRORED[function]
    if not isinstance(right, Literal) or right.value is None:
        return None
    slack = 0
    if isinstance(left, Call) and left.function == "time_bucket" and isinstance(left.args[0], Literal):
        width = left.args[0].value
        left, slack = left.args[1], width.microseconds - 1 if isinstance(width, IntervalValue) else 0
    if not isinstance(left, ColumnRef):
        return None
    column = scan.columns[left.index]
    if column == "_offset" and not left.type.is_integer:
        return None
    if column != "_offset" and (scan.event_time is None or column != scan.event_time or left.type.name != "TIMESTAMP"):
        return None
    if column == "_offset" and slack:
        return None
    value = int(right.value)
    least = {"eq": value, "ge": value, "gt": value + 1}.get(function)
    most = {"eq": value, "le": value, "lt": value - 1}.get(function)
    return column, least, None if most is None else most + slack
