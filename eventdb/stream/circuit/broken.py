"""Broken rows of the topics of a circuit: found among those it cannot take in, or left out as it takes them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import OffsetOutOfRange, UnsupportedSQL, ViewFailed
from eventdb.logical.facts import may_raise
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.plan import Aggregate, Filter, OutputField, Plan, Project, Scan, TimeWindow
from eventdb.physical.context import QueryContext
from eventdb.stream.broken_rows import BrokenRow, broken_positions, row_values
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.inputs import TopicInput
from eventdb.stream.circuit.stored import scans
from eventdb.stream.steps import Steps

if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.stream.circuit.query import CircuitSpec

Run = Callable[[RecordBatch], object]


def chains_of(plan: Plan, scan: Scan) -> list[list[Plan]]:
    """What stands directly over each place of a scan, from below: filters, columns, windows, and then the expressions
    of a GROUP BY as columns."""
    found: list[list[Plan]] = []

    def look(node: Plan) -> list[Plan] | None:
        """The chain that goes on above the node, if the scan is at its end."""
        if node == scan:
            return []
        below = [look(child) for child in node.children]
        for chain in below:
            if chain is None:
                continue
            if isinstance(node, Filter | Project | TimeWindow):
                return [*chain, node]
            if isinstance(node, Aggregate):
                expressions = tuple(expressions_of(node))
                fields = tuple(OutputField(f"e{i}", e.type) for i, e in enumerate(expressions))
                chain = [*chain, Project(node.input, expressions, fields)]
            found.append(chain)
        return None

    rest = look(plan)
    return found if rest is None else [*found, rest]


def tests_of(plan: Plan, scan: Scan) -> list[Run]:
    return [Steps(chain).run for chain in chains_of(plan, scan) if chain]


def refuse_dead_letter(plan: Plan, is_table: Callable[[int], bool]) -> None:
    """UnsupportedSQL where the row that breaks an expression could not be told, with the fix."""
    inputs = list(dict.fromkeys(scans(plan)))
    covered: set[int] = set()
    for scan in inputs:
        if is_table(scan.topic_id):
            raise _refused(f"reads the table {scan.name}, whose rows change", "read topics only")
        if sum(other.topic_id == scan.topic_id for other in inputs) > 1:
            raise _refused(f"reads the topic {scan.name} in several ways", "read it once, in WITH, and join that")
        for chain in chains_of(plan, scan):
            covered |= {id(node) for node in chain if not isinstance(node, Project) or node.fields[0].name != "e0"}
            covered |= {id(expression) for node in chain for expression in expressions_of(node)}

    def check(node: Plan) -> None:
        for expression in expressions_of(node):
            if may_raise(expression) and id(expression) not in covered:
                raise _refused(
                    f"computes {expression} of more than a row of one topic",
                    "compute it in a subquery over the topic alone, or so that it cannot fail (TRY_CAST, CASE)",
                )
        for child in node.children:
            check(child)

    check(plan)


def _refused(what: str, fix: str) -> UnsupportedSQL:
    return UnsupportedSQL(
        f"dead_letter of a view that {what} is not supported: which row fails could not be told; {fix}",
        construct="dead_letter",
    )


class SkippingInput(TopicInput):
    """Leaves out the rows that break an expression directly over the topic. `broken` has those since it was emptied, if
    `is_noting`."""

    def __init__(self, scan: Scan, logs: Sequence[Any], context: QueryContext, tests: Sequence[Run]) -> None:
        super().__init__(scan, logs, context)
        self._tests = tests
        self.is_noting = False
        self.broken: list[BrokenRow] = []

    def changes(self, snapshot: Any) -> Iterator[RecordBatch]:
        for batch in super().changes(snapshot):
            errors: dict[int, str] = {}
            for test in self._tests:
                for position, error in broken_positions(test, batch):
                    errors.setdefault(position, error.message)
            if errors:
                if self.is_noting:
                    for position in sorted(errors):
                        partition, offset = self.locate(position)
                        self.broken.append(BrokenRow(self.topic_id, self.name, partition, offset, errors[position]))
                kept = np.ones(batch.row_count, dtype=bool)
                kept[list(errors)] = False
                batch = batch.filter(kept)
            if batch.row_count:
                yield batch


def first_broken(
    plan: Plan, scan: Scan, logs: Sequence[Any], positions: Sequence[int], snapshot: Any
) -> BrokenRow | None:
    """The first row behind some positions of a topic that breaks an expression directly over it."""
    one = SkippingInput(scan, logs, QueryContext(), tests_of(plan, scan))
    one.positions, one.is_noting = list(positions), True
    for _ in one.changes(snapshot):
        if one.broken:
            break
    return one.broken[0] if one.broken else None


def lasting_failure(
    spec: CircuitSpec, circuit: Circuit, snapshot: StoreSnapshot, error: ViewFailed
) -> ViewFailed | None:
    """The failure of a view whose circuit could not take in what a snapshot has, if nothing that comes could heal it;
    else None.

    Nothing could where the rows are gone, where a row of a topic breaks an expression, and where rows only ever come.
    """
    if isinstance(error.__cause__, OffsetOutOfRange):
        return error
    progress = spec.keys.progress(snapshot)
    for i, scan in enumerate(circuit.inputs):
        assert isinstance(scan, Scan)
        if spec.primary_key(scan.topic_id):
            continue
        logs = spec.logs(scan.topic_id)
        positions = [-1] * len(logs) if progress is None else progress.positions[i]
        row = first_broken(spec.plan, scan, logs, positions, snapshot)
        if row is not None:
            log = next(log for log in logs if log.partition == row.partition)
            values = ", ".join(f"{name} = {value!r}" for name, value in row_values(snapshot, log, row.offset).items())
            where = f" of partition {row.partition}" if len(logs) > 1 else ""
            return ViewFailed(
                f"{spec.name} stopped at offset {row.offset}{where} of {row.topic} ({values[:300]}): {row.error}; "
                "replace it with a query that handles the row, for example with TRY_CAST or CASE",
                view=spec.name, topic=row.topic, offset=row.offset,
            )  # fmt: skip
    return error if circuit.has_failed_for_good else None
