"""Dot commands. `@command` registers one; .help and completion list what is registered."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from eventdb.errors import UsageError

from .care import format_stats
from .completion import quote_name
from .render import MODES

if TYPE_CHECKING:
    from .session import Session

Action = Callable[["Session", list[str]], None]


@dataclass(frozen=True, slots=True)
class Command:
    """`least` and `most` words are accepted after the name."""

    name: str
    arguments: str
    summary: str
    least: int
    most: int
    action: Action


COMMANDS: dict[str, Command] = {}
ALIASES = {".exit": ".quit", ".topics": ".tables", ".describe": ".schema"}


# What a person types at the prompt out of habit; a word alone on its line, or \d NAME.
HABITS = {"help": ".help", "exit": ".quit", "quit": ".quit", "\\?": ".help", "\\q": ".quit", "\\d": ".tables"}


def habit_command(text: str) -> str | None:
    """The dot command that a whole input means, if it is one of the HABITS: `quit;` is .quit, `\\d t` is .schema t."""
    words = text.strip().rstrip(";").split()
    if len(words) == 2 and words[0] == "\\d":
        return f".schema {words[1]}"
    return HABITS.get(words[0].lower()) if len(words) == 1 else None


def command(name: str, arguments: str = "", *, least: int = 0, most: int = 0) -> Callable[[Action], Action]:
    """Register the function under `.name`; the first line of its docstring is what .help says."""

    def register(action: Action) -> Action:
        summary = (action.__doc__ or "").strip().splitlines()[0]
        COMMANDS[f".{name}"] = Command(f".{name}", arguments, summary, least, most, action)
        return action

    return register


def run_command(session: Session, line: str) -> None:
    """Run one line such as `.mode csv`. UsageError for an unknown name (with the near ones) or wrong arguments."""
    try:
        words = shlex.split(line)
    except ValueError:
        raise UsageError(f"{line.strip()}: a quote is not closed") from None
    name = ALIASES.get(words[0].lower(), words[0].lower())
    chosen = COMMANDS.get(name)
    if chosen is None:
        near = get_close_matches(name, [*COMMANDS, *ALIASES], 1)
        raise UsageError(f"unknown command {words[0]}; {f'did you mean {near[0]}?' if near else '.help lists them'}")
    arguments = [word.rstrip(";") if i == len(words) - 2 else word for i, word in enumerate(words[1:])]
    if not chosen.least <= len(arguments) <= chosen.most:
        raise UsageError(f"usage: {chosen.name} {chosen.arguments}".rstrip())
    chosen.action(session, arguments)


@command("help")
def show_help(session: Session, arguments: list[str]) -> None:
    """this list"""
    width = max(len(f"{c.name} {c.arguments}") for c in COMMANDS.values())
    for chosen in sorted(COMMANDS.values(), key=lambda c: c.name):
        session.streams.print(f"{f'{chosen.name} {chosen.arguments}':{width}}  {chosen.summary}")
    session.streams.print("SQL statements end with ; and may span lines. Ctrl-C cancels a query, Ctrl-D exits.")


@command("tables")
def show_tables(session: Session, arguments: list[str]) -> None:
    """topics and views, with their number of events"""
    rows = session.table_rows()
    session.show(["name", "kind", "events"], ["VARCHAR", "VARCHAR", "BIGINT"], rows)


@command("schema", "[NAME]", most=1)
def show_schema(session: Session, arguments: list[str]) -> None:
    """columns and types of a topic or view, or of all of them"""
    tables = session.catalog().tables
    if arguments:
        wanted = next((name for name in tables if name.lower() == arguments[0].lower()), None)
        if wanted is None:
            near = get_close_matches(arguments[0], list(tables), 3)
            hint = f"did you mean {', '.join(near)}?" if near else ".tables lists what there is"
            raise UsageError(f"no topic or view {arguments[0]!r}; {hint}")
        tables = {wanted: tables[wanted]}
    for name, columns in tables.items():
        kind = "VIEW" if name in session.catalog().views else "TOPIC"
        session.streams.print(f"{kind} {quote_name(name)} (")
        width = max((len(quote_name(column)) for column, _ in columns), default=0)
        lines = [f"  {quote_name(column):{width}} {type_name}" for column, type_name in columns]
        session.streams.print(",\n".join(lines) + "\n)")


@command("timer", "on|off", least=1, most=1)
def set_timer(session: Session, arguments: list[str]) -> None:
    """print how long each statement took"""
    if arguments[0] not in ("on", "off"):
        raise UsageError(f"usage: .timer on|off, not {arguments[0]!r}")
    session.timer = arguments[0] == "on"


@command("mode", "[" + "|".join(MODES) + "]", most=1)
def set_mode(session: Session, arguments: list[str]) -> None:
    """how rows are printed"""
    if not arguments:
        session.streams.print(session.mode)
        return
    if arguments[0] not in MODES:
        near = get_close_matches(arguments[0], MODES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown mode {arguments[0]!r}; {hint}the modes are {', '.join(MODES)}")
    session.mode = arguments[0]


@command("open", "PATH", least=1, most=1)
def open_database(session: Session, arguments: list[str]) -> None:
    """close this database and open another"""
    session.open(arguments[0])


@command("read", "FILE", least=1, most=1)
def read_script(session: Session, arguments: list[str]) -> None:
    """run the statements and commands of a file"""
    session.read_script(arguments[0])


@command("stats")
def show_stats(session: Session, arguments: list[str]) -> None:
    """counters of this database"""
    session.streams.print(format_stats(session.database.stats()))


@command("check", "[deep]", most=1)
def check_database(session: Session, arguments: list[str]) -> None:
    """verify the files of this database; `deep` reads every byte"""
    if arguments and arguments[0] != "deep":
        raise UsageError(f"usage: .check [deep], not {arguments[0]!r}")
    problems = session.database.check(deep=bool(arguments))
    for problem in problems:
        session.streams.print(problem)
    session.streams.print(f"{len(problems)} problems" if problems else "ok")


@command("quit")
def quit_shell(session: Session, arguments: list[str]) -> None:
    """leave the shell (so does Ctrl-D)"""
    session.finished = True
