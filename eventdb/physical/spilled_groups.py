"""GrowingGroups: the groups of a query, which go to disk when the budget refuses them.

First the distinct arguments of DISTINCT aggregates are written to disk, if they are what takes the memory. Then the
groups found so far are cut into parts by a hash of their keys and stay; rows that come are written to disk, to the part
of their keys. In the end each part is read and finished by itself: it holds every row of its groups, and few groups. A
part that does not fit is cut again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from eventdb.batch import Column, RecordBatch
from eventdb.logical.expressions import Aggregation
from eventdb.physical.operator import Operator
from eventdb.physical.partial_groups import GroupInputs, PartialGroups
from eventdb.physical.spilled_parts import LEVELS, PARTS, KeyPlaces, Keys, SpilledParts, spilled_parts

Evaluate = Callable[[RecordBatch], tuple[list[Column], GroupInputs]]
Finished = Iterator[tuple[list[Column], list[Column], int]]
"""Keys, aggregates and the number of groups, part by part."""


class HeldGroups:
    """What all groups of an operator hold together."""

    def __init__(self, operator: Operator, what: str) -> None:
        self.context = operator.context
        self._operator, self._what = operator, what
        self._bytes: dict[int, int] = {}

    def may_hold(self, owner: object, held_bytes: int) -> bool:
        others = sum(self._bytes.values()) - self._bytes.get(id(owner), 0)
        return self.context.may_hold(self._operator, others + held_bytes)

    def hold(self, owner: object, held_bytes: int, *, spills: bool) -> None:
        self._bytes[id(owner)] = held_bytes
        self.context.hold(self._operator, self._what, sum(self._bytes.values()), spills=spills)

    def release(self, owner: object) -> None:
        self._bytes.pop(id(owner), None)


class GrowingGroups:
    """`keys` gives the keys of rows, `evaluate` keys and arguments. `level`: how often the rows were cut before."""

    def __init__(self, held: HeldGroups, groups: PartialGroups, keys: Keys, evaluate: Evaluate, level: int = 0) -> None:
        self._held, self._groups, self._level = held, groups, level
        self._keys, self._evaluate = keys, evaluate
        self._rows: SpilledParts | None = None
        self._parts: dict[int, PartialGroups] = {}
        self._on_disk = held.context.spill_folder is not None
        self.spilled_bytes = 0

    def add(self, batch: RecordBatch, keys: list[Column], inputs: GroupInputs) -> None:
        """Rows with these keys and arguments. MemoryLimitExceeded if they do not fit and cannot be written to disk."""
        if self._rows is not None:
            self._rows.add(batch)
            return
        groups = self._groups
        full = groups.add(keys, inputs)
        if self._on_disk and not self._fits():
            groups.merge()
            full = False
            if not self._fits() and self._shrink():
                return
        if full:
            self._hold(2)
            groups.merge()
        self._hold(1)

    def finished(self) -> Finished:
        """After the last row."""
        try:
            if self._rows is None:
                if self._groups.has_distinct_on_disk:
                    self.spilled_bytes += self._groups.spilled_bytes
                yield self._groups.finish()
            else:
                self._rows.finish()
                self.spilled_bytes += self._rows.size_bytes
                for number in range(PARTS):
                    yield from self._part(number)
        finally:
            self.close()

    def close(self) -> None:
        """Nothing is left on disk or in memory."""
        self._held.release(self)
        for groups in (self._groups, *self._parts.values()):
            groups.close()
        if self._rows is not None:
            self._rows.close()

    def _part(self, number: int) -> Finished:
        assert self._rows is not None
        groups, rows = self._parts.pop(number, None), self._rows.part(number)
        if groups is None:
            if not rows.row_count:
                return
            groups = PartialGroups(self._groups.aggregations, True)
        self._hold_parts()
        part = GrowingGroups(self._held, groups, self._keys, self._evaluate, self._level + 1)
        try:
            groups.load_distinct(self._held.context)
            for batch in rows:
                self._held.context.cancel.check()
                part.add(batch, *self._evaluate(batch))
            yield from part.finished()
            self.spilled_bytes += part.spilled_bytes
        finally:
            part.close()

    def _fits(self) -> bool:
        return self._held.may_hold(self, self._groups.merging_bytes)

    def _shrink(self) -> bool:
        """Writes what it can. Whether rows go to disk from here on."""
        groups, context = self._groups, self._held.context
        if 2 * groups.distinct_bytes > groups.nbytes:
            groups.write_distinct(context)
            if self._fits():
                return False
        if groups.has_keys and self._level < LEVELS:
            self._parts = groups.split(KeyPlaces(self._level), PARTS, context, self._level)
            self._rows = spilled_parts(context, self._keys, self._level)
            self._hold_parts()
        return self._rows is not None

    def _hold(self, times: int) -> None:
        self._held.hold(self, times * self._groups.nbytes, spills=not self._groups.keeps_rows)

    def _hold_parts(self) -> None:
        self._held.hold(self, sum(part.nbytes for part in self._parts.values()), spills=True)


def growing_groups(
    operator: Operator, what: str, aggregations: Sequence[Aggregation], sets: Sequence[tuple[int, ...]],
    keys: Keys, evaluate: Evaluate,
) -> list[GrowingGroups]:  # fmt: skip
    """Groups of an operator, by each of some sets of the keys that `keys` and `evaluate` give."""
    held = HeldGroups(operator, what)

    def of(chosen: tuple[int, ...]) -> GrowingGroups:
        def chosen_keys(batch: RecordBatch) -> list[Column]:
            found = keys(batch)
            return [found[i] for i in chosen]

        def evaluated(batch: RecordBatch) -> tuple[list[Column], GroupInputs]:
            found, inputs = evaluate(batch)
            return [found[i] for i in chosen], inputs

        return GrowingGroups(held, PartialGroups(aggregations, bool(chosen)), chosen_keys, evaluated)

    return [of(chosen) for chosen in sets]
