"""What a command did, for tests that run it in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Ran:
    """Exit status and what was written."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]
