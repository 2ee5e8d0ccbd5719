"""Queries over the same rows in EventDB and in other engines: equal results first, then times, taking turns.

A query is given once; where an engine spells something its own way, it has a text of its own. An engine that cannot
answer one, or answers something else than DuckDB, does not take part in that one, and a line says why.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import eventdb
from bench.measure import Report, median, show_s, take_turns, timed
from bench.peers.engines import PEERS, Engine
from bench.peers.server import Unavailable

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Query:
    """`sql` in our dialect and DuckDB's; `spelled` by engine name where that is not understood. `ordered` results are
    compared in their order, others as bags."""

    name: str
    sql: str
    spelled: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = False


@dataclass(frozen=True)
class Rows:
    """A table: its rows as Arrow tables, made anew at each call, and its event-time column, if any."""

    tables: Callable[[], Iterator[pyarrow.Table]]
    event_time: str | None = None


class OurEngine(Engine):
    """EventDB: a topic for each table."""

    def __init__(self, path: Path, threads: int) -> None:
        self._db = eventdb.open(path / "ours", durability="os", threads=threads, memory_limit="4GB")
        self.event_times: dict[str, str | None] = {}

    def load(self, name: str, tables: Iterator[pyarrow.Table]) -> None:  # type: ignore[override]
        for number, table in enumerate(tables):
            if not number:
                topic = self._db.create_topic(name, like=table, event_time=self.event_times.get(name))
            topic.append_batch(table)

    def arrow(self, sql: str) -> pyarrow.Table:
        return self._db.sql(sql).arrow()

    def warm(self, sql: str) -> pyarrow.Table:
        """The result, by kernels that are in the cache on disk from then on."""
        self._db.sql("SET execution = 'compiled'")
        try:
            return self.arrow(sql)
        finally:
            self._db.sql("SET execution = 'auto'")

    def close(self) -> None:
        self._db.close()


def value_of(value: Any) -> Any:
    """A value that compares across engines: numbers as floats, times as text, strings as they are."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float | Decimal):
        return float(value)
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, dt.date):
        return f"{value.isoformat()} 00:00:00"
    return str(value)


def _rows(table: pyarrow.Table) -> list[tuple[Any, ...]]:
    columns = [[value_of(value) for value in column.to_pylist()] for column in table.columns]
    return list(zip(*columns, strict=True))


def _rounded(row: Sequence[Any]) -> tuple[str, ...]:
    return tuple(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)


def difference(ours: pyarrow.Table, theirs: pyarrow.Table, ordered: bool) -> str | None:
    """The first difference of two results; None if there is none but in the last digits of numbers."""
    mine, other = _rows(ours), _rows(theirs)
    if len(mine) != len(other):
        return f"{len(mine)} rows instead of {len(other)}"
    if not ordered:
        mine, other = sorted(mine, key=_rounded), sorted(other, key=_rounded)
    for number, (left, right) in enumerate(zip(mine, other, strict=True)):
        for a, b in zip(left, right, strict=True):
            numbers = isinstance(a, float) and isinstance(b, float)
            same = (math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or (a != a and b != b)) if numbers else a == b
            if not same:
                return f"row {number}: {a!r} instead of {b!r}"
    return None


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def contest(
    report: Report, work: Path, rows: Mapping[str, Rows], queries: Sequence[Query], *, threads: int, rounds: int,
    peers: Sequence[str], mean_bar: float, least: float,
) -> None:  # fmt: skip
    """A line a query with the best peer's time, and one with the geometric mean of the ratios to it.

    `mean_bar` is what the mean has to reach, `least` every single one: so many times the best peer's speed.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", str(threads))
    ours = OurEngine(work, threads)
    ours.event_times = {name: one.event_time for name, one in rows.items()}
    engines: dict[str, Engine] = {}
    for name in ("DuckDB", *[peer for peer in peers if peer != "DuckDB"]):
        try:
            engines[name] = PEERS[name](work, threads)
        except Unavailable as error:
            report.note(f"{name}: skipped, {error}")
    for engine in (ours, *engines.values()):
        for name, one in rows.items():
            engine.load(name, one.tables())
    ratios = [_one(report, ours, engines, query, rounds, least) for query in queries]
    answered = [ratio for ratio in ratios if ratio is not None]
    mean = geometric_mean(answered)
    whole = len(answered) == len(ratios)
    of = "all" if whole else f"the {len(answered)} of {len(ratios)} answered"
    report.add(f"geometric mean of {of}", "", f"{mean:.2f}x", f">= {mean_bar:g}x", whole and mean >= mean_bar)
    for engine in (ours, *engines.values()):
        engine.close()


def options_of(
    name: str, about: str | None, arguments: Sequence[str], *, rows: int, rounds: int
) -> argparse.Namespace:  # fmt: skip
    """What every benchmark of queries can be told: rows, threads, rounds, peers, and which queries (`only`)."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=about)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=["DuckDB"])
    parser.add_argument("--only", default="", help="queries whose names hold this text")
    return parser.parse_args(arguments)


def _one(
    report: Report, ours: OurEngine, engines: Mapping[str, Engine], query: Query, rounds: int, least: float
) -> float | None:
    """The best peer's time by ours; None if ours is wrong or missing, which the report says."""
    expected = engines["DuckDB"].arrow(query.spelled.get("DuckDB", query.sql))
    try:
        wrong = difference(ours.warm(query.sql), expected, query.ordered)
    except Exception as error:  # whatever it is, the others go on
        wrong = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    if wrong is not None:
        report.add(query.name, wrong, "", "the same rows", False)
        return None
    running: dict[str, Callable[[], float]] = {"": lambda: timed(lambda: ours.arrow(query.sql))}
    for name, engine in engines.items():
        sql = query.spelled.get(name, query.sql)
        try:
            other = difference(engine.arrow(sql), expected, query.ordered)
        except Exception as error:
            other = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
        if other is not None:
            report.note(f"{query.name}: without {name}, {other}")
            continue
        running[name] = lambda engine=engine, sql=sql: timed(lambda: engine.arrow(sql))  # type: ignore[misc]
    values = take_turns(running, rounds)
    times = {name: median(found) for name, found in values.items()}
    mine = times.pop("")
    best = min(times, key=lambda name: times[name])
    ratio = times[best] / mine
    report.add(
        query.name, f"{show_s(mine)} against {show_s(times[best])}", f"{ratio:.2f}x {best}", f">= {least:g}x",
        ratio >= least,
    )  # fmt: skip
    return ratio
