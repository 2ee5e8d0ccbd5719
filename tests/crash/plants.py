"""Bugs planted on purpose, inside one writer process: a harness that does not notice them proves nothing.

Each entry of PLANTS breaks one rule of the storage design by replacing one function of the product.
"""

from __future__ import annotations

from collections.abc import Callable

from eventdb.storage.files import Clock


def set_boot_id(boot_id: str) -> None:
    """From now on storage sees this boot id: how a machine that lost its power looks to the next process."""
    Clock.boot_id = lambda self: boot_id  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {}
