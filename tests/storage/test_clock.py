"""A wall clock that is wrong changes times, nothing else: retention's part of this is in test_retention.py."""

from __future__ import annotations

import fcntl
import os

import pytest

from eventdb.errors import DatabaseLocked, StorageError
from eventdb.storage import Store
from tests.faults import SimulatedDisk
from tests.storage.test_recovery import append, crash, log
from tests.storage.test_retention import HOUR, FakeClock, offsets, open_with

BOOT_IN_1970 = 5_000_000
JUMPS_US = (0, 24 * HOUR, -24 * HOUR, -48 * HOUR, 1, 20 * 365 * 24 * HOUR, -20 * 365 * 24 * HOUR)


pytestmark = pytest.mark.usefixtures("small")


def append_times(store: Store) -> list[int]:
    with store.snapshot() as snapshot:
        return [row[1] for chunk in snapshot.rows(log(store), *offsets(store)) for row in chunk]


@pytest.mark.parametrize("start_us", [BOOT_IN_1970, 1_700_000_000_000_000])
def test_append_times_never_go_back_and_a_time_is_found_where_it_is(disk: SimulatedDisk, start_us: int) -> None:
    clock = FakeClock()
    clock.wall_us = start_us
    store = open_with(disk, clock)
    jumps = 0
    for jump in JUMPS_US:
        clock.wall_us = max(BOOT_IN_1970, clock.wall_us + jump)
        jumps += jump != 0
        append(store, 30)
        assert store.append_row(log(store), ("a", 1)) == offsets(store)[1] - 1
    assert jumps == 6
    times = append_times(store)
    assert len(times) == 31 * len(JUMPS_US)
    assert times == sorted(times)
    with store.snapshot() as snapshot:
        for time in {*times, times[-1] + 1, 0}:
            wanted = next((i for i, found in enumerate(times) if found >= time), len(times))
            assert snapshot.find_time(log(store), time, 0, len(times)) == wanted
    assert store.check(deep=True) == []
    crash(disk, store, power=False)
    clock.wall_us = BOOT_IN_1970
    store = open_with(disk, clock)
    append(store, 5)
    assert append_times(store)[: len(times)] == times
    assert append_times(store) == sorted(append_times(store))
    assert store.check(deep=True) == []
    store.close()


class MadClock(FakeClock):
    """A wall clock that jumps by days at every look, and a monotonic one that goes on by 50 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.monotonic_ns = self._pass  # type: ignore[method-assign]

    def _pass(self) -> int:
        self.mono_us += 50_000
        return self.mono_us * 1000

    def time_us(self) -> int:
        self.looks += 1
        self.wall_us += (-1) ** self.looks * self.looks * 24 * HOUR
        return self.wall_us


def test_waiting_for_the_lock_ends_by_the_monotonic_clock(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.device.lock.LOCK_TIMEOUT_MS", 1_000)
    clock = MadClock()
    store = open_with(disk, clock)
    append(store, 1)
    holder = os.open(disk.root + "/db/LOCK", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    began_us = clock.mono_us
    with pytest.raises(DatabaseLocked, match="1000 ms"):
        append(store, 1)
    assert 1_000_000 <= clock.mono_us - began_us < 1_200_000
    os.close(holder)
    append(store, 1)
    assert clock.looks > 2
    store.close()


@pytest.mark.parametrize("jump", [-24 * HOUR, 24 * HOUR, -1_600_000_000_000_000])
def test_a_replaced_lock_file_is_noticed_whatever_the_clock_did(disk: SimulatedDisk, jump: int) -> None:
    """The writer looks once a second, by the wall clock."""
    clock = FakeClock()
    store = open_with(disk, clock)
    append(store, 1)
    clock.wall_us += jump
    os.unlink(disk.root + "/db/LOCK")
    with pytest.raises(StorageError, match="LOCK was removed or replaced"):
        append(store, 1)
    store.close()
