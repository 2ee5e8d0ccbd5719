"""The judge is judged: each kind of damage, made on purpose, is named; an undamaged history is not."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventdb
from tests.crash.checker import check
from tests.crash.history import SEND, Recorder, Tail, read_history
from tests.crash.workload import COLUMNS, TOPICS, event

FIRST, SECOND = TOPICS


class Scene:
    """A database and a history that may tell another story."""

    def __init__(self, work: Path) -> None:
        self.directory = work / "db"
        self.path = str(work / "history")
        self.history = Recorder(self.path)
        with eventdb.open(self.directory, durability="os") as db:
            for name in TOPICS:
                db.create_topic(name, COLUMNS, event_time="ts")

    def store(self, topic: str, *numbers: int, writer: str = "w") -> list[int]:
        with eventdb.open(self.directory, durability="os") as db:
            positions = db.topic(topic).append_many([event(writer, n) for n in numbers])
        return [position.offset for position in positions]

    def told(self, op: str, kind: str, parts: list[tuple[str, int, int]], offsets: list[list[int]] | None) -> None:
        self.history.begin("w", op, kind, parts)
        if offsets is not None:
            self.history.ack("w", op, offsets)

    def kinds(self, *, power: bool = False, durability: str = "commit") -> list[str]:
        found: list[str] = check(
            str(self.directory), self.path, durability=durability, power=power, cut_s=0.0, view=False
        )["kinds"]
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_true_history_has_no_problems(scene: Scene) -> None:
    scene.told("1", "many", [(FIRST, 0, 3)], [scene.store(FIRST, 0, 1, 2)])
    scene.told("2", "transaction", [(FIRST, 3, 1), (SECOND, 4, 1)], [scene.store(FIRST, 3), scene.store(SECOND, 4)])
    scene.told("3", "append", [(FIRST, 5, 1)], None)
    assert scene.kinds() == []


def test_an_event_that_is_gone_is_lost(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [[0]])
    assert scene.kinds() == ["lost"]


def test_after_a_power_cut_only_commit_mode_must_keep_everything(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [[0]])
    assert scene.kinds(power=True) == ["lost"]
    assert scene.kinds(power=True, durability="os") == []


def test_what_was_found_gone_must_not_come_back(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], None)
    assert scene.kinds() == []
    scene.store(FIRST, 0)
    assert "phantom" in scene.kinds()


def test_what_was_found_there_must_stay(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], None)
    scene.history.found("w", "1", [[0]])
    assert scene.kinds(power=True, durability="os") == ["lost"]


def test_an_event_at_another_offset_has_moved(scene: Scene) -> None:
    scene.store(FIRST, 0)
    scene.told("1", "append", [(FIRST, 0, 1)], [[5]])
    assert scene.kinds() == ["moved"]


def test_an_event_stored_twice_is_a_duplicate(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    scene.store(FIRST, 0)
    assert scene.kinds() == ["duplicate"]


def test_half_a_transaction_is_torn(scene: Scene) -> None:
    scene.store(FIRST, 0)
    scene.told("1", "transaction", [(FIRST, 0, 1), (SECOND, 1, 1)], None)
    assert scene.kinds() == ["torn"]


def test_a_later_event_without_an_earlier_one_is_a_hole(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [[0]])
    scene.store(FIRST, 1)
    scene.told("2", "append", [(FIRST, 1, 1)], None)
    assert "hole" in scene.kinds(power=True, durability="os")


def test_events_out_of_order_are_noticed(scene: Scene) -> None:
    scene.told("1", SEND, [(FIRST, 0, 2)], None)
    scene.store(FIRST, 1, 0)
    assert "disorder" in scene.kinds()


def test_a_repeat_with_another_answer_is_noticed(scene: Scene) -> None:
    scene.told("1", SEND, [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    scene.history.same("w", 0, 0)
    assert scene.kinds() == []
    scene.history.same("w", 0, 3)
    assert scene.kinds() == ["reader"]


def test_a_changed_value_is_noticed(scene: Scene) -> None:
    with eventdb.open(scene.directory, durability="os") as db:
        db.topic(FIRST).append({**event("w", 0), "reading": 1e9})
    scene.told("1", "append", [(FIRST, 0, 1)], [[0]])
    assert scene.kinds() == ["changed"]


def test_a_directory_that_does_not_open_is_noticed(scene: Scene) -> None:
    (scene.directory / "FORMAT").write_bytes(b"")
    assert "unopenable" in scene.kinds()


def test_offsets_survive_the_history_file(scene: Scene) -> None:
    scene.told("1", SEND, [(FIRST, 0, 4)], [[0, 1, 5, 9]])
    assert read_history(scene.path).operations[0].offsets == [[0, 1, 5, 9]]


def sight(scene: Scene, began_s: float, ends: tuple[int, int], first: int, *seen: tuple[str, int]) -> None:
    scene.history.saw("eye", began_s, dict(zip(TOPICS, ends, strict=True)), FIRST, first, list(seen))


def test_a_line_torn_at_the_edge_of_a_page_did_not_happen_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "history"
    whole = Recorder(str(path))
    whole.begin("w1", "1.0", "append", [("alpha", 0, 1)])
    whole.ack("w1", "1.0", [[0]])
    whole.close()
    path.write_bytes(path.read_bytes()[:-9])
    other = Recorder(str(path))
    other.begin("w2", "2.0", "append", [("alpha", 0, 1)])
    other.ack("w2", "2.0", [[1]])
    other.close()
    first, second = read_history(str(path)).operations
    assert (first.acked_s, second.offsets) == (None, [[1]])
    path.write_bytes(path.read_bytes() + b'\n["begin","w2","2.1","many",[["al')
    assert Tail(str(path)).running("w2") is None


def test_true_sights_are_no_problem(scene: Scene) -> None:
    scene.told("1", "many", [(FIRST, 0, 3)], [scene.store(FIRST, 0, 1, 2)])
    sight(scene, 1e-3, (0, 0), 0)
    sight(scene, 2e-3, (3, 0), 1, ("w", 1), ("w", 2))
    assert scene.kinds() == []


def test_a_seen_event_that_is_not_there_was_aborted(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    scene.told("2", "append", [(FIRST, 1, 1)], None)
    sight(scene, 1e-3, (2, 0), 0, ("w", 0), ("w", 1))
    assert scene.kinds() == ["aborted"]


def test_an_offset_that_shows_two_events_is_inconsistent(scene: Scene) -> None:
    scene.told("1", "many", [(FIRST, 0, 2)], [scene.store(FIRST, 0, 1)])
    sight(scene, 1e-3, (2, 0), 0, ("w", 1))
    assert scene.kinds() == ["inconsistent"]


def test_a_cut_behind_an_earlier_one_goes_backwards(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    sight(scene, 1e-3, (1, 0), 0)
    sight(scene, 2e-3, (0, 0), 0)
    assert scene.kinds() == ["backwards"]


def test_a_cut_without_what_was_acknowledged_before_it_is_stale(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    sight(scene, 1e12, (0, 0), 0)
    assert scene.kinds() == ["unseen"]


@pytest.mark.parametrize("ends", [(2, 1), (3, 0), (1, 0)])
def test_a_cut_through_an_atomic_operation_is_torn(scene: Scene, ends: tuple[int, int]) -> None:
    offsets = [scene.store(FIRST, 0, 1, 2), scene.store(SECOND, 3)]
    scene.told("1", "transaction", [(FIRST, 0, 3), (SECOND, 3, 1)], offsets)
    sight(scene, 1e-3, ends, 0)
    assert scene.kinds() == ["torn"]


def test_cuts_that_no_order_of_commits_allows_are_torn(scene: Scene) -> None:
    scene.told("1", "append", [(FIRST, 0, 1)], [scene.store(FIRST, 0)])
    scene.told("2", "append", [(SECOND, 1, 1)], [scene.store(SECOND, 1)])
    sight(scene, 1e-3, (1, 0), 0)
    scene.history.saw("other eye", 1e-3, {FIRST: 0, SECOND: 1}, FIRST, 0, [])
    assert scene.kinds() == ["torn"]
