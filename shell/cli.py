"""`eventdb`: arguments -> one subcommand -> an exit status.

0: done. 1: the work failed, stderr says why in a line or two. 2: the command line itself was wrong. 141: the reader of
the output has gone, as when SIGPIPE ends a program.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NoReturn, TextIO

import eventdb
from eventdb.errors import EventDBError

from .streams import Streams

DONE, FAILED, BAD_USAGE, PIPE_CLOSED = 0, 1, 2, 141

Handler = Callable[[argparse.Namespace, Streams], int]


class _UsageExit(Exception):
    """Ends argument parsing with an exit status."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Parser(argparse.ArgumentParser):
    """argparse on injected streams."""

    streams: Streams

    def error(self, message: str) -> NoReturn:
        self.streams.note(f"error: {message}\n{self.prog} --help shows the usage")
        raise _UsageExit(BAD_USAGE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            self.streams.note(message.rstrip())
        raise _UsageExit(status)

    def _print_message(self, message: str, file: object = None) -> None:
        self.streams.stdout.write(message)  # help and version; errors take the way above


def _durability(text: str) -> str:
    if re.fullmatch(r"commit|os|interval(:\d+(\.\d+)?(us|ms|s))?", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not commit, interval, interval:100ms or os")


def _partition(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a partition (0 or more)")


def _character(text: str) -> str:
    if len(text) == 1 and text.isascii():
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one character")


def _delimiter(text: str) -> str:
    return _character("\t" if text in ("tab", "\\t") else text)


def _moment(text: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 2026-01-31T12:30:00") from None


def _row_count(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows (0 or more)")


# --- subcommands: each imports what it needs, so that the others start fast -------------------------------------------


def _shell(arguments: argparse.Namespace, streams: Streams) -> int:
    from .session import Session, report

    if streams.interactive and not arguments.command:
        from .repl import run_shell

        return run_shell(streams, arguments.path, arguments.mode, arguments.read_only, arguments.durability)
    mode = arguments.mode or ("table" if streams.stdout.isatty() or arguments.command else "csv")
    session = Session(
        streams, arguments.path, mode=mode, read_only=arguments.read_only, durability=arguments.durability
    )
    try:
        for text in arguments.command or ():
            session.run_text(text)
            if session.finished:
                return DONE
        if not arguments.command:
            session.run_lines(streams.stdin, "stdin")
    except BrokenPipeError:
        raise
    except (EventDBError, OSError, UnicodeDecodeError) as error:
        report(streams, error)
        return FAILED
    finally:
        session.close()
    return DONE


def _import(arguments: argparse.Namespace, streams: Streams) -> int:
    from .importer import ImportOptions, import_file

    options = ImportOptions(
        arguments.format, arguments.event_time, arguments.key, arguments.skip_rows, arguments.durability,
        arguments.delimiter, arguments.encoding, not arguments.no_header, arguments.quote,
    )  # fmt: skip
    return import_file(streams, arguments.path, arguments.topic, arguments.file, options)


def _tail(arguments: argparse.Namespace, streams: Streams) -> int:
    from .tail import tail

    given = arguments
    return tail(streams, given.path, given.topic, given.n, given.follow, given.json, given.partition)


def _check(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import check

    return check(streams, arguments.path, arguments.deep)


def _stats(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import stats

    return stats(streams, arguments.path, arguments.json)


def _repair(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import repair

    return repair(streams, arguments.path, arguments.accept_loss)


def _backup(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import backup

    return backup(streams, arguments.path, arguments.target)


def _restore(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import restore

    return restore(streams, arguments.path, arguments.target, arguments.to_time)


def _compact(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import compact

    return compact(streams, arguments.path, arguments.full)


def _run(arguments: argparse.Namespace, streams: Streams) -> int:
    from .care import run

    return run(streams, arguments.path, arguments.durability)


def _demo(arguments: argparse.Namespace, streams: Streams) -> int:
    from .demo import run_demo

    return run_demo(streams, arguments.path, plain=arguments.no_tty or not streams.stdout.isatty())


SUBCOMMANDS: dict[str, tuple[str, Handler]] = {
    "demo": ("real events in, a batch answer and a live view out, in under a minute", _demo),
    "import": ("append a CSV, JSON lines, Parquet or Arrow file to a topic", _import),
    "tail": ("the last events of a topic", _tail),
    "run": ("keep views going without a shell", _run),
    "check": ("verify a database", _check),
    "repair": ("make a damaged database openable again", _repair),
    "backup": ("copy a database while it is used, or what is new of it", _backup),
    "restore": ("make a database of a backup", _restore),
    "stats": ("counters of a database", _stats),
    "compact": ("compress the history of a database now", _compact),
}

_EPILOG = "subcommands:\n" + "\n".join(f"  eventdb {name:8} {text}" for name, (text, _) in SUBCOMMANDS.items())


def _shell_parser() -> _Parser:
    parser = _Parser(
        prog="eventdb",
        description="Open a database (a directory, created if missing) in the shell, or run SQL and exit.",
        epilog=_EPILOG + "\n\nA database named like a subcommand is opened as ./NAME.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", default=":memory:", metavar="PATH", help="default: a private temporary one")
    parser.add_argument(
        "-c", "--command", action="append", metavar="SQL", help="run the statements and exit; may repeat"
    )
    parser.add_argument("--mode", choices=("table", "csv", "json", "line", "markdown"), help="how rows are printed")
    parser.add_argument("--read-only", action="store_true", help="never write")
    parser.add_argument("--version", action="version", version=f"eventdb {eventdb.__version__}")
    _add_durability(parser)
    return parser


def _add_durability(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--durability", type=_durability, default="commit", metavar="MODE", help="commit (default), interval:100ms, os"
    )


def _subcommand_parser(name: str) -> _Parser:
    parser = _Parser(prog=f"eventdb {name}", description=SUBCOMMANDS[name][0])
    if name == "demo":
        parser.add_argument(
            "--path", help="where to put the database; default: a temporary directory, removed afterwards"
        )
        parser.add_argument("--no-tty", action="store_true", help="plain lines instead of a redrawn screen")
        return parser
    parser.add_argument("path", metavar="PATH", help="the database directory")
    if name in ("import", "tail"):
        parser.add_argument("topic", metavar="TOPIC")
    if name == "import":
        parser.add_argument("file", metavar="FILE", help="the file, - for standard input")
        parser.add_argument("--format", choices=("csv", "json", "parquet", "arrow"), help="default: by the extension")
        parser.add_argument("--event-time", metavar="COLUMN", help="the event time column of a new topic")
        parser.add_argument("--key", metavar="COLUMN", help="the key column of a new topic")
        parser.add_argument(
            "--skip-rows", type=_row_count, default=0, metavar="N", help="leave out the file's first N rows"
        )
        parser.add_argument(
            "--delimiter", type=_delimiter, metavar="C", help="of CSV: , ; | or tab; default: found out"
        )
        parser.add_argument("--encoding", default="utf-8", help="of CSV: utf-8 (default), latin-1, cp1252, ...")
        parser.add_argument("--no-header", action="store_true", help="CSV has no line of names: column1, column2, ...")
        parser.add_argument("--quote", type=_character, default='"', metavar="C", help='of CSV: " (default)')
    if name == "tail":
        parser.add_argument("-f", "--follow", action="store_true", help="wait for more until Ctrl-C")
        parser.add_argument("-n", type=_row_count, default=10, metavar="N", help="how many events to begin with (10)")
        parser.add_argument("--partition", type=_partition, metavar="N", help="of one partition; default: of all")
    if name in ("tail", "stats"):
        parser.add_argument("--json", action="store_true", help="for programs")
    if name == "backup":
        parser.add_argument("target", metavar="TARGET", help="a new or empty directory, or an earlier backup of PATH")
    if name == "restore":
        parser.add_argument("target", metavar="TARGET", help="the database to make: a new or empty directory")
    if name == "restore":
        parser.add_argument("--to-time", type=_moment, metavar="TIME",
                            help="leave out what was appended after it: 2026-01-31T12:30:00, UTC")  # fmt: skip
    if name == "repair":
        parser.add_argument("--accept-loss", action="store_true", help="lose what cannot be rebuilt; it is named")
    if name == "check":
        parser.add_argument("--deep", action="store_true", help="read and verify every byte")
    if name == "compact":
        parser.add_argument("--full", action="store_true", help="also the segments that new events go to")
    if name in ("import", "run"):
        _add_durability(parser)
    return parser


def _parse(argv: Sequence[str], streams: Streams) -> tuple[argparse.Namespace, Handler]:
    first = argv[0] if argv else ""
    parser = _subcommand_parser(first) if first in SUBCOMMANDS else _shell_parser()
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.streams = streams
    arguments, unknown = parser.parse_known_args(argv[1:] if first in SUBCOMMANDS else argv)
    if unknown:
        near = [] if first in SUBCOMMANDS else get_close_matches(first, SUBCOMMANDS, 1)
        hint = f"; did you mean eventdb {near[0]}?" if near else ""
        parser.error(f"unknown argument {unknown[0]}{hint}")
    if first not in SUBCOMMANDS and not arguments.command:
        _refuse_mistyped(parser, arguments.path)
    return arguments, SUBCOMMANDS[first][1] if first in SUBCOMMANDS else _shell


def _refuse_mistyped(parser: _Parser, word: str) -> None:
    """A word that is no path yet and almost a subcommand is a mistake, not the name of a new database."""
    near = get_close_matches(word, SUBCOMMANDS, 1, cutoff=0.75) if word.isalpha() else []
    if near and not os.path.exists(word):
        path = "" if near[0] == "demo" else " PATH"
        parser.error(f"{word} does not exist; did you mean eventdb {near[0]}{path}? (a new database: ./{word})")


def main(
    argv: Sequence[str] | None = None,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Run one command; returns its exit status. The streams default to the process's own."""
    streams = Streams(stdin or sys.stdin, stdout or sys.stdout, stderr or sys.stderr)
    try:
        status = _run_command(sys.argv[1:] if argv is None else argv, streams)
        streams.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output has gone (| head): not a failure worth words. Python must not flush again at exit.
        for ours, own in ((streams.stdout, sys.stdout), (streams.stderr, sys.stderr)):
            if ours is own:
                os.dup2(os.open(os.devnull, os.O_WRONLY), own.fileno())
        return PIPE_CLOSED


def _run_command(argv: Sequence[str], streams: Streams) -> int:
    """The status of a command whose failure has been told; BrokenPipeError when nobody listens."""
    try:
        arguments, handler = _parse(argv, streams)
        streams.debug = arguments.debug
        return handler(arguments, streams)
    except _UsageExit as end:
        return end.status
    except KeyboardInterrupt:
        streams.note("interrupted")
        return FAILED
    except BrokenPipeError:
        raise
    except Exception as error:
        streams.fail(error)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
