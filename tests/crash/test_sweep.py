"""Every system call on storage fails once, and the process is killed at each: see sweep.py.

The suite runs a draw of the points. All of them: `pytest -m campaign tests/crash/test_sweep.py` (half an hour);
EVENTDB_SEED draws others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.sweep import Point, Sweep, SweepTally, unavailable
from tests.crash.sweep_victim import SWEPT
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
POINTS = int(os.environ.get("EVENTDB_POINTS", "7"))  # of each scenario
SEED = int(os.environ.get("EVENTDB_SEED", "1"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture
def sweep(zygote: Zygote, tmp_path: Path) -> Sweep:
    return Sweep(zygote, tmp_path)


def draw(points: list[Point], rng: random.Random) -> list[Point]:
    """As many of each fault: most points are writes of the same few kinds."""
    faults = sorted({point.fault for point in points})
    return [rng.choice([p for p in points if p.fault == faults[i % len(faults)]]) for i in range(POINTS)]


@pytest.mark.parametrize("scenario", SWEPT)
def test_a_failing_call_or_a_kill_at_it_loses_doubles_and_breaks_nothing(sweep: Sweep, scenario: str) -> None:
    tally = SweepTally()
    for point in draw(sweep.points(scenario), random.Random(f"{scenario} {SEED}")):
        tally.add(sweep.strike(point))
    assert not tally.problems, str(tally)
    assert tally.fired.total() == POINTS


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("scenario", SWEPT)
def test_campaign_of_every_call(sweep: Sweep, scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    tally = SweepTally()
    for point in sweep.points(scenario):
        tally.add(sweep.strike(point))
    with capsys.disabled():
        print(f"\n{tally}")
    assert not tally.problems


def test_a_recovery_that_is_killed_again_and_again_converges(sweep: Sweep) -> None:
    rng = random.Random(SEED)
    kills = [point for point in sweep.points("reopen") if point.fault == "kill"]
    fired = 0
    for _ in range(3):
        killed, problems = sweep.kill_again_and_again(kills, rng, lives=5)
        assert not problems
        fired += killed
    assert fired >= 8


@pytest.mark.parametrize(
    ("plant", "scenario", "call", "fault"),
    [
        ("record-not-written", "append", "fdatasync", "kill"),
        ("unseen-is-absent", "recovery", "newfstatat", "EIO"),
        ("segments-unlinked-first", "retention", "fdatasync", "kill"),
    ],
)
def test_the_sweep_notices_a_planted_bug(
    zygote: Zygote, tmp_path: Path, plant: str, scenario: str, call: str, fault: str
) -> None:
    points = [p for p in Sweep(zygote, tmp_path).points(scenario) if (p.call, p.fault) == (call, fault)]
    (tmp_path / "planted").mkdir()
    sweep = Sweep(zygote, tmp_path / "planted", plant)
    assert any(sweep.strike(point).problems for point in points), f"{plant} went unnoticed at {len(points)} points"
