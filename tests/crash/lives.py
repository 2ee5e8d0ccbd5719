"""Lives: what every campaign does with processes at work on one directory: start, wait for, and have them judged."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.history import Tail
from tests.crash.zygote import Zygote

START_SECONDS = 60.0


class Lives:
    """The processes of one campaign, in one durability mode, drawn from one seed; `settle_in` says where they work."""

    def __init__(self, zygote: Zygote, work: Path, durability: str, seed: int, plant: str) -> None:
        self._zygote = zygote
        self._work = work
        self._durability = durability
        self._rng = random.Random(seed)
        self._plant = plant

    def settle_in(self, base: Path, directory: Path | None = None) -> None:
        """From now on the database is `directory`, below `base` if None; history and output are files of `base`."""
        base.mkdir(parents=True, exist_ok=True)
        self._directory, self._history, self._output = directory or base / "db", base / "history", base / "output"
        self._facts = Tail(str(self._history))

    def start(self, name: str, *more: object) -> int:
        """The pid of a new process of that name."""
        arguments = [self._directory, self._history, "--name", name, "--durability", self._durability,
                     "--seed", self._rng.randrange(1 << 30), *more]  # fmt: skip
        if self._plant:
            arguments += ["--plant", self._plant]
        return self._zygote.run("tests.crash.writer", arguments, str(self._output))

    def await_acks(self, pid: int, name: str, count: int, stuck: Callable[[str], None]) -> None:
        """Until a writer has `count` acknowledgements or is dead; `stuck` is told if it has not."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._facts.acks(name) >= count or self._zygote.wait(pid, 0.003) is not None:
                return
        stuck(f"writer {name} got no further than {self._facts.acks(name)} acknowledgements")

    def last_words(self) -> str:
        """The end of what processes printed."""
        return _end(self._output)

    def judge(self, *more: object, seconds: float = 120) -> dict[str, Any]:
        """The checker's report, from a process of its own: a directory that kills its reader is a finding, not an
        end."""
        said = Path(f"{self._output}.check")
        said.unlink(missing_ok=True)
        arguments = [self._directory, self._history, "--durability", self._durability, *more]
        pid = self._zygote.run("tests.crash.checker", arguments, str(said))
        status = self._zygote.wait(pid, seconds)
        if status is None:
            self._zygote.kill(pid)
        text = said.read_text(encoding="utf-8", errors="replace") if os.path.exists(said) else ""
        lines = [line for line in text.splitlines() if line.startswith("{")]
        if status not in (0, 1) or not lines:
            problem = f"unopenable: the checker ended with {status}: {_end(said)}"
            return {"problems": [problem], "kinds": ["unopenable"]}
        report: dict[str, Any] = json.loads(lines[-1])
        return report


def _end(file: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return " | ".join(text.strip().splitlines()[-3:])
