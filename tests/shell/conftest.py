"""Streams and databases the shell's tests share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

import eventdb
from eventdb_shell.cli import main
from eventdb_shell.session import Session
from eventdb_shell.streams import Streams
from tests.shell.command_run import Ran, Run
from tests.shell.fake_database import FakeDatabase


@pytest.fixture
def run() -> Run:
    """run("plant.eventdb", "-c", "SELECT 1", stdin="") in this process."""

    def call(*argv: str | Path, stdin: str = "") -> Ran:
        out, err = io.StringIO(), io.StringIO()
        arguments: Sequence[str] = [str(a) for a in argv]
        status = main(arguments, io.StringIO(stdin), out, err)
        return Ran(status, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    """Every database opened in the test is this one."""
    database = FakeDatabase()
    monkeypatch.setitem(vars(eventdb), "open", lambda path, **options: database)
    return database


@pytest.fixture
def session(fake: FakeDatabase) -> Session:
    streams = Streams(io.StringIO(), io.StringIO(), io.StringIO())
    return Session(streams, "fake.eventdb", mode="csv")
