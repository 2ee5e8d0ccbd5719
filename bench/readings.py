"""The deterministic data of the append benchmarks: readings of 1,000 devices, six columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

COLUMNS = {
    "ts": "TIMESTAMP",
    "device": "VARCHAR",
    "status": "VARCHAR",
    "temp": "DOUBLE",
    "humidity": "DOUBLE",
    "count": "BIGINT",
}
SQL_COLUMNS = "ts TIMESTAMP, device VARCHAR, status VARCHAR, temp DOUBLE, humidity DOUBLE, count BIGINT"
STATUSES = ("ok", "ok", "ok", "warm", "hot", "offline")
DEVICES = 1_000


def event(n: int) -> dict[str, Any]:
    """The n-th reading; `ts` in microseconds since 1970, which every database here stores as it is."""
    return {
        "ts": 1_704_067_200_000_000 + n * 1_000,
        "device": f"device-{n * 7919 % DEVICES}",
        "status": STATUSES[n % len(STATUSES)],
        "temp": 20.0 + n % 977 * 0.01,
        "humidity": n % 101 * 0.5,
        "count": n,
    }


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [event(n) for n in range(first, first + count)]


def table(count: int) -> pyarrow.Table:
    """The same readings as an Arrow table, `ts` as timestamp[us]."""
    import numpy as np
    import pyarrow as pa

    n = np.arange(count, dtype=np.int64)
    devices = np.array([f"device-{i}" for i in range(DEVICES)], dtype=object)
    statuses = np.array(STATUSES, dtype=object)
    return pa.table(
        {
            "ts": pa.array(1_704_067_200_000_000 + n * 1_000).cast(pa.timestamp("us")),
            "device": pa.array(devices[n * 7919 % DEVICES], pa.string()),
            "status": pa.array(statuses[n % len(STATUSES)], pa.string()),
            "temp": 20.0 + n % 977 * 0.01,
            "humidity": n % 101 * 0.5,
            "count": n,
        }
    )
