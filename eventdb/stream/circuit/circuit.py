"""Circuit: a plan as nodes, inputs first. Equal parts of a plan are one node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import UnsupportedSQL
from eventdb.logical.closing import Closed, Ended, Late, has_closed
from eventdb.logical.expressions import ColumnRef, Expression, transform
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
from eventdb.physical.context import QueryContext
from eventdb.stream.circuit.closing import (
    ClosedGroups,
    ClosedRows,
    EndedRows,
    Finished,
    Gate,
    LateRows,
    groups_of,
    window_steps,
)
from eventdb.stream.circuit.distinct import Distincts
from eventdb.stream.circuit.grouped import Grouped, can_group
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.leading import is_top, leading_rows
from eventdb.stream.circuit.linear import Constant, Expanded, Mapped, United
from eventdb.stream.circuit.node import Change, Node, difference
from eventdb.stream.circuit.pair_join import KINDS, PairJoin
from eventdb.stream.circuit.part import Part
from eventdb.stream.circuit.recomputed import Recomputed

_ORDERED = (Project, Filter, Limit, LimitBy, DistinctOn, Over)
"""Nodes whose rows are in the order of their input's, if that has one."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A node of the circuit and those that feed it, by number; `node` None is an input of the circuit."""

    node: Node | None
    inputs: tuple[int, ...]


