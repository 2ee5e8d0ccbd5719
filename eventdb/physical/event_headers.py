"""The column `_headers`: JSON text of the headers that lie beside a partition's rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from eventdb.batch import Column, Dictionary
from eventdb.headers import headers_text
from eventdb.physical.operands import null_column
from eventdb.schema import VARCHAR


def headers_column(snapshot: Any, log: Any, first: int, count: int) -> Column:
    """The headers' text of rows [first, first + count) of the log, NULL where an event has none."""
    beside = getattr(log, "beside", None)
    if beside is None or snapshot.partition(beside.key) is None:
        return null_column(VARCHAR, count)
    start, stop = snapshot.search(beside, first), snapshot.search(beside, first + count)
    if start >= stop:
        return null_column(VARCHAR, count)
    codes = np.zeros(count, dtype=np.int32)
    valid = np.zeros(count, dtype=bool)
    texts: dict[str, int] = {}
    for part in snapshot.slices(beside, start, stop):
        rows = part.column(0).values - first
        stored = part.column(1)
        assert stored.dictionary is not None
        table = np.array([texts.setdefault(headers_text(v), len(texts)) for v in stored.dictionary.values], np.int32)
        codes[rows] = table[stored.values]
        valid[rows] = True
    return Column(VARCHAR, codes, None if valid.all() else valid, Dictionary(list(texts)))
