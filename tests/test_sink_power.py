"""The machine loses its power: of a view with a sink, the rows it wrote, its state and its positions go back together.

The index goes back to its last checkpoint, as after a power loss (another boot id), and only the journal goes forward.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = 400

BEGIN = """
import os, sys, time, json
import eventdb
from eventdb.stream.runner import Runner
from eventdb.stream.task import CircuitTask
from tests.crash import plants
path, boot, plant = sys.argv[1:]
plants.set_boot_id(boot)

def commit_state_unjournaled(self, tasks, whole=Runner._commit):
    for task in tasks:
        if isinstance(task, CircuitTask) and task.has_sink:
            with self._store.write() as transaction:
                task._write_out(transaction)
            sink = task.spec.sink
            object.__setattr__(task.spec, "sink", None)
            with self._store.write(journaled=False) as transaction:
                was_saved = task.save(transaction)
            object.__setattr__(task.spec, "sink", sink)
            task.saved(was_saved)
    whole(self, [task for task in tasks if not (isinstance(task, CircuitTask) and task.has_sink)])
    return bool(tasks)

if plant:
    Runner._commit = commit_state_unjournaled

def rows(db, query):
    return [list(row) for row in db.sql(query).fetchall()]

def until(check):
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)
"""
WRITE = (
    BEGIN
    + """
db = eventdb.open(path)
db.sql("CREATE TOPIC t (k VARCHAR, x BIGINT)")
db.sql("CREATE TOPIC o (k VARCHAR, x BIGINT)")
db.sql("CREATE TOPIC j (x BIGINT, y BIGINT)")
db.sql("CREATE TABLE s (k VARCHAR PRIMARY KEY, n BIGINT)")
db.sql("CREATE MATERIALIZED VIEW a INTO TOPIC o AS SELECT k, x FROM t WHERE x % 2 = 0")
db.sql("CREATE MATERIALIZED VIEW b INTO TOPIC j STATE LIMIT '50MB' AS "
       "SELECT o.x, t.x AS y FROM o JOIN t ON o.x = t.x")
db.sql("CREATE MATERIALIZED VIEW c INTO TABLE s AS SELECT CAST(x % 3 AS VARCHAR) AS k, count(*) AS n FROM j "
       "GROUP BY CAST(x % 3 AS VARCHAR)")
for start in range(0, ROWS, 20):
    db.topic("t").append_many([{"k": "ab"[i % 2], "x": i} for i in range(start, start + 20)])
    if start in (100, 200):
        until(lambda: len(rows(db, "SELECT * FROM j")) == start // 2 + 10)
        db.checkpoint()
until(lambda: sum(row[0] for row in rows(db, "SELECT n FROM s")) == ROWS // 2)
print("ready", flush=True)
os._exit(9)
""".replace("ROWS", str(ROWS))
)
READ = (
    BEGIN
    + """
start = Runner.start
Runner.start = lambda self: None  # nothing is maintained yet: what is there is what came back
db = eventdb.open(path)
found = {"recovery": str(db.recovery_report)}

def look(name):
    found[name] = {"o": rows(db, "SELECT k, x FROM o ORDER BY _offset"), "j": rows(db, "SELECT x, y FROM j ORDER BY x"),
                   "s": rows(db, "SELECT k, n FROM s ORDER BY k")}

look("before")
with db._store.snapshot() as snapshot:
    for info, spec in db._views_of().stored():
        progress = spec.keys.progress(snapshot)
        if info.name == "a":
            found["a"] = [progress.input_offset, progress.output_end]
        else:
            found[info.name] = None if progress is None else progress.positions
db._views_of()._runner = None
Runner.start = start
db._views_of().start()
db.topic("t").append({"k": "z", "x": 1_000_000})
until(lambda: [1_000_000, 1_000_000] in rows(db, "SELECT x, y FROM j"))
until(lambda: sum(row[0] for row in rows(db, "SELECT n FROM s")) >= len(rows(db, "SELECT * FROM j")))
look("after")
print(json.dumps(found))
db.close()
"""
)


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode in (0, 9), done.stderr
    return done.stdout.strip().splitlines()[-1]


def _lose_power(tmp_path: Path, plant: str) -> dict[str, Any]:
    path = str(tmp_path / "db")
    assert _run(WRITE, path, "boot-1", plant) == "ready"
    found: dict[str, Any] = json.loads(_run(READ, path, "boot-2", ""))
    assert "power loss" in found["recovery"]
    return found


def _expected(last: list[int]) -> dict[str, Any]:
    evens = [*range(0, ROWS, 2), *last]
    counts: dict[str, int] = {}
    for x in evens:
        counts[str(x % 3)] = counts.get(str(x % 3), 0) + 1
    return {
        "o": [["z" if x in last else "a", x] for x in evens],
        "j": [[x, x] for x in evens],
        "s": [[k, counts[k]] for k in sorted(counts)],
    }


def test_rows_state_and_positions_come_back_together(tmp_path: Path) -> None:
    found = _lose_power(tmp_path, "")
    assert found["before"] == _expected([])
    assert found["a"] == [ROWS, ROWS // 2]
    assert sorted(offset for one in found["b"] for offset in one) == [ROWS // 2, ROWS]
    assert found["c"] == [[ROWS // 2]]
    assert found["after"] == _expected([1_000_000])


@pytest.mark.campaign
def test_a_state_that_is_not_journaled_is_noticed(tmp_path: Path) -> None:
    found = _lose_power(tmp_path, "plant")
    assert found["before"] == _expected([])  # the rows are there,
    assert found["c"] != [[ROWS // 2]]  # the state is not,
    assert found["after"]["j"] != _expected([1_000_000])["j"]  # so it writes them again
