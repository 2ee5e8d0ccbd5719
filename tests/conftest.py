"""What every test may use: a database with one topic.

Hypothesis draws the same examples on every run unless told otherwise: `pytest --hypothesis-profile=search`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import eventdb

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("suite", max_examples=40, deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("search", max_examples=1_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile("suite")

COLUMNS = {"device": "VARCHAR NOT NULL", "temp": "DOUBLE", "n": "BIGINT", "ts": "TIMESTAMP"}
GOOD = {"device": "d1", "temp": 21.5, "n": 1, "ts": dt.datetime(2024, 1, 1)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


@pytest.fixture
def db(path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(path, durability="os") as opened:
        yield opened


@pytest.fixture
def topic(db: eventdb.Database) -> eventdb.Topic:
    return db.create_topic("readings", COLUMNS, event_time="ts", key="device")
