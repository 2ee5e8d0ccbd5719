"""A process whose disk fills up. Says, as JSON lines, what it was told; waits for room, then goes on.

DIRECTORY ROOM rows|topics      ROOM is a file that appears when there is room again, "die" to be killed then
look DIRECTORY                  what the next process finds

["acked", rows]   ["full", what, error, rows read]   ["found", rows, problems, recovery]   ["trimmed", offset]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import eventdb
from eventdb.errors import DiskFullError, EventDBError

ROWS = 40
COLUMNS = {"n": "BIGINT NOT NULL", "word": "VARCHAR", "text": "BLOB"}


def say(*fact: Any) -> None:
    print(json.dumps(fact), flush=True)


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{"n": n, "word": f"w{n}", "text": b"x" * 200} for n in range(first, first + count)]


def read(db: eventdb.Database) -> int:
    """How many events there are, of all topics; they are 0, 1, 2..."""
    found = sorted(event["n"] for name in db.topics() for event in db.topic(name).read())
    assert found == list(range(len(found))), found
    return len(found)


def main(arguments: list[str]) -> int:
    directory, room, spread = arguments
    db = eventdb.open(directory)
    acked = refused = topics = 0
    while refused < 6:
        if spread == "topics" or not topics:
            try:
                db.create_topic(f"log{topics}", COLUMNS)
                topics += 1
            except DiskFullError as error:
                refused += 1
                say("full", "create", str(error), read(db))
        log = db.topic(f"log{topics - 1}")
        for what, count in (("append", 1), ("append_many", ROWS)):
            try:
                made = rows(acked, count)
                if what == "append":
                    log.append(made[0])
                else:
                    log.append_many(made)
                acked += count
                say("acked", acked)
            except DiskFullError as error:
                refused += 1
                say("full", what, str(error), read(db))
    for act in (db.checkpoint, lambda: db.compact(full=True)):
        try:
            act()
        except DiskFullError as error:
            say("full", "care", str(error), read(db))
    if room == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    say("waiting")
    while not Path(room).exists():
        time.sleep(0.01)
    log.append_many(rows(acked, ROWS))
    acked += ROWS
    say("acked", acked)
    db.close()
    return 0


def look(directory: str) -> int:
    """What the next process finds, with no room at all: every event, and old ones can go."""
    db = eventdb.open(directory)
    say("found", read(db), db._store.check(deep=True), db.recovery_report["kind"])
    log = db.topic("log0")
    log.delete_before(log.offsets()[1] // 2)
    say("trimmed", log.offsets()[0])
    try:
        db.close()
    except EventDBError as error:
        say("close", str(error))
    return 0


if __name__ == "__main__":
    sys.exit(look(sys.argv[2]) if sys.argv[1] == "look" else main(sys.argv[1:]))
