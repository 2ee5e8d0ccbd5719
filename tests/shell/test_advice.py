"""What the command line does with topics of several partitions, mistyped words, tables and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import eventdb
from tests.shell.command_run import Run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.eventdb"
    with eventdb.open(path) as db:
        orders = db.create_topic("orders", {"k": "VARCHAR", "n": "BIGINT"}, key="k", partitions=3)
        for n in range(9):
            orders.append({"k": "abc"[n % 3], "n": n}, partition=n % 3)
        db.create_table("customers", {"id": "BIGINT", "name": "VARCHAR"}, primary_key="id")
    return path


def test_tail_reads_all_partitions_or_one(shop: Path, run: Run) -> None:
    ran = run("tail", shop, "orders", "--json")
    assert ran.status == 0, ran.err
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert [(event["_partition"], event["n"]) for event in found] == [(n % 3, n) for n in range(9)]
    assert [line.split()[0] for line in run("tail", shop, "orders", "-n", "2").out.splitlines()] == ["1:2", "2:2"]
    one = run("tail", shop, "orders", "--partition", "1", "--json")
    assert [json.loads(line)["n"] for line in one.out.splitlines()] == [1, 4, 7]
    ran = run("tail", shop, "orders", "--partition", "3")
    assert ran.status == 1
    assert "partition" in ran.err


@pytest.mark.parametrize("command", [["run"], ["compact"]])
def test_a_mistyped_path_is_not_made(tmp_path: Path, run: Run, command: list[str]) -> None:
    ran = run(*command, tmp_path / "typo")
    assert ran.status == 1
    assert "typo" in ran.err
    assert not (tmp_path / "typo").exists()


def test_a_mistyped_command_is_no_path(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("chekc")
    assert ran.status == 2
    assert "did you mean eventdb check PATH?" in ran.err
    assert not list(tmp_path.iterdir())


def test_a_table_is_no_topic_to_import_or_tail(shop: Path, tmp_path: Path, run: Run) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,name\n1,ada\n")
    ran = run("import", shop, "customers", rows)
    assert ran.status == 1
    assert "INSERT INTO customers SELECT * FROM" in ran.err
    assert run(shop, "-c", f"INSERT INTO customers SELECT * FROM '{rows}'").status == 0
    ran = run("tail", shop, "customers")
    assert ran.status == 1
    assert "SELECT" in ran.err


def test_an_accepted_loss_is_success(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "plant.eventdb"
    with eventdb.open(path) as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        topic.append_many([{"n": n} for n in range(3)])
    (segment,) = path.glob("topics/*/0/*.seg")
    segment.write_bytes(b"")
    ran = run("repair", path)
    assert ran.status == 1
    assert "--accept-loss" in ran.err + ran.out
    ran = run("repair", path, "--accept-loss")
    assert ran.status == 0, ran.err
    assert "lost: topic 1/0" in ran.out
    assert run("check", path).status == 0
