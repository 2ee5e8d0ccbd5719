"""LMDB for several simulated processes in one: each opens "its own" environment, all of them are the same real one.

py-lmdb refuses to open a file twice in a process. What EventDB builds on works inside one environment, too: any number
of read transactions, one writer, and pages that are reused only when no reader, whosever it is, can reach them. So the
file, its page reuse and its two meta pages are LMDB's own; only the opening and the reader slots are simulated.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import lmdb

_open = lmdb.open


class SharedEnvironments:
    """Stands in for lmdb.open: `SharedEnvironments().open`."""

    def __init__(self) -> None:
        self._real: dict[tuple[int, int], tuple[Any, set[Environment]]] = {}

    def open(self, directory: str, *, readonly: bool, **options: Any) -> Environment:
        status = os.stat(os.path.join(directory, "data.mdb"))
        key = (status.st_dev, status.st_ino)
        if key not in self._real:
            self._real[key] = (_open(directory, readonly=False, **options | {"create": True, "lock": True}), set())
        real, users = self._real[key]
        environment = Environment(self, key, real, readonly)
        users.add(environment)
        return environment

    def release(self, environment: Environment) -> None:
        real, users = self._real[environment.key]
        users.discard(environment)
        if not users:
            del self._real[environment.key]
            real.close()


class Environment:
    """What one process has open. Closing it ends the transactions it left, as the end of the process would."""

    def __init__(self, owner: SharedEnvironments, key: tuple[int, int], real: Any, readonly: bool) -> None:
        self.key = key
        self._owner = owner
        self._real = real
        self._readonly = readonly
        self._transactions: weakref.WeakSet[Any] = weakref.WeakSet()
        self._closed = False
        self.stat, self.info, self.sync = real.stat, real.info, real.sync
        self.readers, self.reader_check = real.readers, real.reader_check

    def begin(self, *, write: bool = False) -> Any:
        if self._closed or (write and self._readonly):
            raise lmdb.ReadonlyError("this process cannot write the index")
        transaction = self._real.begin(write=write)
        self._transactions.add(transaction)
        return transaction

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for transaction in list(self._transactions):
            transaction.abort()
        self._owner.release(self)
