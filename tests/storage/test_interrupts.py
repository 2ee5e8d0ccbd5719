"""Ctrl-C at any instant of an append leaves a store that goes on: nothing acknowledged lost, nothing stored twice."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.errors import OutcomeUnknown, UsageError
from eventdb.schema import Schema
from eventdb.storage import PartitionLog, Store
from eventdb.storage.device.files import Files

SCHEMA = Schema.from_mapping({"n": "BIGINT", "name": "VARCHAR"})
SECONDS = 3.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(str(tmp_path / "db"), durability="os", live_topics=lambda: {1: SCHEMA})
    yield store
    store.close()


@pytest.fixture
def timer() -> Iterator[random.Random]:
    """SIGALRM raises KeyboardInterrupt, as SIGINT does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield random.Random(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def append(store: Store, log: PartitionLog, n: int) -> None:
    """One row by one of three ways: alone, alone with a new dictionary value, in a transaction with a key."""
    if n % 7 == 0:
        with store.write() as transaction:
            transaction.append_rows(log, [(n, "batch")])
            transaction.put(b"last", b"%d" % n)
    else:
        store.append_row(log, (n, f"new{n}" if n % 13 == 0 else "known"))


def test_an_interrupt_at_any_instant_leaves_the_store_working(store: Store, timer: random.Random) -> None:
    log = store.log(1, SCHEMA, None)
    acknowledged: list[int] = []
    n = interrupts = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            signal.setitimer(signal.ITIMER_REAL, timer.choice([5e-5, 5e-4, 2e-3]) * (1 + timer.random()))
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                n += 1
                append(store, log, n)
                acknowledged.append(n)
        except KeyboardInterrupt:
            interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    with store.snapshot() as snapshot:
        start, stop = snapshot.offsets(log)
        rows = [values for chunk in snapshot.rows(log, start, stop) for _, _, values in chunk]
    stored = [row[0] for row in rows]
    assert interrupts > 100
    assert stored == sorted(set(stored))
    assert set(acknowledged) <= set(stored) <= set(range(1, n + 1))
    names = {0: "batch"}
    assert all(name == names.get(k % 7, f"new{k}" if k % 13 == 0 else "known") for k, name in rows)
    assert store.check(deep=True) == []


class Slow(Files):
    """Flushes nothing, and takes its time."""

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        time.sleep(1e-4)


def test_an_interrupt_at_any_instant_leaves_the_group_going(tmp_path: Path, timer: random.Random) -> None:
    store = Store.open(str(tmp_path / "group"), files=Slow(), live_topics=lambda: {1: SCHEMA})
    log = store.log(1, SCHEMA, None)
    acknowledged: list[list[int]] = [[] for _ in range(4)]
    unknown: list[int] = []
    n = interrupts = 0
    deadline = time.monotonic() + SECONDS

    def work(thread: int) -> None:
        k = 0
        while time.monotonic() < deadline:
            k += 1
            try:
                store.append_row(log, (4 * k + thread, f"new{k}" if k % 50 == 0 else "known"))
                acknowledged[thread].append(4 * k + thread)
            except OutcomeUnknown:  # the interrupted thread led the group
                unknown.append(4 * k + thread)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(1, 4)]
    for thread in threads:
        thread.start()
    while time.monotonic() < deadline:
        try:
            signal.setitimer(signal.ITIMER_REAL, timer.choice([5e-5, 5e-4, 2e-3]) * (1 + timer.random()))
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                n += 4
                store.append_row(log, (n, "known"))
                acknowledged[0].append(n)
        except KeyboardInterrupt:
            interrupts += 1
        except OutcomeUnknown:
            unknown.append(n)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    with store.snapshot() as snapshot:
        stored = [row[2][0] for chunk in snapshot.rows(log, *snapshot.offsets(log)) for row in chunk]
    assert interrupts > 100
    assert len(stored) == len(set(stored))
    for i in range(4):
        mine = [k for k in stored if k % 4 == i]
        assert mine == sorted(mine)
        assert set(acknowledged[i]) <= set(mine)
        assert i == 0 or set(mine) <= {*acknowledged[i], *unknown}
    assert store.check(deep=True) == []
    store.close()


def test_a_transaction_that_nobody_ended_ends_with_its_last_reference(store: Store) -> None:
    # What Ctrl-C before the first line of __exit__ amounts to.
    log = store.log(1, SCHEMA, None)
    transaction = store.write()
    transaction.__enter__()
    transaction.append_row(log, (1, "lost"))
    with pytest.raises(UsageError, match="open"):
        store.append_row(log, (2, "refused"))
    del transaction
    assert store.append_row(log, (3, "stored")) == 0
    with store.snapshot() as snapshot:
        assert [row[2] for chunk in snapshot.rows(log, 0, 1) for row in chunk] == [(3, "stored")]


def test_a_transaction_inside_another_is_refused_and_the_outer_one_goes_on(store: Store) -> None:
    log = store.log(1, SCHEMA, None)
    with store.write() as outer:
        outer.append_row(log, (1, "a"))
        inner = store.write()
        with pytest.raises(UsageError, match="finish it"), inner:
            raise AssertionError("the inner transaction was entered")
        del inner
        outer.append_row(log, (2, "b"))
    with store.snapshot() as snapshot:
        assert snapshot.offsets(log) == (0, 2)
