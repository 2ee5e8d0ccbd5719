"""The command line: streams are injected, databases are real, statuses and messages are promises."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eventdb
from eventdb_shell.cli import main
from eventdb_shell.session import Session
from eventdb_shell.streams import Streams
from tests.shell.command_run import Run


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A database with a topic of three events and a view."""
    path = tmp_path / "plant.eventdb"
    with eventdb.open(path) as db:
        db.create_topic("readings", {"device": "VARCHAR", "temp": "DOUBLE"}, key="device")
        db.topic("readings").append_many([{"device": f"d{i}", "temp": 20.5 + i} for i in range(3)])
        db.sql("CREATE MATERIALIZED VIEW warm AS SELECT device, temp FROM readings WHERE temp > 21")
    return path


def test_c_runs_several_statements_and_prints_tables(plant: Path, run: Run) -> None:
    ran = run(plant, "-c", "SELECT count(*) AS n FROM readings; SELECT device FROM warm ORDER BY device")
    assert (ran.status, ran.err) == (0, "")
    assert "│ n      │\n│ BIGINT │" in ran.out
    assert ran.out.endswith("│ d1      │\n│ d2      │\n└─────────┘\n2 rows\n")


def test_a_pipe_gives_csv_unless_told_otherwise(plant: Path, run: Run) -> None:
    sql = "SELECT device, temp FROM readings\nORDER BY temp DESC LIMIT 2;\n"
    assert run(plant, stdin=sql).out == "device,temp\nd2,22.5\nd1,21.5\n"
    assert run(plant, "--mode", "json", stdin=sql).out.splitlines()[0] == '{"device":"d2","temp":22.5}'


def test_a_missing_database_is_made_by_the_shell_but_not_by_the_others(tmp_path: Path, run: Run) -> None:
    assert run(tmp_path / "new.eventdb", "-c", "CREATE TOPIC t (a BIGINT)").status == 0
    assert run(tmp_path / "new.eventdb", "-c", "SELECT count(*) FROM t").status == 0
    for command in (["tail", tmp_path / "gone", "t"], ["check", tmp_path / "gone"], ["stats", tmp_path / "gone"]):
        ran = run(*command)
        assert ran.status == 1
        assert "gone" in ran.err
    assert not (tmp_path / "gone").exists()


def test_the_first_failing_statement_ends_the_run_with_1_and_a_caret(plant: Path, run: Run) -> None:
    ran = run(plant, "-c", "SELECT 1;\nSELECT tmep FROM readings; CREATE TOPIC never (a BIGINT)")
    assert ran.status == 1
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: ")
    assert "temp" in lines[0]
    assert lines[-1].strip() == "^"
    assert len(lines) == 4
    assert "never" not in run(plant, "-c", "SHOW TOPICS").out


def test_a_failure_in_a_pipe_says_where_it_began(plant: Path, run: Run) -> None:
    ran = run(plant, stdin="SELECT 1;\n\nSELECT nothing;\nSELECT 2;\n")
    assert ran.status == 1
    assert ran.err.startswith("error: stdin:3: ")
    assert len(ran.out.splitlines()) == 2


def test_dot_commands_answer_about_a_real_database(plant: Path, run: Run) -> None:
    ran = run(plant, stdin=".tables\n.schema warm\n.check deep\n")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == (
        "name,kind,events\nreadings,topic,3\nwarm,view,\nVIEW warm (\n  device VARCHAR,\n  temp   DOUBLE\n)\nok\n"
    )


def test_completion_knows_the_real_catalog_and_functions(plant: Path) -> None:
    session = Session(Streams(io.StringIO(), io.StringIO(), io.StringIO()), str(plant), mode="csv")
    try:
        catalog = session.catalog()
    finally:
        session.close()
    assert catalog.tables["warm"] == (("device", "VARCHAR"), ("temp", "DOUBLE"))
    assert catalog.views == {"warm"}
    assert {"avg", "coalesce", "date_trunc", "time_bucket", "tumble", "count"} <= set(catalog.functions)


def test_a_subscription_with_a_limit_ends_by_itself(plant: Path, run: Run) -> None:
    ran = run(plant, "-c", "SUBSCRIBE TO warm LIMIT 2", "--mode", "json")
    assert ran.status == 0
    assert ran.out == '{"_op":"+I","device":"d1","temp":21.5}\n{"_op":"+I","device":"d2","temp":22.5}\n'


