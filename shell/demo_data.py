"""The observations the demo ships: a year of three weather stations, ordered by time (source: data/NOTE.md).

Only the standard library is used: the writer process of the demo starts in milliseconds.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

COLUMNS = {
    "station": "VARCHAR NOT NULL",
    "time": "TIMESTAMP NOT NULL",
    "temp": "DOUBLE",
    "dewp": "DOUBLE",
    "humid": "DOUBLE",
    "wind_dir": "INTEGER",
    "wind_speed": "DOUBLE",
    "wind_gust": "DOUBLE",
    "precip": "DOUBLE",
    "pressure": "DOUBLE",
    "visib": "DOUBLE",
}
STATIONS = ("EWR", "JFK", "LGA")
REPLAY_FROM = dt.datetime(2013, 11, 1)
FREEZING = 32.0  # degrees Fahrenheit

Observation = dict[str, Any]


def read_observations() -> list[Observation]:
    """All 26,115 observations as rows of COLUMNS, times naive UTC; missing values are None."""
    packed = files(__package__).joinpath("data", "weather.csv.gz").read_bytes()
    rows = csv.DictReader(io.StringIO(gzip.decompress(packed).decode()))
    return [{name: _parse(name, text) for name, text in row.items()} for row in rows]


def _parse(name: str, text: str) -> object:
    if not text:
        return None
    if name == "station":
        return text
    if name == "time":
        return dt.datetime.fromisoformat(text.removesuffix("Z"))
    return int(text) if COLUMNS[name] == "INTEGER" else float(text)


def history_rows(observations: Sequence[Observation]) -> int:
    """How many of the observations come before the part that is replayed live."""
    return sum(row["time"] < REPLAY_FROM for row in observations)


def as_columns(observations: Sequence[Observation]) -> dict[str, list[Any]]:
    """The rows turned into columns."""
    return {name: [row[name] for row in observations] for name in COLUMNS}


def is_freezing(row: Observation) -> bool:
    return row["temp"] is not None and row["temp"] <= FREEZING
