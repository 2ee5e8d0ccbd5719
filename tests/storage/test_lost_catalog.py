"""A database whose catalog is gone is refused: an empty one in its place would hand out ids of topics there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import CorruptionError


def missing(catalog: Path) -> None:
    catalog.unlink()


def empty(catalog: Path) -> None:
    catalog.write_bytes(b"")


def foreign(catalog: Path) -> None:
    catalog.write_bytes(b"this is a letter, not a database" * 200)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("harm", [missing, empty, foreign])
def test_a_database_without_its_catalog_is_refused_by_all(
    tmp_path: Path, harm: Callable[[Path], None], rows: int
) -> None:
    """It opened as an empty database, whose next topic took over the segments of the first."""
    path = tmp_path / "db"
    with eventdb.open(path) as db:
        log = db.create_topic("log", {"n": "BIGINT"})
        for n in range(rows):
            log.append({"n": n})
    catalog = path / "catalog.sqlite"
    whole = catalog.read_bytes()
    harm(catalog)
    harmed = catalog.read_bytes() if catalog.exists() else None
    for read_only in (False, True):
        with pytest.raises(CorruptionError, match=r"catalog\.sqlite .*restore a backup"):
            eventdb.open(path, read_only=read_only)
    with pytest.raises(CorruptionError, match=r"catalog\.sqlite .*restore a backup"):
        eventdb.repair(path)
    assert "catalog.sqlite" in eventdb.check(path)[0]
    assert (catalog.read_bytes() if catalog.exists() else None) == harmed
    catalog.write_bytes(whole)
    with eventdb.open(path) as db:
        assert [event["n"] for event in db.topic("log").read()] == list(range(rows))


def leave_in_its_first_commit(catalog: Path, scratch: Path) -> None:
    """SQLite's rollback journal lies beside the file, as a killed creator leaves it and others see it at work."""
    connection = sqlite3.connect(scratch, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE topics (id INTEGER)")
    for file in scratch.parent.glob("scratch*"):
        (catalog.parent / file.name.replace("scratch", catalog.name)).write_bytes(file.read_bytes())
    connection.execute("ROLLBACK")
    connection.close()
    assert Path(f"{catalog}-journal").exists()


@pytest.mark.parametrize("moment", ["before the catalog", "catalog begun", "catalog's first commit", "before FORMAT"])
def test_a_database_whose_creator_died_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "db"

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("eventdb.storage.device.directory.write_format", die)
        with pytest.raises(KeyboardInterrupt):
            eventdb.open(path)
    assert (path / "catalog.sqlite").exists()
    if moment == "before the catalog":
        (path / "catalog.sqlite").unlink()
    elif moment == "catalog begun":
        (path / "catalog.sqlite").write_bytes(b"")
    elif moment == "catalog's first commit":
        (path / "catalog.sqlite").unlink()
        leave_in_its_first_commit(path / "catalog.sqlite", tmp_path / "scratch")
    with eventdb.open(path) as db:
        assert db.create_topic("log", {"n": "BIGINT"}).append({"n": 1}).offset == 0
