"""db.on: what happens to views is told, in every process; and `eventdb run`, which keeps them going."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import eventdb
from tests.test_view_changes import ONE, ROOT, content, made, maintainer, until

__all__ = ["made"]

BROKEN = "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, 10 / x AS q FROM t"
SOUND = "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, 10 / x AS q FROM t WHERE x > 0"


def test_a_view_that_fails_and_goes_on_is_told(made: eventdb.Database, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str, str | None]] = []
    made.sql(BROKEN)
    made.on("failed", lambda view, error: told.append(("failed", view, error)))
    end = made.on("restarted", lambda view, error: told.append(("restarted", view, error)))
    with caplog.at_level(logging.INFO, "eventdb.views"):
        made.topic("t").append({"k": "a", "x": 0})
        until(lambda: len(told) == 1)
        made.sql(SOUND)
        until(lambda: len(told) == 2)
    assert [found[:2] for found in told] == [("failed", "v"), ("restarted", "v")]
    assert "offset 6 of t" in str(told[0][2])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    end()
    made.sql(BROKEN)
    made.sql("DROP VIEW v")
    assert len(told) == 2


def test_a_callback_may_use_the_database_and_may_fail(made: eventdb.Database) -> None:
    told: list[object] = []

    def answer(view: str, error: str | None) -> None:
        told.append(made.sql("SELECT status FROM eventdb.queries WHERE name = ?", [view]).fetchall())
        raise ValueError("a bug of the callback")

    made.sql("CREATE MATERIALIZED VIEW sound AS SELECT x FROM t")
    made.on("failed", answer)
    made.sql(BROKEN.replace("OR REPLACE ", ""))
    made.topic("t").append({"k": "a", "x": 0})
    until(lambda: told == [[("failed",)]])
    made.sql("CREATE MATERIALIZED VIEW w AS SELECT 1 / x AS q FROM t")
    until(lambda: len(told) == 2)


def test_a_process_that_does_not_maintain_is_told_too(made: eventdb.Database, path: Path) -> None:
    made.sql(BROKEN)
    made.close()
    told: list[str] = []
    with maintainer(path), eventdb.open(path, durability="os") as db:
        db.on("failed", lambda view, error: told.append(view))
        db.topic("t").append({"k": "a", "x": 0})
        until(lambda: told == ["v"])
        assert not db._views_of()._runner.is_maintaining  # type: ignore[union-attr]


def test_what_cannot_be_listened_to_says_why(made: eventdb.Database) -> None:
    with pytest.raises(eventdb.UsageError, match="failed, restarted"):
        made.on("slow", print)
    with pytest.raises(eventdb.UsageError, match="cannot be called"):
        made.on("failed", "print")  # type: ignore[arg-type]


def test_run_maintains_what_others_create_tells_what_fails_and_stops_cleanly(
    made: eventdb.Database, path: Path, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(address)
        wire.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "eventdb_shell", "run", str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NOTIFY_SOCKET": address},
        )  # fmt: skip
        try:
            assert wire.recv(100) == b"READY=1"
            made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
            made.sql("ALTER VIEW v PAUSE")
            made.sql("ALTER VIEW v RESUME")
            made.sql("CREATE MATERIALIZED VIEW w AS SELECT 1 / x AS q, k FROM t")
            made.topic("t").append({"k": "a", "x": 0})
            made.close()
            with eventdb.open(path, read_only=True) as other:
                until(lambda: other.sql("SELECT DISTINCT process FROM eventdb.queries").fetchall() == [(process.pid,)])
                until(lambda: other.stats()["views"]["v"]["lag_rows"] == 0)  # type: ignore[index]
                assert content(other, "v") == sorted(other.sql(ONE).fetchall())
                until(lambda: other._catalog.view("w").state == "failed")
            assert process.stderr is not None
            lines = [process.stderr.readline()]
            while lines[-1] and not lines[-1].startswith("view w failed: w stopped at offset 6"):
                lines.append(process.stderr.readline())
            assert lines[-1], lines
            process.send_signal(signal.SIGTERM)
            assert wire.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0
            lines += process.stderr.read().splitlines()
        finally:
            process.kill()
            process.wait()
    assert lines[0].startswith("running ")
    assert lines[-1] == "stopped"
