"""The public compliance suite of PEP 249, over topics and over tables."""

from __future__ import annotations

import shutil
import tempfile
import unittest
from typing import Any

import pytest

import eventdb.dbapi

dbapi20 = pytest.importorskip("dbapi20", reason="dbapi-compliance is in the dev extra")


class Compliance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc]
    """What the suite leaves to the driver: a fresh database, and the two optional features EventDB has not."""

    __test__ = False
    driver = eventdb.dbapi

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="eventdb-dbapi-")
        self.connect_args = (f"{self.folder}/db",)
        self.connect_kw_args: dict[str, Any] = {"durability": "os"}

    def tearDown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def test_nextset(self) -> None:
        connection = self._connect()
        assert not hasattr(connection.cursor(), "nextset")
        connection.close()

    def test_setoutputsize(self) -> None:
        connection = self._connect()
        connection.cursor().setoutputsize(1, 0)
        connection.close()

    @unittest.skip("closing twice is fine, as in sqlite3; the suite says that persons differ")
    def test_non_idempotent_close(self) -> None: ...


class TestOverTopics(Compliance):
    __test__ = True
    ddl1 = "create topic dbapi20test_booze (name varchar)"
    ddl2 = "create topic dbapi20test_barflys (name varchar, drink varchar)"


class TestOverTables(Compliance):
    __test__ = True
    ddl1 = "create table dbapi20test_booze (name varchar primary key)"
    ddl2 = "create table dbapi20test_barflys (name varchar primary key, drink varchar)"
