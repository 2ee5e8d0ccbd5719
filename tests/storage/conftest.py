"""What tests of the storage share: a disk in memory, and limits so small that everything rolls all the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.storage import store as store_module
from tests.faults import SimulatedDisk, SimulatedFiles, let_go
from tests.storage.simulation import SMALL_LIMITS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_LIMITS.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "disk").mkdir()
    return SimulatedDisk(str(tmp_path / "disk"))


@pytest.fixture(autouse=True)
def _no_simulated_store_is_left() -> Iterator[None]:
    """A life that ended in an assertion leaves its store open: the next test must not find it, nor its crash."""
    yield
    for store in list(store_module._stores.values()):
        if isinstance(store._files, SimulatedFiles):
            let_go(store)
