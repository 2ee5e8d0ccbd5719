"""Every node produces only the columns something above it reads; scans read only those."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from eventdb.logical.expressions import ColumnRef, Expression, SortKey, columns_of, remap
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
)
from eventdb.logical.relational import LimitBy, LimitValue, RecursiveUnion, SetOperation, WorkingTable
from eventdb.logical.series import Series

Places = dict[int, int]  # old position -> new position


def prune_columns(plan: Plan) -> Plan:
    pruned, places = _prune(plan, set(range(len(plan.fields))))
    return _exactly(pruned, places, list(range(len(plan.fields))), plan)


def _exactly(plan: Plan, places: Places, wanted: list[int], original: Plan) -> Plan:
    """The plan with exactly the wanted old columns, in that order."""
    if [places[i] for i in wanted] == list(range(len(plan.fields))):
        return plan
    fields = tuple(original.fields[i] for i in wanted)
    refs = tuple(ColumnRef(f.type, places[i], f.name) for i, f in zip(wanted, fields, strict=True))
    return Project(plan, refs, fields)


def _read(expressions: Iterable[Expression]) -> set[int]:
    result: set[int] = set()
    for expression in expressions:
        result |= columns_of(expression)
    return result


def _move(expressions: Iterable[Expression], places: Places) -> tuple[Expression, ...]:
    return tuple(remap(expression, places) for expression in expressions)


def _prune(plan: Plan, needed: set[int]) -> tuple[Plan, Places]:
    """The plan with at least the needed columns, and where the kept ones went."""
    if isinstance(plan, (Scan, ViewScan, ExternalScan)):
        kept = sorted(needed)
        columns, output = tuple(plan.columns[i] for i in kept), tuple(plan.output[i] for i in kept)
        return replace(plan, columns=columns, output=output), {old: new for new, old in enumerate(kept)}
    if isinstance(plan, Values):
        kept = sorted(needed)
        rows = tuple(tuple(row[i] for i in kept) for row in plan.rows)
        return Values(rows, tuple(plan.output[i] for i in kept)), {old: new for new, old in enumerate(kept)}
    if isinstance(plan, Filter):
        below, places = _prune(plan.input, needed | columns_of(plan.predicate))
        return Filter(below, remap(plan.predicate, places)), places
    if isinstance(plan, Project):
        return _prune_project(plan, needed)
    if isinstance(plan, Aggregate | GroupSets):
        return _prune_groups(plan, needed)
    if isinstance(plan, Over):
        return _prune_over(plan, needed)
    if isinstance(plan, DistinctOn):
        below, places = _prune(plan.input, needed | _read(plan.keys))
        return DistinctOn(below, _move(plan.keys, places)), places
    if isinstance(plan, Join):
        return _prune_join(plan, needed)
    if isinstance(plan, Sort):
        below, places = _prune(plan.input, needed | _read(key.expression for key in plan.keys))
        keys = tuple(SortKey(remap(k.expression, places), k.descending, k.nulls_first) for k in plan.keys)
        return Sort(below, keys), places
    if isinstance(plan, Limit):
        below, places = _prune(plan.input, needed)
        return replace(plan, input=below), places
    if isinstance(plan, Series):
        return _prune_series(plan, needed)
    if isinstance(plan, TimeWindow):
        return _prune_window(plan, needed)
    if isinstance(plan, UnionAll):
        return _prune_union(plan, needed)
    if isinstance(plan, LimitBy):
        below, places = _prune(plan.input, needed | _read(plan.keys))
        return replace(plan, input=below, keys=_move(plan.keys, places)), places
    if isinstance(plan, LimitValue):
        below, places = _prune(plan.input, needed)
        counts = _exactly(*_prune(plan.counts, {0, 1}), [0, 1], plan.counts)
        return LimitValue(below, counts), places
    every = set(range(len(plan.fields)))
    if isinstance(plan, WorkingTable):
        return plan, {i: i for i in every}
    children = tuple(
        _exactly(*_prune(child, set(range(len(child.fields)))), list(range(len(child.fields))), child)
        for child in plan.children
    )
    assert isinstance(plan, Distinct | SetOperation | RecursiveUnion) or not children
    return (plan.with_children(children) if children else plan), {i: i for i in every}


def _prune_project(plan: Project, needed: set[int]) -> tuple[Plan, Places]:
    kept = sorted(needed)
    expressions = [plan.expressions[i] for i in kept]
    below, places = _prune(plan.input, _read(expressions))
    output = tuple(plan.output[i] for i in kept)
    return Project(below, _move(expressions, places), output), {old: new for new, old in enumerate(kept)}


def _prune_groups(plan: Aggregate | GroupSets, needed: set[int]) -> tuple[Plan, Places]:
    count, width = len(plan.keys), len(plan.aggregations)
    kept = [i for i in range(width) if count + i in needed]
    below, places = _prune(
        plan.input, _read([*plan.keys, *(e for i in kept for e in plan.aggregations[i].expressions())])
    )
    aggregations = tuple(plan.aggregations[i].map(lambda e: remap(e, places)) for i in kept)
    stay = [*range(count), *(count + i for i in kept), *range(count + width, len(plan.output))]
    output = tuple(plan.output[i] for i in stay)
    result = replace(plan, input=below, keys=_move(plan.keys, places), aggregations=aggregations, output=output)
    return result, {old: new for new, old in enumerate(stay)}


def _prune_over(plan: Over, needed: set[int]) -> tuple[Plan, Places]:
    width = len(plan.input.fields)
    kept = [i for i in range(len(plan.calls)) if width + i in needed]
    read = _read(e for i in kept for e in plan.calls[i].expressions())
    below, places = _prune(plan.input, {i for i in needed if i < width} | read)
    if not kept:
        return below, places
    calls = tuple(plan.calls[i].map(lambda e: remap(e, places)) for i in kept)
    new_width = len(below.fields)
    added = {width + old: new_width + new for new, old in enumerate(kept)}
    return Over(below, calls, tuple(plan.added[i] for i in kept)), places | added


def _prune_join(plan: Join, needed: set[int]) -> tuple[Plan, Places]:
    width = len(plan.left.fields)
    wanted = _read(part for part in (plan.residual, plan.compared) if part is not None)
    wanted |= {i for i in needed if i < width or plan.kind != "mark"}
    left, left_places = _prune(plan.left, {i for i in wanted if i < width} | _read(plan.left_keys))
    of_right = {i - width for i in wanted if i >= width} | _read(plan.right_keys)
    right, right_places = _without_filtered(*_prune(plan.right, of_right), of_right)
    new_width = len(left.fields)
    places = left_places | {width + old: new_width + new for old, new in right_places.items()}
    residual, compared = (None if part is None else remap(part, places) for part in (plan.residual, plan.compared))
    keys = _move(plan.left_keys, left_places), _move(plan.right_keys, right_places)
    joined = replace(
        plan, left=left, right=right, left_keys=keys[0], right_keys=keys[1], residual=residual, compared=compared
    )
    if plan.kind in ("semi", "anti", "mark"):
        places = left_places | ({width: new_width} if plan.kind == "mark" else {})
    return joined, places


def _without_filtered(plan: Plan, places: Places, needed: set[int]) -> tuple[Plan, Places]:
    """The held side of a join without the columns that only its filter reads."""
    if not isinstance(plan, Filter) or not needed or needed >= set(places):
        return plan, places
    kept = sorted(needed)
    fields = tuple(plan.fields[places[i]] for i in kept)
    refs = tuple(ColumnRef(f.type, places[i], f.name) for i, f in zip(kept, fields, strict=True))
    return Project(plan, refs, fields), {old: new for new, old in enumerate(kept)}


def _prune_series(plan: Series, needed: set[int]) -> tuple[Plan, Places]:
    width = len(plan.input.fields)
    below, places = _prune(plan.input, {i for i in needed if i < width} | _read(expressions_of(plan)))
    moved = map_expressions(plan, lambda e: remap(e, places))
    return moved.with_children((below,)), places | {width: len(below.fields)}


def _prune_window(plan: TimeWindow, needed: set[int]) -> tuple[Plan, Places]:
    width = len(plan.input.fields)
    below, places = _prune(plan.input, {i for i in needed if i < width} | columns_of(plan.time))
    new_width = len(below.fields)
    added = {width + i: new_width + i for i in range(3)}
    return replace(plan, input=below, time=remap(plan.time, places)), places | added


def _prune_union(plan: UnionAll, needed: set[int]) -> tuple[Plan, Places]:
    kept = sorted(needed)
    inputs = tuple(_exactly(*_prune(child, needed), kept, child) for child in plan.inputs)
    return UnionAll(inputs, tuple(plan.output[i] for i in kept)), {old: new for new, old in enumerate(kept)}
