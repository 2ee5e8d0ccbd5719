"""eventdb.queries, eventdb.watermarks and eventdb.state: what the materialized views do, as tables."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import CatalogError, QueryError, TopicNotFound, UsageError
from eventdb.external.python_values import column_of_values
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, INTEGER, TIMESTAMP, VARCHAR, DataType, Field, Schema
from eventdb.stream.circuit.query import CircuitQuery, CircuitSpec
from eventdb.stream.figures import Figures
from eventdb.stream.lease import holder
from eventdb.stream.state import StateKeys
from eventdb.stream.watermark import LOWEST_US
from eventdb.values import us_to_datetime

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.definitions import ViewInfo
    from eventdb.external.source import Terms
    from eventdb.stream.view import ViewSpec
    from eventdb.views import Spec

PREFIX = "eventdb."
Row = tuple[Any, ...]


def _schema(**columns: DataType) -> Schema:
    return Schema(Field(name, type, True) for name, type in columns.items())


QUERIES = _schema(
    name=VARCHAR, kind=VARCHAR, status=VARCHAR, emission=VARCHAR, input_rows=BIGINT, input_rows_per_s=DOUBLE,
    output_rows=BIGINT, output_rows_per_s=DOUBLE, lag_rows=BIGINT, watermark=TIMESTAMP, late_rows=BIGINT,
    state_rows=BIGINT, state_bytes=BIGINT, last_error=VARCHAR, restarts=BIGINT, process=BIGINT,
)  # fmt: skip
WATERMARKS = _schema(view=VARCHAR, topic=VARCHAR, partition=INTEGER, watermark=TIMESTAMP, idle=BOOLEAN)
STATE = _schema(view=VARCHAR, node=VARCHAR, rows=BIGINT, bytes=BIGINT)


class SystemTable:
    """A Source. The rows are those of the moment it is read."""

    kind = "SystemTable"

    def __init__(self, name: str, schema: Schema, rows: Callable[[], Iterator[Row]]) -> None:
        self.name = name
        self.schema = schema
        self._rows = rows

    def batches(
        self, columns: Sequence[str], types: Sequence[DataType], terms: Terms = (), limit: int | None = None
    ) -> Iterator[RecordBatch]:
        rows = list(self._rows())
        places = [self.schema.index_of(column) for column in columns]
        made = [
            column_of_values([row[place] for row in rows], type, column)
            for place, type, column in zip(places, types, columns, strict=True)
        ]
        yield RecordBatch(columns, made, len(rows))


def system_table(database: Database, name: str) -> SystemTable:
    """The table of a name that begins with 'eventdb.'. TopicNotFound lists those there are."""
    known: dict[str, tuple[Schema, Callable[[Database], Iterator[Row]]]] = {
        "queries": (QUERIES, _queries), "watermarks": (WATERMARKS, _watermarks), "state": (STATE, _state),
    }  # fmt: skip
    found = known.get(name.lower().removeprefix(PREFIX))
    if found is None:
        names = tuple(PREFIX + one for one in known)
        raise TopicNotFound(f"no system table {name!r}; there are {', '.join(names)}", name=name, near=names)
    schema, rows = found
    return SystemTable(name.lower(), schema, lambda: rows(database))


def _bound(database: Database) -> Iterator[tuple[ViewInfo, Spec | None, str | None]]:
    """The views by name, what they are, and why one cannot be bound."""
    for info in sorted(database._catalog.views(), key=lambda view: view.name):
        try:
            yield info, database._views_of().spec(info), None
        except (CatalogError, QueryError, UsageError) as error:
            yield info, None, str(error)


def _queries(database: Database) -> Iterator[Row]:
    rebuilds = {other.replaces[0]: other for other in database._catalog.rebuilds()}
    process = holder(os.path.join(database.path, "VIEWS"))
    with database._store.snapshot() as snapshot:
        for info, spec, broken in _bound(database):
            error = info.error or broken
            rebuild = rebuilds.get(info.id)
            status = info.state if broken is None else "failed"
            if rebuild is not None and rebuild.state == "failed":
                error = error or f"its replacement failed: {rebuild.error}"
            elif rebuild is not None:
                status = "rebuilding"
            if spec is None:
                yield (info.name, None, status, *[None] * 10, error, None, process)
                continue
            figures = Figures.of(snapshot, info.id)
            own = _of_circuit(spec, snapshot) if isinstance(spec, CircuitSpec) else _of_topic(spec, snapshot)
            kind, emission, taken, lag, watermark, late, rows, size = own
            told: Row = (None, None, None, None, None)
            if figures is not None:
                rates = (figures.input_rate, figures.output_rate) if figures.is_recent else (0.0, 0.0)
                told = (rates[0], figures.output_rows, rates[1], figures.restarts, figures.error or None)
                rows = figures.state_rows if rows is None else rows
            yield (
                info.name, kind, status, emission, taken, told[0], told[1], told[2], lag, watermark, late, rows, size,
                error or told[4], told[3], process,
            )  # fmt: skip


def _of_topic(spec: ViewSpec, snapshot: Any) -> Row:
    progress = spec.keys.progress(snapshot)
    end = snapshot.offsets(spec.input_log)[1]
    taken = progress.input_offset - spec.keys.start(snapshot)
    rows, size = _stored_groups(spec.id, snapshot)
    return (
        "topic", spec.program.emission, taken, max(end - progress.input_offset, 0), _time(progress.watermark_us),
        progress.late_row_count, rows, size,
    )  # fmt: skip


def _of_circuit(spec: CircuitSpec, snapshot: Any) -> Row:
    kept = spec.keys.progress(snapshot)
    if kept is None:
        return "circuit", "update", 0, spec.lag_rows(snapshot, None), None, None, None, 0
    taken = sum(max(position, 0) for positions in kept.positions for position in positions)
    size = kept.whole_bytes + kept.added_bytes
    return "circuit", "update", taken, spec.lag_rows(snapshot, kept), None, None, None, size


def _stored_groups(view_id: int, snapshot: Any) -> tuple[int, int]:
    rows = size = 0
    for _, data in StateKeys(view_id).groups(snapshot):
        rows, size = rows + 1, size + len(data)
    return rows, size


def _watermarks(database: Database) -> Iterator[Row]:
    catalog = database._catalog
    with database._store.snapshot() as snapshot:
        for info, spec, _ in _bound(database):
            for topic_id, name in sorted(spec.inputs.items() if spec is not None else (), key=lambda item: item[1]):
                topic = catalog.topic_by_id(topic_id)
                if topic is None or topic.watermark_delay_us is None:
                    continue
                for partition in range(topic.partitions):
                    if isinstance(spec, CircuitSpec) or spec is None:
                        yield info.name, name, partition, None, None
                    else:
                        yield info.name, name, partition, _time(spec.keys.progress(snapshot).watermark_us), False


def _state(database: Database) -> Iterator[Row]:
    with database._store.snapshot() as snapshot:
        for info, spec, _ in _bound(database):
            if isinstance(spec, CircuitSpec):
                query = CircuitQuery.load(spec, snapshot)
                for node, rows, size in query.sizes():
                    yield info.name, node, rows, size
            elif spec is not None:
                if spec.program.aggregate is not None:
                    yield (info.name, "GROUP BY", *_stored_groups(info.id, snapshot))
                if spec.output_log is not None:
                    yield info.name, "output", spec.keys.progress(snapshot).output_end, None


def _time(watermark_us: int) -> dt.datetime | None:
    """None while no row has moved it."""
    return None if watermark_us == LOWEST_US else us_to_datetime(watermark_us)
