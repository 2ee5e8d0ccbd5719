"""A process that works on the views of a database, and may die in the middle.

Run as `python -m tests.view_process PATH maintain`, which prints `lease` and maintains until it is killed, or as
`... PATH STEP SQL...`, which runs the statements, waits for what they began, and exits with 9 where it comes to STEP.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import eventdb
from eventdb import view_changes

STEPS = ("noted", "begun", "caught up", "swapped", "cleared")


def die_at(step: str) -> None:
    def dying(function: Any, before: bool) -> Any:
        def run(*args: Any, **named: Any) -> Any:
            made = None if before else function(*args, **named)
            os._exit(9)
            return made

        return run

    if step == "letters":
        from eventdb.stream import task

        for kind in (task.ViewTask, task.CircuitTask):
            save = kind.save

            def dying_with_letters(self: Any, transaction: Any, save: Any = save) -> bool:
                if self.broken:
                    os._exit(9)
                return bool(save(self, transaction))

            kind.save = dying_with_letters  # type: ignore[method-assign]
        return
    names = {
        "noted": ("begin_rebuild", False), "begun": ("begin", False), "caught up": ("swap_in", True),
        "swapped": ("swap_in", False), "cleared": ("clear", False),
    }  # fmt: skip
    name, before = names[step]
    changed = dying(getattr(view_changes, name), before)
    setattr(view_changes, name, changed)
    if name == "begin":
        from eventdb import views

        views.begin = changed  # type: ignore[attr-defined]


def main(path: str, step: str, statements: list[str]) -> None:
    if step in (*STEPS, "letters"):
        die_at(step)
    with eventdb.open(path, durability="os") as db:
        if step == "maintain":
            db._refresh_catalog()
            runner = db._views_of()._runner
            while runner is None or not runner.is_maintaining:
                time.sleep(0.001)
            print("lease", flush=True)
            while True:
                time.sleep(0.1)
        for statement in statements:
            db.sql(statement)
        while db._catalog.rebuilds() or step == "letters":
            time.sleep(0.002)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
