"""The group-by and join questions of the h2o/db-benchmark, over rows of the same shape.

    python -m bench h2o [--rows 10000000] [--threads 2] [--rounds 3] [--peers DuckDB Polars DataFusion chDB]

Ten groupings of one table of nine columns (keys of 100 and of rows / 100 values, as strings and as numbers) and five
joins to tables of rows / 1e6, rows / 1e3 and rows rows. Joins are aggregated, so that no one hands over 1e7 rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.measure import Report, scratch
from bench.query_contest import Query, Rows, contest, options_of

if TYPE_CHECKING:
    import pyarrow

ROWS = 10_000_000
BATCH_ROWS = 1_000_000
FEW = 100
MEAN_BAR, LEAST = 1.0, 0.0  # the bar is the mean alone

_TOP_TWO = (
    "SELECT id6, v3 FROM (SELECT id6, v3, row_number() OVER (PARTITION BY id6 ORDER BY v3 DESC) AS place FROM x) AS t "
    "WHERE place <= 2"
)
GROUPS = (
    Query("sum v1 by id1", "SELECT id1, sum(v1) FROM x GROUP BY id1"),
    Query("sum v1 by id1, id2", "SELECT id1, id2, sum(v1) FROM x GROUP BY id1, id2"),
    Query("sum v1, mean v3 by id3", "SELECT id3, sum(v1), avg(v3) FROM x GROUP BY id3"),
    Query("means by id4", "SELECT id4, avg(v1), avg(v2), avg(v3) FROM x GROUP BY id4"),
    Query("sums by id6", "SELECT id6, sum(v1), sum(v2), sum(v3) FROM x GROUP BY id6"),
    Query("median and deviation by id4, id5", "SELECT id4, id5, median(v3), stddev_samp(v3) FROM x GROUP BY id4, id5"),
    Query("range by id3", "SELECT id3, max(v1) - min(v2) AS r FROM x GROUP BY id3"),
    Query("two largest v3 by id6", _TOP_TWO),
    Query("regression by id2, id4", "SELECT id2, id4, corr(v1, v2) * corr(v1, v2) FROM x GROUP BY id2, id4"),
    Query("sum, count by all six ids", "SELECT count(*), sum(s), sum(c) FROM (SELECT id1, id2, id3, id4, id5, id6, "
          "sum(v3) AS s, count(*) AS c FROM x GROUP BY id1, id2, id3, id4, id5, id6) AS t"),
)  # fmt: skip
JOINS = (
    Query("join small on a number", "SELECT count(*), sum(x.v1), sum(s.v2) FROM x JOIN small s ON x.id4 = s.id4"),
    Query("join medium on a number", "SELECT count(*), sum(x.v1), sum(m.v2) FROM x JOIN medium m ON x.id5b = m.id5"),
    Query("left join medium on a number",
          "SELECT count(*), sum(x.v1), sum(m.v2) FROM x LEFT JOIN medium m ON x.id5b = m.id5"),
    Query("join medium on a string", "SELECT count(*), sum(x.v1), sum(m.v2) FROM x JOIN medium m ON x.id2b = m.id2"),
    Query("join big on a number", "SELECT count(*), sum(x.v1), sum(b.v2) FROM x JOIN big b ON x.id6b = b.id6"),
)  # fmt: skip


def _strings(numbers: Any, count: int, width: int) -> pyarrow.Array:
    import pyarrow as pa

    names = pa.array([f"id{n:0{width}d}" for n in range(1, count + 1)])
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), names).cast(pa.string())


def _x(rows: int) -> Iterator[pyarrow.Table]:
    import pyarrow as pa

    many = max(rows // FEW, 1)
    for first in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - first)
        random = np.random.default_rng(first)
        draw = random.integers
        medium = draw(0, max(rows // 1_000, 1), count)
        yield pa.table(
            {
                "id1": _strings(draw(0, FEW, count), FEW, 3),
                "id2": _strings(draw(0, FEW, count), FEW, 3),
                "id3": _strings(draw(0, many, count), many, 10),
                "id4": draw(1, FEW + 1, count),
                "id5": draw(1, FEW + 1, count),
                "id6": draw(1, many + 1, count),
                "id5b": medium * 10 // 9,  # one in ten has no partner
                "id2b": _strings(medium, max(rows // 1_000, 1), 8),
                "id6b": draw(0, rows * 10 // 9, count),
                "v1": draw(1, 6, count),
                "v2": draw(1, 16, count),
                "v3": np.round(random.uniform(0, 100, count), 6),
            }
        )


def _side(key: str, rows: int, text: str = "") -> Iterator[pyarrow.Table]:
    import pyarrow as pa

    for first in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - first)
        random = np.random.default_rng(first + 7)
        number = np.arange(first, first + count)
        columns: dict[str, Any] = {key: number, "v2": np.round(random.uniform(0, 100, count), 6)}
        if text:
            columns[text] = _strings(number, rows, 8)
        yield pa.table(columns)


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    options = options_of("h2o", __doc__, arguments, rows=ROWS, rounds=3)
    report = Report(f"h2o's questions over {options.rows:,} rows, {options.threads} threads, warm")
    rows = {
        "x": Rows(lambda: _x(options.rows)),
        "small": Rows(lambda: _side("id4", FEW)),
        "medium": Rows(lambda: _side("id5", max(options.rows // 1_000, 1), "id2")),
        "big": Rows(lambda: _side("id6", options.rows)),
    }
    chosen = [query for query in (*GROUPS, *JOINS) if options.only in query.name]
    with scratch() as work:
        contest(
            report, work, rows, chosen, threads=options.threads, rounds=options.rounds, peers=options.peers,
            mean_bar=MEAN_BAR, least=LEAST,
        )  # fmt: skip
    report.show()
    return report.missed()