class Circuit:
    """The state of one continuous query. Not thread-safe.

    `inputs` are its scans, by position; `step` takes their changes. After an error the state is undefined: throw the
    object away.
    """

    def __init__(self, plan: Plan, grows: Callable[[int], bool] = lambda topic_id: True) -> None:
        """`grows` says of a topic's id whether its rows only come: it is no keyed table.

        UnsupportedSQL names what cannot be maintained.
        """
        self.inputs: list[Scan | ViewScan] = []
        self.fields = plan.fields
        self.names = tuple(field.name for field in plan.fields)
        self.interner = Interner()
        self._context = QueryContext(execution="interpreted")
        self._places: list[_Place] = []
        self._numbers: dict[Plan, int] = {}
        self._grows = grows
        self._leaf_count = 0
        self.codec = RowCodec([field.type for field in plan.fields], self.interner)
        self._root = self._build(plan)
        self._begun = False
        self._working: _Place | None = None  # the last place that took in a change

    @property
    def grows(self) -> bool:
        """Whether rows of the result only come."""
        return self._is_growing(self._root)

    @property
    def has_failed_for_good(self) -> bool:
        """After an error: whether it was a row's, or that of a pair of rows, that can never go."""
        place = self._working
        if place is None or isinstance(place.node, Grouped | Recomputed):
            return False
        return all(map(self._is_growing, place.inputs))

    @property
    def nbytes(self) -> int:
        """About how much memory the state holds."""
        return self.interner.nbytes + sum(place.node.nbytes for place in self._places if place.node is not None)

    @property
    def late_row_count(self) -> int:
        """How many rows were dropped because their windows had closed."""
        return sum(place.node.late_row_count for place in self._places if isinstance(place.node, LateRows))

    @property
    def parts(self) -> list[Part]:
        """Its state, to be stored, in an order that the plan decides."""
        return [part for place in self._places if place.node is not None for part in place.node.parts]

    def sizes(self) -> list[tuple[str, int, int]]:
        """What each node with state is called, how many rows it keeps and how many bytes that takes."""
        nodes = [place.node for place in self._places if place.node is not None and place.node.parts]
        return [
            (f"{number} {node.name}", sum(getattr(part, "row_count", 0) for part in node.parts), node.nbytes)
            for number, node in enumerate(nodes, 1)
        ]

    def settle(self) -> None:
        """All parts were restored: the circuit goes on from there."""
        for place in self._places:
            if place.node is not None:
                place.node.settle()
        self._begun = True

    def step(self, changes: Mapping[int, RecordBatch], closed_us: int | None = None) -> Change:
        """The change of the result that changes of the inputs make, by their positions in `inputs`; with the first call
        come the rows that are there before any input is. Windows that end at `closed_us` or before are closed then.
        EvaluationError when a value breaks an expression."""
        found: list[Change] = []
        scans = iter(range(len(self.inputs)))
        for place in self._places:
            if place.node is None:
                found.append(changes.get(next(scans)))
                continue
            parts = [] if self._begun else [part for part in (place.node.begin(),) if part is not None]
            inputs = [found[number] for number in place.inputs]
            if any(change is not None for change in inputs):
                self._working = place
                made = place.node.step(inputs)
                if made is not None:
                    parts.append(made)
            if closed_us is not None and isinstance(place.node, Gate):
                closed = place.node.close(closed_us)
                if closed is not None:
                    parts.append(closed)
            if len(parts) > 1:  # what was there before may have gone at once
                codec = RowCodec([field.type for field in place.node.fields], self.interner)
                found.append(difference(place.node.names, codec, [], parts))
            else:
                found.append(parts[0] if parts else None)
        self._begun = True
        return found[self._root]

    @property
    def tells_content(self) -> bool:
        """Whether `content` can be asked."""
        node = self._teller()[0]
        return node is not None and node.tells_rows

    def content(self) -> RecordBatch:
        """All rows of the result, from the state of the node that has them."""
        node, above = self._teller()
        assert node is not None
        rows: Change = node.rows()
        for step in above:
            rows = None if rows is None or not rows.row_count else step.step([rows])
        if rows is None:
            return RecordBatch(self.names, self.codec.decode(np.empty((0, self.codec.lane_count), dtype=np.int64)), 0)
        return RecordBatch(self.names, rows.columns, rows.row_count)

    def _teller(self) -> tuple[Node | None, list[Mapped]]:
        """The node whose rows the result is made of row by row, and what makes it, first to last."""
        above: list[Mapped] = []
        place = self._places[self._root]
        while isinstance(place.node, Mapped):
            above.insert(0, place.node)
            place = self._places[place.inputs[0]]
        return place.node, above

    # --- building -------------------------------------------------------------------------------------------------

    def _build(self, plan: Plan) -> int:
        known = self._numbers.get(plan)
        if known is not None:
            return known
        if isinstance(plan, Scan | ViewScan):
            self.inputs.append(plan)
            number = self._add(None, ())
        else:
            number = self._inner(plan)
        self._numbers[plan] = number
        return number

    def _add(self, node: Node | None, inputs: Sequence[int]) -> int:
        self._places.append(_Place(node, tuple(inputs)))
        return len(self._places) - 1

    def _is_growing(self, number: int) -> bool:
        place = self._places[number]
        if place.node is not None:
            return place.node.grows
        scans = [i for i, other in enumerate(self._places) if other.node is None]
        scan = self.inputs[scans.index(number)]
        return isinstance(scan, Scan) and self._grows(scan.topic_id)

    def _inner(self, plan: Plan) -> int:
        if isinstance(plan, Late | Closed | Ended):
            return self._at_window_end(plan)
        if isinstance(plan, Sort):
            return self._build(plan.input)  # a set of rows has no order; where one counts, `_unit` takes it in
        if is_top(plan):
            return self._finished(plan) if has_closed(plan) else self._unit(plan)
        if isinstance(plan, Filter | Project | TimeWindow):
            below = self._build(plan.input)
            return self._add(Mapped(plan, grows=self._is_growing(below)), (below,))
        if isinstance(plan, UnionAll):
            inputs = [self._build(child) for child in plan.inputs]
            return self._add(United(plan.fields, grows=all(map(self._is_growing, inputs))), inputs)
        if isinstance(plan, Values):
            return self._add(Constant(plan, self._context), ())
        if isinstance(plan, Series):
            leaf, below = self._leaf(plan.input)
            node = Expanded(replace(plan, input=leaf), leaf.number, self._context, grows=self._is_growing(below))
            return self._add(node, (below,))
        if has_closed(plan):
            return self._finished(plan)
        if isinstance(plan, Distinct):
            below = self._build(plan.input)
            return self._add(Distincts(plan.fields, self.interner, grows=self._is_growing(below)), (below,))
        if isinstance(plan, Aggregate):
            below = self._build(plan.input)
            grows = self._is_growing(below)
            if can_group(plan, grows=grows):
                return self._add(Grouped(plan, self.interner, over_growing=grows), (below,))
        if isinstance(plan, Join) and plan.kind in KINDS:
            inputs = [self._build(plan.left), self._build(plan.right)]
            grows = plan.kind in ("inner", "semi") and all(map(self._is_growing, inputs))
            return self._add(PairJoin(plan, self.interner, grows=grows), inputs)
        return self._unit(plan)

    # --- windows that close -------------------------------------------------------------------------------------------

    def _at_window_end(self, plan: Late | Closed | Ended) -> int:
        if isinstance(plan, Ended):
            return self._add(EndedRows(plan), (self._build(plan.input),))
        if isinstance(plan, Late):
            return self._add(LateRows(plan), (self._build(window_steps(plan)[1]),))
        groups = groups_of(plan)
        if groups is None:
            return self._add(ClosedRows(plan, self.interner), (self._build(plan.input),))
        aggregate, position = groups
        node = ClosedGroups(aggregate, plan.end, position, self.interner)
        return self._add(node, (self._build(aggregate.input),))

    def _finished(self, plan: Plan) -> int:
        """What is between the gates below and the node, answered as one."""
        leaves: dict[Plan, WorkingTable] = {}
        inputs: list[int] = []

        def cut(part: Plan) -> Plan:
            if not isinstance(part, Closed):
                return part.with_children(tuple(map(cut, part.children)))
            if part not in leaves:
                leaves[part], number = self._leaf(part)
                inputs.append(number)
            return leaves[part]

        template = cut(plan)
        return self._add(Finished(template, list(leaves.values()), self._context), inputs)

    # --- what the batch engine recomputes -----------------------------------------------------------------------------

    def _unit(self, plan: Plan) -> int:
        """The node and those below it that must see its rows in order, as one; the rest below is its input."""
        leaves: list[WorkingTable] = []
        keys: list[tuple[Expression, ...]] = []
        inputs: list[int] = []

        def cut(child: Plan, wanted: tuple[Expression, ...] | None) -> Plan:
            """The part of the template below the node; `wanted` is the key over the child's fields, None for none."""
            if isinstance(child, Sort) or (isinstance(child, _ORDERED) and _has_order(child)):
                below = child.children[0]
                return child.with_children((cut(below, _moved(child, wanted)),))
            leaf, number = self._leaf(child)
            leaves.append(leaf)
            inputs.append(number)
            keys.append(wanted or ())
            return leaf

        if isinstance(plan, Join):
            sides = (plan.left_keys, plan.right_keys)
            template = plan.with_children(tuple(cut(c, k) for c, k in zip(plan.children, sides, strict=True)))
        elif isinstance(plan, SetOperation):
            template = plan.with_children(tuple(cut(child, _all_columns(child)) for child in plan.children))
        elif isinstance(plan, RecursiveUnion):
            template = self._recursion(plan, lambda child: cut(child, None))
        elif isinstance(plan, Aggregate | DistinctOn | LimitBy):
            template = plan.with_children((cut(plan.input, plan.keys),))
        elif isinstance(plan, Filter) and isinstance(plan.input, Over):
            over = plan.input
            template = plan.with_children((over.with_children((cut(over.input, _partition(over)),)),))
        elif isinstance(plan, Over):
            template = plan.with_children((cut(plan.input, _partition(plan)),))
        elif isinstance(plan, Limit | LimitValue | GroupSets):
            template = plan.with_children(tuple(cut(child, None) for child in plan.children))
        elif isinstance(plan, ExternalScan):
            raise UnsupportedSQL(
                f"{plan.source.name} in a continuous query is not supported: a view reads topics, tables and views; "
                "load it: INSERT INTO a_table SELECT * FROM it",
                construct="a file or object",
            )
        else:
            name = type(plan).__name__
            raise UnsupportedSQL(f"{name} in a continuous query is not supported", construct=name)
        own_keys = _own_keys(plan)
        if any(len(own) != len(own_keys) for own in keys):
            own_keys, keys = (), [() for _ in keys]
        kept = leading_rows(template) if self._is_growing(inputs[0]) else None
        return self._add(Recomputed(template, leaves, keys, own_keys, self.interner, self._context, kept), inputs)

    def _leaf(self, plan: Plan) -> tuple[WorkingTable, int]:
        """What stands for a part of the plan in a template, and the number of the node that gives its rows."""
        number = self._build(plan)
        self._leaf_count += 1
        return WorkingTable(-self._leaf_count, "", plan.fields), number

    def _recursion(self, plan: Plan, cut: object) -> Plan:
        """The plan, cut where nothing below depends on the rows of a round."""
        assert callable(cut)
        if isinstance(plan, WorkingTable):
            return plan
        if not _has_working_table(plan) and not isinstance(plan, RecursiveUnion):
            result: Plan = cut(plan)
            return result
        return plan.with_children(tuple(self._recursion(child, cut) for child in plan.children))


