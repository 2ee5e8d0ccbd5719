"""The catalog: names, definitions, several connections, damage."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.catalog import Catalog, TopicInfo, check_name
from eventdb.errors import (
    CatalogError,
    CorruptionError,
    ReadOnlyError,
    StorageError,
    TopicExists,
    TopicNotFound,
    UsageError,
)
from eventdb.schema import Schema

SCHEMA = Schema.from_mapping({"id": "BIGINT NOT NULL", "at": "TIMESTAMP", "price": "DECIMAL(10,2)", "name": "VARCHAR"})


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    catalog = Catalog(path)
    yield catalog
    catalog.close()


def content(info: TopicInfo) -> tuple[object, ...]:
    return tuple(getattr(info, name) for name in TopicInfo.__slots__)


def test_a_definition_comes_back_whole_after_reopening(path: str) -> None:
    catalog = Catalog(path)
    made = catalog.create_topic(
        "Orders", SCHEMA, key="id", event_time="at", watermark_delay_us=5_000_000, idle_after_us=60_000_000,
        max_future_us=1, options={"note": "ünï"},
    )  # fmt: skip
    catalog.close()
    again = Catalog(path)
    found = again.topic("orders")
    assert content(found) == content(made)
    assert found.schema == SCHEMA
    assert found.options == {"note": "ünï"}
    assert found.created_us > 1_600_000_000_000_000
    again.close()


def test_names_are_found_without_case_and_keep_the_one_they_were_given(catalog: Catalog) -> None:
    catalog.create_topic("MiXed", SCHEMA)
    assert catalog.topic("mixed").name == "MiXed"
    assert catalog.topic("MIXED").id == catalog.topic("MiXed").id


def test_topics_and_views_share_one_namespace(catalog: Catalog) -> None:
    catalog.create_topic("orders", SCHEMA)
    catalog.create_view("totals", "CREATE MATERIALIZED VIEW ...", SCHEMA, stores_rows=False)
    for taken in ("orders", "ORDERS", "totals", "Totals"):
        with pytest.raises(TopicExists) as raised:
            catalog.create_topic(taken, SCHEMA)
        assert raised.value.name.lower() == taken.lower()
        with pytest.raises(TopicExists):
            catalog.create_view(taken, "CREATE ...", SCHEMA, stores_rows=True)
    assert [info.name for info in catalog.topics()] == ["orders"]
    assert [info.name for info in catalog.views()] == ["totals"]


def test_a_missing_name_lists_near_ones(catalog: Catalog) -> None:
    catalog.create_topic("temperature", SCHEMA)
    with pytest.raises(TopicNotFound) as raised:
        catalog.topic("temprature")
    assert raised.value.near == ("temperature",)
    assert "temperature" in str(raised.value)
    with pytest.raises(TopicNotFound):
        catalog.view("nothing_like_it")


def test_a_view_asked_for_as_a_topic_says_so(catalog: Catalog) -> None:
    catalog.create_view("totals", "CREATE ...", SCHEMA, stores_rows=False)
    with pytest.raises(TopicNotFound, match="view"):
        catalog.topic("totals")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "_hidden",
        "a b",
        "a/b",
        "../x",
        "a\0",
        "é",
        "eventdb.x",
        "EVENTDB.x",
        "a" * 250,
        "-a",
        ".",
        "a'b",
        'a"b',
        None,
        7,
    ],
)
def test_a_name_that_no_topic_may_have_is_refused(catalog: Catalog, name: object) -> None:
    with pytest.raises(UsageError, match="name"):
        catalog.create_topic(name, SCHEMA)  # type: ignore[arg-type]
    assert catalog.topics() == []


@given(st.text(max_size=30))
def test_every_accepted_name_is_plain(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    assert name.isascii()
    assert name[0].isalpha()
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_ids_are_never_used_again(catalog: Catalog, path: str) -> None:
    seen = set()
    for _ in range(3):
        info = catalog.create_topic("t", SCHEMA)
        assert info.id not in seen
        seen.add(info.id)
        catalog.drop_topic("t")
    catalog.close()
    catalog.__init__(path)  # type: ignore[misc]
    assert catalog.create_topic("t", SCHEMA).id not in seen
    assert all(catalog.topic_by_id(id) is None for id in seen)


def test_dropping_what_is_not_there_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(TopicNotFound):
        catalog.drop_topic("t")
    with pytest.raises(TopicNotFound):
        catalog.drop_view("v")


def test_a_view_that_stores_rows_has_a_hidden_topic_that_goes_with_it(catalog: Catalog) -> None:
    view = catalog.create_view("v", "CREATE ...", SCHEMA, stores_rows=True)
    assert view.output_topic_id is not None
    output = catalog.topic_by_id(view.output_topic_id)
    assert output is not None
    assert output.kind == "view"
    with pytest.raises(TopicNotFound):
        catalog.topic(output.name)
    catalog.drop_view("V")
    assert catalog.topics() == []
    assert catalog.views() == []


def test_a_failed_view_keeps_its_reason(catalog: Catalog) -> None:
    view = catalog.create_view("v", "CREATE ...", SCHEMA, stores_rows=False)
    assert (view.state, view.error) == ("running", None)
    catalog.fail_view("v", "division by zero at offset 7")
    found = catalog.view_by_id(view.id)
    assert found is not None
    assert (found.state, found.error) == ("failed", "division by zero at offset 7")


def test_the_generation_changes_with_ddl_of_any_connection_and_only_then(path: str) -> None:
    first, second = Catalog(path), Catalog(path)
    try:
        before = first.generation(), second.generation()
        assert (first.generation(), second.generation()) == before
        first.create_topic("t", SCHEMA)
        after = first.generation(), second.generation()
        assert after[0] != before[0]
        assert after[1] != before[1]
        assert second.topic("t").id == first.topic("t").id
        second.drop_topic("t")
        with pytest.raises(TopicNotFound):
            first.topic("t")
        assert first.generation() != after[0]
    finally:
        first.close()
        second.close()


def test_two_connections_that_create_the_same_name_at_once_give_one_topic(path: str) -> None:
    catalogs = [Catalog(path) for _ in range(2)]
    start = threading.Barrier(2)
    results: list[list[str]] = [[], []]

    def run(i: int) -> None:
        start.wait()
        for n in range(10):
            try:
                catalogs[i].create_topic(f"t{n}", SCHEMA)
                results[i].append("made")
            except TopicExists:
                results[i].append("taken")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sorted(pair) == ["made", "taken"] for pair in zip(*results, strict=True))
    assert len(catalogs[0].topics()) == 10
    for catalog in catalogs:
        catalog.close()


def test_a_failed_change_changes_nothing(catalog: Catalog) -> None:
    catalog.create_view("v", "CREATE ...", SCHEMA, stores_rows=True)
    before = catalog.generation()
    with pytest.raises(TopicExists):
        catalog.create_view("V", "CREATE ...", SCHEMA, stores_rows=True)
    assert catalog.generation() == before
    assert len(catalog.topics()) == len(catalog.views()) == 1
    catalog.create_topic("t", SCHEMA)


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        catalog = Catalog(str(tmp_path / "catalog.sqlite"))
        catalog.create_topic("t", SCHEMA)
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
        catalog.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes


def test_read_only_shows_everything_and_changes_nothing(catalog: Catalog, path: str) -> None:
    catalog.create_topic("t", SCHEMA)
    reader = Catalog(path, read_only=True)
    try:
        assert reader.topic("t").schema == SCHEMA
        with pytest.raises(ReadOnlyError):
            reader.create_topic("u", SCHEMA)
        catalog.create_topic("u", SCHEMA)
        assert reader.topic("u").name == "u"
    finally:
        reader.close()


def test_a_missing_catalog_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Catalog(str(tmp_path / "catalog.sqlite"), read_only=True)


@pytest.mark.parametrize(
    "damage", [b"this is not a database, and never was one" * 200, b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_a_file_that_is_no_catalog_is_a_typed_error(path: str, damage: bytes) -> None:
    Path(path).write_bytes(damage)
    with pytest.raises(CorruptionError, match=r"catalog\.sqlite"):
        Catalog(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"")
    (tmp_path / "catalog.sqlite").symlink_to(target)
    with pytest.raises(StorageError, match=r"catalog\.sqlite"):
        Catalog(str(tmp_path / "catalog.sqlite"))
    assert target.read_bytes() == b""


def test_an_error_of_the_library_never_leaks(catalog: Catalog, path: str) -> None:
    catalog.create_topic("t", SCHEMA)
    catalog.close()
    with pytest.raises((CatalogError, StorageError)):
        catalog.topics()
