"""Histories of a table that everybody can compute: what each writing process does, in order, and what is then there.

A writer owns the keys that begin with its name. Whatever a snapshot shows of them must be what is there after some
number of its commits.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from typing import Any

Model = dict[str, int]
Operation = tuple[str, list[tuple[str, int]]]  # what, (key, value) of each row
KEYS = 12


def operations(name: str, seed: int) -> Iterator[Operation]:
    """What the writer does, commit by commit, without end."""
    draw = random.Random(f"{name}{seed}")
    serial = 0
    while True:
        serial += 1
        what = draw.choices(("put", "many", "delete", "update", "move"), (12, 4, 2, 2, 1))[0]
        count = draw.randrange(2, 6) if what == "many" else 1
        yield what, [(f"{name}{k}", serial * 10 + i) for i, k in enumerate(draw.sample(range(KEYS), count))]


def apply(model: Model, operation: Operation) -> None:
    what, rows = operation
    for key, value in rows:
        if what == "delete":
            model.pop(key, None)
        elif what == "move":  # every row of the writer gets a value of its own
            for i, other in enumerate(sorted(model)):
                model[other] = value * 100 + i
        elif what != "update" or key in model:
            model[key] = value


def perform(db: Any, table: Any, name: str, operation: Operation, model: Model) -> None:
    what, rows = operation
    (key, value), many = rows[0], [{"k": k, "n": n} for k, n in rows]
    if what == "put":
        table.put(many[0])
    elif what == "many":
        table.put_many(many)
    elif what == "delete":
        table.delete(key)
    elif what == "update":
        db.sql("UPDATE t SET n = ? WHERE k = ?", [value, key])
    else:
        with db.transaction() as tx:
            for i, other in enumerate(sorted(model)):
                tx.put(table, {"k": other, "n": value * 100 + i})


def main(path: str, name: str, seed: int, commits: int) -> None:
    import eventdb

    model: Model = {}
    with eventdb.open(path, durability="interval:20ms") as db:
        table = db.table("t")
        for _, operation in zip(range(commits), operations(name, seed), strict=False):
            perform(db, table, name, operation, model)
            apply(model, operation)
            time.sleep(0.004)  # so that those who look see some of it


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
