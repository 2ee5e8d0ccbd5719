"""A writer process is killed with SIGKILL at any moment: nothing acknowledged is lost, doubled, torn or moved.

In the suite about 40 counted kills; `EVENTDB_KILLS=1000 pytest -m campaign tests/crash` for as many as you like.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.campaign import Campaign
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and SIGKILL")
MODES = ("commit", "interval:20ms", "os")
SUITE_KILLS = 13
CAMPAIGN_KILLS = int(os.environ.get("EVENTDB_KILLS", "200"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.mark.parametrize("durability", MODES)
def test_a_killed_writer_loses_nothing_acknowledged(zygote: Zygote, tmp_path: Path, durability: str) -> None:
    tally = Campaign(zygote, tmp_path, durability, seed=len(durability)).run(SUITE_KILLS)
    assert not tally.problems
    assert tally.counted >= SUITE_KILLS


def test_a_view_survives_the_kill_of_its_maintainer(zygote: Zygote, tmp_path: Path) -> None:
    tally = Campaign(zygote, tmp_path, "interval:20ms", seed=4, views=True).run(3)
    assert not tally.problems
    assert tally.counted >= 3


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [("split-transaction", ["transaction"]), ("write-behind", ["append"]), ("sequence-apart", [])],
)
def test_the_harness_notices_a_planted_bug(zygote: Zygote, tmp_path: Path, plant: str, kinds: list[str]) -> None:
    senders = 1.0 if plant == "sequence-apart" else 0.0
    campaign = Campaign(zygote, tmp_path, "os", seed=5, plant=plant, senders=senders, kinds=kinds)
    tally = campaign.run(200)  # the operation that the plant breaks, again and again: caught within a few kills
    assert tally.problems, f"{plant} went unnoticed through {tally}"
    assert not any("ended by itself" in text for text in tally.problems), "the plant broke its own writer, not the log"


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_the_harness_notices_a_sink_that_is_written_apart_from_its_state(zygote: Zygote, tmp_path: Path) -> None:
    tally = Campaign(zygote, tmp_path, "os", seed=6, plant="sink-apart", senders=0.0, views=True).run(60)
    assert any(text.startswith("sink") for text in tally.problems), f"it went unnoticed through {tally}"


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("durability", MODES)
def test_campaign_of_kills(zygote: Zygote, tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]) -> None:
    kills = -(-CAMPAIGN_KILLS // len(MODES))
    campaign = Campaign(zygote, tmp_path, durability, seed=int(os.environ.get("EVENTDB_SEED", "1")))
    tally = campaign.run(kills)
    with capsys.disabled():
        print(f"\n{durability}: {tally}")
    assert not tally.problems
    assert tally.counted >= kills


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_campaign_of_kills_with_views(zygote: Zygote, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kills = max(5, CAMPAIGN_KILLS // 10)
    tally = Campaign(zygote, tmp_path, "commit", seed=2, views=True).run(kills)
    with capsys.disabled():
        print(f"\nviews: {tally}")
    assert not tally.problems
    assert tally.counted >= kills
