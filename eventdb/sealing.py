"""The helper process that seals and compacts in the background: `python -m eventdb.sealing PATH`.

Encoding holds Python's lock and loads NumPy; in a process of its own it holds up no append and costs the asking process
no memory. It may be killed at any moment, like everybody who has the database open. Ends when there is nothing left;
what cannot be sealed is a line of stdout each, for who started it (seal_process.py).
"""

from __future__ import annotations

import os
import sys

from eventdb.catalog import Catalog
from eventdb.config import COMPACT_PATIENCE_MS
from eventdb.definitions import TopicInfo
from eventdb.options import seal_after_us
from eventdb.storage.sealed.seal_process import MOST_OUTPUT_BYTES
from eventdb.storage.store import Store
from eventdb.storage.tables.superseded import waiting_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


HELD = 3  # exit status: readers of older states kept a table as it is, so the next look can wait


def main(path: str) -> int:
    """Seals and compacts what waits in the database at `path`, unless another process does. Returns the exit status."""
    if hasattr(os, "nice"):
        os.nice(10)
    catalogs: list[Catalog] = []

    def topics() -> dict[int, TopicInfo]:
        if not catalogs:
            catalogs.append(Catalog(os.path.join(path, "catalog.sqlite"), read_only=True))
        return {info.id: info for info in catalogs[0].topics()}

    store = Store.open(
        path, durability="os", create=False, live_topics=lambda: {id: info.schema for id, info in topics().items()},
        maintenance=False, seal_after=lambda topic_id: seal_after_us(topics().values(), topic_id),
    )  # fmt: skip
    try:
        store.sealer().step(lambda: False)
        failures = store.sealer().failures()
        sys.stdout.write("".join(f"{text}\n" for text in failures)[:MOST_OUTPUT_BYTES])
        held = compact_waiting(store, topics, COMPACT_PATIENCE_MS)
        return 1 if failures else HELD if held else 0
    finally:
        store.close()
        for catalog in catalogs:
            catalog.close()


def compact_waiting(store: Store, topics: Callable[[], dict[int, TopicInfo]], patience_ms: int) -> int:
    """Tables with many superseded rows are compacted, unless another process does. How many were held by readers."""
    with store.snapshot() as snapshot:
        waiting = waiting_tables(snapshot)
    if not waiting:
        return 0
    from eventdb.storage.tables.compact import compact_table

    held = 0
    with store.sealer().lease(0) as mine:
        if mine:
            live = topics()
            for info in (live[topic_id] for topic_id in waiting if topic_id in live):
                log = store.log(info.id, info.schema, None, primary_key=info.primary_key)
                held += compact_table(store, log, patience_ms=patience_ms)["held"]
    return held


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
