"""A scan of a table reads marks only where its snapshot has superseded rows, and gives its rows either way."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb

SQL = "SELECT k, n FROM t ORDER BY n"
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "fresh", "delete", "compact", "update"]), st.integers(0, 5)), max_size=8
)


def is_filtered(source: Any) -> bool:
    return any("_superseded_by" in line for (line,) in source.sql("EXPLAIN SELECT n FROM t").fetchall())


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_every_snapshot_of_a_table_keeps_its_rows_with_and_without_marks(changes: list[tuple[str, int]]) -> None:
    with eventdb.open(":memory:") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        model: dict[int, int] = {}
        held: list[tuple[Any, list[tuple[int, int]], bool]] = []
        superseded = False
        for serial, (what, key) in enumerate(changes, 1):
            key = key if what != "fresh" else 100 + serial
            if what == "compact":
                for snapshot, _, _ in held:
                    snapshot.close()
                held.clear()
                table.compact()
                superseded = is_filtered(db)  # the rows since the last one may stay as they are
            elif what == "delete":
                superseded |= table.delete(key)
                model.pop(key, None)
            elif what == "update":
                db.sql("UPDATE t SET n = ? WHERE k = ?", [serial, key])
                superseded |= key in model
                model.update({key: serial} if key in model else {})
            else:
                superseded |= key in model
                table.put({"k": key, "n": serial})
                model[key] = serial
            rows = sorted(model.items(), key=lambda row: row[1])
            held.append((db.snapshot(), rows, superseded))
            for execution in ("interpreted", "compiled", "auto"):
                db.sql(f"SET execution = '{execution}'")
                assert db.sql(SQL).fetchall() == rows
                assert db.sql(f"{SQL} DESC LIMIT 2").fetchall() == rows[::-1][:2]
            for snapshot, expected, filtered in held:
                assert snapshot.sql(SQL).fetchall() == expected
                assert is_filtered(snapshot) == filtered
        for snapshot, _, _ in held:
            snapshot.close()


def test_a_snapshot_from_before_a_row_was_replaced_is_scanned_without_marks() -> None:
    with eventdb.open(":memory:") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT"}, primary_key="k")
        table.put_many([{"k": k, "n": k} for k in range(50)])
        assert not is_filtered(db)
        with db.snapshot() as before:
            table.put({"k": 7, "n": 700})
            assert is_filtered(db)
            assert not is_filtered(before)
            assert before.sql("SELECT sum(n) FROM t").fetchall() == [(sum(range(50)),)]
        assert db.sql("SELECT sum(n) FROM t").fetchall() == [(sum(range(50)) + 693,)]
        with db.transaction() as tx:
            tx.put(table, {"k": 8, "n": 800})
            tx.put(table, {"k": 51, "n": 51})
        assert db.sql("SELECT sum(n), count(*) FROM t").fetchall() == [(sum(range(50)) + 693 + 792 + 51, 51)]


def test_the_first_rows_of_a_table_are_found_as_those_of_a_topic_while_nothing_is_superseded() -> None:
    with eventdb.open(":memory:") as db:
        table = db.create_table("t", {"k": "BIGINT", "n": "BIGINT", "s": "VARCHAR"}, primary_key="k")
        table.put_many([{"k": k, "n": k * 7 % 1_000, "s": f"text {k}"} for k in range(1_000)])
        db.sql("SET execution = 'compiled'")
        sql = "SELECT n, s, k FROM t ORDER BY n DESC LIMIT 2"

        def plan() -> str:
            return "\n".join(line for (line,) in db.sql(f"EXPLAIN {sql}").fetchall())

        assert " of Scan t" in plan()
        assert db.sql(sql).fetchall() == [(999, "text 857", 857), (998, "text 714", 714)]
        table.put({"k": 857, "n": 0, "s": "replaced"})
        assert " of Scan t" not in plan()
        assert db.sql(sql).fetchall() == [(998, "text 714", 714), (997, "text 571", 571)]
