"""A session runs statements and dot commands; one failure stops a script and says where."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventdb.errors import ParseError, QueryCancelled, UsageError
from eventdb_shell.commands import COMMANDS
from eventdb_shell.session import Session, format_duration, is_subscription, report
from eventdb_shell.streams import Streams
from tests.shell.fake_database import FakeDatabase


def printed(session: Session) -> str:
    assert isinstance(session.streams.stdout, io.StringIO)
    return session.streams.stdout.getvalue()


def complained(session: Session) -> str:
    assert isinstance(session.streams.stderr, io.StringIO)
    return session.streams.stderr.getvalue()


def press_ctrl_c_when(ready: threading.Event) -> None:
    """Send this process SIGINT as soon as `ready`: what a terminal does."""

    def press() -> None:
        ready.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def test_several_statements_run_in_order(session: Session, fake: FakeDatabase) -> None:
    session.run_text("SELECT 'a';\n-- note\nSELECT\n 'b'")
    assert fake.log == ["SELECT 'a'", "SELECT\n 'b'"]
    assert printed(session) == "value\na\nvalue\nb\n"


def test_a_failure_stops_the_script_and_names_file_and_line(session: Session, fake: FakeDatabase) -> None:
    with pytest.raises(ParseError) as failure:
        session.run_text("SELECT 'a';\n\n/* c */ FAIL now;\nSELECT 'never';", "load.sql")
    assert fake.log == ["SELECT 'a'", "FAIL now"]
    report(session.streams, failure.value)
    assert complained(session) == (
        "error: load.sql:3: no statement begins with FAIL\nline 1, column 1:\n  FAIL now\n  ^\n"
    )


def test_statements_of_a_live_pipe_run_before_it_ends(session: Session, fake: FakeDatabase) -> None:
    seen: list[int] = []

    def lines() -> Iterator[str]:
        yield "SELECT 'a'; SELECT\n"
        seen.append(len(fake.log))
        yield "'b';\n"
        seen.append(len(fake.log))
        yield "SELECT 'c'"

    session.run_lines(lines())
    assert seen == [1, 2]
    assert [text.split() for text in fake.log] == [["SELECT", f"'{name}'"] for name in "abc"]


def test_a_dot_inside_a_statement_is_not_a_command(session: Session, fake: FakeDatabase) -> None:
    session.run_text("SELECT\n.5;")
    assert fake.log == ["SELECT\n.5"]


def test_ctrl_c_cancels_the_statement_and_nothing_else(session: Session, fake: FakeDatabase) -> None:
    press_ctrl_c_when(fake.waiting)
    with pytest.raises(QueryCancelled) as failure:
        session.run_text("WAIT;")
    report(session.streams, failure.value)
    assert complained(session) == "cancelled\n"
    session.run_text("SELECT 'after';")
    assert "after" in printed(session)


def test_ctrl_c_is_the_good_end_of_a_subscription(session: Session, fake: FakeDatabase) -> None:
    fake.live = True
    press_ctrl_c_when(fake.waiting)
    session.run_text("SUBSCRIBE TO weather;")
    assert printed(session) == "+I  station=EWR  temp=31.1\n-D  station=EWR  temp=NULL\n"


def test_a_subscription_in_json_is_one_object_a_change(session: Session) -> None:
    session.mode = "json"
    session.run_text("SELECT * FROM weather EMIT CHANGES;")
    assert printed(session) == ('{"_op":"+I","station":"EWR","temp":31.1}\n{"_op":"-D","station":"EWR","temp":null}\n')


@pytest.mark.parametrize(
    ("sql", "endless"),
    [
        ("SUBSCRIBE TO v", True),
        ("-- x\nsubscribe to v", True),
        ("SELECT a FROM t EMIT CHANGES", True),
        ("SELECT 'EMIT CHANGES' FROM t", False),
        ("CREATE MATERIALIZED VIEW v AS SELECT a FROM t EMIT CHANGES", False),
        ("", False),
    ],
)
def test_only_subscriptions_are_endless(sql: str, endless: bool) -> None:
    assert is_subscription(sql) is endless


def test_help_lists_every_command(session: Session) -> None:
    session.run_text(".help")
    assert all(f"\n{name}" in "\n" + printed(session) for name in COMMANDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (".tabels", "did you mean .tables?"),
        (".mdoe csv", "did you mean .mode?"),
        (".frobnicate", r"\.help lists them"),
        (".mode cvs", "did you mean csv?"),
        (".timer maybe", "on|off"),
        (".open", "usage: .open PATH"),
        (".schema a b", "usage: .schema"),
        (".schema wether", "did you mean weather?"),
        (".open 'x", "quote is not closed"),
        (".read nowhere.sql", "nowhere.sql"),
        (".check hard", "deep"),
    ],
)
def test_a_wrong_command_is_told_with_what_is_right(session: Session, line: str, message: str) -> None:
    with pytest.raises(UsageError) as failure:
        session.run_text(line)
    assert message.replace("\\", "") in str(failure.value)


def test_tables_and_schema_show_what_there_is(session: Session) -> None:
    session.run_text(".tables\n.schema weather\n.schema daily;")
    assert printed(session) == (
        "name,kind,events\nweather,topic,12\n"
        "TOPIC weather (\n  station VARCHAR,\n  temp    DOUBLE\n)\n"
        "VIEW daily (\n  station VARCHAR,\n  temp    DOUBLE\n)\n"
    )


def test_modes_timer_stats_and_check_answer(session: Session) -> None:
    session.run_text(".mode json\nSELECT 'x';\n.mode\n.timer on\nSELECT 'y';\n.timer off\n.stats\n.check\n.check deep")
    lines = printed(session).splitlines()
    assert lines[:3] == ['{"value":"x"}', "json", '{"value":"y"}']
    assert lines[3].startswith("time ")
    assert lines[4:] == [
        "commits         1,234",
        "clean           true",
        "topics.weather  12",
        "views           none",
        "ok",
        "segment 3 is torn",
        "1 problems",
    ]


def test_read_runs_a_file_and_refuses_one_that_reads_itself(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "a.sql"
    script.write_text("SELECT 'from file';\n")
    session.run_text(f".read '{script}'")
    assert "from file" in printed(session)
    script.write_text(f".read '{script}'\n")
    with pytest.raises(UsageError, match="read itself"):
        session.run_text(f".read '{script}'")


def test_quit_ends_the_script(session: Session, fake: FakeDatabase) -> None:
    session.run_text(".quit\nSELECT 'never';")
    assert session.finished
    assert not fake.log


def test_a_bug_is_told_in_one_line_and_in_full_with_debug() -> None:
    streams = Streams(io.StringIO(), io.StringIO(), io.StringIO())
    assert isinstance(streams.stderr, io.StringIO)
    report(streams, RuntimeError("boom"))
    assert streams.stderr.getvalue().count("\n") == 1
    streams.debug = True
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        report(streams, error)
    assert "Traceback" in streams.stderr.getvalue()


DURATIONS = [(0.00032, "320 us"), (0.00125, "1.25 ms"), (3.4, "3.40 s"), (125, "2 min 05 s")]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
