"""The three streams of a command, injected so that tests run it in-process; and how a failure is told."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from typing import TextIO

from eventdb.errors import EventDBError, QueryError


@dataclass
class Streams:
    """Where a command reads and writes. `debug` adds a traceback to every reported failure."""

    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    debug: bool = False

    @property
    def interactive(self) -> bool:
        """Whether a person types the input and sees the output."""
        return self.stdin.isatty() and self.stdout.isatty()

    def print(self, text: str = "") -> None:
        self.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Something for the person, not for the program that reads stdout."""
        self.stderr.write(text + "\n")
        self.stderr.flush()

    def fail(self, error: BaseException, where: str = "") -> None:
        """Report a failure on stderr: one or two lines, and for SQL errors the place with a caret."""
        if self.debug:
            self.stderr.write("".join(traceback.format_exception(error)))
        self.note(f"error: {where + ': ' if where else ''}{describe_failure(error)}")


def describe_failure(error: BaseException) -> str:
    """What a person needs to read of an exception."""
    if isinstance(error, QueryError):
        return str(error)
    if isinstance(error, EventDBError):
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return "\n  ".join(lines[:3])
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}"
    if isinstance(error, UnicodeDecodeError):
        return f"the input is not UTF-8 text (byte {error.object[error.start]:#04x} at position {error.start})"
    return f"{type(error).__name__}: {error} (this is a bug in EventDB; --debug shows where)"
