"""Really compiled pipelines: few shapes, much data, both engines. Shapes of any kind run in test_compiled_shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventdb.batch import Column, Dictionary, RecordBatch
from eventdb.errors import QueryCancelled
from eventdb.kernels import jit, service
from eventdb.logical.expressions import Expression, IntervalValue, Literal
from eventdb.logical.plan import Filter, OutputField, Plan, Project
from eventdb.physical import fused
from eventdb.physical.context import CancelToken
from eventdb.physical.planner import plan_physical
from eventdb.schema import BIGINT, DOUBLE, INTERVAL, TIMESTAMP, VARCHAR
from tests.physical.building import MemoryLog, aggregate, call, context_of, lit, scan_of
from tests.physical.engines import assert_same_rows, both, outcome
from tests.physical.expressions import COLUMNS, HOUR, START, column, expressions, predicates, rows, table
from tests.physical.test_compiled_shapes import aggregate_plan, aggregations, group_keys

TIME = list(COLUMNS).index("ts")


@pytest.fixture(scope="module", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kernels")))
        yield


def log_of(data: list[tuple[Any, ...]], cut: int = 0) -> MemoryLog:
    whole = table(data)
    parts = [whole.slice(0, cut), whole.slice(cut, len(data))] if 0 < cut < len(data) else [whole]
    return MemoryLog(parts, event_time=TIME)


def plans(log: MemoryLog) -> dict[str, tuple[Plan, int]]:
    """One shape per sink and per kind of error: (plan, number of keys; -1 = rows in order)."""
    scan = scan_of(log)
    nonzero = call("ne", column("big"), lit(BIGINT, 0))
    guarded = call("gt", call("divide", lit(BIGINT, 2**62), column("big")), lit(BIGINT, -(2**61)))
    kept = Filter(scan, call("and", nonzero, guarded))
    sums = [
        aggregate("count_star"),
        aggregate("sum", column("big")),
        aggregate("min", column("name")),
        aggregate("max", column("dbl")),
    ]
    bucket = call("time_bucket", Literal(INTERVAL, IntervalValue(0, 7 * HOUR)), column("ts"))
    spread = [
        aggregate("avg", column("money")),
        aggregate("stddev_pop", column("num")),
        aggregate("min", column("flt")),
    ]
    outputs: tuple[Expression, ...] = (
        column("name"), call("upper", column("site")), call("multiply", column("num"), column("tiny")),
        call("date_part", lit(VARCHAR, "month"), column("ts")), call("coalesce", column("dbl"), column("flt")),
    )  # fmt: skip
    fields = tuple(OutputField(f"c{i}", e.type) for i, e in enumerate(outputs))
    return {
        "ungrouped": (aggregate_plan(kept, (), sums), 0),
        "direct": (aggregate_plan(scan, (bucket, column("name"), column("flag")), [*sums, *spread]), 3),
        "hashed": (aggregate_plan(scan, (column("big"), column("dbl"), column("site")), spread), 3),
        "rows": (Project(Filter(scan, call("like", column("name"), lit(VARCHAR, "%a%"))), outputs, fields), -1),
    }


# NULL wherever there can be one: nullability is part of a shape, and every shape is a compile.
NULLS = (None, 1, 1, None, 1.5, None, None, "north", None, START, None)


@pytest.mark.parametrize("sink", ["ungrouped", "direct", "hashed", "rows"])
@settings(phases=(Phase.explicit, Phase.generate))
@given(data=rows(most=40), cut=st.integers(0, 20))
def test_compiled_rows_and_errors_are_the_interpreted_ones(sink: str, data: list[tuple[Any, ...]], cut: int) -> None:
    log = log_of([NULLS, *data], cut)
    plan, keys = plans(log)[sink]
    expected, found, _ = both(plan, context_of(log, threads=2))
    assert_same_rows(expected, found, ordered=keys < 0, tolerance=1e-9, keys=max(keys, 0))


def test_one_shape_with_other_constants_and_data_is_one_kernel_with_one_signature() -> None:
    before = len(jit._loaded)
    for wanted, limit, nulls in (("a", 1.0, 7), ("missing", -5.0, 3), ("zz", 0.0, 5)):
        count = 100
        names = Column.encode(VARCHAR, [None if i % nulls == 0 else "a" if i % 2 else "zz" for i in range(count)])
        values = np.linspace(-10, 10, count)
        values.flags.writeable = bool(nulls % 2)  # a writable array must not compile a second variant
        log = MemoryLog([RecordBatch(["s", "d"], [names, Column(DOUBLE, values)])])
        scan = scan_of(log)
        text, number = _references(scan)
        condition = call("and", call("eq", text, lit(VARCHAR, wanted)), call("gt", number, lit(DOUBLE, limit)))
        plan = aggregate_plan(Filter(scan, condition), (), [aggregate("count_star"), aggregate("sum", number)])
        expected, found, engine = both(plan, context_of(log))
        assert engine == "compiled"
        assert_same_rows(expected, found, ordered=True, tolerance=1e-9)
    assert len(jit._loaded) == before + 1
    for kernel in jit._loaded.values():
        assert not hasattr(kernel, "signatures") or jit.signature_count(kernel) == 1


def _references(scan: Any) -> list[Expression]:
    from eventdb.logical.expressions import ColumnRef

    return [ColumnRef(field.type, i, field.name) for i, field in enumerate(scan.output)]


def _large(count: int = 400_000) -> MemoryLog:
    """Four segments of plain numbers and strings."""
    random = np.random.default_rng(1)
    dictionary = Dictionary([f"d{i}" for i in range(50)])
    parts = []
    for first in range(0, count, count // 4):
        size = count // 4
        parts.append(
            RecordBatch(
                ["device", "temp", "ts"],
                [
                    Column(VARCHAR, random.integers(0, 50, size).astype(np.int32), None, dictionary),
                    Column(DOUBLE, random.normal(size=size), random.random(size) > 0.1),
                    Column(TIMESTAMP, START + np.arange(first, first + size, dtype=np.int64) * 1_000_000),
                ],
            )
        )
    return MemoryLog(parts, event_time=2)


def _by_device(log: MemoryLog) -> Plan:
    device, temp, ts = _references(scan_of(log))
    hour = call("date_trunc", lit(VARCHAR, "hour"), ts)
    found = [aggregate(name, temp) for name in ("count", "sum", "avg", "min", "max", "stddev_samp")]
    return aggregate_plan(scan_of(log), (hour, device), [aggregate("count_star"), *found])


class _Later(service.KernelService):
    """A service whose kernels settle after the request was looked at so often."""

    def __init__(self, looks: int, fails: bool = False) -> None:
        super().__init__()
        self.looks = looks
        self.fails = fails

    def find(self, source: str, tokens: tuple[str, ...]) -> service.Request:
        later = self

        class Counting(service.Request):
            @property
            def settled(self) -> bool:
                later.looks -= 1
                if later.looks <= 0 and not self._event.is_set():
                    self.settle(None if later.fails else jit.build(source, tokens), "no" if later.fails else None)
                return self._event.is_set()

        return Counting(source, tokens)


@pytest.mark.parametrize("looks", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("fails", [False, True])
def test_a_query_switches_to_the_kernel_between_morsels(
    looks: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _large()
    monkeypatch.setattr(fused, "SERVICE", _Later(looks, fails))
    expected, _ = outcome(_by_device(log), context_of(log))
    found, _ = outcome(_by_device(log), context_of(log, execution="auto", threads=2))
    assert_same_rows(expected, found, ordered=False, tolerance=1e-9, keys=2)
    device, temp, _ = _references(scan_of(log))
    double = call("multiply", temp, lit(DOUBLE, 2.0))
    kept = Filter(scan_of(log), call("gt", temp, lit(DOUBLE, 1.0)))
    plan = Project(kept, (device, double), (OutputField("device", VARCHAR), OutputField("double", DOUBLE)))
    monkeypatch.setattr(fused, "SERVICE", _Later(looks, fails))
    expected, _ = outcome(plan, context_of(log))
    found, _ = outcome(plan, context_of(log, execution="auto", threads=2))
    assert_same_rows(expected, found, ordered=True)


def test_few_rows_are_interpreted_in_auto() -> None:
    log = log_of([(0, 1, 1, 1.0, 1.0, 1, "a", "north", True, START, 1)])
    _, engine = outcome(plans(log)["direct"][0], context_of(log, execution="auto"))
    assert engine == "interpreted"


def test_a_cancelled_query_stops_between_morsels() -> None:
    log = _large()
    token = CancelToken()
    operator = plan_physical(_by_device(log), context_of(log, execution="compiled", threads=2, cancel=token))
    token.cancel()
    with pytest.raises(QueryCancelled):
        list(operator.batches())


def test_segments_with_dictionaries_of_their_own_are_interpreted() -> None:
    from tests.physical.building import split

    log = MemoryLog(split(table([(0, 1, 1, 1.0, 1.0, 1, s, "north", True, START, 1) for s in "abcab"]), [2]))
    plan = aggregate_plan(scan_of(log), (column("name"),), [aggregate("count_star")])
    expected, found, engine = both(plan, context_of(log))
    assert engine == "interpreted"
    assert_same_rows(expected, found, ordered=False, keys=1)


def test_a_code_outside_its_dictionary_does_not_reach_memory_it_does_not_own() -> None:
    dictionary = Dictionary(["a", "b"])
    codes = np.array([0, 1, 2**31 - 1, -5], dtype=np.int32)
    log = MemoryLog([RecordBatch(["s"], [Column(VARCHAR, codes, None, dictionary)])])
    (text,) = _references(scan_of(log))
    plan = aggregate_plan(scan_of(log), (call("upper", text),), [aggregate("count_star")])
    operator = plan_physical(plan, context_of(log, execution="compiled"))
    with pytest.raises(IndexError):  # the interpreted engine, which looks again, is checked by NumPy
        list(operator.batches())


_CAMPAIGN_TYPES = st.sampled_from([BIGINT, DOUBLE, TIMESTAMP])


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(max_examples=300, phases=(Phase.explicit, Phase.generate))
@given(
    data=rows(most=60),
    cut=st.integers(0, 30),
    condition=predicates(),
    found=st.lists(aggregations(), min_size=1, max_size=4),
    keys=group_keys(),
    outputs=st.lists(_CAMPAIGN_TYPES.flatmap(expressions), min_size=1, max_size=3),
)
def test_campaign_compiled_shapes_agree(
    data: list[tuple[Any, ...]],
    cut: int,
    condition: Expression,
    found: list[Any],
    keys: tuple[Expression, ...],
    outputs: list[Expression],
) -> None:
    log = log_of(data, cut)
    kept = Filter(scan_of(log), condition)
    expected, rows_, _ = both(aggregate_plan(kept, keys, found), context_of(log, threads=2))
    assert_same_rows(expected, rows_, ordered=False, tolerance=1e-6, keys=len(keys))
    fields = tuple(OutputField(f"c{i}", e.type) for i, e in enumerate(outputs))
    expected, rows_, _ = both(Project(kept, tuple(outputs), fields), context_of(log, threads=2))
    assert_same_rows(expected, rows_, ordered=True)
