"""Histories of small tables: rows that come and go, cut into steps; a circuit run over them beside the batch engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

import eventdb
from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import Plan, Scan, transform_plan
from eventdb.logical.relational import WorkingTable
from eventdb.names import Names
from eventdb.physical.context import QueryContext
from eventdb.physical.planner import plan_physical
from eventdb.sql.binder import bind
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.node import weights_of
from tests.relational.tables import COLUMNS, TABLES, Rows, plain
from tests.stream.memory_store import column_of

Move = tuple[str, tuple[Any, ...], int]
"""Table, row, +1 or -1."""


@st.composite
def histories(draw: st.DrawFn, rows: st.SearchStrategy[tuple[Any, ...]], retracts: bool) -> list[list[Move]]:
    """Steps of moves; a row only goes if it is there."""
    there: dict[str, Rows] = {name: [] for name in TABLES}
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        moves: list[Move] = []
        for _ in range(draw(st.integers(0, 5))):
            name = draw(st.sampled_from(TABLES))
            if retracts and there[name] and draw(st.integers(0, 2)) == 0:
                row = draw(st.sampled_from(there[name]))
                there[name].remove(row)
                moves.append((name, row, -1))
            else:
                row = draw(rows)
                there[name].append(row)
                moves.append((name, row, 1))
        steps.append(moves)
    return steps


class Names3:
    """A database of the tables t, u, v, to bind queries with."""

    def __init__(self) -> None:
        self.db = eventdb.open(":memory:")
        columns = ", ".join(f"{name} {type}" for name, type in COLUMNS.items())
        for name in TABLES:
            self.db.sql(f"CREATE TOPIC {name} ({columns})")

    def plan(self, sql: str) -> Plan:
        return optimize(bind(sql, Names(self.db)).plan, frozenset({"key_lookups", "scan_ranges"}))


def batch_of(scan: Scan, rows: Sequence[tuple[Any, ...]], weights: Sequence[int] | None = None) -> RecordBatch:
    """Rows of a table as the columns a scan reads."""
    places = [list(COLUMNS).index(name) for name in scan.columns]
    columns = [column_of(f.type, [row[i] for row in rows]) for i, f in zip(places, scan.fields, strict=True)]
    weight = None if weights is None else np.array(weights, dtype=np.int64)
    return RecordBatch([field.name for field in scan.fields], columns, len(rows), weight)


def batch_answer(plan: Plan, contents: dict[str, Rows]) -> Counter[Any]:
    """What the batch engine gives over the rows that are there."""
    context = QueryContext(execution="interpreted")
    numbers: dict[Scan, int] = {}

    def leaf(node: Plan) -> Plan:
        if not isinstance(node, Scan):
            return node
        number = numbers.setdefault(node, -1000 - len(numbers))
        context.working[number] = [batch_of(node, contents[node.name])] if contents[node.name] else []
        return WorkingTable(number, node.name, node.fields)

    found: Counter[Any] = Counter()
    for batch in plan_physical(transform_plan(plan, leaf), context).batches():
        found.update(rows_of(batch))
    return found


def rows_of(batch: RecordBatch) -> list[tuple[Any, ...]]:
    return [tuple(map(plain, row)) for row in batch.to_pylist()]


class Stored:
    """The pieces of a circuit's state that were stored, by the position of the part."""

    def __init__(self, circuit: Circuit) -> None:
        self._pieces: list[list[bytes]] = [[] for _ in circuit.parts]
        for part in circuit.parts:
            part.record()

    def save(self, circuit: Circuit, whole: bool) -> None:
        for pieces, part in zip(self._pieces, circuit.parts, strict=True):
            piece = part.delta()
            if whole:
                pieces.clear()
                piece = part.whole()
            if piece is not None:
                pieces.append(piece)

    def load(self, circuit: Circuit) -> Circuit:
        """A new circuit in the stored state."""
        for pieces, part in zip(self._pieces, circuit.parts, strict=True):
            for piece in pieces:
                part.restore(piece)
            part.record()
        circuit.settle()
        return circuit


def check_history(
    plan: Plan, steps: list[list[Move]], make: Callable[[], Circuit], crashes: Sequence[str] = ()
) -> None:
    """After every step the sum of the circuit's changes is the batch answer. Where that is an error, the circuit fails
    too, then or before. `crashes` says for each step what happens after it: the state is stored ('save': what changed,
    'whole': all of it), or forgotten and taken from the store ('crash'), and what came since comes again."""
    circuit = make()
    stored = Stored(circuit)
    contents: dict[str, Rows] = {name: [] for name in TABLES}
    total: Counter[Any] = Counter()
    saved: Counter[Any] = Counter()
    since: list[Move] = []
    began = False
    for moves, then in zip([[], *steps], ["save", *crashes] + ["none"] * len(steps), strict=False):
        for name, row, weight in moves:
            if weight > 0:
                contents[name].append(row)
            else:
                contents[name].remove(row)
        try:
            expected = batch_answer(plan, contents)
        except EvaluationError:
            expected = None
        try:
            _add(circuit, moves, total)
            if then == "crash" and began:
                circuit, total = stored.load(make()), Counter(saved)
                _add(circuit, [*since, *moves], total)
        except EvaluationError:
            if expected is None:
                return
            raise
        if expected is None:
            raise AssertionError("the batch engine fails, the circuit does not")
        assert {row: n for row, n in total.items() if n} == dict(expected), (moves, circuit.inputs)
        since += moves
        if then in ("save", "whole"):
            stored.save(circuit, then == "whole")
            saved, since, began = Counter(total), [], True


def _add(circuit: Circuit, moves: list[Move], total: Counter[Any]) -> None:
    """Gives the circuit some moves, and adds what it makes of them."""
    changes = {}
    for i, scan in enumerate(circuit.inputs):
        own = [(row, weight) for name, row, weight in moves if name == scan.name]
        if own:
            changes[i] = batch_of(scan, [row for row, _ in own], [weight for _, weight in own])
    change = circuit.step(changes)
    if change is not None:
        for row, weight in zip(rows_of(change), weights_of(change).tolist(), strict=True):
            total[row] += weight


def settled(db: Any) -> None:
    """Waits until all views of a database are stored."""
    deadline = time.monotonic() + 30
    while any(view["lag_rows"] for view in db.stats()["views"].values()):
        assert time.monotonic() < deadline, db.stats()["views"]
        time.sleep(0.01)
