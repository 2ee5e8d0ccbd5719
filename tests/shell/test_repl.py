"""The prompt: keys go in through a pipe, nothing is drawn; and once for real, through a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from eventdb_shell.completion import Catalog
from eventdb_shell.highlight import SqlLexer
from eventdb_shell.repl import CatalogCompleter, open_history, run_shell
from eventdb_shell.session import Session
from eventdb_shell.streams import Streams
from tests.shell.fake_database import FakeDatabase


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def type_keys(keys: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a shell into which the keys are typed."""
    streams = Streams(io.StringIO(), io.StringIO(), io.StringIO())
    with create_pipe_input() as typed:
        typed.send_text(keys)
        status = run_shell(streams, "fake.eventdb", None, False, "commit", typed, DummyOutput())
    assert isinstance(streams.stdout, io.StringIO)
    assert isinstance(streams.stderr, io.StringIO)
    return status, streams.stdout.getvalue(), streams.stderr.getvalue()


def statements(fake: FakeDatabase) -> list[str]:
    """What was typed, without what completion asks in the background."""
    return [text for text in fake.log if not text.startswith(("SHOW", "DESCRIBE"))]


def test_enter_goes_on_until_the_semicolon(fake: FakeDatabase) -> None:
    status, out, _ = type_keys("SELECT\r'two lines'\r;\r\x04")
    assert status == 0
    assert statements(fake) == ["SELECT\n'two lines'"]
    assert "VARCHAR" in out
    assert fake.closed


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(fake: FakeDatabase) -> None:
    status, _, err = type_keys("SELECT 'dropped'\x03SELECT 'kept';\r\x04")
    assert (status, err) == (0, "")
    assert statements(fake) == ["SELECT 'kept'"]


def test_no_failure_leaves_the_shell(fake: FakeDatabase) -> None:
    status, out, err = type_keys("FAIL 1;\r.nonsense\rBUG;\rSELECT 'still here';\r.quit\r")
    assert status == 0
    assert "still here" in out
    assert err.startswith(
        "error: no statement begins with FAIL\nline 1, column 1:\n  FAIL 1\n  ^\nerror: unknown command"
    )
    assert "RuntimeError: boom" in err


def test_history_is_kept_for_its_owner_alone(fake: FakeDatabase, state: Path) -> None:
    type_keys("SELECT 'remember';\r\x04")
    path = state / "eventdb" / "history"
    assert "SELECT 'remember';" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_state_directory_that_cannot_be_written_costs_only_the_history(
    fake: FakeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert list(open_history().load_history_strings()) == []
    assert type_keys("SELECT 'x';\r\x04")[0] == 0


def test_the_completer_offers_what_the_catalog_holds(session: Session) -> None:
    completer = CatalogCompleter(session)
    completer._read()
    document = Document("SELECT * FROM wea", 17)
    (found,) = completer.get_completions(document, CompleteEvent())
    assert (found.text, found.start_position, found.display_meta_text) == ("weather", -3, "station, temp")
    assert isinstance(completer._catalog, Catalog)


def test_highlighting_keeps_every_character_on_its_line() -> None:
    text = "SELECT 'a\nb', 1 -- c\nFROM \"t\" /* open\n"
    lines = SqlLexer().lex_document(Document(text))
    assert ["".join(part[1] for part in lines(i)) for i in range(4)] == text.split("\n")
    assert lines(0)[0] == ("class:sql.keyword", "SELECT")
    assert lines(99) == []


class Terminal:
    """A shell in a pseudo-terminal; `read_until` waits for text to appear."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "eventdb_shell", str(path)]
        become_terminal = partial(os.login_tty, slave)  # so that Ctrl-C reaches the shell as a signal
        self.process = subprocess.Popen(command, env=environment, preexec_fn=become_terminal)
        os.close(slave)
        self._master = master
        self.seen = ""

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str, timeout_s: float = 30.0) -> str:
        """Everything that appeared since the last call, up to a match of the pattern; without escape sequences."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self._master], [], [], 0.1)
            if ready:
                try:
                    data = os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    data = ""
                # prompt_toolkit asks a terminal where its cursor is and waits for the answer
                if "\x1b[6n" in data:
                    self.send("\x1b[1;1R")
                self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", data)
            found = re.search(pattern, self.seen)
            if found:
                text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
                return text
        raise AssertionError(f"{pattern!r} did not appear; seen: {self.seen[-2000:]!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path, state: Path) -> Iterator[Terminal]:
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "XDG_STATE_HOME": str(state),
        "COLUMNS": "100",
        "LINES": "30",
    }
    made = Terminal(tmp_path / "pty.eventdb", environment)
    yield made
    made.close()


def test_a_person_at_a_terminal_asks_cancels_and_leaves(terminal: Terminal) -> None:
    terminal.read_until("Ctrl-D leaves")
    terminal.read_until("eventdb>")
    terminal.send("CREATE TOPIC t (a BIGINT);\r")
    terminal.read_until(r"\nok")
    terminal.send("INSERT INTO t VALUES (41), (42);\r")
    terminal.read_until("2 rows changed")
    terminal.send("SELECT max(a) AS top\r")
    terminal.read_until(r"\.\.\.>")
    terminal.send("FROM t;\r")
    assert "BIGINT" in terminal.read_until("1 row")
    terminal.send("SUBSCRIBE TO t;\r")
    terminal.read_until("a=42")
    terminal.send("\x03")  # the terminal turns it into SIGINT
    terminal.read_until("eventdb>")
    terminal.send("SELECT 7 * 6 AS answer;\r")
    terminal.read_until(r"answer\s[^$]*42[^$]*eventdb>")
    terminal.send("\x04")
    assert terminal.process.wait(20) == 0
