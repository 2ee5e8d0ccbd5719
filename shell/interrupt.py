"""Work that Ctrl-C can stop without tearing it apart.

Python raises KeyboardInterrupt between any two bytecodes of the main thread, a `finally` of the storage layer included.
So the work runs in another thread, SIGINT only sets a flag meanwhile, and the flag becomes calls of `cancel`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_S = 0.05


@contextmanager
def catch_interrupts() -> Iterator[list[int]]:
    """SIGINT appends to the list instead of raising. Outside the main thread, where Python gets no signals, nothing."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


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

    with catch_interrupts() as pressed:
        threading.Thread(target=body, name="eventdb-statement", daemon=True).start()
        while not done.wait(_POLL_S):
            if pressed:
                cancel()
    if failure:
        raise failure[0]
    return bool(pressed)
