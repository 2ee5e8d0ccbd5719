"""Crashes by the hundred: whatever a power cut or a killed process leaves, the database comes back as it promised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.storage.head import Head
from tests.storage.simulation import SMALL_LIMITS, Simulation

MODES = ("commit", "interval:50ms", "os")
SEEDS = int(os.environ.get("EVENTDB_SEEDS", "60"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments, journal files and dictionaries are so small that everything rolls all the time."""
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Simulation]]:
    """The head's moves are places to crash at, too: the simulation in the list is told of them."""
    current: list[Simulation] = []
    whole = Head.write

    def write(self: Head, data: bytes) -> int:
        if current:
            current[0].files.tick("head")
        sequence = whole(self, data)
        if current:
            current[0].files.tick("head")
        return sequence

    monkeypatch.setattr(Head, "write", write)
    yield current
    current.clear()


def simulate(root: Path, watch: list[Simulation], seed: int, durability: str, lives: int) -> Simulation:
    directory = root / f"{seed}"
    directory.mkdir()
    simulation = Simulation(str(directory), seed, durability)
    watch[:] = [simulation]
    simulation.run(lives)
    watch.clear()
    return simulation


@pytest.mark.parametrize("durability", MODES)
def test_every_crash_leaves_what_was_promised(tmp_path: Path, watch: list[Simulation], durability: str) -> None:
    power = process = recovering = lost = 0
    for seed in range(8):
        done = simulate(tmp_path, watch, seed, durability, 14)
        power += done.disk.power_cuts
        process += done.disk.process_crashes
        recovering += done.crashes_in_recovery
        lost += done.disk.bytes_lost
    # A fault that never fired proves nothing.
    assert power > 30
    assert process > 20
    assert recovering > 5
    assert lost > 10_000


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("durability", MODES)
def test_many_crashes_leave_what_was_promised(tmp_path: Path, watch: list[Simulation], durability: str) -> None:
    for seed in range(1000, 1000 + SEEDS):
        simulate(tmp_path, watch, seed, durability, 40)
