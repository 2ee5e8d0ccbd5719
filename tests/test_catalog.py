"""The catalog: what may be named how, what is found by whom, and what a bad file is called."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from eventdb.catalog import Catalog, _opening
from eventdb.definitions import check_name
from eventdb.errors import (
    CatalogError,
    CorruptionError,
    DatabaseLocked,
    EventDBError,
    ReadOnlyError,
    StorageError,
    TopicExists,
    TopicNotFound,
    UsageError,
)
from eventdb.schema import DataType, Field, Schema

SCHEMA = Schema([Field("k", DataType("VARCHAR")), Field("d", DataType("DECIMAL", 10, 2), nullable=False)])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    found = Catalog(path)
    yield found
    found.close()


def test_a_topic_comes_back_as_it_was_defined(catalog: Catalog, path: str) -> None:
    made = catalog.create_topic(
        "Trades.v-2_x", SCHEMA, key="k", event_time="ts", watermark_delay_us=5, idle_after_us=6, max_future_us=7,
        options={"a": "ü"},
    )  # fmt: skip
    other = Catalog(path)
    for found in (made, other.topic("TRADES.V-2_X"), other.topic_by_id(made.id), *catalog.topics()):
        assert found is not None
        assert (found.id, found.name, found.kind, found.schema) == (made.id, "Trades.v-2_x", "topic", SCHEMA)
        assert (found.key, found.event_time, found.options) == ("k", "ts", {"a": "ü"})
        assert (found.watermark_delay_us, found.idle_after_us, found.max_future_us) == (5, 6, 7)
        assert found.created_us > 1_600_000_000_000_000
    other.close()


@pytest.mark.parametrize("name", ["a", "A9", "sensor.readings", "x-y_z", "t" * 249])
def test_names_that_may_be_given(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "1a", "_a", ".a", "-a", "a b", "a/b", "..", "ä", "a\0", "t" * 250, "eventdb.x", "EventDB.x", None, 7, b"a"],
)
def test_names_that_may_not_be_given(catalog: Catalog, name: object) -> None:
    with pytest.raises(UsageError, match="topic name"):
        catalog.create_topic(name, SCHEMA)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="topic name"):
        catalog.create_view(name, "sql", SCHEMA, stores_rows=False)  # type: ignore[arg-type]
    assert catalog.topics() == []
    assert catalog.views() == []


def test_topics_and_views_share_one_namespace_without_case(catalog: Catalog) -> None:
    catalog.create_topic("Orders", SCHEMA)
    catalog.create_view("Totals", "CREATE ...", SCHEMA, stores_rows=True)
    for name in ("orders", "ORDERS", "totals", "TOTALS"):
        with pytest.raises(TopicExists, match="already") as caught:
            catalog.create_topic(name, SCHEMA)
        assert caught.value.name.lower() == name.lower()
        with pytest.raises(TopicExists):
            catalog.create_view(name, "CREATE ...", SCHEMA, stores_rows=True)
    assert len(catalog.topics()) == 2  # the view's output is one
    assert len(catalog.views()) == 1


def test_ids_are_never_given_twice(catalog: Catalog, path: str) -> None:
    seen = set()
    for _ in range(3):
        seen.add(catalog.create_topic("t", SCHEMA).id)
        view = catalog.create_view("v", "CREATE ...", SCHEMA, stores_rows=True)
        seen.add(view.output_topic_id)
        catalog.drop_topic("T")
        catalog.drop_view("V")
    catalog.close()
    again = Catalog(path)
    seen.add(again.create_topic("t", SCHEMA).id)
    assert len(seen) == 7
    again.close()


def test_the_generation_moves_with_every_change_of_any_connection(catalog: Catalog, path: str) -> None:
    other = Catalog(path)
    start = catalog.generation(), other.generation()
    assert (catalog.generation(), other.generation()) == start
    catalog.create_topic("t", SCHEMA)
    after = catalog.generation(), other.generation()
    assert after[0] != start[0]
    assert after[1] != start[1]
    assert [topic.name for topic in other.topics()] == ["t"]
    other.drop_topic("t")
    assert catalog.generation() != after[0]
    assert catalog.topics() == []
    assert catalog.topic_by_id(1) is None
    other.create_view("x", "s", SCHEMA, stores_rows=False)
    with pytest.raises(TopicExists):
        catalog.create_topic("X", SCHEMA)
    other.close()


def test_a_view_with_rows_has_a_hidden_topic_that_goes_with_it(catalog: Catalog) -> None:
    view = catalog.create_view("v", "CREATE VIEW v", SCHEMA, stores_rows=True)
    assert (view.name, view.sql, view.schema, view.state, view.error) == ("v", "CREATE VIEW v", SCHEMA, "running", None)
    assert view.output_topic_id is not None
    output = catalog.topic_by_id(view.output_topic_id)
    assert output is not None
    assert (output.kind, output.schema) == ("view", SCHEMA)
    with pytest.raises(TopicNotFound):
        catalog.topic(output.name)
    with pytest.raises(TopicNotFound, match="materialized view"):
        catalog.topic("v")
    with pytest.raises(TopicNotFound):
        catalog.drop_topic("v")
    catalog.drop_view("v")
    assert catalog.topics() == []
    assert catalog.view_by_id(view.id) is None


def test_a_view_without_rows_has_no_topic(catalog: Catalog) -> None:
    view = catalog.create_view("v", "CREATE VIEW v", SCHEMA, stores_rows=False)
    assert view.output_topic_id is None
    assert catalog.topics() == []
    catalog.create_topic("t", SCHEMA)
    catalog.drop_view("v")
    assert [topic.name for topic in catalog.topics()] == ["t"]


def test_a_view_that_fails_says_why_to_everybody(catalog: Catalog, path: str) -> None:
    view = catalog.create_view("v", "CREATE VIEW v", SCHEMA, stores_rows=False)
    other = Catalog(path)
    catalog.fail_view(view.id, "division by zero at offset 7")
    for found in (catalog.view("V"), other.view("v")):
        assert (found.state, found.error) == ("failed", "division by zero at offset 7")
    other.close()


def test_a_missing_name_lists_those_near_it(catalog: Catalog) -> None:
    catalog.create_topic("temperature", SCHEMA)
    catalog.create_view("temperatures_daily", "s", SCHEMA, stores_rows=True)
    with pytest.raises(TopicNotFound, match="did you mean temperature") as caught:
        catalog.topic("temprature")
    assert caught.value.name == "temprature"
    assert caught.value.near[0] == "temperature"
    with pytest.raises(TopicNotFound):
        catalog.view("nothing like it")
    for drop in (catalog.drop_topic, catalog.drop_view):
        with pytest.raises(CatalogError):
            drop("absent")


def test_a_failed_change_changes_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("clock")

    before = catalog.generation()
    monkeypatch.setattr("eventdb.catalog._now_us", broken)
    with pytest.raises(RuntimeError):
        catalog.create_view("v", "s", SCHEMA, stores_rows=True)
    monkeypatch.undo()
    assert catalog.views() == []
    assert catalog.topics() == []
    assert catalog.generation() == before
    catalog.create_view("v", "s", SCHEMA, stores_rows=True)


def test_reading_only_sees_changes_and_makes_none(catalog: Catalog, path: str) -> None:
    catalog.create_topic("t", SCHEMA)
    reader = Catalog(path, read_only=True)
    assert [topic.name for topic in reader.topics()] == ["t"]
    with pytest.raises(ReadOnlyError):
        reader.create_topic("u", SCHEMA)
    with pytest.raises(ReadOnlyError):
        reader.drop_topic("t")
    catalog.create_topic("u", SCHEMA)
    assert [topic.name for topic in reader.topics()] == ["t", "u"]
    reader.close()


def test_a_file_that_is_no_catalog_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is a letter, not a database" * 200)
    for read_only in (False, True):
        with pytest.raises(CorruptionError, match=r"catalog\.sqlite does not verify"):
            Catalog(str(path), read_only=read_only).topics()
    with pytest.raises(StorageError):
        Catalog(str(tmp_path / "missing" / "catalog.sqlite"))
    with pytest.raises(StorageError):
        Catalog(str(tmp_path / "absent.sqlite"), read_only=True).topics()


def test_damaged_pages_are_typed_errors(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    made = Catalog(str(path))
    for i in range(50):
        made.create_topic(f"t{i}", SCHEMA)
    made.close()
    whole = path.read_bytes()
    for position in range(0, len(whole), 1024):
        data = bytearray(whole)
        data[position : position + 512] = b"\xa5" * len(data[position : position + 512])
        path.write_bytes(data)
        with contextlib.suppress(StorageError, CatalogError):  # anything else would be a library's
            found = Catalog(str(path))
            found.topics()
            found.close()


def test_the_file_is_the_owners_and_links_are_not_followed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Catalog(str(tmp_path / "catalog.sqlite")).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "catalog.sqlite").stat().st_mode) == 0o600
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "catalog.sqlite")
    with pytest.raises(StorageError, match=r"link\.sqlite"):
        Catalog(str(tmp_path / "link.sqlite"))


def elsewhere(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process; its first line has been read: it is where the code says."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


@pytest.mark.parametrize("moment", ["created", "made WAL"])
def test_a_catalog_whose_maker_died_is_made_whole(path: str, moment: str) -> None:
    """It stayed without WAL: readers and writers waited for each other, for ever after."""
    if moment == "created":
        with open(path, "wb"):
            pass
    else:
        connection = apsw.Connection(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    Catalog(path).close()
    with open(path, "rb") as file:
        assert file.read(20)[18:] == b"\2\2"  # SQLite's file format: WAL
    found = Catalog(path)
    assert found.create_topic("t", SCHEMA).id == 1
    found.close()


def test_a_process_that_is_stopped_while_it_opens_keeps_nobody_from_opening(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog(path).close()
    code = """
        import sys, eventdb.catalog as module
        module._harden = lambda connection: (print("there", flush=True), sys.stdin.readline())
        module.Catalog(sys.argv[1])
    """
    stopped = elsewhere(code, path)
    monkeypatch.setattr("eventdb.catalog.BUSY_TIMEOUT_MS", 200)
    Catalog(path).close()
    stopped.kill()
    stopped.communicate()


def test_a_process_that_is_stopped_while_it_makes_the_catalog_is_waited_for_and_said(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
        import sys, eventdb.catalog as module
        module._harden = lambda connection: (print("there", flush=True), sys.stdin.readline())
        module.Catalog(sys.argv[1])
    """
    stopped = elsewhere(code, path)
    monkeypatch.setattr("eventdb.catalog.BUSY_TIMEOUT_MS", 200)
    with pytest.raises(DatabaseLocked, match="is it stopped"):
        Catalog(path)
    stopped.kill()
    stopped.communicate()
    Catalog(path).close()


