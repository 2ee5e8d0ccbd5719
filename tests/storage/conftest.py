"""What tests of the storage share: a disk in memory, and limits so small that everything rolls all the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import SimulatedDisk
from tests.storage.simulation import SMALL_LIMITS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "disk").mkdir()
    return SimulatedDisk(str(tmp_path / "disk"))
