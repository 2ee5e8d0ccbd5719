"""The power fails while a writer writes: the promise of each durability mode holds on a real file system.

Needs root and loop devices: `pytest -m power tests/crash`. EVENTDB_CUTS sets how many cuts per mode (default 50).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.powercut import CutCampaign, unavailable
from tests.crash.zygote import Zygote

_REASON = unavailable()
pytestmark = [pytest.mark.power, pytest.mark.timeout(0), pytest.mark.skipif(_REASON is not None, reason=str(_REASON))]
CUTS = int(os.environ.get("EVENTDB_CUTS", "50"))
SEED = int(os.environ.get("EVENTDB_SEED", "1"))
PLANT_CUTS = 60
BATCHES = ("batch", "checkpoint")  # a quarter of the batches is too large for the journal


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


def test_commit_mode_loses_nothing_acknowledged(
    zygote: Zygote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = CutCampaign(zygote, tmp_path, "commit", SEED).run(CUTS)
    with capsys.disabled():
        print(f"\ncommit: {tally}")
    assert not tally.problems
    assert tally.counted >= CUTS
    assert tally.lost_acked == 0


@pytest.mark.skipif(unavailable("xfs") is not None, reason=str(unavailable("xfs")))
@pytest.mark.parametrize("durability", ["commit", "interval:50ms"])
def test_the_promises_hold_on_xfs(
    zygote: Zygote, tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = max(5, CUTS // 3)
    tally = CutCampaign(zygote, tmp_path, durability, SEED, file_system="xfs").run(cuts)
    with capsys.disabled():
        print(f"\nxfs, {durability}: {tally}")
    assert not tally.problems
    assert tally.counted >= cuts
    assert durability != "commit" or tally.lost_acked == 0


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_batches_that_are_flushed_beside_their_record_lose_nothing_acknowledged(
    zygote: Zygote, tmp_path: Path, file_system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (reason := unavailable(file_system)) is not None:
        pytest.skip(reason)
    campaign = CutCampaign(zygote, tmp_path, "commit", SEED, file_system=file_system, kinds=BATCHES)
    tally = campaign.run(CUTS)
    with capsys.disabled():
        print(f"\nbatches on {file_system}: {tally}")
    assert not tally.problems
    assert tally.counted >= CUTS
    assert tally.lost_acked == 0


@pytest.mark.parametrize("durability", ["interval:50ms", "os"])
def test_other_modes_lose_only_the_newest_commits(
    zygote: Zygote, tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = max(5, CUTS // 3)
    tally = CutCampaign(zygote, tmp_path, durability, SEED).run(cuts)
    with capsys.disabled():
        print(f"\n{durability}: {tally}")
    assert not tally.problems
    assert tally.counted >= cuts


def test_a_view_is_what_its_query_gives_after_a_cut(
    zygote: Zygote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = max(5, CUTS // 5)
    tally = CutCampaign(zygote, tmp_path, "interval:50ms", SEED, views=True).run(cuts)
    with capsys.disabled():
        print(f"\nview: {tally}")
    assert not tally.problems
    assert tally.counted >= cuts


@pytest.mark.parametrize(
    ("plant", "durability", "kinds"),
    [
        ("ack-before-flush", "commit", ()),
        ("ack-before-bulk-flush", "commit", BATCHES),
        ("checkpoint-without-pin", "interval:20ms", ()),
    ],
)
def test_the_harness_notices_a_planted_bug(
    zygote: Zygote, tmp_path: Path, plant: str, durability: str, kinds: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    campaign = CutCampaign(zygote, tmp_path, durability, SEED, plant=plant, kinds=kinds)
    tally = campaign.run(PLANT_CUTS, until_broken=True)
    with capsys.disabled():
        print(f"\n{plant}: {tally} {tally.problems[:1]}")
    assert tally.broken, f"{plant} went unnoticed through {tally}"
    assert not any("ended by itself" in text for text in tally.problems), "the plant broke its own writer, not the log"