def test_a_child_that_was_forked_while_its_parent_opened_locks_nobody_out(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the locked directory open as long as it lives, and whoever opened waited 30 seconds in vain."""
    code = """
        import os, sys, eventdb.catalog as module
        whole, children = module._harden, []
        def fork(connection):
            whole(connection)
            if (child := os.fork()) == 0:
                sys.stdin.readline()
                os._exit(0)
        module._harden = fork
        catalog = module.Catalog(sys.argv[1])
        print("there", flush=True)
        sys.stdin.readline()
    """
    parent = elsewhere(code, path)
    monkeypatch.setattr("eventdb.catalog.BUSY_TIMEOUT_MS", 200)
    with _opening(path, fcntl.LOCK_EX):
        pass
    Catalog(path).close()
    parent.communicate("go\ngo\n")


def test_opening_the_catalog_again_keeps_the_locks_of_this_process(catalog: Catalog, path: str) -> None:
    """POSIX drops all of a process's locks on a file with any descriptor of it that is closed."""
    Catalog(path).close()
    code = """
        import fcntl, sys
        with open(sys.argv[1], "r+b") as file:
            print("there", flush=True)
            sys.stdin.readline()
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # the bytes SQLite shares
            except BlockingIOError:
                print("locked")
    """
    assert elsewhere(code, path).communicate("go\n")[0] == "locked\n"


def test_a_high_bit_set_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A name that was no longer UTF-8 ended in a UnicodeDecodeError of the library below."""
    path = tmp_path / "catalog.sqlite"
    made = Catalog(str(path), make=True)
    made.create_topic("readings", SCHEMA)
    made.close()
    whole = path.read_bytes()
    refused = 0
    for at, byte in enumerate(whole):
        if not byte or byte & 0x80:
            continue
        path.write_bytes(whole[:at] + bytes([byte | 0x80]) + whole[at + 1 :])
        try:
            catalog = Catalog(str(path))
            try:
                assert [(topic.name, topic.schema) for topic in catalog.topics()] == [("readings", SCHEMA)], at
            finally:
                catalog.close()
        except EventDBError:
            refused += 1
        for left in tmp_path.glob("catalog.sqlite-*"):
            left.unlink()
    assert refused > 100
