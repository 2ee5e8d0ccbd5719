"""The interactive prompt. Everything that imports prompt_toolkit is here and in highlight.py.

Enter runs a complete statement or dot command and otherwise begins a new line. Ctrl-C clears the line, or cancels the
statement that runs, and never leaves the shell; Ctrl-D on an empty line does. History lies in the state directory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

import eventdb
from eventdb.errors import EventDBError

from .commands import habit_command
from .completion import Catalog, complete
from .highlight import SQL_STYLE, SqlLexer
from .session import Session, report
from .statements import is_complete
from .streams import Streams

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

PROMPT = "eventdb> "
CONTINUATION = "     ...> "


class CatalogCompleter(Completer):
    """Offers what completion.complete finds; the catalog is read in the background after each statement."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._catalog = Catalog()
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read the catalog again, without holding up the prompt."""
        threading.Thread(target=self._read, name="eventdb-completion", daemon=True).start()

    def _read(self) -> None:
        with self._lock:
            try:
                self._catalog = self._session.catalog()
            except EventDBError:
                return  # the database was closed or switched meanwhile; the next statement reads again

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        cursor = document.cursor_position
        for found in complete(document.text, cursor, self._catalog):
            yield Completion(found.text, found.start - cursor, display_meta=found.detail or found.kind)


def state_directory() -> str:
    """Where the history lies: $XDG_STATE_HOME/eventdb or ~/.local/state/eventdb, made with owner-only access."""
    root = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    path = os.path.join(root, "eventdb")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def open_history() -> History:
    """The user's history; one that is forgotten at the end where the directory cannot be written."""
    try:
        path = os.path.join(state_directory(), "history")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        return FileHistory(path)
    except OSError:
        return InMemoryHistory()


def key_bindings() -> KeyBindings:
    """Enter: run if complete, else a new line. Alt-Enter: always a new line."""
    keys = KeyBindings()

    @keys.add("enter", filter=Condition(lambda: not get_app().current_buffer.complete_state))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text) or habit_command(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def make_prompt(
    completer: Completer, history: History, input: Input | None = None, output: Output | None = None
) -> PromptSession[str]:
    """The prompt; `input` and `output` are given by tests."""
    return PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=CONTINUATION,
        lexer=SqlLexer(),
        style=SQL_STYLE,
        completer=completer,
        complete_in_thread=True,
        complete_while_typing=False,
        history=history,
        key_bindings=key_bindings(),
        enable_history_search=True,
        input=input,
        output=output,
    )


def run_shell(
    streams: Streams,
    path: str,
    mode: str | None,
    read_only: bool,
    durability: str,
    input: Input | None = None,
    output: Output | None = None,
) -> int:
    """Open the database and prompt until Ctrl-D or .quit. Returns the exit status, 0 whatever the statements did."""
    session = Session(streams, path, mode=mode or "table", read_only=read_only, durability=durability)
    try:
        name = "a private temporary database" if path == ":memory:" else path
        streams.print(f"EventDB {eventdb.__version__}, {name}. .help lists the commands, Ctrl-D leaves.")
        completer = CatalogCompleter(session)
        completer.refresh()
        prompt = make_prompt(completer, open_history(), input, output)
        while not session.finished:
            try:
                text = prompt.prompt()
            except KeyboardInterrupt:
                continue  # the line is dropped
            except EOFError:
                break
            _run(session, text)
            completer.refresh()
    finally:
        session.close()
    return 0


def _run(session: Session, text: str) -> None:
    """Run what was typed; nothing that goes wrong leaves the shell."""
    try:
        session.run_text(habit_command(text) or text)
    except KeyboardInterrupt:
        session.streams.note("cancelled")
    except Exception as error:
        report(session.streams, error)
    finally:
        session.streams.stdout.flush()
