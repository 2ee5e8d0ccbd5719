"""A query as it was at some positions of its inputs: its rows are taken in once more, up to there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventdb.errors import InvalidToken, TokenExpired
from eventdb.stream.circuit.inputs import TableInput
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec, caught_up
from eventdb.stream.token import Positions

BEGIN_UNKNOWN = -1


class PastSnapshot:
    """A snapshot in which the logs end earlier. It lives as long as the one it is made of."""

    def __init__(self, snapshot: Any, ends: Mapping[Any, int]) -> None:
        self._snapshot = snapshot
        self._ends = ends
        self.commit_id: int = snapshot.commit_id

    def offsets(self, log: Any) -> tuple[int, int]:
        first, end = self._snapshot.offsets(log)
        return first, min(end, self._ends.get(log, end))

    def slices(self, log: Any, start: int, stop: int) -> list[Any]:
        found: list[Any] = self._snapshot.slices(log, start, stop)
        return found

    def horizon(self, log: Any) -> int:
        return int(self._snapshot.horizon(log))

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._snapshot.get(key)
        return found

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from self._snapshot.range(prefix)


def begin_of(query: CircuitQuery, snapshot: Any) -> Positions:
    """Where the inputs of a query begin that goes on with the snapshot: with its first rows, if nothing was taken in;
    unknown if it was stored, since it began when its view was created."""
    begun = query.has_begun
    return tuple(
        tuple(BEGIN_UNKNOWN if begun else snapshot.offsets(log)[0] for log in one.logs) for one in query.inputs
    )


def past_snapshot(spec: CircuitSpec, snapshot: Any, positions: Positions) -> PastSnapshot:
    """The snapshot up to the positions. TokenExpired if it does not reach them, InvalidToken if they do not fit."""
    ends: dict[Any, int] = {}
    query = CircuitQuery(spec)
    if list(map(len, positions)) != list(map(len, query.positions)):
        raise InvalidToken("the token is of a query over other inputs or partitions: subscribe again with SNAPSHOT")
    for one, reached in zip(query.inputs, positions, strict=True):
        for log, position in zip(one.logs, reached, strict=True):
            if position > snapshot.offsets(log)[1]:
                raise TokenExpired(
                    f"the token has seen {one.name} up to offset {position}, which ends at {snapshot.offsets(log)[1]}: "
                    "what was not yet on the disk when the power failed is gone; subscribe again with SNAPSHOT",
                    topic=one.name, offset=position,
                )  # fmt: skip
            ends[log] = position
    return PastSnapshot(snapshot, ends)


def query_at(
    spec: CircuitSpec, snapshot: Any, begin: Positions, positions: Positions, *, content: bool
) -> CircuitQuery:
    """The query at the positions, begun at `begin`; with its content if that is asked for.

    TokenExpired if rows are gone that it takes. Cost: that of all rows before the positions, or since what is stored;
    none for a query without state.
    """
    past = past_snapshot(spec, snapshot, positions)
    query = CircuitQuery(spec)
    if not content and not query.circuit.parts and not any(one.parts for one in query.inputs):
        query.drop_content()
        query.go_on(positions)
        for one, reached in zip(query.inputs, positions, strict=True):
            _require(one.name, [(snapshot.offsets(log)[0], at) for log, at in zip(one.logs, reached, strict=True)])
        return query
    loaded = CircuitQuery.load(spec, past)
    if not loaded.has_begun:
        for one, begun, reached in zip(query.inputs, begin, positions, strict=True):
            if isinstance(one, TableInput):
                _require(one.name, [(snapshot.horizon(log), at) for log, at in zip(one.logs, reached, strict=True)])
            else:
                firsts = [snapshot.offsets(log)[0] for log in one.logs]
                _require(one.name, list(zip(firsts, [max(at, 0) for at in begun], strict=True)))
    query = caught_up(spec, loaded, past)
    if not content:
        query.drop_content()
    return query


def _require(name: str, spans: list[tuple[int, int]]) -> None:
    """Of each (first row that is there, first row that is needed)."""
    for first, needed in spans:
        if needed < first:
            raise TokenExpired(
                f"rows of {name} below offset {first} were removed, and the changes after the token follow from them: "
                "subscribe again with SNAPSHOT, and keep rows longer than a subscriber may be away",
                topic=name, offset=first,
            )  # fmt: skip
