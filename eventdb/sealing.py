"""The helper process that seals in the background: `python -m eventdb.sealing PATH`.

Encoding holds Python's lock and loads NumPy; in a process of its own it holds up no append and costs the asking process
no memory. It may be killed at any moment, like everybody who has the database open. Ends when there is nothing left.
"""

from __future__ import annotations

import os
import sys

from eventdb.catalog import Catalog
from eventdb.options import seal_after_us
from eventdb.schema import Schema
from eventdb.storage.store import Store


def main(path: str) -> None:
    """Seals what waits in the database at `path`, unless another process does."""
    if hasattr(os, "nice"):
        os.nice(10)
    catalogs: list[Catalog] = []

    def live_topics() -> dict[int, Schema]:
        if not catalogs:
            catalogs.append(Catalog(os.path.join(path, "catalog.sqlite"), read_only=True))
        return {info.id: info.schema for info in catalogs[0].topics()}

    store = Store.open(
        path, durability="os", create=False, live_topics=live_topics, maintenance=False,
        seal_after=lambda topic_id: seal_after_us(catalogs[0].topics(), topic_id),
    )  # fmt: skip
    try:
        store.sealer().step(lambda: False)
    finally:
        store.close()
        for catalog in catalogs:
            catalog.close()


if __name__ == "__main__":
    main(sys.argv[1])
