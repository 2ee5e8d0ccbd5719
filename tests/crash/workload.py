"""What crash tests write: every value of an event follows from (writer, n), so a checker can recompute it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

TOPICS = ("alpha", "beta")
COLUMNS = {
    "writer": "VARCHAR NOT NULL",
    "n": "BIGINT NOT NULL",
    "device": "VARCHAR",
    "reading": "DOUBLE",
    "note": "VARCHAR",
    "payload": "VARCHAR",
    "raw": "BLOB",
    "level": "SMALLINT",
    "price": "DECIMAL(12,2)",
    "ts": "TIMESTAMP",
}
VIEWS = {
    "per_writer": "SELECT writer, count(*) AS events, sum(n) AS total FROM alpha GROUP BY writer",
    # A join whose sides revise their rows, the greatest of them, and the rows of one topic that the other has too.
    "both": "SELECT coalesce(a.writer, b.writer) AS writer, a.n AS alphas, b.n AS betas FROM "
    "(SELECT writer, count(*) AS n FROM alpha GROUP BY writer) a FULL JOIN "
    "(SELECT writer, count(*) AS n FROM beta GROUP BY writer) b ON a.writer = b.writer",
    "most": "SELECT max(alphas) AS alphas, max(betas) AS betas, count(*) AS writers FROM both",
    "shared": "SELECT device, min(n) AS low, count(*) AS n FROM alpha WHERE n % 50 = 0 AND device IN "
    "(SELECT device FROM beta WHERE n % 3 = 0) GROUP BY device",
}  # fmt: skip
LIMITS = {"shared": "STATE LIMIT '1GB' "}
CREATE_VIEWS = [
    f"CREATE MATERIALIZED VIEW IF NOT EXISTS {name} {LIMITS.get(name, '')}AS {query}" for name, query in VIEWS.items()
]
PRODUCER_PREFIX = "pump"  # writers with this prefix go on counting after a restart: their n is the producer's sequence

_EPOCH = dt.datetime(2024, 1, 1)
_FILL = "abcdefghijklmnopqrstuvwxyz" * 200
_LENGTHS = (0, 3, 12, 40, 230)


def event(writer: str, n: int) -> dict[str, Any]:
    """The n-th event of a writer."""
    length = 5_000 if n % 397 == 396 else _LENGTHS[n % 5]
    return {
        "writer": writer,
        "n": n,
        "device": f"device {n * 7919 % 3001}",  # a dictionary that grows for a while: commits that need the index
        "reading": n * 0.25,
        "note": None if n % 7 == 0 else f"note {n % 23}",
        "payload": f"{writer}/{n}/{_FILL[:length]}",
        "raw": None if n % 3 == 0 else n.to_bytes(8, "little") * (n % 4),
        "level": n % 1000 - 500,
        "price": Decimal(n % 10_000).scaleb(-2),
        "ts": _EPOCH + dt.timedelta(milliseconds=n),
    }


def table(writer: str, first: int, count: int) -> dict[str, list[Any]]:
    """Events first .. first + count as columns."""
    events = [event(writer, n) for n in range(first, first + count)]
    return {name: [one[name] for one in events] for name in COLUMNS}
