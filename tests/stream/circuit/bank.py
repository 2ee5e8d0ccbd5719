"""The bank: transfers between accounts, and a process that reads the views over them for as long as it is let.

Money only moves, so `total` is 0 at every moment; a transfer joined with itself always has a partner. Run with a path,
it reads until its input ends, then prints how often it read and what it saw that must not be.
"""

from __future__ import annotations

import json
import random
import select
import sys
from collections.abc import Iterator
from typing import Any

import eventdb

ACCOUNTS = 10
VIEWS = {
    "credits": "SELECT receiver AS account, sum(amount) AS credits FROM transfers GROUP BY receiver",
    "debits": "SELECT sender AS account, sum(amount) AS debits FROM transfers GROUP BY sender",
    "balance": "SELECT coalesce(c.account, d.account) AS account, coalesce(credits, 0) - coalesce(debits, 0) AS "
    "balance FROM credits c FULL JOIN debits d ON c.account = d.account",
    "total": "SELECT sum(balance) AS total, count(*) AS accounts FROM balance",
    "alone": "SELECT a.id AS id FROM transfers a LEFT JOIN transfers b ON a.id = b.id WHERE b.id IS NULL",
}  # fmt: skip
LIMITS = {"alone": "STATE LIMIT '1GB' "}


def create(db: eventdb.Database) -> None:
    db.sql(
        "CREATE TOPIC transfers (id BIGINT, sender BIGINT, receiver BIGINT, amount BIGINT, ts TIMESTAMP, "
        "WATERMARK FOR ts AS ts - INTERVAL '10 seconds')"
    )
    for name, query in VIEWS.items():
        db.sql(f"CREATE MATERIALIZED VIEW {name} {LIMITS.get(name, '')}AS {query}")


def transfers(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """They arrive up to 10 seconds late."""
    chance = random.Random(seed)
    for i in range(count):
        sender, receiver = chance.sample(range(ACCOUNTS), 2)
        time_us = 1_700_000_000_000_000 + i * 1000 - chance.randrange(10_000_000)
        yield {"id": i, "sender": sender, "receiver": receiver, "amount": chance.randrange(1, 100), "ts": time_us}


def main(path: str) -> None:
    reads = 0
    wrong: list[Any] = []
    with eventdb.open(path) as db:
        while not select.select([sys.stdin], [], [], 0)[0]:
            total, accounts = db.sql("SELECT total, accounts FROM total").fetchall()[0]
            if (total or 0) != 0:
                wrong.append(["total", total, accounts])
            found = db.sql("SELECT (SELECT sum(balance) FROM balance), (SELECT total FROM total)").fetchall()[0]
            if found[0] != found[1]:
                wrong.append(["one snapshot", *found])
            alone = db.sql("SELECT count(*) FROM alone").fetchall()[0][0]
            if alone:
                wrong.append(["alone", alone])
            reads += 1
            if reads == 1:
                print("reading", flush=True)
    print(json.dumps({"reads": reads, "wrong": wrong[:10]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
