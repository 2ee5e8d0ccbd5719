"""A process that maintains one windowed and one revised view of a database until it is killed.

Run as `python -m tests.stream.maintainer_process PATH`; prints `lease` once it holds the lease.
"""

from __future__ import annotations

import sys
import time

from eventdb.storage.store import Store
from eventdb.stream.runner import Runner
from eventdb.stream.view import ViewSpec, output_schema, view_spec
from tests.stream.cases import SCHEMA, SECOND, TOPIC_ID, Case, plan_of

WINDOWED = Case(
    None, ("hop", 10, 5), ("window_end", "device"), ("count_star", "sum v", "count distinct v"), None, None, 3, 2, None
)
BY_DEVICE = Case(None, None, ("device",), ("count_star", "sum v", "max d"), None, None, None, 0, None)


def open_store(path: str) -> Store:
    return Store.open(path, durability="os", live_topics=lambda: {TOPIC_ID: SCHEMA})


def specs_of(store: Store) -> list[ViewSpec]:
    """The windowed view (id 11, rows in topic 12) and the revised one (id 13)."""
    made = []
    for view_id, case in ((11, WINDOWED), (13, BY_DEVICE)):
        logs = {TOPIC_ID: store.log(TOPIC_ID, SCHEMA, 3)}
        spec = view_spec(-1, "", plan_of(case), case.facts, logs.__getitem__, emit=case.emit)
        schema = output_schema(spec.program)
        if schema is not None:
            logs[view_id + 1] = store.log(view_id + 1, schema, None)
        made.append(
            view_spec(
                view_id, f"v{view_id}", plan_of(case), case.facts, logs.__getitem__, emit=case.emit,
                grace_us=case.grace_s * SECOND, output_topic_id=None if schema is None else view_id + 1,
            )
        )  # fmt: skip
    return made


def main(path: str) -> None:
    store = open_store(path)
    specs = specs_of(store)

    def failed(view_id: int, error: Exception) -> None:
        print("failed", view_id, error, flush=True)

    runner = Runner(store, path + "/VIEWS", lambda: specs, lambda: 1, failed)
    runner.start()
    while not runner.is_maintaining:
        time.sleep(0.001)
    print("lease", flush=True)
    while runner.error is None:
        time.sleep(0.05)
    print("error", repr(runner.error), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