def _has_working_table(plan: Plan) -> bool:
    return isinstance(plan, WorkingTable) or any(map(_has_working_table, plan.children))


def _has_order(plan: Plan) -> bool:
    return isinstance(plan, Sort) or (isinstance(plan, _ORDERED) and _has_order(plan.children[0]))


def _own_keys(plan: Plan) -> tuple[Expression, ...]:
    """The keys a node's inputs are arranged by, over its own fields; () for none."""
    if isinstance(plan, Aggregate):
        return _all_columns(plan)[: len(plan.keys)]
    if isinstance(plan, SetOperation):
        return _all_columns(plan)
    if isinstance(plan, Join):
        return plan.left_keys
    if isinstance(plan, DistinctOn | LimitBy):
        return plan.keys
    if isinstance(plan, Filter):
        return _own_keys(plan.input)
    return (_partition(plan) or ()) if isinstance(plan, Over) else ()


def _all_columns(plan: Plan) -> tuple[Expression, ...]:
    return tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(plan.fields))


def _partition(plan: Over) -> tuple[Expression, ...] | None:
    """What the rows of all calls are partitioned by."""
    first, *others = (call.partition for call in plan.calls)
    return tuple(key for key in first if all(key in partition for partition in others))


def _moved(plan: Plan, keys: tuple[Expression, ...] | None) -> tuple[Expression, ...] | None:
    """Keys over a node's fields as keys over its input's fields; None where the node's rows of one key depend on
    others."""
    if keys is None or isinstance(plan, Sort | Filter):
        return keys
    if isinstance(plan, Project):
        inner = plan.expressions
        return tuple(transform(k, lambda e: inner[e.index] if isinstance(e, ColumnRef) else e) for k in keys)
    if isinstance(plan, LimitBy | DistinctOn):
        return keys if set(plan.keys) <= set(keys) or all(key in plan.keys for key in keys) else None
    if isinstance(plan, Over):
        partition = _partition(plan) or ()
        return keys if all(key in partition for key in keys) else None
    return None
