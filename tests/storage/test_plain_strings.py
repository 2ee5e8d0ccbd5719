"""Strings stored without codes get them when columns are read: from Arrow where many are read and the process has it
loaded, one by one otherwise. Both ways, and the reader of events, give the same values."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.storage.segment import columns

ROWS = 5_000


def values(draw: random.Random) -> list[dict[str, Any]]:
    """A text of more than 2 KB makes its column plain at once; a BLOB always is."""
    rows: list[dict[str, Any]] = [{"s": "x" * 3_000, "b": b"\xff" * 5}]
    for _ in range(ROWS - 1):
        text = draw.choice([None, "", "a", "ä", "a\0", "日本", f"t{draw.randrange(900)}"])
        data = draw.choice([None, b"", b"\0", b"\xff\xfe", b"%d" % draw.randrange(900)])
        rows.append({"s": text, "b": data})
    return rows


@pytest.mark.parametrize("loaded", [True, False])
def test_columns_of_plain_strings_hold_the_values_of_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    pytest.importorskip("pyarrow")
    rows = values(random.Random(7))
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("log", {"s": "VARCHAR", "b": "BLOB"})
        topic.append_many(rows)
        calls: list[int] = []
        arrow = sys.modules["pyarrow"]
        if not loaded:
            monkeypatch.delitem(sys.modules, "pyarrow")
        log = db._log_of(db._catalog.topic("log"))
        with db._store.snapshot() as snapshot:
            for first in (0, 1, 2_345):
                for part in snapshot.slices(log, first, ROWS):
                    assert part.is_plain(0)
                    assert part.is_plain(1)
                    for i, name in enumerate(("s", "b")):
                        found = part.column(i)
                        calls.append(len(found))
                        start = part.first_offset
                        expected = [row[name] for row in rows[start : start + part.row_count]]
                        assert found.to_pylist() == expected
                        assert found.dictionary is not None
                        assert len(set(found.dictionary.values)) == len(found.dictionary)
        sys.modules["pyarrow"] = arrow
        assert max(calls) > columns._MANY_VALUES
        assert [event.row for event in topic.read()] == rows