def test_read_only_refuses_writes(plant: Path, run: Run) -> None:
    ran = run(plant, "--read-only", "-c", "INSERT INTO readings VALUES ('x', 1.0)")
    assert ran.status == 1
    assert "read-only" in ran.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.eventdb", "--mode", "cvs"], "csv"),
        (["a.eventdb", "--durability", "sometimes"], "'sometimes' is not commit"),
        (["a.eventdb", "--nonsense"], "unknown argument --nonsense"),
        (["improt", "a.eventdb", "t", "f.csv"], "did you mean eventdb import?"),
        (["import", "a.eventdb", "t"], "FILE"),
        (["tail", "a.eventdb", "t", "-n", "-1"], "-n"),
        (["tail", "a.eventdb", "t", "-n", "many"], "'many' is not a number of rows"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_touches_nothing(
    argv: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*argv)
    assert ran.status == 2
    assert message in ran.err
    assert len(ran.err.splitlines()) == 2
    assert not list(tmp_path.iterdir())


def test_help_and_version_go_to_stdout(run: Run) -> None:
    ran = run("--help")
    assert (ran.status, ran.err) == (0, "")
    assert "eventdb demo" in ran.out
    assert "--key" in run("import", "--help").out
    assert eventdb.__version__ in run("--version").out


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    for command in ([path, "-c", "SELECT 1"], ["check", path], ["tail", path, "t"]):
        ran = run(*command)
        assert ran.status == 1
        assert ran.err.startswith("error: ")
        assert len(ran.err.splitlines()) <= 2
    assert path.read_text() == "hello"


def test_tail_prints_the_last_events(plant: Path, run: Run) -> None:
    ran = run("tail", plant, "readings", "-n", "2")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["1", "2"]
    assert lines[1].endswith("device=d2 temp=22.5")
    (last,) = run("tail", plant, "readings", "-n", "1", "--json").out.splitlines()
    event = json.loads(last)
    assert (event["_offset"], event["device"], event["temp"]) == (2, "d2", 22.5)
    assert run("tail", plant, "readings", "-n", "0").out == ""


def test_tail_of_an_unknown_topic_names_the_near_one(plant: Path, run: Run) -> None:
    ran = run("tail", plant, "reading")
    assert ran.status == 1
    assert "readings" in ran.err


def test_compact_says_what_it_did(plant: Path, run: Run) -> None:
    assert run("compact", plant).out == "nothing to seal\n"
    assert "sealed 5 rows of 2 segments" in run("compact", plant, "--full").out
    assert run("check", plant, "--deep").out == "ok\n"


def test_check_and_stats_answer(plant: Path, run: Run) -> None:
    assert run("check", plant, "--deep").out == "ok\n"
    assert "topics.readings" in run("stats", plant).out
    assert json.loads(run("stats", plant, "--json").out)["topics"]["readings"] == 3


def test_debug_adds_the_traceback(plant: Path, run: Run) -> None:
    assert "Traceback" in run(plant, "--debug", "-c", "SELECT nothing").err
    assert "Traceback" not in run(plant, "-c", "SELECT nothing").err


def start(*argv: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eventdb_shell", *map(str, argv)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_tail_follow_shows_what_another_process_appends_and_ends_well(plant: Path) -> None:
    process = start("tail", plant, "readings", "-n", "1", "--follow")
    assert process.stdout is not None
    try:
        assert "d2" in process.stdout.readline()
        with eventdb.open(plant) as db:
            db.topic("readings").append({"device": "new", "temp": 1.0})
        assert "device=new" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_run_keeps_views_going_and_stops_at_sigterm(plant: Path) -> None:
    process = start("run", plant)
    assert process.stderr is not None
    try:
        assert "views warm" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.readline() == "stopped\n"
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_goes_away_is_no_traceback(plant: Path) -> None:
    with eventdb.open(plant) as db:
        db.topic("readings").append_batch({"device": ["x"] * 50_000, "temp": [1.0] * 50_000})
    process = start(plant, "--mode", "csv", "-c", "SELECT * FROM readings")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(20) == 141


def test_a_statement_of_a_pipe_runs_while_the_pipe_is_open(plant: Path) -> None:
    command = [sys.executable, "-m", "eventdb_shell", str(plant)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("SELECT 41 + 1 AS a;\n")
        process.stdin.flush()
        started = time.monotonic()
        assert process.stdout.readline() == "a\n"
        assert process.stdout.readline() == "42\n"
        assert time.monotonic() - started < 20
        process.stdin.close()
        assert process.wait(20) == 0


def test_the_module_and_the_script_are_the_same(run: Run) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "eventdb_shell", "--version"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert found.stdout.strip() == run("--version").out.strip() or eventdb.__version__ in found.stdout
    assert callable(main)
