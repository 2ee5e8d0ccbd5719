"""Work that Ctrl-C can stop without tearing it apart.

Python raises KeyboardInterrupt between any two bytecodes of the main thread, a `finally` of the storage layer included.
So the work runs in another thread, the main thread only waits, and Ctrl-C becomes calls of `cancel`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_POLL_S = 0.1  # a wait without a timeout would hold the signal back on some platforms


def run_cancellable(work: Callable[[], None], cancel: Callable[[], None]) -> bool:
    """Run `work` to its end and re-raise what it raises. True if Ctrl-C asked it to stop meanwhile.

    `cancel` makes `work` return soon. After a Ctrl-C it is called again and again until that has happened: the first
    call may have come before there was anything to cancel.
    """
    failure: list[BaseException] = []
    done = threading.Event()

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=body, name="eventdb-statement", daemon=True).start()
    cancelled = False
    while not done.is_set():
        try:
            done.wait(_POLL_S)
            if cancelled and not done.is_set():
                cancel()
        except KeyboardInterrupt:
            cancelled = True
    if failure:
        raise failure[0]
    return cancelled
