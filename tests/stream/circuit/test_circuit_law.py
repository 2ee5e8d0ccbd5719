"""The law of circuits: the sum of the changes given out is the batch answer over the sum of those taken in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventdb.errors import EventDBError
from eventdb.stream.circuit.circuit import Circuit
from eventdb.stream.circuit.distinct import Distincts
from eventdb.stream.circuit.grouped import Grouped
from eventdb.stream.circuit.lanes import Interner
from eventdb.stream.circuit.node import weights_of
from eventdb.stream.circuit.pair_join import PairJoin, _Side
from eventdb.stream.circuit.part import RowsPart
from eventdb.stream.circuit.recomputed import Recomputed
from tests.relational.queries import queries, set_operations
from tests.relational.tables import TABLES
from tests.relational.tables import _row as rows
from tests.stream.circuit.histories import Move, Names3, check_history, histories

SHAPES = (
    "SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY b, c, d) FROM {0}",
    "SELECT a, c, sum(b) OVER (ORDER BY a, b, c, d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW), "
    "lag(d) OVER (PARTITION BY a ORDER BY a, b, c, d) FROM {0}",
    "SELECT a, b FROM {0} QUALIFY rank() OVER (PARTITION BY a ORDER BY b DESC) <= 2",
    "SELECT b, r FROM (SELECT *, row_number() OVER (PARTITION BY a ORDER BY b, c, d) AS r FROM {0}) WHERE r = 2",
    "SELECT a, c FROM {0} QUALIFY dense_rank() OVER (PARTITION BY c ORDER BY a) < 3 AND b > 0",
    "SELECT a, b FROM {0} QUALIFY row_number() OVER (PARTITION BY c ORDER BY a, b, d) <= 2 AND "
    "sum(b) OVER (PARTITION BY c) > 1",
    "SELECT x.a, y.b, y.c FROM {0} x, LATERAL (SELECT b, c FROM {1} WHERE {1}.a = x.a ORDER BY b, c, d LIMIT 2) y",
    "SELECT * FROM {0} ORDER BY a, b DESC, c, d LIMIT 3 OFFSET 1",
    "SELECT a, b FROM (SELECT * FROM {0} ORDER BY b, a, c, d LIMIT 2) WHERE a > 0",
    "SELECT a, min(b), max(c), string_agg(c, ',' ORDER BY c, b) FROM {0} GROUP BY a",
    "SELECT a, count(DISTINCT b), avg(b), median(d), sum(DISTINCT b) FROM {0} GROUP BY a",
    "SELECT count(*), sum(b), avg(a), count(c) FROM {0}",
    "SELECT c, sum(b), count(*), avg(b) FILTER (WHERE a > 0) FROM {0} GROUP BY c HAVING count(*) > 1",
    "SELECT min(b), max(d), stddev(b) FROM {0} WHERE a > 0",
    "SELECT a, c, count(*), grouping(a, c) FROM {0} GROUP BY CUBE (a, c)",
    "SELECT n, count(*), sum(s) FROM (SELECT a, count(*) AS n, sum(b) AS s FROM {0} GROUP BY a) GROUP BY n",
    "SELECT max(n) FROM (SELECT a, count(*) AS n FROM {0} GROUP BY a)",
    "SELECT DISTINCT a, c FROM {0}",
    "SELECT DISTINCT ON (a) a, b, c, d FROM {0} ORDER BY a, b DESC, c, d",
    "SELECT a, g FROM {0}, generate_series(0, a) AS s(g) WHERE b IS NOT NULL",
    "WITH RECURSIVE r(x, n) AS (SELECT a, 0 FROM {0} UNION SELECT {1}.b, r.n + 1 FROM r JOIN {1} ON {1}.a = r.x WHERE "
    "r.n < 3) SELECT x, n FROM r",
    "WITH s AS (SELECT a, sum(b) AS b FROM {0} GROUP BY a) SELECT * FROM s x JOIN s y ON x.b = y.b LEFT JOIN {1} ON "
    "{1}.a = x.a",
    "SELECT {0}.a, x.n FROM {0} FULL JOIN (SELECT a, count(*) AS n FROM {1} GROUP BY a) x ON x.a = {0}.a "
    "AND x.n > {0}.b",
    "SELECT {0}.a, {0}.b, y.c FROM {0} LEFT JOIN {1} y ON {0}.a = y.a",
    "SELECT a, b FROM {0} WHERE a IN (SELECT a FROM {1}) AND NOT EXISTS (SELECT 1 FROM {0} y WHERE y.b = {0}.a)",
    "SELECT a, b FROM {0} WHERE b > (SELECT avg(b) FROM {1} WHERE {1}.a = {0}.a)",
    "SELECT x.a, x.b FROM {0} x LEFT JOIN {0} y ON x.a = y.a AND x.b = y.b AND x.c = y.c AND x.d = y.d "
    "WHERE y.a IS NULL",
    "VALUES (1), (2) UNION ALL SELECT a FROM {0}",
)
shapes = st.builds(str.format, st.sampled_from(SHAPES), st.sampled_from(TABLES), st.sampled_from(TABLES))

EXAMPLES = int(os.environ.get("EVENTDB_CIRCUIT_EXAMPLES", "60"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def names() -> Iterator[Names3]:
    names = Names3()
    yield names
    names.db.close()


@many
@given(sql=queries() | set_operations() | shapes | shapes, steps=histories(rows, retracts=False))
def test_rows_that_come_give_the_batch_answer(names: Names3, sql: str, steps: list[list[Move]]) -> None:
    plan = names.plan(sql)
    check_history(plan, steps, lambda: Circuit(plan))


@many
@given(sql=queries() | set_operations() | shapes | shapes, steps=histories(rows, retracts=True))
def test_rows_that_come_and_go_give_the_batch_answer(names: Names3, sql: str, steps: list[list[Move]]) -> None:
    plan = names.plan(sql)
    check_history(plan, steps, lambda: Circuit(plan, lambda topic_id: False))


@many
@given(
    sql=queries() | set_operations() | shapes | shapes,
    steps=histories(rows, retracts=True),
    crashes=st.lists(st.sampled_from(["none", "save", "save", "whole", "crash", "crash"]), min_size=6, max_size=6),
    grows=st.booleans(),
)
def test_a_circuit_goes_on_from_its_stored_state(
    names: Names3, sql: str, steps: list[list[Move]], crashes: list[str], grows: bool
) -> None:
    plan = names.plan(sql)
    if grows:
        steps = [[move for move in moves if move[2] > 0] for moves in steps]
    check_history(plan, steps, lambda: Circuit(plan, lambda topic_id: grows), crashes)


@pytest.mark.parametrize("planted", [False, True])
def test_a_group_that_went_is_gone_from_the_stored_state(
    names: Names3, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    row = (1, 1, "x", 1.0)
    plan = names.plan("SELECT a, count(*), sum(b) FROM t GROUP BY a")
    if planted:
        forget = Grouped._forget
        monkeypatch.setattr(Grouped, "_forget", lambda self, groups: self._noted is None or forget(self, groups))
    with pytest.raises(AssertionError) if planted else nullcontext():
        check_history(
            plan, [[("t", row, 1)], [("t", row, -1)], [("t", row, 1)]], lambda: Circuit(plan, lambda topic_id: False),
            ["save", "save", "crash"],
        )  # fmt: skip


def _without(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    monkeypatch.setattr(owner, name, lambda self, *args: None)


PLANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "rows that lose their last partner are not shown": lambda m: _without(m, PairJoin, "_count_again"),
    "rows taken away are added": lambda m: m.setattr(
        Grouped, "_accumulate", lambda self, *args, taken, of=Grouped._accumulate: of(self, *args, taken=False)
    ),
    "what is there before any row is forgotten": lambda m: _without(m, Recomputed, "begin"),
    "a row that is there twice counts once": lambda m: m.setattr(np, "repeat", lambda rows, counts: rows[counts > 0]),
    "partners are not counted again": lambda m: _without(m, PairJoin, "settle"),
    "what changed is stored as all there is": lambda m: m.setattr(RowsPart, "delta", RowsPart.whole),
    "distinct rows that go are kept": lambda m: m.setattr(
        Distincts, "step", lambda self, changes, step=Distincts.step: _kept(step(self, changes))
    ),
    "all strings are one": lambda m: m.setattr(Interner, "codes", lambda self, column: np.zeros(len(column), np.int64)),
    "rows with a NULL key have partners": lambda m: m.setattr(
        _Side, "keys_of", lambda self, change, of=_Side.keys_of: (of(self, change)[0], np.ones(len(change), bool))
    ),
}


def _kept(change: Any) -> Any:
    return None if change is None else change.filter(weights_of(change) > 0)


@pytest.mark.parametrize("plant", PLANTS)
def test_the_law_is_broken_by_a_planted_bug(names: Names3, monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    plans = [names.plan(shape.format("t", "u")) for shape in SHAPES]

    @settings(
        max_examples=40, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(steps=histories(rows, retracts=True))
    def law(steps: list[list[Move]]) -> None:
        for plan in plans:
            check_history(plan, steps, lambda own=plan: Circuit(own, lambda topic_id: False), ["save", "crash"] * 3)

    PLANTS[plant](monkeypatch)
    with pytest.raises((AssertionError, EventDBError, IndexError, ValueError)):
        law()
