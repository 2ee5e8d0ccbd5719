"""What the catalog notes of a view that is there: paused or running, another text, another view in its place.

Each function is one transaction of the catalog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventdb.definitions import REBUILD
from eventdb.errors import TopicNotFound

if TYPE_CHECKING:
    from eventdb.catalog import Catalog
    from eventdb.definitions import ViewInfo
    from eventdb.schema import Schema


def move_state(catalog: Catalog, id: int, state: str, before: tuple[str, ...]) -> bool:
    """Whether the view was in one of the states `before`, and is in `state` now."""

    def work() -> bool:
        marks = ", ".join("?" * len(before))
        catalog._connection.execute(f"UPDATE views SET state = ? WHERE id = ? AND state IN ({marks})",
                                    (state, id, *before))  # fmt: skip
        return catalog._connection.changes() > 0

    return catalog._change(work)


def set_text(catalog: Catalog, info: ViewInfo, sql: str, schema: Schema) -> None:
    """The view has another text and other columns, and goes on from its state."""
    catalog._change(
        lambda: catalog._connection.execute(
            "UPDATE views SET sql = ?, schema = ? WHERE id = ?", (sql, schema.to_text(), info.id)
        )
    )


def begin_rebuild(
    catalog: Catalog, info: ViewInfo, sql: str, schema: Schema, start: int, *, stores_rows: bool
) -> tuple[ViewInfo, list[ViewInfo]]:
    """A view that will take the place of `info`, beginning at offset `start` of its topic; and those that were to do so
    before and are gone. TopicNotFound if `info` was dropped."""

    def work() -> tuple[int, list[ViewInfo]]:
        if catalog.view_by_id(info.id) is None:
            raise TopicNotFound(f"the view {info.name!r} was dropped", name=info.name)
        before = [other for other in catalog.rebuilds() if other.replaces[0] == info.id]
        for other in before:
            catalog._remove_view(other)
        name = f"{REBUILD}{info.id}/{start}"
        return catalog._insert_view(name, sql, schema, stores_rows=stores_rows), before

    id, before = catalog._change(work)
    made = catalog.view_by_id(id)
    if made is None:
        raise TopicNotFound(f"the view {info.name!r} was dropped at this moment", name=info.name)
    return made, before


def remove_rebuild(catalog: Catalog, info: ViewInfo) -> bool:
    """Whether the rebuild was there; it is gone."""

    def work() -> bool:
        found = catalog.view_by_id(info.id)
        if found is None or not found.is_rebuild:
            return False
        catalog._remove_view(found)
        return True

    return catalog._change(work)


def swap_in(catalog: Catalog, rebuild: ViewInfo) -> ViewInfo | None:
    """The rebuild takes the place of its view, which is returned and is gone; a paused one stays paused. None if the
    rebuild is gone; it goes, too, if its view has."""

    def work() -> ViewInfo | None:
        found = catalog.view_by_id(rebuild.id)
        if found is None or not found.is_rebuild or found.state != "running":
            return None
        old = catalog.view_by_id(found.replaces[0])
        if old is None:
            catalog._remove_view(found)
            return None
        catalog._remove_view(old)
        state = "paused" if old.state in ("paused", "pausing") else "running"
        catalog._connection.execute("UPDATE views SET name = ?, state = ?, error = NULL WHERE id = ?",
                                    (old.name, state, found.id))  # fmt: skip
        return old

    return catalog._change(work)


def gone_ids(catalog: Catalog) -> list[int]:
    """The ids of all views that were ever there and are not."""
    last = catalog._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'views'").get or 0
    live = {info.id for info in [*catalog.views(), *catalog.rebuilds(), *catalog.plain_views().values()]}
    return [id for id in range(1, last + 1) if id not in live]
