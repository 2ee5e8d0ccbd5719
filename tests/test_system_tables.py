"""eventdb.queries, eventdb.watermarks and eventdb.state, seen from the process that maintains and from others."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.stream.lease import Lease, holder
from tests.test_view_changes import JOINED, ONE, content, made, maintainer, until

__all__ = ["made"]


def query(db: eventdb.Database, name: str) -> dict[str, Any]:
    result = db.sql("SELECT * FROM eventdb.queries WHERE name = $name", name=name)
    [row] = result.fetchall()
    return dict(zip(result.columns, row, strict=True))


def caught_up(db: eventdb.Database, *names: str) -> None:
    until(lambda: all(query(db, name)["lag_rows"] == 0 for name in names))


def test_queries_say_what_each_view_does(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW one AS {ONE}")
    made.sql(f"CREATE MATERIALIZED VIEW joined AS {JOINED}")
    made.sql("CREATE MATERIALIZED VIEW each AS SELECT k FROM t WHERE x > 1")
    made.topic("t").append_many([{"k": f"k{i}", "x": i} for i in range(500)])
    caught_up(made, "one", "joined", "each")
    [(events,)] = made.sql("SELECT count(*) FROM t").fetchall()
    one, joined, each = (query(made, name) for name in ("one", "joined", "each"))
    assert (one["kind"], one["emission"], one["status"]) == ("topic", "update", "running")
    assert (each["kind"], each["emission"]) == ("topic", "append")
    assert (joined["kind"], joined["emission"], joined["watermark"]) == ("circuit", "update", None)
    assert one["input_rows"] == each["input_rows"] == events
    assert joined["input_rows"] == events + 2
    assert one["state_rows"] == len(content(made, "one"))
    assert one["state_bytes"] > 0 < joined["state_bytes"]
    until(lambda: query(made, "each")["output_rows"] == len(content(made, "each")))
    until(lambda: query(made, "joined")["state_rows"] >= len(content(made, "joined")))
    assert {one["process"], joined["process"]} == {os.getpid()}
    assert one["last_error"] is None
    assert made.sql("SHOW QUERIES").fetchall()[0][0] == "each"


def test_rates_are_those_of_the_last_seconds(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW one AS {ONE}")
    seen = []

    def appended() -> bool:
        made.topic("t").append_many([{"k": "a", "x": 1}] * 20)
        time.sleep(0.02)
        seen.append(query(made, "one"))
        return bool(seen[-1]["input_rows_per_s"] and seen[-1]["output_rows_per_s"])

    until(appended)
    assert 0 < seen[-1]["input_rows_per_s"] < 1_500
    assert seen[-1]["output_rows"] > 0


def test_statuses(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql("ALTER VIEW v PAUSE")
    assert query(made, "v")["status"] == "paused"
    made.sql("ALTER VIEW v RESUME")
    made.sql("CREATE MATERIALIZED VIEW broken AS SELECT 10 / (x - 2) AS q FROM t")
    until(lambda: query(made, "broken")["status"] == "failed")
    assert "offset 3" in query(made, "broken")["last_error"]
    made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT 10 / (x - 1) AS q FROM t")
    until(lambda: "its replacement failed" in str(query(made, "v")["last_error"]))
    assert query(made, "v")["status"] == "running"
    made.sql("CREATE MATERIALIZED VIEW stuck AS "
             "SELECT t.k, CAST(name AS BIGINT) AS n FROM t JOIN names m ON t.k = m.k")  # fmt: skip
    until(lambda: "ada" in str(query(made, "stuck")["last_error"]))
    assert query(made, "stuck")["status"] == "running"
    assert query(made, "stuck")["restarts"] >= 1
    made.sql("UPDATE names SET name = '1'")
    until(lambda: query(made, "stuck")["last_error"] is None)


def test_another_process_is_seen_and_its_end_is_a_restart(made: eventdb.Database, path: Path) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    caught_up(made, "v")
    until(lambda: query(made, "v")["restarts"] == 0)
    made.close()
    with maintainer(path) as process, eventdb.open(path, durability="os") as db:
        assert query(db, "v")["process"] == process.pid
        db.topic("t").append({"k": "a", "x": 1})
        caught_up(db, "v")
        until(lambda: query(db, "v")["restarts"] == 1)
        process.kill()
        process.wait()
        until(lambda: query(db, "v")["process"] == os.getpid())
        db.topic("t").append({"k": "a", "x": 1})
        until(lambda: query(db, "v")["restarts"] == 2)
        caught_up(db, "v")
    with eventdb.open(path, read_only=True) as db:
        assert query(db, "v")["process"] is None
        assert query(db, "v")["lag_rows"] == 0


def test_watermarks_and_late_rows(made: eventdb.Database) -> None:
    made.sql("CREATE TOPIC e (k VARCHAR, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')")
    made.sql("CREATE MATERIALIZED VIEW w AS SELECT window_start, count(*) AS n "
             "FROM TUMBLE(e, ts, INTERVAL '10 seconds') GROUP BY window_start")  # fmt: skip
    made.sql("CREATE MATERIALIZED VIEW j AS SELECT e.k FROM e JOIN names n ON e.k = n.k")
    for second in (1, 12, 40, 2):
        made.sql(f"INSERT INTO e VALUES ('a', TIMESTAMP '2026-01-01 00:00:{second:02}')")
    caught_up(made, "w", "j")
    mark = dt.datetime(2026, 1, 1, 0, 0, 35)
    assert (query(made, "w")["watermark"], query(made, "w")["late_rows"]) == (mark, 1)
    found = made.sql("SELECT view, topic, partition, watermark FROM eventdb.watermarks ORDER BY view").fetchall()
    assert found[-1] == ("w", "e", 0, mark)
    assert [row[:3] for row in found] == [("j", "e", 0), ("w", "e", 0)]


def test_state_is_told_for_each_node(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW one AS {ONE}")
    made.sql(f"CREATE MATERIALIZED VIEW joined AS {JOINED}")
    caught_up(made, "one", "joined")
    rows = made.sql("SELECT view, node, rows FROM eventdb.state WHERE bytes > 0").fetchall()
    assert ("one", "GROUP BY", 3) in rows
    assert all(node != "content" for _, node, _ in rows), "what a GROUP BY gives is not kept twice"
    assert ("joined", "table names", 2) in rows
    nodes = {node: count for view, node, count in rows if view == "joined"}
    assert nodes["2 Grouped"] == len(content(made, "joined"))
    [(total,)] = made.sql("SELECT sum(bytes) FROM eventdb.state JOIN eventdb.queries ON view = name").fetchall()
    assert total > 0


def test_system_tables_stand_where_tables_do(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW one AS {ONE}")
    made.sql("CREATE VIEW failing AS SELECT name, last_error FROM eventdb.queries WHERE status = 'failed'")
    assert made.sql("SELECT * FROM failing").fetchall() == []
    with pytest.raises(eventdb.BindError, match=r"eventdb\.queries"):
        made.sql("SELECT * FROM eventdb.querys")
    with pytest.raises(eventdb.UnsupportedSQL, match="continuous"):
        made.sql("CREATE MATERIALIZED VIEW v AS SELECT name FROM eventdb.queries")
    with pytest.raises(eventdb.EventDBError, match="system"):
        made.sql("INSERT INTO eventdb.queries (name) VALUES ('x')")


def test_the_holder_of_a_lease_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "LEASE")
    assert holder(path) is None
    lease = Lease(path)
    assert lease.acquire()
    assert holder(path) == os.getpid()
    lease.release()
    assert holder(path) is None
