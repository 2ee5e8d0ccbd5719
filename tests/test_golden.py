"""Every script of tests/golden on both executions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import EventDBError, InternalError

from .slt_runner import run_script

SCRIPTS = sorted((Path(__file__).parent / "golden").glob("*.slt"))


@pytest.mark.parametrize("execution", ["interpreted", "compiled"])
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_golden(script: Path, execution: str) -> None:
    db = eventdb.open(":memory:")

    def execute(sql: str) -> tuple[list[str], list[Any]]:
        try:
            result = db.sql(sql)
            return [str(type) for type in result.types], result.fetchall()
        except InternalError as error:
            raise AssertionError(f"InternalError: {error}") from error

    try:
        db.sql(f"SET execution = '{execution}'")
        text = script.read_text(encoding="utf-8")
        ran = run_script(text, execute, name=script.name, labels=frozenset([execution]), errors=EventDBError)
        assert ran > 0
    finally:
        db.close()
