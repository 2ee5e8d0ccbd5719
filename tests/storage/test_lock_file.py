"""LOCK is one file: replacing it never lets two processes write, and is forgiven once everybody has closed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eventdb.errors import PoisonedError
from eventdb.schema import Schema
from eventdb.storage import Store

SCHEMA = Schema.from_mapping({"n": "BIGINT"})

OPEN_AND_APPEND = """
import sys
from eventdb.errors import PoisonedError
from eventdb.schema import Schema
from eventdb.storage import Store
schema = Schema.from_mapping({"n": "BIGINT"})
try:
    store = Store.open(sys.argv[1], live_topics=lambda: {1: schema})
except PoisonedError as error:
    print("refused", error)
else:
    print("stored", store.append_row(store.log(1, schema, None), (1,)))
    store.close()
"""


def open_store(path: Path) -> Store:
    return Store.open(str(path), live_topics=lambda: {1: SCHEMA})


def elsewhere(path: Path) -> str:
    command = [sys.executable, "-c", OPEN_AND_APPEND, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_second_process_with_another_lock_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    store = open_store(path)
    log = store.log(1, SCHEMA, None)
    store.append_row(log, (0,))
    assert elsewhere(path).startswith("stored 1")
    (path / "LOCK").unlink()
    assert elsewhere(path).startswith("refused")
    store.close()


@pytest.mark.parametrize("rows", [0, 3])
def test_a_database_that_lost_its_lock_file_opens_again(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "db"
    store = open_store(path)
    for n in range(rows):
        store.append_row(store.log(1, SCHEMA, None), (n,))
    (path / "LOCK").unlink()
    store._writer.look_us = 0  # type: ignore[union-attr] # look now, not within a second
    with pytest.raises(PoisonedError, match="LOCK"):
        store.append_row(store.log(1, SCHEMA, None), (9,))
    store.close()
    again = open_store(path)
    assert again.append_row(again.log(1, SCHEMA, None), (rows,)) == rows
    with again.snapshot() as snapshot:
        stored = [row[2] for chunk in snapshot.rows(again.log(1, SCHEMA, None), 0, rows + 1) for row in chunk]
    assert stored == [(n,) for n in range(rows + 1)]
    again.close()


@pytest.mark.parametrize("closed", [True, False])
def test_a_copy_that_is_opened_read_only_first_opens_for_writing_too(tmp_path: Path, closed: bool) -> None:
    """The copied page names the LOCK of the original, which was taken for a replaced one."""
    path, copy = tmp_path / "db", tmp_path / "copy"
    store = open_store(path)
    store.append_row(store.log(1, SCHEMA, None), (0,))
    if closed:
        store.close()
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("lock.mdb"), copy_function=_copy)
    store.close()
    reader = Store.open(str(copy), read_only=True, live_topics=lambda: {1: SCHEMA})
    assert elsewhere(copy) == "stored 1\n"
    (copy / "LOCK").rename(copy / "OLD")
    assert elsewhere(copy).startswith("refused"), "the copy has a LOCK of its own by now"
    with reader.snapshot() as snapshot:
        assert snapshot.offsets(reader.log(1, SCHEMA, None)) == (0, 2)
    reader.close()


def _copy(source: str, target: str) -> None:
    """By another process: this one may have the index open, whose locks it would lose."""
    subprocess.run(["cp", "-p", source, target], check=True)
