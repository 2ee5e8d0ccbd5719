"""A chain of views that write into topics and a table, and what must be in them: each row once, whatever failed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import eventdb

CREATE_SINKS = [
    "CREATE TOPIC IF NOT EXISTS thirds (writer VARCHAR, n BIGINT)",
    "CREATE TOPIC IF NOT EXISTS pairs (writer VARCHAR, n BIGINT, other VARCHAR)",
    "CREATE TABLE IF NOT EXISTS totals (writer VARCHAR PRIMARY KEY, pairs BIGINT, total BIGINT)",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS into_thirds INTO TOPIC thirds AS "
    "SELECT writer, n FROM alpha WHERE n % 3 = 0",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS into_pairs INTO TOPIC pairs STATE LIMIT '1GB' AS "
    "SELECT t.writer, t.n, b.writer AS other FROM thirds t JOIN beta b ON t.n = b.n WHERE t.n % 20 = 0",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS into_totals INTO TABLE totals AS "
    "SELECT writer, count(*) AS pairs, sum(n) AS total FROM pairs GROUP BY writer",
]
PATIENCE_S = 60.0

Rows = list[tuple[Any, ...]]


def judge_sinks(db: eventdb.Database) -> list[tuple[str, str]]:
    """What is wrong with the rows of the chain, once its views have taken in everything."""
    if not {"thirds", "pairs"} <= set(db.topics()) or "into_totals" not in str(db.sql("SHOW VIEWS").fetchall()):
        return []
    until = time.monotonic() + PATIENCE_S
    while found := _wrong(db):
        if time.monotonic() > until:
            return [("sink", text) for text in found]
        time.sleep(0.05)
    return []


def _wrong(db: eventdb.Database) -> list[str]:
    with db.snapshot() as snapshot:

        def rows(query: str) -> Rows:
            return snapshot.sql(query).fetchall()

        alpha = rows("SELECT writer, n FROM alpha ORDER BY _offset")
        thirds = rows("SELECT writer, n FROM thirds ORDER BY _offset")
        beta = rows("SELECT writer, n FROM beta WHERE n % 20 = 0")
        pairs = Counter(rows("SELECT writer, n, other FROM pairs"))
        totals = {row[0]: row[1:] for row in rows("SELECT writer, pairs, total FROM totals")}
    found = []
    if thirds != (expected := [row for row in alpha if row[1] % 3 == 0]):
        found.append(f"thirds has {len(thirds)} rows, expected {len(expected)}: {_difference(thirds, expected)}")
    others: dict[int, list[str]] = {}
    for writer, n in beta:
        others.setdefault(n, []).append(writer)
    joined = Counter((writer, n, other) for writer, n in thirds for other in others.get(n, ()) if n % 20 == 0)
    if pairs != joined:
        found.append(f"pairs has {dict(pairs - joined)!r:.200} too much and {dict(joined - pairs)!r:.200} too little")
    sums: dict[str, tuple[int, int]] = {}
    for (writer, n, _), times in pairs.items():
        count, total = sums.get(writer, (0, 0))
        sums[writer] = (count + times, total + n * times)
    if totals != sums:
        found.append(f"totals is {totals!r:.200}, expected {sums!r:.200}")
    return found


def _difference(found: Rows, expected: Rows) -> str:
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"at {i} {a} instead of {b}"
    return "one ends before the other"
