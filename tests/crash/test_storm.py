"""Writers and readers in several processes, stopped and killed at random: no history breaks a rule of the log.

In the suite three short storms; `EVENTDB_STORMS=100 pytest -m campaign tests/crash/test_storm.py` for more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.storm import Storm
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, SIGKILL and SIGSTOP")
STORMS = int(os.environ.get("EVENTDB_STORMS", "10"))
SEED = int(os.environ.get("EVENTDB_SEED", "1"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.mark.parametrize("durability", ["commit", "interval:20ms", "os"])
def test_stopped_and_killed_processes_break_no_rule_of_the_log(zygote: Zygote, tmp_path: Path, durability: str) -> None:
    tally = Storm(zygote, tmp_path, durability, seed=len(durability)).run(1)
    assert not tally.problems
    assert tally.kills.total() >= 2, str(tally)
    assert tally.stops.total() >= 2, str(tally)
    assert tally.sights >= 20, str(tally)


@pytest.mark.parametrize(("plant", "kind"), [("stale-reader", "unseen"), ("split-transaction", "torn")])
def test_the_storm_notices_a_planted_bug(zygote: Zygote, tmp_path: Path, plant: str, kind: str) -> None:
    tally = Storm(zygote, tmp_path, "os", seed=3, plant=plant).run(40, until_broken=True)
    assert kind in tally.kinds, f"{plant} went unnoticed through {tally}"


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("durability", ["commit", "interval:20ms", "os"])
def test_campaign_of_storms(
    zygote: Zygote, tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Storm(zygote, tmp_path, durability, SEED, seconds=10.0).run(-(-STORMS // 3))
    with capsys.disabled():
        print(f"\n{durability}: {tally}")
    assert not tally.problems
