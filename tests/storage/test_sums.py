"""The checksums that checkpoints note, while several threads make checkpoints."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.storage.index.kv import scan
from eventdb.storage.segment import sums


class Interleaved:
    """An index transaction in which another thread gets its turn at every write."""

    def __init__(self, txn: Any, between: Any) -> None:
        self._txn = txn
        self._between = between
        self.written: dict[bytes, bytes] = {}
        self.path = txn.path

    def get(self, key: bytes) -> Any:
        return self._txn.get(key)

    def cursor(self) -> Any:
        return self._txn.cursor()

    def put(self, key: bytes, value: bytes) -> None:
        self._between()
        self.written[key] = value


def test_a_checkpoint_notes_its_sums_while_another_thread_is_in_the_middle_of_preparing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        for name in "abcdef":
            db.create_topic(name, {"n": "BIGINT"}).append_many([{"n": n} for n in range(100)])
        with db._store.snapshot() as snapshot, db._store.snapshot() as other:
            txn = snapshot.transaction()
            dirty = [(key, b"\0") for key, _ in scan(txn, b"w")]
            assert len(dirty) == 6
            shared = db._store._require_writer().sums
            alone = Interleaved(txn, lambda: None)
            shared.put(alone, dirty)
            begun, go, extend = threading.Event(), threading.Event(), sums.extend

            def slow(*given: Any) -> Any:
                if threading.current_thread() is preparing:
                    begun.set()
                    go.wait(10)
                return extend(*given)

            monkeypatch.setattr(sums, "extend", slow)
            preparing = threading.Thread(target=shared.advance, args=(other.transaction(), dirty))
            preparing.start()
            assert begun.wait(10)

            def between() -> None:
                go.set()
                preparing.join()

            beside = Interleaved(txn, between)
            shared.put(beside, dirty[:2])
            assert beside.written == dict(sorted(alone.written.items())[:2])


def test_threads_that_append_and_make_checkpoints_leave_sums_that_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_CHUNK_BYTES", 256)  # many pieces, so that threads take turns in the middle
    errors: list[BaseException] = []
    with eventdb.open(tmp_path / "db", durability="os") as db:
        for n in range(4):
            db.create_topic(f"t{n}", {"n": "BIGINT", "word": "VARCHAR"})

        def work(number: int) -> None:
            try:
                topic = db.topic(f"t{number}")
                for n in range(40):
                    topic.append_many([{"n": n, "word": f"w{i}"} for i in range(50)])
                    db.checkpoint()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert db.check(deep=True) == []
    assert eventdb.check(tmp_path / "db", deep=True) == []
