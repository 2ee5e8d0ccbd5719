"""No waiting reader sleeps past a commit, whichever process makes it and whenever; waiting leaves nothing behind."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventdb.storage import notify
from eventdb.storage.device.files import Clock, keeping_flock
from eventdb.storage.format import SHARED_BYTES
from eventdb.storage.notify import Notifier, _Waiter
from tests.storage.test_processes import open_store, path, spawn  # noqa: F401 (a fixture)
from tests.storage.test_recovery import append

PATIENCE_S = 60  # a lost wake-up never ends by itself here


@pytest.fixture(autouse=True)
def _only_wake_ups_end_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "WAIT_POLL_MS", 3_600_000)


class _Processes:
    """Two notifiers on one page, as of two processes, and their commit id."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, SHARED_BYTES)
        uuid = os.urandom(16)
        self.notifiers = [Notifier(uuid, self.page, Clock()) for _ in range(2)]
        self.commit_id = 1

    def commit(self, number: int) -> None:
        self.commit_id += 1
        self.notifiers[number].announce()

    def close(self) -> None:
        for notifier in self.notifiers:
            notifier.close()


def _ends(work: Callable[..., object], *arguments: object) -> bool:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return not thread.is_alive()


@pytest.mark.parametrize("committer", [0, 1], ids=["own process", "other process"])
@pytest.mark.parametrize("moment", ["before it arms", "before its last look", "after its last look"])
def test_a_commit_at_any_moment_of_going_to_sleep_ends_the_wait(
    committer: int, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = _Processes()
    left = [0]  # commits to make at the moment

    def commit_at(name: str) -> None:
        if name == moment and left[0]:
            left[0] -= 1
            both.commit(committer)

    arm, sleep = Notifier._arm, _Waiter.sleep

    def watched_arm(self: Notifier, waiter: _Waiter) -> None:
        commit_at("before it arms")
        arm(self, waiter)
        commit_at("before its last look")

    def watched_sleep(self: _Waiter, pause_s: float) -> bool:
        commit_at("after its last look")
        return sleep(self, pause_s)

    monkeypatch.setattr(Notifier, "_arm", watched_arm)
    monkeypatch.setattr(_Waiter, "sleep", watched_sleep)
    for _ in range(20):
        seen = both.commit_id
        left[0] = 1
        assert _ends(both.notifiers[0].wait, lambda: both.commit_id, seen, None)
        assert left[0] == 0
        both.commit(1 - committer)  # with nobody waiting
    both.close()


def test_a_datagram_wakes_every_thread_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread takes it before another has left the kernel, which lets who finds none sleep on."""
    both = _Processes()
    sleep, turns = _Waiter.sleep, threading.Semaphore(1)

    def sleep_in_turn(self: _Waiter, pause_s: float) -> bool:
        """Only one thread waits in the kernel, the other has yet to go there."""
        with turns:
            return sleep(self, pause_s)

    monkeypatch.setattr(_Waiter, "sleep", sleep_in_turn)
    for _ in range(20):
        seen = both.commit_id
        threads = [
            threading.Thread(target=both.notifiers[0].wait, args=(lambda: both.commit_id, seen, None), daemon=True)
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        while len(both.notifiers[0]._armed) < 2:
            pass
        both.commit(1)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    both.close()


RING = """
    import random, threading, eventdb.storage.notify as notify
    notify.WAIT_POLL_MS = 3_600_000
    number, processes, threads, steps, seed = map(int, sys.argv[2:])
    store = start(durability="os")
    log = store.log(1, SCHEMA, None)

    def take_part(me):
        draw = random.Random(seed * 1000 + me)
        position = 0
        while True:
            commit_id = store.commit_id()
            tail = store.tail(log, position)
            if tail is not None:
                found = tail.rows(log)
            else:
                with store.snapshot() as snapshot:
                    end = snapshot.offsets(log)[1]
                    found = [row for chunk in snapshot.rows(log, position, end) for row in chunk]
            for offset, _, (turn, left) in found:
                assert offset == position
                position += 1
                if turn == "end":
                    return
                if turn != str(me):
                    continue
                for _ in range(draw.choice([0, 0, 1, 3, 40])):
                    store.append_row(log, ("nobody", 0))
                if draw.random() < 0.5:
                    time.sleep(draw.random() / 5000)
                turn = "end" if left == 0 else str(draw.randrange(processes * threads))
                store.append_row(log, (turn, max(0, left - 1)))
            if not found:
                if draw.random() < 0.2:
                    time.sleep(draw.random() / 5000)
                store.wait(commit_id, None)

    parts = [threading.Thread(target=take_part, args=(number * threads + i,)) for i in range(threads)]
    for part in parts:
        part.start()
    say("ready")
    if number == 0:
        sys.stdin.readline()
        store.append_row(log, ("0", steps))
    for part in parts:
        part.join()
    say("done")
    store.close()
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_turn_that_goes_round_threads_of_several_processes_never_stops(path: Path, seed: int) -> None:  # noqa: F811
    """Each commit that hands the turn on must wake who has it next: one lost wake-up and nobody commits any more."""
    store = open_store(path, durability="os")
    shape = [(3, 1), (1, 3), (2, 2)][seed % 3]
    ring = [spawn(path, RING, str(i), str(shape[0]), str(shape[1]), "200", str(seed)) for i in range(shape[0])]
    try:
        for process in ring:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
        outputs = [ring[0].communicate("go\n", timeout=PATIENCE_S)[0]]
        outputs += [process.communicate(timeout=PATIENCE_S)[0] for process in ring[1:]]
    except subprocess.TimeoutExpired:
        pytest.fail(f"a wake-up was lost at offset {_end(store)}")
    finally:
        for process in ring:
            process.kill()
            process.wait()
    assert [output.strip() for output in outputs] == ["done"] * shape[0]


def _end(store: Any) -> int:
    with store.snapshot() as snapshot:
        return int(snapshot.offsets(store.log(1, store._live_topics()[1], None))[1])


def test_threads_that_wait_leave_no_descriptor_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    both = _Processes()
    for _ in range(3):
        seen = both.commit_id
        threads = [
            threading.Thread(target=both.notifiers[i % 2].wait, args=(lambda: both.commit_id, seen, None))
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        both.commit(0)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    waiters = sum(len(notifier._free) for notifier in both.notifiers)
    assert 2 <= waiters <= 6
    both.close()
    both.page.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_threads_that_waited_once_keep_few_descriptors() -> None:
    both = _Processes()
    before = len(os.listdir("/proc/self/fd"))
    threads = [
        threading.Thread(target=both.notifiers[0].wait, args=(lambda: both.commit_id, both.commit_id, PATIENCE_S))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    while len(both.notifiers[0]._armed) < len(threads):
        time.sleep(0.001)
    both.commit(0)
    for thread in threads:
        thread.join(PATIENCE_S)
    del threads, thread
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 4 + 2  # and two sockets
    both.close()
    both.page.close()


def test_closing_ends_a_wait() -> None:
    both = _Processes()
    armed = threading.Event()

    def current() -> int:
        if both.notifiers[0]._armed:
            armed.set()
        return both.commit_id

    thread = threading.Thread(target=both.notifiers[0].wait, args=(current, both.commit_id, None), daemon=True)
    thread.start()
    assert armed.wait(PATIENCE_S)
    both.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert both.notifiers[0]._free == []
    assert both.notifiers[0].wait(lambda: both.commit_id, both.commit_id, 0.01) == both.commit_id


def test_commits_a_few_microseconds_apart_are_let_gather_until_a_pause() -> None:
    waiter = _Waiter(None)
    now = 10**12
    gaps = []
    for commit_id in range(1, 100):
        now += 20_000
        gaps.append(waiter.gap_ns(now, commit_id))
    assert gaps[0] > notify._BUSY_NS > gaps[30]
    assert waiter.gap_ns(now + 10**9, 99) == gaps[-1]  # no commit says nothing
    assert waiter.gap_ns(now + 10**9, 100) > notify._BUSY_NS


def test_a_lock_that_keeps_the_interpreter_excludes_as_any_other(tmp_path: Path) -> None:
    flock = keeping_flock()
    fds = [os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(2)]
    flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    for attempt in (flock, fcntl.flock):
        with pytest.raises(BlockingIOError):
            attempt(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    flock(fds[0], fcntl.LOCK_UN)
    fcntl.flock(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in fds:
        os.close(fd)


def test_rows_appended_beside_a_busy_reader_are_all_read_in_order(path: Path) -> None:  # noqa: F811
    store = open_store(path, durability="os")
    append(store, 1)
    writer = store._writer
    assert writer is not None
    before = writer.flock
    log = store.log(1, store._live_topics()[1], None)
    found: list[int] = []

    def follow() -> None:
        while len(found) < 20_001:
            commit_id = store.commit_id()
            with store.snapshot() as snapshot:
                end = snapshot.offsets(log)[1]
                rows = [row for chunk in snapshot.rows(log, len(found), end) for row in chunk]
            found.extend(offset for offset, _, _ in rows)
            if not rows:
                store.wait(commit_id, None)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    for i in range(20_000):
        store.append_row(log, ("a", i))
    thread.join(PATIENCE_S)
    assert found == list(range(20_001))
    assert store._notifier.napped
    assert writer.flock is not before
